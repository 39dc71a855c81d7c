//! One case, in a process of its own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use stream_model::time::SystemClock;
use stream_storage::local::{self, Metrics, Volume};

use super::clients::{Clients, Tally, open_slices};
use super::{Case, Counters};
use crate::frames::Frames;
use crate::machine::{self, CpuPressure};

/// How long the clients append before anything is counted.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long the disk is measured after each run.
const DISK: Duration = Duration::from_secs(1);
/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(250);
/// The volume has nothing to do any more when it has written nothing for so long.
const QUIET: Duration = Duration::from_millis(500);
/// It is waited for no longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one run gave. Times are in seconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// How long it was.
    pub elapsed: f64,
    /// Appends that were answered as durable.
    pub appends: f64,
    /// Rows in them.
    pub rows: f64,
    /// Their bytes before compression.
    pub raw_bytes: f64,
    /// Their bytes after it.
    pub frame_bytes: f64,
    /// Appends that were refused.
    pub refused: f64,
    /// Latencies that 500, 990 and 999 of 1 000 stay below, and the largest.
    pub latency: [f64; 4],
    /// Appends that shared a sync, on average.
    pub group: f64,
    /// Bytes that one sync made durable, on average.
    pub group_bytes: f64,
    /// Average time of a write with its sync.
    pub sync: f64,
    /// Bytes that the volume wrote to journal and slice files, for each byte of a frame.
    pub volume_written: f64,
    /// Bytes that were written to the device, for each byte of a frame; negative when that is not known.
    pub device_written: f64,
    /// Bytes of pages that the process made dirty, for each byte of a frame.
    pub process_written: f64,
    /// Checkpoints that were made.
    pub checkpoints: f64,
    /// Share of one CPU: commit thread, flush thread, the whole process.
    pub cpu: [f64; 3],
    /// Share of the time in which some task waited for a CPU; negative when the kernel does not tell.
    pub pressure: f64,
    /// Anonymous memory: the most that was seen, and what the process had before the volume was opened.
    pub memory: [f64; 2],
    /// How long the volume went on writing after the last append.
    pub behind: f64,
    /// The disk alone, with writes of `group_bytes`: latencies that 500 and 990 of 1 000 stay below, and syncs in a second.
    pub disk: [f64; 3],
}

/// Measures a case.
///
/// # Errors
/// When the volume cannot be opened, or fails.
pub fn run(case: &Case, dir: &Path) -> anyhow::Result<Vec<Run>> {
    let frames = Frames::new(case.rows, case.bytes)?;
    let baseline = machine::anonymous_now()?;
    let registry = Registry::new();
    let options = local::Options {
        metrics: Metrics::register(&registry)?,
        ..local::Options::new(dir.to_owned(), Arc::new(SystemClock))
    };
    let (volume, _) = Volume::open(options)?;
    let targets = open_slices(&volume, 1, case.slices);
    let clients = Clients::new(&volume, frames, targets)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let bench = Bench {
        registry,
        dir,
        baseline,
    };
    runtime.block_on(async {
        let warm_up = tokio::time::sleep(WARM_UP);
        clients.run(case.clients, warm_up).await?;
        let mut runs = Vec::new();
        for _ in 0..case.repeats {
            runs.push(bench.measure(case, &clients).await?);
        }
        volume.stop().await;
        Ok(runs)
    })
}

struct Bench<'a> {
    registry: Registry,
    dir: &'a Path,
    /// Anonymous memory before the volume was opened.
    baseline: u64,
}

impl Bench<'_> {
    async fn measure(&self, case: &Case, clients: &std::rc::Rc<Clients>) -> anyhow::Result<Run> {
        let before = self.counters()?;
        let (pressure, start) = (CpuPressure::begin(), Instant::now());
        let watched = watch_memory(case.duration);
        let (tally, memory) = clients.run(case.clients, watched).await?;
        let elapsed = start.elapsed().as_secs_f64();
        let counted = self.counters()?.since(&before);
        let pressure = pressure.share().unwrap_or(-1.0);
        ensure!(
            tally.appends > 0 && counted.groups > 0.0,
            "nothing was appended"
        );
        let behind = machine::until_nothing_is_written(QUIET, PATIENCE).await?;
        let group_bytes = counted.journal_bytes / counted.groups;
        let disk = machine::measure_disk(self.dir, group_bytes as usize, DISK)?;
        let percentile = |per_mille| disk.latency.per_mille(per_mille).as_secs_f64();
        let written = counted.journal_bytes + counted.slice_bytes;
        let frame_bytes = tally.frame_bytes as f64;
        Ok(Run {
            elapsed,
            appends: tally.appends as f64,
            rows: tally.rows as f64,
            raw_bytes: tally.raw_bytes as f64,
            frame_bytes,
            refused: tally.refused as f64,
            latency: latencies(&tally),
            group: tally.appends as f64 / counted.groups,
            group_bytes,
            sync: counted.sync_seconds / counted.groups,
            process_written: counted.process_bytes / frame_bytes,
            // Not a number has no place in JSON, and the larger of it and another is the other.
            device_written: (counted.device_bytes / frame_bytes).max(-1.0),
            volume_written: written / frame_bytes,
            checkpoints: counted.checkpoints,
            cpu: [counted.commit_cpu, counted.flush_cpu, counted.process_cpu]
                .map(|seconds| seconds / elapsed),
            pressure,
            memory: [memory?, self.baseline].map(|bytes| bytes as f64),
            behind: behind.as_secs_f64(),
            disk: [percentile(500), percentile(990), disk.syncs_per_second],
        })
    }

    fn counters(&self) -> anyhow::Result<Counters> {
        Counters::now(&self.registry, self.dir)
    }
}

fn latencies(tally: &Tally) -> [f64; 4] {
    let latency = &tally.latency;
    [
        latency.per_mille(500),
        latency.per_mille(990),
        latency.per_mille(999),
        latency.max(),
    ]
    .map(|latency| latency.as_secs_f64())
}

/// Passes the time. The most anonymous memory that was seen meanwhile.
///
/// # Errors
/// When the kernel does not tell.
pub async fn watch_memory(duration: Duration) -> anyhow::Result<u64> {
    let (start, mut most) = (Instant::now(), 0);
    while start.elapsed() < duration {
        let left = duration.saturating_sub(start.elapsed());
        tokio::time::sleep(SAMPLE.min(left)).await;
        most = most.max(machine::anonymous_now()?);
    }
    Ok(most)
}
