//! The queue between connections and the commit thread: bounded in bytes, filled by calls, drained a group at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};

use parking_lot::{Condvar, Mutex};
use stream_model::{SessionId, SliceId};
use tokio::sync::oneshot;

use super::volume::Content;
use crate::wire::{Answer, Batch, Opened, Refusal, RefusalReason};

/// Bytes of batches in one group. More would only delay the answers of the first.
const MAX_GROUP_BYTES: usize = 8 << 20;

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
    /// Try whether the disk works again.
    Probe,
}

pub(super) type OpenReply = oneshot::Sender<BTreeMap<SliceId, Opened>>;

#[derive(Debug, Default)]
struct State {
    ops: VecDeque<Op>,
    /// Bytes of the batches in `ops`.
    bytes: usize,
    /// Sessions that are connected. A session is forgotten with its last connection: nobody is left then who could be
    /// superseded.
    sessions: HashMap<SessionId, Connections>,
    closed: Option<Closed>,
}

/// The connections of a session.
#[derive(Debug, Default)]
struct Connections {
    count: usize,
    /// The newest one that has opened slices; 0 for none.
    newest: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// What is queued is still answered.
    Stopping,
    /// What is queued is dropped: its outcome is unknown.
    Failed,
}

/// What there is to do.
#[derive(Debug)]
pub(super) enum Next {
    Group(Vec<Op>),
    Empty,
    /// The queue is closed, and nothing in it is to be done any more.
    Closed,
}

impl State {
    fn take_group(&mut self) -> Next {
        if self.closed == Some(Closed::Failed) {
            return Next::Closed;
        }
        if self.ops.is_empty() {
            return self.closed.map_or(Next::Empty, |_| Next::Closed);
        }
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(op) = self.ops.pop_front() {
            if let Op::Append { batch, .. } = &op {
                if bytes > 0 && bytes + batch.bytes() > MAX_GROUP_BYTES {
                    self.ops.push_front(op);
                    break;
                }
                bytes += batch.bytes();
            }
            group.push(op);
        }
        self.bytes -= bytes;
        Next::Group(group)
    }
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

    /// Notes a new connection of a session.
    pub fn connected(&self, session: SessionId) {
        self.state.lock().sessions.entry(session).or_default().count += 1;
    }

    /// Notes the end of one.
    pub fn disconnected(&self, session: SessionId) {
        let mut state = self.state.lock();
        if let Some(connections) = state.sessions.get_mut(&session) {
            connections.count -= 1;
            if connections.count == 0 {
                state.sessions.remove(&session);
            }
        }
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
            .sessions
            .get(&session)
            .is_some_and(|connections| connection < connections.newest);
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
        if let Some(connections) = state.sessions.get_mut(&session) {
            connections.newest = connection.max(connections.newest);
        }
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

    /// Queues a seal, a release or a probe. After the queue was closed it is dropped.
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
            match state.take_group() {
                Next::Group(group) => return Some(group),
                Next::Closed => return None,
                Next::Empty => self.filled.wait(&mut state),
            }
        }
    }

    /// The same without waiting.
    pub fn try_next_group(&self) -> Next {
        self.state.lock().take_group()
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
