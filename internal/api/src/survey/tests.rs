//! Surveys of made-up installations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stream_model::file::File;
use stream_model::slice::Slice;
use stream_model::{FileId, SliceId};
use stream_state::{SinkNode, SourceNode, Versioned};

use super::*;
use crate::tests::definitions::{sink, source, stamp};

const AT: &str = "1970-01-01T00:00:00.000Z";
const FRESH: Duration = Duration::ZERO;

fn volume() -> VolumeId {
    VolumeId::from_bytes([7; 16])
}

fn read<T: DeserializeOwned>(value: Value) -> Arc<Versioned<T>> {
    let value = serde_json::from_value(value).expect("the stored form");
    Arc::new(Versioned::new(value, 1))
}

fn slice(id: u8, state: &Value, retry: Option<&Value>) -> Arc<Versioned<Slice>> {
    read(json!({
        "id": SliceId::from_bytes([id; 16]), "sink": sink("x").key, "file": FileId::from_bytes([1; 16]),
        "volume": volume(), "mappingVersion": 1, "compression": {"type": "none"}, "durability": "disk",
        "openedAt": AT, "state": state, "retry": retry,
        "trigger": {"count": 1, "size": "1MB", "interval": "1s", "minInterval": "1s"},
    }))
}

fn file(state: &Value, retry: Option<&Value>) -> Arc<Versioned<File>> {
    read(json!({
        "id": FileId::from_bytes([1; 16]), "sink": sink("x").key, "mappingVersion": 1, "volumes": [],
        "table": {"type": "sqlite", "tableId": "t", "mapping": {"columns": []}},
        "trigger": {"count": 1, "size": "1MB", "interval": "1s", "minInterval": "1s", "slicesCount": 1},
        "openedAt": AT, "state": state, "retry": retry,
    }))
}

fn closing() -> Value {
    json!({"name": "closing", "at": AT, "reason": "count"})
}

fn uploading() -> Value {
    json!({
        "name": "uploading", "closing": {"at": AT, "reason": "count"},
        "seal": {"at": AT, "incarnation": 1, "figures": {"rows": 1, "rawBytes": 1, "bytes": 1}, "checksum": "", "sessions": {}},
    })
}

fn failed(times: u32) -> Value {
    json!({"attempt": times, "reason": "table is locked", "firstFailedAt": AT, "lastFailedAt": AT, "after": AT})
}

/// One source with one sink, its files and slices.
fn topology(slices: Vec<Arc<Versioned<Slice>>>, files: Vec<Arc<Versioned<File>>>) -> Topology {
    let node = SinkNode {
        sink: Some(Arc::new(Versioned::new(sink("x"), 1))),
        current: Some(FileId::from_bytes([1; 16])),
        files: files.into_iter().map(|it| (it.value.id, it)).collect(),
        slices: slices.into_iter().map(|it| (it.value.id, it)).collect(),
        ..SinkNode::default()
    };
    let mut topology = Topology::default();
    let of_source = SourceNode {
        source: Some(Arc::new(Versioned::new(source("a"), 1))),
        sinks: BTreeMap::from([(sink("x").key.sink, node)]),
        ..SourceNode::default()
    };
    topology.sources.insert(source("a").key, of_source);
    topology
}

/// Everything runs and the volume is open.
fn all_there() -> Registered {
    let node: NodeId = "n1".parse().expect("a node");
    let registration = NodeRegistration {
        version: "1.0.0".to_owned(),
        started_at: stamp(0).at,
        addresses: BTreeMap::new(),
    };
    let instances = COMPONENTS.map(|name| (name, node.clone(), registration.clone()));
    let open = Registration {
        node,
        kind: "default".to_owned(),
        label: "local".to_owned(),
        incarnation: 1,
    };
    Registered {
        instances: instances.to_vec(),
        volumes: vec![(volume(), open)],
        figures: Vec::new(),
    }
}

fn codes(topology: &Topology, registered: &Registered, at: usize) -> Vec<&'static str> {
    let found = findings(topology, registered, FRESH, stamp(at).at);
    for finding in &found {
        assert!(!finding.subject.is_empty() && !finding.problem.is_empty());
        assert!(finding.advice.len() > 20, "{finding:?}");
    }
    found.iter().map(|finding| finding.code).collect()
}

#[test]
fn a_sound_installation_has_no_findings() {
    let topology = topology(
        vec![
            slice(1, &json!({"name": "writing"}), None),
            slice(2, &uploading(), None),
        ],
        vec![file(&json!({"name": "writing"}), None)],
    );
    assert_eq!(codes(&topology, &all_there(), 10), [""; 0]);
}

#[test]
fn what_waits_is_counted_with_the_age_of_the_oldest() {
    let topology = topology(
        vec![
            slice(1, &closing(), None),
            slice(2, &uploading(), None),
            slice(3, &uploading(), None),
        ],
        vec![file(&closing(), None)],
    );
    let waiting = |count| Waiting {
        count,
        oldest_seconds: 90,
    };
    let expected = Work {
        unsealed: waiting(1),
        unuploaded: waiting(2),
        unimported: waiting(1),
    };
    assert_eq!(work(&topology, stamp(90).at), expected);
}

#[test]
fn a_volume_that_nobody_has_open_is_named_once_with_what_is_on_it() {
    let topology = topology(
        vec![
            slice(1, &json!({"name": "writing"}), None),
            slice(2, &uploading(), Some(&failed(9))),
        ],
        vec![],
    );
    let mut registered = all_there();
    registered.volumes.clear();
    let found = findings(&topology, &registered, FRESH, stamp(1).at);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].code, "volumeAway");
    assert!(found[0].problem.contains("2 slices"));
    assert!(
        found[0]
            .advice
            .contains(&format!("volume forget {}", volume()))
    );
}

#[test]
fn passing_failures_and_short_waits_are_no_findings_but_lasting_ones_are() {
    let with = |slice_state: &Value, file_state: &Value, retry: Option<&Value>| {
        topology(
            vec![slice(1, slice_state, retry)],
            vec![file(file_state, retry)],
        )
    };
    let registered = all_there();
    let importing = json!({"name": "importing", "closingAt": AT, "at": AT});
    let young = with(&closing(), &importing, Some(&failed(2)));
    assert_eq!(codes(&young, &registered, 300), [""; 0]);
    assert_eq!(
        codes(&young, &registered, 301),
        ["sliceStuck", "importFailing"]
    );
    let failing = with(&uploading(), &importing, Some(&failed(3)));
    let found = findings(&failing, &registered, FRESH, stamp(1).at);
    assert_eq!(found[1].code, "importFailing");
    assert!(found[1].problem.contains("3 times") && found[1].problem.contains("table is locked"));
    let waiting = with(&json!({"name": "writing"}), &closing(), None);
    assert_eq!(codes(&waiting, &registered, 400), ["fileStuck"]);
}

#[test]
fn missing_components_full_disks_and_an_old_picture_are_findings() {
    let mut registered = all_there();
    registered
        .instances
        .retain(|(name, ..)| *name != "storage-coordinator");
    registered.figures = vec![(
        volume(),
        VolumeFigures {
            slices: 1,
            figures: stream_model::statistics::Figures::default(),
            free_bytes: (1 << 30) - 1,
        },
    )];
    let empty = Topology::default();
    assert_eq!(
        codes(&empty, &registered, 0),
        ["componentMissing", "littleSpace"]
    );
    let old = findings(&empty, &all_there(), Duration::from_secs(16), stamp(0).at);
    assert_eq!(old[0].code, "staleState");
}

#[test]
fn an_enabled_sink_without_a_file_is_a_finding_after_a_while() {
    let mut topology = topology(vec![], vec![]);
    let node = |topology: &mut Topology, change: &dyn Fn(&mut SinkNode)| {
        let source = topology.sources.values_mut().next().expect("a source");
        change(source.sinks.values_mut().next().expect("a sink"));
    };
    node(&mut topology, &|sink| sink.current = None);
    let registered = all_there();
    assert_eq!(codes(&topology, &registered, 29), [""; 0]);
    assert_eq!(codes(&topology, &registered, 30), ["sinkWithoutFile"]);
    node(&mut topology, &|node| {
        let off = crate::lifecycle::turn_sink(sink("x"), crate::lifecycle::Turn::Off, &stamp(1));
        node.sink = Some(Arc::new(Versioned::new(off, 2)));
    });
    assert_eq!(codes(&topology, &registered, 99), [""; 0]);
}
