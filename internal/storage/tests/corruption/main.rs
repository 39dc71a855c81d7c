//! Damaged volumes: whatever happens to any file of a volume, it opens, loses no more than what was hit, says what that was,
//! and goes on.
//!
//! A volume is generated once per seed and kept in memory as the content of its files. Each case writes it to a directory,
//! damages one thing, and compares what the volume still has with what the damaged bytes held: by a reader of the format that
//! shares nothing with the product (`layout`).
//!
//! `STREAM_TEST_CASES` is the number of cases (2 100 when absent), `STREAM_TEST_SEED` the first seed.

#![allow(missing_docs, reason = "tests")]
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests look at the clock and print"
)]

mod cases;
mod damage;
mod disk;
mod generated;
mod golden;
mod image;
mod inspection;
mod layout;
mod numbers;
mod reported;
mod trial;
