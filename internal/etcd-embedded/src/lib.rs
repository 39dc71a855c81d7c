//! A single-node, persistent server of the etcd v3 gRPC API, inside the process.
//!
//! It exists so that one process needs no etcd beside it. All other code speaks to it through `etcd-client`, exactly as
//! it speaks to a real etcd, so there is one code path; the conformance suite in `tests/` runs against both.
//!
//! # Who owns what
//!
//! * One thread, the *writer*, changes the state. Requests that change something are queued to it; it drains the queue,
//!   applies everything, makes the whole group durable by one transaction, and only then answers and publishes the
//!   events. An error of the disk ends the server: what was not stored is never shown and never retried.
//! * Reads see durable revisions only, and do not wait for a write in flight.
//! * Watches hold no events of their own. Each reads the history at its own pace; one that falls behind the compaction
//!   is cancelled with the revision it can restart from. A slow watcher therefore costs no memory.
//! * Memory holds every live key and the history since the last compaction; the disk holds the same. The history is
//!   compacted automatically ([`Options::keep_revisions`]), so both are bounded by the live keys plus that.
//!
//! # Differences from a cluster
//!
//! * Leases live in memory. Granting one and keeping it alive touch no disk. **All leases of a previous boot are
//!   revoked when the directory is opened**: their keys are deleted, in one revision, before the first request is served.
//! * `raft_term` in the headers counts the boots.
//! * A transaction that puts a key and deletes it by a range without an end is refused, as with every other range. etcd
//!   overlooks the one without an end.
//! * A watch that starts at the revision of a compaction gets the deletions of that revision. etcd 3.4.23 forgets them.
//! * A lease can be as short as one second (etcd: two).
//! * The header revision of a watch response that carries events is the revision up to which this watcher has seen
//!   everything, so it is always safe to resume after it.
//! * Writes wait while the file is defragmented. The checksums (`endpoint hashkv`) are comparable between embedded stores
//!   only.
//!
//! # What it refuses to do
//!
//! Replication, authentication, the services `Lock` and `Election` (etcdctl's `lock` and `elect` need neither), snapshots,
//! changes of membership. There are no alarms. `etcdctl` works over TCP, and over the unix socket by a relative path
//! (`--endpoints=unix://etcd.sock` in the data directory); what it sends for others HTTP does not allow. The unix socket is
//! protected by its file mode; a TCP listener ([`Options::listen`]) is open to whoever reaches it. One process at a
//! time: a second one is refused ([`OpenError::AlreadyOpen`]). Linux only, for the path of the socket.

mod connection;
mod directory;
mod disk;
mod endpoint;
mod lease;
mod mvcc;
mod options;
mod refusal;
mod rpc;
mod server;
mod shared;
mod socket;
mod state;
mod stats;
mod txn;
mod writer;

pub use disk::OpenError;
pub use endpoint::Endpoint;
pub use options::Options;
pub use server::{ServeError, Server};
pub use stats::{Observer, Stats};
