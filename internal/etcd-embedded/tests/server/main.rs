//! The server through a real client: conformance with etcd, persistence, starting and stopping.

#![allow(clippy::disallowed_methods, reason = "a test joins what it spawns")]

mod conformance;
mod differential;
mod harness;
mod model;
mod persistence;
mod serving;
