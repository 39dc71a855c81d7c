//! Removes what is of no use any more: staged objects and records of imported files, and finished tasks.
//!
//! The newest imported files of each sink keep their records, to show what happened; their staged objects go when the
//! retention is over, because the rows have been in the table for that long. Of older files everything goes after some minutes,
//! also within the retention: every process with a mirror has all records in memory, and a sink may import a file every few
//! seconds. The minutes are for those who must see what became of a slice: its writer, which releases the local copy, and
//! sources that ask whether a batch was written.
//! Rejected records have a retention of their own (`rejects`).
//! Definitions are never removed here, not even those of deleted sinks: a purge does that, and leaves notes of its slices,
//! which go here with their objects (`purged`).
//!
//! Order matters: first the objects, then the record that names them. What is left behind by a crash in between is removed
//! by the next round.

mod purged;
mod rejects;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use stream_model::file::State;
use stream_model::purge::Purged;
use stream_model::{FileId, Timestamp};
use stream_node::{CancellationToken, Outcome, Reconciler, TaskError};
use stream_state::{StateError, Task, TaskStatus, Topology, Versioned};
use stream_storage::crash::{self, Point};
use stream_storage::staging::StagingError;
use tracing::{debug, warn};

use self::rejects::Gone;
use crate::context::{Context, Surroundings, is_overtaken};
use crate::file_import::Whole;
use crate::picture::Picture;

pub use rejects::RejectsKept;

/// How long a record stays for a volume that does not come back to see that its slices are uploaded.
const ABSENT_VOLUME_PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// After so long every process that is connected has seen that a file was imported.
const SEEN_BY_ALL: Duration = Duration::from_secs(2 * 60);

/// How long no upload stands still: after that, its remains are removed.
const ABANDONED_UPLOAD: Duration = Duration::from_secs(6 * 3600);

/// What is kept, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupOptions {
    /// Whether anything is removed at all. Default true.
    pub enabled: bool,
    /// Time between two rounds. Default 1 min.
    pub interval: Duration,
    /// How long the staged objects of a file stay after it was imported, at most. Default 1 h. Raising it costs staging space.
    pub retention: Duration,
    /// How many imported files per sink are kept. Default 30. Raising it costs memory in every process, about 3 KiB per file.
    pub archived_files_per_sink: usize,
    /// What is kept of rejected records.
    pub rejects: RejectsKept,
    /// How long the record of a successful task stays. Default 1 h.
    pub successful_task_retention: Duration,
    /// How long the record of a task that failed, or never finished, stays. Default 48 h.
    pub failed_task_retention: Duration,
}

impl Default for CleanupOptions {
    fn default() -> Self {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Self {
            enabled: true,
            interval: Duration::from_secs(60),
            retention: hours(1),
            archived_files_per_sink: 30,
            rejects: RejectsKept::default(),
            successful_task_retention: hours(1),
            failed_task_retention: hours(48),
        }
    }
}

/// An imported file whose time, or whose place among the newest, is lost.
#[derive(Debug)]
pub(crate) struct Expired {
    pub(crate) whole: Whole,
    /// What happens to its records.
    pub(crate) records: Records,
}

/// What happens to the records of an expired file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Records {
    /// They stay; only the objects go.
    Keep,
    /// They go, too.
    Remove,
}

/// The imported files of one sink whose time is over.
pub(crate) fn expired(
    picture: &Picture<'_>,
    around: &Surroundings,
    options: &CleanupOptions,
    now: Timestamp,
) -> Vec<Expired> {
    let imported = picture
        .files()
        .rev()
        .filter_map(|file| match &file.value.state {
            State::Imported { at, .. } => Some((file, *at)),
            State::Writing | State::Closing { .. } | State::Importing { .. } => None,
        });
    let old = imported.enumerate().filter(|(position, (_, at))| {
        let age = now.since(*at);
        let is_archived = *position < options.archived_files_per_sink;
        age >= options.retention || (!is_archived && age >= SEEN_BY_ALL)
    });
    old.map(|(position, (file, at))| {
        let whole = Whole::new(picture, file);
        // The writer releases the local copy when it sees `uploaded`: it must have had the chance.
        let seen = now.since(at) >= ABSENT_VOLUME_PATIENCE
            || whole
                .slices
                .iter()
                .all(|slice| around.is_live(slice.value.volume));
        let archived = position < options.archived_files_per_sink;
        let records = if seen && !archived {
            Records::Remove
        } else {
            Records::Keep
        };
        Expired { whole, records }
    })
    .collect()
}

/// Whether the time of a task's record is over.
pub(crate) fn is_task_expired(task: &Task, options: &CleanupOptions, now: Timestamp) -> bool {
    let ended = task.finished_at.unwrap_or(task.created_at);
    let retention = match task.status {
        TaskStatus::Success => options.successful_task_retention,
        TaskStatus::Error | TaskStatus::Processing => options.failed_task_retention,
    };
    now.since(ended) >= retention
}

/// Something that goes.
enum Leftover {
    /// An imported file.
    File(Expired),
    /// Rejected records.
    Rejects(Gone),
    /// What a slice of a purged sink has left.
    Purged(Arc<Versioned<Purged>>),
}

impl Leftover {
    /// Says why it is still there.
    fn report(&self, error: &CleanupError) {
        match self {
            Self::File(expired) => {
                let file = expired.whole.file.value.id;
                warn!(%file, %error, "imported file cannot be cleaned up yet");
            }
            Self::Rejects(gone) => {
                let slice = gone.slice.value.id;
                warn!(%slice, %error, "rejected records cannot be removed yet");
            }
            Self::Purged(note) => {
                let slice = note.value.slice.id;
                warn!(%slice, %error, "remains of a purged slice cannot be removed yet");
            }
        }
    }
}

/// The reconciler.
pub(crate) struct Cleanup {
    context: Arc<Context>,
    /// Files that keep their records and have no objects any more, as far as this process knows.
    emptied: Mutex<BTreeSet<FileId>>,
}

/// Why something could not be removed.
#[derive(Debug, thiserror::Error)]
enum CleanupError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Staging(#[from] StagingError),
}

impl Cleanup {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            emptied: Mutex::default(),
        }
    }

    fn list(&self, topology: &Topology, around: &Surroundings, now: Timestamp) -> Vec<Leftover> {
        let files = self.list_files(topology, around, now).into_iter();
        let rejects = self.list_rejects(topology, around, now).into_iter();
        let purged = self.list_purged(topology, around, now).into_iter();
        files
            .map(Leftover::File)
            .chain(rejects.map(Leftover::Rejects))
            .chain(purged.map(Leftover::Purged))
            .collect()
    }

    fn list_files(
        &self,
        topology: &Topology,
        around: &Surroundings,
        now: Timestamp,
    ) -> Vec<Expired> {
        let options = &self.context.options.cleanup;
        let sinks = topology
            .sources
            .keys()
            .flat_map(|source| self.context.own_sinks(topology, around, source));
        let all = sinks.flat_map(|(_, picture)| expired(&picture, around, options, now));
        let all: BTreeMap<_, _> = all
            .map(|expired| (expired.whole.file.value.id, expired))
            .collect();
        let mut emptied = self.emptied.lock();
        emptied.retain(|file| all.contains_key(file));
        let to_do = |(id, expired): &(FileId, Expired)| {
            expired.records == Records::Remove || !emptied.contains(id)
        };
        all.into_iter()
            .filter(to_do)
            .map(|(_, expired)| expired)
            .collect()
    }

    /// Removes each, and goes on with the others when one cannot be removed. Answers how many went, and the last failure.
    async fn remove_all(
        &self,
        leftovers: &[Leftover],
        cancel: &CancellationToken,
    ) -> (usize, Option<CleanupError>) {
        let (mut removed, mut failure) = (0, None);
        for leftover in leftovers {
            if cancel.is_cancelled() {
                break;
            }
            match self.remove(leftover).await {
                Ok(()) => removed += 1,
                Err(CleanupError::State(error)) if is_overtaken(&error) => {
                    debug!(%error, "somebody else was faster");
                }
                Err(error) => {
                    leftover.report(&error);
                    failure = Some(error);
                }
            }
        }
        (removed, failure)
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), CleanupError> {
        match leftover {
            Leftover::File(expired) => self.remove_file(expired).await,
            Leftover::Rejects(gone) => self.remove_rejects(gone).await,
            Leftover::Purged(note) => self.remove_purged(note).await,
        }
    }

    async fn remove_file(&self, expired: &Expired) -> Result<(), CleanupError> {
        let Whole { file, slices } = &expired.whole;
        let id = file.value.id;
        if !self.emptied.lock().contains(&id) {
            for object in slices.iter().filter_map(|slice| slice.value.object()) {
                self.context.staging.delete(object).await?;
                crash::point(Point::ObjectDeleted);
            }
            self.emptied.lock().insert(id);
        }
        if expired.records == Records::Remove {
            let slices: Vec<_> = slices.iter().map(|slice| Versioned::clone(slice)).collect();
            self.context.store.remove_file(file, &slices).await?;
        }
        debug!(sink = %file.value.sink, file = %id, records = ?expired.records, "imported file cleaned up");
        Ok(())
    }

    /// Removes what uploads that were cut short have left in staging.
    async fn collect(&self, now: Timestamp) -> Result<(), StagingError> {
        let age = i64::try_from(ABANDONED_UPLOAD.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp::from_millis(now.as_millis().saturating_sub(age));
        let collected = self.context.staging.collect(before).await?;
        if collected > 0 {
            debug!(collected, "remains of uploads removed from staging");
        }
        Ok(())
    }

    async fn clean_tasks(&self, now: Timestamp) -> Result<usize, StateError> {
        let options = &self.context.options.cleanup;
        let mut removed = 0;
        for task in self.context.store.tasks("").await? {
            if is_task_expired(&task.value, options, now) {
                self.context.store.remove_task(&task).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

#[async_trait]
impl Reconciler for Cleanup {
    fn name(&self) -> &'static str {
        "cleanup"
    }

    async fn reconcile(&self, cancel: &CancellationToken) -> Result<Outcome, TaskError> {
        let context = &self.context;
        let (now, around) = (context.clock.now(), context.surroundings());
        let leftovers = context
            .mirror
            .read(|topology| self.list(topology, &around, now));
        let (mut changed, failure) = self.remove_all(&leftovers, cancel).await;
        if cancel.is_cancelled() {
            return Ok(Outcome {
                changed,
                next: None,
            });
        }
        changed += self.clean_tasks(now).await?;
        self.collect(now).await?;
        match failure {
            Some(error) => Err(error.into()),
            None => Ok(Outcome {
                changed,
                next: None,
            }),
        }
    }
}

#[cfg(test)]
mod tests;
