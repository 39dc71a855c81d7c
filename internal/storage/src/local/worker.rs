//! The two workers of a volume. [`super::Volume::open`] gives each a thread of its own; with
//! [`super::Volume::open_stepped`] the caller has them and says when each of them goes on, so that a simulation can order
//! everything that happens.
//!
//! A worker belongs to one volume. Dropping it is what the end of its thread is: nothing is answered.

use super::commit::Committer;
use super::flush::Flusher;

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Something was done; there may be more.
    Worked,
    /// There is nothing to do now.
    Idle,
    /// There will never be anything to do again.
    Ended,
}

/// Writes commit groups and answers them.
pub struct CommitWorker(pub(super) Committer);

impl CommitWorker {
    /// Commits one group, if anything waits.
    pub fn step(&mut self) -> Step {
        self.0.step()
    }
}

/// Writes slice files and checkpoints, and frees the journal.
pub struct FlushWorker(pub(super) Flusher);

impl FlushWorker {
    /// Does what was asked for since the last step. `ticked` stands for the passing of a second: what failed is then tried
    /// again, and the free space is looked at.
    pub fn step(&mut self, ticked: bool) -> Step {
        self.0.step(ticked)
    }
}
