//! A sink as shown.

use serde::Serialize;
use stream_model::definition::{Sink, Stamp, Table, Version};
use stream_model::{BranchId, ProjectId, SourceKey};

use super::SwitchView;
use super::page::Page;

/// A sink as shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SinkView<'a> {
    project_id: ProjectId,
    branch_id: BranchId,
    source_id: &'a str,
    sink_id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    name: &'a str,
    description: &'a str,
    table: &'a Table,
    version: &'a Version,
    created: &'a Stamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled: Option<SwitchView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<SwitchView<'a>>,
}

impl<'a> From<&'a Sink> for SinkView<'a> {
    fn from(sink: &'a Sink) -> Self {
        let source = &sink.key.source;
        Self {
            project_id: source.branch.project,
            branch_id: source.branch.branch,
            source_id: source.source.as_str(),
            sink_id: sink.key.sink.as_str(),
            kind: "table",
            name: &sink.name,
            description: &sink.description,
            table: &sink.table,
            version: &sink.version,
            created: &sink.created,
            disabled: sink.disabled.as_ref().map(SwitchView::from),
            deleted: sink.deleted.as_ref().map(SwitchView::from),
        }
    }
}

/// A page of sinks.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SinksView<'a> {
    project_id: ProjectId,
    branch_id: BranchId,
    source_id: &'a str,
    page: Page,
    sinks: Vec<SinkView<'a>>,
}

impl<'a> SinksView<'a> {
    pub(crate) fn new(source: &'a SourceKey, page: Page, sinks: Vec<SinkView<'a>>) -> Self {
        Self {
            project_id: source.branch.project,
            branch_id: source.branch.branch,
            source_id: source.source.as_str(),
            page,
            sinks,
        }
    }
}
