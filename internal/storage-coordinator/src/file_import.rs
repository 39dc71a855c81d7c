//! Moves closed files into their tables: begins an import when all slices are in staging, imports, records the result.
//!
//! The target's ledger makes an import repeatable, so a crash between the target's commit and ours costs a look into the
//! ledger and no row. A file that fails is tried again, later and later, for ever; its rows stay in staging.
//!
//! A slice that is not uploaded two minutes after it was closed, because its volume or staging is away, moves to the
//! writing file when all the others of its file are there: their rows need not wait for it.
//!
//! One file of a sink is imported at a time, the oldest first. A table with a primary key keeps the last row of a key, so
//! there a file that waits or fails holds back those behind it. Without a primary key the order of files means nothing, and
//! those behind it go on.

mod turn;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use stream_model::file::File;
use stream_model::retry::Retry;
use stream_model::{ErrorKind, SinkKey, Timestamp};
use stream_node::{
    Activator, CancellationToken, Jobs, Outcome, Reconciler, TaskError, Tasks, error_chain,
};
use stream_state::{StateError, Topology, Versioned};
use stream_storage::crash::{self, Point};
use stream_target::{ImportFile, TargetError};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::agenda::Agenda;
use crate::context::{Context, Surroundings, is_overtaken};
use crate::rows::{self, ReadError};

pub(crate) use turn::Whole;
use turn::{Move, decide};

/// How long a file rests whose import could not be recorded.
const UNRECORDED_PAUSE: Duration = Duration::from_secs(1);

/// Why an import failed.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error("this process has no target for tables of type {0}")]
    NoTarget(&'static str),
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl ImportError {
    /// What can be done about it. What the producer of the rows says counts more than that the rows failed.
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoTarget(_) => ErrorKind::Invalid,
            Self::Target(TargetError::Rows(rows)) => rows
                .0
                .downcast_ref::<ReadError>()
                .map_or(ErrorKind::Unavailable, ReadError::kind),
            Self::Target(error) => error.kind(),
        }
    }
}

/// After so long without a word from the state it has been reported as lost, and nothing is reported again.
const KNOWN_AWAY: Duration = Duration::from_secs(4);

/// What one round found.
#[derive(Default)]
struct Round {
    steps: Vec<Step>,
    import: Vec<Whole>,
}

/// A change of state.
enum Step {
    Begin(Whole),
    Move(Move),
}

/// The reconciler.
pub(crate) struct FileImport {
    context: Arc<Context>,
    agenda: Arc<Mutex<Agenda>>,
    jobs: Jobs<SinkKey>,
}

impl FileImport {
    pub(crate) fn new(context: Arc<Context>, tasks: Tasks, activator: Activator) -> Self {
        let limit = context.options.import_concurrency;
        let jobs = Jobs::new("file-import-job", limit, tasks, activator);
        Self {
            context,
            agenda: Arc::default(),
            jobs,
        }
    }

    fn list(&self, topology: &Topology, around: &Surroundings, now: Timestamp) -> Round {
        let mut agenda = self.agenda.lock();
        let mut round = Round::default();
        for key in agenda.open(topology, around.generation(), now) {
            for (_, picture) in self.context.own_sinks(topology, around, &key) {
                let decision = decide(&picture, now);
                let decision = decision.without(|kind| self.context.targets.waits(kind));
                round
                    .steps
                    .extend(decision.begin.into_iter().map(Step::Begin));
                round
                    .steps
                    .extend(decision.moves.into_iter().map(Step::Move));
                round.import.extend(decision.import);
                if let Some(later) = decision.later {
                    agenda.note(&key, later);
                }
            }
        }
        round.import.sort_by_key(|whole| whole.file.value.opened_at);
        round
    }

    async fn act(&self, step: Step) -> Result<i64, StateError> {
        let store = &self.context.store;
        match step {
            Step::Begin(whole) => {
                let slices: Vec<_> = whole
                    .slices
                    .iter()
                    .map(|slice| Versioned::clone(slice))
                    .collect();
                let now = self.context.clock.now();
                let begun = store.begin_import(&whole.file, &slices, now).await?;
                crash::point(Point::ImportBegun);
                Ok(begun.revision)
            }
            Step::Move(Move { slice, from, to }) => {
                let moved = store.move_slice(&slice, &from, &to).await?;
                let (slice, from, to) = (moved.value.id, from.value.id, to.value.id);
                let sink = &moved.value.sink;
                warn!(%sink, %slice, %from, %to, "slice is late and moved to the next file");
                Ok(moved.revision)
            }
        }
    }

    /// Starts the import, or sees to it that the file is looked at again when a job ends.
    fn start(&self, whole: Whole, cancel: &CancellationToken) -> bool {
        let sink = whole.file.value.sink.clone();
        let source = sink.source.clone();
        let (context, agenda) = (Arc::clone(&self.context), Arc::clone(&self.agenda));
        let (cancel, job_sink) = (cancel.clone(), sink.clone());
        let started = self.jobs.start(&sink, || async move {
            if !is_newest(&context, &whole) {
                return;
            }
            context.metrics.running.inc();
            let pause = tokio::select! {
                biased;
                // Dropping an import rolls it back.
                () = cancel.cancelled() => Duration::ZERO,
                pause = run(&context, &whole) => pause,
            };
            context.metrics.running.dec();
            // Within the job: a pause on the agenda ends with any other job of the source, so that two files which cannot
            // be recorded would wake each other without a pause at all.
            tokio::select! {
                biased;
                () = cancel.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            // Whatever the result was, the next file of the sink may have its turn.
            agenda.lock().note(&job_sink.source, context.clock.now());
        });
        if !started {
            self.agenda.lock().wait(&source);
        }
        started
    }
}

/// Imports one file and records the result. Failures are recorded with the file; what cannot be recorded either is tried
/// again by a later round, after the pause that is returned.
async fn run(context: &Context, whole: &Whole) -> Duration {
    let file = &whole.file.value;
    let (sink, id) = (&file.sink, file.id);
    let begun = Instant::now();
    let recorded = match import(context, whole).await {
        Ok(rows) => {
            let now = context.clock.now();
            crash::point(Point::ImportCommitted);
            let completed = context.store.complete_import(&whole.file, now, rows).await;
            if completed.is_ok() {
                crash::point(Point::ImportRecorded);
                context.metrics.imported(rows, begun.elapsed());
                let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                info!(%sink, file = %id, rows, elapsed_ms, "file imported");
            }
            completed
        }
        Err(failure) => {
            context.metrics.import_failed();
            let retry = Retry::next(
                file.retry.as_ref(),
                error_chain(&failure),
                context.clock.now(),
            );
            report(file, &failure, &retry);
            context.store.fail_file(&whole.file, retry).await
        }
    };
    match recorded {
        Ok(file) => {
            context.await_mirror(file.revision).await;
            return Duration::ZERO;
        }
        Err(error) if is_overtaken(&error) => debug!(%sink, file = %id, %error, "file was changed"),
        // The mirror has said that the state is away.
        Err(error) if context.mirror.staleness() > KNOWN_AWAY => {
            debug!(%sink, file = %id, %error, "result of the import cannot be recorded yet");
        }
        Err(error) => {
            warn!(%sink, file = %id, %error, "result of the import cannot be recorded yet");
        }
    }
    UNRECORDED_PAUSE
}

/// Logs a failure when it is news: a person must look at what will not heal, everything else is watched.
fn report(file: &File, failure: &ImportError, retry: &Retry) {
    let (sink, id, reason) = (&file.sink, file.id, &retry.reason);
    if file
        .retry
        .as_ref()
        .is_some_and(|previous| previous.reason == *reason)
    {
        debug!(%sink, file = %id, reason, attempt = retry.attempt, "import still failing");
        return;
    }
    match failure.kind() {
        ErrorKind::Corrupt | ErrorKind::Invalid | ErrorKind::NotFound => {
            error!(%sink, file = %id, reason, "import failed and needs attention, will go on trying");
        }
        ErrorKind::Conflict | ErrorKind::Unavailable | ErrorKind::ShuttingDown => {
            warn!(%sink, file = %id, reason, "import failed, will go on trying");
        }
    }
}

/// Whether the file is as it was when its import was listed: the job may have waited for its turn.
fn is_newest(context: &Context, whole: &Whole) -> bool {
    let (sink, id) = (&whole.file.value.sink, whole.file.value.id);
    let newest = context.mirror.read(|topology| {
        let file = topology.sink(sink)?.files.get(&id)?;
        Some(file.revision)
    });
    newest == Some(whole.file.revision)
}

/// Imports one file and returns its rows.
async fn import(context: &Context, whole: &Whole) -> Result<u64, ImportError> {
    let file = &whole.file.value;
    let staged = whole.staged();
    if staged.is_empty() {
        return Ok(0);
    }
    let kind = file.table.kind;
    let target = context
        .targets
        .get(kind)
        .ok_or(ImportError::NoTarget(kind.as_str()))?;
    // A file that was fenced off must not make its table again.
    if let Some(known) = target.status(file.id).await? {
        info!(sink = %file.sink, file = %file.id, "target already had the file");
        return Ok(known.rows);
    }
    target.prepare(&file.table).await?;
    let rows = rows::stream(
        context.staging.clone(),
        staged,
        file.table.mapping.columns.len(),
    );
    let import = ImportFile {
        id: file.id,
        sink: file.sink.clone(),
        table: file.table.clone(),
    };
    let imported = target.import(&import, rows).await?;
    if imported.already {
        info!(sink = %file.sink, file = %file.id, "target already had the file");
    }
    Ok(imported.rows)
}

#[async_trait]
impl Reconciler for FileImport {
    fn name(&self) -> &'static str {
        "file-import"
    }

    async fn reconcile(&self, cancel: &CancellationToken) -> Result<Outcome, TaskError> {
        let context = &self.context;
        let (now, around) = (context.clock.now(), context.surroundings());
        let round = context
            .mirror
            .read(|topology| self.list(topology, &around, now));
        let imports = round.import.into_iter().filter(|_| !cancel.is_cancelled());
        let started = imports
            .filter_map(|whole| self.start(whole, cancel).then_some(()))
            .count();
        let acted = context
            .act_on_all(round.steps, cancel, |step| self.act(step))
            .await;
        let mut agenda = self.agenda.lock();
        if acted.is_err() {
            agenda.restart();
        }
        let changed = acted? + started;
        Ok(Outcome {
            changed,
            next: agenda.next(context.clock.now()),
        })
    }
}

#[cfg(test)]
mod tests;
