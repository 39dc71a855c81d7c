//! Local disk and staging: where rows are between the moment they are accepted and the moment they are imported.
//!
//! - [`wire`] is the protocol by which an http-source hands batches to a volume and learns what became of them.
//! - [`local`] keeps batches on a local disk: the volume, its journal, its slice files, recovery.
//! - [`staging`] keeps sealed slices in object storage until they are imported.
//!
//! The crate deals in bytes and paths. It knows nothing of etcd, so disk code can never wait on it by accident; what the
//! cluster's state has to say (which slice is open here, which one is to be sealed) arrives as calls.

pub mod crash;
pub mod local;
pub mod staging;
pub mod wire;
