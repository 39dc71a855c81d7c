//! Whose turn it is among the files of one sink, and which slices hold the others up. Pure.

use std::sync::Arc;
use std::time::Duration;

use stream_model::Timestamp;
use stream_model::definition::TableKind;
use stream_model::file::{File, State};
use stream_model::slice::Slice;
use stream_state::Versioned;
use stream_storage::staging::Content;

use crate::picture::Picture;
use crate::rows::StagedSlice;

/// How long after it was closed a slice that is not uploaded is late.
pub(crate) const LATE: Duration = Duration::from_secs(120);

/// A file together with its slices in the order of their rows.
#[derive(Debug, Clone)]
pub(crate) struct Whole {
    pub(crate) file: Arc<Versioned<File>>,
    pub(crate) slices: Vec<Arc<Versioned<Slice>>>,
}

impl Whole {
    pub(crate) fn new(picture: &Picture<'_>, file: &Arc<Versioned<File>>) -> Self {
        let mut slices: Vec<_> = picture.slices(file.value.id).cloned().collect();
        slices.sort_by_key(|slice| (slice.value.opened_at, slice.value.id));
        Self {
            file: Arc::clone(file),
            slices,
        }
    }

    fn is_uploaded(&self) -> bool {
        self.slices.iter().all(|slice| slice.value.is_uploaded())
    }

    /// The slices that have an object in staging.
    pub(crate) fn staged(&self) -> Vec<StagedSlice> {
        let staged = |slice: &Arc<Versioned<Slice>>| {
            let (slice, seal) = (&slice.value, slice.value.seal()?);
            Some(StagedSlice {
                id: slice.id,
                object: slice.object()?.to_owned(),
                content: Content {
                    bytes: seal.figures.bytes,
                    checksum: seal.checksum.clone(),
                },
                compression: slice.compression,
                rows: seal.figures.rows,
            })
        };
        self.slices.iter().filter_map(staged).collect()
    }
}

/// A slice to move from a closing file to the writing one.
#[derive(Debug)]
pub(crate) struct Move {
    pub(crate) slice: Arc<Versioned<Slice>>,
    pub(crate) from: Arc<Versioned<File>>,
    pub(crate) to: Arc<Versioned<File>>,
}

/// What is to be done for the files of one sink.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// Files whose slices are all in staging.
    pub(crate) begin: Vec<Whole>,
    /// Slices that hold up their file.
    pub(crate) moves: Vec<Move>,
    /// The file whose turn it is.
    pub(crate) import: Option<Whole>,
    /// When a failed file may be tried again, or a slice is late.
    pub(crate) later: Option<Timestamp>,
}

impl Decision {
    /// Without the files of kinds of tables that `waits` names: nothing imports them, and their rows stay in staging. A file
    /// without rows needs nobody.
    pub(crate) fn without(mut self, waits: impl Fn(TableKind) -> bool) -> Self {
        let possible = |whole: &Whole| {
            let kind = whole.file.value.table.kind;
            !waits(kind) || whole.staged().is_empty()
        };
        self.begin.retain(possible);
        self.import = self.import.filter(possible);
        self
    }

    fn look_again(&mut self, at: Timestamp) {
        self.later = Some(self.later.map_or(at, |later| later.min(at)));
    }

    /// Finds the slices that hold up a closing file.
    fn look_for_late(&mut self, picture: &Picture<'_>, whole: &Whole, now: Timestamp) {
        let from = &whole.file;
        let movable = |to: &&Arc<Versioned<File>>| {
            to.value.mapping_version == from.value.mapping_version
                && to.value.table == from.value.table
        };
        let Some(to) = picture.current().filter(movable) else {
            return;
        };
        let has_object = |slice: &Arc<Versioned<Slice>>| slice.value.object().is_some();
        if !whole.slices.iter().any(has_object) {
            // There are no rows that wait for the others.
            return;
        }
        let missing = || {
            whole
                .slices
                .iter()
                .filter(|slice| !slice.value.is_uploaded())
        };
        let late_at = |slice: &Arc<Versioned<Slice>>| {
            slice.value.closing().map_or(now, |closing| closing.at) + LATE
        };
        match missing().map(late_at).max() {
            Some(at) if at > now => self.look_again(at),
            _ => self.moves.extend(missing().map(|slice| Move {
                slice: Arc::clone(slice),
                from: Arc::clone(from),
                to: Arc::clone(to),
            })),
        }
    }
}

/// What is to be done for the files of one sink.
pub(crate) fn decide(picture: &Picture<'_>, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    // Its rows are discarded, and its table goes.
    if picture.is_purging() {
        return decision;
    }
    for file in picture.files() {
        let in_order = file.value.table.mapping.primary_key().next().is_some();
        let waits = match &file.value.state {
            State::Writing | State::Imported { .. } => continue,
            State::Closing { .. } => {
                let whole = Whole::new(picture, file);
                if whole.is_uploaded() {
                    decision.begin.push(whole);
                } else if !in_order {
                    decision.look_for_late(picture, &whole, now);
                }
                true
            }
            State::Importing { .. } => match file.value.retry.as_ref().map(|retry| retry.after) {
                Some(after) if after > now => {
                    decision.look_again(after);
                    true
                }
                _ => {
                    decision.import = Some(Whole::new(picture, file));
                    break;
                }
            },
        };
        if waits && in_order {
            break;
        }
    }
    decision
}
