//! Finishes tasks whose process is gone.
//!
//! A task is worked on by the process that accepted it. When that process dies, the record would say `processing` for
//! ever. Every API process looks for such tasks as long as it lives, so that it does not matter which of them comes back:
//!
//! * a task of the same node that is older than this process was its predecessor's; it is interrupted once the registration of
//!   the node is not that of the predecessor any more, which in a rolling restart may still be at work;
//! * a task of another node is interrupted when no API process is registered there: registrations die with their process. One that
//!   was only cut off from the state for so long has lost the lock of the task as well, so it changes nothing any more;
//! * no task runs longer than its limit, whatever is registered.
//!
//! Tasks of earlier versions do not name their node. They are interrupted when they are older than every live API process. The
//! times compared are of the same clock when it matters, namely for a live process and its own tasks.

use std::sync::Arc;
use std::time::Duration;

use stream_model::{Clock, ErrorKind, NodeId, Timestamp};
use stream_state::{StateError, Store, Task, TaskStatus};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::task::TASK_LIMIT;

/// The name under which API processes register.
const COMPONENT: &str = "api";
/// The pause between two looks.
const PERIOD: Duration = Duration::from_secs(10);
/// The pause while the registration of the process before this one is all that keeps its tasks.
const SHORT: Duration = Duration::from_secs(1);
/// A task that is older than this was interrupted. The time on top of its limit is for a queue and for storing the outcome.
const CERTAINLY_OVER: Duration = TASK_LIMIT.saturating_mul(3);
/// A process may take requests for so long before its registration is there.
const UNREGISTERED: Duration = Duration::from_secs(5);

/// Who looks after tasks.
pub(crate) struct Own {
    pub(crate) node: NodeId,
    pub(crate) started_at: Timestamp,
}

/// What is known of an unfinished task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    /// Its process is there, or may be about to register.
    AtWork,
    /// It was the predecessor's, whose registration is still there: it is over when that is gone, unless it is finished by then.
    PerhapsOver,
    /// Its process is gone.
    Over,
}

/// Looks after the tasks whose process is gone, until the stop.
pub(crate) async fn finish_interrupted(
    store: Store,
    clock: Arc<dyn Clock>,
    own: Own,
    stop: CancellationToken,
) {
    let mut failing = false;
    loop {
        let mut pause = PERIOD;
        match round(&store, clock.as_ref(), &own).await {
            Ok(next) => {
                failing = false;
                pause = next;
            }
            // The mirror says that the state is away.
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                debug!(%error, "cannot look for interrupted tasks now");
            }
            Err(error) if !failing => {
                warn!(%error, "cannot look for interrupted tasks, trying again");
                failing = true;
            }
            Err(_) => {}
        }
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return;
        }
    }
}

/// One look. Answers when the next one is due.
async fn round(store: &Store, clock: &dyn Clock, own: &Own) -> Result<Duration, StateError> {
    let tasks = store.tasks("").await?.into_iter();
    let unfinished: Vec<_> = tasks
        .filter(|task| task.value.status == TaskStatus::Processing)
        .collect();
    if unfinished.is_empty() {
        return Ok(PERIOD);
    }
    let live: Vec<(NodeId, Timestamp)> = store
        .nodes(COMPONENT)
        .await?
        .into_iter()
        .map(|(node, registration)| (node, registration.started_at))
        .collect();
    let mut pause = PERIOD;
    for task in unfinished {
        match judge(&task.value, own, &live, clock.now()) {
            Judgement::AtWork => continue,
            Judgement::PerhapsOver => {
                pause = SHORT;
                continue;
            }
            Judgement::Over => {}
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
    Ok(pause)
}

fn judge(task: &Task, own: &Own, live: &[(NodeId, Timestamp)], now: Timestamp) -> Judgement {
    let age = now.since(task.created_at);
    if age > CERTAINLY_OVER {
        return Judgement::Over;
    }
    let is_over = match &task.node {
        Some(node) if *node == own.node => {
            // In a rolling restart the process before this one may still be at work.
            let is_its = |(other, started): &(NodeId, Timestamp)| {
                other == node && *started <= task.created_at
            };
            let is_before = task.created_at < own.started_at;
            if is_before && live.iter().any(is_its) {
                return Judgement::PerhapsOver;
            }
            is_before
        }
        Some(node) => age > UNREGISTERED && live.iter().all(|(other, _)| other != node),
        None => {
            let is_old = |started: &Timestamp| *started > task.created_at;
            task.created_at < own.started_at
                && !live.is_empty()
                && live.iter().all(|(_, started)| is_old(started))
        }
    };
    match is_over {
        true => Judgement::Over,
        false => Judgement::AtWork,
    }
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
    use stream_state::Outputs;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn node(name: &str) -> NodeId {
        name.parse().expect("valid")
    }

    fn task(node: Option<&str>, created: i64) -> Task {
        Task {
            id: "a".to_owned(),
            kind: "a".to_owned(),
            created_at: at(created),
            node: node.map(|name| name.parse().expect("valid")),
            finished_at: None,
            duration_ms: None,
            status: TaskStatus::Processing,
            result: None,
            error: None,
            outputs: Outputs::default(),
        }
    }

    /// As by a process of node `own` that was started at 500 s and looks at 600 s.
    fn judged(task: &Task, live: &[(&str, i64)]) -> Judgement {
        let own = Own {
            node: node("own"),
            started_at: at(500),
        };
        let live: Vec<_> = live
            .iter()
            .map(|(name, started)| (node(name), at(*started)))
            .collect();
        judge(task, &own, &live, at(600))
    }

    #[test]
    fn a_task_of_this_node_is_interrupted_when_it_is_older_than_this_process() {
        for registered in [&[][..], &[("own", 501)]] {
            let (before, since) = (task(Some("own"), 499), task(Some("own"), 500));
            assert_eq!(judged(&before, registered), Judgement::Over);
            assert_eq!(judged(&since, registered), Judgement::AtWork);
        }
    }

    #[test]
    fn a_task_of_the_process_before_is_looked_at_again_while_that_is_registered() {
        let before = task(Some("own"), 499);
        assert_eq!(judged(&before, &[("own", 100)]), Judgement::PerhapsOver);
        // That of another one on the node is not the predecessor's.
        let since = task(Some("own"), 500);
        assert_eq!(judged(&since, &[("own", 100)]), Judgement::AtWork);
        let other = task(Some("other"), 499);
        assert_eq!(judged(&other, &[("other", 100)]), Judgement::AtWork);
    }

    #[test]
    fn a_task_of_another_node_is_interrupted_when_nobody_is_registered_there() {
        let other = task(Some("other"), 590);
        let alone = [("own", 501)];
        assert_eq!(judged(&other, &alone), Judgement::Over);
        let with_another = [("own", 501), ("another", 100)];
        assert_eq!(judged(&other, &with_another), Judgement::Over);
        let with_it = [("own", 501), ("other", 100)];
        assert_eq!(judged(&other, &with_it), Judgement::AtWork);
        let young = task(Some("other"), 596);
        // Its process may be about to register.
        assert_eq!(judged(&young, &[]), Judgement::AtWork);
    }

    #[test]
    fn without_a_node_only_a_task_older_than_every_live_process_is_interrupted() {
        for (created, live, expected) in [
            (400, &[("own", 501), ("other", 410)][..], Judgement::Over),
            // The second may be at it.
            (400, &[("own", 501), ("other", 399)], Judgement::AtWork),
            // Nobody is registered, and it is young.
            (400, &[], Judgement::AtWork),
            (550, &[("own", 551)], Judgement::AtWork),
        ] {
            assert_eq!(judged(&task(None, created), live), expected, "{live:?}");
        }
    }

    #[test]
    fn no_task_runs_longer_than_its_limit() {
        let limit = i64::try_from(CERTAINLY_OVER.as_secs()).expect("small");
        for of in [None, Some("own"), Some("other")] {
            let task = task(of, 599 - limit);
            let live = [("other", 1), ("own", 1)];
            assert_eq!(judged(&task, &live), Judgement::Over, "{of:?}");
        }
    }
}
