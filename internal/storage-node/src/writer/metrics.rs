//! Metrics of the storage-writer beside those of the volumes themselves.

use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};

#[derive(Clone)]
pub(crate) struct Metrics {
    sealed: IntCounter,
    sealed_rows: IntCounter,
    orphans: IntGaugeVec,
    pub(crate) crossed: IntCounter,
    pub(crate) key_takeovers: IntCounter,
    pub(crate) crossed_waiting: prometheus::IntGauge,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            sealed: IntCounter::new(
                "stream_writer_sealed_slices_total",
                "Slices sealed and recorded. No rise under load means that nothing reaches staging.",
            )?,
            sealed_rows: IntCounter::new(
                "stream_writer_sealed_rows_total",
                "Rows in sealed slices. A faster rise means more load, no rise under load that nothing reaches staging.",
            )?,
            orphans: IntGaugeVec::new(
                Opts::new(
                    "stream_writer_orphan_slices",
                    "Slices on a volume that have no record in the state. A rise means that the state was lost or went back; they are kept, a person should look.",
                ),
                &["volume"],
            )?,
            crossed: IntCounter::new(
                "stream_writer_crossed_slices_total",
                "Slices that reached a limit of their trigger. A faster rise means more load, or limits that are too small.",
            )?,
            key_takeovers: IntCounter::new(
                "stream_writer_key_takeovers_total",
                "Times that idempotency keys of a source were taken over from a volume that is away. Repetitions of records from before are written again.",
            )?,
            crossed_waiting: prometheus::IntGauge::new(
                "stream_writer_crossed_waiting",
                "Reports of reached limits that are not recorded yet. A rise means that the state store is slow or away.",
            )?,
        };
        registry.register(Box::new(metrics.sealed.clone()))?;
        registry.register(Box::new(metrics.sealed_rows.clone()))?;
        registry.register(Box::new(metrics.orphans.clone()))?;
        registry.register(Box::new(metrics.crossed.clone()))?;
        registry.register(Box::new(metrics.key_takeovers.clone()))?;
        registry.register(Box::new(metrics.crossed_waiting.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn sealed(&self, rows: u64) {
        self.sealed.inc();
        self.sealed_rows.inc_by(rows);
    }

    pub(crate) fn orphans(&self, volume: &str, slices: usize) {
        self.orphans
            .with_label_values(&[volume])
            .set(i64::try_from(slices).unwrap_or(i64::MAX));
    }
}
