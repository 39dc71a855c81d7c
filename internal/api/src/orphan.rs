//! Finishes tasks whose process is gone.
//!
//! A task is worked on by the process that accepted it. When that process dies, the record would say `processing` for
//! ever. Whether a task was interrupted is decided without knowing its process: the process was started before the task
//! was created and shows itself by a registration that dies with it, so a task that is older than every live API process
//! belongs to none. The times compared are of the same clock when it matters, namely for a live process and its own tasks.
//!
//! Where no API process is registered, only age decides: no task runs longer than its limit.

use std::sync::Arc;
use std::time::Duration;

use stream_model::{Clock, Timestamp};
use stream_state::{StateError, Store, Task, TaskStatus};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::task::TASK_LIMIT;

/// The name under which API processes register.
const COMPONENT: &str = "api";
/// The pause between two looks at what was left over.
const PERIOD: Duration = Duration::from_secs(10);
/// A task that is older than this was interrupted. The time on top of its limit is for a queue and for storing the outcome.
const CERTAINLY_OVER: Duration = TASK_LIMIT.saturating_mul(3);

/// Looks after the tasks that were unfinished when this process started, until none of them is.
pub(crate) async fn finish_interrupted(
    store: Store,
    clock: Arc<dyn Clock>,
    started_at: Timestamp,
    stop: CancellationToken,
) {
    let mut failing = false;
    loop {
        match round(&store, clock.as_ref(), started_at).await {
            Ok(0) => return,
            Ok(_) => failing = false,
            Err(error) if !failing => {
                warn!(%error, "cannot look for interrupted tasks, trying again");
                failing = true;
            }
            Err(_) => {}
        }
        if tokio::time::timeout(PERIOD, stop.cancelled()).await.is_ok() {
            return;
        }
    }
}

/// One look. Returns how many tasks of before the start are still unfinished.
async fn round(
    store: &Store,
    clock: &dyn Clock,
    started_at: Timestamp,
) -> Result<usize, StateError> {
    let tasks = store.tasks("").await?.into_iter();
    let unfinished: Vec<_> = tasks
        .filter(|task| task.value.status == TaskStatus::Processing)
        .filter(|task| task.value.created_at < started_at)
        .collect();
    if unfinished.is_empty() {
        return Ok(0);
    }
    let live: Vec<Timestamp> = store
        .nodes(COMPONENT)
        .await?
        .into_iter()
        .map(|(_, node)| node.started_at)
        .collect();
    let mut left = 0;
    for task in unfinished {
        if !is_interrupted(task.value.created_at, &live, clock.now()) {
            left += 1;
            continue;
        }
        match store
            .update_task(&task, interrupted(&task.value, clock.now()))
            .await
        {
            Ok(_) => info!(
                task = task.value.id,
                "interrupted task finished with an error"
            ),
            // Another API process was faster, or the task finished after all.
            Err(StateError::Conflict { .. } | StateError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(left)
}

fn is_interrupted(created_at: Timestamp, live: &[Timestamp], now: Timestamp) -> bool {
    let older_than_all = !live.is_empty() && live.iter().all(|started| *started > created_at);
    older_than_all || now.since(created_at) > CERTAINLY_OVER
}

fn interrupted(task: &Task, now: Timestamp) -> Task {
    let duration = now.since(task.created_at).as_millis();
    Task {
        finished_at: Some(now),
        duration_ms: Some(u64::try_from(duration).unwrap_or(u64::MAX)),
        status: TaskStatus::Error,
        error: Some(
            "The task was interrupted by a restart; look at what it should have changed, and repeat it if needed."
                .to_owned(),
        ),
        ..task.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_task_older_than_every_live_process_is_interrupted() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let now = at(1_000);
        assert!(is_interrupted(at(500), &[at(501), at(700)], now));
        assert!(
            !is_interrupted(at(500), &[at(501), at(499)], now),
            "the second may be at it"
        );
        assert!(
            !is_interrupted(at(500), &[], now),
            "nobody is registered, and it is young"
        );
        assert!(is_interrupted(at(50), &[], now), "nothing runs that long");
    }
}
