//! The configuration API: declares sources and sinks, changes their settings, shows what became of their rows.
//!
//! ```text
//! request ─ route ─ token ─ read input ─┬─ GET ────────────────▶ view of what state says
//!                                       └─ POST PATCH DELETE ──▶ 202 with a task ─ queue of the entity ─▶ state, target
//! ```
//!
//! Every change runs as a *task*: the request checks what can be checked at once, records the task and answers 202; the
//! work follows in the background, one task at a time per entity and in the order of the requests, and its outcome is
//! stored in the task. Shapes and error names are an interface that existing clients rely on; the texts are ours.
//!
//! Invariants:
//!
//! - Nothing but the index, the health check and answers to `OPTIONS` is given without a token.
//! - A request that is refused has changed nothing. A task that failed says why in its `error`.
//! - A second creation of the same entity is answered 409, also while the first one still runs.
//! - Whoever tries tokens is slowed down, see `failures`.
//! - A secret (token, URL of a source) is in an answer at most, never in a log, a metric or an error.
//!
//! The crate refuses to hold state of its own: whatever must outlive the process is in etcd. It opens the first file of a
//! new sink so that it takes rows at once; everything later in the life of files and slices is the coordinator's.

mod auth;
mod config;
mod content;
mod context;
mod destination;
mod documentation;
mod dry_run;
mod error;
mod failures;
mod fate;
mod fields;
mod handler;
mod input;
mod lifecycle;
mod metrics;
mod operation;
mod orphan;
mod purge;
mod request;
mod response;
mod route;
mod server;
mod survey;
mod task;
mod templates;
pub mod token;
mod traces;
mod view;

#[cfg(test)]
mod tests;

pub use config::{Config, InvalidConfig};
pub use dry_run::RecordLimits;
pub use server::{Api, Deps, Projects, StartError};
pub use traces::{Kept, Traces};
