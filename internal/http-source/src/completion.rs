//! How the requests of a batch learn its outcome: one shared cell and one wake-up for all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use stream_model::level::Durability;
use tokio::sync::Notify;

use crate::mapper::Rejection;
use crate::position::Positions;
use crate::route::Plan;

/// For each record of a batch that some sink refuses, the refusals.
pub(crate) type Rejected = BTreeMap<u32, Vec<Rejection>>;

/// Why the records of a batch are not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// There is no such source any more.
    NoSource,
    /// The source was disabled.
    DisabledSource,
    /// No sink is enabled any more.
    NoEnabledSink,
    /// No slice took the rows in time.
    NoSlice,
    /// The volume could not be reached, or refused, until the deadline.
    VolumeUnavailable,
    /// There is no room for the records.
    InsufficientStorage(Shortage),
    /// The volume has too much to do.
    Overloaded,
    /// No evaluator had time for the templates of a sink.
    TemplatesBusy,
    /// The templates of a sink have exceeded their limits too often and rest.
    TemplatesResting,
    /// The volume or this process is being stopped.
    Shutdown,
    /// The idempotency key was used for something else.
    KeyReused,
    /// The volume that remembers the key is away.
    KeyOwnerAway,
    /// Another request with the same key was not done in time.
    KeyBusy,
    /// A request with a key has more rows than can be written as a whole.
    KeyedTooLarge,
    /// It could not be found out in time whether the records were written.
    OutcomeUnknown,
    /// The service broke its own rules.
    Internal,
}

/// What is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// The disk of the volume, or what its journal may take of it.
    Disk,
    /// What the volume may hold.
    Volume,
    /// What a sink may hold on the volume.
    Sink,
}

/// What became of a batch.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Written, with the weakest class of durability among the sinks; or why not.
    pub written: Result<Durability, Failure>,
    /// How the records were mapped in the end.
    pub plan: Arc<Plan>,
    /// The refusals of that plan.
    pub rejected: Rejected,
    /// Where the records are, if they are written.
    pub positions: Positions,
}

/// The place where the outcome of a batch appears, once.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    outcome: OnceLock<Outcome>,
    settled: Notify,
}

impl Completion {
    /// Publishes the outcome and wakes the requests. Only the first outcome counts.
    pub fn settle(&self, outcome: Outcome) {
        if self.outcome.set(outcome).is_ok() {
            self.settled.notify_waiters();
        }
    }
}

/// One record's claim to the outcome of its batch.
#[derive(Debug)]
pub(crate) struct Ticket {
    completion: Arc<Completion>,
    index: u32,
}

impl Ticket {
    pub(crate) fn new(completion: Arc<Completion>, index: u32) -> Self {
        Self { completion, index }
    }

    /// Waits for the outcome of the batch. It comes by the deadline of the batch: the lane sees to it.
    ///
    /// # Cancel safety
    /// Cancelling gives up the answer, not the record.
    pub async fn outcome(&self) -> &Outcome {
        loop {
            // Made before the cell is read: an outcome in between wakes it.
            let settled = self.completion.settled.notified();
            if let Some(outcome) = self.completion.outcome.get() {
                return outcome;
            }
            settled.await;
        }
    }

    /// The refusals of this record in an outcome.
    pub fn rejections<'a>(&self, outcome: &'a Outcome) -> &'a [Rejection] {
        outcome.rejected.get(&self.index).map_or(&[], Vec::as_slice)
    }
}
