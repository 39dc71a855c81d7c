//! The append protocol: how an http-source hands batches to a volume and learns, without doubt, what became of them.
//!
//! # Terms
//!
//! A *session* is one run of one http-source process. A [`Batch`] is bound to slices of one volume before it is first
//! sent, and every [`Part`] of it carries `(session, slice, seq)` with `seq` dense from 1 within that slice and session.
//! Once a batch was sent, neither its binding nor its bytes change until its outcome is known.
//!
//! # Answers
//!
//! | answer | what is certain | what the client does |
//! |---|---|---|
//! | [`Answer::Committed`] | every part is durable, as the slices' durability promises | acknowledges |
//! | [`Answer::Sealed`] | nothing of the batch was written, and nothing of the session after it in these slices | binds the records to the successors, mapped again if the mapping changed |
//! | [`Answer::Refused`] | the same | numbers them again from `expected`, or gives up with the reason |
//! | [`Answer::KnownKeys`] | the same | answers the records of those keys, sends the others again without them |
//! | [`Unknown`] | nothing | connects again and [`Connection::open`]s the slices of the batch |
//!
//! [`Opened::Last`] and [`Opened::Sealed`] settle an unknown batch: `seq <= last` was written, `seq > last` was not and
//! never will be, because opening drops what older connections of the session still had in the queue. Until then the batch
//! is never sent anywhere else: that is what keeps a lost answer from becoming a duplicate.
//!
//! A batch is one journal entry: all its parts are written or none is. So the request behind it is durable for all sinks of
//! its source or for none, and the parts of a batch never disagree about its outcome.
//!
//! # Idempotency keys
//!
//! A batch may carry [`Claim`]s: hashes of the keys of its records. They are written with the rows or not at all. A batch with a
//! key that the volume remembers is answered [`Answer::KnownKeys`] and not written; the sender takes those records out. See
//! [`key`].
//!
//! # Transports
//!
//! [`Transport`] and [`Connection`] hide whether the volume is in this process ([`direct`]) or behind the network
//! ([`network`]); [`anywhere`] takes the shorter way.

pub mod anywhere;
pub mod direct;
pub mod key;
pub mod network;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use stream_model::level::Compression;
use stream_model::{SessionId, SliceId, Timestamp, VolumeId};
use tokio::sync::oneshot;

pub use self::key::{Claim, KeyGate, KeyHash, KnownKey, MAX_CLAIMS};

/// The most bytes before compression that a batch should hold; one record may exceed it.
pub const TARGET_BATCH_BYTES: usize = 1 << 20;

/// Rows for the slices of one volume, written as a whole or not at all.
#[derive(Debug, Clone)]
pub struct Batch {
    /// One part per sink. Never empty; no slice occurs twice.
    pub parts: Vec<Part>,
    /// The idempotency keys of its records, at most [`MAX_CLAIMS`]. No key occurs twice.
    pub keys: Vec<Claim>,
}

/// The rows of a batch for one slice.
#[derive(Debug, Clone)]
pub struct Part {
    /// The slice.
    pub slice: SliceId,
    /// Number of the part within (session, slice): dense from 1.
    pub seq: u64,
    /// Rows in the frame, at least 1.
    pub rows: u32,
    /// Length of the rows before compression.
    pub raw_bytes: u32,
    /// Arrival of the earliest record.
    pub first_at: Timestamp,
    /// Arrival of the latest record.
    pub last_at: Timestamp,
    /// How the frame is compressed; must be the slice's compression.
    pub compression: Compression,
    /// The rows: one self-contained compressed frame with its own checksum.
    pub frame: Bytes,
}

impl Batch {
    /// Bytes that the batch occupies in queues.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let frames: usize = self.parts.iter().map(|part| part.frame.len()).sum();
        frames + self.keys.len() * size_of::<Claim>()
    }
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Written. Also the answer to a batch that had been written before.
    Committed,
    /// Not written: at least one slice takes no more rows.
    Sealed(BTreeMap<SliceId, Sealed>),
    /// Not written, for another reason.
    Refused(Refusal),
    /// Not written: the volume remembers some of its keys. Never empty.
    KnownKeys(Vec<KnownKey>),
}

/// What is known of a slice that takes no more rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// The highest sequence number of the session that is in the slice; 0 for none.
    pub last: u64,
    /// The slice that takes the rows now; none when the sink takes none.
    pub successor: Option<SliceId>,
}

/// Why a batch was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: RefusalReason,
    /// The next sequence number of the session for each slice of the batch that is known.
    pub expected: BTreeMap<SliceId, u64>,
}

/// Reasons for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// The slice is not open on this volume, or not yet: the news of it may still be on the way. Try again.
    UnknownSlice(SliceId),
    /// A sequence number is not the next one, because an earlier batch was refused. Number again.
    OutOfOrder,
    /// The slice remembers as many sessions as it can; it is being rotated. Try again with its successor.
    TooManySessions(SliceId),
    /// The disk or its share for the journal is full. Try later.
    DiskFull,
    /// The volume holds as much as it may. Try later.
    VolumeFull,
    /// The sink of this slice holds as much on the volume as it may. Try later.
    SinkFull(SliceId),
    /// Another volume decides about its keys, or this one cannot be sure at the moment that it does.
    KeysElsewhere,
    /// The queue is full. Try later.
    Overloaded,
    /// Writing or syncing failed, now or a moment ago, and it is certain that recovery will not bring the bytes back. Another
    /// volume may do better; this one tries its disk again by itself.
    WriteFailed,
    /// A newer connection of the session exists.
    Superseded,
    /// The volume is being closed.
    Stopping,
    /// The batch breaks a rule of this protocol.
    Malformed(&'static str),
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownSlice(slice) => write!(f, "slice {slice} is not open here"),
            Self::OutOfOrder => f.write_str("an earlier batch was refused"),
            Self::TooManySessions(slice) => write!(f, "slice {slice} has too many sessions"),
            Self::DiskFull => f.write_str("the disk is full"),
            Self::VolumeFull => f.write_str("the volume holds as much as it may"),
            Self::SinkFull(slice) => {
                write!(f, "the sink of slice {slice} holds as much as it may")
            }
            Self::KeysElsewhere => f.write_str("its keys are not decided about here"),
            Self::Overloaded => f.write_str("the volume is overloaded"),
            Self::WriteFailed => f.write_str("the disk failed to write"),
            Self::Superseded => f.write_str("a newer connection of the session exists"),
            Self::Stopping => f.write_str("the volume is being closed"),
            Self::Malformed(rule) => write!(f, "the batch is malformed: {rule}"),
        }
    }
}

/// The outcome cannot be told on this connection. Connect again and open the slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the outcome is unknown: the volume stopped before it answered")]
pub struct Unknown;

/// What the volume knows about a session in a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// The slice is open; the highest committed sequence number of the session, 0 for none.
    Last(u64),
    /// The slice takes no more rows.
    Sealed(Sealed),
    /// The volume does not know the slice. Its record in the state store may still settle the question.
    UnknownSlice,
}

/// The answer to one message, when it comes.
///
/// # Cancel safety
/// Dropping it gives up the answer, not the message: the batch may still be written.
#[derive(Debug)]
pub struct Pending<T>(oneshot::Receiver<T>);

impl<T> Pending<T> {
    /// A pending answer and the side that gives it. Dropping the sender means [`Unknown`].
    #[must_use]
    pub fn channel() -> (oneshot::Sender<T>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Unknown>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(|_| Unknown)
    }
}

/// A connection of one session to one volume. Messages are taken in the order of the calls.
pub trait Connection: Send + Sync {
    /// Sends a batch. The call itself fixes the order; the returned future only waits for the answer.
    fn append(&self, batch: Batch) -> Pending<Answer>;

    /// Asks what became of the session's batches in these slices. Batches of the session that older connections queued and
    /// that are not in a commit group yet are dropped first (answered [`RefusalReason::Superseded`]); the group in flight is
    /// waited for.
    fn open(&self, slices: Vec<SliceId>) -> Pending<BTreeMap<SliceId, Opened>>;

    /// For how long at least the volume remembers the keys that it has taken, as last heard, in whole seconds: a key that was
    /// committed within that time is answered [`Answer::KnownKeys`]. None when nothing was heard.
    fn key_window_seconds(&self) -> Option<u32> {
        None
    }
}

/// No connection to the volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The volume is not served anywhere that is known.
    #[error("volume {0} is not served by any live writer")]
    NoRoute(VolumeId),
    /// The volume is served but takes nothing, with the reason.
    #[error("volume {volume} takes no batches: {reason}")]
    Closed {
        /// The volume.
        volume: VolumeId,
        /// Why.
        reason: String,
    },
    /// The writer that should serve the volume does not answer.
    #[error("volume {volume} cannot be reached at {address}: {reason}")]
    Unreachable {
        /// The volume.
        volume: VolumeId,
        /// Where its writer is said to be.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The writer speaks other versions of the protocol.
    #[error(
        "the writer of volume {volume} speaks versions {oldest} to {newest} of the append protocol, this process does not; \
         upgrade the older of the two"
    )]
    Version {
        /// The volume.
        volume: VolumeId,
        /// The oldest version that the writer speaks.
        oldest: u16,
        /// The newest.
        newest: u16,
    },
}

/// A way to volumes.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Connects the session to a volume.
    async fn connect(
        &self,
        volume: VolumeId,
        session: SessionId,
    ) -> Result<Box<dyn Connection>, ConnectError>;
}
