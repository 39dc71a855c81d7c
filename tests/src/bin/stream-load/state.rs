//! What the state costs: writes while nothing happens and while many sinks take records, and the start with many definitions.
//!
//! Everything is measured from outside, on the service that was built with this program: writes by a watch of all keys, memory
//! by what the kernel says. Beside that this process reads the same state by itself, to tell the mirror from the rest.

mod definitions;
mod ground;
mod ledger;
mod memory;
mod seed;
mod table;
mod traffic;

use std::time::Duration;

use anyhow::{bail, ensure};
use stream_tests::scratch::Scratch;

use crate::args::Args;
use crate::machine::{self, CpuPressure};

/// How long the disk is measured.
const DISK: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where the state is.
    store: StoreKind,
    /// Definitions for the start; 0 leaves it out.
    sinks: u64,
    /// Sinks that take records; 0 leaves them out.
    active: u64,
    /// How long an idle service is watched.
    idle: Duration,
    /// How long a busy service is watched.
    duration: Duration,
    /// How long records are sent before.
    warm_up: Duration,
    /// Starts of all components of which the median is shown.
    repeats: u64,
}

/// Where the state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// In the process.
    Embedded,
    /// In one member of a real etcd.
    Etcd,
}

impl Options {
    /// Takes them from the command line.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn read(mut args: Args) -> anyhow::Result<Self> {
        let options = Self {
            store: match args.text("--store").as_deref() {
                None | Some("embedded") => StoreKind::Embedded,
                Some("etcd") => StoreKind::Etcd,
                Some(other) => bail!("--store is {other:?}; give embedded or etcd"),
            },
            sinks: args.number("--sinks", 10_000, 0)?,
            active: args.number("--active", 1_000, 0)?,
            idle: args.duration("--idle", Duration::from_secs(60))?,
            duration: args.duration("--duration", Duration::from_secs(120))?,
            warm_up: args.duration("--warm-up", Duration::from_secs(30))?,
            repeats: args.number("--repeats", 3, 1)?,
        };
        args.finish()?;
        ensure!(
            options.sinks.max(options.active) <= seed::MOST_SINKS,
            "a branch has room for {} sinks",
            seed::MOST_SINKS
        );
        Ok(options)
    }
}

/// Measures everything and prints tables.
///
/// # Errors
/// When something cannot be started.
pub fn run(options: Options) -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    let disk = machine::measure_disk(scratch.path(), machine::PAGE, DISK)?;
    let pressure = CpuPressure::begin();
    let runtime = tokio::runtime::Runtime::new()?;
    let measured = runtime.block_on(async {
        let writes = traffic::measure(options).await?;
        let definitions = match options.sinks {
            0 => None,
            _ => Some(Box::pin(definitions::measure(options)).await?),
        };
        anyhow::Ok((writes, definitions))
    });
    let (writes, definitions) = measured?;
    println!("{}", table::head(options, &disk, pressure.share()));
    println!("{}", table::writes(&writes));
    if let Some(definitions) = definitions {
        println!("{}", table::definitions(&definitions));
    }
    Ok(())
}

/// The middle one of some values, the upper one of two; the least there is without any.
pub fn median<T: PartialOrd + Copy + Default>(values: impl IntoIterator<Item = T>) -> T {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Options> {
        Options::read(Args::parse(text.split_whitespace().map(str::to_owned))?)
    }

    #[test]
    fn mistakes_are_named() {
        let message = |text: &str| read(text).expect_err("a mistake").to_string();
        assert!(message("--store redis").contains("embedded or etcd"));
        assert!(message("--sinks 10001").contains("10000 sinks"));
        assert!(message("--active 10001").contains("10000 sinks"));
        assert!(message("--sink 1").contains("--sink"));
        assert_eq!(read("--store etcd").expect("valid").store, StoreKind::Etcd);
    }

    #[test]
    fn the_median_is_the_one_in_the_middle() {
        assert_eq!(median([3, 1, 2]), 2);
        assert_eq!(median([5.0, 1.0]), 5.0);
        assert_eq!(median::<u64>([]), 0);
    }
}
