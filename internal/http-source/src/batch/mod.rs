//! A batch, in the forms it takes between the first record and the answer.
//!
//! ```text
//! Open ──close──▶ Gathered ──compress──▶ Packed ──bind──▶ Bound ──send──▶ InFlight ──commit──▶ (answered)
//! (grows)             ▲                                                      │
//!                     └──────────────── release, with proof ─────────────────┘
//! ```
//!
//! The types hold the rule of the append protocol: after `send`, nothing of a batch can be changed or sent again until it
//! is certain what became of it. The only way back from [`InFlight`] takes an [`Unwritten`], which is made from an answer
//! that says so.
//!
//! A batch owns everything that hangs on it: the waiting requests ([`Promise`]), their share of the memory budget, and
//! its weight in the load of the lane. Whatever way it ends, even by a panic of the lane, the requests are answered.

mod outlet;
mod packed;
mod sent;
mod spare;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use stream_encoding::CompressError;
use stream_model::Timestamp;
use stream_model::hours::Hour;
use stream_model::level::Durability;
use tokio::time::Instant;

use outlet::SinkRows;
pub(crate) use outlet::{Kept, Outlet};
use packed::Packed;
pub(crate) use sent::{Bound, Cause, InFlight, Place, Unwritten, Verdict};
pub(crate) use spare::Spares;

use crate::admission::Reservation;
use crate::completion::{Completion, Failure, Outcome, Rejected, Ticket};
use crate::frames;
use crate::mapper::{Mapped, Mapper, Received};
use crate::position::Positions;
use crate::route::{Plan, VolumeRoute};
use crate::templates::Evaluated;
use crate::turns::Turn;

/// Memory of a finished batch, for the next one.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    rows: Vec<SinkRows>,
    rejects: Vec<SinkRows>,
    records: Vec<Received>,
}

impl Buffers {
    /// Empties them. What is large goes to `spares`, so that a thousand idle sources do not hold on to memory.
    #[must_use]
    pub fn recycle(mut self, spares: &Spares) -> Self {
        self.records.clear();
        spares.take_records(&mut self.records);
        for rows in self.rows.iter_mut().chain(&mut self.rejects) {
            rows.clear();
            spares.take_bytes(&mut rows.csv);
        }
        self
    }

    /// Makes room for a batch of this size.
    fn expect(&mut self, expected: Size, spares: &Spares) {
        spares.lend_records(&mut self.records, expected.records);
        let sinks = self.rows.len().max(1);
        for rows in &mut self.rows {
            spares.lend_bytes(&mut rows.csv, expected.bytes / sinks);
        }
    }
}

/// The side of a completion that answers. Dropped without an answer, it answers what is true then.
struct Promise {
    completion: Arc<Completion>,
    plan: Arc<Plan>,
    sent: bool,
}

impl Promise {
    fn settle(&self, written: Result<Durability, Failure>, rejected: Rejected) {
        self.settle_at(written, rejected, Positions::default());
    }

    fn settle_at(
        &self,
        written: Result<Durability, Failure>,
        rejected: Rejected,
        positions: Positions,
    ) {
        self.completion.settle(Outcome {
            written,
            plan: Arc::clone(&self.plan),
            rejected,
            positions,
        });
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        let failure = if self.sent {
            Failure::OutcomeUnknown
        } else {
            Failure::Shutdown
        };
        self.settle(Err(failure), Rejected::new());
    }
}

/// The weight of a batch in the load of its lane.
struct Load {
    outstanding: Arc<AtomicUsize>,
    bytes: usize,
}

impl Load {
    fn new(outstanding: &Arc<AtomicUsize>, bytes: usize) -> Self {
        outstanding.fetch_add(bytes, Ordering::Relaxed);
        Self {
            outstanding: Arc::clone(outstanding),
            bytes,
        }
    }

    fn add(&mut self, bytes: usize) {
        self.outstanding.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.outstanding.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// How much is in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Size {
    /// Records.
    pub records: usize,
    /// Bytes of rows.
    pub bytes: usize,
}

impl Size {
    /// What the next batch will probably need, after one of size `last`, when `self` was expected before: it takes its
    /// memory at once then, and a source that has become quiet takes little again after a few batches.
    #[must_use]
    pub fn after(self, last: Self) -> Self {
        Self {
            records: last.records.max(self.records / 2),
            bytes: last.bytes.max(self.bytes / 2),
        }
    }
}

/// What a batch is made of.
pub(crate) enum Room<'a> {
    /// New memory, as it is needed.
    Fresh,
    /// What is left of another batch, with room for one of the expected size.
    Left(Buffers, Size, &'a Spares),
}

impl Room<'_> {
    fn buffers(self, sinks: usize) -> Buffers {
        let (mut buffers, expected) = match self {
            Self::Fresh => (Buffers::default(), None),
            Self::Left(buffers, expected, spares) => (buffers, Some((expected, spares))),
        };
        buffers.rows.resize_with(sinks, SinkRows::default);
        if let Some((expected, spares)) = expected {
            buffers.expect(expected, spares);
        }
        buffers
    }
}

/// A batch that takes records.
pub(crate) struct Open {
    gathered: Gathered,
    opened_at: Instant,
    /// The hour in which its records arrived.
    hour: Option<Hour>,
}

impl Open {
    /// A batch for its first record. It is answered by `deadline`, whatever happens.
    pub fn new(
        plan: &Arc<Plan>,
        room: Room<'_>,
        outstanding: &Arc<AtomicUsize>,
        reserved: Reservation,
        now: Instant,
        deadline: Instant,
    ) -> Self {
        let Buffers {
            rows,
            rejects,
            records,
        } = room.buffers(plan.sinks.len());
        let promise = Promise {
            completion: Arc::new(Completion::default()),
            plan: Arc::clone(plan),
            sent: false,
        };
        let gathered = Gathered {
            rows,
            rejects,
            records,
            rejected: Rejected::new(),
            raw_bytes: 0,
            acknowledged: 0,
            promise,
            reserved,
            load: Load::new(outstanding, 0),
            deadline,
            is_keyed: false,
            must_map: false,
        };
        Self {
            gathered,
            opened_at: now,
            hour: None,
        }
    }

    /// Whether rows made by `plan` of a record that arrived at `at` may be added. The rows of a part count in one hour, so a batch
    /// has records of one.
    pub fn takes(&self, plan: &Arc<Plan>, at: Timestamp) -> bool {
        let own = &self.gathered.promise.plan;
        let is_same_plan = Arc::ptr_eq(own, plan) || own.makes_same_rows_as(plan);
        is_same_plan && self.hour.is_none_or(|hour| hour == Hour::of(at))
    }

    /// Adds a record with its rows.
    pub fn push(&mut self, received: Received, mapped: &mut Mapped) -> Ticket {
        let batch = &mut self.gathered;
        let index = u32::try_from(batch.records.len()).expect("a batch has at most 2^20 records");
        let at = received.record.received_at;
        self.hour.get_or_insert_with(|| Hour::of(at));
        batch.take_rows(index, at, mapped);
        batch.load.add(mapped.bytes());
        batch.is_keyed |= received.key.is_some();
        batch.records.push(received);
        Ticket::new(Arc::clone(&batch.promise.completion), index)
    }

    /// Notes that the sender of the latest record is answered already.
    pub fn acknowledge_latest(&mut self) {
        self.gathered.acknowledged += 1;
    }

    /// Takes over what a request has reserved.
    pub fn absorb(&mut self, reserved: Reservation) {
        self.gathered.reserved.absorb(reserved);
    }

    /// Bytes of rows.
    pub fn raw_bytes(&self) -> usize {
        self.gathered.raw_bytes
    }

    /// How much is in it.
    pub fn size(&self) -> Size {
        Size {
            records: self.gathered.records.len(),
            bytes: self.gathered.raw_bytes,
        }
    }

    /// When the first record was added.
    pub fn opened_at(&self) -> Instant {
        self.opened_at
    }

    /// When it is answered at the latest.
    pub fn deadline(&self) -> Instant {
        self.gathered.deadline
    }

    /// Ends gathering.
    pub fn close(self) -> Gathered {
        self.gathered
    }
}

/// A batch of which it is certain that nothing is written.
pub(crate) struct Gathered {
    rows: Vec<SinkRows>,
    /// What the sinks reject; shorter than the plan as long as nothing is.
    rejects: Vec<SinkRows>,
    records: Vec<Received>,
    rejected: Rejected,
    raw_bytes: usize,
    acknowledged: u64,
    promise: Promise,
    reserved: Reservation,
    load: Load,
    deadline: Instant,
    /// Some record has a key: only the volume that owns it may take the batch.
    is_keyed: bool,
    /// Some keys were found to be known: their records have rows that must not be written.
    must_map: bool,
}

impl Gathered {
    fn take_rows(&mut self, index: u32, at: Timestamp, mapped: &mut Mapped) {
        for (sink, rows) in self.rows.iter_mut().enumerate() {
            rows.push(mapped.row(sink), at);
        }
        if !mapped.rejections.is_empty() {
            self.rejects.resize_with(self.rows.len(), SinkRows::default);
            for (sink, row) in mapped.rejected_rows() {
                self.rejects[sink].push(row, at);
            }
        }
        self.raw_bytes += mapped.bytes();
        self.take_refusals(index, mapped);
    }

    /// Notes what is told of a record. Of one that was there before that is all: what was refused then was kept then.
    fn take_refusals(&mut self, index: u32, mapped: &mut Mapped) {
        if !mapped.rejections.is_empty() {
            self.rejected
                .insert(index, std::mem::take(&mut mapped.rejections));
        }
    }

    /// How the rows were made.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.promise.plan
    }

    /// Bytes of rows.
    pub fn raw_bytes(&self) -> usize {
        self.raw_bytes
    }

    /// Number of records.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Whether it must not go to another volume, because some record has a key.
    pub fn is_keyed(&self) -> bool {
        self.is_keyed
    }

    /// Whether its rows are not the ones to be written, be its plan the present one or not.
    pub fn must_map(&self) -> bool {
        self.must_map
    }

    /// The keys of the records that have a row, each once.
    fn turns(&self) -> Vec<Arc<Turn>> {
        if !self.is_keyed {
            return Vec::new();
        }
        let mut turns: Vec<Arc<Turn>> = Vec::new();
        for (index, received) in (0..).zip(&self.records) {
            let Some(turn) = received.key.as_ref().filter(|turn| !turn.is_known()) else {
                continue;
            };
            // The records of a request follow each other.
            let is_new = turns.last().is_none_or(|last| !Arc::ptr_eq(last, turn));
            let refusals = self.rejected.get(&index).map_or(0, Vec::len);
            if is_new && refusals < self.rows.len() {
                turns.push(Arc::clone(turn));
            }
        }
        turns
    }

    /// Number of records that were answered without waiting for the outcome.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// When it is answered at the latest.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Whether no sink takes any of the records, and none is kept as rejected.
    pub fn is_empty(&self) -> bool {
        self.outlets().next().is_none()
    }

    /// Moves its weight to another lane.
    pub fn move_load(&mut self, outstanding: &Arc<AtomicUsize>) {
        self.load = Load::new(outstanding, self.load.bytes);
    }

    /// The records.
    pub fn received(&self) -> &[Received] {
        &self.records
    }

    /// Prepares all records for another plan.
    pub fn prepare_for(&mut self, plan: &Plan) {
        for received in &mut self.records {
            received.prepare_for(plan);
        }
    }

    /// Takes what templates made of the records, in their order.
    pub fn set_evaluated(&mut self, evaluated: Vec<Evaluated>) {
        for (received, evaluated) in self.records.iter_mut().zip(evaluated) {
            received.evaluated = Some(evaluated);
        }
    }

    /// Maps all records again, by another plan.
    #[must_use]
    pub fn map_again(mut self, plan: &Arc<Plan>, mapper: &Mapper) -> Self {
        self.rows.iter_mut().for_each(SinkRows::clear);
        self.rejects.iter_mut().for_each(SinkRows::clear);
        self.rejects.truncate(plan.sinks.len());
        self.rows.resize_with(plan.sinks.len(), SinkRows::default);
        self.rejected.clear();
        self.raw_bytes = 0;
        self.must_map = false;
        self.promise.plan = Arc::clone(plan);
        let records = std::mem::take(&mut self.records);
        for (index, mut received) in (0..).zip(records) {
            received.prepare_for(plan);
            let received = mapper.map(plan, received, |received, mapped| {
                if received.key.as_ref().is_some_and(|turn| turn.is_known()) {
                    self.take_refusals(index, mapped);
                } else {
                    self.take_rows(index, received.record.received_at, mapped);
                }
                received
            });
            self.records.push(received);
        }
        self
    }

    /// Compresses the rows for the slices of a volume, which has one for each of its outlets. CPU work in proportion to
    /// [`Self::raw_bytes`].
    ///
    /// # Errors
    /// The batch, when compression fails.
    pub fn compress(self, here: &VolumeRoute) -> Result<Packed, (Self, CompressError)> {
        let mut frames = Vec::with_capacity(self.rows.len());
        let mut failure = None;
        for (outlet, rows) in self.outlets() {
            let target = here.target(outlet);
            let target = target.expect("rejects without a slice were given up");
            match frames::compress(target.compression, &rows.csv) {
                Ok(frame) => frames.push((outlet, target, frame)),
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        match failure {
            Some(error) => Err((self, error)),
            None => Ok(Packed {
                gathered: self,
                frames,
                weakest: here.weakest(),
            }),
        }
    }

    /// Answers that nothing was written.
    pub fn fail(mut self, failure: Failure) -> Buffers {
        let rejected = std::mem::take(&mut self.rejected);
        self.promise.settle(Err(failure), rejected);
        self.into_buffers()
    }

    /// Answers a batch in which every record is rejected.
    pub fn finish_empty(mut self, durability: Durability) -> Buffers {
        debug_assert!(self.is_empty(), "rows must not be dropped");
        let rejected = std::mem::take(&mut self.rejected);
        self.promise.settle(Ok(durability), rejected);
        self.into_buffers()
    }

    fn into_buffers(self) -> Buffers {
        Buffers {
            rows: self.rows,
            rejects: self.rejects,
            records: self.records,
        }
    }
}
