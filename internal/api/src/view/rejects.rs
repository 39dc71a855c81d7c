//! The rejected records of a sink, slice by slice, so that a person finds the objects that hold them.

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::level::Compression;
use stream_model::slice::{Slice, State};
use stream_model::statistics::{Crossed, Figures};
use stream_model::{BranchId, ProjectId, SinkKey, Timestamp, VolumeId};
use stream_state::SinkNode;

use super::page::Page;
use super::shape;
use super::statistics::FiguresView;

/// A slice of rejected records. Its figures are exact when it is sealed; before, they are those of its last report, if there
/// is one.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RejectsView {
    /// As it is in the answer of the source and in the name of the object.
    pub(crate) slice_id: String,
    #[schemars(extend("enum" = ["writing", "closing", "uploading", "uploaded"]))]
    state: &'static str,
    #[schemars(with = "String")]
    volume_id: VolumeId,
    #[schemars(with = "shape::Compression")]
    compression: Compression,
    #[schemars(with = "shape::Timestamp")]
    opened_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    closed_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    uploaded_at: Option<Timestamp>,
    /// The name below the URL of staging.
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    statistics: FiguresView,
}

impl RejectsView {
    fn new(slice: &Slice, crossed: Option<&Crossed>) -> Self {
        let sealed = slice.seal().map(|seal| seal.figures);
        let figures = sealed.or_else(|| crossed.map(|crossed| crossed.figures));
        let uploaded_at = match &slice.state {
            State::Uploaded { at, .. } => Some(*at),
            State::Writing | State::Closing(_) | State::Uploading { .. } => None,
        };
        Self {
            slice_id: slice.id.to_string(),
            state: slice.state.name(),
            volume_id: slice.volume,
            compression: slice.compression,
            opened_at: slice.opened_at,
            closed_at: slice.closing().map(|closing| closing.at),
            uploaded_at,
            object: slice.object().map(str::to_owned),
            statistics: FiguresView::from(figures.unwrap_or_default()),
        }
    }

    /// The slices of a sink, oldest first. One that was sealed without records is of no use to anybody.
    pub(crate) fn of_sink(sink: &SinkNode) -> Vec<Self> {
        let is_empty = |slice: &Slice| slice.seal().is_some_and(|seal| seal.figures.rows == 0);
        let slices = sink.rejects().filter(|slice| !is_empty(&slice.value));
        let crossed = |id| sink.rejects_crossed.get(&id).map(|crossed| &crossed.value);
        slices
            .map(|slice| Self::new(&slice.value, crossed(slice.value.id)))
            .collect()
    }
}

/// How many rejected records of a sink are known, with those that are not kept any more.
pub(crate) fn figures(sink: &SinkNode) -> Figures {
    let mut sum = sink.rejects_removed.unwrap_or_default();
    for slice in sink.rejects() {
        let crossed = sink.rejects_crossed.get(&slice.value.id);
        let sealed = slice.value.seal().map(|seal| &seal.figures);
        if let Some(figures) = sealed.or_else(|| crossed.map(|crossed| &crossed.value.figures)) {
            sum.add(figures);
        }
    }
    sum
}

/// A page of slices of rejected records.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RejectsPage<'a> {
    #[schemars(with = "u64")]
    project_id: ProjectId,
    #[schemars(with = "u64")]
    branch_id: BranchId,
    source_id: &'a str,
    sink_id: &'a str,
    page: Page,
    rejected: Vec<RejectsView>,
}

impl<'a> RejectsPage<'a> {
    pub(crate) fn new(sink: &'a SinkKey, page: Page, rejected: Vec<RejectsView>) -> Self {
        Self {
            project_id: sink.source.branch.project,
            branch_id: sink.source.branch.branch,
            source_id: sink.source.source.as_str(),
            sink_id: sink.sink.as_str(),
            page,
            rejected,
        }
    }
}
