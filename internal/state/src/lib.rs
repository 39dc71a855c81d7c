//! The state of the service in etcd: definitions, files, slices, volumes, tasks and tokens.
//!
//! This crate is the only user of etcd's client; the other side is a real etcd or the embedded server, and nothing here
//! can tell which. It offers two things:
//!
//! * [`Store`]: verbs that change one thing. Each is one compare-and-swap transaction on the revisions that the caller
//!   read, checked against the rules of `stream_model::invariant` before it is sent.
//! * [`Mirror`]: a picture of all definitions, files and slices in memory, fed by one watch. It always shows one revision
//!   as a whole.
//!
//! Invariants:
//!
//! * A sink has at most one writing file: [`keyspace::Key::Current`] names it and is part of every transaction that opens
//!   or closes a file.
//! * A slice is created only together with a comparison that its file is writing, so the slices of a closed file can only
//!   become fewer.
//! * An uploaded slice never changes until its imported file is removed.
//! * Every request has a deadline. A transaction whose answer got lost is reported as [`StateError::Unavailable`] although
//!   it may have been applied: callers read again, as reconcilers do anyway.
//!
//! The crate refuses to decide: what is opened, closed or moved, and when, is up to its callers. It spawns no tasks and
//! reads no clock; what runs in the background is offered as a `run` or `keep_alive` future.

pub mod audit;
mod backoff;
mod change;
mod codec;
mod connect;
pub mod crash;
mod error;
mod failover;
#[cfg(test)]
mod golden;
pub mod keyspace;
mod lease;
mod lock;
mod metrics;
mod mirror;
mod repository;
mod store;
mod topology;
mod txn;

pub use connect::{ConnectOptions, Tls, connect};
pub use error::StateError;
pub use lease::Lease;
pub use lock::Lock;
pub use metrics::Metrics;
pub use mirror::{Mirror, MirrorTask};
pub use repository::file::{ClosedFile, Opening};
pub use repository::forget::{Loss, Tombstone};
pub use repository::ledger::Ledger;
pub use repository::node::NodeRegistration;
pub use repository::purge::Remains;
pub use repository::slice::Rotation;
pub use repository::source::SourceTree;
pub use repository::task::{Outputs, Task, TaskStatus};
pub use repository::volume::{Incarnation, Registration};
pub use repository::whereabouts::Whereabouts;
pub use store::{Store, Versioned};
pub use topology::{SinkNode, SourceNode, Topology};
