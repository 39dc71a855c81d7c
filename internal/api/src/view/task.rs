//! A task as shown.

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::Timestamp;
use stream_state::{Outputs, Task, TaskStatus};

use super::shape;
use crate::context::Urls;
use crate::task::status_name;

/// A change that was accepted, and how it ended.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskView<'a> {
    /// Contains slashes.
    task_id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    url: String,
    #[schemars(extend("enum" = ["processing", "success", "error"]))]
    status: &'static str,
    is_finished: bool,
    #[schemars(with = "shape::Timestamp")]
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    finished_at: Option<Timestamp>,
    /// In milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// What was done, in a sentence.
    result: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Why it was not done, in a sentence.
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Outputs>")]
    outputs: Option<&'a Outputs>,
}

impl<'a> TaskView<'a> {
    pub(crate) fn new(task: &'a Task, urls: &Urls) -> Self {
        Self {
            task_id: &task.id,
            kind: &task.kind,
            url: urls.of_task(&task.id),
            status: status_name(task.status),
            is_finished: task.status != TaskStatus::Processing,
            created_at: task.created_at,
            finished_at: task.finished_at,
            duration: task.duration_ms,
            result: task.result.as_deref(),
            error: task.error.as_deref(),
            outputs: Some(&task.outputs).filter(|outputs| **outputs != Outputs::default()),
        }
    }
}
