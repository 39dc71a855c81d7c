//! Opens a file for each sink that takes rows and has none, and closes the writing file when its time has come.
//!
//! | the writing file | is |
//! |---|---|
//! | of a sink that was disabled or deleted, itself or its source | closed without a successor |
//! | of an older version of the sink's definition | closed at once, with a successor |
//! | without a slice that takes rows, because its volumes were forgotten | closed at once, with a successor |
//! | that has no place on a volume of its source that is live again | closed, with a successor, the least interval being over |
//! | that reached a limit of its import trigger, the least interval being over | closed, with a successor |
//!
//! Closing a file closes its slices and opens the next file in one transaction, so there is no moment at which a sink has
//! no place for rows, and none at which it has two files for them. A file on so many volumes that one transaction cannot hold
//! them all leaves slices that go on writing in the closing file; they are closed next, also when that was interrupted. An old picture or a second coordinator makes the transaction fail, not
//! the invariant. No file is closed for a limit while none of its volumes is live: the next one would have no place.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use stream_model::definition::{Sink, Source};
use stream_model::file::{self, File};
use stream_model::level::Defaults;
use stream_model::opening::{self, Opening};
use stream_model::placement;
use stream_model::rejects;
use stream_model::slice::{Closing, Slice, State};
use stream_model::trigger::Reason;
use stream_model::{SinkKey, SliceId, Timestamp, VolumeId};
use stream_node::{CancellationToken, Outcome, Reconciler, TaskError};
use stream_state::{Topology, Versioned};
use stream_storage::crash::{self, Point};
use tracing::info;

use crate::agenda::Agenda;
use crate::context::{Context, Surroundings};
use crate::picture::Picture;

/// The most volumes of a file whose slices for rejected records are opened in the same transaction.
const MAX_WITH_REJECTS: usize = 50;

/// What is to be done about one sink.
#[derive(Debug)]
pub(crate) enum Step {
    /// Open its first file.
    Open(Open),
    /// Close its writing file.
    Close(Close),
    /// Close slices that were left writing in a file that is closing.
    Finish(Finish),
}

/// A closing file whose slices are not all closed.
#[derive(Debug)]
pub(crate) struct Finish {
    pub(crate) file: Arc<Versioned<File>>,
    /// Each with the slice that takes its place: the one on the same volume in the writing file.
    pub(crate) slices: Vec<(Arc<Versioned<Slice>>, Option<SliceId>)>,
    pub(crate) reason: Reason,
}

/// A file to open.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) source: Arc<Versioned<Source>>,
    pub(crate) sink: Arc<Versioned<Sink>>,
    pub(crate) volumes: Volumes,
    /// Whether slices of rejected records are opened with it. Not where there are any: then it is up to [`crate::rejects`].
    pub(crate) with_rejects: bool,
}

/// A file to close.
#[derive(Debug)]
pub(crate) struct Close {
    pub(crate) file: Arc<Versioned<File>>,
    pub(crate) slices: Vec<Arc<Versioned<Slice>>>,
    pub(crate) reason: Reason,
    /// Definitions and volumes of the next file; none when the sink takes no more rows.
    pub(crate) next: Option<Open>,
}

/// On which volumes a file is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Volumes {
    /// The live ones of those that the source is assigned to.
    Assigned(Vec<VolumeId>),
    /// The source is assigned to none yet; it will be to these.
    New(Vec<VolumeId>),
}

impl Volumes {
    pub(crate) fn ids(&self) -> &[VolumeId] {
        match self {
            Self::Assigned(volumes) | Self::New(volumes) => volumes,
        }
    }

    fn assignment(&self) -> Option<Vec<VolumeId>> {
        match self {
            Self::Assigned(_) => None,
            Self::New(volumes) => Some(volumes.clone()),
        }
    }
}

/// What follows from the picture of one sink.
#[derive(Debug)]
pub(crate) enum Decision {
    /// All is as it should be.
    Nothing,
    /// Nothing now; look again then.
    Later(Timestamp),
    /// There is no live volume to open a file on.
    NoVolume,
    /// Something is to be done.
    Act(Step),
}

/// When a writing file is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing is known of any row.
    NotYet,
    /// At this time, if no limit is reached before.
    At(Timestamp),
    /// A limit is reached, but the least interval is not over before this time.
    Held(Timestamp),
    /// Now.
    Now(Reason),
}

/// When the writing file of a sink is to be closed.
pub(crate) fn due(picture: &Picture<'_>, file: &File, now: Timestamp) -> Due {
    let current_version = picture
        .definitions()
        .map(|(_, sink)| sink.value.version.number);
    if !picture.takes_rows() || current_version != Some(file.mapping_version) {
        return Due::Now(Reason::Definition);
    }
    if !picture.slices(file.id).any(|slice| is_writing(&slice)) {
        // Its volumes were forgotten: there is no place for rows.
        return Due::Now(Reason::Drain);
    }
    let known = picture.known(file);
    let Some(first_at) = known.figures.first_at else {
        return Due::NotYet;
    };
    let not_before = file.trigger.not_before(file.opened_at);
    match file.trigger.reached(&known.figures, known.slices, now) {
        Some(reason) if not_before <= now => Due::Now(reason),
        Some(_) => Due::Held(not_before),
        None => Due::At(not_before.max(first_at + file.trigger.interval.0)),
    }
}

/// What is to be done about one sink.
pub(crate) fn decide(
    picture: &Picture<'_>,
    around: &Surroundings,
    defaults: &Defaults,
    now: Timestamp,
) -> Decision {
    let Some(file) = picture.current() else {
        return match next(picture, around, defaults) {
            Next::None => Decision::Nothing,
            Next::NoVolume => Decision::NoVolume,
            Next::Open(open) => Decision::Act(Step::Open(open)),
        };
    };
    let is_missed = misses_a_volume(picture, around, &file.value);
    let not_before = file.value.trigger.not_before(file.value.opened_at);
    let reason = match due(picture, &file.value, now) {
        Due::Now(reason) => reason,
        // What only that volume takes, as records whose keys it remembers, would wait for rows that others bring.
        _ if is_missed && not_before <= now => Reason::Drain,
        _ if is_missed => return Decision::Later(not_before),
        Due::NotYet => return Decision::Nothing,
        Due::At(at) | Due::Held(at) => return Decision::Later(at),
    };
    let next = match next(picture, around, defaults) {
        Next::None => None,
        Next::NoVolume => return Decision::NoVolume,
        Next::Open(open) => Some(open),
    };
    Decision::Act(Step::Close(Close {
        file: Arc::clone(file),
        slices: picture
            .slices(file.value.id)
            .filter(is_writing)
            .cloned()
            .collect(),
        reason,
        next,
    }))
}

/// Whether the file was opened while a volume of its source was away that is live now.
fn misses_a_volume(picture: &Picture<'_>, around: &Surroundings, file: &File) -> bool {
    let mut assigned = picture.assignment().unwrap_or_default().iter();
    assigned.any(|volume| around.is_live(*volume) && !file.volumes.contains(volume))
}

/// What an interrupted closing has left to do.
pub(crate) fn left_open(picture: &Picture<'_>) -> Vec<Step> {
    let takes_its_place = |volume| {
        let current = picture.current()?.value.id;
        let mut slices = picture.slices(current).filter(is_writing);
        let successor = slices.find(|slice| slice.value.volume == volume)?;
        Some(successor.value.id)
    };
    let mut steps = Vec::new();
    for file in picture.files() {
        let file::State::Closing { reason, .. } = file.value.state else {
            continue;
        };
        let slices: Vec<_> = picture
            .slices(file.value.id)
            .filter(is_writing)
            .map(|slice| (Arc::clone(slice), takes_its_place(slice.value.volume)))
            .collect();
        if !slices.is_empty() {
            let file = Arc::clone(file);
            steps.push(Step::Finish(Finish {
                file,
                slices,
                reason,
            }));
        }
    }
    steps
}

fn is_writing(slice: &&Arc<Versioned<Slice>>) -> bool {
    matches!(slice.value.state, State::Writing)
}

enum Next {
    None,
    NoVolume,
    Open(Open),
}

fn next(picture: &Picture<'_>, around: &Surroundings, defaults: &Defaults) -> Next {
    let Some((source, sink)) = picture.definitions().filter(|_| picture.takes_rows()) else {
        return Next::None;
    };
    let volumes = match picture.assignment() {
        Some(assigned) => Volumes::Assigned(
            assigned
                .iter()
                .copied()
                .filter(|v| around.is_live(*v))
                .collect(),
        ),
        None => {
            let levels = opening::levels(&source.value, &sink.value, defaults);
            let key = source.value.key.to_string();
            Volumes::New(placement::assign(
                &key,
                &levels.local.assignment,
                around.volumes(),
            ))
        }
    };
    if volumes.ids().is_empty() {
        return Next::NoVolume;
    }
    Next::Open(Open {
        source: Arc::clone(source),
        sink: Arc::clone(sink),
        with_rejects: volumes.ids().len() <= MAX_WITH_REJECTS && picture.rejects().next().is_none(),
        volumes,
    })
}

/// How each of the slices is closed: the successor of a slice is on the same volume.
fn closings(
    close: &Close,
    next: Option<&Opening>,
    now: Timestamp,
) -> Vec<(Versioned<Slice>, Closing)> {
    let successor = |volume| {
        let slices = next.map_or(&[][..], |opening| &opening.slices);
        slices
            .iter()
            .find(|slice| slice.volume == volume)
            .map(|slice| slice.id)
    };
    let closing = |slice: &Arc<Versioned<Slice>>| {
        let successor = successor(slice.value.volume);
        (
            Versioned::clone(slice),
            Closing {
                at: now,
                reason: close.reason,
                successor,
            },
        )
    };
    close.slices.iter().map(closing).collect()
}

/// The reconciler.
pub(crate) struct FileRotation {
    context: Arc<Context>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    agenda: Agenda,
    /// Sinks without a live volume that were reported.
    waiting: BTreeSet<SinkKey>,
}

impl FileRotation {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            memory: Mutex::default(),
        }
    }

    fn list(&self, topology: &Topology, around: &Surroundings, now: Timestamp) -> Vec<Step> {
        let mut memory = self.memory.lock();
        let mut steps = Vec::new();
        for key in memory.agenda.open(topology, around.generation(), now) {
            for (sink, picture) in self.context.own_sinks(topology, around, &key) {
                steps.extend(left_open(&picture));
                let decision = decide(&picture, around, &self.context.options.defaults, now);
                let waits = matches!(decision, Decision::NoVolume);
                if !waits {
                    memory.waiting.remove(&sink);
                } else if memory.waiting.insert(sink.clone()) {
                    info!(%sink, "sink waits for a live volume");
                }
                match decision {
                    Decision::Nothing | Decision::NoVolume => {}
                    Decision::Later(at) => memory.agenda.note(&key, at),
                    Decision::Act(step) => steps.push(step),
                }
            }
        }
        steps
    }

    async fn act(&self, step: Step) -> Result<i64, stream_state::StateError> {
        let now = self.context.clock.now();
        match step {
            Step::Open(open) => {
                let Opening { file, mut slices } = self.plan(&open, now);
                if let Some(rows) = slices.first().filter(|_| open.with_rejects) {
                    let trigger = self.context.options.defaults.rejects;
                    slices.extend(rejects::plan(&file, rows, &file.volumes, trigger, now));
                }
                let (sink, id) = (file.sink.clone(), file.id);
                let assignment = open.volumes.assignment();
                let opened = self
                    .context
                    .store
                    .open_file(&open.sink, assignment, file, slices)
                    .await?;
                info!(%sink, file = %id, "file opened");
                Ok(opened.revision)
            }
            Step::Close(close) => {
                let next = close.next.as_ref().map(|open| self.plan(open, now));
                let closings = closings(&close, next.as_ref(), now);
                let next_id = next.as_ref().map(|opening| opening.file.id);
                let next = next.map(|Opening { file, slices }| (file, slices));
                let (store, file) = (&self.context.store, &close.file);
                let closed = store
                    .close_file(file, now, close.reason, closings, next)
                    .await?;
                crash::point(Point::FileClosed);
                let (sink, reason) = (&file.value.sink, close.reason);
                info!(%sink, file = %file.value.id, ?reason, next = ?next_id, "file closed");
                Ok(closed.file.revision)
            }
            Step::Finish(finish) => self.finish(finish, now).await,
        }
    }

    async fn finish(
        &self,
        finish: Finish,
        now: Timestamp,
    ) -> Result<i64, stream_state::StateError> {
        let closing = |(slice, successor): &(Arc<Versioned<Slice>>, Option<SliceId>)| {
            let closing = Closing {
                at: now,
                reason: finish.reason,
                successor: *successor,
            };
            (Versioned::clone(slice), closing)
        };
        let closings: Vec<_> = finish.slices.iter().map(closing).collect();
        let (store, file, slices) = (&self.context.store, &finish.file, closings.len());
        let revision = store.close_slices(file, closings).await?;
        info!(sink = %file.value.sink, file = %file.value.id, slices, "closing of a file finished");
        Ok(revision)
    }

    fn plan(&self, open: &Open, now: Timestamp) -> Opening {
        let context = &self.context;
        let (defaults, volumes) = (&context.options.defaults, open.volumes.ids());
        let random = &mut || (context.random)();
        opening::plan(
            &open.source.value,
            &open.sink.value,
            defaults,
            volumes,
            now,
            random,
        )
    }
}

#[async_trait]
impl Reconciler for FileRotation {
    fn name(&self) -> &'static str {
        "file-rotation"
    }

    async fn reconcile(&self, cancel: &CancellationToken) -> Result<Outcome, TaskError> {
        let context = &self.context;
        let (now, around) = (context.clock.now(), context.surroundings());
        let steps = context
            .mirror
            .read(|topology| self.list(topology, &around, now));
        let acted = context
            .act_on_all(steps, cancel, |step| self.act(step))
            .await;
        let mut memory = self.memory.lock();
        if acted.is_err() {
            memory.agenda.restart();
        }
        let changed = acted?;
        Ok(Outcome {
            changed,
            next: memory.agenda.next(context.clock.now()),
        })
    }
}

#[cfg(test)]
mod tests;
