//! What the volume counts, and what the kernel counts of this process.

use std::fs;
use std::path::Path;

use anyhow::Context;
use prometheus::{Registry, TextEncoder};

use crate::machine;

/// Counts since the start of the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Commit groups with a sync.
    pub groups: f64,
    /// Seconds that their write and sync took.
    pub sync_seconds: f64,
    /// Bytes written to the journal.
    pub journal_bytes: f64,
    /// Bytes written to slice files.
    pub slice_bytes: f64,
    /// Number of the newest checkpoint.
    pub checkpoints: f64,
    /// Bytes of pages that the process has made dirty.
    pub process_bytes: f64,
    /// Bytes that everybody has written to the device; not a number when that is not known.
    pub device_bytes: f64,
    /// CPU seconds of the commit thread.
    pub commit_cpu: f64,
    /// CPU seconds of the flush thread.
    pub flush_cpu: f64,
    /// CPU seconds of the process.
    pub process_cpu: f64,
}

impl Counters {
    /// As they are now.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn now(registry: &Registry, dir: &Path) -> anyhow::Result<Self> {
        let text = TextEncoder::new().encode_to_string(&registry.gather())?;
        let value = |name| metric(&text, name).unwrap_or_default();
        Ok(Self {
            groups: value("stream_volume_sync_seconds_count"),
            sync_seconds: value("stream_volume_sync_seconds_sum"),
            journal_bytes: value("stream_volume_journal_written_bytes_total"),
            slice_bytes: value("stream_volume_slice_written_bytes_total"),
            checkpoints: newest_checkpoint(&dir.join("checkpoint"))? as f64,
            process_bytes: machine::written_bytes()? as f64,
            device_bytes: machine::device_written_bytes(dir).map_or(f64::NAN, |bytes| bytes as f64),
            commit_cpu: machine::thread_cpu_seconds("volume-commit")?,
            flush_cpu: machine::thread_cpu_seconds("volume-flush")?,
            process_cpu: machine::cpu_seconds(std::process::id())?,
        })
    }

    /// What was counted since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            groups: self.groups - before.groups,
            sync_seconds: self.sync_seconds - before.sync_seconds,
            journal_bytes: self.journal_bytes - before.journal_bytes,
            slice_bytes: self.slice_bytes - before.slice_bytes,
            checkpoints: self.checkpoints - before.checkpoints,
            process_bytes: self.process_bytes - before.process_bytes,
            device_bytes: self.device_bytes - before.device_bytes,
            commit_cpu: self.commit_cpu - before.commit_cpu,
            flush_cpu: self.flush_cpu - before.flush_cpu,
            process_cpu: self.process_cpu - before.process_cpu,
        }
    }
}

/// The value of a metric that has one, whatever its labels.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

fn newest_checkpoint(dir: &Path) -> anyhow::Result<u64> {
    let files = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let number = |entry: fs::DirEntry| {
        let path = entry.path();
        u64::from_str_radix(path.file_stem()?.to_str()?, 16).ok()
    };
    Ok(files
        .filter_map(|entry| number(entry.ok()?))
        .max()
        .unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_by_their_whole_name() {
        let text = "# HELP a x\na_total_b 1\na_total{volume=\"x y\"} 25\nb 3.5\n";
        assert_eq!(metric(text, "a_total"), Some(25.0));
        assert_eq!(metric(text, "b"), Some(3.5));
        assert_eq!(metric(text, "c"), None);
    }
}
