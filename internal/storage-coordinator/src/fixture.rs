//! Definitions, files and slices for tests, and a running pipeline of real parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use stream_model::definition::{Sink, Source};
use stream_model::file::{self, File};
use stream_model::idempotency::Assigned;
use stream_model::level::Defaults;
use stream_model::opening;
use stream_model::placement::Candidate;
use stream_model::rejects;
use stream_model::slice::{self, Closing, Kind, Seal, Slice};
use stream_model::statistics::{Crossed, Figures};
use stream_model::trigger::Reason;
use stream_model::{FileId, SinkKey, SliceId, Timestamp, VolumeId};
use stream_state::{SinkNode, SourceNode, Versioned};

use crate::context::Surroundings;
use crate::picture::Picture;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + seconds * 1_000)
}

pub(crate) fn volume(number: u8) -> VolumeId {
    VolumeId::from_bytes([number; 16])
}

pub(crate) fn slice_id(number: u8) -> SliceId {
    SliceId::from_bytes([number; 16])
}

pub(crate) fn file_id(number: u8) -> FileId {
    FileId::from_bytes([number; 16])
}

pub(crate) fn sink_key(sink: &str) -> SinkKey {
    SinkKey {
        source: source().key,
        sink: sink.parse().expect("valid sink id"),
    }
}

fn stamp() -> serde_json::Value {
    json!({"at": at(0).to_string(), "by": {"type": "system"}})
}

fn version() -> serde_json::Value {
    json!({"number": 1, "hash": "00", "description": "", "at": at(0).to_string(), "by": {"type": "system"}})
}

pub(crate) fn source() -> Source {
    serde_json::from_value(json!({
        "key": {"project": 1, "branch": 1, "source": "orders"},
        "kind": {"type": "http", "secret": "x"},
        "name": "Orders", "description": "", "version": version(), "created": stamp(),
    }))
    .expect("valid source")
}

/// A sink without a primary key, unless the id says otherwise.
pub(crate) fn sink(id: &str) -> Sink {
    let columns = json!([
        {"type": "path", "path": "id", "name": "id", "primaryKey": id.ends_with("-keyed")},
        {"type": "body", "name": "body"},
    ]);
    serde_json::from_value(json!({
        "key": {"project": 1, "branch": 1, "source": "orders", "sink": id},
        "name": id, "description": "", "version": version(), "created": stamp(),
        "table": {"type": "sqlite", "tableId": id, "mapping": {"columns": columns}},
    }))
    .expect("valid sink")
}

pub(crate) fn off() -> stream_model::definition::sink::Switch {
    serde_json::from_value(
        json!({"at": at(0).to_string(), "by": {"type": "system"}, "directly": true}),
    )
    .expect("valid switch")
}

pub(crate) fn versioned<T>(value: T) -> Arc<Versioned<T>> {
    Arc::new(Versioned::new(value, 1))
}

pub(crate) fn figures(rows: u64, first_at: Timestamp) -> Figures {
    Figures {
        rows,
        raw_bytes: rows * 10,
        bytes: rows * 3,
        first_at: Some(first_at),
        last_at: Some(first_at),
    }
}

pub(crate) fn live(volumes: &[u8]) -> Surroundings {
    let candidate = |number: &u8| Candidate {
        volume: volume(*number),
        kind: "default".to_owned(),
    };
    let node = "a".parse().expect("valid node");
    Surroundings::new(&node, Vec::new(), volumes.iter().map(candidate).collect())
}

/// One source with one sink, put together step by step.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) source: Source,
    pub(crate) sink: Sink,
    pub(crate) assignment: Option<Vec<VolumeId>>,
    pub(crate) files: BTreeMap<FileId, File>,
    pub(crate) slices: BTreeMap<SliceId, Slice>,
    pub(crate) crossed: BTreeMap<SliceId, Crossed>,
    pub(crate) rejects_crossed: BTreeMap<SliceId, Crossed>,
    pub(crate) current: Option<FileId>,
    next_id: u8,
}

/// What the reconcilers are shown.
pub(crate) struct Shown {
    source: SourceNode,
    sink: SinkNode,
}

impl Shown {
    pub(crate) fn picture(&self) -> Picture<'_> {
        Picture::new(&self.source, &self.sink)
    }
}

impl Scene {
    pub(crate) fn new(sink_id: &str) -> Self {
        Self {
            source: source(),
            sink: sink(sink_id),
            assignment: None,
            files: BTreeMap::new(),
            slices: BTreeMap::new(),
            crossed: BTreeMap::new(),
            rejects_crossed: BTreeMap::new(),
            current: None,
            next_id: 1,
        }
    }

    /// Opens the next file with a slice on each volume. The ids count up from 1: file 1, then slices 1, 2 …
    pub(crate) fn open_file(&mut self, number: u8, volumes: &[u8], now: Timestamp) -> FileId {
        let volumes: Vec<_> = volumes.iter().map(|number| volume(*number)).collect();
        let defaults = Defaults::default();
        let opening = opening::plan(
            &self.source,
            &self.sink,
            &defaults,
            &volumes,
            now,
            &mut || [0; 10],
        );
        let file = File {
            id: file_id(number),
            ..opening.file
        };
        for slice in opening.slices {
            let slice = Slice {
                id: slice_id(self.next_id),
                file: file.id,
                ..slice
            };
            self.next_id += 1;
            self.slices.insert(slice.id, slice);
        }
        self.assignment.get_or_insert(volumes);
        self.current = Some(file.id);
        self.files.insert(file.id, file);
        file_id(number)
    }

    /// Opens a slice of rejected records on each volume, beside the writing file. The ids count on.
    pub(crate) fn open_rejects(&mut self, volumes: &[u8], now: Timestamp) {
        let file = self.files[&self.current.expect("a file is writing")].clone();
        let mut rows = self.slices.values();
        let rows = rows.find(|slice| slice.file == file.id).cloned();
        let volumes: Vec<_> = volumes.iter().map(|number| volume(*number)).collect();
        let trigger = rejects::default_trigger();
        let rows = rows.expect("the file has slices");
        for slice in rejects::plan(&file, &rows, &volumes, trigger, now) {
            let id = slice_id(self.next_id);
            self.next_id += 1;
            self.slices.insert(id, Slice { id, ..slice });
        }
    }

    pub(crate) fn cross(&mut self, slice: u8, reason: Reason, figures: Figures) {
        let slice = &self.slices[&slice_id(slice)];
        let crossed = Crossed {
            sink: slice.sink.clone(),
            slice: slice.id,
            volume: slice.volume,
            reason,
            figures,
            later_hours: stream_model::hours::LaterHours::default(),
            at: figures.first_at.expect("crossed slices have rows"),
        };
        match slice.kind {
            Kind::Rows => self.crossed.insert(slice.id, crossed),
            Kind::Rejects => self.rejects_crossed.insert(slice.id, crossed),
        };
    }

    /// Closes, seals and, with rows, uploads a slice up to the given state.
    pub(crate) fn advance(&mut self, slice: u8, to: Stage, figures: Figures, now: Timestamp) {
        let id = slice_id(slice);
        let mut slice = self.slices.remove(&id).expect("the slice exists");
        self.crossed.remove(&id);
        self.rejects_crossed.remove(&id);
        let closing = Closing {
            at: now,
            reason: Reason::Interval,
            successor: None,
        };
        let seal = Seal {
            at: now,
            incarnation: 1,
            figures,
            later_hours: stream_model::hours::LaterHours::default(),
            checksum: "00".repeat(32),
            sessions: BTreeMap::new(),
        };
        let upload = slice::Event::Upload {
            object: format!("object-{id}"),
            at: now,
        };
        let events = [
            slice::Event::Close(closing),
            slice::Event::Seal(seal),
            upload,
        ];
        let count = match to {
            Stage::Closing => 1,
            Stage::Uploading => 2,
            Stage::Uploaded if figures.rows == 0 => 2,
            Stage::Uploaded => 3,
        };
        for event in events.into_iter().take(count) {
            slice = slice.apply(event).expect("legal");
        }
        self.slices.insert(id, slice);
    }

    pub(crate) fn apply(&mut self, file: u8, event: file::Event) {
        let file = self.files.remove(&file_id(file)).expect("the file exists");
        if matches!(event, file::Event::Close { .. }) {
            self.current = None;
        }
        let file = file.apply(event).expect("legal");
        self.files.insert(file.id, file);
    }

    pub(crate) fn close(&mut self, file: u8, now: Timestamp) {
        self.apply(
            file,
            file::Event::Close {
                at: now,
                reason: Reason::Interval,
            },
        );
    }

    pub(crate) fn show(&self) -> Shown {
        fn all<K: Ord + Copy, V: Clone>(map: &BTreeMap<K, V>) -> BTreeMap<K, Arc<Versioned<V>>> {
            map.iter()
                .map(|(key, value)| (*key, versioned(value.clone())))
                .collect()
        }
        let source = SourceNode {
            source: Some(versioned(self.source.clone())),
            assignment: self
                .assignment
                .clone()
                .map(|volumes| Arc::new(Assigned::to(volumes))),
            ..SourceNode::default()
        };
        let sink = SinkNode {
            sink: Some(versioned(self.sink.clone())),
            current: self.current,
            files: all(&self.files),
            slices: all(&self.slices),
            crossed: all(&self.crossed),
            rejects_crossed: all(&self.rejects_crossed),
            ..SinkNode::default()
        };
        Shown { source, sink }
    }
}

/// How far a slice got.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stage {
    Closing,
    Uploading,
    Uploaded,
}
