//! Ending a change of a destination, by what its sink is now.

use stream_model::definition::TableKind;
use stream_model::destination::{Origin, Provisioning, ScopedToken, StagingFile};
use stream_model::purge::Dropping;
use stream_model::{Secret, SinkKey};
use stream_state::{StateError, Store};
use stream_target::Fate;
use stream_target::keboola::{Project, Refusal, StorageApiError, TableId};
use tracing::{debug, info};

use super::Destinations;
use crate::error::ApiError;
use crate::fate;

/// How often what a change has made is looked for when its bucket is not empty.
const LOOKS: u32 = 3;

impl Destinations {
    /// Ends the change of a sink's destination that is under way, if there is one. `owner` is the token of whoever asked for it,
    /// where it is at hand.
    ///
    /// Repeatable: what was done is recorded, or looked for before it is done again.
    pub(super) async fn settle(
        &self,
        state: &Store,
        sink: &SinkKey,
        owner: Option<&Secret<String>>,
    ) -> Result<(), ApiError> {
        let Some(mut change) = state.provisioning(sink).await? else {
            return Ok(());
        };
        let owner = match owner {
            Some(owner) => owner.clone(),
            None => self.owner(sink, &change.value.owner)?,
        };
        let project = self.project(sink, &owner);
        let wanted = wanted_table(state, sink).await?;
        let is_wanted = |table: &str| wanted.as_deref() == Some(table);
        let made = change.value.destination();
        if let Some(made) = made.filter(|made| is_wanted(&made.table_id)) {
            change = state.install_destination(sink, &change, made).await?;
        } else {
            undo(&project, &change.value).await?;
            self.discard_with(state, sink, &project, &change.value)
                .await?;
            let has = state.destination(sink).await?;
            if has.is_some_and(|has| !is_wanted(&has.value.table_id)) {
                change = state.retire_destination(sink, &change).await?;
            }
        }
        if let Some(replaced) = &change.value.replaced {
            give_back(&project, Some(&replaced.token), Some(&replaced.file)).await?;
        }
        state.end_provisioning(sink, &change).await?;
        info!(%sink, table = wanted, "what a sink has in its project is settled");
        Ok(())
    }

    /// Removes the table of a sink that is purged, if that was asked for and no other sink writes to it.
    async fn discard_with(
        &self,
        state: &Store,
        sink: &SinkKey,
        project: &Project<'_>,
        change: &Provisioning,
    ) -> Result<(), ApiError> {
        let stored = state.sink(sink).await?;
        // Only with the sink: it lives on when it could not be purged.
        let lives = (stored.as_ref()).is_some_and(|sink| sink.value.purging.is_none());
        let asked = change.table == Some(Origin::Discarded);
        let Some(table_id) = change.table_id.clone().filter(|_| asked && !lives) else {
            return Ok(());
        };
        let dropping = Dropping {
            sink: sink.clone(),
            kind: TableKind::Keboola,
            table_id,
            at: self.clock.now(),
        };
        let revision = stored.map_or(0, |sink| sink.revision);
        if fate::decide(state, &self.mirror, &dropping, revision).await? == Fate::Dropped {
            discard(project, &dropping.table_id).await?;
        }
        Ok(state.unmark_table(&dropping).await?)
    }
}

/// The table that a sink is to have in its project; none when it is gone, or has a table elsewhere.
async fn wanted_table(state: &Store, sink: &SinkKey) -> Result<Option<String>, StateError> {
    let sink = state.sink(sink).await?.map(|sink| sink.value);
    let live = sink.filter(|sink| sink.deleted.is_none());
    let of_project = live.filter(|sink| sink.table.kind == TableKind::Keboola);
    Ok(of_project.map(|sink| sink.table.table_id))
}

/// Removes what a change has made, the last first.
async fn undo(project: &Project<'_>, change: &Provisioning) -> Result<(), ApiError> {
    give_back(project, change.token.as_ref(), change.file.as_ref()).await?;
    // What was made, but not recorded any more. A file comes after its token, a token after its table.
    if change.file.is_none() && change.token.is_some() {
        for file in listed(project.files_tagged(&change.mark).await)? {
            project.remove_file(file).await?;
        }
    }
    if change.token.is_none() && change.table.is_some() {
        for token in listed(project.tokens_described(&change.mark).await)? {
            project.remove_token(&token).await?;
        }
    }
    let table: Option<TableId> = change.table_id.as_deref().and_then(|id| id.parse().ok());
    let Some(table) = table else {
        return Ok(());
    };
    // The Storage API may be at the table still, when nobody waited for it to the end: it can come between two looks.
    for _ in 0..LOOKS {
        if change.table == Some(Origin::Made) {
            let found = project.table(&table).await?;
            if found.is_some_and(|found| found.rows_count.unwrap_or(0) == 0) {
                project.remove_table(&table).await?;
            }
        }
        if change.bucket != Some(Origin::Made) || undo_bucket(project, change, &table).await? {
            break;
        }
    }
    Ok(())
}

/// Removes the bucket that a change has made. False: something is in it.
async fn undo_bucket(
    project: &Project<'_>,
    change: &Provisioning,
    table: &TableId,
) -> Result<bool, ApiError> {
    let found = project.bucket(table).await?;
    let description = found.and_then(|bucket| bucket.description);
    if !description.is_some_and(|it| it.contains(&change.mark)) {
        return Ok(true);
    }
    Ok(unless_refused(project.remove_bucket(table).await)?)
}

/// Removes the table of a purged sink with all its rows, and its bucket if nothing else is in it.
async fn discard(project: &Project<'_>, table_id: &str) -> Result<(), ApiError> {
    let table: Option<TableId> = table_id.parse().ok();
    if let Some(table) = table {
        project.remove_table(&table).await?;
        let is_gone = unless_refused(project.remove_bucket(&table).await)?;
        debug!(%table, is_gone, "table is removed, and its bucket unless something is in it");
    }
    Ok(())
}

/// Removes a file and the token that it was prepared with.
async fn give_back(
    project: &Project<'_>,
    token: Option<&ScopedToken>,
    file: Option<&StagingFile>,
) -> Result<(), ApiError> {
    if let Some(file) = file {
        project.remove_file(file.id).await?;
    }
    if let Some(token) = token {
        project.remove_token(&token.id).await?;
    }
    Ok(())
}

/// Nothing, where the Storage API does not list such things.
fn listed<T>(found: Result<Vec<T>, StorageApiError>) -> Result<Vec<T>, StorageApiError> {
    match found {
        Err(StorageApiError::Refused(Refusal {
            status: 403..=405,
            message,
            ..
        })) => {
            debug!(reason = message, "what may be left over is not listed");
            Ok(Vec::new())
        }
        other => other,
    }
}

/// A bucket into which somebody has put something is theirs, and stays.
fn unless_refused(removed: Result<(), StorageApiError>) -> Result<bool, StorageApiError> {
    match removed {
        Err(StorageApiError::Refused(refusal)) if refusal.status == 400 => {
            debug!(reason = refusal.message, "bucket is kept");
            Ok(false)
        }
        other => other.map(|()| true),
    }
}
