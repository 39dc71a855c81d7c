//! Tasks.

use hyper::StatusCode;

use crate::context::Context;
use crate::error::{ApiError, not_found};
use crate::request::Call;
use crate::response::{Answer, json};
use crate::view::task::TaskView;

/// `GET /v1/tasks/{*task}`
pub(crate) async fn get(context: &Context, call: &Call) -> Result<Answer, ApiError> {
    let id = call.path.part("task");
    // A task is of one branch, the first part of its id after its type.
    let branch = id.split('/').nth(1);
    if branch != Some(call.path.home().branch.to_string().as_str()) {
        return Err(not_found::task(id));
    }
    let task = context
        .store
        .task(id)
        .await?
        .ok_or_else(|| not_found::task(id))?;
    Ok(json(
        StatusCode::OK,
        &TaskView::new(&task.value, &context.urls),
    ))
}
