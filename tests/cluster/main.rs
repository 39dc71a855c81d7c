//! Tests that run the service as real processes: start, refusals, kill, stop.
//!
//! `STREAM_TEST_SEED` repeats a run; each test prints the seed it used.

#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    missing_docs,
    reason = "tests spawn, wait and print"
)]

mod any_bytes;
mod api_crashes;
mod crash;
mod crash_points;
mod disk_full;
mod etcd_keys;
mod etcd_load;
mod etcd_namespaces;
mod etcd_outage;
mod etcd_start;
mod failing_disk;
mod idempotency;
mod ledger;
mod numbers;
mod ownership;
mod pods;
mod project_crashes;
mod projects;
mod purge;
mod refusals;
mod rejects;
mod requests;
mod same_sink;
mod shutdown;
mod sinks;
mod start;
mod state_command;
mod templates;
mod token_command;
mod traffic;
mod verdict;
mod volume_command;
mod volume_forget;
mod wire;

use stream_tests::scratch::Scratch;
use stream_tests::setup::Setup;

/// The seed of a test: from the environment, or another one each time.
fn seed(test: &str) -> u64 {
    let given = std::env::var("STREAM_TEST_SEED").ok();
    let seed = given.map_or_else(rand::random, |text| {
        text.parse().expect("STREAM_TEST_SEED is a number")
    });
    eprintln!("{test}: STREAM_TEST_SEED={seed}");
    seed
}

/// A new directory and the start of all components in it.
fn new_setup() -> (Scratch, Setup) {
    let scratch = Scratch::new().expect("a directory");
    let setup = Setup::new(scratch.path()).expect("free ports");
    (scratch, setup)
}
