//! What is opened when a sink starts to take rows, and again each time its file is closed: a file and one slice per volume.
//!
//! The API plans an opening when a sink is created, the coordinator whenever a sink has no writing file or its file is due.
//! Both write it in one transaction. Planning is pure, so both come to the same result.

use crate::definition::{Sink, Source};
use crate::file::{self, File};
use crate::id::{FileId, SliceId, VolumeId};
use crate::level::{Defaults, Levels};
use crate::slice::{self, Slice};
use crate::time::Timestamp;
use crate::trigger::UploadTrigger;

/// A file and its first slices, not stored yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The file, writing.
    pub file: File,
    /// Its slices, writing: one per volume of the file, in the same order.
    pub slices: Vec<Slice>,
}

/// The levels of a sink: the defaults of its table kind, changed by the source's settings, then by its own.
#[must_use]
pub fn levels(source: &Source, sink: &Sink, defaults: &Defaults) -> Levels {
    let defaults = defaults.for_table(sink.table.kind);
    sink.settings.apply(&source.settings.apply(&defaults))
}

/// Plans the next file of a sink, with a slice on each of `volumes`. `random` gives the random part of each new id.
#[must_use]
pub fn plan(
    source: &Source,
    sink: &Sink,
    defaults: &Defaults,
    volumes: &[VolumeId],
    now: Timestamp,
    random: &mut dyn FnMut() -> [u8; 10],
) -> Opening {
    let levels = levels(source, sink, defaults);
    let file = File {
        id: FileId::new(now, random()),
        sink: sink.key.clone(),
        mapping_version: sink.version.number,
        table: sink.table.clone(),
        volumes: volumes.to_vec(),
        trigger: levels.import,
        opened_at: now,
        state: file::State::Writing,
        retry: None,
    };
    let slice = |volume: &VolumeId| Slice {
        id: SliceId::new(now, random()),
        sink: sink.key.clone(),
        kind: slice::Kind::Rows,
        file: file.id,
        volume: *volume,
        mapping_version: file.mapping_version,
        compression: levels.local.compression,
        durability: levels.local.durability,
        trigger: slice_trigger(&levels),
        opened_at: now,
        state: slice::State::Writing,
        retry: None,
        forgotten: None,
    };
    let slices = volumes.iter().map(slice).collect();
    Opening { file, slices }
}

/// Plans the slice that takes the rows of `slice` when it is closed while its file stays open.
#[must_use]
pub fn successor(slice: &Slice, now: Timestamp, random: [u8; 10]) -> Slice {
    Slice {
        id: SliceId::new(now, random),
        opened_at: now,
        state: slice::State::Writing,
        retry: None,
        forgotten: None,
        ..slice.clone()
    }
}

/// A slice is reported by its writer when it reaches a limit of the upload *or* of the import trigger: a slice that alone
/// makes its file due must not stay unnoticed until it is large enough to be uploaded.
fn slice_trigger(levels: &Levels) -> UploadTrigger {
    UploadTrigger {
        count: levels.upload.count.min(levels.import.count),
        size: levels.upload.size.min(levels.import.size),
        interval: levels.upload.interval.min(levels.import.interval),
        min_interval: levels.upload.min_interval,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Interval;
    use serde_json::json;

    fn source() -> Source {
        serde_json::from_value(json!({
            "key": {"project": 1, "branch": 1, "source": "orders"},
            "kind": {"type": "http", "secret": "x"},
            "name": "Orders", "description": "",
            "version": version(1), "created": stamp(),
        }))
        .expect("valid source")
    }

    fn sink() -> Sink {
        serde_json::from_value(json!({
            "key": {"project": 1, "branch": 1, "source": "orders", "sink": "raw"},
            "name": "Raw", "description": "",
            "table": {"type": "sqlite", "tableId": "t", "mapping": {"columns": [{"type": "body", "name": "b"}]}},
            "version": version(3), "created": stamp(),
        }))
        .expect("valid sink")
    }

    fn stamp() -> serde_json::Value {
        json!({"at": "2026-01-01T00:00:00.000Z", "by": {"type": "system"}})
    }

    fn version(number: u64) -> serde_json::Value {
        json!({"number": number, "hash": "00", "description": "", "at": "2026-01-01T00:00:00.000Z", "by": {"type": "system"}})
    }

    fn counter() -> impl FnMut() -> [u8; 10] {
        let mut next = 0;
        move || {
            next += 1;
            [next; 10]
        }
    }

    #[test]
    fn opens_one_slice_per_volume_under_the_version_of_the_sink() {
        let volumes = [VolumeId::from_bytes([1; 16]), VolumeId::from_bytes([2; 16])];
        let now = Timestamp::from_millis(5_000);
        let defaults = Defaults::default();
        let opening = plan(&source(), &sink(), &defaults, &volumes, now, &mut counter());
        assert_eq!(opening.file.mapping_version, 3);
        assert_eq!(opening.file.volumes, volumes);
        assert_eq!(opening.file.opened_at, now);
        assert_eq!(opening.slices.len(), 2);
        for (slice, volume) in opening.slices.iter().zip(volumes) {
            assert_eq!(slice.volume, volume);
            assert_eq!(slice.file, opening.file.id);
            assert_eq!(slice.mapping_version, 3);
        }
        assert_ne!(opening.slices[0].id, opening.slices[1].id);
    }

    #[test]
    fn sink_settings_beat_source_settings_and_the_import_limits_cap_the_slice() {
        let defaults = Defaults::default();
        let (mut source, mut sink) = (source(), sink());
        let base = levels(&source, &sink, &defaults);
        let mut set = |key: &str, value| source.settings.set(&base, key, value).expect("in range");
        set("storage.level.staging.upload.trigger.count", json!(500));
        set(
            "storage.level.staging.upload.trigger.interval",
            json!("20m"),
        );
        set("storage.level.target.import.trigger.interval", json!("10m"));
        sink.settings
            .set(&base, "storage.level.target.import.trigger.count", json!(7))
            .expect("in range");
        let volumes = [VolumeId::from_bytes([1; 16])];
        let now = Timestamp::from_millis(0);
        let opening = plan(&source, &sink, &defaults, &volumes, now, &mut counter());
        assert_eq!(opening.file.trigger.count, 7);
        assert_eq!(opening.slices[0].trigger.count, 7);
        assert_eq!(opening.slices[0].trigger.interval, Interval::from_secs(600));
        assert_eq!(levels(&source, &sink, &defaults).upload.count, 500);
    }

    #[test]
    fn a_successor_differs_only_in_id_and_age() {
        let old = crate::slice::tests::slice(1);
        let new = successor(&old, Timestamp::from_millis(9), [3; 10]);
        assert_ne!(new.id, old.id);
        assert_eq!(new.opened_at, Timestamp::from_millis(9));
        let same = Slice {
            id: old.id,
            opened_at: old.opened_at,
            ..new
        };
        assert_eq!(same, old);
    }
}
