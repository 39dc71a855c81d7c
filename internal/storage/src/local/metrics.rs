//! What a volume tells about itself.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry,
};

use super::journal::Sync;
use crate::wire::RefusalReason;

/// Metrics of all volumes of a process, labelled by the volume's label (bounded: one value per volume directory).
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) sync_seconds: HistogramVec,
    pub(super) group_entries: HistogramVec,
    pub(super) journal_written_bytes: IntCounterVec,
    pub(super) slice_written_bytes: IntCounterVec,
    pub(super) refused: IntCounterVec,
    pub(super) damaged_entries: IntCounterVec,
    pub(super) queue_bytes: IntGaugeVec,
    pub(super) journal_bytes: IntGaugeVec,
    pub(super) slice_bytes: IntGaugeVec,
    pub(super) ballast_bytes: IntGaugeVec,
    pub(super) limit_bytes: IntGaugeVec,
    pub(super) free_bytes: IntGaugeVec,
    pub(super) slices: IntGaugeVec,
    pub(super) sinks_at_limit: IntGaugeVec,
    pub(super) unsealed_seconds: GaugeVec,
    pub(super) unreleased_seconds: GaugeVec,
    pub(super) healthy: GaugeVec,
    pub(super) known_keys: IntCounterVec,
    pub(super) keys: IntGaugeVec,
    pub(super) key_window_seconds: GaugeVec,
}

/// What a look at a volume saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Observation {
    /// Segments in use.
    pub journal_bytes: u64,
    /// Slices that are not released.
    pub slice_bytes: u64,
    /// Files that are kept for a full disk.
    pub ballast_bytes: u64,
    /// Room in the file system.
    pub free_bytes: u64,
    /// Batches that wait.
    pub queue_bytes: u64,
    pub slices: u64,
    pub sinks_at_limit: u64,
    /// Age of the oldest record in a slice that takes rows; 0 when there is none.
    pub unsealed_seconds: f64,
    /// Age of the oldest record on the volume; 0 when there is none.
    pub unreleased_seconds: f64,
    /// Idempotency keys that are remembered.
    pub keys: u64,
    /// For how long at least.
    pub key_window_seconds: f64,
}

/// The metrics of one volume.
#[derive(Debug)]
pub(super) struct VolumeMetrics {
    label: String,
    all: Metrics,
}

impl VolumeMetrics {
    /// `limit` is the most that journal and slices may occupy, in bytes.
    pub fn new(label: String, limit: Option<u64>, all: Metrics) -> Self {
        let metrics = Self { label, all };
        metrics.healthy(true);
        metrics.set(&metrics.all.limit_bytes, limit.unwrap_or(0));
        metrics
    }

    fn set(&self, gauge: &IntGaugeVec, value: u64) {
        gauge
            .with_label_values(&[&self.label])
            .set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    pub fn group(&self, entries: usize, bytes: usize, sync: Sync, elapsed: Duration) {
        let labels = [self.label.as_str()];
        if sync == Sync::Data {
            self.all
                .sync_seconds
                .with_label_values(&labels)
                .observe(elapsed.as_secs_f64());
        }
        self.all
            .group_entries
            .with_label_values(&labels)
            .observe(entries as f64);
        self.all
            .journal_written_bytes
            .with_label_values(&labels)
            .inc_by(bytes as u64);
    }

    pub fn slice_written(&self, bytes: usize) {
        self.all
            .slice_written_bytes
            .with_label_values(&[&self.label])
            .inc_by(bytes as u64);
    }

    pub fn refused(&self, reason: RefusalReason) {
        let reason = match reason {
            RefusalReason::UnknownSlice(_) => "unknown_slice",
            RefusalReason::OutOfOrder => "out_of_order",
            RefusalReason::TooManySessions(_) => "too_many_sessions",
            RefusalReason::DiskFull => "disk_full",
            RefusalReason::VolumeFull => "volume_full",
            RefusalReason::SinkFull(_) => "sink_full",
            RefusalReason::KeysElsewhere => "keys_elsewhere",
            RefusalReason::Overloaded => "overloaded",
            RefusalReason::WriteFailed => "write_failed",
            RefusalReason::Superseded => "superseded",
            RefusalReason::Stopping => "stopping",
            RefusalReason::Malformed(_) => "malformed",
        };
        self.all
            .refused
            .with_label_values(&[self.label.as_str(), reason])
            .inc();
    }

    pub fn known_keys(&self, keys: usize) {
        self.all
            .known_keys
            .with_label_values(&[&self.label])
            .inc_by(keys as u64);
    }

    pub fn damaged(&self, ranges: usize) {
        self.all
            .damaged_entries
            .with_label_values(&[&self.label])
            .inc_by(ranges as u64);
    }

    pub fn healthy(&self, healthy: bool) {
        self.all
            .healthy
            .with_label_values(&[&self.label])
            .set(f64::from(u8::from(healthy)));
    }

    pub fn observe(&self, seen: &Observation) {
        self.set(&self.all.journal_bytes, seen.journal_bytes);
        self.set(&self.all.slice_bytes, seen.slice_bytes);
        self.set(&self.all.ballast_bytes, seen.ballast_bytes);
        self.set(&self.all.free_bytes, seen.free_bytes);
        self.set(&self.all.queue_bytes, seen.queue_bytes);
        self.set(&self.all.slices, seen.slices);
        self.set(&self.all.sinks_at_limit, seen.sinks_at_limit);
        self.set(&self.all.keys, seen.keys);
        let ages = [
            (&self.all.key_window_seconds, seen.key_window_seconds),
            (&self.all.unsealed_seconds, seen.unsealed_seconds),
            (&self.all.unreleased_seconds, seen.unreleased_seconds),
        ];
        for (gauge, seconds) in ages {
            gauge.with_label_values(&[&self.label]).set(seconds);
        }
    }
}

const LABELS: &[&str] = &["volume"];

impl Metrics {
    /// Metrics that are kept but shown nowhere.
    #[must_use]
    pub fn unregistered() -> Self {
        Self::build()
    }

    /// Metrics shown by `registry`.
    ///
    /// # Errors
    /// When the registry already has metrics of these names.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::build();
        for collector in metrics.collectors() {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    fn collectors(&self) -> [Box<dyn Collector>; 20] {
        [
            Box::new(self.sync_seconds.clone()),
            Box::new(self.group_entries.clone()),
            Box::new(self.journal_written_bytes.clone()),
            Box::new(self.slice_written_bytes.clone()),
            Box::new(self.refused.clone()),
            Box::new(self.damaged_entries.clone()),
            Box::new(self.queue_bytes.clone()),
            Box::new(self.journal_bytes.clone()),
            Box::new(self.slice_bytes.clone()),
            Box::new(self.ballast_bytes.clone()),
            Box::new(self.limit_bytes.clone()),
            Box::new(self.free_bytes.clone()),
            Box::new(self.slices.clone()),
            Box::new(self.sinks_at_limit.clone()),
            Box::new(self.unsealed_seconds.clone()),
            Box::new(self.unreleased_seconds.clone()),
            Box::new(self.healthy.clone()),
            Box::new(self.known_keys.clone()),
            Box::new(self.keys.clone()),
            Box::new(self.key_window_seconds.clone()),
        ]
    }

    fn build() -> Self {
        Self {
            sync_seconds: histogram(
                "stream_volume_sync_seconds",
                "Duration of the journal's fdatasync. A rise means a slow or overloaded disk, or starved processors.",
                vec![
                    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0,
                ],
            ),
            group_entries: histogram(
                "stream_volume_group_entries",
                "Batches that shared one fdatasync. A rise means more load per sync, which is how the volume keeps up.",
                vec![1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0],
            ),
            journal_written_bytes: counter(
                "stream_volume_journal_written_bytes_total",
                "Bytes written to the journal, with headers and padding. A faster rise means more load, or smaller groups.",
                LABELS,
            ),
            slice_written_bytes: counter(
                "stream_volume_slice_written_bytes_total",
                "Bytes written to slice files. A faster rise means more load, or slices that are rebuilt after an opening.",
                LABELS,
            ),
            refused: refused(),
            damaged_entries: counter(
                "stream_volume_damaged_ranges_total",
                "Damaged byte ranges found when the volume was opened. Any rise means lost data: see the log.",
                LABELS,
            ),
            queue_bytes: gauge(
                "stream_volume_queue_bytes",
                "Bytes of batches that wait for their commit group. A rise means the disk is slower than the clients; at 64 MiB batches are refused.",
            ),
            journal_bytes: gauge(
                "stream_volume_journal_bytes",
                "Bytes of journal segments in use. A rise means that slices are not uploaded; at the limit batches are refused.",
            ),
            slice_bytes: gauge(
                "stream_volume_slice_bytes",
                "Bytes of slices that are not released. A rise means that uploads are behind the clients.",
            ),
            ballast_bytes: gauge(
                "stream_volume_ballast_bytes",
                "Bytes of the files that are kept for opening and sealing on a full disk. A fall means that the disk was so full that they were needed.",
            ),
            limit_bytes: gauge(
                "stream_volume_limit_bytes",
                "The most that journal and slices may occupy together, 0 for no limit. It changes with the configuration only; batches are refused when the two come to it.",
            ),
            free_bytes: gauge(
                "stream_volume_free_bytes",
                "Free bytes of the file system. A fall means that the disk fills; below the reserve batches are refused.",
            ),
            slices: gauge(
                "stream_volume_slices",
                "Slices on the volume, open or waiting for their upload. A rise without new sinks means that uploads are behind.",
            ),
            sinks_at_limit: gauge(
                "stream_volume_sinks_at_limit",
                "Sinks that hold as much on the volume as they may. Above 0 their clients are being turned away: uploads are behind, or the limit is too low.",
            ),
            unsealed_seconds: fraction(
                "stream_volume_oldest_unsealed_seconds",
                "Age of the oldest record in a slice that still takes rows, 0 when there is none. A rise beyond the upload interval means that slices are not closed or sealed: see the coordinator and the state.",
            ),
            unreleased_seconds: fraction(
                "stream_volume_oldest_unreleased_seconds",
                "Age of the oldest record that is on this disk only, 0 when there is none. A rise beyond the upload interval means that uploads fail or are behind; with the disk these records would be lost.",
            ),
            healthy: fraction(
                "stream_volume_healthy",
                "1 while the volume takes batches, 0 when its disk fails or it is full. A fall means that its clients are turned away, or go to other volumes.",
            ),
            known_keys: known_keys(),
            keys: keys(),
            key_window_seconds: key_window(),
        }
    }
}

fn known_keys() -> IntCounterVec {
    counter(
        "stream_volume_known_keys_total",
        "Idempotency keys that came again and were answered from memory. A rise means that clients repeat requests: look for timeouts.",
        LABELS,
    )
}

fn keys() -> IntGaugeVec {
    gauge(
        "stream_volume_keys",
        "Idempotency keys that are remembered. A rise means more records with keys; at maxKeys the oldest are forgotten.",
    )
}

fn refused() -> IntCounterVec {
    counter(
        "stream_volume_refused_batches_total",
        "Batches that were not written, by reason. disk_full, volume_full, sink_full and overloaded mean that clients are being turned away, write_failed that the disk fails.",
        &["volume", "reason"],
    )
}

fn key_window() -> GaugeVec {
    fraction(
        "stream_volume_key_window_seconds",
        "For how long at least idempotency keys are remembered. A fall below the configured window means that there are more keys than maxKeys, or that some were lost: see the log.",
    )
}

const VALID: &str = "names and labels are constants in this file";

fn histogram(name: &str, help: &str, buckets: Vec<f64>) -> HistogramVec {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), LABELS).expect(VALID)
}

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect(VALID)
}

fn gauge(name: &str, help: &str) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name, help), LABELS).expect(VALID)
}

/// A gauge that is no whole number.
fn fraction(name: &str, help: &str) -> GaugeVec {
    GaugeVec::new(Opts::new(name, help), LABELS).expect(VALID)
}
