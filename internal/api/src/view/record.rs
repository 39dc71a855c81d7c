//! Where a record is, as shown.

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::definition::{Table, TableKind};
use stream_model::file::{self, File};
use stream_model::purge::{Purged, Rows};
use stream_model::slice::{Kind, Slice, State};
use stream_model::{FileId, RequestId, SessionId, SinkKey, SliceId, Timestamp, VolumeId};

use super::shape;

/// The position of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) slice: SliceId,
    pub(crate) seq: u64,
}

/// What is known of the slice of a record.
pub(crate) enum Origin<'a> {
    /// It is in the state, with its file unless it holds rejected records.
    State(&'a Slice, Option<&'a File>),
    /// Its sink was purged.
    Note(&'a Purged),
}

/// Where a record is, or where the records of a request can be.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(crate) enum LocatedView {
    Record(Box<RecordView>),
    Request(RequestView),
}

/// Where a record is.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct RecordView {
    seq: u64,
    #[serde(flatten)]
    place: PlaceView,
    #[serde(skip)]
    beyond: bool,
}

/// Where the records of a request are, if they were accepted.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestView {
    request_id: String,
    #[schemars(with = "shape::Timestamp")]
    arrived_at: Timestamp,
    /// Every slice that can have them: those with rows first, then those with rejected records.
    places: Vec<PlaceView>,
    /// Kinds of which a slice that could have had them is forgotten: rows are in the table since.
    #[schemars(extend("items" = {"enum": ["row", "rejected"]}))]
    forgotten: Vec<&'static str>,
}

/// A slice that has a record, or can have it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PlaceView {
    source_id: String,
    sink_id: String,
    #[schemars(with = "String")]
    slice_id: SliceId,
    #[schemars(extend("enum" = ["row", "rejected"]))]
    kind: &'static str,
    #[schemars(extend("enum" = ["local", "staging", "target", "purged", "discarded", "lost"]))]
    stage: &'static str,
    /// Whether the slice certainly has it. Of a position that is known once the slice is sealed, when the request id says the
    /// session; of a request, when no other slice of this kind can have what was accepted of it.
    certain: bool,
    slice: SliceView,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<FileView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<TableView>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordSlice")]
struct SliceView {
    #[schemars(extend("enum" = ["writing", "closing", "uploading", "uploaded"]))]
    state: &'static str,
    #[schemars(with = "String")]
    volume_id: VolumeId,
    #[schemars(with = "shape::Timestamp")]
    opened_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    closed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    sealed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    uploaded_at: Option<Timestamp>,
    /// The name below the URL of staging.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordFile")]
struct FileView {
    #[schemars(with = "String")]
    file_id: FileId,
    #[schemars(extend("enum" = ["writing", "closing", "importing", "imported"]))]
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    imported_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordTable")]
struct TableView {
    #[serde(rename = "type")]
    #[schemars(with = "shape::TableKind")]
    kind: TableKind,
    table_id: String,
}

impl Origin<'_> {
    /// The slice.
    pub(crate) const fn slice(&self) -> &Slice {
        match self {
            Self::State(slice, _) => slice,
            Self::Note(note) => &note.slice,
        }
    }
}

impl RecordView {
    pub(crate) fn new(place: Place, session: Option<SessionId>, origin: &Origin<'_>) -> Self {
        let known = Known::of(origin.slice(), place.seq, session);
        Self {
            seq: place.seq,
            place: PlaceView::new(origin, known == Known::Written),
            beyond: known == Known::Unwritten,
        }
    }

    /// Whether the slice certainly does not have the record.
    pub(crate) const fn is_beyond(&self) -> bool {
        self.beyond
    }
}

impl RequestView {
    pub(crate) fn new(id: RequestId, places: Vec<PlaceView>, forgotten: &[Kind]) -> Self {
        Self {
            request_id: id.to_string(),
            arrived_at: id.arrived_at(),
            places,
            forgotten: forgotten.iter().copied().map(kind_name).collect(),
        }
    }
}

impl PlaceView {
    pub(crate) fn new(origin: &Origin<'_>, certain: bool) -> Self {
        let slice = origin.slice();
        let file = match origin {
            Origin::State(_, file) => *file,
            Origin::Note(_) => None,
        };
        let SinkKey { source, sink } = &slice.sink;
        Self {
            source_id: source.source.to_string(),
            sink_id: sink.to_string(),
            slice_id: slice.id,
            kind: kind_name(slice.kind),
            stage: stage(origin),
            certain,
            slice: SliceView::from(slice),
            file: file.map(FileView::from),
            table: file.map(|file| TableView::from(&file.table)),
        }
    }
}

/// What the seal of a slice says about a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Written,
    Unwritten,
    /// The slice is not sealed, or nobody said whose number it is.
    Unsure,
}

impl Known {
    fn of(slice: &Slice, seq: u64, session: Option<SessionId>) -> Self {
        let Some(sessions) = slice.seal().map(|seal| &seal.sessions) else {
            return Self::Unsure;
        };
        let is_in = |last: &u64| seq <= *last;
        match session {
            Some(session) if sessions.get(&session).is_some_and(is_in) => Self::Written,
            Some(_) => Self::Unwritten,
            None if !sessions.values().any(is_in) => Self::Unwritten,
            None if sessions.values().all(is_in) => Self::Written,
            None => Self::Unsure,
        }
    }
}

const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Rows => "row",
        Kind::Rejects => "rejected",
    }
}

/// Where the rows of a slice are.
fn stage(origin: &Origin<'_>) -> &'static str {
    match origin {
        Origin::Note(note) => match note.rows {
            Rows::Imported => "purged",
            Rows::Discarded => "discarded",
        },
        Origin::State(slice, _) if slice.forgotten.is_some() => "lost",
        Origin::State(_, Some(file)) if matches!(file.state, file::State::Imported { .. }) => {
            "target"
        }
        Origin::State(slice, _) if slice.is_uploaded() => "staging",
        Origin::State(..) => "local",
    }
}

impl From<&Slice> for SliceView {
    fn from(slice: &Slice) -> Self {
        let uploaded_at = match &slice.state {
            State::Uploaded { at, .. } => Some(*at),
            State::Writing | State::Closing(_) | State::Uploading { .. } => None,
        };
        Self {
            state: slice.state.name(),
            volume_id: slice.volume,
            opened_at: slice.opened_at,
            closed_at: slice.closing().map(|closing| closing.at),
            sealed_at: slice.seal().map(|seal| seal.at),
            uploaded_at,
            object: slice.object().map(str::to_owned),
        }
    }
}

impl From<&File> for FileView {
    fn from(file: &File) -> Self {
        let imported_at = match file.state {
            file::State::Imported { at, .. } => Some(at),
            file::State::Writing | file::State::Closing { .. } | file::State::Importing { .. } => {
                None
            }
        };
        Self {
            file_id: file.id,
            state: file.state.name(),
            imported_at,
        }
    }
}

impl From<&Table> for TableView {
    fn from(table: &Table) -> Self {
        Self {
            kind: table.kind,
            table_id: table.table_id.clone(),
        }
    }
}
