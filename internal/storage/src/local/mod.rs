//! Rows on a local disk, from acceptance until they are safe in staging.
//!
//! # A volume
//!
//! A [`Volume`] is one directory that one process at a time may open. It holds a journal, shared by all slices, and one
//! file for each slice:
//!
//! ```text
//! <dir>/volume-id          identity; made at the first opening
//!       lock               held with flock while open
//!       journal/           segments, written in turn and used again
//!       checkpoint/        the two newest checkpoints
//!       slices/            one file for each slice that has rows
//!       keys/              idempotency keys that are not in the journal only
//! ```
//!
//! # Path of a batch
//!
//! ```text
//! connection ─▶ queue ─▶ commit thread: group ─▶ journal, one fdatasync ─▶ answers
//!                                                      │
//!                        flush thread: frames from the journal, coalesced ─▶ slice file (page cache)
//! ```
//!
//! While one fdatasync runs the next group gathers; there is no timer. A slice file gets only committed frames, and is
//! synced only by a checkpoint: until then the journal can rebuild it, byte for byte by the same rule.
//!
//! # Invariants
//!
//! - A batch is answered `Committed` only after the fdatasync that covers it has returned without error.
//! - Bytes that were acknowledged are never written over: each group starts on a new 4 KiB block, and a recovered journal
//!   goes on in a new segment.
//! - A failed write or sync is never tried again in place. The next segment's header says up to where the failed one is
//!   valid; only when that header is durable are the batches of the failed group answered `Refused`.
//! - A journal segment is used again only when every slice with entries in it was released, or is covered by both retained
//!   checkpoints. One that records a release stays until the removal of the slice's file is durable.
//! - What recovery finds is made durable before anybody is told of it: an earlier process may have left it in the cache of the
//!   system only, and a failed sync may have left there what will never be on the disk.
//! - That something cannot be read is never taken for its absence.
//!
//! The format of every file is described in `docs/formats.md`.

mod ballast;
mod checkpoint;
mod commit;
pub mod disk;
pub mod durable;
mod flush;
mod format;
mod frames;
mod identity;
mod index;
pub mod inspect;
mod journal;
mod keys;
mod loss;
mod metrics;
mod observe;
mod queue;
mod recovery;
mod scan;
mod segment;
mod slice_file;
mod sound;
mod space;
mod suspension;
#[cfg(test)]
mod tests;
mod volume;
mod worker;

pub use commit::MAX_BATCH_BYTES;
pub use metrics::Metrics;
pub use recovery::{Damage, Recovery, slice_file_path};
pub use volume::{
    Content, CrossedSlice, Health, OpenError, Options, SliceSpec, SliceStatus, Stage, Status,
    Volume, VolumeConnection,
};
pub use worker::{CommitWorker, FlushWorker, Step};
