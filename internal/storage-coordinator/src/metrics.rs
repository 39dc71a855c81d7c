//! Metrics of the coordinator. Those of the rounds are the reconcilers' own.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

pub(crate) struct Metrics {
    files: IntCounterVec,
    rows: IntCounter,
    seconds: Histogram,
    pub(crate) running: IntGauge,
    rejects_removed: IntCounterVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let files = IntCounterVec::new(
            Opts::new(
                "stream_import_files_total",
                "Imports by result. A rise of failed ones means that rows are held back in staging.",
            ),
            &["result"],
        )?;
        let rows = IntCounter::new("stream_import_rows_total", "Rows imported into tables.")?;
        let seconds = Histogram::with_opts(
            HistogramOpts::new(
                "stream_import_seconds",
                "Time of a successful import. A rise means larger files or a slower target.",
            )
            .buckets(vec![0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0]),
        )?;
        let running = IntGauge::new(
            "stream_import_running",
            "Imports under way. At the limit for long: imports are the bottleneck.",
        )?;
        let rejects_removed = IntCounterVec::new(
            Opts::new(
                "stream_rejects_removed_records_total",
                "Rejected records that are not kept any more, by the reason. A rise of number: a sink rejects so much that records go before their time.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(rejects_removed.clone()))?;
        registry.register(Box::new(files.clone()))?;
        registry.register(Box::new(rows.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(running.clone()))?;
        Ok(Self {
            files,
            rows,
            seconds,
            running,
            rejects_removed,
        })
    }

    pub(crate) fn imported(&self, rows: u64, elapsed: Duration) {
        self.files.with_label_values(&["ok"]).inc();
        self.rows.inc_by(rows);
        self.seconds.observe(elapsed.as_secs_f64());
    }

    pub(crate) fn rejects_removed(&self, reason: &str, records: u64) {
        self.rejects_removed
            .with_label_values(&[reason])
            .inc_by(records);
    }

    pub(crate) fn import_failed(&self) {
        self.files.with_label_values(&["failed"]).inc();
    }
}
