//! Metrics of the API.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

/// Requests and tasks.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// By endpoint, method and status. A rise of 5xx needs a look at the log.
    pub(crate) requests: IntCounterVec,
    /// By endpoint.
    pub(crate) duration: HistogramVec,
    /// Requests with tokens that are not good, by whether they were looked at.
    pub(crate) failures: IntCounterVec,
    /// Clients that have failed lately.
    pub(crate) failing_clients: IntGauge,
    /// Tasks that run or wait for their turn.
    pub(crate) tasks_unfinished: IntGauge,
    /// By type and outcome.
    pub(crate) tasks: IntCounterVec,
    /// Tokens of projects, by outcome.
    pub(crate) verifications: IntCounterVec,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "stream_api_requests_total",
                    "Answered requests. A rise of status 503 means that the state store is away, of 500 a fault.",
                ),
                &["endpoint", "method", "status"],
            )?,
            duration: HistogramVec::new(
                HistogramOpts::new(
                    "stream_api_request_duration_seconds",
                    "Time to answer a request. A rise means that the state store has become slow.",
                )
                .buckets(vec![0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0]),
                &["endpoint"],
            )?,
            failures: IntCounterVec::new(
                Opts::new(
                    "stream_api_authentication_failures_total",
                    "Requests with tokens that are not good: refused, or limited because too many came from their client. A rise means that somebody tries tokens, or uses one that was revoked.",
                ),
                &["outcome"],
            )?,
            failing_clients: IntGauge::with_opts(Opts::new(
                "stream_api_failing_clients",
                "Clients that have failed to authenticate lately. A rise means that somebody tries tokens from many addresses.",
            ))?,
            tasks_unfinished: IntGauge::with_opts(Opts::new(
                "stream_api_tasks_unfinished",
                "Tasks that run or wait for the one before them. A lasting rise means that a target is slow.",
            ))?,
            tasks: IntCounterVec::new(
                Opts::new(
                    "stream_api_tasks_total",
                    "Finished tasks. A rise of errors means that changes are accepted and then fail; see the tasks.",
                ),
                &["type", "status"],
            )?,
            verifications: IntCounterVec::new(
                Opts::new(
                    "stream_api_token_verifications_total",
                    "Tokens that the Storage API was asked about: valid, refused, failed. A rise of failed means that it is away.",
                ),
                &["outcome"],
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        registry.register(Box::new(metrics.failing_clients.clone()))?;
        registry.register(Box::new(metrics.tasks_unfinished.clone()))?;
        registry.register(Box::new(metrics.tasks.clone()))?;
        registry.register(Box::new(metrics.verifications.clone()))?;
        Ok(metrics)
    }
}
