//! The keys of a volume in this process: filled, and measured while they are few and when they are all that it may remember.

use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use stream_model::time::SystemClock;
use stream_storage::local::{self, Metrics, Volume};

use super::Options;
use super::clients::{Clients, Kind, Tally, Work};
use crate::frames::Frames;
use crate::machine::{self, CpuPressure};
use crate::volume::{metric, watch_memory};

/// Appends that are outstanding: of one row, and of many.
const CLIENTS: [usize; 2] = [256, 32];
/// Rows of an append of many.
const ROWS: u64 = 100;
/// Keys of an append that only fills the volume.
const FILLING: u64 = 1_000;
/// How often it is looked at while it is filled.
const LOOK: Duration = Duration::from_millis(50);
/// A volume is at rest when it has written nothing for so long: it looks after its keys once a second.
const QUIET: Duration = Duration::from_millis(2_500);
/// It is waited for no longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// One time of appending. Times are in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// The keys of an append.
    pub kind: Kind,
    /// Rows of an append, each with a key if it has some.
    pub rows: u64,
    /// How long it was.
    pub elapsed: f64,
    /// Appends that were answered.
    pub appends: f64,
    /// Times that an append was refused, to be sent again.
    pub refused: f64,
    /// Latencies that 500, 990 and 999 of 1 000 stay below, and the largest.
    pub latency: [f64; 4],
    /// Share of one CPU: commit thread, flush thread.
    pub cpu: [f64; 2],
    /// Share of the time in which some task waited for a CPU; negative when the kernel does not tell.
    pub pressure: f64,
    /// The most anonymous memory that was seen, in bytes.
    pub memory: f64,
}

/// How the volume was filled. Times are in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Filled {
    /// Keys that were appended.
    pub keys: f64,
    /// How long that took.
    pub elapsed: f64,
    /// Latencies that 500, 990 and 999 of 1 000 appends stayed below, and the largest.
    pub latency: [f64; 4],
    /// Times that an append was refused, to be sent again.
    pub refused: f64,
    /// Anonymous memory: before the volume was opened, the most while it was filled, at rest afterwards.
    pub memory: [f64; 3],
    /// Bytes of the files with keys, and how many.
    pub files: [f64; 2],
    /// Share of the time in which some task waited for a CPU; negative when the kernel does not tell.
    pub pressure: f64,
}

/// What was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured {
    /// With few keys, each kind once.
    pub few: Vec<Run>,
    pub filled: Filled,
    /// With all keys.
    pub full: Vec<Run>,
    /// Keys that are remembered in the end.
    pub remembered: f64,
    /// Bytes of the journal in the end, and of the files with keys.
    pub left: [f64; 2],
}

/// A volume and those who append to it.
struct Bench<'a> {
    options: &'a Options,
    dir: &'a Path,
    registry: Registry,
    volume: Volume,
    clients: Rc<Clients>,
    /// Frames of one row, and of many.
    frames: [Rc<Frames>; 2],
    /// Anonymous memory before the volume was opened.
    baseline: u64,
}

/// Measures a volume, and leaves it as a killed process does.
///
/// # Errors
/// When it refuses something.
pub fn measure(options: &Options, dir: &Path) -> anyhow::Result<Measured> {
    let bench = Bench::open(options, dir)?;
    runtime()?.block_on(async {
        let few = bench.series(1).await?;
        let filled = bench.fill().await?;
        let full = bench.series(options.repeats).await?;
        let measured = Measured {
            few,
            filled,
            full,
            remembered: bench.metric("stream_volume_keys")?,
            left: [
                bench.volume.status().journal_bytes as f64,
                files(&dir.join("keys"))?[0],
            ],
        };
        bench.volume.abandon().await;
        Ok(measured)
    })
}

/// Fills a volume, and takes its rows off it.
///
/// # Errors
/// When it refuses something.
pub fn fill(options: &Options, dir: &Path) -> anyhow::Result<Filled> {
    let bench = Bench::open(options, dir)?;
    runtime()?.block_on(async {
        let filled = bench.fill().await?;
        for slice in bench.clients.slices() {
            bench.volume.seal(slice.id, None).await?;
            bench.volume.release(slice.id);
        }
        bench.volume.stop().await;
        Ok(filled)
    })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.context("cannot start the runtime")
}

impl<'a> Bench<'a> {
    fn open(options: &'a Options, dir: &'a Path) -> anyhow::Result<Self> {
        let frames = |rows| Frames::new(rows, options.bytes).map(Rc::new);
        let frames = [frames(1)?, frames(ROWS)?];
        let baseline = machine::anonymous_now()?;
        let registry = Registry::new();
        let (volume, _) = Volume::open(local::Options {
            max_keys: options.keys,
            metrics: Metrics::register(&registry)?,
            ..local::Options::new(dir.to_owned(), Arc::new(SystemClock))
        })?;
        let clients = Clients::new(&volume, CLIENTS[0], options.keys)?;
        Ok(Self {
            options,
            dir,
            registry,
            volume,
            clients,
            frames,
            baseline,
        })
    }

    /// Every kind of append, so many times in turn.
    async fn series(&self, repeats: u64) -> anyhow::Result<Vec<Run>> {
        let mut runs = Vec::new();
        for repeat in 1..=repeats {
            for (position, rows) in [1, ROWS].into_iter().enumerate() {
                for kind in [Kind::Without, Kind::New, Kind::Known] {
                    eprintln!("{rows} rows, keys: {kind:?} ({repeat}/{repeats})");
                    let work = Work {
                        kind,
                        keys: rows,
                        frames: Rc::clone(&self.frames[position]),
                        clients: CLIENTS[position],
                    };
                    runs.push(self.run(&work).await?);
                }
            }
        }
        Ok(runs)
    }

    async fn run(&self, work: &Work) -> anyhow::Result<Run> {
        let cpu = || ["volume-commit", "volume-flush"].map(machine::thread_cpu_seconds);
        let (before, pressure, start) = (cpu(), CpuPressure::begin(), Instant::now());
        let watched = watch_memory(self.options.duration);
        let (tally, memory) = self.clients.run(work, watched).await?;
        let elapsed = start.elapsed().as_secs_f64();
        ensure!(tally.appends > 0, "nothing was appended");
        let [commit, flush] = cpu();
        let [commit_before, flush_before] = before;
        let run = Run {
            kind: work.kind,
            rows: work.keys,
            elapsed,
            appends: tally.appends as f64,
            refused: tally.refused as f64,
            latency: latencies(&tally),
            cpu: [
                (commit? - commit_before?) / elapsed,
                (flush? - flush_before?) / elapsed,
            ],
            pressure: pressure.share().unwrap_or(-1.0),
            memory: memory? as f64,
        };
        machine::until_nothing_is_written(QUIET, PATIENCE).await?;
        Ok(run)
    }

    /// Appends keys until the volume remembers as many as it may.
    async fn fill(&self) -> anyhow::Result<Filled> {
        eprintln!("filling it");
        let work = Work {
            kind: Kind::New,
            keys: FILLING,
            frames: Rc::clone(&self.frames[0]),
            clients: CLIENTS[1],
        };
        let (first, keys) = (self.clients.appended(), self.options.keys);
        let (pressure, start) = (CpuPressure::begin(), Instant::now());
        let enough = async {
            let mut most = 0;
            while self.clients.appended() - first < keys {
                most = most.max(watch_memory(LOOK).await?);
            }
            anyhow::Ok(most)
        };
        let (tally, most) = self.clients.run(&work, enough).await?;
        let elapsed = start.elapsed().as_secs_f64();
        let pressure = pressure.share().unwrap_or(-1.0);
        machine::until_nothing_is_written(QUIET, PATIENCE).await?;
        let at_rest = machine::anonymous_now()?;
        Ok(Filled {
            keys: (self.clients.appended() - first) as f64,
            elapsed,
            latency: latencies(&tally),
            refused: tally.refused as f64,
            memory: [self.baseline, most?, at_rest].map(|bytes| bytes as f64),
            files: files(&self.dir.join("keys"))?,
            pressure,
        })
    }

    fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())?;
        metric(&text, name).with_context(|| format!("there is no metric {name}"))
    }
}

fn latencies(tally: &Tally) -> [f64; 4] {
    let latency = &tally.latency;
    let per_mille = [500, 990, 999].map(|per_mille| latency.per_mille(per_mille));
    let [p50, p99, p999] = per_mille.map(|latency| latency.as_secs_f64());
    [p50, p99, p999, latency.max().as_secs_f64()]
}

/// Bytes of the files in a directory, and how many.
fn files(dir: &Path) -> anyhow::Result<[f64; 2]> {
    let mut found = [0.0, 0.0];
    for file in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        found[0] += file?.metadata()?.len() as f64;
        found[1] += 1.0;
    }
    Ok(found)
}
