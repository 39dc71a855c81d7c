//! Proofs of the encoding from outside, against readers that are not ours.

mod corpus;
mod csv;

// The functions that the fuzzer calls, compiled here without it.
#[path = "../../fuzz/src/lib.rs"]
mod targets;
