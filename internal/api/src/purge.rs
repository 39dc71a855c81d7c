//! Purging: deleting a sink or a source with its definition, its versions, its buffered rows and its table.
//!
//! ```text
//! intent ─▶ close files ─▶ seals of live volumes ─▶ fence and drop the table ─▶ take slices and files out ─▶ definition
//! ```
//!
//! Each step may be repeated, and what was done before is recognised: a crash in between leaves the intent in the definition,
//! and [`resume`] of any API process goes on. The fence comes before everything else is taken away: from then on the target's
//! own ledger knows the files of the sink, so an import that was under way, or that a process begins which has not heard of
//! the purge, changes nothing. Not before that may a new sink use the same table: as long as it is decided whether the table goes
//! and that is done, the table is marked ([`crate::fate`]). Whoever wakes up later and drops it again does nothing either, because
//! the removal is in that ledger, too.
//!
//! Rows on volumes that are away are discarded as well, uncounted: their writer finds a note when it comes back.
//!
//! The module refuses to touch disks and staging: the owners of slices and objects remove them, by the notes.

mod insist;
mod resume;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use stream_model::definition::Sink;
use stream_model::file::State as FileState;
use stream_model::purge::{Dropping, Rows, removal_id};
use stream_model::slice::{Closing, Kind as SliceKind, Slice, State as SliceState};
use stream_model::trigger::Reason;
use stream_model::{FileId, SinkKey, SourceKey, VolumeId};
use stream_state::{Remains, StateError, Store, Topology, Versioned};
use stream_target::Removal;
use tracing::info;

use self::insist::{Failed, insist};
use crate::context::Context;
use crate::error::{ApiError, Code};
use crate::fate;

pub(crate) use resume::resume;

/// How long a purge waits for writers that are alive to say what their slices hold. Afterwards the rows are not counted.
const SEALED_WITHIN: Duration = Duration::from_secs(30);

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
    let refusal = "The sink is changed all the time by others; the purge goes on later.";
    let attempt = || async {
        let remains = state.remains(key).await?;
        Ok(match close_once(context, state, &remains).await? {
            Closed::Some => ControlFlow::Continue(()),
            Closed::Nothing => ControlFlow::Break(()),
        })
    };
    insist(refusal, attempt).await
}

/// What there was to be closed.
enum Closed {
    Some,
    Nothing,
}

async fn close_once(
    context: &Context,
    state: &Store,
    remains: &Remains,
) -> Result<Closed, StateError> {
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
                return Ok(Closed::Some);
            }
            FileState::Closing { .. } if !closings.is_empty() => {
                state.close_slices(file, closings).await?;
                return Ok(Closed::Some);
            }
            FileState::Closing { .. }
            | FileState::Importing { .. }
            | FileState::Imported { .. } => {}
        }
    }
    let mut closed = Closed::Nothing;
    let rejects = remains.slices.iter().filter(is_writing);
    for slice in rejects.filter(|slice| slice.value.kind == SliceKind::Rejects) {
        state.close_rejects(slice, closing(), None).await?;
        closed = Closed::Some;
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
    let refusal =
        "The slices of the sink are changed all the time by others; the purge goes on later.";
    // A writer seals a slice, a reader uploads one, a coordinator notes a failure, another sink of the table is purged.
    let attempt = || async {
        let remains = state.remains(key).await?;
        let imported = drop_table(context, state, sink, &remains).await?;
        bury_once(context, state, sink, &remains, &imported).await?;
        let remains = state.remains(key).await?;
        Ok(ControlFlow::Break(discarded(&remains, sink)))
    };
    insist(refusal, attempt).await
}

/// Answers which files had been imported.
async fn drop_table(
    context: &Context,
    state: &Store,
    sink: &Versioned<Sink>,
    remains: &Remains,
) -> Result<BTreeSet<FileId>, Failed> {
    let recorded = |state: &FileState| matches!(state, FileState::Imported { .. });
    let (imported, others): (Vec<_>, Vec<_>) = (remains.files.iter())
        .map(|file| &file.value)
        .partition(|file| recorded(&file.state));
    let Versioned { value, .. } = sink;
    // Nothing was ever imported into such a table, and what removes it is not here.
    if context.targets.waits(value.table.kind) {
        return Ok(imported.iter().map(|file| file.id).collect());
    }
    let target = context.targets.get(value.table.kind).ok_or_else(|| {
        let message = "The target of the table is not configured any more.";
        ApiError::new(Code::BadRequest, message)
    })?;
    let purging = value.purging.as_ref();
    let asked = purging.expect("only what is being purged comes here").at;
    let dropping = Dropping {
        sink: value.key.clone(),
        kind: value.table.kind,
        table_id: value.table.table_id.clone(),
        at: context.clock.now(),
    };
    let removal = Removal {
        id: removal_id(&value.key, asked),
        sink: value.key.clone(),
        table: value.table.clone(),
        files: others.iter().map(|file| file.id).collect(),
        fate: fate::decide(state, &context.mirror, &dropping, sink.revision).await?,
    };
    let mut all = target.remove(&removal).await.map_err(ApiError::from)?;
    state.unmark_table(&dropping).await?;
    all.extend(imported.iter().map(|file| file.id));
    Ok(all)
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
