//! A task as shown.

use serde::Serialize;
use stream_model::Timestamp;
use stream_state::{Outputs, Task, TaskStatus};

use crate::context::Urls;
use crate::task::status_name;

/// A task as shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TaskView<'a> {
    task_id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    url: String,
    status: &'static str,
    is_finished: bool,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<Timestamp>,
    /// In milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
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
