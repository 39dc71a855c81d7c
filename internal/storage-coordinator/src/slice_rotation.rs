//! Closes a slice that its writer has reported to have reached a limit, and opens its successor on the same volume.
//!
//! A slice is not rotated while its file is due: closing the file closes it. Nor is it when its volume has no live writer:
//! nobody would seal it, and nobody would take the rows of its successor.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use stream_model::Timestamp;
use stream_model::file::File;
use stream_model::level::Defaults;
use stream_model::opening;
use stream_model::slice::{Closing, Slice};
use stream_model::statistics::Crossed;
use stream_model::trigger::Reason;
use stream_node::{CancellationToken, Outcome, Reconciler, TaskError};
use stream_state::{StateError, Topology, Versioned};
use stream_storage::crash::{self, Point};
use tracing::debug;

use crate::agenda::Agenda;
use crate::context::{Context, Surroundings};
use crate::file_rotation::{self, Due};
use crate::picture::Picture;

/// A slice to rotate.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) file: Arc<Versioned<File>>,
    pub(crate) slice: Arc<Versioned<Slice>>,
    pub(crate) reason: Reason,
}

/// What follows for one reported slice.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Nothing, until something changes.
    Nothing,
    /// Nothing now; look again then.
    Later(Timestamp),
    /// Rotate it.
    Act(Step),
}

/// What is to be done about one reported slice of the writing file.
pub(crate) fn decide(
    picture: &Picture<'_>,
    slice: &Arc<Versioned<Slice>>,
    crossed: &Crossed,
    around: &Surroundings,
    defaults: &Defaults,
    now: Timestamp,
) -> Decision {
    let Some(file) = picture
        .current()
        .filter(|file| file.value.id == slice.value.file)
    else {
        return Decision::Nothing;
    };
    if !around.is_live(slice.value.volume) {
        return Decision::Nothing;
    }
    let held = match file_rotation::due(picture, &file.value, now) {
        Due::Now(_) => return Decision::Nothing,
        Due::Held(_) => true,
        Due::At(_) | Due::NotYet => false,
    };
    // The trigger of a slice includes the import limits. When they are reached but the file is held back, only the upload
    // limits count: otherwise each successor would reach the import limits again and be rotated for a row or two.
    let asked = matches!(crossed.reason, Reason::Sessions | Reason::Drain);
    if held && !asked {
        let Some((source, sink)) = picture.definitions() else {
            return Decision::Nothing;
        };
        let upload = opening::levels(&source.value, &sink.value, defaults).upload;
        if upload.reached(&crossed.figures, now).is_none() {
            let first_at = crossed.figures.first_at.unwrap_or(now);
            return Decision::Later(first_at + upload.interval.0);
        }
    }
    let not_before = slice.value.trigger.not_before(slice.value.opened_at);
    if not_before > now {
        return Decision::Later(not_before);
    }
    let (file, slice) = (Arc::clone(file), Arc::clone(slice));
    Decision::Act(Step {
        file,
        slice,
        reason: crossed.reason,
    })
}

/// The reconciler.
pub(crate) struct SliceRotation {
    context: Arc<Context>,
    agenda: Mutex<Agenda>,
}

impl SliceRotation {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            context,
            agenda: Mutex::default(),
        }
    }

    fn list(&self, topology: &Topology, around: &Surroundings, now: Timestamp) -> Vec<Step> {
        let mut agenda = self.agenda.lock();
        let defaults = &self.context.options.defaults;
        let mut steps = Vec::new();
        for key in agenda.open(topology, around.generation(), now) {
            for (_, picture) in self.context.own_sinks(topology, around, &key) {
                for (slice, crossed) in picture.crossed() {
                    match decide(&picture, slice, crossed, around, defaults, now) {
                        Decision::Nothing => {}
                        Decision::Later(at) => agenda.note(&key, at),
                        Decision::Act(step) => steps.push(step),
                    }
                }
            }
        }
        steps
    }

    async fn act(&self, step: Step) -> Result<i64, StateError> {
        let now = self.context.clock.now();
        let successor = opening::successor(&step.slice.value, now, (self.context.random)());
        let closing = Closing {
            at: now,
            reason: step.reason,
            successor: Some(successor.id),
        };
        let (closed, opened) = (step.slice.value.id, successor.id);
        let store = &self.context.store;
        let rotation = store
            .rotate_slice(&step.file, &step.slice, closing, successor)
            .await?;
        crash::point(Point::SliceRotated);
        debug!(slice = %closed, successor = %opened, reason = ?step.reason, "slice rotated");
        Ok(rotation.closed.revision)
    }
}

#[async_trait]
impl Reconciler for SliceRotation {
    fn name(&self) -> &'static str {
        "slice-rotation"
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
