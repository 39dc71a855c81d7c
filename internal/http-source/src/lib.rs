//! Receives records over HTTP, makes rows of them, and answers when the rows are durable.
//!
//! ```text
//!              templates (evaluator processes, where a mapping needs them)
//!                 │
//! receive ─▶ dispatch ─▶ mapper ─▶ lane (open batch) ─▶ owner task ─▶ link ─▶ volume
//!    ▲            │                                         │
//!    │            └── table ◀── feed ◀── mirror             │ one wake-up
//!    └───────────────── answer ◀── completion ◀─────────────┘ per batch
//! ```
//!
//! A request adds its rows to the open batch of a *lane*, one per source and volume, and waits. The task of the lane
//! sends batches by the append protocol (`stream_storage::wire`) and publishes each outcome once, for all its requests.
//!
//! Invariants:
//!
//! * A record that is acknowledged is in every enabled sink of its source that did not refuse it; a record whose request
//!   failed with anything but `outcomeUnknown` is in none, and never will be.
//! * A record that a sink rejects is kept, in the same batch as the rows of the others, before its sender is told so; where
//!   the sink has no slice for that yet, it is counted.
//! * A record is written at most once, whatever answers are lost and whichever slices are sealed meanwhile (`lane`).
//! * A key is written at most once within what its volume remembers, whoever sends it and however often (`turns`, `key`).
//! * Memory for records that wait is bounded for the whole process, no source and no volume can take all of it (`admission`),
//!   and each is answered by its deadline.
//! * What a source sends beyond its rate is refused before it is mapped (`intake`).
//! * Nothing is answered 2xx and dropped: a source without enabled sinks refuses.
//!
//! The crate refuses to decide where slices are, when they rotate and what they contain: it reads that from the mirror.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests join what they spawn")
)]
#![allow(
    clippy::result_large_err,
    reason = "these errors give a record or a batch back to its owner; a box would cost an allocation to save a move"
)]

mod access;
mod admission;
mod answer;
mod balance;
mod batch;
mod body;
mod bucket;
mod completion;
mod component;
mod config;
mod dispatch;
#[cfg(test)]
mod end_to_end;
mod feed;
mod frames;
mod head;
mod intake;
mod key;
mod lane;
mod lanes;
mod link;
mod many;
mod mapper;
mod metrics;
mod position;
mod receive;
mod request_id;
mod route;
mod source_metrics;
mod table;
mod templates;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod turns;
mod visit;
mod writers;

pub use component::{Deps, HttpSource, StartError};
pub use config::{AccessLog, Config, Jsonnet, RateLimits, SourceMetrics, TlsFiles};
pub use writers::{LISTENER as WRITER_LISTENER, Writers};
