//! The files of a sink as shown: what was imported, what waits, and why.

use std::cmp::Reverse;

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::Timestamp;
use stream_model::file::{File, State};
use stream_state::SinkNode;

use super::shape;
use super::statistics::{ByLevel, StatisticsView};

/// The most files shown: the newest ones.
const MOST: usize = 100;

/// The files of a sink that were not cleaned up yet.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(crate) struct FilesView {
    files: Vec<FileView>,
}

/// One file.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileView {
    #[schemars(extend("enum" = ["writing", "closing", "importing", "imported"]))]
    state: &'static str,
    #[schemars(with = "shape::Timestamp")]
    opened_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    closing_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    importing_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    imported_at: Option<Timestamp>,
    /// How often the step that it is in has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_attempt: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The last failure.
    retry_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    retry_after: Option<Timestamp>,
    statistics: StatisticsView,
}

impl FilesView {
    /// Those that were opened after the statistics were cleared. Imported files first, then those that go well, then those that are tried again; each by the time of opening.
    pub(crate) fn new(sink: &SinkNode, only_failed: bool) -> Self {
        let since = sink.cleared.as_ref().map(|cleared| cleared.at);
        let files = sink.files.values().map(|file| &file.value);
        let mut files: Vec<&File> = files
            .filter(|file| since.is_none_or(|since| file.opened_at > since))
            .filter(|file| !only_failed || file.retry.is_some())
            .collect();
        files.sort_by_key(|file| Reverse(file.opened_at));
        files.truncate(MOST);
        files.sort_by_key(|file| {
            let imported = matches!(file.state, State::Imported { .. });
            (!imported, file.retry.is_some(), file.opened_at, file.id)
        });
        Self {
            files: files
                .into_iter()
                .map(|file| FileView::new(sink, file))
                .collect(),
        }
    }
}

impl FileView {
    fn new(sink: &SinkNode, file: &File) -> Self {
        let (closing_at, importing_at, imported_at) = match file.state {
            State::Writing => (None, None, None),
            State::Closing { at, .. } => (Some(at), None, None),
            State::Importing { closing_at, at } => (Some(closing_at), Some(at), None),
            State::Imported {
                closing_at,
                importing_at,
                at,
                ..
            } => (Some(closing_at), Some(importing_at), Some(at)),
        };
        let retry = file.retry.as_ref();
        Self {
            state: file.state.name(),
            opened_at: file.opened_at,
            closing_at,
            importing_at,
            imported_at,
            retry_attempt: retry.map(|retry| retry.attempt),
            retry_reason: retry.map(|retry| retry.reason.clone()),
            retry_after: retry.map(|retry| retry.after),
            statistics: ByLevel::of_file(sink, file.id).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use stream_model::FileId;
    use stream_model::statistics::{Cleared, Figures};
    use stream_state::Versioned;

    use super::*;
    use crate::tests::definitions::sink;

    fn at(second: u8) -> String {
        format!("2026-01-01T00:00:0{second}.000Z")
    }

    fn node(files: &[(u8, Value, bool)]) -> SinkNode {
        let mut node = SinkNode::default();
        for (id, state, failed) in files {
            let retry = failed.then(|| {
                json!({"attempt": 4, "reason": "away", "firstFailedAt": at(1), "lastFailedAt": at(2), "after": at(3)})
            });
            let file: File = serde_json::from_value(json!({
                "id": FileId::from_bytes([*id; 16]), "sink": sink("x").key, "mappingVersion": 1, "volumes": [],
                "table": {"type": "sqlite", "tableId": "t", "mapping": {"columns": []}},
                "trigger": {"count": 1, "size": "1MB", "interval": "1s", "minInterval": "1s", "slicesCount": 1},
                "openedAt": at(*id), "state": state, "retry": retry,
            }))
            .expect("the stored form");
            node.files
                .insert(file.id, Arc::new(Versioned::new(file, 1)));
        }
        node
    }

    fn shown(node: &SinkNode, only_failed: bool) -> Vec<Value> {
        let view = serde_json::to_value(FilesView::new(node, only_failed)).expect("JSON");
        view["files"].as_array().expect("a list").clone()
    }

    #[test]
    fn files_are_shown_with_their_times_and_failures_in_order() {
        let importing = json!({"name": "importing", "closingAt": at(5), "at": at(6)});
        let imported = json!({"name": "imported", "closingAt": at(1), "importingAt": at(2), "at": at(3), "rows": 9});
        let node = node(&[
            (1, importing, true),
            (
                2,
                json!({"name": "closing", "at": at(7), "reason": "count"}),
                false,
            ),
            (3, json!({"name": "writing"}), false),
            (4, imported, false),
        ]);
        let files = shown(&node, false);
        let states: Vec<_> = files.iter().map(|file| file["state"].as_str()).collect();
        assert_eq!(
            states,
            [
                Some("imported"),
                Some("closing"),
                Some("writing"),
                Some("importing")
            ]
        );
        assert_eq!(files[0]["importedAt"], at(3).as_str());
        assert_eq!(files[0].get("retryAttempt"), None);
        assert_eq!(files[3]["retryAttempt"], 4);
        assert_eq!(files[3]["retryReason"], "away");
        assert_eq!(files[3]["retryAfter"], at(3).as_str());
        assert_eq!(files[3]["statistics"]["total"]["recordsCount"], 0);
        let failed = shown(&node, true);
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0]["state"], "importing");
    }

    #[test]
    fn files_of_before_the_clearing_are_left_out() {
        let writing = json!({"name": "writing"});
        let mut node = node(&[
            (1, writing.clone(), false),
            (2, writing.clone(), false),
            (3, writing, false),
        ]);
        node.cleared = Some(Cleared {
            at: at(2).parse().expect("a time"),
            rows: Figures::default(),
            rejects: Figures::default(),
        });
        let files = shown(&node, false);
        assert_eq!(files.len(), 1);
        assert_eq!(files[0]["openedAt"], at(3).as_str());
    }
}
