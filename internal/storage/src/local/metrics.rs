//! What a volume tells about itself.

use std::time::Duration;

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
    pub(super) free_bytes: IntGaugeVec,
    pub(super) slices: IntGaugeVec,
    pub(super) healthy: GaugeVec,
}

/// The metrics of one volume.
#[derive(Debug)]
pub(super) struct VolumeMetrics {
    label: String,
    all: Metrics,
}

impl VolumeMetrics {
    pub fn new(label: String, all: Metrics) -> Self {
        let metrics = Self { label, all };
        metrics.healthy(true);
        metrics
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

    pub fn observe(&self, journal_bytes: u64, slices: usize, free_bytes: u64, queue_bytes: usize) {
        let labels = [self.label.as_str()];
        let set = |gauge: &IntGaugeVec, value: u64| {
            gauge
                .with_label_values(&labels)
                .set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.all.journal_bytes, journal_bytes);
        set(&self.all.slices, slices as u64);
        set(&self.all.free_bytes, free_bytes);
        set(&self.all.queue_bytes, queue_bytes as u64);
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
        registry.register(Box::new(metrics.sync_seconds.clone()))?;
        registry.register(Box::new(metrics.group_entries.clone()))?;
        registry.register(Box::new(metrics.journal_written_bytes.clone()))?;
        registry.register(Box::new(metrics.slice_written_bytes.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.damaged_entries.clone()))?;
        registry.register(Box::new(metrics.queue_bytes.clone()))?;
        registry.register(Box::new(metrics.journal_bytes.clone()))?;
        registry.register(Box::new(metrics.free_bytes.clone()))?;
        registry.register(Box::new(metrics.slices.clone()))?;
        registry.register(Box::new(metrics.healthy.clone()))?;
        Ok(metrics)
    }

    fn build() -> Self {
        const VALID: &str = "names and labels are constants in this file";
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), LABELS).expect(VALID)
        };
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect(VALID)
        };
        let gauge =
            |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), LABELS).expect(VALID);
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
                "Bytes written to the journal, with headers and padding.",
                LABELS,
            ),
            slice_written_bytes: counter(
                "stream_volume_slice_written_bytes_total",
                "Bytes written to slice files.",
                LABELS,
            ),
            refused: counter(
                "stream_volume_refused_batches_total",
                "Batches that were not written, by reason. disk_full and overloaded mean that clients are being turned away.",
                &["volume", "reason"],
            ),
            damaged_entries: counter(
                "stream_volume_damaged_ranges_total",
                "Damaged byte ranges found when the volume was opened. Any rise means lost data: see the log.",
                LABELS,
            ),
            queue_bytes: gauge(
                "stream_volume_queue_bytes",
                "Bytes of batches that wait for their commit group. A rise means the disk is slower than the clients.",
            ),
            journal_bytes: gauge(
                "stream_volume_journal_bytes",
                "Bytes of journal segments in use. A rise means that slices are not uploaded; at the limit batches are refused.",
            ),
            free_bytes: gauge(
                "stream_volume_free_bytes",
                "Free bytes of the file system. Below the reserve batches are refused.",
            ),
            slices: gauge(
                "stream_volume_slices",
                "Slices on the volume, open or waiting for their upload.",
            ),
            healthy: GaugeVec::new(
                Opts::new(
                    "stream_volume_healthy",
                    "1 while the volume takes batches, 0 when it failed or is full.",
                ),
                LABELS,
            )
            .expect(VALID),
        }
    }
}
