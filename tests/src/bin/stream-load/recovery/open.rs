//! Opens a volume and watches the memory of this process meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};
use serde::{Deserialize, Serialize};
use stream_model::time::SystemClock;
use stream_storage::local::{self, Health, Recovery, Volume};

use crate::frames::Frames;
use crate::machine;
use crate::volume::{Clients, open_slices};

/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(10);
/// The threads of the volume are done when they have written and computed nothing for so long.
const QUIET: Duration = Duration::from_secs(2);
/// They are waited for no longer.
const PATIENCE: Duration = Duration::from_secs(600);

/// How an opening went. Times are in seconds, memory is anonymous and in bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opening {
    /// Until the volume was open.
    pub open: f64,
    /// CPU time of it.
    pub cpu: f64,
    /// The most memory that was seen until then.
    pub open_memory: f64,
    /// Slices that were found.
    pub slices: u64,
    /// Rows in them.
    pub rows: u64,
    /// Until a first append was answered as durable: not before there is room in the journal. Zero without threads, as are the
    /// following.
    pub first_append: f64,
    /// Until the threads of the volume had nothing to do any more.
    pub done: f64,
    /// CPU time of the flush thread until then.
    pub flush_cpu: f64,
    /// The most memory that was seen until then.
    pub memory: f64,
}

impl Opening {
    fn new(elapsed: Duration, found: &Recovery, cpu: f64, memory: u64) -> anyhow::Result<Self> {
        ensure!(found.damage.is_empty(), "damage: {:?}", found.damage);
        Ok(Self {
            open: elapsed.as_secs_f64(),
            cpu,
            open_memory: memory as f64,
            slices: found.slices as u64,
            rows: found.rows,
            first_append: 0.0,
            done: 0.0,
            flush_cpu: 0.0,
            memory: 0.0,
        })
    }
}

/// Opens a volume without threads, and leaves it as it was.
///
/// # Errors
/// When it cannot be opened, or is damaged.
pub fn stepped(dir: &Path) -> anyhow::Result<Opening> {
    let own = std::process::id();
    let memory = Memory::watch();
    let (cpu, start) = (machine::cpu_seconds(own)?, Instant::now());
    let (volume, commit, flush, found) = Volume::open_stepped(options(dir))?;
    let elapsed = start.elapsed();
    let cpu = machine::cpu_seconds(own)? - cpu;
    let opening = Opening::new(elapsed, &found, cpu, memory.end()?);
    drop((commit, flush, volume));
    opening
}

/// Opens a volume, appends to it, and waits until its threads are done.
///
/// # Errors
/// When it cannot be opened, is damaged, or fails.
pub fn whole(dir: &Path) -> anyhow::Result<Opening> {
    let own = std::process::id();
    let frames = Frames::new(1, 1_024)?;
    let memory = Memory::watch();
    let (cpu, start) = (machine::cpu_seconds(own)?, Instant::now());
    let (volume, found) = Volume::open(options(dir))?;
    let elapsed = start.elapsed();
    let cpu = machine::cpu_seconds(own)? - cpu;
    let until_open = machine::anonymous_now()?;
    let mut opening = Opening::new(elapsed, &found, cpu, until_open)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    runtime.block_on(async {
        let targets = open_slices(&volume, 7, 1);
        let clients = Clients::new(&volume, frames, targets)?;
        while clients.run(1, tokio::time::sleep(SAMPLE)).await?.0.appends == 0 {}
        opening.first_append = start.elapsed().as_secs_f64();
        opening.done = watch_threads(&volume, start).await?.as_secs_f64();
        opening.flush_cpu = machine::thread_cpu_seconds("volume-flush")?;
        opening.memory = memory.end()? as f64;
        volume.stop().await;
        Ok(opening)
    })
}

/// Waits until the threads do nothing any more. When that was, since `start`.
async fn watch_threads(volume: &Volume, start: Instant) -> anyhow::Result<Duration> {
    let busy = || {
        let cpu = machine::thread_cpu_seconds("volume-flush")?;
        anyhow::Ok((machine::written_bytes()?, cpu))
    };
    let (mut before, mut last) = (busy()?, Instant::now());
    while last.elapsed() < QUIET && start.elapsed() < PATIENCE {
        tokio::time::sleep(10 * SAMPLE).await;
        let now = busy()?;
        // A tick of the thread is not work.
        if now.0 > before.0 || now.1 - before.1 > 0.05 {
            (before, last) = (now, Instant::now());
        }
        if let Health::Failed(reason) = volume.status().health {
            return Err(anyhow!("the volume failed: {reason}"));
        }
    }
    Ok(last.duration_since(start))
}

fn options(dir: &Path) -> local::Options {
    local::Options::new(dir.to_owned(), Arc::new(SystemClock))
}

/// Looks at the memory of this process from a thread of its own.
struct Memory {
    ended: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<anyhow::Result<u64>>,
}

impl Memory {
    fn watch() -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut most = machine::anonymous_now()?;
            while !end.load(Ordering::Relaxed) {
                std::thread::sleep(SAMPLE);
                most = most.max(machine::anonymous_now()?);
            }
            Ok(most)
        });
        Self { ended, thread }
    }

    /// The most that was seen.
    fn end(self) -> anyhow::Result<u64> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the thread that watches the memory panicked"))?
    }
}
