//! Tasks of the API: work that goes on after the request was answered.

use serde::{Deserialize, Serialize};
use stream_model::{NodeId, Timestamp};

use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{Store, Versioned, Written};

/// A task as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    /// Identifier; may contain slashes.
    pub id: String,
    /// What it does, for example `api.create.source`.
    pub kind: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// The node whose process works on it; none of tasks of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// How it stands.
    pub status: TaskStatus,
    /// What it did, for people, when it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// Why it failed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it was about.
    #[serde(default)]
    pub outputs: Outputs,
}

/// How a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TaskStatus {
    /// It has not ended.
    Processing,
    /// It ended well.
    Success,
    /// It failed.
    Error,
}

/// What a task was about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outputs {
    /// Where to look at the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<u64>,
    /// The branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch_id: Option<u64>,
    /// The source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    /// The sink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink_id: Option<String>,
    /// Rows that a purge has discarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discarded_rows: Option<u64>,
    /// Rejected records that a purge has discarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discarded_rejects: Option<u64>,
    /// Slices that a purge has discarded without knowing what they hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncounted_slices: Option<u64>,
}

impl Store {
    /// Records a new task.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidName` when the identifier cannot be part of a key.
    pub async fn create_task(&self, task: Task) -> Result<Versioned<Task>, StateError> {
        check_id(&task.id)?;
        let key = Key::Task(task.id.clone());
        self.txn()
            .absent(&key)
            .put(&key, &task)
            .commit_as(Written::new(task))
            .await
    }

    /// Replaces a task by its next state.
    ///
    /// # Errors
    /// `Conflict` when it was changed or removed; `Violation` when the identifier differs.
    pub async fn update_task(
        &self,
        old: &Versioned<Task>,
        new: Task,
    ) -> Result<Versioned<Task>, StateError> {
        let key = Key::Task(new.id.clone());
        if old.value.id != new.id {
            return Err(StateError::violation(key, "a task keeps its identifier"));
        }
        let new = Written::over(old, new);
        self.txn()
            .unmodified(&key, old.revision)
            .write(&key, &new)
            .commit_as(new)
            .await
    }

    /// Removes a task that nobody will ask for any more.
    ///
    /// # Errors
    /// `Conflict` when it was changed or removed.
    pub async fn remove_task(&self, task: &Versioned<Task>) -> Result<(), StateError> {
        let key = Key::Task(task.value.id.clone());
        let txn = self.txn().unmodified(&key, task.revision).delete(&key);
        txn.commit().await.map(|_| ())
    }

    /// Reads a task.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn task(&self, id: &str) -> Result<Option<Versioned<Task>>, StateError> {
        self.get(&Key::Task(id.to_owned())).await
    }

    /// Lists the tasks whose identifier begins with these whole segments (`api.create.source/1/orders`), sorted by
    /// identifier; all of them for an empty text.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn tasks(&self, segments: &str) -> Result<Vec<Versioned<Task>>, StateError> {
        let tasks = self.list_readable(&prefix::tasks(segments)).await?;
        Ok(tasks.into_iter().map(|(_, task)| task).collect())
    }
}

fn check_id(id: &str) -> Result<(), StateError> {
    let valid = !id.is_empty()
        && id.len() <= 512
        && !id.contains('\0')
        && id.split('/').all(|segment| !segment.is_empty());
    if !valid {
        return Err(StateError::InvalidName {
            what: "a task identifier",
            name: id.to_owned(),
            rule: "it must have 1 to 512 bytes and no empty segment",
        });
    }
    Ok(())
}
