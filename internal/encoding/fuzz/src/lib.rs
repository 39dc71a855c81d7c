//! What is fuzzed: one module a target, each with a function `check` that takes any bytes and panics when the encoding
//! does not do what an independent reference says it should.
//!
//! ```text
//! targets/*.rs ── libFuzzer, instrumented ──┐
//!                                           ├──▶ <target>::check(input)
//! tests/proof    ── every file of corpus/ ──┘
//! ```
//!
//! | target | input | reference |
//! |---|---|---|
//! | `record` | content type, headers, body | rows built from serde_json's reading of the body |
//! | `path` | a path, a body | a path parser of its own, serde_json |
//! | `template` | a template, a body | what must hold between raw and JSON values |
//! | `form` | a form | a slow parser of its own |
//! | `batch` | format, limit, body | serde_json, the CSV reader with its defaults |
//! | `content` | encoding, limit, body | round trips; what must hold between limits |
//! | `rows` | width, chunk sizes, CSV | a parser of exactly what is written |
//! | `frames` | codec, chunk size, frames | the two readers of frames against each other |
//!
//! Owned by the encoding. Only its public interface is used, so that the targets say what users of the crate rely on. An
//! input is text as far as possible: a person can read the corpus and write to it. An input that was found becomes a test
//! beside the code that it broke, and a file of the corpus.

pub mod batch;
pub mod content;
pub mod form;
pub mod frames;
mod json;
pub mod mapped;
pub mod path;
pub mod record;
pub mod rows;
pub mod template;
