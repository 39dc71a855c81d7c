//! The verbs of [`crate::Store`], one file per noun.

pub(crate) mod definition;
mod destination;
mod dropping;
pub(crate) mod file;
pub(crate) mod forget;
pub(crate) mod import;
mod keys;
pub(crate) mod ledger;
pub(crate) mod node;
pub(crate) mod purge;
mod rejects;
pub(crate) mod sink;
pub(crate) mod slice;
pub(crate) mod source;
pub(crate) mod statistics;
mod superseded;
pub(crate) mod task;
pub(crate) mod token;
pub(crate) mod volume;
pub(crate) mod whereabouts;
