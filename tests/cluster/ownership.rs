//! A volume belongs to one writer at a time: two processes on one directory, copies of a volume, paused and restarted
//! processes, and volumes that are given up, all under load and on a real etcd.
//!
//! Longer runs: `STREAM_TEST_PAUSE_SECONDS` (a paused or absent process, 4 s), `STREAM_TEST_ROUNDS` (pauses of coordinators and
//! processes that take over, 3), `STREAM_TEST_RESTARTS` (of a rolling restart, 10).

mod copies;
mod forgetting;
pub mod installation;
pub mod load;
mod pauses;
mod taking_over;

use std::time::Duration;

/// What a process may say when it, or its etcd, was paused, cut off, or starved of processors for longer than its time to live,
/// which is short here.
const AFTER_A_PAUSE: &[&str] = &[
    "lease lost, registering again",
    "state store lost",
    "reconciler failing, will go on trying",
    "cannot read which volumes and coordinators are alive",
    "result of the upload cannot be recorded yet",
    "result of the import cannot be recorded yet",
    "outcome of a batch is still unknown",
];

/// A number from the environment.
pub fn number(variable: &str, usual: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(usual, |text| text.parse().expect("it is a number"))
}

/// How long a process is paused or away: longer than its time to live.
fn pause() -> Duration {
    Duration::from_secs(number("STREAM_TEST_PAUSE_SECONDS", 4))
}

/// How often something is repeated.
fn rounds() -> u64 {
    number("STREAM_TEST_ROUNDS", 3)
}
