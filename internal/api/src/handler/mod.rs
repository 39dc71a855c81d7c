//! One function per endpoint: read the input, look at the state, answer or start a task.

pub(crate) mod aggregation;
pub(crate) mod dry_run;
pub(crate) mod ledger;
pub(crate) mod lifecycle;
pub(crate) mod record;
pub(crate) mod service;
pub(crate) mod settings;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod statistics;
pub(crate) mod status;
pub(crate) mod task;
pub(crate) mod update;
pub(crate) mod versions;

use hyper::StatusCode;
use stream_model::definition::{Stamp, Version};
use stream_state::StateError;

use crate::context::Context;
use crate::error::ApiError;
use crate::response::{Answer, json};
use crate::task::Order;
use crate::view::task::TaskView;

/// Starts a task and answers with it.
async fn accept(context: &Context, order: Order) -> Result<Answer, ApiError> {
    let task = context.runner.start(order).await?;
    Ok(json(
        StatusCode::ACCEPTED,
        &TaskView::new(&task, &context.urls),
    ))
}

/// The version after `old`, with its hash still to be made.
fn next(old: &Version, description: String, stamp: &Stamp) -> Version {
    Version {
        number: old.number + 1,
        ..first(description, stamp)
    }
}

/// The first version, with its hash still to be made.
fn first(description: String, stamp: &Stamp) -> Version {
    Version {
        number: 1,
        hash: String::new(),
        description,
        at: stamp.at,
        by: stamp.by.clone(),
    }
}

/// Why an update did not happen.
enum Refusal {
    Api(ApiError),
    State(StateError),
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl Refusal {
    /// What the client is told; `gone` when the entity has vanished since the request.
    fn or_gone(self, gone: impl FnOnce() -> ApiError) -> ApiError {
        match self {
            Self::Api(error) => error,
            Self::State(StateError::NotFound { .. }) => gone(),
            Self::State(error) => error.into(),
        }
    }
}
