//! A sink as shown.

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::definition::{Sink, Stamp, Table, Version};
use stream_model::{BranchId, ProjectId, SourceKey};

use super::page::Page;
use super::{SwitchView, shape};

/// A sink.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SinkView<'a> {
    #[schemars(with = "u64")]
    project_id: ProjectId,
    #[schemars(with = "u64")]
    branch_id: BranchId,
    source_id: &'a str,
    sink_id: &'a str,
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["table"]))]
    kind: &'static str,
    name: &'a str,
    description: &'a str,
    #[schemars(with = "shape::Table")]
    table: &'a Table,
    #[schemars(with = "shape::Version")]
    version: &'a Version,
    #[schemars(with = "shape::Stamp")]
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
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SinksView<'a> {
    #[schemars(with = "u64")]
    project_id: ProjectId,
    #[schemars(with = "u64")]
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
