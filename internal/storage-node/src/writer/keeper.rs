//! Keeps the slices of one volume as the state says: open, sealed, or gone.
//!
//! | record in the state | on the volume |
//! |---|---|
//! | writing | open |
//! | closing | sealed; then the record gets the final figures, checksum and sessions |
//! | uploading, sealed by an earlier opening of the volume | sealed again, and compared: what recovery built is what the reader will read |
//! | uploaded | released |
//! | none, with the note of a purge | released, whatever it holds |
//! | none | left alone if it has rows: without a record nothing says that they are safe. Reported once |
//! | sealed by a later opening of the volume | nothing more is touched: the volume is another writer's |
//! | uploaded, without rows that the volume has | left alone: some of them are nowhere else. Reported once |
//!
//! When the first round has gone through, the incarnation is marked as recovered, which is what the reader waits for.

mod plan;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use stream_model::slice::{Seal, Slice};
use stream_model::{Clock, ErrorKind, SliceId};
use stream_node::{CancellationToken, Outcome, Reconciler, TaskError};
use stream_state::{Mirror, StateError, Store, Topology, Versioned};
use stream_storage::crash::{self, Point};
use stream_storage::local::{SliceSpec, SliceStatus, Volume};
use tracing::{debug, error, info, warn};

use self::plan::{Done, Local, Plan, plan};
use super::metrics::Metrics;
use crate::changes::Changes;

/// Slices that are sealed at the same time.
const CONCURRENT_SEALS: usize = 16;
/// How long a round waits for the content of a slice.
const SEAL_PATIENCE: Duration = Duration::from_secs(5);
/// How soon a slice is asked again whose content did not come.
const SEAL_PAUSE: Duration = Duration::from_secs(1);

/// Why a slice could not be brought into its state.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("the volume stopped before slice {0} was sealed")]
    Stopped(SliceId),
    #[error("the file of slice {0} is not complete yet")]
    NotYet(SliceId),
    #[error(transparent)]
    State(#[from] StateError),
}

/// What a [`Keeper`] works with.
pub(crate) struct KeeperParts {
    pub(crate) store: Store,
    pub(crate) mirror: Mirror,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) volume: Volume,
    pub(crate) label: String,
    pub(crate) incarnation: u64,
}

/// The reconciler of one volume.
pub(crate) struct Keeper {
    parts: KeeperParts,
    /// Cancelled when another writer has opened the volume since.
    superseded: CancellationToken,
    changes: Mutex<Changes>,
    done: Mutex<Done>,
    recovered: AtomicBool,
    /// The newest incarnation that a refusal or a record has named.
    newest: AtomicU64,
}

impl Keeper {
    pub(crate) fn new(parts: KeeperParts) -> Self {
        Self {
            parts,
            superseded: CancellationToken::new(),
            changes: Mutex::default(),
            done: Mutex::default(),
            recovered: AtomicBool::new(false),
            newest: AtomicU64::new(0),
        }
    }

    /// Ends when another writer has opened the volume since, or a person has given it up: this one must not touch it any
    /// more. Says which.
    pub(crate) async fn superseded(&self) -> StateError {
        let (volume, ours) = (self.parts.volume.id(), self.parts.incarnation);
        tokio::select! {
            biased;
            reason = self.parts.store.superseded(volume, ours) => reason,
            () = self.superseded.cancelled() => StateError::StaleIncarnation {
                volume,
                ours,
                newest: self.newest.load(Ordering::Relaxed),
            },
        }
    }

    fn supersede(&self, newest: u64) {
        self.newest.fetch_max(newest, Ordering::Relaxed);
        self.superseded.cancel();
    }

    /// Opens all slices that take rows, without waiting for anything.
    pub(crate) fn open_slices(&self) {
        let plan = self.parts.mirror.read(|topology| self.list(topology));
        self.open(&plan.open);
        // The first round must see the slices again that need more than to be opened.
        self.changes.lock().restart();
    }

    /// Tells the volume whose rows its slices hold, those of earlier runs too.
    fn attribute(&self, local: &[SliceStatus], topology: &Topology) {
        let mut done = self.done.lock();
        for status in local {
            if done.attributed.contains(&status.id) {
                continue;
            }
            if let Some(slice) = topology.slice(status.id) {
                self.parts.volume.attribute(status.id, &slice.value.sink);
                done.attributed.insert(status.id);
            }
        }
    }

    fn list(&self, topology: &Topology) -> Plan {
        let volume = &self.parts.volume;
        let now = self.parts.clock.now();
        let changed = self.changes.lock().slices(topology, volume.id(), now);
        let local = volume.slices();
        self.attribute(&local, topology);
        let records = local
            .iter()
            .map(|status| (*status, topology.slice(status.id).map(|slice| &slice.value)));
        let beyond = |id, seal: &Seal| volume.holds_beyond(id, &seal.sessions);
        let purged = |id| topology.purged(id).is_some();
        let volume = Local {
            beyond: &beyond,
            purged: &purged,
            incarnation: self.parts.incarnation,
        };
        let done = self.done.lock();
        plan(&changed, records, &volume, &done)
    }

    fn open(&self, slices: &[Arc<Versioned<Slice>>]) {
        let mut done = self.done.lock();
        for Versioned { value: slice, .. } in slices.iter().map(Arc::as_ref) {
            self.parts.volume.open_slice(SliceSpec {
                id: slice.id,
                compression: slice.compression,
                durability: slice.durability,
                trigger: slice.trigger,
            });
            done.opened.insert(slice.id);
            self.parts.volume.attribute(slice.id, &slice.sink);
            done.attributed.insert(slice.id);
            debug!(slice = %slice.id, sink = %slice.sink, "slice opened");
        }
    }

    /// Removes slices that are safe in staging, and forgets them.
    fn release(&self, slices: &[SliceId]) {
        let mut done = self.done.lock();
        for id in slices {
            self.parts.volume.release(*id);
            crash::point(Point::SliceReleased);
            done.opened.remove(id);
            done.verified.remove(id);
            done.attributed.remove(id);
            debug!(slice = %id, "slice released");
        }
    }

    fn report_orphans(&self, slices: &[SliceId]) {
        self.parts.metrics.orphans(&self.parts.label, slices.len());
        for id in slices {
            if self.done.lock().reported.insert(*id) {
                let volume = &self.parts.label;
                warn!(volume, slice = %id, "slice on the volume has no record, it is left alone");
            }
        }
    }

    fn report_surplus(&self, slices: &[SliceId]) {
        for id in slices {
            if self.done.lock().reported.insert(*id) {
                let volume = &self.parts.label;
                error!(volume, slice = %id, "uploaded slice has rows on the volume that were not sealed, it is left alone");
            }
        }
    }

    /// The seal of a slice, taken from the volume. The volume answers the same again and again.
    async fn seal_of(&self, slice: &Slice) -> Result<Seal, KeepError> {
        let successor = slice.closing().and_then(|closing| closing.successor);
        // One slice whose file cannot be completed must not hold up the others: it is asked again in the next round.
        let sealing = self.parts.volume.seal(slice.id, successor);
        let sealed = tokio::time::timeout(SEAL_PATIENCE, sealing)
            .await
            .map_err(|_elapsed| KeepError::NotYet(slice.id))?;
        let content = sealed.map_err(|_unknown| KeepError::Stopped(slice.id))?;
        Ok(Seal {
            at: self.parts.clock.now(),
            incarnation: self.parts.incarnation,
            figures: content.figures,
            later_hours: content.later_hours,
            checksum: content.checksum,
            sessions: content.sessions,
        })
    }

    async fn seal(&self, slice: Arc<Versioned<Slice>>) -> Result<(), KeepError> {
        let seal = self.seal_of(&slice.value).await?;
        let (rows, bytes) = (seal.figures.rows, seal.figures.bytes);
        crash::point(Point::SealRecording);
        self.parts
            .store
            .seal_slice(&slice, seal, self.parts.incarnation)
            .await?;
        crash::point(Point::SealRecorded);
        self.parts.metrics.sealed(rows);
        debug!(slice = %slice.value.id, sink = %slice.value.sink, rows, bytes, "slice sealed");
        Ok(())
    }

    /// Compares a slice that an earlier opening sealed with what recovery made of it.
    async fn verify(&self, slice: Arc<Versioned<Slice>>) -> Result<(), KeepError> {
        let id = slice.value.id;
        if self.parts.volume.slice(id).is_none() {
            // It was released, so it was uploaded: the state has gone back, as after a restore. The reader finds the object.
            warn!(slice = %id, sink = %slice.value.sink, "slice to upload is not on the volume any more");
            self.done.lock().verified.insert(id);
            return Ok(());
        }
        let new = self.seal_of(&slice.value).await?;
        let Some(old) = slice.value.seal() else {
            return Ok(());
        };
        let (expected, found) = (old.figures.rows, new.figures.rows);
        let sink = &slice.value.sink;
        let is_same = (new.figures.bytes, &new.checksum) == (old.figures.bytes, &old.checksum);
        if found > expected {
            if self.done.lock().reported.insert(id) {
                error!(slice = %id, %sink, expected, found, "sealed slice has more rows than its seal says, it is left alone");
            }
        } else if !is_same {
            // What was acknowledged to the sessions stays as it was sealed, also where the disk has lost the rows.
            let sessions = old.sessions.clone();
            let new = Seal { sessions, ..new };
            self.parts
                .store
                .reseal_slice(&slice, new, self.parts.incarnation)
                .await?;
            if found < expected {
                error!(slice = %id, %sink, expected, found, "rows of a sealed slice were lost to damage, the others go on");
            } else {
                info!(slice = %id, %sink, "slice was rebuilt with other bytes and sealed again");
            }
        }
        crash::point(Point::SealVerified);
        self.done.lock().verified.insert(id);
        Ok(())
    }

    /// Seals and verifies, several at a time.
    async fn settle(&self, plan: &Plan, cancel: &CancellationToken) -> Settled {
        let seals = plan
            .seal
            .iter()
            .map(|slice| (Arc::clone(slice), Step::Seal));
        let verifications = plan
            .verify
            .iter()
            .map(|slice| (Arc::clone(slice), Step::Verify));
        let work: Vec<_> = seals.chain(verifications).collect();
        let work = stream::iter(work)
            .take_while(|_| std::future::ready(!cancel.is_cancelled()))
            .map(|(slice, step)| self.settle_one(slice, step))
            .buffer_unordered(CONCURRENT_SEALS);
        let mut results = std::pin::pin!(work);
        let mut settled = Settled::default();
        while let Some(result) = results.next().await {
            match result {
                Ok(()) => settled.done += 1,
                Err(KeepError::State(error @ StateError::StaleIncarnation { newest, .. })) => {
                    self.supersede(newest);
                    settled.failure = Some(KeepError::State(error));
                }
                Err(KeepError::State(error))
                    if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) =>
                {
                    debug!(%error, "slice was changed meanwhile");
                }
                Err(error @ KeepError::NotYet(_)) => {
                    debug!(%error, "slice is asked again");
                    settled.late += 1;
                }
                Err(error) => {
                    settled.failure.get_or_insert(error);
                }
            }
        }
        settled
    }

    async fn settle_one(&self, slice: Arc<Versioned<Slice>>, step: Step) -> Result<(), KeepError> {
        match step {
            Step::Seal => self.seal(slice).await,
            Step::Verify => self.verify(slice).await,
        }
    }

    /// Tells the reader that the slice files are complete, the first time there is nothing left to verify.
    async fn mark_recovered(&self) -> Result<(), KeepError> {
        if self.recovered.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (volume, incarnation) = (self.parts.volume.id(), self.parts.incarnation);
        crash::point(Point::RecoveredRecording);
        match self.parts.store.mark_recovered(volume, incarnation).await {
            Ok(()) => {
                crash::point(Point::RecoveredRecorded);
                self.recovered.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(error @ StateError::StaleIncarnation { newest, .. }) => {
                self.supersede(newest);
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What a round achieved.
#[derive(Default)]
struct Settled {
    /// Slices that went through.
    done: usize,
    /// Slices whose content did not come in time.
    late: usize,
    /// The first failure.
    failure: Option<KeepError>,
}

#[derive(Clone, Copy)]
enum Step {
    Seal,
    Verify,
}

#[async_trait]
impl Reconciler for Keeper {
    fn name(&self) -> &'static str {
        "volume-slices"
    }

    async fn reconcile(&self, cancel: &CancellationToken) -> Result<Outcome, TaskError> {
        let plan = self.parts.mirror.read(|topology| self.list(topology));
        if let Some(newest) = plan.newer {
            self.supersede(newest);
            return Ok(Outcome {
                changed: 0,
                next: None,
            });
        }
        self.open(&plan.open);
        self.release(&plan.release);
        self.report_orphans(&plan.orphans);
        self.report_surplus(&plan.surplus);
        let settled = self.settle(&plan, cancel).await;
        let mut failure = settled.failure;
        if failure.is_none() && !cancel.is_cancelled() {
            failure = self.mark_recovered().await.err();
        }
        if let Some(failure) = failure {
            self.changes.lock().restart();
            return Err(failure.into());
        }
        if cancel.is_cancelled() || settled.late > 0 {
            self.changes.lock().restart();
        }
        Ok(Outcome {
            changed: settled.done + plan.open.len() + plan.release.len(),
            next: (settled.late > 0).then_some(SEAL_PAUSE),
        })
    }
}

#[cfg(test)]
mod tests;
