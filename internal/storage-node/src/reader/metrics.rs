//! Metrics of the storage-reader.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};

pub(crate) struct Metrics {
    slices: IntCounterVec,
    bytes: IntCounter,
    seconds: Histogram,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let slices = IntCounterVec::new(
            Opts::new(
                "stream_reader_uploads_total",
                "Uploads by result. A rise of failed ones means that local disks fill.",
            ),
            &["result"],
        )?;
        let bytes = IntCounter::new(
            "stream_reader_uploaded_bytes_total",
            "Bytes uploaded to staging.",
        )?;
        let seconds = Histogram::with_opts(
            HistogramOpts::new(
                "stream_reader_upload_seconds",
                "Time of a successful upload. A rise means larger slices or slower staging.",
            )
            .buckets(vec![0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 30.0, 120.0]),
        )?;
        registry.register(Box::new(slices.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self {
            slices,
            bytes,
            seconds,
        })
    }

    pub(crate) fn uploaded(&self, bytes: u64, elapsed: Duration) {
        self.slices.with_label_values(&["ok"]).inc();
        self.bytes.inc_by(bytes);
        self.seconds.observe(elapsed.as_secs_f64());
    }

    pub(crate) fn failed(&self) {
        self.slices.with_label_values(&["failed"]).inc();
    }
}
