//! What is counted of each source.
//!
//! Labels are bounded: at most so many sources get their own, in the order in which this process has come to know them; all
//! others are counted together under the label `other`. Those of a source go when it is deleted and its last request is
//! answered, and its place is free for the next one. A source that is counted under `other` stays there until the process
//! starts again: its figures would begin in the middle.
//!
//! Branches of a project in which a source has the same id share its figures, as they share its URL.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

/// Under which all sources beyond the limit are counted. No project has such a name.
const OTHER: &str = "other";
const LABELS: [&str; 2] = ["project", "source"];
/// Upper bounds of the latencies, in seconds.
const LATENCIES: [f64; 12] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// Why requests are not accepted: names of errors, sorted.
const REASONS: [&str; 28] = [
    "badRequest",
    "bodyTooLarge",
    "disabledSource",
    "eof",
    "genericError",
    "idempotencyKeyInUse",
    "idempotencyKeyReused",
    "idempotencyKeyUnavailable",
    "insufficientStorage",
    "noEnabledSink",
    "noOpenedSliceFound",
    "noSourceFound",
    "other",
    "outcomeUnknown",
    "overloaded",
    "partiallyRejected",
    "payloadTooLarge",
    "pipelineNotReady",
    "rateLimited",
    "requestTimeout",
    "shutdown",
    "templateMemoryLimit",
    "templateTimeLimit",
    "templatesOverloaded",
    "templatesSuspended",
    "unprocessableContent",
    "unsupportedMediaType",
    "writeFailed",
];

/// The metrics of all sources.
#[derive(Debug)]
pub(crate) struct Families {
    limit: usize,
    requests: IntCounterVec,
    records: IntCounterVec,
    bytes: IntCounterVec,
    rejected: IntCounterVec,
    seconds: HistogramVec,
    in_flight: IntGaugeVec,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    sources: HashMap<Labels, Weak<SourceMetrics>>,
    other: Option<Arc<SourceMetrics>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels {
    project: String,
    source: String,
}

impl Labels {
    fn values(&self) -> [&str; 2] {
        [&self.project, &self.source]
    }
}

/// The metrics of one source, looked up once.
#[derive(Debug)]
pub(crate) struct SourceMetrics {
    requests: IntCounter,
    /// Records that some sink holds.
    pub records: IntCounter,
    /// Bytes of bodies, after decoding.
    pub bytes: IntCounter,
    rejected: [OnceLock<IntCounter>; REASONS.len()],
    seconds: Histogram,
    /// Requests that are not answered yet.
    pub in_flight: IntGauge,
    labels: Labels,
    families: Weak<Families>,
}

impl Families {
    /// Metrics in which at most `limit` sources have their own labels. Nobody sees them before [`Self::register`].
    ///
    /// # Errors
    /// When a name is not valid.
    pub fn new(limit: usize) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(format!("stream_source_{name}"), help), labels)
        };
        Ok(Self {
            limit,
            requests: counter(
                "requests_total",
                "Answered requests of a source. A faster rise means more load.",
                &LABELS,
            )?,
            records: counter(
                "records_total",
                "Records of a source that some sink holds. A faster rise means more load.",
                &LABELS,
            )?,
            bytes: counter(
                "body_bytes_total",
                "Bytes of bodies that were read for a source, after decoding. A faster rise means more load.",
                &LABELS,
            )?,
            rejected: counter(
                "rejected_requests_total",
                "Requests of a source of which not all was accepted, by the name of the error. A rise: see the reason.",
                &["project", "source", "reason"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "stream_source_request_seconds",
                    "From the head of a request to its answer. A rise: slow clients, or a disk that is slower than they are.",
                )
                .buckets(LATENCIES.to_vec()),
                &LABELS,
            )?,
            in_flight: IntGaugeVec::new(
                Opts::new(
                    "stream_source_in_flight_requests",
                    "Requests of a source that are not answered yet. A rise: its volume is slow, or its clients are.",
                ),
                &LABELS,
            )?,
            known: Mutex::default(),
        })
    }

    /// Shows them.
    ///
    /// # Errors
    /// When the names are registered already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let collectors: [Box<dyn Collector>; 6] = [
            Box::new(self.requests.clone()),
            Box::new(self.records.clone()),
            Box::new(self.bytes.clone()),
            Box::new(self.rejected.clone()),
            Box::new(self.seconds.clone()),
            Box::new(self.in_flight.clone()),
        ];
        collectors
            .into_iter()
            .try_for_each(|collector| registry.register(collector))
    }

    /// The metrics of a source, or those of all others when there are too many.
    pub fn of(self: &Arc<Self>, project: u64, source: &str) -> Arc<SourceMetrics> {
        let labels = Labels {
            project: project.to_string(),
            source: source.to_owned(),
        };
        let mut known = self.known.lock();
        if let Some(metrics) = known.sources.get(&labels).and_then(Weak::upgrade) {
            return metrics;
        }
        let is_full = known.sources.len() >= self.limit && !known.sources.contains_key(&labels);
        if is_full {
            let other = || Labels {
                project: OTHER.to_owned(),
                source: OTHER.to_owned(),
            };
            let metrics = known.other.get_or_insert_with(|| self.make(other()));
            return Arc::clone(metrics);
        }
        let metrics = self.make(labels.clone());
        known.sources.insert(labels, Arc::downgrade(&metrics));
        metrics
    }

    fn make(self: &Arc<Self>, labels: Labels) -> Arc<SourceMetrics> {
        let values = &labels.values();
        Arc::new(SourceMetrics {
            requests: self.requests.with_label_values(values),
            records: self.records.with_label_values(values),
            bytes: self.bytes.with_label_values(values),
            rejected: [const { OnceLock::new() }; REASONS.len()],
            seconds: self.seconds.with_label_values(values),
            in_flight: self.in_flight.with_label_values(values),
            families: Arc::downgrade(self),
            labels,
        })
    }

    /// Takes the labels of a source away, unless it has come back meanwhile.
    fn forget(&self, gone: &SourceMetrics) {
        let mut known = self.known.lock();
        let is_back = |metrics: &Weak<SourceMetrics>| metrics.strong_count() > 0;
        if known.sources.get(&gone.labels).is_none_or(is_back) {
            return;
        }
        known.sources.remove(&gone.labels);
        let values = gone.labels.values();
        // A family in which the source was never counted says so, which is no matter.
        let _ = self.requests.remove_label_values(&values);
        let _ = self.records.remove_label_values(&values);
        let _ = self.bytes.remove_label_values(&values);
        let _ = self.seconds.remove_label_values(&values);
        let _ = self.in_flight.remove_label_values(&values);
        for (reason, counter) in REASONS.iter().zip(&gone.rejected) {
            if counter.get().is_some() {
                let _ = self
                    .rejected
                    .remove_label_values(&[values[0], values[1], reason]);
            }
        }
    }
}

impl SourceMetrics {
    /// Counts an answered request.
    pub fn answered(&self, elapsed: Duration) {
        self.requests.inc();
        self.seconds.observe(elapsed.as_secs_f64());
    }

    /// Counts a request of which not all was accepted, by the name of its error without the prefix.
    pub fn rejected(&self, reason: &str) {
        let other = || REASONS.binary_search(&OTHER).unwrap_or_default();
        let position = REASONS.binary_search(&reason).unwrap_or_else(|_| other());
        let Some(families) = self.families.upgrade() else {
            return;
        };
        let counter = self.rejected[position].get_or_init(|| {
            let [project, source] = self.labels.values();
            let values = [project, source, REASONS[position]];
            families.rejected.with_label_values(&values)
        });
        counter.inc();
    }
}

impl Drop for SourceMetrics {
    fn drop(&mut self) {
        if let Some(families) = self.families.upgrade() {
            families.forget(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(registry: &Registry) -> String {
        let mut text = String::new();
        let encoder = prometheus::TextEncoder::new();
        encoder
            .encode_utf8(&registry.gather(), &mut text)
            .expect("text");
        text
    }

    fn families(limit: usize) -> (Arc<Families>, Registry) {
        let (families, registry) = (Families::new(limit).expect("valid"), Registry::new());
        families.register(&registry).expect("registered");
        (Arc::new(families), registry)
    }

    #[test]
    fn reasons_are_sorted_and_unknown_ones_are_other() {
        assert!(REASONS.is_sorted());
        let (families, registry) = families(1);
        let orders = families.of(1, "orders");
        orders.rejected("rateLimited");
        orders.rejected("neverHeardOf");
        let text = shown(&registry);
        for reason in ["rateLimited", "other"] {
            let line = format!(
                "stream_source_rejected_requests_total{{project=\"1\",reason=\"{reason}\",source=\"orders\"}} 1"
            );
            assert!(text.contains(&line), "{text}");
        }
    }

    #[test]
    fn sources_beyond_the_limit_are_counted_together() {
        let (families, registry) = families(2);
        let held: Vec<_> = (0..5).map(|id| families.of(id, "orders")).collect();
        held.iter().for_each(|source| source.records.inc());
        let text = shown(&registry);
        assert!(text.contains("stream_source_records_total{project=\"1\",source=\"orders\"} 1"));
        assert!(!text.contains("project=\"2\""), "{text}");
        assert!(text.contains("stream_source_records_total{project=\"other\",source=\"other\"} 3"));
    }

    #[test]
    fn a_deleted_source_leaves_nothing_and_makes_room() {
        let (families, registry) = families(1);
        let orders = families.of(1, "orders");
        // Another branch with the same source.
        let same = families.of(1, "orders");
        orders.answered(Duration::from_millis(1));
        orders.rejected("overloaded");
        drop(orders);
        assert!(shown(&registry).contains("source=\"orders\""));
        drop(same);
        let text = shown(&registry);
        assert!(!text.contains("orders"), "{text}");
        let _next = families.of(1, "events");
        assert!(shown(&registry).contains("source=\"events\""));
    }

    #[test]
    fn a_source_that_comes_back_while_the_old_one_goes_is_kept() {
        let (families, registry) = families(1);
        let orders = families.of(1, "orders");
        // The last handle is being dropped: nobody can get it any more, and its end is still to come.
        let gone = Arc::into_inner(orders).expect("the only one");
        let back = families.of(1, "orders");
        drop(gone);
        back.records.inc();
        let line = "stream_source_records_total{project=\"1\",source=\"orders\"} 1";
        assert!(shown(&registry).contains(line));
    }
}
