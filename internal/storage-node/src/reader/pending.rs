//! Finds the slices that wait for their upload, and starts the uploads.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use stream_model::slice::{Slice, State};
use stream_model::{Clock, SliceId, Timestamp, VolumeId};
use stream_node::{CancellationToken, Jobs, Outcome, Reconciler, TaskError};
use stream_state::{Mirror, Store, Topology, Versioned};

use super::SliceFiles;
use super::upload::{Upload, Uploader};
use crate::changes::Changes;

/// How long a slice rests whose volume is being recovered.
const RECOVERY_PAUSE: Duration = Duration::from_millis(200);

/// Sealed slices of this machine.
#[derive(Default)]
struct Waiting {
    changes: BTreeMap<VolumeId, Changes>,
    /// Slices to upload, with the earliest time.
    slices: BTreeMap<SliceId, Timestamp>,
}

impl Waiting {
    /// Takes up what was sealed since the last look, and drops what is not to be uploaded any more.
    fn look(&mut self, topology: &Topology, volumes: &[VolumeId], now: Timestamp) {
        for volume in volumes {
            let changes = self.changes.entry(*volume).or_default();
            for slice in changes.slices(topology, *volume, now) {
                if let Some(at) = not_before(&slice.value, now) {
                    let known = self.slices.entry(slice.value.id).or_insert(at);
                    *known = at.max(*known);
                }
            }
        }
        self.slices.retain(|id, _| {
            topology
                .slice(*id)
                .is_some_and(|slice| not_before(&slice.value, now).is_some())
        });
    }

    /// The slices whose time has come, those that failed least first, then the oldest: a slice that cannot be uploaded must
    /// not keep the others from it.
    fn due(&self, topology: &Topology, now: Timestamp) -> Vec<Arc<Versioned<Slice>>> {
        let due = self.slices.iter().filter(|(_, at)| **at <= now);
        let mut slices: Vec<_> = due
            .filter_map(|(id, _)| topology.slice(*id).cloned())
            .collect();
        slices.sort_by_key(|slice| {
            (
                slice.value.retry.as_ref().map_or(0, |retry| retry.attempt),
                slice.value.id,
            )
        });
        slices
    }

    fn next(&self, now: Timestamp) -> Option<Duration> {
        self.slices
            .values()
            .filter(|at| **at > now)
            .min()
            .map(|at| at.since(now))
    }
}

/// The earliest time of the slice's upload; none when it is not to be uploaded.
fn not_before(slice: &Slice, now: Timestamp) -> Option<Timestamp> {
    matches!(slice.state, State::Uploading { .. })
        .then(|| slice.retry.as_ref().map_or(now, |retry| retry.after))
}

/// The reconciler.
pub(super) struct Pending {
    store: Store,
    mirror: Mirror,
    files: Arc<dyn SliceFiles>,
    clock: Arc<dyn Clock>,
    uploader: Arc<Uploader>,
    jobs: Jobs<SliceId>,
    waiting: Mutex<Waiting>,
}

impl Pending {
    pub(super) fn new(
        store: Store,
        mirror: Mirror,
        files: Arc<dyn SliceFiles>,
        clock: Arc<dyn Clock>,
        uploader: Arc<Uploader>,
        jobs: Jobs<SliceId>,
    ) -> Self {
        Self {
            store,
            mirror,
            files,
            clock,
            uploader,
            jobs,
            waiting: Mutex::default(),
        }
    }

    fn list(&self, now: Timestamp) -> Vec<Arc<Versioned<Slice>>> {
        let volumes = self.files.volumes();
        self.mirror.read(|topology| {
            let mut waiting = self.waiting.lock();
            waiting.look(topology, &volumes, now);
            waiting.due(topology, now)
        })
    }

    /// The incarnation of a volume whose slice files are complete.
    async fn recovered(&self, volume: VolumeId) -> Result<Option<u64>, TaskError> {
        let incarnation = self.store.incarnation(volume).await?;
        Ok(incarnation
            .filter(|incarnation| incarnation.recovered)
            .map(|i| i.number))
    }

    fn start(
        &self,
        slice: Arc<Versioned<Slice>>,
        path: PathBuf,
        incarnation: u64,
        cancel: &CancellationToken,
    ) -> bool {
        let (uploader, cancel) = (Arc::clone(&self.uploader), cancel.clone());
        let id = slice.value.id;
        self.jobs.start(&id, || async move {
            tokio::select! {
                biased;
                // What is left of a dropped upload is collected by the clean-up of staging.
                () = cancel.cancelled() => {}
                () = uploader.run_if_newest(Upload { slice, path, incarnation }) => {}
            }
        })
    }
}

#[async_trait]
impl Reconciler for Pending {
    fn name(&self) -> &'static str {
        "slice-upload"
    }

    async fn reconcile(&self, cancel: &CancellationToken) -> Result<Outcome, TaskError> {
        let now = self.clock.now();
        let mut recovered = BTreeMap::new();
        let mut changed = 0;
        for slice in self.list(now) {
            if self.jobs.is_full() || cancel.is_cancelled() {
                break;
            }
            let (id, volume) = (slice.value.id, slice.value.volume);
            let incarnation = match recovered.get(&volume) {
                Some(incarnation) => *incarnation,
                None => {
                    let incarnation = self.recovered(volume).await?;
                    recovered.insert(volume, incarnation);
                    incarnation
                }
            };
            match (incarnation, self.files.path(volume, id)) {
                (Some(incarnation), Some(path)) => {
                    changed += usize::from(self.start(slice, path, incarnation, cancel));
                }
                // It comes back when the volume is open and recovered.
                (None, _) | (_, None) => {
                    self.waiting.lock().slices.insert(id, now + RECOVERY_PAUSE);
                }
            }
        }
        Ok(Outcome {
            changed,
            next: self.waiting.lock().next(now),
        })
    }
}

#[cfg(test)]
mod tests;
