//! The queue between connections and the commit thread: bounded in bytes, filled by calls, drained a group at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};

use parking_lot::{Condvar, Mutex};
use stream_model::{SessionId, SliceId};
use tokio::sync::oneshot;

use super::volume::Content;
use crate::wire::{Answer, Batch, Opened, Refusal, RefusalReason};

/// Bytes of batches in one group. More would only delay the answers of the first.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// Sessions whose newest connection is remembered. Sessions end with their process; old ones are forgotten in bulk.
const MAX_REMEMBERED_SESSIONS: usize = 4096;

/// Something for the commit thread to do, in order.
#[derive(Debug)]
pub(super) enum Op {
    Append {
        session: SessionId,
        connection: u64,
        batch: Batch,
        reply: oneshot::Sender<Answer>,
    },
    Open {
        session: SessionId,
        slices: Vec<SliceId>,
        reply: OpenReply,
    },
    Seal {
        slice: SliceId,
        successor: Option<SliceId>,
        reply: oneshot::Sender<Content>,
    },
    Release {
        slice: SliceId,
    },
}

pub(super) type OpenReply = oneshot::Sender<BTreeMap<SliceId, Opened>>;

#[derive(Debug, Default)]
struct State {
    ops: VecDeque<Op>,
    /// Bytes of the batches in `ops`.
    bytes: usize,
    /// The newest connection of each session that has opened slices.
    newest: HashMap<SessionId, u64>,
    closed: Option<Closed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// What is queued is still answered.
    Stopping,
    /// What is queued is dropped: its outcome is unknown.
    Failed,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    max_bytes: usize,
}

impl Queue {
    pub fn new(max_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            max_bytes,
        }
    }

    /// Bytes of batches that wait.
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Queues a batch, or refuses it at once.
    pub fn append(
        &self,
        session: SessionId,
        connection: u64,
        batch: Batch,
        reply: oneshot::Sender<Answer>,
    ) {
        let mut state = self.state.lock();
        let superseded = state
            .newest
            .get(&session)
            .is_some_and(|newest| connection < *newest);
        let reason = match state.closed {
            Some(Closed::Stopping) => Some(RefusalReason::Stopping),
            Some(Closed::Failed) => return, // Dropping the reply means: unknown.
            None if superseded => Some(RefusalReason::Superseded),
            None if state.bytes + batch.bytes() > self.max_bytes && state.bytes > 0 => {
                Some(RefusalReason::Overloaded)
            }
            None => None,
        };
        if let Some(reason) = reason {
            drop(state);
            refuse(reply, reason);
            return;
        }
        state.bytes += batch.bytes();
        state.ops.push_back(Op::Append {
            session,
            connection,
            batch,
            reply,
        });
        drop(state);
        self.filled.notify_one();
    }

    /// Queues the question what became of a session's batches, and drops what its older connections queued.
    pub fn open(
        &self,
        session: SessionId,
        connection: u64,
        slices: Vec<SliceId>,
        reply: OpenReply,
    ) {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return;
        }
        if state.newest.len() >= MAX_REMEMBERED_SESSIONS {
            state.newest.clear();
        }
        let newest = state.newest.entry(session).or_default();
        *newest = connection.max(*newest);
        let (dropped, kept) = std::mem::take(&mut state.ops).into_iter().partition(|op| {
            matches!(op, Op::Append { session: s, connection: c, .. } if *s == session && *c < connection)
        });
        state.ops = kept;
        state.ops.push_back(Op::Open {
            session,
            slices,
            reply,
        });
        let dropped: VecDeque<Op> = dropped;
        for op in dropped {
            if let Op::Append { batch, reply, .. } = op {
                state.bytes -= batch.bytes();
                refuse(reply, RefusalReason::Superseded);
            }
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Queues a seal or a release. After the queue was closed it is dropped.
    pub fn push(&self, op: Op) {
        let mut state = self.state.lock();
        if state.closed.is_none() {
            state.ops.push_back(op);
            drop(state);
            self.filled.notify_one();
        }
    }

    /// Waits for something to do and takes it: all that waits, up to [`MAX_GROUP_BYTES`] of batches. None when the queue
    /// is closed and, if it was closed orderly, empty.
    pub fn next_group(&self) -> Option<Vec<Op>> {
        let mut state = self.state.lock();
        loop {
            if state.closed == Some(Closed::Failed) {
                return None;
            }
            if !state.ops.is_empty() {
                break;
            }
            if state.closed.is_some() {
                return None;
            }
            self.filled.wait(&mut state);
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(op) = state.ops.pop_front() {
            if let Op::Append { batch, .. } = &op {
                if bytes > 0 && bytes + batch.bytes() > MAX_GROUP_BYTES {
                    state.ops.push_front(op);
                    break;
                }
                bytes += batch.bytes();
            }
            group.push(op);
        }
        state.bytes -= bytes;
        Some(group)
    }

    /// Takes nothing more; what is queued is still done.
    pub fn stop(&self) {
        self.close(Closed::Stopping);
    }

    /// Takes nothing more and drops what is queued, unanswered.
    pub fn fail(&self) {
        let dropped = {
            let mut state = self.state.lock();
            state.closed = Some(Closed::Failed);
            state.bytes = 0;
            std::mem::take(&mut state.ops)
        };
        drop(dropped);
        self.filled.notify_all();
    }

    fn close(&self, how: Closed) {
        let mut state = self.state.lock();
        if state.closed.is_none() {
            state.closed = Some(how);
        }
        drop(state);
        self.filled.notify_all();
    }
}

/// Answers a refusal that has no numbers to expect.
pub(super) fn refuse(reply: oneshot::Sender<Answer>, reason: RefusalReason) {
    // The client may have gone; then nobody needs the answer.
    let _ = reply.send(Answer::Refused(Refusal {
        reason,
        expected: BTreeMap::new(),
    }));
}
