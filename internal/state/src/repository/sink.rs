//! Sinks, and the volumes that the sinks of a source share.

use stream_model::definition::sink::Switch;
use stream_model::definition::{Sink, Source};
use stream_model::idempotency::Assigned;
use stream_model::{SinkKey, SourceKey, VolumeId};

use super::definition::{
    CREATE_TRIES, Definition, UPDATE_TRIES, check_change, continue_versions, put_definition,
};
use super::dropping::table_stays;
use super::file::Opening;
use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{Store, Versioned, Written};
use crate::txn::{Tries, Txn};

impl Store {
    /// Reads a sink, also a deleted one.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn sink(&self, key: &SinkKey) -> Result<Option<Versioned<Sink>>, StateError> {
        self.get(&Key::Sink(key.clone())).await
    }

    /// Lists the sinks of a source by identifier, deleted ones too.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn sinks(&self, source: &SourceKey) -> Result<Vec<Versioned<Sink>>, StateError> {
        let sinks = self.list_readable(&prefix::sinks(source)).await?;
        Ok(sinks.into_iter().map(|(_, sink)| sink).collect())
    }

    /// Reads a version of a sink.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn sink_version(
        &self,
        key: &SinkKey,
        number: u64,
    ) -> Result<Option<Sink>, StateError> {
        let version = self.get(&Key::SinkVersion(key.clone(), number)).await?;
        Ok(version.map(|version| version.value))
    }

    /// Lists the kept versions of a sink, the oldest first.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn sink_versions(&self, key: &SinkKey) -> Result<Vec<Sink>, StateError> {
        let versions = self.list_readable(&prefix::sink_versions(key)).await?;
        Ok(versions
            .into_iter()
            .map(|(_, version)| version.value)
            .collect())
    }

    /// Creates a sink, and with it its first file, slices and, if there is none yet, the assignment of the source: all in
    /// one transaction, so that no record falls between.
    ///
    /// Over a deleted sink with the same key the version numbers go on; the mapping version of the file and its slices is
    /// set to the sink's. Without `open` the coordinator opens the first file.
    ///
    /// # Errors
    /// `NotFound` when the source does not live, `AlreadyExists` when the sink lives or is being purged, `LimitReached` when the source has
    /// enough live sinks, `TableLeaves` when its table is being dropped with another sink. `AlreadyExists` for [`Key::Assignment`] or [`Key::Current`] means that the opening was planned
    /// on old knowledge: another sink was first, or the file of a deleted sink of that name is not closed yet.
    pub async fn create_sink(
        &self,
        sink: Sink,
        open: Option<Opening>,
    ) -> Result<Versioned<Sink>, StateError> {
        let key = Definition::key(&sink);
        let range = prefix::sinks(&sink.key.source);
        let mut tries = Tries::new(CREATE_TRIES);
        loop {
            let source = self.live_source(&sink.key.source).await?;
            let siblings = self.siblings::<Sink>(&range, &key).await?;
            let old = siblings.own.as_ref().map(|own| &own.value);
            if old.is_some_and(|old| old.is_live() || old.is_purging()) {
                return Err(StateError::already_exists(key));
            }
            siblings.check_room(format!("source {}", sink.key.source), Sink::PLURAL)?;
            let new = Written::new(continue_versions(sink.clone(), old));
            let txn = self
                .txn()
                .unmodified(&Definition::key(&source.value), source.revision)
                .none_written(range.clone(), siblings.revision);
            let mut txn = put_definition(table_stays(txn, &new.value), old, &new);
            if let Some(opening) = &open {
                let number = new.value.version.number;
                let mut opening = opening.clone().with_mapping_version(number);
                if old.is_some() {
                    // The deleted sink may still have slices of rejected records. The coordinator sees them, and opens
                    // what is missing.
                    opening.slices.retain(|slice| slice.kind.is_rows());
                }
                txn = opening.add_to(txn, &new.value)?;
            }
            match txn.commit_as(new).await {
                Ok(created) => return Ok(created),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// Changes a sink: reads it, asks `change` for the new value, writes that if nobody else was faster, else again.
    /// `change` also gets a deleted sink, and may revive it while its source lives.
    ///
    /// # Errors
    /// `NotFound`; what `change` returns; `LimitReached` when a revived sink is one too many; `TableLeaves` when another table is
    /// wanted that is being dropped; `Conflict` when others were faster each time.
    pub async fn update_sink<E>(
        &self,
        key: &SinkKey,
        change: impl Fn(Sink) -> Result<Sink, E> + Send + Sync,
    ) -> Result<Versioned<Sink>, E>
    where
        E: From<StateError> + Send,
    {
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            let old: Versioned<Sink> = self.require(&Key::Sink(key.clone())).await?;
            let new = change(old.value.clone())?;
            if new == old.value {
                return Ok(old);
            }
            let new = Written::over(&old, new);
            let txn = self.sink_change(&old, &new).await?;
            match txn.commit_as(new).await {
                Ok(updated) => return Ok(updated),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    async fn sink_change(
        &self,
        old: &Versioned<Sink>,
        written: &Written<Sink>,
    ) -> Result<Txn<'_>, StateError> {
        let new = &written.value;
        check_change(&old.value, new)?;
        let key = Definition::key(new);
        let mut txn = self.txn().unmodified(&key, old.revision);
        if new.is_live() && !old.value.is_live() {
            let source = self.live_source(&new.key.source).await?;
            let range = prefix::sinks(&new.key.source);
            let siblings = self.siblings::<Sink>(&range, &key).await?;
            siblings.check_room(format!("source {}", new.key.source), Sink::PLURAL)?;
            txn = txn
                .unmodified(&Definition::key(&source.value), source.revision)
                .none_written(range, siblings.revision);
        }
        if new.table.place(&new.key) != old.value.table.place(&new.key) {
            txn = table_stays(txn, new);
        }
        Ok(put_definition(txn, Some(&old.value), written))
    }

    /// Deletes a sink. Its key stays, marked as deleted; the coordinator closes its file.
    ///
    /// # Errors
    /// `NotFound` when it does not live.
    pub async fn delete_sink(
        &self,
        key: &SinkKey,
        switch: Switch,
    ) -> Result<Versioned<Sink>, StateError> {
        self.update_sink(key, |mut sink| {
            if sink.deleted.is_some() {
                return Err(StateError::not_found(Key::Sink(key.clone())));
            }
            sink.deleted = Some(switch.clone());
            Ok(sink)
        })
        .await
    }

    async fn live_source(&self, key: &SourceKey) -> Result<Versioned<Source>, StateError> {
        let key = Key::Source(key.clone());
        let source: Versioned<Source> = self.require(&key).await?;
        if !source.value.is_live() {
            return Err(StateError::not_found(key));
        }
        Ok(source)
    }

    /// Reads the volumes of a source.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn assignment(
        &self,
        source: &SourceKey,
    ) -> Result<Option<Versioned<Vec<VolumeId>>>, StateError> {
        let stored: Option<Versioned<Assigned>> =
            self.get(&Key::Assignment(source.clone())).await?;
        Ok(stored.map(|stored| stored.map(|stored| stored.volumes)))
    }

    /// Gives a source other volumes, as when one is drained. Files that are opened from now on are placed on them; open
    /// ones stay where they are.
    ///
    /// # Errors
    /// `Conflict` when the stored volumes are not `from` any more.
    pub async fn replace_assignment(
        &self,
        source: &SourceKey,
        from: &[VolumeId],
        to: Vec<VolumeId>,
    ) -> Result<i64, StateError> {
        let key = Key::Assignment(source.clone());
        let stored: Option<Versioned<Assigned>> = self.get(&key).await?;
        let stored = stored.unwrap_or_else(|| Versioned::new(Assigned::default(), 0));
        if stored.value.volumes != from {
            return Err(StateError::conflict(key));
        }
        let new = Assigned {
            volumes: to,
            ..stored.value.clone()
        };
        let new = Written::over(&stored, new);
        self.txn()
            .unmodified(&key, stored.revision)
            .write(&key, &new)
            .commit()
            .await
    }
}
