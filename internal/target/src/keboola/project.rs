//! What is made and removed in a project: buckets, tables, tokens, files, events.
//!
//! Each call stands for itself; what belongs together, and what is undone when, is its caller's.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use stream_model::id::BranchId;
use stream_model::{Secret, Timestamp};
use tokio::time::timeout;

use super::client::{Ask, StorageApi};
use super::error::StorageApiError;
use super::identity::text_or_number;
use super::job::Started;
use super::table_id::TableId;

/// The name under which events are sent.
const COMPONENT: &str = "keboola.stream";

/// A project, as far as the holder of a token may go.
#[derive(Clone)]
pub struct Project<'a> {
    pub(super) api: &'a StorageApi,
    pub(super) branch: BranchId,
    pub(super) token: &'a Secret<String>,
}

/// A bucket that is there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Bucket {
    /// What whoever made it says of it.
    #[serde(default)]
    pub description: Option<String>,
}

/// A table that is there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectTable {
    /// Its columns, in its order.
    pub columns: Vec<String>,
    /// Those of them that are the primary key.
    #[serde(default)]
    pub primary_key: Vec<String>,
    /// How many rows it has, as far as that is known.
    #[serde(default)]
    pub rows_count: Option<u64>,
}

/// A token that was made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its identifier.
    pub id: String,
    /// The token.
    pub secret: Secret<String>,
}

/// A file that was prepared.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Its identifier.
    pub id: u64,
    /// Where it is, and the keys to it, as JSON.
    pub access: Secret<String>,
}

#[derive(Deserialize)]
struct MadeToken {
    #[serde(deserialize_with = "text_or_number")]
    id: String,
    token: Secret<String>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(deserialize_with = "text_or_number")]
    id: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    name: Option<String>,
}

impl StorageApi {
    /// The project of a token.
    #[must_use]
    pub const fn project<'a>(&'a self, branch: BranchId, token: &'a Secret<String>) -> Project<'a> {
        Project {
            api: self,
            branch,
            token,
        }
    }
}

/// Nothing, where nothing is there.
fn optional<T>(found: Result<T, StorageApiError>) -> Result<Option<T>, StorageApiError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

impl Project<'_> {
    fn path(&self, rest: &str) -> String {
        format!("branch/{}/{rest}", self.branch)
    }

    /// Looks for a bucket.
    ///
    /// # Errors
    /// When the Storage API does not say.
    pub async fn bucket(&self, table: &TableId) -> Result<Option<Bucket>, StorageApiError> {
        let path = self.path(&format!("buckets/{}", table.bucket_id()));
        let ask = Ask::get("look for the bucket", path).by(self.token);
        optional(self.api.call(ask).await)
    }

    /// Makes the bucket of a table. False: somebody was faster.
    ///
    /// # Errors
    /// When that is refused, or it is not known whether it was done.
    pub async fn make_bucket(
        &self,
        table: &TableId,
        description: &str,
    ) -> Result<bool, StorageApiError> {
        // One without the prefix cannot be made; the Storage API says what it thinks of the name.
        let name = table.new_bucket().unwrap_or_default();
        let body = json!({"stage": table.stage(), "name": name, "description": description});
        let ask = Ask::post("make the bucket", self.path("buckets"), body).by(self.token);
        match self.api.call::<Value>(ask).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_already_there() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes the bucket of a table, if nothing is in it.
    ///
    /// # Errors
    /// When that is refused, or it is not known whether it was done.
    pub async fn remove_bucket(&self, table: &TableId) -> Result<(), StorageApiError> {
        let path = self.path(&format!("buckets/{}?async=1", table.bucket_id()));
        self.remove("remove the bucket", path).await
    }

    /// Looks for a table.
    ///
    /// # Errors
    /// When the Storage API does not say.
    pub async fn table(&self, table: &TableId) -> Result<Option<ProjectTable>, StorageApiError> {
        let path = self.path(&format!("tables/{table}"));
        let ask = Ask::get("look for the table", path).by(self.token);
        optional(self.api.call(ask).await)
    }

    /// Makes a table of texts. False: somebody was faster.
    ///
    /// # Errors
    /// When that is refused, or it is not known whether it was done.
    pub async fn make_table(
        &self,
        table: &TableId,
        columns: &[&str],
        primary_key: &[&str],
    ) -> Result<bool, StorageApiError> {
        let columns: Vec<Value> = columns
            .iter()
            .map(|name| json!({"name": name, "basetype": "STRING"}))
            .collect();
        let body =
            json!({"name": table.table(), "primaryKeysNames": primary_key, "columns": columns});
        let path = self.path(&format!("buckets/{}/tables-definition", table.bucket_id()));
        let ask = Ask::post("make the table", path, body).by(self.token);
        match self.run(ask).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_already_there() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a table with all its rows.
    ///
    /// # Errors
    /// When that is refused, or it is not known whether it was done.
    pub async fn remove_table(&self, table: &TableId) -> Result<(), StorageApiError> {
        let path = self.path(&format!("tables/{table}?async=1"));
        self.remove("remove the table", path).await
    }

    /// Makes a token that may write to the bucket of a table, and do nothing else.
    ///
    /// # Errors
    /// When that is refused, or it is not known whether it was done.
    pub async fn make_token(
        &self,
        table: &TableId,
        description: &str,
    ) -> Result<NewToken, StorageApiError> {
        let body = json!({
            "description": description,
            "bucketPermissions": {table.bucket_id(): "write"},
            "canManageBuckets": false,
            "canReadAllFileUploads": false,
        });
        let ask = Ask::post("make the token of the sink", "tokens", body).by(self.token);
        let MadeToken { id, token } = self.api.call(ask).await?;
        Ok(NewToken { id, secret: token })
    }

    /// Removes a token, if it is there.
    ///
    /// # Errors
    /// When that is refused, or it is not known whether it was done.
    pub async fn remove_token(&self, id: &str) -> Result<(), StorageApiError> {
        let path = format!("tokens/{}", escaped(id));
        self.remove("remove the token of the sink", path).await
    }

    /// The identifiers of the tokens whose description contains a text.
    ///
    /// # Errors
    /// When the Storage API does not list them.
    pub async fn tokens_described(&self, part: &str) -> Result<Vec<String>, StorageApiError> {
        let ask = Ask::get("list the tokens", "tokens").by(self.token);
        let tokens: Vec<Listed> = self.api.call(ask).await?;
        let described = |token: &Listed| {
            token
                .description
                .as_ref()
                .is_some_and(|it| it.contains(part))
        };
        let found = tokens.into_iter().filter(described);
        Ok(found.map(|token| token.id).collect())
    }

    /// Prepares a file for slices.
    ///
    /// # Errors
    /// When that is refused, or it is not known whether it was done.
    pub async fn prepare_file(&self, name: &str, tag: &str) -> Result<NewFile, StorageApiError> {
        let operation = "prepare the staging file";
        let body = json!({
            "name": name, "isSliced": true, "isEncrypted": true, "federationToken": true, "tags": [tag],
        });
        let ask = Ask::post(operation, self.path("files/prepare"), body).by(self.token);
        let file: Value = self.api.call(ask).await?;
        let id = file["id"].as_u64();
        let id = id.ok_or_else(|| StorageApiError::Unreadable {
            operation,
            reason: "it has no identifier".to_owned(),
        })?;
        let access = Secret::new(file.to_string());
        Ok(NewFile { id, access })
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// When that is refused, or it is not known whether it was done.
    pub async fn remove_file(&self, id: u64) -> Result<(), StorageApiError> {
        let path = self.path(&format!("files/{id}"));
        self.remove("remove the staging file", path).await
    }

    /// The identifiers of files with that tag whose names contain it too.
    ///
    /// # Errors
    /// When the Storage API does not list them.
    pub async fn files_tagged(&self, tag: &str) -> Result<Vec<u64>, StorageApiError> {
        let path = self.path(&format!("files?limit=100&tags[]={}", escaped(tag)));
        let ask = Ask::get("list the staging files", path.replace("[]", "%5B%5D")).by(self.token);
        let files: Vec<Listed> = self.api.call(ask).await?;
        let named = |file: &Listed| file.name.as_ref().is_some_and(|name| name.contains(tag));
        let found = files.into_iter().filter(named);
        Ok(found.filter_map(|file| file.id.parse().ok()).collect())
    }

    /// Tells the people of the project what happened, if that can be done within the limit.
    ///
    /// # Errors
    /// When it could not.
    pub async fn send_event(
        &self,
        message: &str,
        params: Value,
        began_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StorageApiError> {
        let operation = "send an event";
        let limit: Duration = self.api.options().event_send_timeout;
        let body = json!({
            "component": COMPONENT, "type": "info", "message": message, "params": params,
            "duration": now.since(began_at).as_secs(), "results": {},
        });
        let ask = Ask::post(operation, "events", body).by(self.token);
        match timeout(limit, self.api.call::<Value>(ask)).await {
            Ok(sent) => sent.map(drop),
            Err(_) => Err(StorageApiError::Unavailable {
                operation,
                reason: format!("it took longer than {} s", limit.as_secs()),
            }),
        }
    }

    /// Removes something. That it is gone already is as good.
    async fn remove(&self, operation: &'static str, path: String) -> Result<(), StorageApiError> {
        let ask = Ask::delete(operation, path).by(self.token);
        optional(self.run(ask).await).map(drop)
    }

    /// Makes a call, and waits for the job that it has started, if any.
    async fn run(&self, ask: Ask<'_>) -> Result<(), StorageApiError> {
        let operation = ask.operation;
        let _permit = self.api.job_permit().await;
        let started: Option<Started> = self.api.call(ask).await?;
        match started {
            Some(started) => started.finished(self, operation).await,
            None => Ok(()),
        }
    }
}

/// A text as a part of a path: what others give as identifiers might be anything.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let escape = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
