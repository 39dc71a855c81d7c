//! The storage-coordinator: decides when slices are uploaded and files are imported, and imports them.
//!
//! It changes states in etcd; writers and readers see the change and do their part. Each kind of work is one reconciler in
//! one file:
//!
//! | reconciler | does |
//! |---|---|
//! | `file_rotation` | opens the first file of a sink, closes files whose import trigger is reached and opens the next |
//! | `slice_rotation` | closes slices whose upload trigger is reached and opens their successors |
//! | `file_import` | imports closed files, each exactly once |
//! | `rejects` | opens slices for rejected records where they are missing, and closes those that are full |
//! | `cleanup` | removes staged objects and records of imported files, and finished tasks |
//!
//! Several coordinators share the work: each sink belongs to one of the live ones, by rendezvous hashing. While they
//! disagree about who is alive two may work for one sink; every change is a compare-and-swap, so one of them fails. Nothing
//! is remembered that matters: another coordinator goes on from the state alone.
//!
//! Without a coordinator nothing is lost and nothing is refused: slices grow, bounded by the disk.
//!
//! The crate refuses to judge by lagging figures: it closes what has rows, and leaves it to the writer to say how many.

mod agenda;
mod cleanup;
mod context;
mod file_import;
mod file_rotation;
mod metrics;
mod picture;
mod rejects;
mod rows;
mod slice_rotation;

#[cfg(test)]
mod fixture;

use std::sync::Arc;
use std::time::Duration;

use stream_model::level::Defaults;
use stream_model::{Clock, ErrorKind, NodeId};
use stream_node::{
    Activator, OnError, ReadyFlag, Reconciler, ReconcilerMetrics, Schedule, Shutdown, StillRunning,
    Tasks, run_reconciler,
};
use stream_state::{Mirror, StateError, Store};
use stream_storage::staging::Staging;
use stream_target::Targets;
use tracing::info;

pub use cleanup::{CleanupOptions, RejectsKept};
use context::{Context, Surroundings};

/// The name under which live coordinators are registered. The process registers itself; this crate only reads.
pub const COMPONENT: &str = "storage-coordinator";

/// The shortest time between two rounds of a reconciler that reacts to changes. Bounds the share of a core that a busy
/// coordinator spends on looking, and adds at most this to the latency of a rotation.
const MIN_PAUSE: Duration = Duration::from_millis(20);

/// Settings of the coordinator.
#[derive(Debug, Clone)]
pub struct CoordinatorOptions {
    /// Levels of sinks before source and sink settings.
    pub defaults: Defaults,
    /// How long a reconciler rests when nothing changes and nothing falls due. Default 10 s. Raising it delays only the
    /// repair of what was missed.
    pub period: Duration,
    /// Imports of different sinks at the same time, at least 1. Default 2. Raising it needs 1 MiB of memory each, and helps
    /// only targets that take writes side by side; SQLite does not.
    pub import_concurrency: usize,
    /// What is kept, and for how long.
    pub cleanup: CleanupOptions,
}

impl Default for CoordinatorOptions {
    fn default() -> Self {
        Self {
            defaults: Defaults::default(),
            period: Duration::from_secs(10),
            import_concurrency: 2,
            cleanup: CleanupOptions::default(),
        }
    }
}

/// What a coordinator works with.
pub struct Deps {
    /// The state.
    pub store: Store,
    /// A running mirror of it.
    pub mirror: Mirror,
    /// Where uploaded slices are.
    pub staging: Staging,
    /// Where tables are.
    pub targets: Targets,
    /// The present time.
    pub clock: Arc<dyn Clock>,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
    /// The metrics of the process's reconcilers.
    pub reconcilers: ReconcilerMetrics,
    /// Says whether the coordinator works.
    pub ready: ReadyFlag,
    /// Where failures of tasks are reported.
    pub shutdown: Shutdown,
    /// This process, as it is registered.
    pub node: NodeId,
}

/// The coordinator did not start.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The state cannot be read.
    #[error("the storage coordinator cannot read which volumes are live")]
    State(#[from] StateError),
    /// Two coordinators share a registry.
    #[error("the metrics of the storage coordinator cannot be registered")]
    Metrics(#[from] prometheus::Error),
}

impl CoordinatorError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::State(error) => error.kind(),
            Self::Metrics(_) => ErrorKind::Invalid,
        }
    }
}

/// A running coordinator.
pub struct Coordinator {
    tasks: Tasks,
    ready: ReadyFlag,
}

impl Coordinator {
    /// Starts all reconcilers.
    ///
    /// # Errors
    /// When the live volumes cannot be read.
    pub async fn start(options: CoordinatorOptions, deps: Deps) -> Result<Self, CoordinatorError> {
        let tasks = Tasks::new(COMPONENT, &deps.shutdown);
        let ready = deps.ready;
        let context = Arc::new(Context {
            metrics: metrics::Metrics::register(&deps.registry)?,
            surroundings: Surroundings::new(&deps.node, Vec::new(), Vec::new()).shared(),
            store: deps.store,
            mirror: deps.mirror,
            staging: deps.staging,
            targets: deps.targets,
            clock: deps.clock,
            random: Box::new(rand::random),
            node: deps.node,
            options,
        });
        context.look_around().await?;
        let activators = spawn_reconcilers(&context, &tasks, &deps.reconcilers);
        let looking = Arc::clone(&context).keep_looking_around(activators.clone(), tasks.token());
        tasks.spawn("surroundings", OnError::StopProcess, looking);
        let following = follow_mirror(context.mirror.clone(), activators, tasks.clone());
        tasks.spawn("mirror-activation", OnError::StopProcess, following);
        ready.set_ready();
        info!(node = %context.node, "storage coordinator started");
        Ok(Self { tasks, ready })
    }

    /// Stops all reconcilers. An import under way is rolled back, to be repeated after the next start.
    ///
    /// # Errors
    /// Names what still ran at the deadline.
    pub async fn stop(self, deadline: Duration) -> Result<(), StillRunning> {
        self.ready.set_not_ready("stopping".to_owned());
        self.tasks.stop(deadline).await
    }
}

/// Starts the reconcilers and returns the activators of those that react to changes of the state.
fn spawn_reconcilers(
    context: &Arc<Context>,
    tasks: &Tasks,
    metrics: &ReconcilerMetrics,
) -> Vec<Activator> {
    let spawn = |name, reconciler: Arc<dyn Reconciler>, activator: &Activator, schedule| {
        let status = metrics.status(name);
        let run = run_reconciler(
            reconciler,
            activator.clone(),
            schedule,
            status,
            tasks.token(),
        );
        tasks.spawn(name, OnError::StopProcess, run);
    };
    let busy = Schedule {
        period: context.options.period,
        min_pause: MIN_PAUSE,
    };
    let activators: Vec<Activator> = (0..4).map(|_| Activator::new()).collect();
    let files = Arc::new(file_rotation::FileRotation::new(Arc::clone(context)));
    spawn("file-rotation", files, &activators[0], busy);
    let slices = Arc::new(slice_rotation::SliceRotation::new(Arc::clone(context)));
    spawn("slice-rotation", slices, &activators[1], busy);
    let import =
        file_import::FileImport::new(Arc::clone(context), tasks.clone(), activators[2].clone());
    spawn("file-import", Arc::new(import), &activators[2], busy);
    let rejects = Arc::new(rejects::RejectsRotation::new(Arc::clone(context)));
    spawn("rejects-rotation", rejects, &activators[3], busy);
    if context.options.cleanup.enabled {
        let calm = Schedule {
            period: context.options.cleanup.interval,
            min_pause: MIN_PAUSE,
        };
        let cleanup = Arc::new(cleanup::Cleanup::new(Arc::clone(context)));
        spawn("cleanup", cleanup, &Activator::new(), calm);
    }
    activators
}

/// Activates the reconcilers whenever the mirror has applied a change.
async fn follow_mirror(
    mirror: Mirror,
    activators: Vec<Activator>,
    tasks: Tasks,
) -> Result<(), stream_node::TaskError> {
    let (cancel, mut revisions) = (tasks.token(), mirror.subscribe());
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(()),
            changed = revisions.changed() => match changed {
                Ok(()) => activators.iter().for_each(Activator::activate),
                // The mirror has stopped; the reconcilers go on with their periods until they are stopped, too.
                Err(_) => return Ok(()),
            },
        }
    }
}
