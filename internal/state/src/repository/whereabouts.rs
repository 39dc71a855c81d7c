//! All slices of a sink, with what became of them.

use std::collections::BTreeMap;

use stream_model::file::File;
use stream_model::purge::Purged;
use stream_model::slice::Slice;
use stream_model::statistics::Figures;
use stream_model::{FileId, SinkKey, SliceId};

use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{Store, Versioned};

/// How often everything is read again because it changed meanwhile.
const READ_TRIES: u32 = 10;

/// What the state knows of the slices of a sink. A slice that was there when the reading began is in one of the parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Whereabouts {
    /// Slices with their files; those of rejected records have none.
    pub slices: Vec<(Slice, Option<File>)>,
    /// Notes of slices that were purged.
    pub purged: Vec<Purged>,
    /// The sum of those that were cleaned up after their import.
    pub removed: Figures,
    /// The sum of those with rejected records that are not kept any more.
    pub rejects_removed: Figures,
}

impl Store {
    /// Reads the slices of a sink, of earlier ones of the same name as well as long as there are notes of them.
    ///
    /// Slices are cleaned up by transactions that write the sums: when those are the same before and after, no slice went from
    /// one part to another unseen. One that is purged leaves a note, and notes are read last.
    ///
    /// # Errors
    /// When etcd is away, a value cannot be read, or slices are removed all the time.
    pub async fn whereabouts(&self, sink: &SinkKey) -> Result<Whereabouts, StateError> {
        let mut before = self.removed_sums(sink).await?;
        for _ in 0..READ_TRIES {
            let slices = self.decoded_all(&prefix::slices(sink)).await?;
            let files = self.decoded_all(&prefix::files(sink)).await?;
            let purged = self.decoded_all(&prefix::purged(sink)).await?;
            let after = self.removed_sums(sink).await?;
            let is_same = [0, 1].map(|it| after[it].revision == before[it].revision) == [true; 2];
            if is_same && let Some(found) = joined(slices, files, purged) {
                let [removed, rejects_removed] = after.map(|sum| sum.value);
                return Ok(Whereabouts {
                    removed,
                    rejects_removed,
                    ..found
                });
            }
            before = after;
        }
        Err(StateError::unavailable(
            "slices are removed faster than they can be read",
        ))
    }

    /// What was removed, of rows and of rejected records.
    async fn removed_sums(&self, sink: &SinkKey) -> Result<[Versioned<Figures>; 2], StateError> {
        let none = || Versioned::new(Figures::default(), 0);
        let rows = self.get(&Key::Removed(sink.clone())).await?;
        let rejects = self.get(&Key::RejectsRemoved(sink.clone())).await?;
        Ok([rows.unwrap_or_else(none), rejects.unwrap_or_else(none)])
    }

    async fn decoded_all<T: serde::Serialize + serde::de::DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<T>, StateError> {
        let listed = self.scan(prefix).await?;
        let values = listed.entries.iter().map(|entry| entry.decode());
        let values = values.map(|value| value.map(|it: Versioned<T>| it.value));
        values.collect()
    }
}

/// Brings slices and files together. None: the file of a slice went between the reading of the two.
fn joined(slices: Vec<Slice>, files: Vec<File>, purged: Vec<Purged>) -> Option<Whereabouts> {
    let files: BTreeMap<FileId, File> = files.into_iter().map(|file| (file.id, file)).collect();
    let notes: BTreeMap<SliceId, Purged> = purged.into_iter().map(|it| (it.slice.id, it)).collect();
    let mut found = Vec::with_capacity(slices.len());
    // A note is the news.
    for slice in slices.into_iter().filter(|it| !notes.contains_key(&it.id)) {
        let file = match slice.kind.is_rows() {
            true => Some(files.get(&slice.file)?.clone()),
            false => None,
        };
        found.push((slice, file));
    }
    Some(Whereabouts {
        slices: found,
        purged: notes.into_values().collect(),
        ..Whereabouts::default()
    })
}
