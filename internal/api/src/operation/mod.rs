//! The operations of the API: the one table that routing, `Allow` headers, the need for a token and the labels of metrics
//! are made from.
//!
//! To add an operation:
//!
//! 1. write its handler, `async fn(&Arc<Context>, &Call) -> Result<Answer, ApiError>` (or with `&Context`), in `handler`;
//! 2. add one entry to the group where a reader looks for it: [`Operation::read`] when a token that may only read is
//!    enough, [`Operation::survey`] when it is about the whole installation, [`Operation::write`] when it changes something, [`Operation::open`] when anybody may ask.
//!
//! Nothing else knows the operations: a path whose methods are in several entries gets all of them, `OPTIONS` and the
//! refusal of other methods come by themselves.

mod declare;
mod service;
mod sink;
mod source;

pub(crate) use declare::{Operation, Run};

/// The paths below a branch, a source and a sink, with the names of their variable parts.
macro_rules! of_branch {
    ($rest:literal) => {
        concat!("/v1/branches/{branch}", $rest)
    };
}
macro_rules! of_source {
    ($rest:literal) => {
        concat!("/v1/branches/{branch}/sources/{source}", $rest)
    };
}
macro_rules! of_sink {
    ($rest:literal) => {
        concat!("/v1/branches/{branch}/sources/{source}/sinks/{sink}", $rest)
    };
}

/// A handler in the form that the table holds.
macro_rules! handler {
    ($handler:expr) => {
        |context, call| Box::pin($handler(context, call))
    };
}

use {handler, of_branch, of_sink, of_source};

/// All operations.
pub(crate) fn all() -> Vec<Operation> {
    let groups = [
        service::operations(),
        source::operations(),
        sink::operations(),
    ];
    groups.into_iter().flatten().collect()
}
