//! The way of a file into the target, and its removal afterwards.

use std::collections::BTreeMap;

use stream_model::file::{Event, File, State};
use stream_model::invariant;
use stream_model::ledger;
use stream_model::slice::Slice;
use stream_model::statistics::Figures;
use stream_model::{SliceId, Timestamp};

use super::file::{apply, file_key, slice_key};
use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{Store, Versioned, Written};

/// Slices that are compared in one transaction beside the file.
const CHUNK: usize = 120;
/// Slices that are removed in one transaction beside the file, the figures, and their hours in the ledger.
const REMOVED_AT_ONCE: usize = 50;

impl Store {
    /// Records that a file is about to be imported with exactly these slices.
    ///
    /// The stored slices are read again: a slice that the caller cannot see, because its value is unreadable or its picture
    /// is old, would otherwise never be imported. The set cannot grow after that, because slices are added to writing
    /// files only, and uploaded slices do not change; so comparing the first of a very long list is caution, not need.
    ///
    /// # Errors
    /// `Conflict` when the file or its slices are not as given; `Violation` when one is not uploaded; `Corrupt` when a
    /// slice of the sink cannot be read.
    pub async fn begin_import(
        &self,
        file: &Versioned<File>,
        slices: &[Versioned<Slice>],
        at: Timestamp,
    ) -> Result<Versioned<File>, StateError> {
        let new = apply(&file.value, Event::Import { at })?;
        let values: Vec<Slice> = slices.iter().map(|slice| slice.value.clone()).collect();
        invariant::check_import(&file.value, &values)?;
        check_same(&self.slices_of(&file.value).await?, slices)?;
        let key = file_key(&new);
        let new = Written::over(file, new);
        let mut txn = self.txn().unmodified(&key, file.revision).write(&key, &new);
        for slice in slices.iter().take(CHUNK) {
            txn = txn.unmodified(&slice_key(&slice.value), slice.revision);
        }
        txn.commit_as(new).await
    }

    /// Records that the target has committed the file.
    ///
    /// # Errors
    /// `Conflict` when the file was changed; `File` when it is not importing.
    pub async fn complete_import(
        &self,
        file: &Versioned<File>,
        at: Timestamp,
        rows: u64,
    ) -> Result<Versioned<File>, StateError> {
        let new = apply(&file.value, Event::Complete { at, rows })?;
        self.put_file(file, new).await
    }

    /// Removes an imported file and its slices from the state, and adds their figures to those of the sink that were
    /// removed before. Repeating it after an interruption goes on where it stopped.
    ///
    /// # Errors
    /// `Violation` when the file is not imported; `Conflict` when it was changed, or has slices that were not given.
    pub async fn remove_file(
        &self,
        file: &Versioned<File>,
        slices: &[Versioned<Slice>],
    ) -> Result<i64, StateError> {
        if !matches!(file.value.state, State::Imported { .. }) {
            return Err(StateError::violation(
                format!("file {}", file.value.id),
                "only an imported file is removed",
            ));
        }
        let stored = self.slices_of(&file.value).await?;
        let given: BTreeMap<SliceId, i64> = slices
            .iter()
            .map(|slice| (slice.value.id, slice.revision))
            .collect();
        for slice in &stored {
            if given.get(&slice.value.id) != Some(&slice.revision) {
                return Err(StateError::conflict(slice_key(&slice.value)));
            }
        }
        let values: Vec<Slice> = stored.iter().map(|slice| slice.value.clone()).collect();
        invariant::check_import(&file.value, &values)?;
        // Slices first: a file without slices is found and removed by the next round, slices without a file would not be.
        let last = stored.len().saturating_sub(1) / REMOVED_AT_ONCE;
        let chunks = stored.chunks(REMOVED_AT_ONCE).take(last);
        for chunk in chunks {
            self.remove_slices(file, chunk, FileFate::Kept).await?;
        }
        let rest = stored.get(last * REMOVED_AT_ONCE..).unwrap_or_default();
        self.remove_slices(file, rest, FileFate::Removed).await
    }

    async fn remove_slices(
        &self,
        file: &Versioned<File>,
        slices: &[Versioned<Slice>],
        fate: FileFate,
    ) -> Result<i64, StateError> {
        let removed_key = Key::Removed(file.value.sink.clone());
        let removed = self.get::<Figures>(&removed_key).await?;
        let removed = removed.unwrap_or_else(|| Versioned::new(Figures::default(), 0));
        let mut sum = removed.value;
        let key = file_key(&file.value);
        let mut txn = self.txn().unmodified(&key, file.revision);
        for slice in slices {
            if let Some(seal) = slice.value.seal() {
                sum.add(&seal.figures);
            }
            let key = slice_key(&slice.value);
            txn = txn.unmodified(&key, slice.revision).delete(&key);
        }
        txn = txn
            .unmodified(&removed_key, removed.revision)
            .write(&removed_key, &Written::over(&removed, sum));
        let removed = ledger::of_removed(slices.iter().map(|slice| &slice.value));
        let txn = self.add_to_ledger(txn, &file.value.sink, &removed).await?;
        match fate {
            FileFate::Kept => txn,
            FileFate::Removed => txn.delete(&key),
        }
        .commit()
        .await
    }

    /// All slices of a file as stored, every one readable.
    async fn slices_of(&self, file: &File) -> Result<Vec<Versioned<Slice>>, StateError> {
        let listed = self.scan(&prefix::slices(&file.sink)).await?;
        let mut slices = Vec::new();
        for entry in &listed.entries {
            let slice: Versioned<Slice> = entry.decode()?;
            if slice.value.file == file.id {
                slices.push(slice);
            }
        }
        Ok(slices)
    }
}

/// What becomes of the file when some of its slices are removed.
enum FileFate {
    Kept,
    Removed,
}

/// Compares the stored slices with those that the caller knows.
fn check_same(stored: &[Versioned<Slice>], given: &[Versioned<Slice>]) -> Result<(), StateError> {
    let known = |slices: &[Versioned<Slice>]| -> BTreeMap<SliceId, (Key, i64)> {
        slices
            .iter()
            .map(|slice| (slice.value.id, (slice_key(&slice.value), slice.revision)))
            .collect()
    };
    let (stored, given) = (known(stored), known(given));
    let differs = stored
        .iter()
        .find(|(id, entry)| given.get(id) != Some(entry))
        .or_else(|| given.iter().find(|(id, _)| !stored.contains_key(id)));
    differs.map_or(Ok(()), |(_, (key, _))| Err(StateError::conflict(key)))
}
