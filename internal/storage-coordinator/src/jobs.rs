//! Work that takes longer than a round: a bounded number of background jobs, at most one for each key.
//!
//! A round starts jobs and ends; a job that ends asks for the next round. So one long import does not keep the rounds from
//! starting others.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use stream_node::{Activator, OnError, Tasks};

/// The jobs of one reconciler. Clones are handles of the same set.
pub(crate) struct Jobs<K> {
    name: &'static str,
    limit: usize,
    tasks: Tasks,
    activator: Activator,
    running: Arc<Mutex<BTreeSet<K>>>,
}

impl<K: Ord + Clone + Send + 'static> Jobs<K> {
    /// No jobs. `activator` is that of the reconciler.
    pub(crate) fn new(
        name: &'static str,
        limit: usize,
        tasks: Tasks,
        activator: Activator,
    ) -> Self {
        Self {
            name,
            limit: limit.max(1),
            tasks,
            activator,
            running: Arc::default(),
        }
    }

    /// Starts a job, unless one for the key runs or there are as many as there may be. Returns whether it did.
    pub(crate) fn start<F>(&self, key: &K, job: impl FnOnce() -> F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        {
            let mut running = self.running.lock();
            if running.len() >= self.limit || !running.insert(key.clone()) {
                return false;
            }
        }
        let ended = Ended {
            key: key.clone(),
            running: Arc::clone(&self.running),
            activator: self.activator.clone(),
        };
        let job = job();
        self.tasks
            .spawn(self.name, OnError::StopProcess, async move {
                let _ended = ended;
                job.await;
                Ok(())
            });
        true
    }
}

/// Takes the job off the list however it ends.
struct Ended<K: Ord> {
    key: K,
    running: Arc<Mutex<BTreeSet<K>>>,
    activator: Activator,
}

impl<K: Ord> Drop for Ended<K> {
    fn drop(&mut self) {
        self.running.lock().remove(&self.key);
        self.activator.activate();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use stream_node::Shutdown;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn starts_one_job_for_a_key_and_no_more_than_the_limit() {
        let tasks = Tasks::new("test", &Shutdown::new());
        let jobs = Jobs::new("job", 2, tasks.clone(), Activator::new());
        let (finish, finished) = oneshot::channel::<()>();
        let job = async {
            let _ = finished.await;
        };
        assert!(jobs.start(&1, || job));
        assert!(!jobs.start(&1, || async {}), "one job for a key");
        assert!(jobs.start(&2, std::future::pending));
        assert!(!jobs.start(&3, || async {}), "no more than the limit");
        finish.send(()).expect("the job waits");
        while !jobs.start(&3, || async {}) {
            tokio::task::yield_now().await;
        }
        assert!(
            tasks.stop(Duration::ZERO).await.is_err(),
            "job 2 never ends by itself"
        );
    }
}
