//! The rows of a dry run as shown.

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::{BranchId, ProjectId, SourceKey};

/// What a source would make of a request.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DryRunView<'a> {
    #[schemars(with = "u64")]
    project_id: ProjectId,
    #[schemars(with = "u64")]
    branch_id: BranchId,
    source_id: &'a str,
    tables: Vec<TableView>,
}

impl<'a> DryRunView<'a> {
    pub(crate) fn new(source: &'a SourceKey, tables: Vec<TableView>) -> Self {
        Self {
            project_id: source.branch.project,
            branch_id: source.branch.branch,
            source_id: source.source.as_str(),
            tables,
        }
    }
}

/// The rows of one sink.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "DryRunTable")]
pub(crate) struct TableView {
    pub(crate) sink_id: String,
    pub(crate) table_id: String,
    pub(crate) rows: Vec<RowView>,
}

/// A row, in the order of its columns.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DryRunRow")]
pub(crate) struct RowView {
    pub(crate) columns: Vec<ColumnView>,
}

/// A value. Targets with data types convert it; an empty one is NULL there.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DryRunColumn")]
pub(crate) struct ColumnView {
    pub(crate) name: String,
    pub(crate) value: String,
}
