//! The JSON shapes of answers. Each borrows from the model and adds what is computed for the answer only.

pub(crate) mod aggregation;
pub(crate) mod dry_run;
pub(crate) mod file;
pub(crate) mod ledger;
pub(crate) mod page;
pub(crate) mod record;
pub(crate) mod rejects;
pub(crate) mod settings;
pub(crate) mod shape;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod statistics;
pub(crate) mod status;
pub(crate) mod task;
pub(crate) mod version;

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::Timestamp;
use stream_model::definition::Actor;
use stream_model::definition::sink::Switch;

/// Why an entity was disabled or deleted: somebody asked the API to. There is no other way.
const REASON: &str = "API";

/// That an entity was disabled or deleted.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct SwitchView<'a> {
    #[schemars(with = "shape::Timestamp")]
    at: Timestamp,
    #[schemars(with = "shape::Actor")]
    by: &'a Actor,
    /// Why.
    reason: &'static str,
}

impl<'a> From<&'a Switch> for SwitchView<'a> {
    fn from(switch: &'a Switch) -> Self {
        Self {
            at: switch.stamp.at,
            by: &switch.stamp.by,
            reason: REASON,
        }
    }
}
