//! Sources with their sinks, and what is where of each: one answer for a page of a user interface.

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::definition::{Sink, Source};
use stream_model::{BranchId, BranchKey, ProjectId};
use stream_state::SourceNode;

use super::file::FilesView;
use super::page::Page;
use super::sink::SinkView;
use super::source::SourceView;
use super::statistics::{ByLevel, StatisticsView};
use crate::context::Urls;

/// `GET B/aggregation/sources`
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AggregationView<'a> {
    #[schemars(with = "u64")]
    project_id: ProjectId,
    #[schemars(with = "u64")]
    branch_id: BranchId,
    page: Page,
    sources: Vec<AggregatedSource<'a>>,
}

/// A source with its sinks.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct AggregatedSource<'a> {
    #[serde(flatten)]
    source: SourceView<'a>,
    sinks: Vec<AggregatedSink<'a>>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct AggregatedSink<'a> {
    #[serde(flatten)]
    sink: SinkView<'a>,
    statistics: SinkStatistics,
}

/// The figures of a sink and of its files.
#[derive(Debug, Serialize, JsonSchema)]
struct SinkStatistics {
    #[serde(flatten)]
    sums: StatisticsView,
    #[serde(flatten)]
    files: FilesView,
}

impl<'a> AggregationView<'a> {
    pub(crate) fn new(branch: &BranchKey, page: Page, sources: Vec<AggregatedSource<'a>>) -> Self {
        Self {
            project_id: branch.project,
            branch_id: branch.branch,
            page,
            sources,
        }
    }
}

impl<'a> AggregatedSource<'a> {
    /// `node` is what the mirror has of the source; none for one that was created a moment ago.
    pub(crate) fn new(
        source: &'a Source,
        sinks: &'a [Sink],
        node: Option<&SourceNode>,
        urls: &Urls,
    ) -> Self {
        let sinks = sinks.iter().map(|sink| {
            let empty = stream_state::SinkNode::default();
            let node = node.and_then(|node| node.sinks.get(&sink.key.sink));
            let node = node.unwrap_or(&empty);
            AggregatedSink {
                sink: SinkView::from(sink),
                statistics: SinkStatistics {
                    sums: ByLevel::of_sink(node).into(),
                    files: FilesView::new(node, false),
                },
            }
        });
        Self {
            source: SourceView::new(source, urls),
            sinks: sinks.collect(),
        }
    }
}
