//! Slices of rejected records: opening, rotating, removing. Sealing and uploading are as for all slices.

use stream_model::file::{File, State as FileState};
use stream_model::invariant;
use stream_model::ledger;
use stream_model::slice::{Closing, Event, Kind, Slice, State};
use stream_model::statistics::Figures;

use super::definition::UPDATE_TRIES;
use super::file::{file_key, slice_key};
use super::slice::apply;
use super::statistics::crossed_key;
use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{Store, Versioned, Written};
use crate::txn::Tries;

/// Slices that fit into one transaction, each with the tombstone of its volume.
const CHUNK: usize = 60;

impl Store {
    /// Opens slices of rejected records for a sink, while `file` is its writing one. Answers the revision of the last change.
    ///
    /// # Errors
    /// `AlreadyExists` when one of them exists, or its volume was given up; `Conflict` when the file was changed;
    /// `Violation` when they are not slices of rejected records of the file's sink, or the file is not writing.
    pub async fn open_rejects(
        &self,
        file: &Versioned<File>,
        slices: Vec<Slice>,
    ) -> Result<i64, StateError> {
        if file.value.state != FileState::Writing {
            return Err(StateError::violation(
                format!("file {}", file.value.id),
                "rejected records are taken beside a writing file only",
            ));
        }
        let mut revision = file.revision;
        for chunk in slices.chunks(CHUNK) {
            let mut txn = self.txn().unmodified(&file_key(&file.value), file.revision);
            for slice in chunk {
                check_new(slice)?;
                if slice.sink != file.value.sink {
                    return Err(broken(
                        slice,
                        "rejected records belong to the sink of the file",
                    ));
                }
                let key = slice_key(slice);
                txn = txn
                    .absent(&key)
                    .absent(&Key::Forgotten(slice.volume))
                    .put(&key, slice);
            }
            revision = txn.commit().await?;
        }
        Ok(revision)
    }

    /// Closes a slice of rejected records. With a successor that takes the records from now on. Answers the revision of the
    /// change.
    ///
    /// # Errors
    /// `Conflict` when the slice was changed; `AlreadyExists` when the successor exists, or the volume was given up;
    /// `Violation` when they do not belong together.
    pub async fn close_rejects(
        &self,
        slice: &Versioned<Slice>,
        closing: Closing,
        successor: Option<Slice>,
    ) -> Result<i64, StateError> {
        check_kind(&slice.value)?;
        if closing.successor != successor.as_ref().map(|slice| slice.id) {
            return Err(broken(&slice.value, "a rotated slice names its successor"));
        }
        let closed = apply(&slice.value, Event::Close(closing))?;
        let key = slice_key(&closed);
        let mut txn = self
            .txn()
            .unmodified(&key, slice.revision)
            .write(&key, &Written::over(slice, closed))
            .delete(&crossed_key(&slice.value));
        if let Some(successor) = &successor {
            check_successor(&slice.value, successor)?;
            let key = slice_key(successor);
            txn = txn
                .absent(&key)
                .absent(&Key::Forgotten(successor.volume))
                .put(&key, successor);
        }
        txn.commit().await
    }

    /// Removes the record of an uploaded slice of rejected records, and adds its figures to those of the sink that are not
    /// kept any more.
    ///
    /// # Errors
    /// `Conflict` when the slice was changed, or others were faster each time; `Violation` when it is not uploaded.
    pub async fn remove_rejects(&self, slice: &Versioned<Slice>) -> Result<i64, StateError> {
        check_kind(&slice.value)?;
        let State::Uploaded { seal, .. } = &slice.value.state else {
            return Err(broken(&slice.value, "only uploaded records are removed"));
        };
        let key = slice_key(&slice.value);
        let sum_key = Key::RejectsRemoved(slice.value.sink.clone());
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            let mut txn = self.txn().unmodified(&key, slice.revision).delete(&key);
            if seal.figures.rows > 0 {
                let sum = self.get::<Figures>(&sum_key).await?;
                let sum = sum.unwrap_or_else(|| Versioned::new(Figures::default(), 0));
                let mut new = sum.value;
                new.add(&seal.figures);
                txn = txn
                    .unmodified(&sum_key, sum.revision)
                    .write(&sum_key, &Written::over(&sum, new));
            }
            let removed = ledger::of_removed(std::iter::once(&slice.value));
            txn = self.add_to_ledger(txn, &slice.value.sink, &removed).await?;
            let days = prefix::ledger(&slice.value.sink);
            match txn.commit().await {
                Err(StateError::Conflict { key: changed })
                    if changed == sum_key.to_string() || changed.starts_with(&days) =>
                {
                    tries.after(StateError::conflict(changed)).await?;
                }
                outcome => return outcome,
            }
        }
    }
}

fn broken(slice: &Slice, rule: &'static str) -> StateError {
    StateError::violation(format!("slice {}", slice.id), rule)
}

fn check_kind(slice: &Slice) -> Result<(), StateError> {
    match slice.kind {
        Kind::Rejects => Ok(()),
        Kind::Rows => Err(broken(slice, "rows are closed and removed with their file")),
    }
}

fn check_new(slice: &Slice) -> Result<(), StateError> {
    check_kind(slice)?;
    invariant::check_slice(slice, slice)?;
    if slice.state != State::Writing {
        return Err(broken(slice, "a slice is opened writing"));
    }
    Ok(())
}

fn check_successor(slice: &Slice, successor: &Slice) -> Result<(), StateError> {
    check_new(successor)?;
    let is_same_place = successor.sink == slice.sink && successor.volume == slice.volume;
    if successor.id == slice.id || !is_same_place {
        return Err(broken(
            slice,
            "a successor takes the records of the same sink on the same volume",
        ));
    }
    Ok(())
}
