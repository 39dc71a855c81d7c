//! How long a volume takes to open after a crash, and how much memory.
//!
//! A volume is filled without a checkpoint and then left as a killed process leaves it; for one case there are sealed slices
//! on it that wait for their upload. It is opened several times with a cold page cache where the kernel lets us empty it, each
//! time in a new process and without the threads that would go on from there, so that every opening finds the same. The last
//! opening is a whole one: it shows when the first append is answered, and what the threads do until they are done.

mod fill;
mod open;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use stream_tests::scratch::Scratch;

use crate::args::Args;
use crate::volume::run_child;

pub use fill::Filled;
pub use open::Opening;

/// Bytes that are left free beside what the benchmark needs.
const SPARE_ROOM: u64 = 8 << 30;

/// What to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Mebibytes of journal, one case for each.
    journal: Vec<u64>,
    /// Gibibytes of sealed slices of one more case.
    stored: u64,
    slices: u64,
    rows: u64,
    repeats: u64,
    dir: Option<PathBuf>,
}

/// One volume.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Mebibytes of journal that no checkpoint covers.
    journal: u64,
    /// Gibibytes of sealed slices.
    stored: u64,
    /// Slices with rows in the journal.
    slices: u64,
    /// Rows of an append.
    rows: u64,
}

/// What was measured of a volume.
#[derive(Debug)]
pub struct Measured {
    case: Case,
    filled: Filled,
    /// Openings without threads.
    openings: Vec<Opening>,
    /// The last opening, with them.
    whole: Opening,
    /// Whether the page cache was emptied before each opening.
    cold: bool,
}

impl Options {
    /// Takes them from the command line.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(mut args: Args) -> anyhow::Result<Self> {
        let options = Self {
            journal: args.numbers("--journal", &[64, 256, 1_024])?,
            stored: args.number("--stored", 20, 0)?,
            slices: args.number("--slices", 1_000, 1)?,
            rows: args.number("--rows", 1, 1)?,
            repeats: args.number("--repeats", 5, 1)?,
            dir: args.text("--dir").map(PathBuf::from),
        };
        args.finish()?;
        Ok(options)
    }

    fn cases(&self) -> Vec<Case> {
        let case = |journal, stored| Case {
            journal,
            stored,
            slices: self.slices,
            rows: self.rows,
        };
        let mut cases: Vec<_> = self.journal.iter().map(|size| case(*size, 0)).collect();
        let largest = self.journal.iter().max().copied();
        if let Some(journal) = largest.filter(|_| self.stored > 0) {
            cases.push(case(journal, self.stored));
        }
        cases
    }
}

impl Case {
    fn args(&self, dir: &str) -> Vec<String> {
        let flags = [
            ("--journal", self.journal.to_string()),
            ("--stored", self.stored.to_string()),
            ("--slices", self.slices.to_string()),
            ("--rows", self.rows.to_string()),
            ("--dir", dir.to_owned()),
        ];
        let flags = flags
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value]);
        std::iter::once("recovery-fill".to_owned())
            .chain(flags)
            .collect()
    }

    fn read(mut args: Args) -> anyhow::Result<(Self, PathBuf)> {
        let case = Self {
            journal: args.number("--journal", 64, 1)?,
            stored: args.number("--stored", 0, 0)?,
            slices: args.number("--slices", 1, 1)?,
            rows: args.number("--rows", 1, 1)?,
        };
        let dir = args.text("--dir").context("--dir is missing")?;
        args.finish()?;
        Ok((case, dir.into()))
    }

    /// Bytes of disk that it takes: slice files are written once more from the journal.
    fn bytes(&self) -> u64 {
        (self.stored << 30) + ((3 * self.journal) << 20) + SPARE_ROOM
    }
}

/// Measures everything and prints a table.
///
/// # Errors
/// When there is no room, or a volume cannot be opened.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    let root = options
        .dir
        .clone()
        .unwrap_or_else(|| scratch.path().to_owned());
    let mut measured = Vec::new();
    for case in options.cases() {
        let dir = root.join(format!("volume-{}-{}", case.journal, case.stored));
        let result = measure(case, &dir, options.repeats);
        // More than the next case can spare.
        let removed = std::fs::remove_dir_all(&dir);
        measured.push(result?);
        removed.with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    println!("{}", table::text(options, &measured));
    Ok(())
}

fn measure(case: Case, dir: &Path, repeats: u64) -> anyhow::Result<Measured> {
    eprintln!(
        "{} MiB of journal, {} GiB of slices",
        case.journal, case.stored
    );
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let stat = rustix::fs::statvfs(dir)?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    ensure!(
        free >= case.bytes(),
        "{} has {free} bytes free, this needs {}; choose another --dir, or smaller sizes",
        dir.display(),
        case.bytes()
    );
    let path = dir.to_string_lossy();
    let filled = run_child(&case.args(&path))?;
    let mut cold = true;
    let mut open = |threads: &str| {
        cold &= empty_page_cache();
        let args = ["recovery-open", "--threads", threads, "--dir", &path];
        run_child(&args.map(str::to_owned))
    };
    let openings: Vec<_> = (0..repeats)
        .map(|_| open("0"))
        .collect::<anyhow::Result<_>>()?;
    let whole = open("1")?;
    Ok(Measured {
        case,
        filled,
        openings,
        whole,
        cold,
    })
}

/// Lets the kernel forget what it has read from disks. Only root may ask for that.
pub fn empty_page_cache() -> bool {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Fills a volume in this process and prints what is in it as JSON.
///
/// # Errors
/// When the volume refuses something.
pub fn run_fill(args: Args) -> anyhow::Result<()> {
    let (case, dir) = Case::read(args)?;
    println!("{}", serde_json::to_string(&fill::run(&case, &dir)?)?);
    Ok(())
}

/// Opens a volume in this process and prints how that went as JSON.
///
/// # Errors
/// When it cannot be opened.
pub fn run_open(mut args: Args) -> anyhow::Result<()> {
    let threads = args.number("--threads", 0, 0)? > 0;
    let dir = PathBuf::from(args.text("--dir").context("--dir is missing")?);
    args.finish()?;
    let opening = if threads {
        open::whole(&dir)?
    } else {
        open::stepped(&dir)?
    };
    println!("{}", serde_json::to_string(&opening)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_slices_stand_beside_the_largest_journal() {
        let args = ["--journal=64,128", "--stored=3"].map(str::to_owned);
        let options = Options::read(Args::parse(args.into_iter()).expect("valid"));
        let cases = options.expect("valid").cases();
        let sizes: Vec<_> = cases
            .iter()
            .map(|case| (case.journal, case.stored))
            .collect();
        assert_eq!(sizes, [(64, 0), (128, 0), (128, 3)]);
    }

    #[test]
    fn a_case_reaches_its_process_unchanged() {
        let case = Case {
            journal: 64,
            stored: 2,
            slices: 10,
            rows: 3,
        };
        let mut args = Args::parse(case.args("/a dir").into_iter()).expect("valid");
        args.words.clear();
        let (read, dir) = Case::read(args).expect("valid");
        assert_eq!(format!("{read:?}"), format!("{case:?}"));
        assert_eq!(dir, PathBuf::from("/a dir"));
    }
}
