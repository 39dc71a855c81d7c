//! What the end-to-end tests and the load generator share: a real process on a directory of its own, a small HTTP client,
//! a seeded generator of webhooks, and what a table must hold once those are imported.
//!
//! The expectation is computed here from the structure that the generator built, by code that shares nothing with the
//! service: a mistake in its mapping cannot hide in its own test. Nothing here is linked into the service, and the service
//! is only known as a program with arguments, an environment, ports and files.

#![allow(
    clippy::disallowed_methods,
    reason = "tests and tools spawn, wait and look at the clock themselves"
)]

pub mod client;
pub mod expectation;
pub mod log;
pub mod program;
pub mod proxy;
pub mod scratch;
pub mod service;
pub mod setup;
pub mod table;
pub mod tmpfs;
pub mod webhook;
