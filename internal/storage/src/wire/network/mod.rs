//! The transport to volumes of other processes: one bidirectional gRPC stream per session and volume.
//!
//! | part | runs in | does |
//! |---|---|---|
//! | [`Network`] | the http-source | makes a stream for each connection, one channel per writer process |
//! | [`NetworkTask`] | the http-source | hands the answers to those who wait for them |
//! | [`serve`] | the storage-writer | lets streams in to its volumes and answers them |
//!
//! # What a stream keeps of the protocol
//!
//! The http-source says hello with its session, the volume, and the incarnation of the volume that its route is about; nothing
//! else is sent before the writer has welcomed it. So a volume numbers its connections in the order in which the http-source
//! made them, and whatever an older stream still has on the way arrives on an older connection. Messages are taken in the order
//! in which they were sent, answers come in any order and name the message. When a stream breaks, every message without an
//! answer is [`Unknown`](super::Unknown), whether it was sent or not, and nothing is sent again by this module.
//!
//! A stream that is dropped by the http-source is dropped by the writer: it reads nothing more from it. What it had read by then
//! may still be committed, which opening the slices on a newer stream waits for.
//!
//! # Bounds
//!
//! The http-source holds at most [`MAX_OUTSTANDING_BYTES`] of batches without an answer for each stream; more are refused as
//! `Overloaded` without being sent. The writer holds at most [`MAX_UNANSWERED`] messages of each stream, and what its volumes
//! admit; it stops reading when it has as many, so that the flow control of HTTP/2 holds back the rest. A message is at most
//! [`MAX_MESSAGE_BYTES`] long.
//!
//! # What it refuses
//!
//! Routes to volumes that are not served there or under another incarnation, other versions, messages that are none. Each by a
//! type; texts are for people.

mod client;
mod codec;
mod message;
mod metrics;
mod server;
mod socket;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;
use stream_model::{SessionId, VolumeId};

pub use client::{Network, NetworkTask};
pub use metrics::{ClientMetrics, ServerMetrics};
pub use server::serve;
pub use socket::{Dial, Duplex, PlainDial};

use super::{ConnectError, Connection};
use crate::local::MAX_BATCH_BYTES;

/// The method of all streams.
const PATH: &str = "/stream.wire.Append/Exchange";
/// The longest message: any batch that a volume takes from its own process, with room for the headers of its parts.
pub const MAX_MESSAGE_BYTES: usize = MAX_BATCH_BYTES + (1 << 20);
/// Batches without an answer that a stream of an http-source holds, in bytes. One alone may be longer.
pub const MAX_OUTSTANDING_BYTES: usize = 64 << 20;
/// Messages of a stream that a writer has read and not answered.
pub const MAX_UNANSWERED: usize = 1024;
/// What either side may send on a stream before the other has taken it.
const STREAM_WINDOW: u32 = 4 << 20;
/// The same for all streams between two processes.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Longest frame of HTTP/2.
const FRAME: u32 = 256 << 10;

/// How the streams of a process are kept.
#[derive(Debug, Clone, Copy)]
pub struct NetworkOptions {
    /// How often a silent peer is asked for a sign of life. One that gives none for as long again is gone.
    pub keep_alive_interval: Duration,
    /// How long the opening of a stream may take, connecting included.
    pub open_timeout: Duration,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            keep_alive_interval: Duration::from_secs(5),
            open_timeout: Duration::from_secs(10),
        }
    }
}

/// Where a volume is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Host and port of the writer.
    pub address: String,
    /// The opening of the volume that is served there.
    pub incarnation: u64,
}

/// Knows where volumes are served. Answers come from memory.
pub trait Routes: Send + Sync {
    /// Where the volume is served; none when no live writer is known to.
    fn find(&self, volume: VolumeId) -> Option<Route>;

    /// Says that an answer was missing or wrong: a look for news is worth while.
    fn doubt(&self);
}

/// Who wants in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The session.
    pub session: SessionId,
    /// The volume that it wants to write to.
    pub volume: VolumeId,
    /// The opening of the volume that it means.
    pub incarnation: u64,
}

/// Lets streams in to volumes.
#[async_trait]
pub trait Admit: Send + Sync {
    /// Connects a caller to the volume that it means.
    async fn admit(&self, caller: Caller) -> Result<Box<dyn Connection>, ConnectError>;
}
