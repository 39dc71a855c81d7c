//! The operations of the API: the one table that routing, `Allow` headers, the need for a token, the labels of metrics and
//! the description of the API (OpenAPI) are made from.
//!
//! To add an operation:
//!
//! 1. write its handler, `async fn(&Arc<Context>, &Call) -> Result<Answer, ApiError>` (or with `&Context`), in `handler`;
//! 2. derive `JsonSchema` for its view; nouns of other crates have their schemas in `view::shape`;
//! 3. add one entry to the group where a reader looks for it: [`Operation::read`] when a token that may only read is
//!    enough, [`Operation::survey`] when it is about the whole installation, [`Operation::write`] when it changes something, [`Operation::open`] when anybody may ask. Name it, say which
//!    parameters and body it takes and what it answers. Refusals that follow from the token, the path, the parameters and a
//!    JSON body are known; name the others with [`Operation::refuses`].
//!
//! Nothing else knows the operations: a path whose methods are in several entries gets all of them, `OPTIONS` and the
//! refusal of other methods come by themselves. The tests hold every answer against the description, so an entry that says
//! too little fails them.

mod declare;
pub(crate) mod example;
mod installation;
mod service;
mod sink;
mod source;
mod statistics;

pub(crate) use declare::{Body, Content, Operation, Parameter, Run, SchemaOf, Success};

/// Operations that belong together.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) operations: Vec<Operation>,
}

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

/// All operations, in the order of the description.
pub(crate) fn groups() -> Vec<Group> {
    vec![
        source::group(),
        sink::group(),
        statistics::group(),
        installation::group(),
        service::group(),
    ]
}

/// All operations.
pub(crate) fn all() -> Vec<Operation> {
    let groups = groups().into_iter();
    groups.flat_map(|group| group.operations).collect()
}
