//! After anything but a commit: first find out what became of every batch under way, then send again what is certainly
//! not written, in order.
//!
//! Nothing is sent in between. A batch whose answer was lost is settled by the volume on a new connection, or by the
//! seal in the record of one of its slices. One that cannot be settled by its deadline is given up: its requests have
//! been told so, and the next batch for those slices asks the volume for its numbers again.

use std::collections::BTreeMap;
use std::sync::Arc;

use stream_model::SliceId;
use stream_storage::wire::{Answer, Opened, RefusalReason, Unknown};
use tokio::time::Instant;
use tracing::{debug, error};

use super::owner::{MAX_ASKING, Owner, Suspect, at, news};
use crate::batch::{Cause, Gathered, InFlight, Unwritten, Verdict};
use crate::completion::{Failure, Shortage};
use crate::route::Fate;

/// What to do with a refused batch.
enum Remedy {
    /// Send it again at once.
    Again,
    /// Send it again after a pause.
    AgainLater,
    /// Give it to another volume; without one send it again after a pause.
    Elsewhere,
    /// Give up here.
    GiveUp(Failure),
}

fn remedy(reason: RefusalReason) -> Remedy {
    match reason {
        RefusalReason::OutOfOrder | RefusalReason::Superseded => Remedy::Again,
        RefusalReason::UnknownSlice(_) | RefusalReason::TooManySessions(_) => Remedy::AgainLater,
        RefusalReason::WriteFailed => Remedy::Elsewhere,
        RefusalReason::DiskFull => Remedy::GiveUp(Failure::InsufficientStorage(Shortage::Disk)),
        RefusalReason::VolumeFull => Remedy::GiveUp(Failure::InsufficientStorage(Shortage::Volume)),
        RefusalReason::SinkFull(_) => Remedy::GiveUp(Failure::InsufficientStorage(Shortage::Sink)),
        // The next request finds the volume that does, once this process has heard of it.
        RefusalReason::KeysElsewhere => Remedy::GiveUp(Failure::KeyOwnerAway),
        RefusalReason::Overloaded => Remedy::GiveUp(Failure::Overloaded),
        RefusalReason::Stopping => Remedy::GiveUp(Failure::Shutdown),
        RefusalReason::Malformed(_) => Remedy::GiveUp(Failure::Internal),
    }
}

impl Owner {
    /// Deals with `first`, which was not committed, and with everything that was sent after it.
    pub(super) async fn recover(&mut self, first: InFlight, answer: Result<Answer, Unknown>) {
        self.hold = None;
        let mut next = Some((first, answer));
        while let Some((batch, answer)) = next.take() {
            self.sort_out(batch, answer);
            if let Some(mut batch) = self.flight.pop_front() {
                let limit = batch.deadline().unwrap_or_else(Instant::now);
                let answer = self.meanwhile(limit, batch.answer()).await;
                next = Some((batch, answer.unwrap_or(Err(Unknown))));
            }
        }
        while self.is_unsettled() {
            self.settle_by_records();
            if self.is_unsettled() {
                self.settle_by_volume().await;
            }
            if self.is_unsettled() {
                self.pass_on();
                let until = Instant::now() + self.next_pause();
                let mut changes = self.news.clone();
                let wait = async {
                    tokio::select! {
                        () = at(Some(until)) => {}
                        () = news(&mut changes) => {}
                    }
                };
                self.meanwhile(until, wait).await;
                self.news.mark_unchanged();
                self.expire();
            }
        }
        while let Some(suspect) = self.suspects.pop_back() {
            if let Suspect::Unwritten(batch) = suspect {
                self.queue.push_front(batch);
            }
        }
    }

    /// Whether there is a batch of which it is not known whether it was written, and somebody waits for it.
    fn is_unsettled(&mut self) -> bool {
        // Nobody waits for an expired one. It is never sent again, and its slices are opened before they are used again.
        self.suspects
            .retain(|suspect| !matches!(suspect, Suspect::Unknown(batch) if batch.is_expired()));
        self.suspects
            .iter()
            .any(|suspect| matches!(suspect, Suspect::Unknown(_)))
    }

    /// Judges a batch by the answer to it.
    fn sort_out(&mut self, mut batch: InFlight, answer: Result<Answer, Unknown>) {
        for place in batch.places() {
            self.numbers.remove(&place.slice);
        }
        let Ok(answer) = answer else {
            self.link.lose(batch.generation());
            // Whoever opens the volume next may remember less.
            self.lane.note_key_window(None);
            self.suspects.push_back(Suspect::Unknown(batch));
            return;
        };
        self.hear_key_window(&batch);
        let Some((proof, cause)) = Unwritten::by_answer(answer) else {
            self.commit(batch);
            return;
        };
        let remedy = match cause {
            Cause::Sealed(slices) => {
                self.sealed.extend(slices.keys());
                Remedy::Again
            }
            Cause::Refused(refusal) => {
                debug!(source = %self.source, volume = %self.link.volume(), reason = %refusal.reason, "batch refused");
                if let RefusalReason::Malformed(rule) = refusal.reason {
                    error!(source = %self.source, rule, "the volume says that a batch is malformed");
                }
                if refusal.reason == RefusalReason::Superseded {
                    self.link.lose(batch.generation());
                }
                remedy(refusal.reason)
            }
            Cause::KnownKeys(known) => {
                debug!(source = %self.source, volume = %self.link.volume(), keys = known.len(), "keys of a batch are known");
                match batch.note_known(&known) {
                    true => Remedy::Again,
                    false => {
                        error!(source = %self.source, "the volume knows keys that a batch does not have");
                        Remedy::GiveUp(Failure::Internal)
                    }
                }
            }
        };
        let batch = batch.release(proof);
        match remedy {
            // Nobody is there any more to send these records again.
            Remedy::GiveUp(failure) if failure != Failure::Internal && batch.acknowledged() > 0 => {
                self.hold = Some(Instant::now() + self.next_pause());
                self.suspects.push_back(Suspect::Unwritten(batch));
            }
            Remedy::Again => self.suspects.push_back(Suspect::Unwritten(batch)),
            Remedy::AgainLater => {
                self.hold = Some(Instant::now() + self.next_pause());
                self.suspects.push_back(Suspect::Unwritten(batch));
            }
            Remedy::Elsewhere => self.go_elsewhere(batch),
            Remedy::GiveUp(failure) => self.give_up(batch, failure),
        }
    }

    /// The disk of this volume fails. Another volume takes the batch; else it waits for this one.
    fn go_elsewhere(&mut self, batch: Gathered) {
        self.lane.rest();
        if let Err(batch) = self.hand_over(batch) {
            self.hold = Some(Instant::now() + self.next_pause());
            self.suspects.push_back(Suspect::Unwritten(batch));
        }
    }

    /// This volume does not take the batch; maybe another one does.
    fn give_up(&mut self, batch: Gathered, failure: Failure) {
        let elsewhere = match failure {
            Failure::Internal | Failure::KeyOwnerAway => Err(batch),
            _ => {
                self.lane.rest();
                self.hand_over(batch)
            }
        };
        if let Err(batch) = elsewhere {
            self.fail(batch, failure);
        }
    }

    /// Settles what the records of the slices settle: a seal says for good what is in a slice.
    fn settle_by_records(&mut self) {
        let directory = Arc::clone(&self.around.directory);
        let session = self.link.session();
        self.settle_suspects(|slice| match directory.fate(slice, session) {
            Fate::Sealed { last } => Some(last),
            Fate::Live | Fate::Gone => None,
        });
    }

    /// Asks the volume on a connection that is newer than the one that failed.
    async fn settle_by_volume(&mut self) {
        let limit = Instant::now() + MAX_ASKING;
        let link = Arc::clone(&self.link);
        let link = match self
            .meanwhile(limit, async move { link.connection().await })
            .await
        {
            Some(Ok(link)) => link,
            Some(Err(reason)) => {
                debug!(source = %self.source, %reason, "cannot connect again");
                self.lane.rest();
                return;
            }
            None => return,
        };
        let mut slices: Vec<SliceId> = self
            .unknown()
            .flat_map(InFlight::places)
            .map(|p| p.slice)
            .collect();
        slices.sort_unstable();
        slices.dedup();
        let asked = link.connection.open(slices);
        let Some(Ok(opened)) = self.meanwhile(limit, asked).await else {
            self.link.lose(link.generation);
            return;
        };
        let last = |opened: &Opened| match opened {
            Opened::Last(last) => Some(*last),
            Opened::Sealed(sealed) => Some(sealed.last),
            Opened::UnknownSlice => None,
        };
        let lasts: BTreeMap<SliceId, u64> = opened
            .iter()
            .filter_map(|(slice, opened)| Some((*slice, last(opened)?)))
            .collect();
        let sealed = opened
            .iter()
            .filter(|(_, opened)| matches!(opened, Opened::Sealed(_)));
        self.sealed.extend(sealed.map(|(slice, _)| *slice));
        self.settle_suspects(|slice| lasts.get(&slice).copied());
    }

    fn unknown(&self) -> impl Iterator<Item = &InFlight> {
        self.suspects.iter().filter_map(|suspect| match suspect {
            Suspect::Unknown(batch) => Some(batch),
            Suspect::Unwritten(_) => None,
        })
    }

    /// Settles the unknown batches of which a slice tells the outcome. `last` is the highest committed number.
    fn settle_suspects(&mut self, last: impl Fn(SliceId) -> Option<u64>) {
        for suspect in std::mem::take(&mut self.suspects) {
            let Suspect::Unknown(mut batch) = suspect else {
                self.suspects.push_back(suspect);
                continue;
            };
            match batch.judge(&last) {
                None => self.suspects.push_back(Suspect::Unknown(batch)),
                Some(Verdict::Written) => self.commit(batch),
                Some(Verdict::Unwritten(proof)) => {
                    self.suspects
                        .push_back(Suspect::Unwritten(batch.release(proof)));
                }
                Some(Verdict::Contradiction) => {
                    error!(source = %self.source, volume = %self.link.volume(), places = ?batch.places(), "slices disagree whether a batch was written");
                    self.around
                        .metrics
                        .unknown_outcomes
                        .inc_by(batch.records() as u64);
                    batch.expire();
                }
            }
        }
    }
}
