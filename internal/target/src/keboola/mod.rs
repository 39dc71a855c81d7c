//! Tables of Keboola projects, through the Storage API of their installation.
//!
//! ```text
//! API ── token of a request ──▶ identity: whose it is, which project, which branch
//! task of a sink ─────────────▶ bucket, table, scoped token, staging file, event
//! ```
//!
//! The Storage API is somebody else's and far away: every call has a time limit and a limit of what is read, calls that change
//! nothing are tried again, and its errors keep their own names so that clients that know them find them.
//!
//! Invariants:
//!
//! - A token is never part of an error, a log or a path.
//! - A call that may have changed something is not made again without looking.

mod address;
mod client;
mod custody;
mod error;
mod exchange;
mod identity;
mod job;
mod project;
mod table_id;
mod tls;

#[cfg(test)]
mod tests;

pub use address::{Address, InvalidAddress};
pub use client::{Options, StorageApi};
pub use custody::{Custody, CustodyError, InvalidKey};
pub use error::{Refusal, StorageApiError};
pub use identity::{Holder, Identity};
pub use project::{Bucket, NewFile, NewToken, Project, ProjectTable};
pub use table_id::{InvalidTableId, TableId, check_fit, validate};
pub use tls::NoAuthorities;
