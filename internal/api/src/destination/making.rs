//! Making a destination, one recorded step after the other.

use serde_json::json;
use stream_model::definition::Table;
use stream_model::destination::{Origin, Provisioning, ScopedToken, StagingFile};
use stream_model::{Secret, SinkKey};
use stream_state::{Store, Versioned};
use stream_target::keboola::{Project, TableId, check_fit, validate};
use tracing::warn;

use super::{Destinations, place};
use crate::error::ApiError;

/// A destination that is being made.
struct Making<'a> {
    destinations: &'a Destinations,
    state: &'a Store,
    sink: &'a SinkKey,
    table: &'a Table,
    id: TableId,
    project: Project<'a>,
    change: Versioned<Provisioning>,
}

impl Destinations {
    /// Checks that the table of a sink that has its destination can take the rows.
    pub(super) async fn check(
        &self,
        sink: &SinkKey,
        table: &Table,
        owner: &Secret<String>,
    ) -> Result<(), ApiError> {
        let id = validate(table)?;
        let project = self.project(sink, owner);
        match project.table(&id).await? {
            Some(found) => Ok(check_fit(table, &found)?),
            // Somebody has removed it: it is made again, and the token still opens its bucket.
            None => {
                make_table(&project, &id, table).await?;
                Ok(())
            }
        }
    }

    /// Makes a destination as far as it goes. Whatever the result, the change is to be settled.
    pub(super) async fn make(
        &self,
        state: &Store,
        sink: &SinkKey,
        (change, table): (Versioned<Provisioning>, &Table),
        owner: &Secret<String>,
    ) -> Result<(), ApiError> {
        let mut making = Making {
            destinations: self,
            state,
            sink,
            table,
            id: validate(table)?,
            project: self.project(sink, owner),
            change,
        };
        making.bucket().await?;
        making.table().await?;
        let token = making.token().await?;
        making.file(&token).await?;
        making.tell().await;
        Ok(())
    }

    pub(super) fn project<'a>(&'a self, sink: &SinkKey, token: &'a Secret<String>) -> Project<'a> {
        self.storage_api.project(sink.source.branch.branch, token)
    }
}

/// Makes a table. False: somebody was faster.
async fn make_table(project: &Project<'_>, id: &TableId, table: &Table) -> Result<bool, ApiError> {
    let columns = table.mapping.columns.iter();
    let columns: Vec<&str> = columns.map(|column| column.name.as_str()).collect();
    let key: Vec<&str> = table.mapping.primary_key().collect();
    Ok(project.make_table(id, &columns, &key).await?)
}

impl Making<'_> {
    /// Records how far the change is.
    async fn record(&mut self, step: impl FnOnce(&mut Provisioning)) -> Result<(), ApiError> {
        let mut next = self.change.value.clone();
        step(&mut next);
        let recorded = self
            .state
            .update_provisioning(self.sink, &self.change, next);
        self.change = recorded.await?;
        Ok(())
    }

    fn description(&self) -> String {
        format!(
            "Stream, for sink {} ({})",
            self.sink, self.change.value.mark
        )
    }

    async fn bucket(&mut self) -> Result<(), ApiError> {
        let mut origin = Origin::Found;
        if self.project.bucket(&self.id).await?.is_none() {
            // Before the bucket: a crash right after it must find what to remove.
            self.record(|it| it.bucket = Some(Origin::Made)).await?;
            let description = self.description();
            if self.project.make_bucket(&self.id, &description).await? {
                origin = Origin::Made;
            }
        }
        self.record(|it| it.bucket = Some(origin)).await
    }

    async fn table(&mut self) -> Result<(), ApiError> {
        let mut origin = Origin::Found;
        let mut found = self.project.table(&self.id).await?;
        if found.is_none() {
            self.record(|it| it.table = Some(Origin::Made)).await?;
            if make_table(&self.project, &self.id, self.table).await? {
                origin = Origin::Made;
            } else {
                found = self.project.table(&self.id).await?;
            }
        }
        self.record(|it| it.table = Some(origin)).await?;
        if let Some(found) = found {
            check_fit(self.table, &found)?;
        }
        Ok(())
    }

    async fn token(&mut self) -> Result<Secret<String>, ApiError> {
        let description = self.description();
        let made = self.project.make_token(&self.id, &description).await?;
        let custody = &self.destinations.custody;
        let sealed = custody.seal(&place::token(self.sink), &made.secret)?;
        let token = ScopedToken {
            id: made.id,
            sealed,
        };
        self.record(|it| it.token = Some(token)).await?;
        Ok(made.secret)
    }

    /// Prepared with the token of the sink, which is the one that will write to it.
    async fn file(&mut self, token: &Secret<String>) -> Result<(), ApiError> {
        let mark = self.change.value.mark.clone();
        let (source, sink) = (&self.sink.source.source, &self.sink.sink);
        let name = format!("stream-{source}-{sink}-{mark}");
        let scoped = self.destinations.project(self.sink, token);
        let prepared = scoped.prepare_file(&name, &mark).await?;
        let custody = &self.destinations.custody;
        let sealed = custody.seal(&place::file(self.sink), &prepared.access)?;
        let file = StagingFile {
            id: prepared.id,
            sealed,
        };
        self.record(|it| it.file = Some(file)).await
    }

    /// Tells the people of the project. Not worth a failure.
    async fn tell(&self) {
        let (sink, table) = (self.sink, &self.id);
        let message =
            format!("Stream sink {sink} was given a token and a staging file for table {table}.");
        let source = &sink.source;
        let params = json!({
            "projectId": source.branch.project, "branchId": source.branch.branch,
            "sourceId": source.source, "sinkId": sink.sink, "tableId": table.to_string(),
        });
        let (began_at, now) = (self.change.value.began_at, self.destinations.clock.now());
        let sent = self.project.send_event(&message, params, began_at, now);
        if let Err(error) = sent.await {
            warn!(%sink, %error, "event is not sent");
        }
    }
}
