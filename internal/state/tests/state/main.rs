//! The repository against the embedded server, and against a real etcd where there is one.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn tasks that they join themselves"
)]
#![allow(
    clippy::print_stderr,
    reason = "seeds and figures of long tests are printed"
)]
#![allow(
    clippy::large_futures,
    reason = "a test has one future and a stack of its own"
)]

mod setup;
mod support;

mod audit;
mod connections;
mod definitions;
mod dropping;
mod files;
mod forget;
mod import;
mod key_owners;
mod leases;
mod ledger;
mod locks;
mod members;
mod mirror;
mod others;
mod purge;
mod rejects;
mod superseded;
