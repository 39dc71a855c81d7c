//! The repository against the embedded server, and against a real etcd when `STREAM_TEST_ETCD_ENDPOINT` names one.

#![allow(
    clippy::disallowed_methods,
    reason = "tests spawn tasks that they join themselves"
)]
#![allow(
    clippy::large_futures,
    reason = "a test has one future and a stack of its own"
)]

mod support;

mod definitions;
mod files;
mod import;
mod leases;
mod mirror;
mod others;
