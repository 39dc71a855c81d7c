//! The storage-reader: uploads sealed slices of the volumes of this machine to staging.
//!
//! It may run in another process than the writer. It only reads the volumes, takes length and checksum from the state, and
//! never removes anything: that is the writer's, after the upload is recorded.
//!
//! A slice is uploaded only while the newest opening of its volume says that recovery is complete; before, its file may lack
//! rows. Recording the upload compares the number of that opening, so a slice that is rebuilt at the same time is never
//! recorded with an object of other bytes.

mod found;
mod metrics;
mod pending;
mod upload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use stream_model::{Clock, ErrorKind, SliceId, VolumeId};
use stream_node::{
    Activator, CancellationToken, Jobs, OnError, ReadyFlag, ReconcilerMetrics, Schedule, Shutdown,
    StillRunning, TaskError, Tasks, run_reconciler,
};
use stream_state::{Mirror, Store};
use stream_storage::staging::Staging;
use tracing::info;

pub use found::FoundVolumes;
use metrics::Metrics;
use pending::Pending;
use upload::Uploader;

/// The name under which live readers are registered. The process registers itself.
pub const COMPONENT: &str = "storage-reader";

/// Where the files of sealed slices are.
pub trait SliceFiles: Send + Sync {
    /// The volumes of this machine.
    fn volumes(&self) -> Vec<VolumeId>;

    /// The file of a slice; none when the volume is not on this machine.
    fn path(&self, volume: VolumeId, slice: SliceId) -> Option<PathBuf>;
}

/// Settings of the storage-reader.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// Slices that are uploaded at the same time, at least 1. Default 16. Raising it uses a faster network better, and costs
    /// 1 MiB of memory each.
    pub concurrency: usize,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        Self { concurrency: 16 }
    }
}

/// What a reader works with.
pub struct ReaderDeps {
    /// The state.
    pub store: Store,
    /// A running mirror of it.
    pub mirror: Mirror,
    /// Where slices are uploaded to.
    pub staging: Staging,
    /// Where slices are.
    pub files: Arc<dyn SliceFiles>,
    /// The present time.
    pub clock: Arc<dyn Clock>,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
    /// The metrics of the process's reconcilers.
    pub reconcilers: ReconcilerMetrics,
    /// Says whether the reader works.
    pub ready: ReadyFlag,
    /// Where failures of tasks are reported.
    pub shutdown: Shutdown,
}

/// The reader did not start.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// Two readers share a registry.
    #[error("the metrics of the storage reader cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

impl ReaderError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Metrics(_) => ErrorKind::Invalid,
        }
    }
}

/// A running storage-reader.
pub struct Reader {
    tasks: Tasks,
    ready: ReadyFlag,
}

impl Reader {
    /// Starts uploading.
    ///
    /// # Errors
    /// When the metrics cannot be registered.
    pub fn start(options: &ReaderOptions, deps: ReaderDeps) -> Result<Self, ReaderError> {
        let tasks = Tasks::new(COMPONENT, &deps.shutdown);
        let activator = Activator::new();
        let uploader = Arc::new(Uploader {
            store: deps.store.clone(),
            mirror: deps.mirror.clone(),
            staging: deps.staging,
            clock: Arc::clone(&deps.clock),
            metrics: Metrics::register(&deps.registry)?,
        });
        let jobs = Jobs::new(
            "slice-upload-job",
            options.concurrency,
            tasks.clone(),
            activator.clone(),
        );
        let pending = Pending::new(
            deps.store,
            deps.mirror.clone(),
            deps.files,
            deps.clock,
            uploader,
            jobs,
        );
        let schedule = Schedule {
            period: Duration::from_secs(10),
            min_pause: Duration::from_millis(10),
        };
        let status = deps.reconcilers.status("slice-upload");
        let rounds = run_reconciler(
            Arc::new(pending),
            activator.clone(),
            schedule,
            status,
            tasks.token(),
        );
        tasks.spawn("slice-upload", OnError::StopProcess, rounds);
        let following = follow_mirror(deps.mirror, activator, tasks.token());
        tasks.spawn("mirror-activation", OnError::StopProcess, following);
        deps.ready.set_ready();
        info!("storage reader started");
        Ok(Self {
            tasks,
            ready: deps.ready,
        })
    }

    /// Stops uploading. Uploads under way are given up and begun again after the next start.
    ///
    /// # Errors
    /// Names what still ran at the deadline.
    pub async fn stop(self, deadline: Duration) -> Result<(), StillRunning> {
        self.ready.set_not_ready("stopping".to_owned());
        self.tasks.stop(deadline).await
    }
}

async fn follow_mirror(
    mirror: Mirror,
    activator: Activator,
    cancel: CancellationToken,
) -> Result<(), TaskError> {
    let mut revisions = mirror.subscribe();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            changed = revisions.changed() => match changed {
                Ok(()) => activator.activate(),
                // The mirror has stopped; rounds go on with their period.
                Err(_) => return Ok(()),
            },
        }
    }
}
