//! The storage-writer: the volumes of this machine, open and served.
//!
//! For each volume directory one task opens the volume, raises its incarnation, makes it reachable, and keeps it until the
//! stop: `keeper` brings its slices into the state that the records ask for, `publish` reports what is on it. A volume
//! that fails is closed, reported, and opened again; the others go on.
//!
//! What was accepted survives any stop. An orderly one unregisters the volume first, then lets it finish and commit what it
//! has accepted. Slices stay open: the next start goes on with them.

mod keeper;
mod key_owner;
mod metrics;
mod publish;
mod serve;
mod start;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use stream_model::{Clock, ErrorKind, NodeId, SliceId, VolumeId};
use stream_node::{
    OnError, ReadyFlag, ReconcilerMetrics, ReconcilerStatus, Shutdown, StillRunning, Tasks,
};
use stream_state::{Lease, Mirror, StateError, Store};
use stream_storage::local::{OpenError, Options, Volume};
use stream_storage::wire::direct::Direct;
use tracing::info;

use crate::copies::{self, Sorted};
use crate::discover::{self, DiscoverError};
use crate::reader::SliceFiles;
use key_owner::Fence;
use metrics::Metrics;
use start::Start;

/// The name under which live writers are registered. The process registers itself; this crate registers volumes.
pub const COMPONENT: &str = "storage-writer";

/// Settings of the storage-writer.
#[derive(Clone)]
pub struct WriterOptions {
    /// Where the volumes are: `<volumes_path>/<type>/<label>`.
    pub volumes_path: PathBuf,
    /// Whether `default/local` is made when there is no volume: only in a standalone installation, because a machine of a
    /// cluster whose disks are not mounted must not begin to fill its system disk.
    pub create_default: bool,
    /// Options of each volume; `dir` and `key_gate` are replaced.
    pub volume: Options,
    /// How long another volume must be away before the idempotency keys of sources in the mode `available` are taken over from it.
    /// 30 s. Less: a shorter time in which keys are refused, and less time for what a dying writer has under way.
    pub keys_away_after: Duration,
}

/// What a writer works with.
pub struct WriterDeps {
    /// The state.
    pub store: Store,
    /// A running mirror of it.
    pub mirror: Mirror,
    /// The lease of this process: registrations of volumes live as long as it.
    pub lease: Lease,
    /// Makes volumes reachable for an http-source in this process.
    pub direct: Direct,
    /// This process, as it is registered.
    pub node: NodeId,
    /// The present time.
    pub clock: Arc<dyn Clock>,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
    /// The metrics of the process's reconcilers.
    pub reconcilers: ReconcilerMetrics,
    /// Says whether all volumes are served.
    pub ready: ReadyFlag,
    /// Where failures of tasks are reported.
    pub shutdown: Shutdown,
}

/// The writer did not start, or a volume could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// The volumes cannot be found.
    #[error(transparent)]
    Discover(#[from] DiscoverError),
    /// A volume cannot be opened.
    #[error("volume {label} cannot be opened")]
    Open {
        /// Type and label of the volume.
        label: String,
        /// Why.
        #[source]
        source: OpenError,
    },
    /// The state does not take the volume.
    #[error("volume {label} cannot be announced")]
    State {
        /// Type and label of the volume.
        label: String,
        /// Why.
        #[source]
        source: StateError,
    },
    /// Two directories hold the same volume.
    #[error(
        "volumes {first} and {second} have the same id: one is a copy of the other and neither is opened; move the copy away and start again"
    )]
    Copies {
        /// Type and label of one.
        first: String,
        /// Type and label of the other.
        second: String,
    },
    /// Two writers share a registry.
    #[error("the metrics of the storage writer cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// The process is stopping.
    #[error("volume {label} was not opened because the process is stopping")]
    Stopping {
        /// Type and label of the volume.
        label: String,
    },
}

impl WriterError {
    /// Whether the volume was given up for lost, so that trying again is of no use.
    fn is_forgotten(&self) -> bool {
        matches!(
            self,
            Self::State {
                source: StateError::Forgotten { .. },
                ..
            }
        )
    }

    /// Whether another process has the volume, so that it will be free when that one ends.
    fn is_in_use(&self) -> bool {
        matches!(
            self,
            Self::Open {
                source: OpenError::Locked { .. },
                ..
            }
        )
    }

    /// What is the matter with the volume, without its name.
    fn reason(&self) -> String {
        match self {
            Self::Open { source, .. } => source.to_string(),
            Self::State { source, .. } => source.to_string(),
            Self::Discover(_) | Self::Copies { .. } | Self::Metrics(_) | Self::Stopping { .. } => {
                self.to_string()
            }
        }
    }

    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Discover(error) => error.kind(),
            Self::Open { source, .. } => source.kind(),
            Self::State { source, .. } => source.kind(),
            Self::Metrics(_) | Self::Copies { .. } => ErrorKind::Invalid,
            Self::Stopping { .. } => ErrorKind::ShuttingDown,
        }
    }
}

/// The volumes that are open at the moment. Clones share the list.
#[derive(Clone, Default)]
pub struct OpenVolumes(Arc<RwLock<BTreeMap<VolumeId, Volume>>>);

impl OpenVolumes {
    /// The open volumes.
    #[must_use]
    pub fn list(&self) -> Vec<Volume> {
        self.0.read().values().cloned().collect()
    }

    fn add(&self, volume: Volume) {
        self.0.write().insert(volume.id(), volume);
    }

    /// Unless another opening took its place.
    fn remove(&self, volume: &Volume) {
        let mut volumes = self.0.write();
        if volumes.get(&volume.id()).is_some_and(|it| it.is(volume)) {
            volumes.remove(&volume.id());
        }
    }
}

impl SliceFiles for OpenVolumes {
    fn volumes(&self) -> Vec<VolumeId> {
        self.0.read().keys().copied().collect()
    }

    fn path(&self, volume: VolumeId, slice: SliceId) -> Option<PathBuf> {
        self.0
            .read()
            .get(&volume)
            .map(|volume| volume.slice_path(slice))
    }
}

/// What the tasks of all volumes share.
struct Shared {
    options: WriterOptions,
    store: Store,
    mirror: Mirror,
    lease: Lease,
    direct: Direct,
    node: NodeId,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    /// One status for all volumes: a metric per volume directory would say little more.
    status: ReconcilerStatus,
    volumes: OpenVolumes,
    readiness: Readiness,
    fence: Arc<Fence>,
}

/// Ready when every volume is served.
struct Readiness {
    flag: ReadyFlag,
    /// Volumes that are not served, with the reason.
    missing: Mutex<BTreeMap<String, String>>,
}

impl Readiness {
    fn served(&self, label: &str) {
        let mut missing = self.missing.lock();
        missing.remove(label);
        self.show(&missing);
    }

    fn missing(&self, label: &str, reason: String) {
        let mut missing = self.missing.lock();
        missing.insert(label.to_owned(), reason);
        self.show(&missing);
    }

    fn show(&self, missing: &BTreeMap<String, String>) {
        match missing.iter().next() {
            None => self.flag.set_ready(),
            Some((label, reason)) => self.flag.set_not_ready(format!("volume {label}: {reason}")),
        }
    }
}

impl Shared {
    fn new(options: WriterOptions, deps: WriterDeps) -> Result<Self, prometheus::Error> {
        let fence = Fence::new(deps.mirror.clone(), deps.lease.clone());
        Ok(Self {
            fence: Arc::new(fence),
            options,
            store: deps.store,
            mirror: deps.mirror,
            lease: deps.lease,
            direct: deps.direct,
            node: deps.node,
            clock: deps.clock,
            metrics: Metrics::register(&deps.registry)?,
            status: deps.reconcilers.status("volume-slices"),
            volumes: OpenVolumes::default(),
            readiness: Readiness {
                flag: deps.ready,
                missing: Mutex::default(),
            },
        })
    }
}

/// A running storage-writer.
pub struct Writer {
    tasks: Tasks,
    shared: Arc<Shared>,
}

impl Writer {
    /// Opens all volumes, several at a time, and serves them. Those that cannot be opened are reported and tried again in the
    /// background; one that another process has is taken over as soon as that process gives it up.
    ///
    /// # Errors
    /// When there is no volume, or none of them can be opened and none is waited for: then the first one's error.
    pub async fn start(options: WriterOptions, deps: WriterDeps) -> Result<Self, WriterError> {
        let tasks = Tasks::new(COMPONENT, &deps.shutdown);
        let dirs = find(&options).await?;
        let shared = Arc::new(Shared::new(options, deps)?);
        let mut begun = Start {
            failure: start::report_copies(&shared, &dirs),
            ..Start::default()
        };
        let opening = dirs.volumes.iter().map(|dir| serve::open(&shared, dir));
        let opened = futures_util::future::join_all(opening).await;
        for (dir, result) in dirs.volumes.into_iter().zip(opened) {
            if let Some(first) = begun.note(&shared, &dir, result) {
                let task = serve::supervise(Arc::clone(&shared), dir, first, tasks.token());
                tasks.spawn("volume", OnError::StopProcess, task);
            }
        }
        let Start {
            served,
            waiting,
            failure,
        } = begun;
        match failure {
            Some(failure) if served + waiting == 0 => {
                // Nothing is open, so nothing can be held up.
                let _ = tasks.stop(Duration::from_secs(5)).await;
                Err(failure)
            }
            _ => {
                info!(volumes = served, waiting, "storage writer started");
                Ok(Self { tasks, shared })
            }
        }
    }

    /// The volumes that are open, now and later.
    #[must_use]
    pub fn volumes(&self) -> OpenVolumes {
        self.shared.volumes.clone()
    }

    /// Withdraws the volumes, finishes and commits what was accepted, and closes them. Slices stay open for the next start.
    ///
    /// # Errors
    /// Names what still ran at the deadline. Nothing acknowledged is lost by that.
    pub async fn stop(self, deadline: Duration) -> Result<(), StillRunning> {
        self.tasks.stop(deadline).await
    }
}

async fn find(options: &WriterOptions) -> Result<Sorted, WriterError> {
    let (path, create_default) = (options.volumes_path.clone(), options.create_default);
    let found = tokio::task::spawn_blocking(move || {
        let found = discover::find(&path)?;
        if !found.is_empty() {
            return Ok(copies::sort(found));
        }
        if !create_default {
            return Err(DiscoverError::None { path });
        }
        discover::create_default(&path)?;
        discover::find(&path).map(copies::sort)
    });
    Ok(found
        .await
        .expect("looking at directories does not panic")?)
}
