//! Uploads under way: a bounded number, at most one for each slice. A round starts them and ends; one that ends asks for the
//! next round, so a long upload does not keep others from being started.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use stream_model::SliceId;
use stream_node::{Activator, OnError, Tasks};

pub(super) struct Jobs {
    limit: usize,
    tasks: Tasks,
    activator: Activator,
    running: Arc<Mutex<BTreeSet<SliceId>>>,
}

impl Jobs {
    /// `activator` is that of the reconciler that starts them.
    pub(super) fn new(limit: usize, tasks: Tasks, activator: Activator) -> Self {
        Self {
            limit: limit.max(1),
            tasks,
            activator,
            running: Arc::default(),
        }
    }

    /// Whether there are as many as there may be.
    pub(super) fn is_full(&self) -> bool {
        self.running.lock().len() >= self.limit
    }

    /// Starts an upload, unless the slice has one or there are as many as there may be. Returns whether it did.
    pub(super) fn start<F>(&self, slice: SliceId, job: impl FnOnce() -> F) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        {
            let mut running = self.running.lock();
            if running.len() >= self.limit || !running.insert(slice) {
                return false;
            }
        }
        let ended = Ended {
            slice,
            running: Arc::clone(&self.running),
            activator: self.activator.clone(),
        };
        let job = job();
        self.tasks
            .spawn("slice-upload-job", OnError::StopProcess, async move {
                let _ended = ended;
                job.await;
                Ok(())
            });
        true
    }
}

/// Takes the upload off the list however it ends.
struct Ended {
    slice: SliceId,
    running: Arc<Mutex<BTreeSet<SliceId>>>,
    activator: Activator,
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.running.lock().remove(&self.slice);
        self.activator.activate();
    }
}
