//! The task of a lane: what is sent when, and what is done with the answers.
//!
//! Invariants:
//!
//! * Batches are bound and sent in order, one at a time, by this task only.
//! * The next number in a slice is taken from the volume ([`Connection::open`](stream_storage::wire::Connection::open))
//!   when the lane first uses the slice, and again after anything but a commit. It is never guessed: a number that was
//!   used before would be answered `committed` without being written.
//! * While a batch is unknown nothing is sent (`recover`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use stream_model::{SliceId, SourceKey};
use stream_storage::wire::{Answer, Unknown};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::bind::Obstacle;
use super::{Lane, MAX_IN_FLIGHT};
use crate::batch::{Gathered, InFlight};
use crate::completion::Failure;
use crate::link::Link;
use crate::mapper::Mapper;
use crate::metrics::Metrics;
use crate::route::Directory;
use crate::templates::Evaluators;

/// The first pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause after a failure.
pub(super) const MAX_PAUSE: Duration = Duration::from_millis(100);
/// How long a volume may take to answer what it knows, before it is asked on a new connection.
pub(super) const MAX_ASKING: Duration = Duration::from_secs(10);

/// What a lane works with.
#[derive(Clone)]
pub(crate) struct Surroundings {
    /// Where records go.
    pub directory: Arc<dyn Directory>,
    /// How records become rows.
    pub mapper: Arc<Mapper>,
    /// Who evaluates templates, when records are mapped again.
    pub evaluators: Evaluators,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Stop asked: what was taken is still written and answered.
    pub stop: CancellationToken,
}

/// A batch that was sent and not committed at once.
pub(super) enum Suspect {
    /// It is certain that it is not written.
    Unwritten(Gathered),
    /// It is not known.
    Unknown(InFlight),
}

/// The task of a lane.
pub(crate) struct Owner {
    pub(super) lane: Lane,
    pub(super) source: SourceKey,
    pub(super) link: Arc<Link>,
    pub(super) around: Surroundings,
    pub(super) news: watch::Receiver<i64>,
    /// Batches to bind next, before those in the inbox.
    pub(super) queue: VecDeque<Gathered>,
    /// Batches under way, in the order in which they were sent.
    pub(super) flight: VecDeque<InFlight>,
    /// Batches that were refused or lost, in the order in which they were sent. Empty except during recovery.
    pub(super) suspects: VecDeque<Suspect>,
    /// The next number in each slice where it is known for certain.
    pub(super) numbers: BTreeMap<SliceId, u64>,
    /// Slices that were found to take no more rows.
    pub(super) sealed: BTreeSet<SliceId>,
    pub(super) pause: Duration,
    /// Nothing is bound before that, unless there is news.
    pub(super) hold: Option<Instant>,
    stopping: bool,
}

impl Owner {
    /// The task for `lane`, which writes what `source` sends over `link`.
    pub fn new(lane: Lane, source: SourceKey, link: Arc<Link>, around: Surroundings) -> Self {
        let news = around.directory.news();
        around.metrics.lanes.inc();
        Self {
            lane,
            source,
            link,
            around,
            news,
            queue: VecDeque::new(),
            flight: VecDeque::new(),
            suspects: VecDeque::new(),
            numbers: BTreeMap::new(),
            sealed: BTreeSet::new(),
            pause: FIRST_PAUSE,
            hold: None,
            stopping: false,
        }
    }

    /// Runs until the lane is retired or stopped, and empty.
    ///
    /// # Cancel safety
    /// Cancelling answers what is left: that it was not taken, or that its outcome is unknown.
    pub async fn run(mut self) {
        self.serve().await;
    }

    async fn serve(&mut self) {
        let stop = self.around.stop.clone();
        loop {
            self.advance().await;
            let nothing_left = self.queue.is_empty() && self.flight.is_empty();
            if nothing_left && self.lane.end_if_empty(self.stopping) {
                return;
            }
            let deadline = self.next_deadline();
            let held = self.hold.is_some();
            tokio::select! {
                biased;
                answer = first_answer(&mut self.flight) => self.settle(answer).await,
                () = at(deadline) => self.expire(),
                () = at(self.hold) => self.hold = None,
                () = news(&mut self.news), if held => self.hold = None,
                () = stop.cancelled(), if !self.stopping => self.stopping = true,
                () = self.lane.woken() => {}
            }
        }
    }

    /// Binds and sends what may go now.
    async fn advance(&mut self) {
        while self.hold.is_none() {
            if self.queue.is_empty() {
                let Some(batch) = self.lane.take(self.flight.len()) else {
                    return;
                };
                self.queue.push_back(batch);
            }
            if self.flight.len() >= MAX_IN_FLIGHT {
                return;
            }
            let Some(batch) = self.queue.pop_front() else {
                return;
            };
            match self.bind(batch).await {
                Ok((bound, link)) => {
                    let batch = bound.send(&link);
                    debug!(source = %self.source, volume = %self.link.volume(), records = batch.records(), "batch sent");
                    self.flight.push_back(batch);
                }
                Err(Obstacle::Later(batch)) => self.queue.push_front(batch),
                Err(Obstacle::Settled) => {}
            }
        }
    }

    /// Deals with the answer to the oldest batch under way.
    async fn settle(&mut self, answer: Result<Answer, Unknown>) {
        let Some(batch) = self.flight.pop_front() else {
            return;
        };
        if answer == Ok(Answer::Committed) {
            self.hear_key_window(&batch);
            self.commit(batch);
        } else {
            self.recover(batch, answer).await;
        }
    }

    /// Notes for how long the volume remembers keys, which comes with its answer: before anybody is told the outcome.
    pub(super) fn hear_key_window(&self, batch: &InFlight) {
        if let Some(window) = batch.key_window() {
            self.lane.note_key_window(window);
        }
    }

    pub(super) fn commit(&mut self, batch: InFlight) {
        self.pause = FIRST_PAUSE;
        self.lane.stop_resting();
        self.around
            .metrics
            .batch_records
            .observe(batch.records() as f64);
        self.around.metrics.rejects.count(batch.kept());
        self.lane.recycle(batch.commit());
    }

    /// Answers that a batch was not written.
    pub(super) fn fail(&self, batch: Gathered, failure: Failure) {
        let lost = batch.acknowledged();
        if lost > 0 {
            self.around.metrics.lost_records.inc_by(lost);
            warn!(source = %self.source, volume = %self.link.volume(), records = lost, ?failure, "records accepted into memory were not written");
        }
        self.lane.recycle(batch.fail(failure));
    }

    /// Waits for `work`, at most until `limit`. Deadlines of batches are kept meanwhile.
    pub(super) async fn meanwhile<T>(
        &mut self,
        limit: Instant,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        loop {
            let wait = self
                .next_deadline()
                .map_or(limit, |deadline| deadline.min(limit));
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = sleep_until(wait) => self.expire(),
            }
            if Instant::now() >= limit {
                return None;
            }
        }
    }

    /// The earliest deadline that has not been dealt with.
    fn next_deadline(&self) -> Option<Instant> {
        let suspects = self.suspects.iter().filter_map(|suspect| match suspect {
            Suspect::Unwritten(batch) => Some(batch.deadline()),
            Suspect::Unknown(batch) => batch.deadline(),
        });
        let queue = self.queue.iter().map(Gathered::deadline);
        let flight = self.flight.iter().filter_map(InFlight::deadline);
        suspects
            .chain(queue)
            .chain(flight)
            .chain(self.lane.next_deadline())
            .min()
    }

    /// Answers the batches whose deadline has passed.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        let passed = |deadline: Instant| deadline <= now;
        let mut late = self.lane.take_expired(now);
        let (expired, kept) = self
            .queue
            .drain(..)
            .partition(|batch| passed(batch.deadline()));
        self.queue = kept;
        late.extend::<VecDeque<_>>(expired);
        let mut kept = VecDeque::with_capacity(self.suspects.len());
        for suspect in self.suspects.drain(..) {
            match suspect {
                Suspect::Unwritten(batch) if passed(batch.deadline()) => late.push(batch),
                suspect => kept.push_back(suspect),
            }
        }
        self.suspects = kept;
        let unknown = self
            .suspects
            .iter_mut()
            .filter_map(|suspect| match suspect {
                Suspect::Unknown(batch) => Some(batch),
                Suspect::Unwritten(_) => None,
            });
        for batch in self.flight.iter_mut().chain(unknown) {
            if batch.deadline().is_some_and(passed) {
                self.around
                    .metrics
                    .unknown_outcomes
                    .inc_by(batch.records() as u64);
                warn!(source = %self.source, volume = %self.link.volume(), records = batch.records(), "outcome of a batch is still unknown");
                batch.expire();
            }
        }
        let waits_for_slice = !self.lane.is_resting();
        for batch in late {
            let failure = if waits_for_slice {
                Failure::NoSlice
            } else {
                Failure::VolumeUnavailable
            };
            self.fail(batch, failure);
        }
    }
}

impl Drop for Owner {
    /// Whatever ends the task: the lane must not take records that nobody writes.
    fn drop(&mut self) {
        self.lane.end();
        self.around.metrics.lanes.dec();
    }
}

async fn first_answer(flight: &mut VecDeque<InFlight>) -> Result<Answer, Unknown> {
    match flight.front_mut() {
        Some(batch) => batch.answer().await,
        None => std::future::pending().await,
    }
}

pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

pub(super) async fn news(news: &mut watch::Receiver<i64>) {
    if news.changed().await.is_err() {
        // The directory is gone: the process is stopping.
        std::future::pending().await
    }
}
