//! What is counted. Nothing here is labelled by source: there may be many, and their number is not bounded by us.

use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    exponential_buckets,
};

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
    /// Records with a key that were found here to be there before.
    pub repetitions: IntCounter,
    /// Records of sources that name a path for keys, and that have none there.
    pub unkeyed_records: IntCounter,
    /// Records that were answered under the class `memory` and could not be written.
    pub lost_records: IntCounter,
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
            lost_records: register(
                registry,
                IntCounter::new(
                    "stream_http_source_lost_records_total",
                    "Records accepted under durability memory that were not written. A rise: a volume is away or full.",
                )?,
            )?,
            repetitions: register(
                registry,
                IntCounter::new(
                    "stream_http_source_repetitions_total",
                    "Records whose idempotency key had been used a moment before, answered without the volume. A rise: clients repeat requests.",
                )?,
            )?,
            unkeyed_records: register(
                registry,
                IntCounter::new(
                    "stream_http_source_unkeyed_records_total",
                    "Records without a key at the path that their source names; their repetitions are not noticed. A rise: look at idempotency.keyPath.",
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
