//! Who waits for which answer on a stream.

use std::collections::{BTreeMap, HashMap};

use prometheus::IntGauge;
use stream_model::SliceId;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::super::message::Request;
use crate::wire::{Answer, Opened};

/// Who waits for the answer to a message.
pub(super) enum Waiter {
    /// To a batch.
    Append {
        /// Where the answer goes.
        reply: oneshot::Sender<Answer>,
        /// Bytes of the batch.
        bytes: usize,
    },
    /// To the question what became of others.
    Open(oneshot::Sender<BTreeMap<SliceId, Opened>>),
}

/// Messages without an answer, and the way for more.
pub(super) struct Waiting {
    /// None: nothing more is sent. What waits in it is bounded by `bytes`; the stream drains it as the writer reads.
    sender: Option<UnboundedSender<Request>>,
    /// The writer stops, and answers only what it has got.
    leaving: bool,
    next: u64,
    waiters: HashMap<u64, Waiter>,
    /// Bytes of the batches among them.
    bytes: usize,
    outstanding: IntGauge,
    /// What the volume said last.
    key_window: Option<u32>,
}

impl Waiting {
    /// Nobody waits. Messages are sent to `sender`, and their bytes are shown in `outstanding`.
    pub fn new(sender: UnboundedSender<Request>, outstanding: IntGauge) -> Self {
        Self {
            sender: Some(sender),
            leaving: false,
            next: 1,
            waiters: HashMap::new(),
            bytes: 0,
            outstanding,
            key_window: None,
        }
    }

    /// For how many seconds at least the volume remembers idempotency keys, as it said last.
    pub fn key_window(&self) -> Option<u32> {
        self.key_window
    }

    /// Whether the writer has said goodbye and is still there.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Whether a batch may be sent when all without an answer may have `max` bytes. One alone may be longer.
    pub fn has_room_for(&self, bytes: usize, max: usize) -> bool {
        self.bytes == 0 || self.bytes.saturating_add(bytes) <= max
    }

    /// Sends a message. On a closed stream the waiter is dropped, which tells it that the outcome is unknown.
    pub fn send(&mut self, waiter: Waiter, message: impl FnOnce(u64) -> Request) {
        let Some(sender) = &self.sender else {
            return;
        };
        let id = self.next;
        if sender.send(message(id)).is_err() {
            return;
        }
        self.next += 1;
        self.count(&waiter, 1);
        self.waiters.insert(id, waiter);
    }

    /// Hands out the answer to a batch, and notes what the volume says of its keys. False when nobody waits for it.
    pub fn answer(&mut self, id: u64, window: Option<u32>, answer: Answer) -> bool {
        self.key_window = window;
        match self.take(id) {
            Some(Waiter::Append { reply, .. }) => {
                // Whoever asked may have given up.
                let _ = reply.send(answer);
                true
            }
            Some(Waiter::Open(_)) | None => false,
        }
    }

    /// Hands out the answer to an open. False when nobody waits for it.
    pub fn opened(&mut self, id: u64, opened: BTreeMap<SliceId, Opened>) -> bool {
        match self.take(id) {
            Some(Waiter::Open(reply)) => {
                let _ = reply.send(opened);
                true
            }
            Some(Waiter::Append { .. }) | None => false,
        }
    }

    /// Sends nothing more; answers still come.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.sender = None;
    }

    /// No answer comes any more: what has none is unknown.
    pub fn close(&mut self) {
        self.leaving = false;
        self.sender = None;
        for (_, waiter) in std::mem::take(&mut self.waiters) {
            self.count(&waiter, -1);
        }
    }

    fn take(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waiters.remove(&id)?;
        self.count(&waiter, -1);
        Some(waiter)
    }

    fn count(&mut self, waiter: &Waiter, sign: i64) {
        let Waiter::Append { bytes, .. } = waiter else {
            return;
        };
        self.bytes = match sign {
            1 => self.bytes.saturating_add(*bytes),
            _ => self.bytes.saturating_sub(*bytes),
        };
        let bytes = i64::try_from(*bytes).unwrap_or(i64::MAX);
        self.outstanding.add(sign * bytes);
    }
}
