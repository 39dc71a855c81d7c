//! What is counted. Nothing here is labelled by source: there may be many, and their number is not bounded by us.

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};

use crate::batch::Kept;

/// The metrics of the component.
pub(crate) struct Metrics {
    requests: [IntCounter; 6],
    /// Records that were taken into a batch.
    pub records: IntCounter,
    /// Bytes of their bodies.
    pub bytes: IntCounter,
    /// Share of the memory budget that is in use.
    pub in_flight_bytes: IntGauge,
    /// The memory budget.
    pub in_flight_limit_bytes: IntGauge,
    /// Records per committed batch.
    pub batch_records: Histogram,
    /// Lanes with a task.
    pub lanes: IntGauge,
    /// Records whose requests were told that the outcome is unknown.
    pub unknown_outcomes: IntCounter,
    /// Records that sinks reject.
    pub rejects: Rejects,
    /// Records that were answered under the class `memory` and could not be written.
    pub lost_records: IntCounter,
}

/// What is counted of rejected records, once for each sink that refuses them.
pub(crate) struct Rejects {
    /// Those that are kept.
    pub kept: IntCounter,
    /// Bytes of their rows.
    pub kept_bytes: IntCounter,
    /// Those that are not, because the sink had no slice for them.
    pub unkept: IntCounter,
}

impl Rejects {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help)?);
        Ok(Self {
            kept: counter(
                "stream_http_source_kept_rejects_total",
                "Rejected records that are kept, counted for each sink that refuses them. A rise: senders and mappings do not fit.",
            )?,
            kept_bytes: counter(
                "stream_http_source_kept_reject_bytes_total",
                "Bytes of the rows of rejected records before compression. A faster rise costs staging space for storage.rejects.retention.",
            )?,
            unkept: counter(
                "stream_http_source_unkept_rejects_total",
                "Rejected records that are not kept, because no slice for them was open. Above 0 for longer than a moment: no coordinator runs.",
            )?,
        })
    }

    /// Counts those of a committed batch.
    pub fn count(&self, kept: Kept) {
        self.kept.inc_by(kept.records);
        self.kept_bytes.inc_by(kept.bytes);
    }
}

const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When the names are registered already.
    pub fn register(registry: &Registry) -> Result<Arc<Self>, prometheus::Error> {
        let requests = register(
            registry,
            IntCounterVec::new(
                Opts::new(
                    "stream_http_source_requests_total",
                    "Answered requests by status class. A rise of 5xx: volumes are away or full.",
                ),
                &["class"],
            )?,
        )?;
        Ok(Arc::new(Self {
            requests: CLASSES.map(|class| requests.with_label_values(&[class])),
            records: register(
                registry,
                IntCounter::new("stream_http_source_records_total", "Records taken into batches. A faster rise means more load.")?,
            )?,
            bytes: register(
                registry,
                IntCounter::new("stream_http_source_body_bytes_total", "Bytes of the bodies of these records. A faster rise means more load.")?,
            )?,
            in_flight_bytes: register(
                registry,
                IntGauge::new(
                    "stream_http_source_in_flight_bytes",
                    "Memory held by requests that are not answered yet. A rise means that the disk is slower than the clients; at its limit new requests get 503.",
                )?,
            )?,
            in_flight_limit_bytes: register(
                registry,
                IntGauge::new(
                    "stream_http_source_in_flight_limit_bytes",
                    "What requests that are not answered yet may hold. It changes with the configuration only.",
                )?,
            )?,
            batch_records: register(
                registry,
                Histogram::with_opts(
                    HistogramOpts::new(
                        "stream_http_source_batch_records",
                        "Records per committed batch. It rises with the load and with the latency of the disk.",
                    )
                    .buckets(exponential_buckets(1.0, 4.0, 8)?),
                )?,
            )?,
            lanes: register(
                registry,
                IntGauge::new("stream_http_source_lanes", "Pairs of a source and a volume that records can take. A rise means more sources or volumes.")?,
            )?,
            rejects: Rejects::register(registry)?,
            lost_records: register(
                registry,
                IntCounter::new(
                    "stream_http_source_lost_records_total",
                    "Records accepted under durability memory that were not written. A rise: a volume is away or full.",
                )?,
            )?,
            unknown_outcomes: register(
                registry,
                IntCounter::new(
                    "stream_http_source_unknown_outcomes_total",
                    "Records of which the sender could not be told in time whether they were written. A rise: a volume is away.",
                )?,
            )?,
        }))
    }

    /// Counts an answered request.
    pub fn answered(&self, status: u16) {
        let class = usize::from(status / 100);
        self.requests.get(class).unwrap_or(&self.requests[0]).inc();
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
