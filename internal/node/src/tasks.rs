//! Background tasks: each has a name, a policy for its failure, and somebody who joins it.
//!
//! A [`Tasks`] group belongs to one component. The component spawns through it and calls
//! [`Tasks::stop`] once, in its own phase of the orderly stop. A panic is a task failure like any
//! error; nothing fails silently and nothing outlives `stop` unnoticed.
//!
//! The group refuses to restart a failed task: work that must survive errors is a
//! [`Reconciler`](crate::reconcile::Reconciler), which handles them inside its loop.

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, warn};

use crate::lifecycle::{Reason, Shutdown};

/// Any error that ends a task.
pub type TaskError = Box<dyn Error + Send + Sync>;

/// What the failure of a task (an error or a panic) means for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The process cannot do its work without this task: it stops, with the failure as the reason.
    StopProcess,
    /// The process is worse off but goes on. Somebody must read the log.
    LogAndContinue,
}

/// Tasks that did not end before the deadline of [`Tasks::stop`]. They have been aborted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tasks of {component} did not stop within {deadline:?}: {}", tasks.join(", "))]
pub struct StillRunning {
    /// The component the tasks belong to.
    pub component: &'static str,
    /// How long they were given.
    pub deadline: Duration,
    /// Names of the tasks, oldest first.
    pub tasks: Vec<&'static str>,
}

/// The background tasks of one component. Clones are handles of the same group.
#[derive(Clone)]
pub struct Tasks {
    group: Arc<Group>,
}

struct Group {
    component: &'static str,
    shutdown: Shutdown,
    token: CancellationToken,
    tracker: TaskTracker,
    running: Mutex<Running>,
}

/// Who runs now, by order of spawning.
#[derive(Default)]
struct Running {
    next: u64,
    tasks: BTreeMap<u64, (&'static str, Option<AbortHandle>)>,
}

/// Takes the task off the list however it ends, also when it is aborted.
struct Membership {
    group: Arc<Group>,
    id: u64,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.group.running.lock().tasks.remove(&self.id);
    }
}

impl Tasks {
    /// An empty group. Failures of tasks whose policy is [`OnError::StopProcess`] go to `shutdown`.
    #[must_use]
    pub fn new(component: &'static str, shutdown: &Shutdown) -> Self {
        let group = Group {
            component,
            shutdown: shutdown.clone(),
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            running: Mutex::default(),
        };
        Self {
            group: Arc::new(group),
        }
    }

    /// Cancelled when the group is asked to stop. Give it, or a child of it, to what the tasks run.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.group.token.clone()
    }

    /// Starts `future` in the background.
    ///
    /// It should end soon after [`token`](Self::token) is cancelled. Returning `Ok` earlier is
    /// fine: not every task lasts as long as the process. A task spawned after [`stop`](Self::stop)
    /// has finished is dropped unstarted, because nobody would join it.
    pub fn spawn<F>(&self, name: &'static str, on_error: OnError, future: F)
    where
        F: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        let group = &self.group;
        if group.tracker.is_closed() && group.tracker.is_empty() {
            warn!(
                component = group.component,
                task = name,
                "task spawned after stop, dropped"
            );
            return;
        }
        let id = group.enter(name);
        let membership = Membership {
            group: Arc::clone(group),
            id,
        };
        let handle = group.tracker.spawn(async move {
            let outcome = AssertUnwindSafe(future).catch_unwind().await;
            membership.group.ended(name, on_error, outcome);
        });
        // The task may be gone already; then there is nothing to abort.
        if let Some((_, abort)) = group.running.lock().tasks.get_mut(&id) {
            *abort = Some(handle.abort_handle());
        }
    }

    /// Asks all tasks to stop and waits for them.
    ///
    /// # Errors
    ///
    /// Names the tasks that still ran when `deadline` had passed; they are aborted.
    pub async fn stop(&self, deadline: Duration) -> Result<(), StillRunning> {
        let group = &self.group;
        group.token.cancel();
        group.tracker.close();
        if tokio::time::timeout(deadline, group.tracker.wait())
            .await
            .is_ok()
        {
            return Ok(());
        }
        let tasks = group.abort_all();
        if tasks.is_empty() {
            // The last one ended between the deadline and the look at the list.
            return Ok(());
        }
        Err(StillRunning {
            component: group.component,
            deadline,
            tasks,
        })
    }
}

impl Group {
    fn enter(&self, name: &'static str) -> u64 {
        let mut running = self.running.lock();
        let id = running.next;
        running.next += 1;
        running.tasks.insert(id, (name, None));
        id
    }

    fn abort_all(&self) -> Vec<&'static str> {
        let running = self.running.lock();
        let abort = |(name, handle): &(&'static str, Option<AbortHandle>)| {
            if let Some(handle) = handle {
                handle.abort();
            }
            *name
        };
        running.tasks.values().map(abort).collect()
    }

    fn ended(
        &self,
        task: &'static str,
        on_error: OnError,
        outcome: Result<Result<(), TaskError>, Box<dyn Any + Send>>,
    ) {
        let component = self.component;
        let error = match outcome {
            Ok(Ok(())) => {
                debug!(component, task, "task ended");
                return;
            }
            Ok(Err(error)) => error_chain(error.as_ref()),
            Err(panic) => format!("panicked: {}", panic_text(panic.as_ref())),
        };
        error!(component, task, error, "task failed");
        match on_error {
            OnError::LogAndContinue => {}
            OnError::StopProcess => {
                let task = format!("{component}/{task}");
                self.shutdown.request(Reason::Failure { task, error });
            }
        }
    }
}

/// What a panic said, if it said it in text.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        return text;
    }
    panic
        .downcast_ref::<String>()
        .map_or("(no message)", String::as_str)
}

/// An error and its sources in one line, joined by `: `.
#[must_use]
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        // Writing to a String cannot fail.
        let _ = write!(text, ": {source}");
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    #[derive(Debug, thiserror::Error)]
    #[error("cannot append")]
    struct Outer(#[source] std::io::Error);

    fn group() -> (Tasks, Shutdown) {
        let shutdown = Shutdown::new();
        (Tasks::new("writer", &shutdown), shutdown)
    }

    #[tokio::test]
    async fn stop_cancels_the_token_and_joins() {
        let (tasks, shutdown) = group();
        let (done, mut finished) = oneshot::channel();
        let token = tasks.token();
        tasks.spawn("flush", OnError::StopProcess, async move {
            token.cancelled().await;
            done.send(()).expect("the test holds the receiver");
            Ok(())
        });
        assert_eq!(tasks.stop(SOON).await, Ok(()));
        assert_eq!(finished.try_recv(), Ok(()));
        assert!(!shutdown.is_requested());
    }

    #[tokio::test]
    async fn failed_task_stops_the_process_with_the_whole_error() {
        let (tasks, shutdown) = group();
        tasks.spawn("flush", OnError::StopProcess, async {
            Err(Box::new(Outer(std::io::Error::other("disk gone"))) as TaskError)
        });
        assert_eq!(
            shutdown.requested().await.to_string(),
            "task writer/flush failed: cannot append: disk gone"
        );
    }

    #[tokio::test]
    async fn panic_is_a_task_failure() {
        let (tasks, shutdown) = group();
        tasks.spawn("flush", OnError::StopProcess, async {
            panic!("offset {} is behind", 7)
        });
        assert_eq!(
            shutdown.requested().await.to_string(),
            "task writer/flush failed: panicked: offset 7 is behind"
        );
    }

    #[tokio::test]
    async fn tolerated_failure_leaves_the_process_running() {
        let (tasks, shutdown) = group();
        tasks.spawn("report", OnError::LogAndContinue, async {
            panic!("never mind")
        });
        tasks.spawn("report", OnError::LogAndContinue, async {
            Err("never mind".into())
        });
        assert_eq!(tasks.stop(SOON).await, Ok(()));
        assert!(!shutdown.is_requested());
    }

    #[tokio::test]
    async fn first_failure_is_the_one_recorded() {
        let (tasks, shutdown) = group();
        tasks.spawn("first", OnError::StopProcess, async { Err("one".into()) });
        shutdown.requested().await;
        tasks.spawn("second", OnError::StopProcess, async { Err("two".into()) });
        assert_eq!(tasks.stop(SOON).await, Ok(()));
        let failure = shutdown.failure().expect("a task failed");
        assert_eq!(failure.to_string(), "task writer/first failed: one");
    }

    #[tokio::test(start_paused = true)]
    async fn stop_names_what_still_runs_and_aborts_it() {
        let (tasks, _shutdown) = group();
        let (held, dropped) = oneshot::channel::<()>();
        let token = tasks.token();
        tasks.spawn("obedient", OnError::StopProcess, async move {
            token.cancelled().await;
            Ok(())
        });
        tasks.spawn("upload", OnError::StopProcess, async move {
            let _held = held;
            std::future::pending().await
        });
        tasks.spawn("seal", OnError::StopProcess, std::future::pending());
        let error = tasks
            .stop(Duration::from_secs(3))
            .await
            .expect_err("two tasks never end");
        assert_eq!(
            error.to_string(),
            "tasks of writer did not stop within 3s: upload, seal"
        );
        assert!(
            dropped.await.is_err(),
            "the aborted task lets go of what it held"
        );
        assert_eq!(tasks.stop(SOON).await, Ok(()), "nothing runs any more");
    }

    #[tokio::test]
    async fn task_spawned_after_stop_never_starts() {
        let (tasks, shutdown) = group();
        assert_eq!(tasks.stop(SOON).await, Ok(()));
        let (held, dropped) = oneshot::channel::<()>();
        tasks.spawn("late", OnError::StopProcess, async move {
            let _held = held;
            Err("ran".into())
        });
        assert!(dropped.await.is_err());
        assert!(!shutdown.is_requested());
    }
}
