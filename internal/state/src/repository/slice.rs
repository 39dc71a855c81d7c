//! Slices: rotating, sealing, uploading, moving, failing.

use stream_model::file::{self, File};
use stream_model::invariant;
use stream_model::retry::Retry;
use stream_model::slice::{Closing, Event, IllegalTransition, Seal, Slice, State};
use stream_model::{SinkKey, SliceId, Timestamp};

use super::file::{file_key, slice_key};
use crate::error::StateError;
use crate::keyspace::Key;
use crate::store::{Store, Versioned, Written};
use crate::txn::{Tries, Txn};

/// How often a write that needs the volume's incarnation is tried while that changes without becoming another number.
const INCARNATION_TRIES: u32 = 5;

/// What rotating a slice leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The slice, closing.
    pub closed: Versioned<Slice>,
    /// The slice that takes the rows from now on.
    pub successor: Versioned<Slice>,
}

impl Store {
    /// Reads a slice.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn slice(
        &self,
        sink: &SinkKey,
        slice: SliceId,
    ) -> Result<Option<Versioned<Slice>>, StateError> {
        self.get(&Key::Slice(sink.clone(), slice)).await
    }

    /// Closes a slice of a writing file and opens its successor in one transaction.
    ///
    /// # Errors
    /// `Conflict` when the file or the slice was changed; `Violation` when they do not belong together.
    pub async fn rotate_slice(
        &self,
        file: &Versioned<File>,
        slice: &Versioned<Slice>,
        closing: Closing,
        successor: Slice,
    ) -> Result<Rotation, StateError> {
        check_rotation(&file.value, &slice.value, &closing, &successor)?;
        let closed = apply(&slice.value, Event::Close(closing))?;
        let old_key = slice_key(&closed);
        let new_key = slice_key(&successor);
        let closed = Written::over(slice, closed);
        let revision = self
            .txn()
            .unmodified(&file_key(&file.value), file.revision)
            .unmodified(&old_key, slice.revision)
            .absent(&new_key)
            .write(&old_key, &closed)
            .put(&new_key, &successor)
            .delete(&Key::Crossed(slice.value.sink.clone(), slice.value.id))
            .commit()
            .await?;
        Ok(Rotation {
            closed: closed.at(revision),
            successor: Versioned::new(successor, revision),
        })
    }

    /// Records what a closing slice finally contains. Only the process that holds the volume in its newest incarnation can.
    ///
    /// # Errors
    /// `StaleIncarnation` when the volume was opened again since; `Conflict` when the slice was changed.
    pub async fn seal_slice(
        &self,
        slice: &Versioned<Slice>,
        seal: Seal,
        incarnation: u64,
    ) -> Result<Versioned<Slice>, StateError> {
        check_sealer(&slice.value, &seal, incarnation)?;
        self.put_slice_of(slice, Event::Seal(seal), incarnation)
            .await
    }

    /// Records that the file of a sealed slice was rebuilt with other bytes, or, after damage to the disk, with fewer rows.
    ///
    /// # Errors
    /// As [`Self::seal_slice`]; `Slice` when there are more rows or other sessions than before, or it is uploaded.
    pub async fn reseal_slice(
        &self,
        slice: &Versioned<Slice>,
        seal: Seal,
        incarnation: u64,
    ) -> Result<Versioned<Slice>, StateError> {
        check_sealer(&slice.value, &seal, incarnation)?;
        self.put_slice_of(slice, Event::Reseal(seal), incarnation)
            .await
    }

    /// Records that the object of a sealed slice is complete in staging.
    ///
    /// # Errors
    /// `StaleIncarnation` when the volume was opened again since the caller looked: then the slice may have been rebuilt
    /// and the object may not be what is sealed; `Conflict` when the slice was changed.
    pub async fn upload_slice(
        &self,
        slice: &Versioned<Slice>,
        object: String,
        at: Timestamp,
        incarnation: u64,
    ) -> Result<Versioned<Slice>, StateError> {
        self.put_slice_of(slice, Event::Upload { object, at }, incarnation)
            .await
    }

    /// Notes that the current step of a slice failed.
    ///
    /// # Errors
    /// `Conflict` when the slice was changed; `Slice` when it is uploaded.
    pub async fn fail_slice(
        &self,
        slice: &Versioned<Slice>,
        retry: Retry,
    ) -> Result<Versioned<Slice>, StateError> {
        if slice.value.is_uploaded() {
            return Err(StateError::Slice(IllegalTransition {
                slice: slice.value.id,
                state: slice.value.state.name(),
                event: "fail",
            }));
        }
        let failed = Slice {
            retry: Some(retry),
            ..slice.value.clone()
        };
        invariant::check_slice(&slice.value, &failed)?;
        let failed = Written::over(slice, failed);
        put(self.txn(), slice, &failed).commit_as(failed).await
    }

    /// Moves a slice that is late out of its closing file into the writing one, so that the others need not wait for it.
    ///
    /// # Errors
    /// `Conflict` when one of the three was changed; `Violation` when the slice is writing or uploaded, the files do not
    /// have that order and the same table, or rows must stay in order because the table has a primary key.
    pub async fn move_slice(
        &self,
        slice: &Versioned<Slice>,
        from: &Versioned<File>,
        to: &Versioned<File>,
    ) -> Result<Versioned<Slice>, StateError> {
        check_move(&slice.value, &from.value, &to.value)?;
        let moved = Slice {
            file: to.value.id,
            ..slice.value.clone()
        };
        invariant::check_slice(&slice.value, &moved)?;
        let txn = self
            .txn()
            .unmodified(&file_key(&from.value), from.revision)
            .unmodified(&file_key(&to.value), to.revision);
        let moved = Written::over(slice, moved);
        put(txn, slice, &moved).commit_as(moved).await
    }

    /// Applies an event that only the present holder of the volume may cause.
    async fn put_slice_of(
        &self,
        slice: &Versioned<Slice>,
        event: Event,
        incarnation: u64,
    ) -> Result<Versioned<Slice>, StateError> {
        let new = Written::over(slice, apply(&slice.value, event)?);
        let volume = slice.value.volume;
        let key = Key::Incarnation(volume);
        let mut tries = Tries::new(INCARNATION_TRIES);
        loop {
            let own = self.own_incarnation(volume, incarnation).await?;
            let txn = self.txn().unmodified(&key, own.revision);
            match put(txn, slice, &new).commit().await {
                Ok(revision) => return Ok(new.at(revision)),
                // The number is compared again; recovery that was completed meanwhile is no conflict.
                Err(StateError::Conflict { key: changed }) if changed == key.to_string() => {
                    self.forget_incarnation(volume);
                    tries.after(StateError::conflict(changed)).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The slice after the event, checked.
pub(crate) fn apply(slice: &Slice, event: Event) -> Result<Slice, StateError> {
    let new = slice.clone().apply(event)?;
    invariant::check_slice(slice, &new)?;
    Ok(new)
}

fn put<'a>(txn: Txn<'a>, old: &Versioned<Slice>, new: &Written<Slice>) -> Txn<'a> {
    let key = slice_key(&new.value);
    txn.unmodified(&key, old.revision).write(&key, new)
}

fn check_sealer(slice: &Slice, seal: &Seal, incarnation: u64) -> Result<(), StateError> {
    if seal.incarnation != incarnation {
        return Err(StateError::violation(
            format!("slice {}", slice.id),
            "a seal names the incarnation that made it",
        ));
    }
    Ok(())
}

fn check_rotation(
    file: &File,
    slice: &Slice,
    closing: &Closing,
    successor: &Slice,
) -> Result<(), StateError> {
    let broken = |rule| Err(StateError::violation(format!("slice {}", slice.id), rule));
    if file.state != file::State::Writing {
        return broken("slices are created in writing files only");
    }
    let belongs = |slice: &Slice| slice.file == file.id && slice.sink == file.sink;
    if !belongs(slice) || !belongs(successor) {
        return broken("a slice and its successor belong to the same file");
    }
    if closing.successor != Some(successor.id) || successor.id == slice.id {
        return broken("a rotated slice names its successor");
    }
    if successor.state != State::Writing || successor.mapping_version != file.mapping_version {
        return broken("a successor is writing, under the mapping of its file");
    }
    if !file.volumes.contains(&successor.volume) {
        return broken("a successor lies on a volume of its file");
    }
    Ok(())
}

fn check_move(slice: &Slice, from: &File, to: &File) -> Result<(), StateError> {
    let broken = |rule| Err(StateError::violation(format!("slice {}", slice.id), rule));
    if slice.file != from.id || slice.sink != from.sink || slice.sink != to.sink {
        return broken("a slice moves between files of its sink");
    }
    if !matches!(from.state, file::State::Closing { .. }) || to.state != file::State::Writing {
        return broken("a slice moves from a closing file to a writing one");
    }
    if slice.state == State::Writing || slice.is_uploaded() {
        return broken("only a slice that is being sealed or uploaded moves");
    }
    if from.mapping_version != to.mapping_version || from.table != to.table {
        return broken("a slice moves to a file with the same table only");
    }
    if from.table.mapping.primary_key().next().is_some() {
        return broken("slices of a table with a primary key stay in order");
    }
    Ok(())
}
