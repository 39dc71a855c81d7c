//! What exists: the nouns of the service, their states, and the rules that hold between them.
//!
//! Everything here is pure. No I/O, no runtime, no clock of its own: the present time and randomness are arguments.
//! All other crates build on these types, so a rule that is broken here is broken everywhere, and a rule that is
//! enforced here (an illegal transition, a malformed identifier) cannot be broken by a caller.
//!
//! The crate refuses to know how anything is stored or sent. Types that cross etcd carry `serde` derives because
//! their field names are part of the on-disk format (`docs/formats.md`).

pub mod definition;
pub mod destination;
pub mod file;
pub mod hours;
pub mod id;
pub mod idempotency;
pub mod invariant;
pub mod key;
pub mod ledger;
pub mod level;
pub mod opening;
pub mod placement;
pub mod purge;
pub mod rate;
pub mod rejects;
pub mod request;
pub mod retry;
pub mod secret;
pub mod slice;
pub mod statistics;
pub mod time;
pub mod trigger;
pub mod unit;

pub use id::{BranchId, FileId, NodeId, ProjectId, SessionId, SinkId, SliceId, SourceId, VolumeId};
pub use key::{BranchKey, SinkKey, SourceKey};
pub use request::RequestId;
pub use secret::Secret;
pub use time::{Clock, Timestamp};

/// What a caller can do about an error, whatever operation it comes from.
///
/// Every error enum of the service answers `kind()` with one of these, so that the mapping to an HTTP status, to a
/// retry or to an exit is written once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Somebody else changed the same thing first. Read again, then decide again.
    Conflict,
    /// The named thing does not exist. Repeating the call does not help.
    NotFound,
    /// The request itself is wrong. Repeating it unchanged does not help.
    Invalid,
    /// A peer, a disk or a limit is in the way for now. The same call may succeed later.
    Unavailable,
    /// Stored bytes are not what was written. A person should look; the operation goes on without them where it can.
    Corrupt,
    /// The process is stopping and takes no new work.
    ShuttingDown,
}
