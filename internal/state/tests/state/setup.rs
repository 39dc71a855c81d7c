//! How a test begins: what is stored before it, and the steps on the way to what it is about.

use stream_model::definition::Sink;
use stream_model::file::File;
use stream_model::slice::Slice;
use stream_model::statistics::{Crossed, Figures};
use stream_model::trigger::Reason;
use stream_model::{FileId, SinkKey, SliceId};
use stream_state::{ClosedFile, Opening, Registration, Rotation, Store, Versioned};

use crate::support::*;

/// One volume, one source, one sink with an open file of one slice.
pub(crate) struct Open {
    pub(crate) sink: Versioned<Sink>,
    pub(crate) file: Versioned<File>,
    pub(crate) slice: Versioned<Slice>,
    pub(crate) incarnation: u64,
}

/// Creates source `orders` with sink `raw`, file 1 and slice 1 on volume 1.
pub(crate) async fn open(store: &Store) -> Open {
    let incarnation = store
        .raise_incarnation(volume(1), &node("n"))
        .await
        .expect("raised");
    store
        .create_source(source("orders"))
        .await
        .expect("created");
    let key = sink_key("orders", "raw");
    let sink = store
        .create_sink(sink("orders", "raw"), Some(opening(&key)))
        .await
        .expect("created");
    Open {
        file: read_file(store, &key, file_id(1)).await,
        slice: read_slice(store, &key, slice_id(1)).await,
        sink,
        incarnation,
    }
}

/// Creates source `orders` with sinks of these names, without files.
pub(crate) async fn unopened<const N: usize>(
    store: &Store,
    names: [&str; N],
) -> [Versioned<Sink>; N] {
    store
        .create_source(source("orders"))
        .await
        .expect("created");
    let mut sinks = Vec::new();
    for name in names {
        let created = store.create_sink(sink("orders", name), None).await;
        sinks.push(created.expect("created"));
    }
    sinks.try_into().expect("one for each name")
}

/// File 1 of the first sink of a source, which so gets volume 1.
pub(crate) fn opening(sink: &SinkKey) -> Opening {
    let (file, slices) = unstored(sink, 1);
    Opening {
        assignment: Some(vec![volume(1)]),
        file,
        slices,
    }
}

/// File `n` of a sink with slice `n` on volume 1, to be stored.
pub(crate) fn unstored(sink: &SinkKey, n: u8) -> (File, Vec<Slice>) {
    let file = file(sink, file_id(n), &[volume(1)]);
    let slices = vec![slice(&file, slice_id(n), volume(1))];
    (file, slices)
}

/// Lets slice 2 take the rows of the open slice.
pub(crate) async fn rotated(store: &Store, open: &Open) -> Rotation {
    let successor = slice(&open.file.value, slice_id(2), volume(1));
    let how = closing(Some(successor.id));
    let rotated = store
        .rotate_slice(&open.file, &open.slice, how, successor)
        .await;
    rotated.expect("rotated")
}

/// Lets file `n` with slice `n` take the rows of the open file.
pub(crate) async fn followed(store: &Store, open: &Open, n: u8) -> ClosedFile {
    let next = unstored(&open.sink.value.key, n);
    let closings = vec![(open.slice.clone(), closing(Some(slice_id(n))))];
    let closed = store
        .close_file(&open.file, at(5), Reason::Interval, closings, Some(next))
        .await;
    closed.expect("closed")
}

pub(crate) async fn read_file(store: &Store, sink: &SinkKey, id: FileId) -> Versioned<File> {
    let file = store.file(sink, id).await.expect("read");
    file.expect("the file exists")
}

pub(crate) async fn read_slice(store: &Store, sink: &SinkKey, id: SliceId) -> Versioned<Slice> {
    let slice = store.slice(sink, id).await.expect("read");
    slice.expect("the slice exists")
}

/// The slice has as many rows as its trigger wants.
pub(crate) fn crossed(slice: &Slice) -> Crossed {
    Crossed {
        sink: slice.sink.clone(),
        slice: slice.id,
        volume: slice.volume,
        reason: Reason::Count,
        figures: Figures::default(),
        later_hours: stream_model::hours::LaterHours::default(),
        at: at(3),
    }
}

/// A volume that a node holds.
pub(crate) fn registration(of: &str, incarnation: u64) -> Registration {
    Registration {
        node: node(of),
        kind: "default".to_owned(),
        label: "local".to_owned(),
        incarnation,
    }
}
