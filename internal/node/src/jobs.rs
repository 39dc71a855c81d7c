//! Work that takes longer than a round of a reconciler: a bounded number of background jobs, at most one for each key.
//!
//! A round hands over what is to be done and ends. A job that ends is followed at once by the next one that waits, without a
//! round in between; when few are left waiting, the next round is asked for. So neither does one long job keep the rounds from
//! starting others, nor do the pauses between the rounds keep short jobs from following each other.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::lifecycle::BoxFuture;
use crate::reconcile::Activator;
use crate::tasks::{OnError, Tasks};

/// Jobs that may wait, for each that may run. Filled by rounds, drained by the jobs; beyond it a round is told that there is
/// no room.
const WAITING_PER_JOB: usize = 16;

/// The jobs of one reconciler.
pub struct Jobs<K> {
    name: &'static str,
    limit: usize,
    tasks: Tasks,
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    activator: Activator,
    state: Mutex<State<K>>,
}

struct State<K> {
    running: usize,
    /// Running or waiting.
    keys: BTreeSet<K>,
    waiting: VecDeque<(K, BoxFuture<'static, ()>)>,
}

impl<K: Ord + Clone + Send + 'static> Jobs<K> {
    /// No jobs. `limit` is how many run at the same time, at least 1; `activator` is that of the reconciler.
    #[must_use]
    pub fn new(name: &'static str, limit: usize, tasks: Tasks, activator: Activator) -> Self {
        let state = State {
            running: 0,
            keys: BTreeSet::new(),
            waiting: VecDeque::new(),
        };
        let shared = Shared {
            activator,
            state: Mutex::new(state),
        };
        Self {
            name,
            limit: limit.max(1),
            tasks,
            shared: Arc::new(shared),
        }
    }

    /// Whether no more jobs can wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.state.lock().waiting.len() >= self.limit * WAITING_PER_JOB
    }

    /// Takes a job, unless one for the key runs or waits, or no more can wait. Returns whether it did.
    pub fn start<F>(&self, key: &K, job: impl FnOnce() -> F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        {
            let mut state = self.shared.state.lock();
            let is_full = state.waiting.len() >= self.limit * WAITING_PER_JOB;
            if is_full || !state.keys.insert(key.clone()) {
                return false;
            }
            if state.running >= self.limit {
                state.waiting.push_back((key.clone(), Box::pin(job())));
                return true;
            }
            state.running += 1;
        }
        let (shared, limit) = (Arc::clone(&self.shared), self.limit);
        let first = (key.clone(), Box::pin(job()) as BoxFuture<'static, ()>);
        self.tasks
            .spawn(self.name, OnError::StopProcess, async move {
                let mut next = Some(first);
                while let Some((key, job)) = next {
                    let ended = Ended {
                        key,
                        shared: Arc::clone(&shared),
                    };
                    job.await;
                    drop(ended);
                    next = shared.next(limit);
                }
                Ok(())
            });
        true
    }
}

impl<K: Ord> Shared<K> {
    /// The job that follows one that has ended; none when the place is given up.
    fn next(&self, limit: usize) -> Option<(K, BoxFuture<'static, ()>)> {
        let mut state = self.state.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.running -= 1;
        }
        if state.waiting.len() < limit {
            self.activator.activate();
        }
        next
    }
}

/// Takes the key off the list however the job ends.
struct Ended<K: Ord> {
    key: K,
    shared: Arc<Shared<K>>,
}

impl<K: Ord> Drop for Ended<K> {
    fn drop(&mut self) {
        self.shared.state.lock().keys.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::lifecycle::Shutdown;

    fn jobs(limit: usize) -> (Jobs<usize>, Tasks) {
        let tasks = Tasks::new("test", &Shutdown::new());
        let jobs = Jobs::new("job", limit, tasks.clone(), Activator::new());
        (jobs, tasks)
    }

    #[tokio::test]
    async fn a_waiting_job_follows_one_that_ends_without_a_round() {
        let (jobs, tasks) = jobs(1);
        let (finish, finished) = oneshot::channel::<()>();
        let (log, mut seen) = mpsc::unbounded_channel();
        assert!(jobs.start(&1, || async {
            let _ = finished.await;
        }));
        for key in [2, 3] {
            let log = log.clone();
            assert!(jobs.start(&key, || async move {
                log.send(key).expect("the test listens");
            }));
        }
        assert!(!jobs.start(&1, || async {}), "one job for a key");
        assert!(!jobs.start(&3, || async {}), "also while it waits");
        assert!(seen.try_recv().is_err(), "no more than the limit");
        finish.send(()).expect("the job waits");
        assert_eq!(seen.recv().await, Some(2));
        assert_eq!(seen.recv().await, Some(3));
        while !jobs.start(&3, || async {}) {
            tokio::task::yield_now().await;
        }
        tasks
            .stop(Duration::from_secs(60))
            .await
            .expect("all jobs end");
    }

    #[tokio::test]
    async fn no_more_wait_than_there_may_be() {
        let (jobs, tasks) = jobs(2);
        let most = 2 + 2 * WAITING_PER_JOB;
        for key in 0..most {
            assert!(!jobs.is_full());
            assert!(jobs.start(&key, std::future::pending));
        }
        assert!(jobs.is_full());
        assert!(!jobs.start(&most, || async {}));
        assert!(tasks.stop(Duration::ZERO).await.is_err(), "they never end");
    }
}
