//! One function per endpoint: read the input, look at the state, answer or start a task.

pub(crate) mod service;
pub(crate) mod settings;
pub(crate) mod sink;
pub(crate) mod source;
pub(crate) mod statistics;
pub(crate) mod task;

use hyper::StatusCode;
use serde::Serialize;
use stream_model::definition::{Stamp, Version, actor::content_hash};

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

/// A version of a definition with this content.
fn version(number: u64, content: &impl Serialize, description: String, stamp: Stamp) -> Version {
    Version {
        number,
        hash: content_hash(content),
        description,
        at: stamp.at,
        by: stamp.by,
    }
}

/// Refuses to purge: a client that asks for it must not believe that it happened.
fn refuse_cascade(cascade: bool) -> Result<(), ApiError> {
    if !cascade {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "Deleting with \"cascade=true\" is not supported by this version; delete without it, buffered rows are then \
         still imported.",
    ))
}
