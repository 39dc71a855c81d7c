//! Tasks: changes that run in the background, one at a time per entity and in the order of their requests.
//!
//! The record of a task is stored before its work begins and finished after it, so that whoever was answered 202 can
//! learn the outcome from any API process. The work itself is in this process only: a crash leaves the record unfinished,
//! see `orphan`.
//!
//! Between API processes the order is kept by a lock per entity in the state. What a task writes is guarded by that lock: a
//! process that was paused for so long that another one went on changes nothing any more.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use stream_model::{Clock, NodeId, SinkKey, SourceKey, Timestamp};
use stream_node::{OnError, Tasks};
use stream_state::{Lease, Lock, Outputs, StateError, Store, Task, TaskStatus, Versioned};
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::error::{ApiError, Code};
use crate::metrics::Metrics;
use crate::purge::Discarded;
use crate::token::random_text;

/// How long the work of a task may take.
pub(crate) const TASK_LIMIT: Duration = Duration::from_secs(5 * 60);
/// The pause before the outcome is stored again when the state store was away, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What a task is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entity {
    Source(SourceKey),
    Sink(SinkKey),
}

impl std::fmt::Display for Entity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.queue())
    }
}

impl Entity {
    fn source(&self) -> &SourceKey {
        match self {
            Self::Source(source) => source,
            Self::Sink(sink) => &sink.source,
        }
    }

    /// The middle of the task's id.
    fn path(&self) -> String {
        let source = self.source();
        match self {
            Self::Source(_) => format!("{}/{}", source.branch.branch, source.source),
            Self::Sink(sink) => {
                format!("{}/{}/{}", source.branch.branch, source.source, sink.sink)
            }
        }
    }

    /// The name of its lock.
    fn lock(&self) -> String {
        match self {
            Self::Source(source) => format!("source/{source}"),
            Self::Sink(sink) => format!("sink/{sink}"),
        }
    }

    /// Distinguishes the entity from all others. The kind is part of it: keys of sources and sinks differ in length only.
    fn queue(&self) -> String {
        match self {
            Self::Source(source) => format!("source {source}"),
            Self::Sink(sink) => format!("sink {sink}"),
        }
    }
}

/// What a task does, as its type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    CreateSource,
    DeleteSource,
    UpdateSourceSettings,
    CreateSink,
    DeleteSink,
    UpdateSinkSettings,
    UpdateSource,
    DisableSource,
    EnableSource,
    UndeleteSource,
    RollbackSource,
    UpdateSink,
    DisableSink,
    EnableSink,
    UndeleteSink,
    RollbackSink,
}

impl Kind {
    /// The type in answers and the beginning of the task's id.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::CreateSource => "api.create.source",
            Self::DeleteSource => "api.delete.source",
            Self::UpdateSourceSettings => "api.update.sourceSettings",
            Self::CreateSink => "api.create.sink",
            Self::DeleteSink => "api.delete.sink",
            Self::UpdateSinkSettings => "api.update.sinkSettings",
            Self::UpdateSource => "api.update.source",
            Self::DisableSource => "api.disable.source",
            Self::EnableSource => "api.enable.source",
            Self::UndeleteSource => "api.undelete.source",
            Self::RollbackSource => "api.rollback.sourceVersion",
            Self::UpdateSink => "api.update.sink",
            Self::DisableSink => "api.disable.sink",
            Self::EnableSink => "api.enable.sink",
            Self::UndeleteSink => "api.undelete.sink",
            Self::RollbackSink => "api.rollback.sinkVersion",
        }
    }
}

/// A task to be started.
pub(crate) struct Order {
    pub(crate) kind: Kind,
    pub(crate) entity: Entity,
    /// Where the changed thing is found afterwards.
    pub(crate) url: String,
    /// Does it and says so in a sentence. Whatever it writes goes through the store that it is given.
    pub(crate) work: Work,
    /// The entity, when it is taken already.
    pub(crate) reservation: Option<Reservation>,
}

/// The work of a task.
pub(crate) type Work = Box<dyn FnOnce(Store) -> Working + Send>;
type Working = BoxFuture<'static, Result<Done, ApiError>>;

/// How the work of a task ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// What was done; or why not all of it.
    pub(crate) outcome: Result<&'static str, ApiError>,
    /// What was discarded on the way.
    pub(crate) discarded: Option<Discarded>,
}

impl From<&'static str> for Done {
    fn from(sentence: &'static str) -> Self {
        Self {
            outcome: Ok(sentence),
            discarded: None,
        }
    }
}

/// Boxes the work of a task.
pub(crate) fn work<F, D>(work: impl FnOnce(Store) -> F + Send + 'static) -> Work
where
    F: Future<Output = Result<D, ApiError>> + Send + 'static,
    D: Into<Done>,
{
    Box::new(move |store| work(store).map(|done| done.map(Into::into)).boxed())
}

/// Starts tasks and sees them through. Clones are handles of the same runner.
#[derive(Clone)]
pub(crate) struct Runner {
    store: Store,
    lease: Lease,
    node: NodeId,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    metrics: Metrics,
    queues: Arc<Queues>,
}

impl Runner {
    pub(crate) fn new(
        store: Store,
        holder: (Lease, NodeId),
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        metrics: Metrics,
    ) -> Self {
        let (lease, node) = holder;
        let queues = Arc::default();
        Self {
            store,
            lease,
            node,
            clock,
            tasks,
            metrics,
            queues,
        }
    }

    /// Reserves an entity for its creation; none when somebody works on it already, here or in another process. Given back
    /// when dropped.
    pub(crate) async fn reserve(&self, entity: &Entity) -> Result<Option<Reservation>, StateError> {
        // First the turn, then the lock, as every task does: the other way round two could wait for each other.
        let turn = self.queues.join(entity.queue()).await;
        let Some(turn) = turn.now_or_never() else {
            return Ok(None);
        };
        let lock = self
            .store
            .try_lock(&self.lease, &entity.lock(), self.node.as_str())
            .await?;
        Ok(lock.map(|lock| Reservation { lock, turn }))
    }

    /// Records a task and starts it as soon as those before it on the same entity have ended.
    pub(crate) async fn start(&self, order: Order) -> Result<Task, ApiError> {
        // The place in the queue is that of the request.
        let queue = match order.reservation {
            Some(_) => None,
            None => Some(self.queues.join(order.entity.queue()).await),
        };
        let task = new_task(&order, &self.node, self.clock.now());
        let recorded = self.store.create_task(task).await?;
        let task = recorded.value.clone();
        let outputs = outputs(&order);
        let Order {
            kind,
            work,
            entity,
            reservation,
            ..
        } = order;
        let runner = self.clone();
        let unfinished = Unfinished::new(&self.metrics);
        self.tasks
            .spawn("api task", OnError::LogAndContinue, async move {
                let _unfinished = unfinished;
                let (turn, lock) = match (reservation, queue) {
                    (Some(Reservation { lock, turn }), _) => (Some(turn), Some(lock)),
                    (None, Some(queue)) => (Some(queue.await), None),
                    (None, None) => (None, None),
                };
                let outcome = run(runner.clone().work(work, entity, lock).boxed()).await;
                let finished = finished(&recorded.value, outcome, outputs, runner.clock.now());
                let status = status_name(finished.status);
                info!(
                    task = finished.id,
                    status,
                    duration_ms = finished.duration_ms,
                    "task finished"
                );
                runner
                    .metrics
                    .tasks
                    .with_label_values(&[kind.as_str(), status])
                    .inc();
                record(&runner.store, &recorded, finished, &runner.tasks.token()).await;
                drop(turn);
                Ok(())
            });
        Ok(task)
    }

    /// Does the work of a task under the lock of its entity.
    async fn work(self, work: Work, entity: Entity, lock: Option<Lock>) -> Result<Done, ApiError> {
        let lock = match lock {
            Some(lock) => lock,
            None => self.wait_for_lock(&entity).await?,
        };
        let outcome = work(self.store.guarded_by(&lock)).await;
        if let Err(error) = lock.release().await {
            warn!(entity = entity.queue(), %error, "lock is given back later");
        }
        outcome
    }

    /// Does something to an entity that nobody works on at present, here or in another process; none: somebody does.
    pub(crate) async fn alone<F>(
        &self,
        entity: &Entity,
        work: impl FnOnce(Store) -> F,
    ) -> Result<Option<()>, ApiError>
    where
        F: Future<Output = Result<(), ApiError>>,
    {
        let Some(Reservation { lock, turn }) = self.reserve(entity).await? else {
            return Ok(None);
        };
        let outcome = work(self.store.guarded_by(&lock)).await;
        if let Err(error) = lock.release().await {
            warn!(%entity, %error, "lock is given back later");
        }
        drop(turn);
        outcome.map(Some)
    }

    async fn wait_for_lock(&self, entity: &Entity) -> Result<Lock, ApiError> {
        let (name, stop) = (entity.lock(), self.tasks.token());
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(ApiError::new(
                Code::Unavailable,
                "The service stopped before it could begin; repeat the request.",
            )),
            lock = self.store.lock(&self.lease, &name, self.node.as_str()) => Ok(lock?),
        }
    }
}

/// Stores the outcome of a task, for as long as it takes or until the process stops.
pub(crate) async fn record(
    store: &Store,
    recorded: &Versioned<Task>,
    finished: Task,
    stop: &CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match store.update_task(recorded, finished.clone()).await {
            // Conflict: an earlier try went through although its answer got lost, or the task was cleaned up.
            Ok(_) | Err(StateError::Conflict { .. } | StateError::NotFound { .. }) => return,
            Err(error) => error,
        };
        if stop.is_cancelled() {
            warn!(task = finished.id, %error, "outcome of a task is lost");
            return;
        }
        warn!(task = finished.id, %error, "outcome of a task cannot be stored, trying again");
        // A stop asked for meanwhile gets one more try, not a wait.
        let _ = tokio::time::timeout(pause, stop.cancelled()).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Does the work, within its limit. A panic is an error of the task, not of the process.
async fn run(work: Working) -> Result<Done, ApiError> {
    match tokio::time::timeout(TASK_LIMIT, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => {
            error!("task panicked");
            Err(ApiError::new(
                Code::Internal,
                "The task failed because of a fault of the service; see its log.",
            ))
        }
        Err(_) => Err(ApiError::new(
            Code::Unavailable,
            format!(
                "The task was stopped after {} min; repeat it.",
                TASK_LIMIT.as_secs() / 60
            ),
        )),
    }
}

fn new_task(order: &Order, node: &NodeId, now: Timestamp) -> Task {
    let kind = order.kind.as_str();
    Task {
        id: format!("{kind}/{}/{now}_{}", order.entity.path(), random_text(5)),
        kind: kind.to_owned(),
        created_at: now,
        node: Some(node.clone()),
        finished_at: None,
        duration_ms: None,
        status: TaskStatus::Processing,
        result: None,
        error: None,
        outputs: Outputs::default(),
    }
}

fn outputs(order: &Order) -> Outputs {
    let source = order.entity.source();
    Outputs {
        url: Some(order.url.clone()),
        project_id: Some(source.branch.project.0),
        branch_id: Some(source.branch.branch.0),
        source_id: Some(source.source.to_string()),
        sink_id: match &order.entity {
            Entity::Source(_) => None,
            Entity::Sink(sink) => Some(sink.sink.to_string()),
        },
        discarded_rows: None,
        discarded_rejects: None,
        uncounted_slices: None,
    }
}

/// The task with its outcome.
pub(crate) fn finished(
    task: &Task,
    outcome: Result<Done, ApiError>,
    outputs: Outputs,
    now: Timestamp,
) -> Task {
    let (outcome, outputs) = match outcome {
        Ok(Done { outcome, discarded }) => (outcome, with_discarded(outputs, discarded)),
        Err(error) => (Err(error), Outputs::default()),
    };
    let (status, result, error) = match outcome {
        Ok(sentence) => (TaskStatus::Success, Some(sentence.to_owned()), None),
        Err(error) => (TaskStatus::Error, None, Some(error.message)),
    };
    let duration = now.since(task.created_at);
    Task {
        finished_at: Some(now),
        duration_ms: Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        status,
        result,
        error,
        outputs,
        ..task.clone()
    }
}

fn with_discarded(outputs: Outputs, discarded: Option<Discarded>) -> Outputs {
    let Some(discarded) = discarded else {
        return outputs;
    };
    let unless_zero = |count: u64| (count > 0).then_some(count);
    Outputs {
        discarded_rows: unless_zero(discarded.rows),
        discarded_rejects: unless_zero(discarded.rejects),
        uncounted_slices: unless_zero(discarded.uncounted),
        ..outputs
    }
}

/// The status as in answers.
pub(crate) const fn status_name(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Processing => "processing",
        TaskStatus::Success => "success",
        TaskStatus::Error => "error",
    }
}

/// An entity that is being created.
#[must_use = "dropping it lets another creation begin"]
pub(crate) struct Reservation {
    lock: Lock,
    /// The turn in this process.
    turn: OwnedMutexGuard<()>,
}

impl Reservation {
    /// The state, for writes that count only while the entity is reserved.
    pub(crate) fn guard(&self, store: &Store) -> Store {
        store.guarded_by(&self.lock)
    }
}

/// Counts a task until it has ended, however it ends.
struct Unfinished(prometheus::IntGauge);

impl Unfinished {
    fn new(metrics: &Metrics) -> Self {
        let gauge = metrics.tasks_unfinished.clone();
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One queue per entity that has tasks. Filled by requests, drained by the tasks they start.
#[derive(Default)]
struct Queues {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

type Turn = BoxFuture<'static, OwnedMutexGuard<()>>;

impl Queues {
    /// Takes the next place in a queue. The future resolves when all earlier places were given up.
    async fn join(&self, name: String) -> Turn {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(name).or_default())
        };
        let mut turn = lock.lock_owned().boxed();
        // The lock is fair, but the place in its queue is taken by the first poll. That must be here, in the request, and
        // not in the task, because tasks start in any order.
        match futures_util::poll!(&mut turn) {
            std::task::Poll::Ready(guard) => std::future::ready(guard).boxed(),
            std::task::Poll::Pending => turn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_come_in_the_order_of_joining_and_survive_a_leaver() {
        let queues = Queues::default();
        let first = queues.join("a".to_owned()).await;
        let leaver = queues.join("a".to_owned()).await;
        let mut third = queues.join("a".to_owned()).await;
        let mut fourth = queues.join("a".to_owned()).await;
        let held = first.await;
        drop(leaver);
        assert!(
            (&mut third).now_or_never().is_none(),
            "the first is still at work"
        );
        drop(held);
        assert!(
            (&mut fourth).now_or_never().is_none(),
            "the third comes first"
        );
        let held = third.await;
        drop(held);
        fourth.await;
    }

    #[tokio::test]
    async fn queues_are_independent_and_forgotten_when_empty() {
        let queues = Queues::default();
        let held = queues.join("a".to_owned()).await.await;
        let other = queues.join("b".to_owned()).await;
        assert!(other.now_or_never().is_some());
        drop(held);
        let _third = queues.join("c".to_owned()).await;
        assert_eq!(queues.locks.lock().len(), 1);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_of_the_task() {
        let outcome = run(async { panic!("broken") }.boxed()).await;
        assert_eq!(outcome.expect_err("it panicked").code, Code::Internal);
    }

    #[tokio::test(start_paused = true)]
    async fn work_without_end_is_stopped() {
        let outcome = run(std::future::pending().boxed()).await;
        assert!(outcome.expect_err("no end").message.contains("5 min"));
    }
}
