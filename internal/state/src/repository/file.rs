//! Files: opening, closing, failing. The way into the target is in [`super::import`].

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use stream_model::definition::Sink;
use stream_model::file::{self, Event, File, IllegalTransition, State};
use stream_model::idempotency::Assigned;
use stream_model::invariant;
use stream_model::retry::Retry;
use stream_model::slice::{self, Closing, Slice};
use stream_model::trigger::Reason;
use stream_model::{FileId, SinkKey, SliceId, Timestamp, VolumeId};

use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{Store, Versioned, Written};
use crate::txn::Txn;

/// The stored form of the pointer to the writing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Current {
    pub(crate) file: FileId,
}

/// A file to be opened, with its slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The volumes of the source, when it has no assignment yet.
    pub assignment: Option<Vec<VolumeId>>,
    /// The file.
    pub file: File,
    /// One slice per volume of the file. Slices of rejected records may be opened with it.
    pub slices: Vec<Slice>,
}

/// What closing a file leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedFile {
    /// The file, closing.
    pub file: Versioned<File>,
    /// The file that takes the rows from now on.
    pub next: Option<Versioned<File>>,
}

pub(crate) fn file_key(file: &File) -> Key {
    Key::File(file.sink.clone(), file.id)
}

pub(crate) fn slice_key(slice: &Slice) -> Key {
    Key::Slice(slice.sink.clone(), slice.id)
}

impl Opening {
    /// The same, opened under that version of the sink.
    pub(crate) fn with_mapping_version(mut self, number: u64) -> Self {
        self.file.mapping_version = number;
        for slice in &mut self.slices {
            slice.mapping_version = number;
        }
        self
    }

    /// Adds everything to a transaction: no file of the sink is writing, and none of this exists yet.
    pub(crate) fn add_to<'a>(&self, txn: Txn<'a>, sink: &Sink) -> Result<Txn<'a>, StateError> {
        let current = Key::Current(sink.key.clone());
        let mut txn = txn.absent(&current);
        if let Some(volumes) = &self.assignment {
            let key = Key::Assignment(sink.key.source.clone());
            let assigned = Assigned::to(volumes.clone());
            txn = txn.absent(&key).put(&key, &assigned);
        }
        self.add_files_to(txn, sink)
    }

    /// The part that is the same whether or not another file was writing before.
    fn add_files_to<'a>(&self, txn: Txn<'a>, sink: &Sink) -> Result<Txn<'a>, StateError> {
        self.check(sink)?;
        let key = file_key(&self.file);
        let current = Current { file: self.file.id };
        let mut txn = txn
            .absent(&key)
            .put(&key, &self.file)
            .put(&Key::Current(sink.key.clone()), &current);
        for slice in &self.slices {
            let key = slice_key(slice);
            txn = txn.absent(&key).put(&key, slice);
        }
        Ok(txn)
    }

    fn check(&self, sink: &Sink) -> Result<(), StateError> {
        let file = &self.file;
        let broken = |rule| Err(StateError::violation(format!("file {}", file.id), rule));
        if file.sink != sink.key || file.state != State::Writing {
            return broken("a file is opened for its sink, and writing");
        }
        if file.mapping_version != sink.version.number {
            return broken("a file is opened under the newest version of its sink");
        }
        if !sink.is_enabled() {
            return broken("no file is opened for a disabled or deleted sink");
        }
        let own = self.slices.iter().all(|slice| {
            (slice.file == file.id || !slice.kind.is_rows())
                && slice.sink == file.sink
                && slice.mapping_version == file.mapping_version
                && slice.state == slice::State::Writing
                && invariant::check_slice(slice, slice).is_ok()
        });
        if !own {
            return broken("a file is opened with writing slices of its own");
        }
        let rows = self.slices.iter().filter(|slice| slice.kind.is_rows());
        let volumes: Vec<VolumeId> = rows.map(|slice| slice.volume).collect();
        let distinct: BTreeSet<VolumeId> = volumes.iter().copied().collect();
        let declared: BTreeSet<VolumeId> = file.volumes.iter().copied().collect();
        if volumes.is_empty() || volumes.len() != distinct.len() || distinct != declared {
            return broken("a file is opened with one slice on each of its volumes");
        }
        Ok(())
    }
}

impl Store {
    /// Reads a file.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn file(
        &self,
        sink: &SinkKey,
        file: FileId,
    ) -> Result<Option<Versioned<File>>, StateError> {
        self.get(&Key::File(sink.clone(), file)).await
    }

    /// Opens a file with its slices for a sink that has no writing file.
    ///
    /// # Errors
    /// `Conflict` when the sink was changed; `AlreadyExists` for [`Key::Current`] when another file is writing, for
    /// [`Key::Assignment`] when the source got its volumes meanwhile; `Violation` when file and slices do not fit.
    pub async fn open_file(
        &self,
        sink: &Versioned<Sink>,
        assignment: Option<Vec<VolumeId>>,
        file: File,
        slices: Vec<Slice>,
    ) -> Result<Versioned<File>, StateError> {
        let opening = Opening {
            assignment,
            file,
            slices,
        };
        let txn = self
            .txn()
            .unmodified(&Key::Sink(sink.value.key.clone()), sink.revision);
        let txn = opening.add_to(txn, &sink.value)?;
        txn.commit_as(Written::new(opening.file)).await
    }

    /// Closes the writing file of a sink: the file and all its writing slices become closing, the next file and its slices
    /// are opened, all in one transaction. Without `next` the sink stops taking rows.
    ///
    /// A transaction holds about 60 closed and opened slices. Of a file with more the rest is closed right after, by
    /// [`Self::close_slices`]: until then those slices go on taking rows, which belong to the closing file as well. When that
    /// is interrupted, somebody has to call it again.
    ///
    /// # Errors
    /// `Conflict` when the file, the sink or a slice was changed, or `closings` are not exactly the writing slices of the
    /// file. After any error of a file with so many slices it may be closed, with slices left to [`Self::close_slices`].
    pub async fn close_file(
        &self,
        file: &Versioned<File>,
        at: Timestamp,
        reason: Reason,
        closings: Vec<(Versioned<Slice>, Closing)>,
        next: Option<(File, Vec<Slice>)>,
    ) -> Result<ClosedFile, StateError> {
        let closed = apply(&file.value, Event::Close { at, reason })?;
        let sink = closed.sink.clone();
        let current = self.current_of(&file.value).await?;
        self.check_all_writing(&file.value, &closings).await?;
        let key = file_key(&closed);
        let closed = Written::over(file, closed);
        let mut txn = self
            .txn()
            .unmodified(&key, file.revision)
            .unmodified(&Key::Current(sink.clone()), current)
            .write(&key, &closed);
        // Every crossed slice of the sink is one of those that are being closed.
        txn = txn.delete_all(&prefix::crossed(&sink));
        txn = match &next {
            Some((next, slices)) => self.add_next(txn, next, slices).await?,
            None => txn.delete(&Key::Current(sink)),
        };
        check_successors(&closed.value, &closings, next.as_ref())?;
        let mut rest = closings;
        let first = rest.drain(..txn.room().min(rest.len())).collect();
        let revision = add_closings(txn, &closed.value, first)?.commit().await?;
        let file = closed.at(revision);
        if !rest.is_empty() {
            self.close_slices(&file, rest).await?;
        }
        Ok(ClosedFile {
            file,
            next: next.map(|(next, _)| Versioned::new(next, revision)),
        })
    }

    /// Closes writing slices of a file that is closing already. Repeating it after an interruption, with the slices that are
    /// still writing, goes on where it stopped. Answers the revision of the last change.
    ///
    /// # Errors
    /// `Violation` when the file is not closing or the slices are not its own; `Conflict` when one of them was changed.
    pub async fn close_slices(
        &self,
        file: &Versioned<File>,
        closings: Vec<(Versioned<Slice>, Closing)>,
    ) -> Result<i64, StateError> {
        if !matches!(file.value.state, State::Closing { .. }) {
            return Err(StateError::violation(
                format!("file {}", file.value.id),
                "slices are closed alone in a closing file only",
            ));
        }
        let mut revision = file.revision;
        let mut rest = closings;
        while !rest.is_empty() {
            let chunk: Vec<_> = rest.drain(..CLOSED_AT_ONCE.min(rest.len())).collect();
            let mut txn = self.txn().unmodified(&file_key(&file.value), file.revision);
            for (slice, _) in &chunk {
                let (sink, id) = (slice.value.sink.clone(), slice.value.id);
                txn = txn.delete(&Key::Crossed(sink, id));
            }
            revision = add_closings(txn, &file.value, chunk)?.commit().await?;
        }
        Ok(revision)
    }

    /// The revision of the pointer to this file as the writing one.
    async fn current_of(&self, file: &File) -> Result<i64, StateError> {
        let key = Key::Current(file.sink.clone());
        match self.get::<Current>(&key).await? {
            Some(current) if current.value.file == file.id => Ok(current.revision),
            _ => Err(StateError::conflict(key)),
        }
    }

    /// A slice that was left out would stay writing in a closed file for ever.
    async fn check_all_writing(
        &self,
        file: &File,
        closings: &[(Versioned<Slice>, Closing)],
    ) -> Result<(), StateError> {
        let given: BTreeSet<SliceId> = closings.iter().map(|(slice, _)| slice.value.id).collect();
        let stored = self
            .list_readable::<Slice>(&prefix::slices(&file.sink))
            .await?;
        let missing = stored.into_iter().find(|(_, slice)| {
            slice.value.file == file.id
                && slice.value.state == slice::State::Writing
                && !given.contains(&slice.value.id)
        });
        missing.map_or(Ok(()), |(key, _)| Err(StateError::conflict(key)))
    }

    async fn add_next<'a>(
        &self,
        txn: Txn<'a>,
        next: &File,
        slices: &[Slice],
    ) -> Result<Txn<'a>, StateError> {
        let key = Key::Sink(next.sink.clone());
        let sink: Versioned<Sink> = self.require(&key).await?;
        // The caller saw an older sink: that is a race, not a mistake.
        if !sink.value.is_enabled() || sink.value.version.number != next.mapping_version {
            return Err(StateError::conflict(key));
        }
        let opening = Opening {
            assignment: None,
            file: next.clone(),
            slices: slices.to_vec(),
        };
        opening.add_files_to(txn.unmodified(&key, sink.revision), &sink.value)
    }

    /// Notes that the current step of a file failed.
    ///
    /// # Errors
    /// `Conflict` when the file was changed; `File` when it is imported.
    pub async fn fail_file(
        &self,
        file: &Versioned<File>,
        retry: Retry,
    ) -> Result<Versioned<File>, StateError> {
        if matches!(file.value.state, State::Imported { .. }) {
            return Err(StateError::File(IllegalTransition {
                file: file.value.id,
                state: file.value.state.name(),
                event: "fail",
            }));
        }
        let failed = File {
            retry: Some(retry),
            ..file.value.clone()
        };
        self.put_file(file, failed).await
    }

    /// Writes the next value of a file and nothing else.
    pub(crate) async fn put_file(
        &self,
        old: &Versioned<File>,
        new: File,
    ) -> Result<Versioned<File>, StateError> {
        invariant::check_file(&old.value, &new)?;
        let key = file_key(&new);
        let new = Written::over(old, new);
        self.txn()
            .unmodified(&key, old.revision)
            .write(&key, &new)
            .commit_as(new)
            .await
    }
}

/// The file after the event, checked.
pub(crate) fn apply(file: &File, event: file::Event) -> Result<File, StateError> {
    let new = file.clone().apply(event)?;
    invariant::check_file(file, &new)?;
    Ok(new)
}

/// Slices that fit into one transaction, with the reports of their limits.
const CLOSED_AT_ONCE: usize = 60;

fn check_successors(
    file: &File,
    closings: &[(Versioned<Slice>, Closing)],
    next: Option<&(File, Vec<Slice>)>,
) -> Result<(), StateError> {
    let successors: BTreeSet<SliceId> = next
        .iter()
        .flat_map(|(_, slices)| slices.iter().map(|slice| slice.id))
        .collect();
    for (slice, closing) in closings {
        if closing
            .successor
            .is_some_and(|id| !successors.contains(&id))
        {
            return Err(StateError::violation(
                format!("slice {}", slice.value.id),
                "a successor is a slice of the next file",
            ));
        }
    }
    if let Some((next, _)) = next
        && next.sink != file.sink
    {
        return Err(StateError::violation(
            format!("file {}", next.id),
            "the next file belongs to the same sink",
        ));
    }
    Ok(())
}

fn add_closings<'a>(
    mut txn: Txn<'a>,
    file: &File,
    closings: Vec<(Versioned<Slice>, Closing)>,
) -> Result<Txn<'a>, StateError> {
    for (slice, closing) in closings {
        if slice.value.file != file.id || slice.value.sink != file.sink {
            return Err(StateError::violation(
                format!("slice {}", slice.value.id),
                "a file closes its own slices",
            ));
        }
        let closed = super::slice::apply(&slice.value, slice::Event::Close(closing))?;
        let key = slice_key(&closed);
        let closed = Written::over(&slice, closed);
        txn = txn.unmodified(&key, slice.revision).write(&key, &closed);
    }
    Ok(txn)
}
