//! A source as shown.

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::definition::source::SourceKind;
use stream_model::definition::{Source, Stamp, Version};
use stream_model::{BranchId, BranchKey, ProjectId};

use super::page::Page;
use super::{SwitchView, shape};
use crate::context::Urls;

/// A source.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SourceView<'a> {
    #[schemars(with = "u64")]
    project_id: ProjectId,
    #[schemars(with = "u64")]
    branch_id: BranchId,
    source_id: &'a str,
    #[serde(rename = "type")]
    #[schemars(extend("enum" = ["http"]))]
    kind: &'static str,
    name: &'a str,
    description: &'a str,
    http: HttpView,
    #[schemars(with = "shape::Version")]
    version: &'a Version,
    #[schemars(with = "shape::Stamp")]
    created: &'a Stamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled: Option<SwitchView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted: Option<SwitchView<'a>>,
}

/// Where an HTTP source takes records.
#[derive(Debug, Serialize, JsonSchema)]
struct HttpView {
    /// Ends in the secret: who may see the source may write to it.
    url: String,
}

impl<'a> SourceView<'a> {
    pub(crate) fn new(source: &'a Source, urls: &Urls) -> Self {
        let key = &source.key;
        let SourceKind::Http { secret } = &source.kind;
        let (base, project) = (&urls.source, key.branch.project);
        Self {
            project_id: project,
            branch_id: key.branch.branch,
            source_id: key.source.as_str(),
            kind: "http",
            name: &source.name,
            description: &source.description,
            http: HttpView {
                url: format!("{base}/stream/{project}/{}/{}", key.source, secret.expose()),
            },
            version: &source.version,
            created: &source.created,
            disabled: source.disabled.as_ref().map(SwitchView::from),
            deleted: source.deleted.as_ref().map(SwitchView::from),
        }
    }
}

/// A page of sources.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SourcesView<'a> {
    #[schemars(with = "u64")]
    project_id: ProjectId,
    #[schemars(with = "u64")]
    branch_id: BranchId,
    page: Page,
    sources: Vec<SourceView<'a>>,
}

impl<'a> SourcesView<'a> {
    pub(crate) fn new(branch: &BranchKey, page: Page, sources: Vec<SourceView<'a>>) -> Self {
        Self {
            project_id: branch.project,
            branch_id: branch.branch,
            page,
            sources,
        }
    }
}
