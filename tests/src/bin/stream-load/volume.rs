//! What a volume can do by itself: appends to many slices at once, without HTTP, mapping or state.
//!
//! An *append* is one batch with one part: so many rows for one slice, as one frame, answered when the fdatasync that covers
//! it has returned. A number of clients have one append outstanding each, to slices that are chosen at random; the next one is
//! sent when the one before is answered.
//!
//! Each case has a process of its own, so that memory and counters are those of the case, and a new volume, which all runs of
//! the case share: so the runs find it as a long-lived service does, with checkpoints falling where they fall.

mod case;
mod clients;
mod counters;
mod table;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use stream_tests::scratch::Scratch;

use crate::args::Args;
use crate::frames::Codec;

pub use case::{Run, watch_memory};
pub use clients::{Clients, Target, open_slices};
pub use counters::{Counters, metric};
pub use table::mebibytes;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Numbers of slices, one case for each.
    slices: Vec<u64>,
    /// Rows of an append, one case for each.
    rows: Vec<u64>,
    repeats: u64,
    duration: Duration,
    clients: u64,
    bytes: usize,
    dir: Option<PathBuf>,
}

/// One number of slices and of rows.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Slices that take rows.
    slices: u64,
    /// Rows of an append.
    rows: u64,
    /// Runs of which the median is shown.
    repeats: u64,
    /// Of a run.
    duration: Duration,
    /// Appends that are outstanding.
    clients: u64,
    /// Bytes of a record.
    bytes: usize,
}

impl Options {
    /// Takes them from the command line.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(mut args: Args) -> anyhow::Result<Self> {
        let options = Self {
            slices: args.numbers("--slices", &[1, 100, 1_000, 10_000])?,
            rows: args.numbers("--rows", &[1, 100])?,
            repeats: args.number("--repeats", 5, 1)?,
            duration: args.duration("--duration", Duration::from_secs(10))?,
            clients: args.number("--clients", 256, 1)?,
            bytes: usize::try_from(args.number("--body-bytes", 1_024, 1)?)?,
            dir: args.text("--dir").map(PathBuf::from),
        };
        args.finish()?;
        Ok(options)
    }

    fn cases(&self) -> impl Iterator<Item = Case> {
        self.rows.iter().flat_map(|rows| {
            self.slices.iter().map(|slices| Case {
                slices: *slices,
                rows: *rows,
                repeats: self.repeats,
                duration: self.duration,
                clients: self.clients,
                bytes: self.bytes,
            })
        })
    }
}

impl Case {
    /// The command line of the process that measures it.
    fn args(&self, dir: &str) -> Vec<String> {
        let millis = format!("{}ms", self.duration.as_millis());
        let flags = [
            ("--slices", self.slices.to_string()),
            ("--rows", self.rows.to_string()),
            ("--repeats", self.repeats.to_string()),
            ("--duration", millis),
            ("--clients", self.clients.to_string()),
            ("--body-bytes", self.bytes.to_string()),
            ("--dir", dir.to_owned()),
        ];
        let flags = flags
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value]);
        std::iter::once("volume-case".to_owned())
            .chain(flags)
            .collect()
    }

    /// Reads the command line of [`Self::args`], and the directory.
    fn read(mut args: Args) -> anyhow::Result<(Self, PathBuf)> {
        let case = Self {
            slices: args.number("--slices", 1, 1)?,
            rows: args.number("--rows", 1, 1)?,
            repeats: args.number("--repeats", 1, 1)?,
            duration: args.duration("--duration", Duration::from_secs(1))?,
            clients: args.number("--clients", 1, 1)?,
            bytes: usize::try_from(args.number("--body-bytes", 1_024, 1)?)?,
        };
        let dir = args.text("--dir").context("--dir is missing")?;
        args.finish()?;
        Ok((case, dir.into()))
    }
}

/// Measures everything and prints tables.
///
/// # Errors
/// When a volume cannot be opened, or fails.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    let root = options
        .dir
        .clone()
        .unwrap_or_else(|| scratch.path().to_owned());
    let codec = Codec::measure()?;
    let mut cases = Vec::new();
    for case in options.cases() {
        let dir = root.join(format!("volume-{}-{}", case.slices, case.rows));
        let runs = measure(&case, &dir.to_string_lossy());
        // Several gigabytes, which the next case may need.
        let removed = std::fs::remove_dir_all(&dir);
        cases.push((case, runs?));
        removed.with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    println!("{}", table::text(options, &codec, &cases));
    Ok(())
}

fn measure(case: &Case, dir: &str) -> anyhow::Result<Vec<Run>> {
    eprintln!("{} slices, {} rows", case.slices, case.rows);
    run_child(&case.args(dir))
}

/// Measures one case in this process and prints its runs as JSON.
///
/// # Errors
/// When the volume cannot be opened, or fails.
pub fn run_case(args: Args) -> anyhow::Result<()> {
    let (case, dir) = Case::read(args)?;
    println!("{}", serde_json::to_string(&case::run(&case, &dir)?)?);
    Ok(())
}

/// Runs this program with other arguments and reads the JSON that it prints.
///
/// # Errors
/// When it fails, or prints something else.
pub fn run_child<T: serde::de::DeserializeOwned>(args: &[String]) -> anyhow::Result<T> {
    let output = Command::new(std::env::current_exe()?)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start another process of this program")?;
    ensure!(output.status.success(), "{} failed", args[0]);
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{} did not print what was expected", args[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_reaches_its_process_unchanged() {
        let case = Case {
            slices: 10,
            rows: 100,
            repeats: 5,
            duration: Duration::from_millis(2_500),
            clients: 7,
            bytes: 300,
        };
        let mut args = Args::parse(case.args("/a dir").into_iter()).expect("valid");
        assert_eq!(args.words, ["volume-case"]);
        args.words.clear();
        let (read, dir) = Case::read(args).expect("valid");
        assert_eq!(format!("{read:?}"), format!("{case:?}"));
        assert_eq!(dir, PathBuf::from("/a dir"));
    }

    #[test]
    fn there_is_a_case_for_each_pair() {
        let args = Args::parse(
            ["--slices=1,10", "--rows", "1,100"]
                .map(str::to_owned)
                .into_iter(),
        );
        let options = Options::read(args.expect("valid")).expect("valid");
        let pairs: Vec<_> = options
            .cases()
            .map(|case| (case.slices, case.rows))
            .collect();
        assert_eq!(pairs, [(1, 1), (10, 1), (1, 100), (10, 100)]);
    }
}
