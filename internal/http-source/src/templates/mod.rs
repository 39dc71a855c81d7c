//! Evaluates the templates of mappings in helper processes.
//!
//! ```text
//! dispatch, lane ──submit──▶ lines (one per mapping) ──a few records of the neediest──▶ worker task ◀──▶ evaluator process
//!        ▲                                                                                 │
//!        └────────────────────────────── values, or why there are none ────────────────────┘
//! ```
//!
//! A worker task has one evaluator process, which it starts when there is work and gives up when there is none for a while:
//! without such templates there is neither. Evaluating has no side effects, so a record whose evaluator was ended is
//! simply evaluated again, unless it is the one that was being worked on.
//!
//! Invariants:
//!
//! * every record is answered: with its values, with a refusal that is its own fault, or with a failure of the service;
//! * a refusal (422) is only for a record that was evaluated: it took too long, or its evaluator died under it twice;
//! * mappings share the evaluators by time, not by records (`lines`), and one that keeps exceeding its limits has to rest
//!   (`overruns`), so none starves the others;
//! * memory for waiting records is that of their requests (`crate::admission`).
//!
//! The module refuses to map: it only delivers values for [`stream_encoding::CompiledMapping::map_with`].

mod lines;
mod overruns;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stream_encoding::MapError;
use stream_encoding::jsonnet::{TemplateValues, Templates};
use stream_model::SourceKey;
use stream_node::Helpers;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::lines::{Job, Lines};
use crate::completion::Failure;
use crate::lanes::Spawn;
use crate::mapper::Received;
use crate::metrics::TemplateMetrics;
use crate::route::Plan;

/// How long a record waits for an evaluator before its request is refused.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// What became of a record in the templates of one mapping: values or a refusal; or nobody could evaluate them.
pub(crate) type Outcome = Result<Result<TemplateValues, MapError>, Failure>;

/// What evaluating may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Evaluators at the same time, at least 1.
    pub workers: usize,
    /// CPU time for one record.
    pub time: Duration,
    /// The most bytes of a row.
    pub row: usize,
}

/// The evaluators of the process. Clones are handles of the same.
#[derive(Clone)]
pub(crate) struct Evaluators(Arc<Shared>);

struct Shared {
    helpers: Helpers,
    limits: Limits,
    lines: Mutex<Lines>,
    work: Notify,
    metrics: TemplateMetrics,
    spawn: Spawn,
    stop: CancellationToken,
}

/// What templates made of one record, for each set of templates by its id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evaluated(Arc<[(u64, Outcome)]>);

impl Evaluated {
    /// What the templates with that id made of the record.
    pub fn of(&self, id: u64) -> Option<&Outcome> {
        self.0
            .iter()
            .find(|(own, _)| *own == id)
            .map(|(_, outcome)| outcome)
    }

    /// Whether all templates of the plan were evaluated, or tried to.
    pub fn covers(&self, plan: &Plan) -> bool {
        plan.templates()
            .all(|templates| self.of(templates.id()).is_some())
    }

    /// Why templates of the plan could not be evaluated.
    pub fn failure(&self, plan: &Plan) -> Option<Failure> {
        let mut outcomes = plan
            .templates()
            .filter_map(|templates| self.of(templates.id()));
        outcomes.find_map(|outcome| outcome.as_ref().err().copied())
    }

    /// Bytes of all values.
    pub fn bytes(&self) -> usize {
        let values = self
            .0
            .iter()
            .filter_map(|(_, outcome)| outcome.as_ref().ok()?.as_ref().ok());
        values.map(TemplateValues::len).sum()
    }
}

/// A record that is being evaluated.
#[must_use = "whoever submits a record should take its values"]
pub(crate) struct Pending {
    submitted: Vec<(u64, Result<oneshot::Receiver<Outcome>, Failure>)>,
    give_up: Instant,
}

impl Pending {
    /// Waits for the values.
    ///
    /// # Cancel safety
    /// A cancelled call gives the values up; what has not begun is not evaluated.
    pub async fn evaluated(self) -> Evaluated {
        let mut outcomes = Vec::with_capacity(self.submitted.len());
        for (id, submitted) in self.submitted {
            let outcome = match submitted {
                Err(failure) => Err(failure),
                Ok(answer) => match tokio::time::timeout_at(self.give_up, answer).await {
                    Ok(Ok(outcome)) => outcome,
                    // The worker is gone: the process is stopping.
                    Ok(Err(_)) => Err(Failure::Shutdown),
                    Err(_) => Err(Failure::TemplatesBusy),
                },
            };
            outcomes.push((id, outcome));
        }
        Evaluated(outcomes.into())
    }
}

impl Evaluators {
    /// No evaluator yet. Worker tasks are started with `spawn` and end after `stop`, when nothing waits any more.
    pub fn new(
        helpers: Helpers,
        limits: Limits,
        metrics: TemplateMetrics,
        spawn: Spawn,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Shared {
            helpers,
            limits,
            lines: Mutex::default(),
            work: Notify::new(),
            metrics,
            spawn,
            stop,
        }))
    }

    /// Has a record evaluated by all templates of a plan that it was not evaluated by yet. It must be prepared for the plan.
    pub fn submit(&self, source: &SourceKey, plan: &Plan, received: &Received) -> Pending {
        let mut submitted = Vec::new();
        for sink in &plan.sinks {
            let Some(templates) = sink.mapping.templates() else {
                continue;
            };
            let known = received
                .evaluated
                .as_ref()
                .and_then(|known| known.of(templates.id()));
            let answer = match known {
                Some(outcome) => {
                    let (sender, answer) = oneshot::channel();
                    let _ = sender.send(outcome.clone());
                    Ok(answer)
                }
                None => self.ask(templates, received, || format!("{source}/{}", sink.sink)),
            };
            submitted.push((templates.id(), answer));
        }
        let give_up = Instant::now() + MAX_WAIT;
        Pending { submitted, give_up }
    }

    fn ask(
        &self,
        templates: &Arc<Templates>,
        received: &Received,
        sink: impl FnOnce() -> String,
    ) -> Result<oneshot::Receiver<Outcome>, Failure> {
        let (sender, answer) = oneshot::channel();
        let job = Job::new(Arc::clone(templates), received.record.clone(), sender);
        let mut lines = self.0.lines.lock();
        lines.push(job, sink, Instant::now())?;
        self.0.metrics.waiting.set(lines.waiting_gauge());
        let hire = lines.hire(self.0.limits.workers);
        drop(lines);
        self.0.work.notify_one();
        if hire {
            let worker = worker::run(Arc::clone(&self.0));
            (self.0.spawn)(Box::pin(worker));
        }
        Ok(answer)
    }
}
