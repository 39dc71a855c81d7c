//! What the flush thread is asked to do, and how it is woken.

use std::collections::BTreeSet;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use stream_model::SliceId;

/// What the flush thread is asked to do. Requests for the same slice fall together.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Slices with a complete run of frames.
    pub runs: BTreeSet<SliceId>,
    /// Sealed slices whose content is wanted.
    pub seals: BTreeSet<SliceId>,
    /// Slices whose file is to be removed.
    pub released: BTreeSet<SliceId>,
    /// A segment was taken from the pool.
    pub segment_started: bool,
    /// The same, until a spare was prepared for it.
    spare_taken: bool,
    pub stopping: bool,
}

impl Work {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.seals.is_empty()
            && self.released.is_empty()
            && !self.segment_started
            && !self.stopping
    }
}

/// The way to wake the flush thread.
#[derive(Debug, Default)]
pub(in super::super) struct FlushSignal {
    work: Mutex<Work>,
    filled: Condvar,
}

impl FlushSignal {
    pub fn run(&self, slice: SliceId) {
        self.add(|work| work.runs.insert(slice));
    }

    pub fn seal(&self, slice: SliceId) {
        self.add(|work| work.seals.insert(slice));
    }

    pub fn release(&self, slice: SliceId) {
        self.add(|work| work.released.insert(slice));
    }

    pub fn segment_started(&self) {
        self.add(|work| {
            work.spare_taken = true;
            std::mem::replace(&mut work.segment_started, true)
        });
    }

    pub fn stop(&self) {
        self.add(|work| std::mem::replace(&mut work.stopping, true));
    }

    /// Whether a segment was taken from the pool since this was last asked.
    pub(super) fn was_spare_taken(&self) -> bool {
        std::mem::take(&mut self.work.lock().spare_taken)
    }

    /// Whether the thread is being waited for. What it has not done yet is done after the next opening.
    pub(super) fn is_stopping(&self) -> bool {
        self.work.lock().stopping
    }

    fn add(&self, change: impl FnOnce(&mut Work) -> bool) {
        change(&mut self.work.lock());
        self.filled.notify_one();
    }

    pub(super) fn wait(&self, until: Instant) -> Work {
        let mut work = self.work.lock();
        self.filled
            .wait_while_until(&mut work, |work| work.is_empty(), until);
        std::mem::take(&mut work)
    }

    pub(super) fn take(&self) -> Work {
        std::mem::take(&mut self.work.lock())
    }
}
