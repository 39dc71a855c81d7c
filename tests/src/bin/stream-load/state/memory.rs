//! What a process has in memory, once it has nothing more to do.

use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::{Instant, sleep};

use crate::machine;

/// How long a process is looked at to see whether it rests.
const LOOK: Duration = Duration::from_secs(1);
/// CPU seconds below which a process rests in such a time. Ticks of the kernel are ten milliseconds.
const REST: f64 = 0.05;
/// More than a start takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a process that rests has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Footprint {
    /// CPU seconds since its start.
    pub cpu_seconds: f64,
    /// Resident bytes, with pages of its files.
    pub resident: u64,
    /// Resident bytes of its own.
    pub anonymous: u64,
}

/// Waits until a process rests, and looks at it.
///
/// # Errors
/// When it never does.
pub async fn at_rest(pid: u32) -> anyhow::Result<Footprint> {
    let deadline = Instant::now() + PATIENCE;
    let mut before = machine::cpu_seconds(pid)?;
    loop {
        sleep(LOOK).await;
        let cpu_seconds = machine::cpu_seconds(pid)?;
        if cpu_seconds - before < REST {
            return Ok(Footprint {
                cpu_seconds,
                resident: resident(pid)?,
                anonymous: machine::anonymous_memory(pid)?,
            });
        }
        ensure!(Instant::now() < deadline, "process {pid} never rests");
        before = cpu_seconds;
    }
}

fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("there is no process {pid}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kilobytes.context("the kernel does not tell resident memory")? * 1024)
}
