//! The server through a real client: conformance with etcd, persistence, starting and stopping.

#![allow(clippy::disallowed_methods, reason = "a test joins what it spawns")]

mod bounded;
mod conformance;
mod differences;
mod differential;
mod etcdctl;
mod harness;
mod killed;
mod model;
mod persistence;
mod serving;
