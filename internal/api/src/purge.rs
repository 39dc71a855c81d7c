//! Purging: deleting a sink or a source with its definition, its versions, its buffered rows and its table.
//!
//! ```text
//! intent ─▶ close files ─▶ seals of live volumes ─▶ fence and drop the table ─▶ take slices and files out ─▶ definition
//! ```
//!
//! Each step may be repeated, and what was done before is recognised: a crash in between leaves the intent in the definition,
//! and [`resume`] of any API process goes on. The fence comes before everything else is taken away: from then on the target's
//! own ledger knows the files of the sink, so an import that was under way, or that a process begins which has not heard of
//! the purge, changes nothing. Not before that may a new sink use the same table.
//!
//! Rows on volumes that are away are discarded as well, uncounted: their writer finds a note when it comes back.
//!
//! The module refuses to touch disks and staging: the owners of slices and objects remove them, by the notes.

mod resume;

use std::collections::BTreeSet;
use std::time::Duration;

use stream_model::definition::{Sink, Table};
use stream_model::file::State as FileState;
use stream_model::purge::Rows;
use stream_model::slice::{Closing, Kind as SliceKind, Slice, State as SliceState};
use stream_model::trigger::Reason;
use stream_model::{FileId, SinkKey, SourceKey, VolumeId};
use stream_state::{Remains, StateError, Store, Topology, Versioned};
use stream_target::{Fate, Removal};
use tracing::{debug, info};

use crate::context::Context;
use crate::error::{ApiError, Code};

pub(crate) use resume::resume;

/// How long a purge waits for writers that are alive to say what their slices hold. Afterwards the rows are not counted.
const SEALED_WITHIN: Duration = Duration::from_secs(30);
/// How often a step is tried that somebody else is faster at.
const TRIES: u32 = 32;
/// The pause before it is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// What a purge has discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Discarded {
    /// Rows that were not in a table yet.
    pub(crate) rows: u64,
    /// Rejected records.
    pub(crate) rejects: u64,
    /// Slices of which nobody could say how much they hold.
    pub(crate) uncounted: u64,
}

impl Discarded {
    pub(crate) fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.rejects += other.rejects;
        self.uncounted += other.uncounted;
    }
}

/// Purges a sink whose definition has the intent. Answers what was discarded, by earlier tries too.
pub(crate) async fn sink(
    context: &Context,
    state: &Store,
    key: &SinkKey,
) -> Result<Discarded, ApiError> {
    let Some(sink) = state.sink(key).await? else {
        return Ok(Discarded::default());
    };
    if sink.value.purging.is_none() {
        return Ok(Discarded::default());
    }
    close(context, state, key).await?;
    wait_for_seals(context, state, key).await?;
    let discarded = bury(context, state, &sink).await?;
    let revision = state.finish_sink_purge(&sink).await?;
    context.reached(revision).await;
    info!(
        sink = %key,
        rows = discarded.rows,
        rejects = discarded.rejects,
        uncounted = discarded.uncounted,
        "sink purged, its buffered rows are discarded"
    );
    Ok(discarded)
}

/// Purges a source whose definition has the intent, with its sinks. One that fails does not keep the others.
///
/// Answers what was discarded, and the first failure.
pub(crate) async fn source(
    context: &Context,
    state: &Store,
    key: &SourceKey,
) -> (Discarded, Result<(), ApiError>) {
    let mut discarded = Discarded::default();
    let outcome = sinks_of(context, state, key, &mut discarded).await;
    (discarded, outcome)
}

async fn sinks_of(
    context: &Context,
    state: &Store,
    key: &SourceKey,
    discarded: &mut Discarded,
) -> Result<(), ApiError> {
    let mut failure = None;
    for one in state.sinks(key).await? {
        match sink(context, state, &one.value.key).await {
            Ok(more) => discarded.add(more),
            Err(error) => {
                let sink = one.value.key.sink.as_str();
                let message = format!("Sink {sink:?} could not be purged: {}", error.message);
                failure.get_or_insert(ApiError::new(error.code, message));
            }
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let Some(source) = state.source(key).await? else {
        return Ok(());
    };
    if source.value.purging.is_some() {
        let revision = state.finish_source_purge(&source).await?;
        context.reached(revision).await;
        info!(source = %key, "source purged");
    }
    Ok(())
}

/// Sees to it that nothing of the sink takes rows any more. The coordinator does the same for files of deleted sinks:
/// whoever is slower looks again.
async fn close(context: &Context, state: &Store, key: &SinkKey) -> Result<(), ApiError> {
    for _ in 0..TRIES {
        let remains = state.remains(key).await?;
        match close_once(context, state, &remains).await {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(StateError::Conflict { key }) => {
                debug!(key, "somebody else was faster");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::new(
        Code::Conflict,
        "The sink is changed all the time by others; the purge goes on later.",
    ))
}

/// Answers whether anything was to be closed.
async fn close_once(
    context: &Context,
    state: &Store,
    remains: &Remains,
) -> Result<bool, StateError> {
    let at = context.clock.now();
    let closing = || Closing {
        at,
        reason: Reason::Definition,
        successor: None,
    };
    let is_writing = |slice: &&Versioned<Slice>| slice.value.state == SliceState::Writing;
    for file in &remains.files {
        let slices = remains.slices.iter().filter(is_writing);
        let slices = slices.filter(|slice| slice.value.file == file.value.id);
        let closings: Vec<_> = slices.map(|slice| (slice.clone(), closing())).collect();
        match file.value.state {
            FileState::Writing => {
                state
                    .close_file(file, at, Reason::Definition, closings, None)
                    .await?;
                return Ok(true);
            }
            FileState::Closing { .. } if !closings.is_empty() => {
                state.close_slices(file, closings).await?;
                return Ok(true);
            }
            FileState::Closing { .. }
            | FileState::Importing { .. }
            | FileState::Imported { .. } => {}
        }
    }
    let mut closed = false;
    let rejects = remains.slices.iter().filter(is_writing);
    for slice in rejects.filter(|slice| slice.value.kind == SliceKind::Rejects) {
        state.close_rejects(slice, closing(), None).await?;
        closed = true;
    }
    Ok(closed)
}

/// Waits until the live volumes have sealed the slices of the sink.
async fn wait_for_seals(context: &Context, state: &Store, key: &SinkKey) -> Result<(), ApiError> {
    let mut changes = context.mirror.subscribe();
    let sealed = async {
        loop {
            let live: BTreeSet<VolumeId> = (state.volumes().await?.into_iter())
                .map(|(volume, _)| volume)
                .collect();
            changes.mark_unchanged();
            if !context
                .mirror
                .read(|topology| has_unsealed(topology, key, &live))
            {
                return Ok(());
            }
            // A volume that dies meanwhile makes no news here.
            let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
        }
    };
    match tokio::time::timeout(SEALED_WITHIN, sealed).await {
        Ok(outcome) => outcome,
        Err(_) => {
            info!(sink = %key, "rows on volumes that do not answer are discarded uncounted");
            Ok(())
        }
    }
}

fn has_unsealed(topology: &Topology, key: &SinkKey, live: &BTreeSet<VolumeId>) -> bool {
    let slices = topology
        .sink(key)
        .into_iter()
        .flat_map(|sink| sink.slices.values());
    let mut unsealed = slices.filter(|slice| slice.value.seal().is_none());
    unsealed.any(|slice| live.contains(&slice.value.volume))
}

/// Fences off the table, drops it, and takes slices and files out of the state.
async fn bury(
    context: &Context,
    state: &Store,
    sink: &Versioned<Sink>,
) -> Result<Discarded, ApiError> {
    let key = &sink.value.key;
    for _ in 0..TRIES {
        let remains = state.remains(key).await?;
        let imported = drop_table(context, &sink.value, &remains).await?;
        match bury_once(context, state, sink, &remains, &imported).await {
            Ok(()) => return Ok(discarded(&state.remains(key).await?, sink)),
            // A writer sealed a slice, a reader uploaded one, a coordinator noted a failure.
            Err(StateError::Conflict { key }) => {
                debug!(key, "somebody else was faster");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ApiError::new(
        Code::Conflict,
        "The slices of the sink are changed all the time by others; the purge goes on later.",
    ))
}

/// Answers which files had been imported.
async fn drop_table(
    context: &Context,
    sink: &Sink,
    remains: &Remains,
) -> Result<BTreeSet<FileId>, ApiError> {
    let recorded = |state: &FileState| matches!(state, FileState::Imported { .. });
    let (imported, others): (Vec<_>, Vec<_>) = (remains.files.iter())
        .map(|file| &file.value)
        .partition(|file| recorded(&file.state));
    // Nothing was ever imported into such a table, and what removes it is not here.
    if context.targets.waits(sink.table.kind) {
        return Ok(imported.iter().map(|file| file.id).collect());
    }
    let target = context.targets.get(sink.table.kind).ok_or_else(|| {
        let message = "The target of the table is not configured any more.";
        ApiError::new(Code::BadRequest, message)
    })?;
    let shared = context
        .mirror
        .read(|topology| is_shared(topology, &sink.key, &sink.table));
    let removal = Removal {
        sink: sink.key.clone(),
        table: sink.table.clone(),
        files: others.iter().map(|file| file.id).collect(),
        fate: if shared { Fate::Kept } else { Fate::Dropped },
    };
    if shared {
        info!(sink = %sink.key, table = sink.table.table_id, "table is kept, another sink writes to it");
    }
    let mut all = target.remove(&removal).await?;
    all.extend(imported.iter().map(|file| file.id));
    Ok(all)
}

/// Whether another sink that lives writes to the same table.
pub(crate) fn is_shared(topology: &Topology, own: &SinkKey, table: &Table) -> bool {
    let sinks = (topology.sources.values()).flat_map(|source| source.sinks.values());
    let mut sinks = sinks
        .filter_map(|node| node.sink.as_ref())
        .map(|sink| &sink.value);
    sinks.any(|other| {
        other.key != *own
            && other.purging.is_none()
            && other.table.kind == table.kind
            && other.table.table_id == table.table_id
    })
}

async fn bury_once(
    context: &Context,
    state: &Store,
    sink: &Versioned<Sink>,
    remains: &Remains,
    imported: &BTreeSet<FileId>,
) -> Result<(), StateError> {
    let rows_of = |slice: &Slice| match imported.contains(&slice.file) {
        true => Rows::Imported,
        false => Rows::Discarded,
    };
    let slices: Vec<_> = (remains.slices.iter())
        .map(|slice| (slice.clone(), rows_of(&slice.value)))
        .collect();
    state
        .bury_slices(sink, &slices, context.clock.now())
        .await?;
    for file in &remains.files {
        state.bury_file(sink, file).await?;
    }
    Ok(())
}

/// What this purge has discarded until now.
fn discarded(remains: &Remains, sink: &Versioned<Sink>) -> Discarded {
    let purge = sink.value.purging.as_ref().map(|stamp| stamp.at);
    let mut sum = Discarded::default();
    let notes = remains.purged.iter().map(|note| &note.value);
    for note in notes.filter(|note| Some(note.purge) == purge) {
        match (note.discarded(), note.slice.kind) {
            (None, _) => sum.uncounted += 1,
            (Some(rows), SliceKind::Rows) => sum.rows += rows,
            (Some(rows), SliceKind::Rejects) => sum.rejects += rows,
        }
    }
    sum
}
