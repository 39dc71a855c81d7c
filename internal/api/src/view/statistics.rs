//! How many rows of a sink are where.
//!
//! The figures of closed slices are exact. Those of a slice that still takes rows are known only once it has reached a
//! limit of its trigger, so the local level lags behind by at most one slice per volume. So do those of rejected records.

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::file;
use stream_model::slice::Slice;
use stream_model::statistics::{Cleared, Figures};
use stream_model::{FileId, Timestamp};
use stream_state::SinkNode;

use super::shape;

/// The figures of a sink, in total and by level. A level without rows is left out.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct StatisticsView {
    total: FiguresView,
    levels: LevelsView,
    /// Records that the sink refused. Not in the total.
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<FiguresView>,
}

/// The figures by level.
#[derive(Debug, Serialize, JsonSchema)]
struct LevelsView {
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<FiguresView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    staging: Option<FiguresView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<FiguresView>,
}

/// How many rows, and how large they are.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FiguresView {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    first_record_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    last_record_at: Option<Timestamp>,
    records_count: u64,
    /// Bytes.
    compressed_size: u64,
    /// Bytes.
    uncompressed_size: u64,
}

impl From<Figures> for FiguresView {
    fn from(figures: Figures) -> Self {
        Self {
            first_record_at: figures.first_at,
            last_record_at: figures.last_at,
            records_count: figures.rows,
            compressed_size: figures.bytes,
            uncompressed_size: figures.raw_bytes,
        }
    }
}

/// The sums by level.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ByLevel {
    local: Figures,
    staging: Figures,
    target: Figures,
    rejected: Figures,
}

impl ByLevel {
    /// Adds up all slices of a sink since its statistics were cleared.
    pub(crate) fn of_sink(sink: &SinkNode) -> Self {
        let mut sums = Self::ever(sink);
        if let Some(cleared) = &sink.cleared {
            sums.subtract(cleared);
        }
        sums
    }

    /// What is to be noted so that nothing of what is known now counts any more.
    pub(crate) fn cleared(sink: &SinkNode, at: Timestamp) -> Cleared {
        let sums = Self::ever(sink);
        Cleared {
            at,
            rows: sums.all_rows(),
            rejects: sums.rejected,
        }
    }

    fn all_rows(&self) -> Figures {
        let mut total = Figures::default();
        for level in [&self.local, &self.staging, &self.target] {
            total.add(level);
        }
        total
    }

    /// What was cleared is what came first, and is the furthest on its way to the target.
    fn subtract(&mut self, cleared: &Cleared) {
        let (mut rows, mut rejects) = (cleared.rows, cleared.rejects);
        for level in [&mut self.target, &mut self.staging, &mut self.local] {
            take(&mut rows, level, cleared.at);
        }
        take(&mut rejects, &mut self.rejected, cleared.at);
    }

    /// Adds up all slices of a sink, and what was imported so long ago that only its sum is kept.
    fn ever(sink: &SinkNode) -> Self {
        let mut sums = Self::of_slices(sink, |_| true);
        sums.target.add(&sink.removed.unwrap_or_default());
        sums.rejected = super::rejects::figures(sink);
        sums
    }

    /// Adds up the slices of one file.
    pub(crate) fn of_file(sink: &SinkNode, file: FileId) -> Self {
        Self::of_slices(sink, |slice| slice.file == file)
    }

    fn of_slices(sink: &SinkNode, counts: impl Fn(&Slice) -> bool) -> Self {
        let mut sums = Self::default();
        let slices = sink.slices.values().map(|slice| &slice.value);
        for slice in slices.filter(|slice| slice.kind.is_rows() && counts(slice)) {
            let crossed = || {
                sink.crossed
                    .get(&slice.id)
                    .map(|crossed| &crossed.value.figures)
            };
            let figures = slice.seal().map(|seal| &seal.figures).or_else(crossed);
            let imported = sink
                .files
                .get(&slice.file)
                .is_some_and(|file| matches!(file.value.state, file::State::Imported { .. }));
            if let Some(figures) = figures {
                sums.level(slice, imported).add(figures);
            }
        }
        sums
    }

    fn level(&mut self, slice: &Slice, imported: bool) -> &mut Figures {
        match (imported, slice.is_uploaded()) {
            (true, _) => &mut self.target,
            (false, true) => &mut self.staging,
            (false, false) => &mut self.local,
        }
    }
}

/// Takes as much of `rest` from a level as it has.
fn take(rest: &mut Figures, level: &mut Figures, since: Timestamp) {
    let take = |rest: &mut u64, from: &mut u64| {
        let taken = (*rest).min(*from);
        *rest -= taken;
        *from -= taken;
    };
    take(&mut rest.rows, &mut level.rows);
    take(&mut rest.raw_bytes, &mut level.raw_bytes);
    take(&mut rest.bytes, &mut level.bytes);
    if level.rows == 0 {
        *level = Figures::default();
    }
    // Rows of before may have become known only now.
    let first_at = level.first_at.map(|at| at.max(since));
    level.first_at = first_at.min(level.last_at);
}

impl From<ByLevel> for StatisticsView {
    fn from(sums: ByLevel) -> Self {
        let total = sums.all_rows();
        let shown = |figures: Figures| (figures.rows > 0).then(|| figures.into());
        let levels = LevelsView {
            local: shown(sums.local),
            staging: shown(sums.staging),
            target: shown(sums.target),
        };
        Self {
            total: total.into(),
            levels,
            rejected: shown(sums.rejected),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use stream_model::file::File;
    use stream_model::slice::Kind;
    use stream_model::statistics::Crossed;
    use stream_model::{FileId, SliceId};
    use stream_state::Versioned;

    use super::*;

    const AT: &str = "2026-01-01T00:00:00.000Z";
    const SINK: &str = r#"{"project":1,"branch":1,"source":"orders","sink":"raw"}"#;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> Arc<Versioned<T>> {
        let value = serde_json::from_value(value).expect("the stored form");
        Arc::new(Versioned::new(value, 1))
    }

    fn add_file(node: &mut SinkNode, id: u8, state: &Value) {
        let sink: Value = serde_json::from_str(SINK).expect("JSON");
        let file = read::<File>(json!({
            "id": FileId::from_bytes([id; 16]), "sink": sink, "mappingVersion": 1, "volumes": [],
            "table": {"type": "sqlite", "tableId": "t", "mapping": {"columns": []}},
            "trigger": {"count": 1, "size": "1MB", "interval": "1s", "minInterval": "1s", "slicesCount": 1},
            "openedAt": AT, "state": state,
        }));
        node.files.insert(file.value.id, file);
    }

    fn add_slice(node: &mut SinkNode, id: u8, file: u8, state: &Value) {
        let sink: Value = serde_json::from_str(SINK).expect("JSON");
        let slice = read::<Slice>(json!({
            "id": SliceId::from_bytes([id; 16]), "sink": sink, "file": FileId::from_bytes([file; 16]),
            "volume": "00".repeat(16), "mappingVersion": 1, "compression": {"type": "none"},
            "durability": "disk", "openedAt": AT, "state": state,
            "trigger": {"count": 1, "size": "1MB", "interval": "1s", "minInterval": "1s"},
        }));
        node.slices.insert(slice.value.id, slice);
    }

    fn figures(rows: u64) -> Value {
        json!({"rows": rows, "rawBytes": rows * 10, "bytes": rows * 3})
    }

    fn sealed(name: &str, rows: u64) -> Value {
        json!({
            "name": name, "at": AT, "object": "x",
            "closing": {"at": AT, "reason": "count"},
            "seal": {"at": AT, "incarnation": 1, "figures": figures(rows), "checksum": "", "sessions": {}},
        })
    }

    #[test]
    fn each_slice_counts_where_its_rows_are() {
        let mut node = SinkNode::default();
        let imported =
            json!({"name": "imported", "closingAt": AT, "importingAt": AT, "at": AT, "rows": 9});
        add_file(&mut node, 1, &json!({"name": "writing"}));
        add_file(&mut node, 2, &imported);
        add_slice(&mut node, 1, 1, &json!({"name": "writing"}));
        add_slice(&mut node, 2, 1, &json!({"name": "writing"}));
        add_slice(&mut node, 3, 1, &sealed("uploading", 10));
        add_slice(&mut node, 4, 1, &sealed("uploaded", 100));
        add_slice(&mut node, 5, 2, &sealed("uploaded", 1_000));
        let sink: Value = serde_json::from_str(SINK).expect("JSON");
        let crossed = read::<Crossed>(json!({
            "sink": sink, "slice": SliceId::from_bytes([2; 16]), "volume": "00".repeat(16),
            "reason": "count", "figures": figures(1), "at": AT,
        }));
        node.crossed.insert(crossed.value.slice, crossed);
        node.removed = Some(Figures {
            rows: 10_000,
            ..Figures::default()
        });
        node.rejects_removed = Some(Figures {
            rows: 5,
            ..Figures::default()
        });
        let mut rejects = Slice::clone(&node.slices[&SliceId::from_bytes([4; 16])].value);
        rejects.id = SliceId::from_bytes([9; 16]);
        (rejects.kind, rejects.file) = (Kind::Rejects, FileId::none());
        let rejects = Arc::new(Versioned::new(rejects, 1));
        node.slices.insert(rejects.value.id, rejects);
        let sums = ByLevel::of_sink(&node);
        assert_eq!(sums.rejected.rows, 105);
        let rows = (sums.local.rows, sums.staging.rows, sums.target.rows);
        assert_eq!(rows, (11, 100, 11_000));
        let view = serde_json::to_value(StatisticsView::from(sums)).expect("serialises");
        assert_eq!(view["total"]["recordsCount"], 11_111);
        assert_eq!(view["levels"]["staging"]["uncompressedSize"], 1_000);
        assert_eq!(view["rejected"]["recordsCount"], 105);
        assert_eq!(view["levels"]["staging"]["compressedSize"], 300);
    }

    fn level(rows: u64) -> Figures {
        Figures {
            rows,
            raw_bytes: rows * 10,
            bytes: rows * 3,
            first_at: Some(Timestamp::from_millis(1)),
            last_at: Some(Timestamp::from_millis(9)),
        }
    }

    #[test]
    fn what_was_cleared_does_not_count_wherever_it_is_now() {
        let cleared = |rows| Cleared {
            at: Timestamp::from_millis(5),
            rows: level(rows),
            rejects: level(2),
        };
        let of = |local, staging, target| ByLevel {
            local: level(local),
            staging: level(staging),
            target: level(target),
            rejected: level(3),
        };
        for (sums, expected) in [
            // Nothing has moved yet, all has moved, a part has; and less is left than was cleared.
            (of(10, 0, 0), (3, 0, 0)),
            (of(3, 0, 7), (3, 0, 0)),
            (of(4, 5, 6), (4, 4, 0)),
            (of(1, 2, 3), (0, 0, 0)),
        ] {
            let mut left = sums;
            left.subtract(&cleared(7));
            let rows = (left.local.rows, left.staging.rows, left.target.rows);
            assert_eq!(rows, expected);
            let bytes = left.all_rows();
            assert_eq!(
                (bytes.raw_bytes, bytes.bytes),
                (bytes.rows * 10, bytes.rows * 3)
            );
            assert_eq!(left.rejected.rows, 1);
            assert_eq!(left.rejected.first_at, Some(Timestamp::from_millis(5)));
        }
    }

    #[test]
    fn clearing_again_clears_all_that_was_known() {
        let mut node = SinkNode {
            removed: Some(level(10)),
            rejects_removed: Some(level(4)),
            ..SinkNode::default()
        };
        for _ in 0..2 {
            node.cleared = Some(ByLevel::cleared(&node, Timestamp::from_millis(5)));
            assert_eq!(ByLevel::of_sink(&node), ByLevel::default());
            node.removed
                .iter_mut()
                .for_each(|removed| removed.rows += 1);
            assert_eq!(ByLevel::of_sink(&node).target.rows, 1);
        }
    }
}
