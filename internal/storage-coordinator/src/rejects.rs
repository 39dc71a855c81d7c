//! Sees to it that every sink which takes rows can keep what it rejects, and closes what is full.
//!
//! | a slice of rejected records | is |
//! |---|---|
//! | missing on a live volume of the sink | opened |
//! | of a sink that was disabled or deleted, or on a volume that the sink left | closed without a successor |
//! | that promises or compresses otherwise than the rows beside it | closed, with a successor |
//! | that was reported to have reached a limit, its least interval being over | closed, with a successor |
//! | without records | left alone |
//!
//! Such slices belong to no file, so none of this waits for files or makes them wait. A sink has its first ones from its
//! creation; here is what comes after: more volumes, limits, the end. Two slices for the same records on one volume, which
//! no transaction makes, would be reduced to the newer one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use stream_model::file::File;
use stream_model::rejects;
use stream_model::slice::{Closing, Slice, State};
use stream_model::trigger::Reason;
use stream_model::{Timestamp, VolumeId};
use stream_node::{CancellationToken, Outcome, Reconciler, TaskError};
use stream_state::{StateError, Topology, Versioned};
use tracing::{debug, info};

use crate::agenda::Agenda;
use crate::context::{Context, Surroundings};
use crate::picture::Picture;

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Step {
    /// Open slices that are missing.
    Open {
        file: Arc<Versioned<File>>,
        /// A slice of the file, whose promise is taken over.
        rows: Arc<Versioned<Slice>>,
        volumes: Vec<VolumeId>,
    },
    /// Close a slice.
    Close {
        slice: Arc<Versioned<Slice>>,
        reason: Reason,
        next: Next,
    },
}

/// What takes the records after a slice is closed.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing: no more are kept there.
    Nothing,
    /// A slice like the one with rows beside it, if there is one.
    Like(Option<Arc<Versioned<Slice>>>),
}

/// What follows from the picture of one sink.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    pub(crate) steps: Vec<Step>,
    /// When to look again.
    pub(crate) later: Option<Timestamp>,
}

/// What is to be done about the rejected records of one sink.
pub(crate) fn decide(picture: &Picture<'_>, around: &Surroundings, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    let wanted = wanted(picture);
    let mut taking: BTreeMap<VolumeId, &Arc<Versioned<Slice>>> = BTreeMap::new();
    for slice in picture.rejects().filter(is_writing) {
        let volume = slice.value.volume;
        if !wanted.contains(&volume) {
            decision.close(slice, Reason::Definition, Next::Nothing);
        } else if let Some(older) = taking.insert(volume, slice) {
            decision.close(older, Reason::Definition, Next::Nothing);
        }
    }
    for slice in taking.values() {
        if around.is_live(slice.value.volume) {
            decision.look_at(picture, slice, now);
        }
    }
    if let Some(file) = picture.current().filter(|_| picture.takes_rows()) {
        let is_missing = |on: &VolumeId| !taking.contains_key(on) && around.is_live(*on);
        let missing: Vec<VolumeId> = wanted.iter().copied().filter(is_missing).collect();
        let rows = picture.slices(file.value.id).next();
        if let Some(rows) = rows.filter(|_| !missing.is_empty()) {
            decision.steps.push(Step::Open {
                file: Arc::clone(file),
                rows: Arc::clone(rows),
                volumes: missing,
            });
        }
    }
    decision
}

/// The volumes on which rejected records may come: those of the writing file, and those of the next one.
fn wanted(picture: &Picture<'_>) -> BTreeSet<VolumeId> {
    if !picture.takes_rows() {
        return BTreeSet::new();
    }
    let current = picture.current().map(|file| file.value.volumes.as_slice());
    let assigned = picture.assignment().unwrap_or_default();
    let all = current.unwrap_or_default().iter().chain(assigned);
    all.copied().collect()
}

fn is_writing(slice: &&Arc<Versioned<Slice>>) -> bool {
    matches!(slice.value.state, State::Writing)
}

impl Decision {
    fn close(&mut self, slice: &Arc<Versioned<Slice>>, reason: Reason, next: Next) {
        let slice = Arc::clone(slice);
        self.steps.push(Step::Close {
            slice,
            reason,
            next,
        });
    }

    /// Decides about the slice that takes the rejected records of a volume.
    fn look_at(&mut self, picture: &Picture<'_>, slice: &Arc<Versioned<Slice>>, now: Timestamp) {
        let rows = picture.current().and_then(|file| {
            let mut slices = picture.slices(file.value.id).filter(is_writing);
            slices.find(|rows| rows.value.volume == slice.value.volume)
        });
        let next = || Next::Like(rows.cloned());
        if rows.is_some_and(|rows| !rejects::matches(&slice.value, &rows.value)) {
            return self.close(slice, Reason::Definition, next());
        }
        let Some(crossed) = picture.rejects_crossed(slice.value.id) else {
            return;
        };
        let not_before = slice.value.trigger.not_before(slice.value.opened_at);
        // Batches are refused until a slice with too many sessions is rotated: that cannot wait.
        let asked = matches!(crossed.reason, Reason::Sessions | Reason::Drain);
        if asked || not_before <= now {
            self.close(slice, crossed.reason, next());
        } else {
            self.later = Some(self.later.map_or(not_before, |later| later.min(not_before)));
        }
    }
}

/// The reconciler.
pub(crate) struct RejectsRotation {
    context: Arc<Context>,
    agenda: Mutex<Agenda>,
}

impl RejectsRotation {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            agenda: Mutex::default(),
        }
    }

    fn list(&self, topology: &Topology, around: &Surroundings, now: Timestamp) -> Vec<Step> {
        let mut agenda = self.agenda.lock();
        let mut steps = Vec::new();
        for key in agenda.open(topology, around.generation(), now) {
            for (_, picture) in self.context.own_sinks(topology, around, &key) {
                let decision = decide(&picture, around, now);
                steps.extend(decision.steps);
                if let Some(later) = decision.later {
                    agenda.note(&key, later);
                }
            }
        }
        steps
    }

    async fn act(&self, step: Step) -> Result<i64, StateError> {
        let (context, now) = (&self.context, self.context.clock.now());
        let (store, trigger) = (&context.store, context.options.defaults.rejects);
        match step {
            Step::Open {
                file,
                rows,
                volumes,
            } => {
                let slices = rejects::plan(&file.value, &rows.value, &volumes, trigger, now);
                let (sink, count) = (&file.value.sink, slices.len());
                let revision = store.open_rejects(&file, slices).await?;
                info!(%sink, slices = count, "slices for rejected records opened");
                Ok(revision)
            }
            Step::Close {
                slice,
                reason,
                next,
            } => {
                let successor = match next {
                    Next::Nothing => None,
                    Next::Like(rows) => {
                        let (random, old) = ((context.random)(), &slice.value);
                        let rows = rows.as_ref().map(|rows| &rows.value);
                        Some(rejects::successor(old, rows, trigger, now, random))
                    }
                };
                let successor_id = successor.as_ref().map(|slice| slice.id);
                let closing = Closing {
                    at: now,
                    reason,
                    successor: successor_id,
                };
                let revision = store.close_rejects(&slice, closing, successor).await?;
                debug!(slice = %slice.value.id, successor = ?successor_id, ?reason, "slice of rejected records closed");
                Ok(revision)
            }
        }
    }
}

#[async_trait]
impl Reconciler for RejectsRotation {
    fn name(&self) -> &'static str {
        "rejects-rotation"
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
        let mut agenda = self.agenda.lock();
        if acted.is_err() {
            agenda.restart();
        }
        Ok(Outcome {
            changed: acted?,
            next: agenda.next(context.clock.now()),
        })
    }
}

#[cfg(test)]
mod tests;
