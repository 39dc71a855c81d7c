//! A batch from the moment it is bound: sent once, then only judged.

use std::collections::BTreeMap;
use std::sync::Arc;

use stream_model::SliceId;
use stream_model::level::Durability;
use stream_storage::wire::{self, Answer, Connection, Pending, Unknown};
use tokio::time::Instant;

use super::{Buffers, Gathered, Kept, Outlet};
use crate::completion::Failure;
use crate::link::Linked;
use crate::position::Positions;
use crate::turns::{Memory, Turn};

/// A batch that is bound to slices of one volume and ready to be sent.
#[must_use = "its numbers are used: a bound batch must be sent"]
pub(crate) struct Bound {
    pub(super) gathered: Gathered,
    /// Whose keys are in the batch, in their order.
    pub(super) turns: Vec<Arc<Turn>>,
    pub(super) batch: wire::Batch,
    /// Where each part goes.
    pub(super) outlets: Vec<Outlet>,
    pub(super) durability: Durability,
}

impl Bound {
    /// Sends the batch. From now on nothing about it is certain until there is an answer.
    pub fn send(self, link: &Linked) -> InFlight {
        let Self {
            mut gathered,
            turns,
            batch,
            outlets,
            durability,
        } = self;
        let places = batch.parts.iter().map(|part| Place {
            slice: part.slice,
            seq: part.seq,
        });
        let places = places.collect();
        gathered.promise.sent = true;
        let pending = link.connection.append(batch);
        let key_window = (!turns.is_empty()).then(|| Arc::clone(&link.connection));
        InFlight {
            gathered,
            turns,
            places,
            outlets,
            durability,
            pending,
            key_window,
            generation: link.generation,
            expired: false,
        }
    }
}

/// Where a part of a batch is, if it is anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The slice.
    pub slice: SliceId,
    /// The number of the part in it.
    pub seq: u64,
}

/// What became of a batch, judged by the last numbers of its slices.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Written.
    Written,
    /// Not written, and it never will be.
    Unwritten(Unwritten),
    /// One slice says written, another says not: the volume has broken its promise.
    Contradiction,
}

/// The proof that a batch was not written and never will be. Only answers of the volume and seals make one.
#[derive(Debug)]
pub(crate) struct Unwritten(());

impl Unwritten {
    /// Reads it off an answer. None: the batch is committed.
    pub fn by_answer(answer: Answer) -> Option<(Self, Cause)> {
        match answer {
            Answer::Committed => None,
            Answer::Sealed(slices) => Some((Self(()), Cause::Sealed(slices))),
            Answer::Refused(refusal) => Some((Self(()), Cause::Refused(refusal))),
            Answer::KnownKeys(known) => Some((Self(()), Cause::KnownKeys(known))),
        }
    }
}

/// Why a batch was not written.
#[derive(Debug)]
pub(crate) enum Cause {
    /// These slices take no more rows.
    Sealed(BTreeMap<SliceId, wire::Sealed>),
    /// Another reason.
    Refused(wire::Refusal),
    /// The volume remembers these keys of it.
    KnownKeys(Vec<wire::KnownKey>),
}

/// A batch that was sent.
pub(crate) struct InFlight {
    gathered: Gathered,
    turns: Vec<Arc<Turn>>,
    places: Vec<Place>,
    /// What each place is of.
    outlets: Vec<Outlet>,
    durability: Durability,
    pending: Pending<Answer>,
    /// The connection that it was sent on, when it has keys.
    key_window: Option<Arc<dyn Connection>>,
    generation: u64,
    expired: bool,
}

impl InFlight {
    /// Where its parts are, if it is written.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The number of the connection that it was sent on.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// When the requests are answered at the latest; none when they have been.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.expired).then_some(self.gathered.deadline)
    }

    /// Waits for the answer. An expired batch is not waited for any longer.
    ///
    /// # Cancel safety
    /// Cancelling loses nothing.
    pub async fn answer(&mut self) -> Result<Answer, Unknown> {
        if self.expired {
            return Err(Unknown);
        }
        (&mut self.pending).await
    }

    /// What follows from the highest committed numbers of its slices. None when no slice settles it.
    pub fn judge(&self, last: impl Fn(SliceId) -> Option<u64>) -> Option<Verdict> {
        let mut written = None;
        for place in &self.places {
            let Some(last) = last(place.slice) else {
                continue;
            };
            let is_written = place.seq <= last;
            if written.is_some_and(|written| written != is_written) {
                return Some(Verdict::Contradiction);
            }
            written = Some(is_written);
        }
        written.map(|written| match written {
            true => Verdict::Written,
            false => Verdict::Unwritten(Unwritten(())),
        })
    }

    /// Answers that the batch is written.
    pub fn commit(mut self) -> Buffers {
        // Before the requests are answered: they look here.
        for turn in &self.turns {
            turn.note(Memory::Committed);
        }
        let rejected = std::mem::take(&mut self.gathered.rejected);
        let outlets = std::mem::take(&mut self.outlets).into_iter();
        let positions = Positions::new(outlets.zip(self.places).collect());
        let promise = &self.gathered.promise;
        promise.settle_at(Ok(self.durability), rejected, positions);
        self.gathered.into_buffers()
    }

    /// Answers that the outcome is unknown. The batch stays as it is: its fate still decides about those after it.
    pub fn expire(&mut self) {
        self.expired = true;
        let rejected = self.gathered.rejected.clone();
        self.gathered
            .promise
            .settle(Err(Failure::OutcomeUnknown), rejected);
    }

    /// Whether the requests were answered that the outcome is unknown.
    pub fn is_expired(&self) -> bool {
        self.expired
    }

    /// When it carries keys: for how long the volume remembers them, as it has said with its last answer.
    pub fn key_window(&self) -> Option<Option<u32>> {
        let connection = self.key_window.as_ref()?;
        Some(connection.key_window_seconds())
    }

    /// Notes which of its keys the volume remembers: their records are not written any more. False: there are none.
    pub fn note_known(&mut self, known: &[wire::KnownKey]) -> bool {
        for known in known {
            if let Some(turn) = self.turns.get(known.position as usize) {
                turn.note(Memory::Known(known.body));
                self.gathered.must_map = true;
            }
        }
        self.gathered.must_map
    }

    /// Takes the records back, to bind them again.
    pub fn release(self, _proof: Unwritten) -> Gathered {
        let mut gathered = self.gathered;
        gathered.promise.sent = false;
        gathered
    }

    /// The rejected records in it.
    pub fn kept(&self) -> Kept {
        self.gathered.kept()
    }

    /// Number of records.
    pub fn records(&self) -> usize {
        self.gathered.records()
    }
}
