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
