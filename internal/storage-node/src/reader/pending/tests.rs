use std::collections::BTreeMap as Map;

use serde_json::json;
use stream_model::retry::Retry;
use stream_model::slice::{Closing, Event, Seal};
use stream_model::statistics::Figures;
use stream_model::trigger::Reason;

use super::*;

fn writing() -> Slice {
    serde_json::from_value(json!({
        "id": SliceId::from_bytes([1; 16]), "sink": {"project": 1, "branch": 1, "source": "s", "sink": "k"},
        "file": SliceId::from_bytes([9; 16]), "volume": VolumeId::from_bytes([1; 16]), "mappingVersion": 1,
        "compression": {"type": "none"}, "durability": "disk",
        "trigger": {"count": 1, "size": "1KB", "interval": "1s", "minInterval": "1s"},
        "openedAt": "2026-01-01T00:00:00.000Z", "state": {"name": "writing"},
    }))
    .expect("valid slice")
}

#[test]
fn only_sealed_slices_are_uploaded_and_not_before_their_pause_is_over() {
    let now = Timestamp::from_millis(1_000);
    let closing = Closing {
        at: now,
        reason: Reason::Count,
        successor: None,
    };
    let seal = Seal {
        at: now,
        incarnation: 1,
        figures: Figures {
            rows: 1,
            ..Figures::default()
        },
        later_hours: stream_model::hours::LaterHours::default(),
        checksum: "00".repeat(32),
        sessions: Map::new(),
    };
    let closed = writing().apply(Event::Close(closing)).expect("legal");
    let mut sealed = closed.clone().apply(Event::Seal(seal)).expect("legal");
    assert_eq!(not_before(&writing(), now), None);
    assert_eq!(not_before(&closed, now), None);
    assert_eq!(not_before(&sealed, now), Some(now));
    let retry = Retry::next(None, "away".to_owned(), now);
    let after = retry.after;
    sealed.retry = Some(retry);
    assert_eq!(not_before(&sealed, now), Some(after));
    let upload = Event::Upload {
        object: "o".to_owned(),
        at: now,
    };
    assert_eq!(not_before(&sealed.apply(upload).expect("legal"), now), None);
}

#[test]
fn waits_for_what_falls_due_next() {
    let at = Timestamp::from_millis;
    let id = |number| SliceId::from_bytes([number; 16]);
    let waiting = Waiting {
        slices: Map::from([(id(1), at(500)), (id(2), at(3_000)), (id(3), at(2_000))]),
        ..Waiting::default()
    };
    assert_eq!(waiting.next(at(1_000)), Some(Duration::from_secs(1)));
    assert_eq!(Waiting::default().next(at(0)), None);
}
