//! One request at a time for each idempotency key, and what the last ones came to.
//!
//! A record with a key takes its [`Turn`] before it goes into a batch; whoever comes with the same key meanwhile waits for the
//! outcome. The turn belongs to the record and goes with it through the batch, so it ends with the batch and not with the request: a
//! client that goes away changes nothing. Between processes the volume decides; this only saves it the repetitions of one process.
//!
//! Keys that were committed or found to be known stay for a while in a small cache ([`RECENT_KEYS`], about 3 MiB at most), so that
//! a storm of repetitions is answered here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use stream_storage::wire::{Claim, KeyHash};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Keys in the cache.
const RECENT_KEYS: usize = 32_768;
/// How long they stay there: less than any volume remembers them, as long as it promises to.
const RECENT: Duration = Duration::from_secs(60);

/// The turns of a process.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Keys whose outcome is open, each with those who wait for it.
    busy: HashMap<KeyHash, Arc<Notify>>,
    recent: HashMap<KeyHash, (u64, Instant)>,
    /// The keys of `recent`, the oldest first.
    order: VecDeque<KeyHash>,
}

/// What comes of asking for a turn.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is there.
    Turn(Arc<Turn>),
    /// The key was committed a moment ago, with this body.
    Known(u64),
}

/// What is known of a key after its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// It was committed with this batch.
    Committed,
    /// It had been committed before, with this body.
    Known(u64),
}

/// The right to write a key. Dropping it lets the next one go on.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    claim: Claim,
    memory: Arc<OnceLock<Memory>>,
}

impl Turns {
    /// Waits for the turn of a key.
    ///
    /// # Cancel safety
    /// A cancelled call takes nothing.
    pub async fn take(self: &Arc<Self>, claim: Claim) -> Taken {
        loop {
            let waiting = match self.try_take(claim) {
                Ok(taken) => return taken,
                Err(waiting) => waiting,
            };
            // Made before the next look, so that no end of a turn is missed.
            let mut freed = std::pin::pin!(waiting.notified());
            freed.as_mut().enable();
            let is_busy = {
                let state = self.0.lock();
                let busy = state.busy.get(&claim.key);
                busy.is_some_and(|busy| Arc::ptr_eq(busy, &waiting))
            };
            if is_busy {
                freed.await;
            }
        }
    }

    fn try_take(self: &Arc<Self>, claim: Claim) -> Result<Taken, Arc<Notify>> {
        let mut state = self.0.lock();
        if let Some(waiting) = state.busy.get(&claim.key) {
            return Err(Arc::clone(waiting));
        }
        if let Some((body, at)) = state.recent.get(&claim.key)
            && at.elapsed() < RECENT
        {
            return Ok(Taken::Known(*body));
        }
        state.busy.insert(claim.key, Arc::default());
        Ok(Taken::Turn(Arc::new(Turn {
            turns: Arc::clone(self),
            claim,
            memory: Arc::default(),
        })))
    }
}

impl State {
    fn remember(&mut self, key: KeyHash, body: u64) {
        if self.recent.insert(key, (body, Instant::now())).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > RECENT_KEYS
            && let Some(oldest) = self.order.pop_front()
        {
            self.recent.remove(&oldest);
        }
    }
}

impl Turn {
    /// The key with its body.
    pub fn claim(&self) -> Claim {
        self.claim
    }

    /// Where the outcome appears.
    pub fn memory(&self) -> Arc<OnceLock<Memory>> {
        Arc::clone(&self.memory)
    }

    /// Notes what is certain. Only the first counts.
    pub fn note(&self, memory: Memory) {
        // A known key stays known; it is never written under this turn.
        let _ = self.memory.set(memory);
    }

    /// Whether the key was found to be known: its records must not be written.
    pub fn is_known(&self) -> bool {
        matches!(self.memory.get(), Some(Memory::Known(_)))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.turns.0.lock();
        match self.memory.get() {
            Some(Memory::Committed) => state.remember(self.claim.key, self.claim.body),
            Some(Memory::Known(body)) => state.remember(self.claim.key, *body),
            None => {}
        }
        let waiting = state.busy.remove(&self.claim.key);
        drop(state);
        if let Some(waiting) = waiting {
            waiting.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn claim(key: u8, body: u64) -> Claim {
        Claim {
            key: KeyHash::from_bytes([key; 16]),
            body,
        }
    }

    fn turn(taken: Taken) -> Arc<Turn> {
        match taken {
            Taken::Turn(turn) => turn,
            Taken::Known(body) => panic!("known with {body}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_waits_for_the_first_and_learns_what_it_came_to() {
        let turns = Arc::new(Turns::default());
        let first = turn(turns.take(claim(1, 5)).await);
        let mut second = Box::pin(turns.take(claim(1, 6)));
        assert!(second.as_mut().now_or_never().is_none());
        // Another key has nothing to do with it.
        drop(turn(turns.take(claim(2, 5)).await));
        first.note(Memory::Committed);
        drop(first);
        assert!(matches!(second.await, Taken::Known(5)));
        tokio::time::advance(RECENT).await;
        drop(turn(turns.take(claim(1, 6)).await));
    }

    #[tokio::test]
    async fn of_all_who_wait_one_goes_on_when_nothing_was_written() {
        let turns = Arc::new(Turns::default());
        let mut held = turn(turns.take(claim(1, 5)).await);
        let mut waiting: Vec<_> = (0..5).map(|_| Box::pin(turns.take(claim(1, 5)))).collect();
        while !waiting.is_empty() {
            let ready = |waiting: &mut Vec<_>| {
                let ready = |take: &mut std::pin::Pin<Box<_>>| {
                    Future::poll(
                        std::pin::Pin::as_mut(take),
                        &mut std::task::Context::from_waker(std::task::Waker::noop()),
                    )
                };
                let mut found = Vec::new();
                let mut at = 0;
                while at < waiting.len() {
                    match ready(&mut waiting[at]) {
                        std::task::Poll::Ready(taken) => {
                            found.push(taken);
                            drop(waiting.remove(at));
                        }
                        std::task::Poll::Pending => at += 1,
                    }
                }
                found
            };
            assert_eq!(ready(&mut waiting).len(), 0);
            drop(held);
            let mut found = ready(&mut waiting);
            assert_eq!(found.len(), 1);
            held = turn(found.remove(0));
        }
    }

    #[tokio::test]
    async fn the_cache_is_bounded() {
        let turns = Arc::new(Turns::default());
        for number in 0..RECENT_KEYS as u128 + 10 {
            let key = KeyHash::from_bytes(number.to_be_bytes());
            let turn = turn(turns.take(Claim { key, body: 1 }).await);
            turn.note(Memory::Known(1));
        }
        let state = turns.0.lock();
        assert_eq!(
            (state.order.len(), state.recent.len()),
            (RECENT_KEYS, RECENT_KEYS)
        );
        assert!(state.busy.is_empty());
    }
}
