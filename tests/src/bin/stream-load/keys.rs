//! What idempotency keys cost when a volume remembers as many as it may.
//!
//! A volume gets keys with its own appends, as the writer of the service gives them to it. Appends without keys, with new ones and
//! with ones that it remembers are measured while it remembers few and when it remembers all that it may. Then it is left as a killed
//! process leaves it, and opened again. At last the service runs on a volume that remembers as many, and gets requests without
//! keys and with one each, in turn.
//!
//! The volume has a process of its own, so that memory and counters are those of it.

mod clients;
mod index;
mod served;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use stream_tests::scratch::Scratch;

use crate::args::Args;
use crate::bench;
use crate::machine;
use crate::recovery::{Opening, empty_page_cache};
use crate::volume::run_child;

pub use clients::Kind;
pub use index::{Filled, Measured, Run};

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Keys that a volume remembers.
    keys: u64,
    repeats: u64,
    duration: Duration,
    bytes: usize,
    dir: Option<PathBuf>,
}

impl Options {
    /// Takes them from the command line.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(mut args: Args) -> anyhow::Result<Self> {
        let options = Self::take(&mut args)?;
        args.finish()?;
        Ok(options)
    }

    fn take(args: &mut Args) -> anyhow::Result<Self> {
        Ok(Self {
            keys: args.number("--keys", 10_000_000, 100_000)?,
            repeats: args.number("--repeats", 3, 1)?,
            duration: args.duration("--duration", Duration::from_secs(4))?,
            bytes: usize::try_from(args.number("--body-bytes", 1_024, 1)?)?,
            dir: args.text("--dir").map(PathBuf::from),
        })
    }

    /// The command line of a process that does a part of it with the volume in `dir`.
    fn args(&self, word: &str, dir: &Path) -> Vec<String> {
        let flags = [
            ("--keys", self.keys.to_string()),
            ("--repeats", self.repeats.to_string()),
            ("--duration", format!("{}ms", self.duration.as_millis())),
            ("--body-bytes", self.bytes.to_string()),
            ("--dir", dir.to_string_lossy().into_owned()),
        ];
        let flags = flags
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value]);
        std::iter::once(word.to_owned()).chain(flags).collect()
    }

    /// Reads the command line of [`Self::args`].
    fn read_part(args: Args) -> anyhow::Result<(Self, PathBuf)> {
        let options = Self::read(args)?;
        let dir = options.dir.clone().context("--dir is missing")?;
        Ok((options, dir))
    }
}

/// How a volume with all its keys opens after a crash.
pub struct Opened {
    /// Openings without threads.
    openings: Vec<Opening>,
    /// The last opening, with them.
    whole: Opening,
    /// Whether the page cache was emptied before each opening.
    is_cold: bool,
}

/// Measures everything and prints tables.
///
/// # Errors
/// When a volume or the service refuses to work.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    let root = options
        .dir
        .clone()
        .unwrap_or_else(|| scratch.path().to_owned());
    let disk = machine::measure_disk(scratch.path(), machine::PAGE, bench::DISK)?;
    println!("{}", table::head(options, &disk));
    let dir = root.join("volume-keys");
    let volume = of_volume(options, &dir);
    // Some gigabytes, which the service may need.
    let removed = std::fs::remove_dir_all(&dir);
    let (measured, opened) = volume?;
    removed.with_context(|| format!("cannot remove {}", dir.display()))?;
    println!("{}", table::volume(options, &measured, &opened));
    let scratch = match &options.dir {
        Some(dir) => dir.join("service"),
        None => scratch.join("service"),
    };
    let served = crate::runtime()?.block_on(served::run(options, &scratch));
    let removed = std::fs::remove_dir_all(&scratch);
    println!("{}", table::service(&served?));
    removed.with_context(|| format!("cannot remove {}", scratch.display()))
}

fn of_volume(options: &Options, dir: &Path) -> anyhow::Result<(Measured, Opened)> {
    eprintln!("a volume with {} keys", options.keys);
    let measured = run_child(&options.args("keys-measure", dir))?;
    let mut is_cold = true;
    let mut open = |threads: &str| {
        eprintln!("opening it after a crash");
        is_cold &= empty_page_cache();
        let path = dir.to_string_lossy();
        let args = ["recovery-open", "--threads", threads, "--dir", &path];
        run_child(&args.map(str::to_owned))
    };
    let openings: Vec<Opening> = (0..options.repeats)
        .map(|_| open("0"))
        .collect::<anyhow::Result<_>>()?;
    let whole = open("1")?;
    let opened = Opened {
        openings,
        whole,
        is_cold,
    };
    Ok((measured, opened))
}

/// Fills and measures a volume in this process, leaves it as a killed process does, and prints what it found as JSON.
///
/// # Errors
/// When the volume refuses something.
pub fn run_measure(args: Args) -> anyhow::Result<()> {
    let (options, dir) = Options::read_part(args)?;
    println!(
        "{}",
        serde_json::to_string(&index::measure(&options, &dir)?)?
    );
    Ok(())
}

/// Fills a volume in this process, takes everything but the keys off it, and prints what it found as JSON.
///
/// # Errors
/// When the volume refuses something.
pub fn run_fill(args: Args) -> anyhow::Result<()> {
    let (options, dir) = Options::read_part(args)?;
    println!("{}", serde_json::to_string(&index::fill(&options, &dir)?)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_measure_reaches_the_process_of_the_volume_unchanged() {
        let options = Options {
            keys: 200_000,
            repeats: 2,
            duration: Duration::from_millis(1_500),
            bytes: 300,
            dir: Some(PathBuf::from("/a dir")),
        };
        let args = options.args("keys-measure", Path::new("/a dir"));
        let mut args = Args::parse(args.into_iter()).expect("valid");
        assert_eq!(args.words, ["keys-measure"]);
        args.words.clear();
        let (read, dir) = Options::read_part(args).expect("valid");
        assert_eq!(format!("{read:?}"), format!("{options:?}"));
        assert_eq!(dir, PathBuf::from("/a dir"));
    }
}
