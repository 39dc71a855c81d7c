//! What a client can do next with the files and slices of a sink, how it is done, and how to find out whether it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use stream_model::definition::Sink;
use stream_model::file::{self, File};
use stream_model::slice::{self, Closing, Seal, Slice};
use stream_model::statistics::Figures;
use stream_model::trigger::Reason;
use stream_model::{FileId, SinkKey, SliceId, Timestamp, VolumeId};
use stream_state::{SinkNode, StateError, Store, Versioned};

use super::history::{Id, Step, rows_of};
use crate::support;

/// Files of a sink beyond which no more are made until some are removed; the same for the slices of a file.
const ENOUGH: usize = 6;

/// Identifiers rise, so that the oldest file is the first one.
fn next_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn id_bytes() -> [u8; 16] {
    u128::from(next_number()).to_be_bytes()
}

/// A time that no other operation has.
fn unique_time() -> Timestamp {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    support::at(NEXT.fetch_add(1, Ordering::Relaxed))
}

type FileNow = Arc<Versioned<File>>;
type SliceNow = Arc<Versioned<Slice>>;

/// One change.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) sink: SinkKey,
    at: Timestamp,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Open {
        sink: Arc<Versioned<Sink>>,
        opened: Opened,
    },
    Rotate {
        file: FileNow,
        slice: SliceNow,
        successor: Slice,
    },
    Close {
        file: FileNow,
        slices: Vec<SliceNow>,
        next: Opened,
    },
    Seal {
        slice: SliceNow,
    },
    Upload {
        slice: SliceNow,
    },
    Begin {
        file: FileNow,
        slices: Vec<SliceNow>,
    },
    Complete {
        file: FileNow,
    },
    Remove {
        file: FileNow,
        slices: Vec<SliceNow>,
    },
}

/// A file with one slice on each of its volumes.
#[derive(Debug, Clone)]
struct Opened {
    file: File,
    slices: Vec<Slice>,
}

fn opened(sink: &Sink, volumes: &[VolumeId]) -> Opened {
    let mut file = support::file(&sink.key, FileId::from_bytes(id_bytes()), volumes);
    file.mapping_version = sink.version.number;
    let slice = |volume| support::slice(&file, SliceId::from_bytes(id_bytes()), volume);
    let slices = volumes.iter().map(|volume| slice(*volume)).collect();
    Opened { file, slices }
}

/// Whether a client did something although it was told that nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    Done,
    NotDone,
    /// What would tell is gone.
    Gone,
}

/// Chooses one of the things that can be done with a sink according to a picture of it.
pub(super) fn choose(rng: &mut StdRng, node: &SinkNode, volumes: &[VolumeId]) -> Option<Operation> {
    let sink = node.sink.as_ref()?;
    let kind = possible(node, sink, volumes).into_iter().choose(rng)?;
    Some(Operation {
        sink: sink.value.key.clone(),
        at: unique_time(),
        kind,
    })
}

fn possible(node: &SinkNode, sink: &Arc<Versioned<Sink>>, volumes: &[VolumeId]) -> Vec<Kind> {
    let Some(current) = node.current.and_then(|id| node.files.get(&id)) else {
        let (sink, opened) = (Arc::clone(sink), opened(&sink.value, volumes));
        return vec![Kind::Open { sink, opened }];
    };
    let mut kinds = Vec::new();
    let of = |file: &File| -> Vec<SliceNow> {
        let own = node
            .slices
            .values()
            .filter(|slice| slice.value.file == file.id);
        own.cloned().collect()
    };
    for slice in node.slices.values().map(Arc::clone) {
        match slice.value.state {
            slice::State::Writing if of(&current.value).len() < ENOUGH => {
                let id = SliceId::from_bytes(id_bytes());
                let successor = support::slice(&current.value, id, slice.value.volume);
                let file = Arc::clone(current);
                kinds.push(Kind::Rotate {
                    file,
                    slice,
                    successor,
                });
            }
            slice::State::Closing(_) => kinds.push(Kind::Seal { slice }),
            slice::State::Uploading { .. } => kinds.push(Kind::Upload { slice }),
            slice::State::Writing | slice::State::Uploaded { .. } => {}
        }
    }
    for file in node.files.values().map(Arc::clone) {
        let slices = of(&file.value);
        match file.value.state {
            file::State::Writing if node.files.len() < ENOUGH => {
                let next = opened(&sink.value, volumes);
                let writing = |slice: &SliceNow| slice.value.state == slice::State::Writing;
                let slices = slices.into_iter().filter(writing).collect();
                kinds.push(Kind::Close { file, slices, next });
            }
            file::State::Closing { .. } if slices.iter().all(|slice| slice.value.is_uploaded()) => {
                kinds.push(Kind::Begin { file, slices });
            }
            file::State::Importing { .. } => kinds.push(Kind::Complete { file }),
            // The oldest first, so that a successor outlives what it succeeds.
            file::State::Imported { .. } if node.files.keys().next() == Some(&file.value.id) => {
                kinds.push(Kind::Remove { file, slices });
            }
            _ => {}
        }
    }
    kinds
}

impl Operation {
    /// Does it. Returns the revision.
    pub(super) async fn send(&self, store: &Store) -> Result<i64, StateError> {
        match &self.kind {
            Kind::Open { sink, opened } => {
                let Opened { file, slices } = opened.clone();
                let opened = store.open_file(sink, None, file, slices);
                Ok(opened.await?.revision)
            }
            Kind::Rotate {
                file,
                slice,
                successor,
            } => {
                let closing = self.closing(Some(successor.id));
                let rotated = store.rotate_slice(file, slice, closing, successor.clone());
                Ok(rotated.await?.closed.revision)
            }
            Kind::Close { file, slices, next } => self.close(store, file, slices, next).await,
            Kind::Seal { slice } => {
                let incarnation = incarnation(store, slice.value.volume).await?;
                let seal = self.seal(&slice.value, incarnation);
                let sealed = store.seal_slice(slice, seal, incarnation);
                Ok(sealed.await?.revision)
            }
            Kind::Upload { slice } => {
                let incarnation = incarnation(store, slice.value.volume).await?;
                let uploaded = store.upload_slice(slice, self.object(), self.at, incarnation);
                Ok(uploaded.await?.revision)
            }
            Kind::Begin { file, slices } => {
                let begun = store.begin_import(file, &owned(slices), self.at).await;
                Ok(begun?.revision)
            }
            Kind::Complete { file } => Ok(store.complete_import(file, self.at, 1).await?.revision),
            Kind::Remove { file, slices } => store.remove_file(file, &owned(slices)).await,
        }
    }

    async fn close(
        &self,
        store: &Store,
        file: &Versioned<File>,
        slices: &[SliceNow],
        next: &Opened,
    ) -> Result<i64, StateError> {
        let successor = |slice: &Slice| {
            let same = |next: &&Slice| next.volume == slice.volume;
            next.slices.iter().find(same).map(|next| next.id)
        };
        let closings = slices.iter().map(|slice| {
            let closing = self.closing(successor(&slice.value));
            (slice.as_ref().clone(), closing)
        });
        let Opened {
            file: opened,
            slices,
        } = next.clone();
        let next = Some((opened, slices));
        let closed = store.close_file(file, self.at, Reason::Interval, closings.collect(), next);
        Ok(closed.await?.file.revision)
    }

    fn closing(&self, successor: Option<SliceId>) -> Closing {
        Closing {
            at: self.at,
            ..support::closing(successor)
        }
    }

    fn seal(&self, slice: &Slice, incarnation: u64) -> Seal {
        let rows = rows_of(slice.id);
        Seal {
            at: self.at,
            figures: Figures {
                rows,
                bytes: rows * 3,
                ..Figures::default()
            },
            ..support::seal(rows, incarnation)
        }
    }

    fn object(&self) -> String {
        format!("object-{}", self.at)
    }

    /// Looks whether it was done.
    pub(super) async fn evidence(&self, store: &Store) -> Result<Evidence, StateError> {
        let found = match self.shown_by() {
            Id::File(id) => {
                let file = store.file(&self.sink, id).await?;
                file.map(|file| self.is_done_to_file(&file.value))
            }
            Id::Slice(id) => {
                let slice = store.slice(&self.sink, id).await?;
                slice.map(|slice| self.is_done_to_slice(&slice.value))
            }
        };
        Ok(match found {
            Some(true) => Evidence::Done,
            Some(false) => Evidence::NotDone,
            None => Evidence::Gone,
        })
    }

    /// What shows whether it was done.
    fn shown_by(&self) -> Id {
        match &self.kind {
            Kind::Open { opened, .. } => Id::File(opened.file.id),
            Kind::Rotate { slice, .. } | Kind::Seal { slice } | Kind::Upload { slice } => {
                Id::Slice(slice.value.id)
            }
            Kind::Close { file, .. }
            | Kind::Begin { file, .. }
            | Kind::Complete { file }
            | Kind::Remove { file, .. } => Id::File(file.value.id),
        }
    }

    fn is_done_to_file(&self, file: &File) -> bool {
        match (&self.kind, &file.state) {
            // Nobody else uses the identifier.
            (Kind::Open { .. }, _) => true,
            (Kind::Close { .. }, file::State::Closing { at, .. })
            | (Kind::Begin { .. }, file::State::Importing { at, .. })
            | (Kind::Complete { .. }, file::State::Imported { at, .. }) => *at == self.at,
            (
                Kind::Close { .. },
                file::State::Importing { closing_at, .. }
                | file::State::Imported { closing_at, .. },
            ) => *closing_at == self.at,
            (Kind::Begin { .. }, file::State::Imported { importing_at, .. }) => {
                *importing_at == self.at
            }
            _ => false,
        }
    }

    fn is_done_to_slice(&self, slice: &Slice) -> bool {
        match &self.kind {
            Kind::Rotate { .. } => slice.closing().is_some_and(|closing| closing.at == self.at),
            Kind::Seal { .. } => slice.seal().is_some_and(|seal| seal.at == self.at),
            Kind::Upload { .. } => slice.object() == Some(&self.object()),
            _ => false,
        }
    }

    pub(super) const fn is_removal(&self) -> bool {
        matches!(self.kind, Kind::Remove { .. })
    }

    /// Everything that it does.
    pub(super) fn steps(&self) -> Vec<(Id, Step)> {
        let slice = |slice: &SliceNow, step| (Id::Slice(slice.value.id), step);
        let file = |file: &FileNow, step| (Id::File(file.value.id), step);
        let created = |opened: &Opened| {
            let slices = opened
                .slices
                .iter()
                .map(|slice| (Id::Slice(slice.id), Step::Created));
            let mut steps: Vec<_> = slices.collect();
            steps.push((Id::File(opened.file.id), Step::Created));
            steps
        };
        match &self.kind {
            Kind::Open { opened, .. } => created(opened),
            Kind::Rotate {
                slice: old,
                successor,
                ..
            } => vec![
                slice(old, Step::Closed),
                (Id::Slice(successor.id), Step::Created),
            ],
            Kind::Close {
                file: old,
                slices,
                next,
            } => {
                let mut steps = created(next);
                steps.push(file(old, Step::Closed));
                steps.extend(slices.iter().map(|closed| slice(closed, Step::Closed)));
                steps
            }
            // Without rows there is nothing to upload.
            Kind::Seal { slice: sealed } if rows_of(sealed.value.id) == 0 => {
                vec![slice(sealed, Step::Sealed), slice(sealed, Step::Uploaded)]
            }
            Kind::Seal { slice: sealed } => vec![slice(sealed, Step::Sealed)],
            Kind::Upload { slice: uploaded } => vec![slice(uploaded, Step::Uploaded)],
            Kind::Begin { file: begun, .. } => vec![file(begun, Step::Importing)],
            Kind::Complete { file: done } => vec![file(done, Step::Imported)],
            Kind::Remove { file: gone, slices } => {
                let mut steps = vec![file(gone, Step::Removed)];
                steps.extend(slices.iter().map(|gone| slice(gone, Step::Removed)));
                steps
            }
        }
    }
}

fn owned<T: Clone>(versioned: &[Arc<Versioned<T>>]) -> Vec<Versioned<T>> {
    versioned
        .iter()
        .map(|entry| entry.as_ref().clone())
        .collect()
}

async fn incarnation(store: &Store, volume: VolumeId) -> Result<u64, StateError> {
    let incarnation = store.incarnation(volume).await?;
    Ok(incarnation.map_or(0, |incarnation| incarnation.number))
}
