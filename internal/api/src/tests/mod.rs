//! The API as clients see it: a real listener, the embedded state store and an SQLite target in a temporary directory.

mod auth;
mod changes;
pub(crate) mod definitions;
mod described;
mod destination;
mod documentation;
mod dry_run;
mod fate;
mod lifecycle;
mod project;
mod purge;
mod record;
mod schema;
mod service;
mod settings;
mod sink;
mod source;
mod world;
