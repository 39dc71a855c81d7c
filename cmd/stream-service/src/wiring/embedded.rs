//! The figures of the embedded state store, for Prometheus: that crate knows nothing of it.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Registry};
use stream_etcd_embedded::{Observer, Stats};

type Read = fn(&Stats) -> f64;

/// Name, help and value of what can rise and fall.
const GAUGES: &[(&str, &str, Read)] = &[
    (
        "stream_embedded_state_keys",
        "Keys in the embedded state store. A rise: more sinks, or slices and files that are not cleaned up",
        |stats| count(stats.live_keys),
    ),
    (
        "stream_embedded_state_history_bytes",
        "Memory of changes that are kept for those who follow late. Levels off by itself",
        |stats| count(stats.history_bytes),
    ),
    (
        "stream_embedded_state_database_bytes",
        "Length of the database file. Space of removed keys is used again; the file does not shrink by itself",
        |stats| whole(stats.database_bytes),
    ),
    (
        "stream_embedded_state_ballast_bytes",
        "Length of the file that is kept for a full disk. A fall to 0: the disk was so full that it was given up",
        |stats| whole(stats.ballast_bytes),
    ),
    (
        "stream_embedded_state_watchers",
        "Those who follow the changes. A steady rise: connections are not closed",
        |stats| count(stats.watchers),
    ),
    (
        "stream_embedded_state_leases",
        "Leases that live. A steady rise: processes come and go",
        |stats| count(stats.leases),
    ),
    (
        "stream_embedded_state_waiting_bytes",
        "Requests that wait for the disk. Near 32 MiB callers wait: the disk is too slow",
        |stats| count(stats.waiting_bytes),
    ),
    (
        "stream_embedded_state_longest_commit_seconds",
        "The slowest commit since the start. A rise: the disk has stalled",
        |stats| stats.longest_commit.as_secs_f64(),
    ),
];

/// The same of what only rises.
const COUNTERS: &[(&str, &str, Read)] = &[
    (
        "stream_embedded_state_commits_total",
        "Commits, each with one sync of the disk. A faster rise: more sinks, or something is rewritten all the time",
        |stats| whole(stats.commits),
    ),
    (
        "stream_embedded_state_commit_seconds_total",
        "Time of all commits. Divided by their number: a rise means that the disk has become slow",
        |stats| stats.commit_time.as_secs_f64(),
    ),
    (
        "stream_embedded_state_requests_total",
        "Changes that commits have made durable. Divided by the commits: how many share one sync",
        |stats| whole(stats.committed_requests),
    ),
];

#[allow(clippy::cast_precision_loss, reason = "a metric is a float")]
fn count(value: usize) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss, reason = "a metric is a float")]
fn whole(value: u64) -> f64 {
    value as f64
}

/// Shows the figures of a server.
///
/// # Errors
/// When those of another one are shown already.
pub fn register(registry: &Registry, observer: Observer) -> Result<(), prometheus::Error> {
    let figures = Figures::new(observer)?;
    registry.register(Box::new(figures))
}

/// Reads the server whenever the metrics are asked for.
struct Figures {
    observer: Observer,
    gauges: Vec<(Gauge, Read)>,
    counters: Vec<(Counter, Read)>,
}

impl Figures {
    fn new(observer: Observer) -> Result<Self, prometheus::Error> {
        let gauges = GAUGES
            .iter()
            .map(|(name, help, read)| Ok((Gauge::new(*name, *help)?, *read)));
        let counters = COUNTERS
            .iter()
            .map(|(name, help, read)| Ok((Counter::new(*name, *help)?, *read)));
        Ok(Self {
            observer,
            gauges: gauges.collect::<Result<_, prometheus::Error>>()?,
            counters: counters.collect::<Result<_, prometheus::Error>>()?,
        })
    }
}

impl Collector for Figures {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = self.gauges.iter().flat_map(|(gauge, _)| gauge.desc());
        let counters = self.counters.iter().flat_map(|(counter, _)| counter.desc());
        gauges.chain(counters).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = self.observer.stats();
        let mut families = Vec::new();
        for (gauge, read) in &self.gauges {
            gauge.set(read(&stats));
            families.extend(gauge.collect());
        }
        for (counter, read) in &self.counters {
            // Only rises, so the difference is never negative.
            counter.inc_by((read(&stats) - counter.get()).max(0.0));
            families.extend(counter.collect());
        }
        families
    }
}
