use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use stream_model::slice::{Closing, Event, Seal};
use stream_model::statistics::Figures;
use stream_model::trigger::Reason;
use stream_model::{Timestamp, VolumeId};
use stream_storage::local::Stage;

use super::*;

const OURS: u64 = 7;
/// The slice of a purged sink.
const PURGED: u8 = 77;

fn id(number: u8) -> SliceId {
    SliceId::from_bytes([number; 16])
}

fn writing(number: u8) -> Slice {
    serde_json::from_value(json!({
        "id": id(number), "sink": {"project": 1, "branch": 1, "source": "s", "sink": "k"},
        "file": id(99), "volume": VolumeId::from_bytes([1; 16]), "mappingVersion": 1,
        "compression": {"type": "none"}, "durability": "disk",
        "trigger": {"count": 1, "size": "1KB", "interval": "1s", "minInterval": "1s"},
        "openedAt": "2026-01-01T00:00:00.000Z", "state": {"name": "writing"},
    }))
    .expect("valid slice")
}

fn closing(number: u8) -> Slice {
    let at = Timestamp::from_millis(0);
    let closing = Closing {
        at,
        reason: Reason::Count,
        successor: None,
    };
    writing(number).apply(Event::Close(closing)).expect("legal")
}

fn uploading(number: u8, incarnation: u64) -> Slice {
    let seal = Seal {
        at: Timestamp::from_millis(0),
        incarnation,
        figures: Figures {
            rows: 1,
            ..Figures::default()
        },
        later_hours: stream_model::hours::LaterHours::default(),
        checksum: "00".repeat(32),
        sessions: BTreeMap::new(),
    };
    closing(number).apply(Event::Seal(seal)).expect("legal")
}

fn uploaded(number: u8) -> Slice {
    let upload = Event::Upload {
        object: "o".to_owned(),
        at: Timestamp::from_millis(0),
    };
    uploading(number, OURS).apply(upload).expect("legal")
}

fn local(number: u8, rows: u64) -> SliceStatus {
    let figures = Figures {
        rows,
        ..Figures::default()
    };
    SliceStatus {
        id: id(number),
        stage: Stage::Sealed,
        figures,
    }
}

fn planned(records: Vec<Slice>, local: Vec<(SliceStatus, Option<&Slice>)>, done: &Done) -> Plan {
    let records: Vec<_> = records
        .into_iter()
        .map(|value| Arc::new(Versioned::new(value, 1)))
        .collect();
    let volume = Local {
        beyond: &|_, _| false,
        purged: &|slice| slice == id(PURGED),
        incarnation: OURS,
    };
    plan(&records, local.into_iter(), &volume, done)
}

fn ids(slices: &[Arc<Versioned<Slice>>]) -> Vec<SliceId> {
    slices.iter().map(|slice| slice.value.id).collect()
}

#[test]
fn opens_writing_slices_and_seals_closing_ones() {
    let plan = planned(vec![writing(1), closing(2)], Vec::new(), &Done::default());
    assert_eq!(
        ids(&plan.open),
        [id(1), id(2)],
        "a closing slice must be known to be sealed"
    );
    assert_eq!(ids(&plan.seal), [id(2)]);
}

#[test]
fn does_nothing_twice() {
    let done = Done {
        opened: BTreeSet::from([id(1), id(2)]),
        verified: BTreeSet::from([id(3)]),
        ..Done::default()
    };
    let plan = planned(
        vec![writing(1), closing(2), uploading(3, 1)],
        Vec::new(),
        &done,
    );
    assert!(plan.open.is_empty());
    assert!(plan.verify.is_empty());
    assert_eq!(
        ids(&plan.seal),
        [id(2)],
        "until the record says that it is sealed"
    );
}

#[test]
fn verifies_what_an_earlier_opening_sealed() {
    let records = vec![uploading(1, OURS - 1), uploading(2, OURS), uploaded(3)];
    let plan = planned(records, Vec::new(), &Done::default());
    assert_eq!(ids(&plan.verify), [id(1)]);
}

#[test]
fn touches_nothing_once_a_newer_incarnation_has_sealed() {
    let (ours, newer) = (uploading(1, OURS), uploading(2, OURS + 2));
    let local_slices = vec![(local(1, 1), Some(&ours)), (local(2, 1), Some(&newer))];
    let plan = planned(Vec::new(), local_slices, &Done::default());
    assert_eq!(plan.newer, Some(OURS + 2));
    assert!(plan.release.is_empty());
    let older = uploading(1, OURS - 1);
    let plan = planned(
        Vec::new(),
        vec![(local(1, 1), Some(&older))],
        &Done::default(),
    );
    assert_eq!(plan.newer, None);
}

#[test]
fn keeps_rows_that_were_not_sealed() {
    let sealed_with_one = uploaded(1);
    let local_slices = vec![(local(1, 2), Some(&sealed_with_one))];
    let more = planned(Vec::new(), local_slices, &Done::default());
    assert_eq!((more.release, more.surplus), (vec![], vec![id(1)]));
    // Not more rows than were sealed, but others.
    let local_slices = vec![(local(1, 1), Some(&sealed_with_one))];
    let volume = Local {
        beyond: &|slice, _| slice == id(1),
        purged: &|_| false,
        incarnation: OURS,
    };
    let others = plan(&[], local_slices.into_iter(), &volume, &Done::default());
    assert_eq!((others.release, others.surplus), (vec![], vec![id(1)]));
}

#[test]
fn releases_only_what_is_uploaded_or_empty() {
    let (gone, waiting, open) = (uploaded(1), uploading(2, OURS), writing(3));
    let local = vec![
        (local(1, 1), Some(&gone)),
        (local(2, 1), Some(&waiting)),
        (local(3, 5), Some(&open)),
        (local(4, 5), None),
        (local(5, 0), None),
        (local(PURGED, 5), None),
    ];
    let plan = planned(Vec::new(), local, &Done::default());
    assert_eq!(plan.release, [id(1), id(5), id(PURGED)]);
    assert_eq!(plan.orphans, [id(4)], "rows without a record are kept");
}
