//! What the kernel says about processes and the machine.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use crate::histogram::Histogram;

/// The unit of times in `/proc`, the same on all Linux machines.
const TICKS_PER_SECOND: u64 = 100;
/// A page, as it is written by the sync measurement.
const PAGE: usize = 4096;
/// Pages of the file of the sync measurement.
const PAGES: u64 = 2048;

/// CPU seconds that a process has used, in all its threads.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("there is no process {pid}"))?;
    // The name may hold spaces and parentheses; it ends at the last one.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |position| fields.split_whitespace().nth(position)?.parse::<u64>().ok();
    let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
        bail!("the times of process {pid} cannot be read");
    };
    Ok((user + system) as f64 / TICKS_PER_SECOND as f64)
}

/// Anonymous memory of a process, in bytes: what it needs for itself, without files in the page cache.
///
/// # Errors
/// When there is no such process.
pub fn anonymous_memory(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("there is no process {pid}"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kilobytes.context("the kernel does not tell anonymous memory")? * 1024)
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

/// Writes pages of a file that has its full length already, each followed by fdatasync, as a journal does.
///
/// # Errors
/// When the directory cannot be written.
pub fn measure_disk(dir: &Path, duration: Duration) -> anyhow::Result<Disk> {
    use std::os::unix::fs::FileExt;

    let path = dir.join("fdatasync");
    let page = vec![0xa5; PAGE];
    let file =
        fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    for number in 0..PAGES {
        file.write_all_at(&page, number * PAGE as u64)?;
    }
    file.sync_all()?;
    let mut latency = Histogram::new();
    let (start, mut syncs) = (Instant::now(), 0_u64);
    while start.elapsed() < duration {
        let begin = Instant::now();
        file.write_all_at(&page, syncs % PAGES * PAGE as u64)?;
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
    }

    #[test]
    fn a_disk_is_measured_and_left_clean() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = measure_disk(dir.path(), Duration::from_millis(30)).expect("writable");
        assert!(disk.latency.count() > 0 && disk.syncs_per_second > 0.0);
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
