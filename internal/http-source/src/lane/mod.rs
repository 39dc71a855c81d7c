//! A lane: everything that one source writes to one volume.
//!
//! Requests add records to the open batch of the lane under a short lock ([`Lane`]). One task per lane, the [`Owner`],
//! closes batches, binds them to slices, sends them and deals with the answers. All numbers of the session in the slices
//! of a source on a volume are given by that one task: two lanes for the same pair would mistake each other's batches
//! for their own, so there is never more than one at a time (`crate::lanes`).
//!
//! Memory: records wait here while the volume is slow or away. They are bounded by the budget of the process
//! (`crate::admission`); the owner task drains them, and answers each batch by its deadline at the latest.

mod bind;
#[cfg(test)]
mod chaos;
mod owner;
mod recover;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use stream_storage::wire::TARGET_BATCH_BYTES;
use tokio::sync::Notify;
use tokio::time::Instant;

pub(crate) use owner::{Owner, Surroundings};

use crate::admission::Reservation;
use crate::batch::{Buffers, Gathered, Open, Room, Size, Spares};
use crate::completion::Ticket;
use crate::mapper::{Mapped, Received};
use crate::route::Plan;

/// The most batches under way. Only full ones come near it.
const MAX_IN_FLIGHT: usize = 8;
/// A second batch is sent behind the one under way when it has that many bytes. A smaller one would be committed no
/// sooner: it would wait in the volume instead of here, where it still gathers records.
const SECOND_BATCH_BYTES: usize = 32 << 10;
/// The age at which a batch that cannot be sent is closed, so that late records do not inherit an early deadline.
const MAX_GATHERING: Duration = Duration::from_secs(1);
/// How long other lanes are preferred after a failure.
const REST: Duration = Duration::from_secs(1);

/// The side of a lane that takes records. Clones are handles of the same lane.
#[derive(Clone)]
pub(crate) struct Lane(Arc<Shared>);

struct Shared {
    /// From the first record of a batch to its deadline.
    timeout: Duration,
    spares: Spares,
    inbox: Mutex<Inbox>,
    wake: Notify,
    outstanding: Arc<AtomicUsize>,
    born: Instant,
    /// Milliseconds after `born`.
    rests_until: AtomicU64,
    /// For how long the volume remembers keys, as last heard, in seconds and one more; 0: nothing was heard.
    key_window: AtomicU64,
}

#[derive(Default)]
struct Inbox {
    open: Option<Open>,
    /// Closed batches, oldest first.
    closed: VecDeque<Gathered>,
    spare: Option<Buffers>,
    /// How much the next batch will probably hold.
    expected: Size,
    life: Life,
}

/// Whether a lane takes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Life {
    /// It does.
    #[default]
    Serving,
    /// It does, and ends as soon as there are none.
    Retiring,
    /// It ended.
    Ended,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("outstanding", &self.outstanding())
            .finish_non_exhaustive()
    }
}

/// When the sender of a record is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answering {
    /// When the outcome is known.
    ByOutcome,
    /// When the record is in the batch.
    AtOnce,
}

/// A record that a lane did not take because it has ended.
pub(crate) struct Ended(pub Received, pub Reservation);

impl Lane {
    /// A lane whose batches are answered at most `timeout` after their first record.
    pub fn new(timeout: Duration, spares: Spares) -> Self {
        Self(Arc::new(Shared {
            timeout,
            spares,
            inbox: Mutex::default(),
            wake: Notify::new(),
            outstanding: Arc::default(),
            born: Instant::now(),
            rests_until: AtomicU64::new(0),
            key_window: AtomicU64::new(0),
        }))
    }

    /// A lane that takes nothing.
    pub fn ended(timeout: Duration) -> Self {
        let lane = Self::new(timeout, Spares::default());
        lane.end();
        lane
    }

    /// Adds a record with its rows to the open batch.
    ///
    /// # Errors
    /// The record, when the lane has ended. Look for the route again.
    pub fn append(
        &self,
        plan: &Arc<Plan>,
        received: Received,
        mapped: &mut Mapped,
        reserved: Reservation,
        answering: Answering,
        now: Instant,
    ) -> Result<Ticket, Ended> {
        let mut inbox = self.0.inbox.lock();
        if inbox.life == Life::Ended {
            return Err(Ended(received, reserved));
        }
        let at = received.record.received_at;
        inbox.close_open_if(|open| {
            !open.takes(plan, at) || now.duration_since(open.opened_at()) > MAX_GATHERING
        });
        let before = inbox.open.as_ref().map_or(0, Open::raw_bytes);
        let open = match &mut inbox.open {
            Some(open) => {
                open.absorb(reserved);
                open
            }
            None => {
                let buffers = inbox.spare.take().unwrap_or_default();
                let deadline = now + self.0.timeout;
                let outstanding = &self.0.outstanding;
                let expected = inbox.expected;
                inbox.open.insert(Open::new(
                    plan,
                    Room::Left(buffers, expected, &self.0.spares),
                    outstanding,
                    reserved,
                    now,
                    deadline,
                ))
            }
        };
        let ticket = open.push(received, mapped);
        if answering == Answering::AtOnce {
            open.acknowledge_latest();
        }
        let after = open.raw_bytes();
        if after >= TARGET_BATCH_BYTES {
            inbox.close_open_if(|_| true);
        }
        drop(inbox);
        let crossed = |limit| before < limit && after >= limit;
        if before == 0 || crossed(SECOND_BATCH_BYTES) || crossed(TARGET_BATCH_BYTES) {
            self.0.wake.notify_one();
        }
        Ok(ticket)
    }

    /// Takes a batch over from another lane of the source.
    ///
    /// # Errors
    /// The batch, when the lane has ended.
    pub fn adopt(&self, mut batch: Gathered) -> Result<(), Gathered> {
        let mut inbox = self.0.inbox.lock();
        if inbox.life == Life::Ended {
            return Err(batch);
        }
        batch.move_load(&self.0.outstanding);
        inbox.closed.push_back(batch);
        drop(inbox);
        self.0.wake.notify_one();
        Ok(())
    }

    /// Bytes of rows that were taken and not answered yet.
    pub fn outstanding(&self) -> usize {
        self.0.outstanding.load(Ordering::Relaxed)
    }

    /// Whether it failed a moment ago. Other lanes should be preferred.
    pub fn is_resting(&self) -> bool {
        let until = self.0.rests_until.load(Ordering::Relaxed);
        until > 0 && self.0.born.elapsed() < Duration::from_millis(until)
    }

    /// Whether this is the same lane as `other`.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Lets the lane end as soon as it is empty. False: it was told so before.
    pub fn retire(&self) -> bool {
        let mut inbox = self.0.inbox.lock();
        if inbox.life != Life::Serving {
            return false;
        }
        inbox.life = Life::Retiring;
        drop(inbox);
        self.0.wake.notify_one();
        true
    }

    /// Takes [`Self::retire`] back. False: it has ended already.
    pub fn revive(&self) -> bool {
        let mut inbox = self.0.inbox.lock();
        if inbox.life == Life::Retiring {
            inbox.life = Life::Serving;
        }
        inbox.life != Life::Ended
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.0.inbox.lock().life == Life::Ended
    }

    /// A batch for one request alone, to be given to [`Self::adopt`]: what is written as a whole.
    pub fn batch_of_its_own(&self, plan: &Arc<Plan>, reserved: Reservation, now: Instant) -> Open {
        let deadline = now + self.0.timeout;
        let outstanding = &self.0.outstanding;
        Open::new(plan, Room::Fresh, outstanding, reserved, now, deadline)
    }

    /// For how long at least the volume remembers keys, in seconds, if it has said so.
    pub fn key_window(&self) -> Option<u32> {
        let noted = self.0.key_window.load(Ordering::Relaxed).checked_sub(1)?;
        Some(u32::try_from(noted).unwrap_or(u32::MAX))
    }

    fn note_key_window(&self, seconds: Option<u32>) {
        let noted = seconds.map_or(0, |seconds| u64::from(seconds) + 1);
        self.0.key_window.store(noted, Ordering::Relaxed);
    }

    /// Notes a failure. The rest ends by itself, so that the lane is tried again.
    fn rest(&self) {
        let until = (self.0.born.elapsed() + REST).as_millis();
        self.0
            .rests_until
            .store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Notes a success.
    fn stop_resting(&self) {
        self.0.rests_until.store(0, Ordering::Relaxed);
    }

    /// Waits until there may be something to take.
    async fn woken(&self) {
        self.0.wake.notified().await;
    }

    /// The next batch to send when `in_flight` batches are under way.
    fn take(&self, in_flight: usize) -> Option<Gathered> {
        if in_flight >= MAX_IN_FLIGHT {
            return None;
        }
        let mut inbox = self.0.inbox.lock();
        if inbox.closed.is_empty() {
            inbox.close_open_if(|open| {
                in_flight == 0 || (in_flight == 1 && open.raw_bytes() >= SECOND_BATCH_BYTES)
            });
        }
        inbox.closed.pop_front()
    }

    /// The batches whose deadline has passed.
    fn take_expired(&self, now: Instant) -> Vec<Gathered> {
        let mut inbox = self.0.inbox.lock();
        inbox.close_open_if(|open| open.deadline() <= now);
        let (expired, kept) = inbox
            .closed
            .drain(..)
            .partition(|batch: &Gathered| batch.deadline() <= now);
        inbox.closed = kept;
        Vec::from(expired)
    }

    /// The deadline of the oldest batch.
    fn next_deadline(&self) -> Option<Instant> {
        let inbox = self.0.inbox.lock();
        let closed = inbox.closed.iter().map(Gathered::deadline);
        closed.chain(inbox.open.as_ref().map(Open::deadline)).min()
    }

    /// Keeps memory for the next batch.
    fn recycle(&self, buffers: Buffers) {
        let buffers = buffers.recycle(&self.0.spares);
        self.0.inbox.lock().spare = Some(buffers);
    }

    /// Ends the lane if it is empty and either it is retiring or `stopping`. True: it has ended.
    fn end_if_empty(&self, stopping: bool) -> bool {
        let mut inbox = self.0.inbox.lock();
        let empty = inbox.open.is_none() && inbox.closed.is_empty();
        if empty && (stopping || inbox.life == Life::Retiring) {
            inbox.life = Life::Ended;
        }
        inbox.life == Life::Ended
    }

    /// Ends the lane whatever is in it; what is in it is answered.
    fn end(&self) {
        let mut inbox = self.0.inbox.lock();
        inbox.life = Life::Ended;
        let left = (inbox.open.take(), std::mem::take(&mut inbox.closed));
        // Answering wakes requests: not under the lock.
        drop(inbox);
        drop(left);
    }
}

impl Inbox {
    fn close_open_if(&mut self, condition: impl FnOnce(&Open) -> bool) {
        if let Some(open) = self.open.take_if(|open| condition(open)) {
            self.expected = self.expected.after(open.size());
            self.closed.push_back(open.close());
        }
    }
}
