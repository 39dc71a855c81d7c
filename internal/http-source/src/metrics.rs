//! What is counted of the whole component. What is counted of each source is in `source_metrics`.

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
    /// Requests that are not answered yet.
    pub in_flight_requests: IntGauge,
    /// The most of them.
    pub in_flight_limit_requests: IntGauge,
    /// Records per committed batch.
    pub batch_records: Histogram,
    /// Lanes with a task.
    pub lanes: IntGauge,
    /// Records whose requests were told that the outcome is unknown.
    pub unknown_outcomes: IntCounter,
    /// Records that sinks reject.
    pub rejects: Rejects,
    /// Records with a key that were found here to be there before.
    pub repetitions: IntCounter,
    /// Records of sources that name a path for keys, and that have none there.
    pub unkeyed_records: IntCounter,
    /// Records that were answered under the class `memory` and could not be written.
    pub lost_records: IntCounter,
    /// Evaluation of templates.
    pub templates: TemplateMetrics,
}

/// What is counted about the evaluation of templates.
#[derive(Clone)]
pub(crate) struct TemplateMetrics {
    /// Evaluated records, counted once for each mapping.
    pub records: IntCounter,
    /// Records that were refused because they exceeded a limit.
    pub overruns: IntCounter,
    /// Evaluators that were started.
    pub started: IntCounter,
    /// Evaluators at work.
    pub evaluators: IntGauge,
    /// Records that wait for an evaluator.
    pub waiting: IntGauge,
}

impl TemplateMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help| register(registry, IntCounter::new(name, help)?);
        let gauge = |name, help| register(registry, IntGauge::new(name, help)?);
        Ok(Self {
            records: counter(
                "stream_http_source_template_records_total",
                "Records evaluated by templates, once for each sink with such templates. A faster rise means more load.",
            )?,
            overruns: counter(
                "stream_http_source_template_overruns_total",
                "Records refused because a template took too long or too much memory. A rise: a template needs correction.",
            )?,
            started: counter(
                "stream_http_source_template_evaluators_started_total",
                "Evaluator processes started. It rises with the overruns, and after pauses; otherwise something kills them.",
            )?,
            evaluators: gauge(
                "stream_http_source_template_evaluators_busy",
                "Evaluator processes at work. At its limit (source.http.jsonnet.workers) records begin to wait.",
            )?,
            waiting: gauge(
                "stream_http_source_template_waiting_records",
                "Records that wait for an evaluator. A rise: templates are slower than the clients.",
            )?,
        })
    }
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
        let counter = |name, help| register(registry, IntCounter::new(name, help)?);
        let gauge = |name, help| register(registry, IntGauge::new(name, help)?);
        Ok(Arc::new(Self {
            requests: CLASSES.map(|class| requests.with_label_values(&[class])),
            records: counter(
"stream_http_source_records_total",
"Records taken into batches. A faster rise means more load.",
)?,
            bytes: counter(
"stream_http_source_body_bytes_total",
"Bytes of the bodies of these records. A faster rise means more load.",
)?,
            in_flight_bytes: gauge(
"stream_http_source_in_flight_bytes",
"Memory held by requests that are not answered yet. A rise means that the disk is slower than the clients; at its limit new requests get 503.",
)?,
            in_flight_limit_bytes: gauge(
"stream_http_source_in_flight_limit_bytes",
"What requests that are not answered yet may hold. It changes with the configuration only.",
)?,
            in_flight_requests: gauge(
"stream_http_source_in_flight_requests",
"Requests that are not answered yet. A rise means that the disk is slower than the clients, or clients are slow; at its limit new requests get 503.",
)?,
            in_flight_limit_requests: gauge(
"stream_http_source_in_flight_limit_requests",
"The most requests that may wait for their answers. It changes with the configuration only.",
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
            lanes: gauge(
"stream_http_source_lanes",
"Pairs of a source and a volume that records can take. A rise means more sources or volumes.",
)?,
            rejects: Rejects::register(registry)?,
            templates: TemplateMetrics::register(registry)?,
            lost_records: counter(
"stream_http_source_lost_records_total",
"Records accepted under durability memory that were not written. A rise: a volume is away or full.",
)?,
            repetitions: counter(
"stream_http_source_repetitions_total",
"Records whose idempotency key had been used a moment before, answered without the volume. A rise: clients repeat requests.",
)?,
            unkeyed_records: counter(
"stream_http_source_unkeyed_records_total",
"Records without a key at the path that their source names; their repetitions are not noticed. A rise: look at idempotency.keyPath.",
)?,
            unknown_outcomes: counter(
"stream_http_source_unknown_outcomes_total",
"Records of which the sender could not be told in time whether they were written. A rise: a volume is away.",
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
