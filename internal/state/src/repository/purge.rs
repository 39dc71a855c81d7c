//! Purging: taking a sink or a source out of the state with everything that belongs to it.
//!
//! ```text
//! begin_*_purge ──▶ close what is writing ──▶ bury slices, remove files ──▶ finish_*_purge
//!  (the intent)      (verbs of files)          (each leaves a note)          (definition and versions go)
//! ```
//!
//! The intent is a field of the definition: whoever finds it goes on, at any step. As long as it is there, nothing of the
//! sink can be opened, undeleted or created anew, because all of that needs a live definition.

use stream_model::definition::sink::Switch;
use stream_model::definition::{Sink, Source};
use stream_model::file::{File, State as FileState};
use stream_model::purge::{Purged, Rows};
use stream_model::slice::Slice;
use stream_model::{SinkKey, SourceKey, Timestamp};

use super::definition::Definition;
use super::file::{file_key, slice_key};
use super::source::SourceTree;
use super::statistics::crossed_key;
use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{RawEntry, Store, Versioned};

/// Slices that fit into one transaction: each is removed with its report, and leaves a note.
const CHUNK: usize = 40;

/// What there still is of a sink.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remains {
    /// Its files.
    pub files: Vec<Versioned<File>>,
    /// Its slices, those of rejected records too.
    pub slices: Vec<Versioned<Slice>>,
    /// Notes of slices that were taken out already, by this purge or by earlier ones.
    pub purged: Vec<Versioned<Purged>>,
}

impl Store {
    /// Deletes a sink with the intent to purge it. Repeating it changes nothing.
    ///
    /// # Errors
    /// `NotFound` when it does not live, and is not being purged.
    pub async fn begin_sink_purge(
        &self,
        key: &SinkKey,
        switch: Switch,
    ) -> Result<Versioned<Sink>, StateError> {
        self.update_sink(key, |mut sink| {
            if sink.purging.is_some() {
                return Ok(sink);
            }
            if sink.deleted.is_some() {
                return Err(StateError::not_found(Key::Sink(key.clone())));
            }
            sink.deleted = Some(switch.clone());
            sink.purging = Some(switch.stamp.clone());
            Ok(sink)
        })
        .await
    }

    /// Deletes a source and its sinks with the intent to purge all of them, those that were deleted before too. Repeating
    /// it changes nothing.
    ///
    /// # Errors
    /// `NotFound` when the source does not live, and is not being purged.
    pub async fn begin_source_purge(
        &self,
        key: &SourceKey,
        switch: Switch,
    ) -> Result<SourceTree, StateError> {
        self.update_source_tree(key, |mut source, mut sinks| {
            if source.purging.is_some() {
                return Ok((source, sinks));
            }
            if source.deleted.is_some() {
                return Err(StateError::not_found(Key::Source(key.clone())));
            }
            source.deleted = Some(switch.clone());
            source.purging = Some(switch.stamp.clone());
            for sink in &mut sinks {
                let along = || Switch {
                    directly: false,
                    ..switch.clone()
                };
                sink.deleted.get_or_insert_with(along);
                sink.purging.get_or_insert_with(|| switch.stamp.clone());
            }
            Ok((source, sinks))
        })
        .await
    }

    /// Reads everything that there still is of a sink.
    ///
    /// # Errors
    /// When etcd is away, or a value cannot be read: what is not understood must not be left behind.
    pub async fn remains(&self, key: &SinkKey) -> Result<Remains, StateError> {
        let read = |prefix: String| async move { self.scan(&prefix).await };
        let files = read(prefix::files(key)).await?.entries;
        let slices = read(prefix::slices(key)).await?.entries;
        let purged = read(prefix::purged(key)).await?.entries;
        Ok(Remains {
            files: decoded(&files)?,
            slices: decoded(&slices)?,
            purged: decoded(&purged)?,
        })
    }

    /// Takes slices of a sink that is being purged out of the state. Each leaves a note. Answers the revision of the last
    /// change.
    ///
    /// # Errors
    /// `Violation` when the sink is not being purged; `Conflict` when it or a slice was changed.
    pub async fn bury_slices(
        &self,
        sink: &Versioned<Sink>,
        slices: &[(Versioned<Slice>, Rows)],
        at: Timestamp,
    ) -> Result<i64, StateError> {
        let key = Definition::key(&sink.value);
        let Some(purge) = sink.value.purging.as_ref().map(|stamp| stamp.at) else {
            return Err(not_purging(key));
        };
        let mut revision = sink.revision;
        for chunk in slices.chunks(CHUNK) {
            let mut txn = self.txn().unmodified(&key, sink.revision);
            for (slice, rows) in chunk {
                let own = slice_key(&slice.value);
                let note = Purged {
                    slice: slice.value.clone(),
                    purge,
                    at,
                    rows: *rows,
                };
                txn = txn
                    .unmodified(&own, slice.revision)
                    .delete(&own)
                    .delete(&crossed_key(&slice.value))
                    .put(
                        &Key::Purged(slice.value.sink.clone(), slice.value.id),
                        &note,
                    );
            }
            revision = txn.commit().await?;
        }
        Ok(revision)
    }

    /// Removes a file of a sink that is being purged, once its slices are taken out.
    ///
    /// # Errors
    /// `Violation` when the sink is not being purged, or the file takes rows; `Conflict` when one of them was changed.
    pub async fn bury_file(
        &self,
        sink: &Versioned<Sink>,
        file: &Versioned<File>,
    ) -> Result<i64, StateError> {
        let (key, own) = (Definition::key(&sink.value), file_key(&file.value));
        if sink.value.purging.is_none() {
            return Err(not_purging(key));
        }
        if file.value.state == FileState::Writing {
            return Err(StateError::violation(
                own,
                "a file that takes rows is not removed",
            ));
        }
        let txn = self.txn().unmodified(&key, sink.revision);
        let txn = txn.unmodified(&own, file.revision).delete(&own);
        txn.commit().await
    }

    /// Removes the definition of a sink that is being purged, its versions and its sums. Answers the revision of that.
    ///
    /// # Errors
    /// `Violation` when the sink is not being purged; `Conflict` when it was changed, or files or slices are left.
    pub async fn finish_sink_purge(&self, sink: &Versioned<Sink>) -> Result<i64, StateError> {
        let id = &sink.value.key;
        let key = Definition::key(&sink.value);
        if sink.value.purging.is_none() {
            return Err(not_purging(key));
        }
        let mut txn = self.txn().unmodified(&key, sink.revision);
        for range in [prefix::files(id), prefix::slices(id)] {
            let left = self.scan(&range).await?;
            if let Some(entry) = left.entries.first() {
                return Err(StateError::conflict(&entry.key));
            }
            txn = txn.none_written(range, left.revision);
        }
        self.add_unmarking(txn, &sink.value)
            .await?
            .delete(&key)
            .delete(&Key::Current(id.clone()))
            .delete(&Key::Removed(id.clone()))
            .delete(&Key::RejectsRemoved(id.clone()))
            .delete(&Key::Cleared(id.clone()))
            .delete_all(&prefix::sink_versions(id))
            .delete_all(&prefix::ledger(id))
            .delete_all(&prefix::crossed(id))
            .delete_all(&prefix::rejects_crossed(id))
            .commit()
            .await
    }

    /// Removes the definition of a source that is being purged, its versions and its volumes.
    ///
    /// # Errors
    /// `Violation` when the source is not being purged; `Conflict` when it was changed, or sinks are left.
    pub async fn finish_source_purge(&self, source: &Versioned<Source>) -> Result<i64, StateError> {
        let id = &source.value.key;
        let key = Definition::key(&source.value);
        if source.value.purging.is_none() {
            return Err(not_purging(key));
        }
        let sinks = self.scan(&prefix::sinks(id)).await?;
        if let Some(entry) = sinks.entries.first() {
            return Err(StateError::conflict(&entry.key));
        }
        self.txn()
            .unmodified(&key, source.revision)
            .none_written(prefix::sinks(id), sinks.revision)
            .delete(&key)
            .delete(&Key::Assignment(id.clone()))
            .delete_all(&prefix::source_versions(id))
            .commit()
            .await
    }

    /// Removes the note of a slice that no volume and no staging has any more.
    ///
    /// # Errors
    /// `Conflict` when somebody else did.
    pub async fn remove_purged(&self, purged: &Versioned<Purged>) -> Result<i64, StateError> {
        let slice = &purged.value.slice;
        let key = Key::Purged(slice.sink.clone(), slice.id);
        let txn = self.txn().unmodified(&key, purged.revision).delete(&key);
        txn.commit().await
    }
}

fn decoded<T>(entries: &[RawEntry]) -> Result<Vec<Versioned<T>>, StateError>
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    entries.iter().map(RawEntry::decode).collect()
}

fn not_purging(key: Key) -> StateError {
    StateError::violation(key, "only what was asked to be purged is purged")
}
