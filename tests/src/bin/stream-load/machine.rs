//! What the kernel says about processes and the machine.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::histogram::Histogram;

/// The unit of times in `/proc`, the same on all Linux machines.
const TICKS_PER_SECOND: u64 = 100;
/// The unit of writes in the sync measurement, and what it writes where nothing else is asked for.
pub const PAGE: usize = 4096;
/// Bytes of the file of the sync measurement, at least.
const DISK_BYTES: u64 = 8 << 20;

/// CPU seconds that a process has used, in all its threads.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("there is no process {pid}"))?;
    seconds_in(&stat).with_context(|| format!("the times of process {pid} cannot be read"))
}

/// The CPU seconds that the kernel tells of a process or a thread.
fn seconds_in(stat: &str) -> Option<f64> {
    // The name may hold spaces and parentheses; it ends at the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = |position| fields.split_whitespace().nth(position)?.parse::<u64>().ok();
    Some((ticks(11)? + ticks(12)?) as f64 / TICKS_PER_SECOND as f64)
}

/// CPU seconds that the threads of this process with that name have used.
///
/// # Errors
/// When the kernel does not tell.
pub fn thread_cpu_seconds(name: &str) -> anyhow::Result<f64> {
    let mut seconds = 0.0;
    for thread in fs::read_dir("/proc/self/task")? {
        let dir = thread?.path();
        // A thread may end meanwhile.
        let Ok(own) = fs::read_to_string(dir.join("comm")) else {
            continue;
        };
        if own.trim_end() == name {
            let stat = fs::read_to_string(dir.join("stat"))?;
            seconds += seconds_in(&stat).context("the times of a thread cannot be read")?;
        }
    }
    Ok(seconds)
}

/// Bytes of pages that this process has made dirty. The kernel counts a page as large as the file system has it in memory, which
/// may be megabytes, each time that a part of it is written anew.
///
/// # Errors
/// When the kernel does not tell.
pub fn written_bytes() -> anyhow::Result<u64> {
    let io = fs::read_to_string("/proc/self/io")?;
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|line| line.parse().ok())
        .context("the kernel does not tell what was written")
}

/// Waits until this process has made no page dirty for `quiet`, but no longer than `patience`. How long it still did.
///
/// # Errors
/// When the kernel does not tell.
pub async fn until_nothing_is_written(
    quiet: Duration,
    patience: Duration,
) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let (mut written, mut last) = (written_bytes()?, start);
    while last.elapsed() < quiet && start.elapsed() < patience {
        tokio::time::sleep(quiet / 10).await;
        let now = written_bytes()?;
        if now > written {
            (written, last) = (now, Instant::now());
        }
    }
    Ok(last.duration_since(start))
}

/// Bytes that everybody has written to the device below a directory since the machine was started; none when there is no such
/// device, or the kernel does not tell.
pub fn device_written_bytes(dir: &Path) -> Option<u64> {
    const SECTOR: u64 = 512;
    let device = rustix::fs::stat(dir).ok()?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * SECTOR)
}

/// Anonymous memory of this process, in bytes, page by page and so exactly.
///
/// # Errors
/// When the kernel does not tell.
pub fn anonymous_now() -> anyhow::Result<u64> {
    kilobytes_of("/proc/self/smaps_rollup", "Anonymous:")
}

fn kilobytes_of(path: &str, name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kilobytes.with_context(|| format!("{path} has no {name}"))? * 1024)
}

/// Anonymous memory of a process, in bytes: what it needs for itself, without files in the page cache.
///
/// # Errors
/// When there is no such process.
pub fn anonymous_memory(pid: u32) -> anyhow::Result<u64> {
    kilobytes_of(&format!("/proc/{pid}/status"), "RssAnon:")
}

/// How long tasks waited for a CPU while it was held: the share of that time, from 0 to 1.
#[derive(Debug, Clone, Copy)]
pub struct CpuPressure {
    start: Instant,
    /// Microseconds since boot in which some task waited; none when the kernel does not tell.
    waited: Option<u64>,
}

impl CpuPressure {
    /// Begins to look.
    pub fn begin() -> Self {
        Self {
            start: Instant::now(),
            waited: waited(),
        }
    }

    /// The share of the time since the beginning.
    pub fn share(self) -> Option<f64> {
        let delta = waited()?.checked_sub(self.waited?)?;
        Some(delta as f64 / self.start.elapsed().as_micros().max(1) as f64)
    }
}

fn pressure() -> Option<String> {
    let text = fs::read_to_string("/proc/pressure/cpu").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("some "))
        .map(str::to_owned)
}

fn pressure_field(name: &str) -> Option<String> {
    pressure()?
        .split_whitespace()
        .find_map(|field| field.strip_prefix(name))
        .map(str::to_owned)
}

fn waited() -> Option<u64> {
    pressure_field("total=")?.parse().ok()
}

/// The share of the last ten seconds in which some task waited for a CPU, in percent.
pub fn pressure_avg10() -> Option<f64> {
    pressure_field("avg10=")?.parse().ok()
}

/// What a disk can do by itself.
#[derive(Debug)]
pub struct Disk {
    /// Synced writes in a second, one after the other.
    pub syncs_per_second: f64,
    /// How long each took.
    pub latency: Histogram,
}

/// Writes `bytes` bytes, rounded up to whole pages, each time to the next place in a file that has its full length already, and
/// calls fdatasync, as a journal does.
///
/// # Errors
/// When the directory cannot be written.
pub fn measure_disk(dir: &Path, bytes: usize, duration: Duration) -> anyhow::Result<Disk> {
    use std::os::unix::fs::FileExt;

    let path = dir.join("fdatasync");
    let block = vec![0xa5; bytes.max(1).next_multiple_of(PAGE)];
    let len = block.len() as u64;
    let blocks = (DISK_BYTES / len).max(8);
    let file =
        fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    for number in 0..blocks {
        file.write_all_at(&block, number * len)?;
    }
    file.sync_all()?;
    let mut latency = Histogram::new();
    let (start, mut syncs) = (Instant::now(), 0_u64);
    while start.elapsed() < duration {
        let begin = Instant::now();
        file.write_all_at(&block, syncs % blocks * len)?;
        file.sync_data()?;
        latency.record(begin.elapsed());
        syncs += 1;
    }
    let syncs_per_second = syncs as f64 / start.elapsed().as_secs_f64();
    fs::remove_file(&path)?;
    Ok(Disk {
        syncs_per_second,
        latency,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_about_this_process() {
        let own = std::process::id();
        assert!(cpu_seconds(own).expect("it exists") >= 0.0);
        assert!(anonymous_memory(own).expect("it exists") > 100_000);
        assert!(anonymous_now().expect("it is told") > 100_000);
        assert!(thread_cpu_seconds("no such thread").expect("it is told") == 0.0);
        written_bytes().expect("it is told");
    }

    #[test]
    fn a_disk_is_measured_and_left_clean() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = measure_disk(dir.path(), 5_000, Duration::from_millis(30)).expect("writable");
        assert!(disk.latency.count() > 0 && disk.syncs_per_second > 0.0);
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
