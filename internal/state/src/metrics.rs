//! What the state costs and how it does, for Prometheus.

use std::time::Duration;

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, PullingGauge, Registry,
};
use tokio::time::Instant;

use crate::error::StateError;
use crate::mirror::Mirror;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Reads one key.
    Read,
    /// Reads a page of a list.
    List,
    /// A transaction.
    Write,
    /// Grants, prolongs or ends a lease, or writes under it.
    Lease,
    /// Opens a watch.
    Watch,
}

impl Operation {
    const ALL: [Self; 5] = [
        Self::Read,
        Self::List,
        Self::Write,
        Self::Lease,
        Self::Watch,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::List => "list",
            Self::Write => "write",
            Self::Lease => "lease",
            Self::Watch => "watch",
        }
    }
}

/// Counts the requests of a [`crate::Store`]. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    seconds: HistogramVec,
    failures: IntCounterVec,
    bytes: IntCounter,
    pub(crate) conflicts: IntCounter,
    pub(crate) relists: IntCounter,
    pub(crate) leases_lost: IntCounter,
}

impl Metrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self::new()?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        for counter in [
            &metrics.bytes,
            &metrics.conflicts,
            &metrics.relists,
            &metrics.leases_lost,
        ] {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(metrics)
    }

    fn new() -> Result<Self, prometheus::Error> {
        let seconds = HistogramOpts::new(
            "stream_state_request_seconds",
            "Time of an answer of the state store, by operation. A rise: its disk or the network to it is slow, and changes of \
             slices and files take longer; records are not held up by it",
        );
        let buckets = prometheus::exponential_buckets(0.0005, 2.0, 14)?;
        let metrics = Self {
            seconds: HistogramVec::new(seconds.buckets(buckets), &["operation"])?,
            failures: IntCounterVec::new(
                Opts::new(
                    "stream_state_request_failures_total",
                    "Requests that the state store did not answer, or refused. A rise: it is away, overloaded or without quorum",
                ),
                &["operation"],
            )?,
            bytes: IntCounter::new(
                "stream_state_written_bytes_total",
                "Bytes of keys and values written in transactions. A steep rise: something is rewritten all the time",
            )?,
            conflicts: IntCounter::new(
                "stream_state_conflicts_total",
                "Transactions that somebody else was faster than. A few are normal with several coordinators; a rise: they work \
                 on the same things",
            )?,
            relists: IntCounter::new(
                "stream_state_mirror_relists_total",
                "Times the mirror was read anew in whole, because the changes since were compacted. A rise: the process or its \
                 connection is too slow to follow, or etcd is compacted very often",
            )?,
            leases_lost: IntCounter::new(
                "stream_state_leases_lost_total",
                "Times the lease of this process ended without being given back. A rise: the process is paused or cut off for \
                 longer than the time to live, and others believe it dead meanwhile",
            )?,
        };
        for operation in Operation::ALL {
            metrics.seconds.with_label_values(&[operation.as_str()]);
            metrics.failures.with_label_values(&[operation.as_str()]);
        }
        Ok(metrics)
    }

    pub(crate) fn wrote(&self, bytes: usize) {
        self.bytes.inc_by(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(crate) fn answered<T>(
        &self,
        operation: Operation,
        asked: Instant,
        answer: &Result<T, StateError>,
    ) {
        let operation = [operation.as_str()];
        match answer {
            Ok(_) => self
                .seconds
                .with_label_values(&operation)
                .observe(asked.elapsed().as_secs_f64()),
            Err(_) => self.failures.with_label_values(&operation).inc(),
        }
    }
}

impl Default for Metrics {
    /// Metrics that nobody reads.
    fn default() -> Self {
        Self::new().expect("the names and buckets are constant and valid")
    }
}

impl Mirror {
    /// Shows how old the picture is and how much is in it.
    ///
    /// # Errors
    /// When it is shown already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let show = |name, help, value: fn(&Self) -> f64| {
            let mirror = self.clone();
            let gauge = PullingGauge::new(name, help, Box::new(move || value(&mirror)))?;
            registry.register(Box::new(gauge))
        };
        show(
            "stream_state_age_seconds",
            "Time since the state store was heard last, at most 5 s while it is there. A rise: it is away, and nothing is rotated, \
             sealed or imported",
            |mirror| seconds(mirror.staleness()),
        )?;
        show(
            "stream_state_mirror_revision",
            "Revision of the newest change that this process has seen. One that stands still while that of others rises: this \
             process does not see what they do",
            |mirror| number(mirror.revision()),
        )?;
        show(
            "stream_state_mirror_slices",
            "Slices that are not cleaned up. A rise: uploads, imports or the clean-up do not keep up",
            |mirror| count(mirror.read(crate::Topology::count_slices)),
        )?;
        show(
            "stream_state_mirror_unreadable",
            "Values in the state that this version cannot read. Above 0: see the log for the keys; their sources stand still",
            |mirror| count(mirror.read(crate::Topology::count_unreadable)),
        )
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn number(value: i64) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
fn count(value: usize) -> f64 {
    value as f64
}
