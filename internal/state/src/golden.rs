//! Every kind of value as version 1 of the format writes it, in `golden/v1`. What was ever released is read for ever.
//!
//! A file holds what stands in etcd, byte for byte. A changed file means a changed format: new optional fields get files of
//! their own beside the old ones, and the old ones stay as they are.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stream_model::definition::{Project, Sink, Source, Token};
use stream_model::destination::{Destination, Provisioning};
use stream_model::file::File;
use stream_model::idempotency::Assigned;
use stream_model::ledger::Day;
use stream_model::purge::{Dropping, Purged};
use stream_model::slice::Slice;
use stream_model::statistics::{Cleared, Crossed, Figures, VolumeFigures};

use crate::keyspace::Key;
use crate::lock::Holder;
use crate::repository::file::Current;
use crate::repository::forget::Tombstone;
use crate::repository::node::NodeRegistration;
use crate::repository::task::Task;
use crate::repository::volume::{Incarnation, Registration};
use crate::store::{Versioned, Written};

/// Reads a value, and writes it again as it is and over itself with a field of a later version.
type Check = fn(&str, &[u8]);

fn check<T: Serialize + DeserializeOwned + Clone>(name: &str, bytes: &[u8]) {
    let stored: Versioned<T> =
        Versioned::decode(name, bytes, 1).unwrap_or_else(|error| panic!("{name}: {error}"));
    let written = Written::new(stored.value.clone()).bytes;
    assert_eq!(
        String::from_utf8_lossy(&written),
        String::from_utf8_lossy(bytes),
        "{name} is written differently now"
    );

    let mut later: Value = serde_json::from_slice(bytes).expect("JSON");
    let fields = later.as_object_mut().expect("an object");
    fields.insert("ofALaterVersion".to_owned(), json!({"a": [1, "b"]}));
    let later_bytes = serde_json::to_vec(&later).expect("JSON");
    let stored: Versioned<T> = Versioned::decode(name, &later_bytes, 1).expect("readable");
    let over = Written::over(&stored, stored.value.clone()).bytes;
    let over: Value = serde_json::from_slice(&over).expect("JSON");
    assert_eq!(over, later, "{name} loses what it does not know");
}

/// The golden files of a kind of key. A new kind does not compile without.
const fn files(key: &Key) -> (&'static [&'static str], Check) {
    match key {
        // Not in the envelope: it says what the envelope means.
        Key::Schema => (&[], check::<Value>),
        Key::Source(_) | Key::SourceVersion(..) => (
            &["source", "source-deleted", "source-purging"],
            check::<Source>,
        ),
        Key::Sink(_) | Key::SinkVersion(..) => {
            let names = &["sink", "sink-columns", "sink-data-types", "sink-purging"];
            (names, check::<Sink>)
        }
        Key::Assignment(_) => (&["assignment", "assignment-moved"], check::<Assigned>),
        Key::File(..) => (
            &["file", "file-closing", "file-importing", "file-imported"],
            check::<File>,
        ),
        Key::Current(_) => (&["current"], check::<Current>),
        Key::Slice(..) => (
            &[
                "slice",
                "slice-closing",
                "slice-uploading",
                "slice-uploaded",
                "slice-forgotten",
                "slice-forgotten-hours",
                "slice-hours",
                "slice-rejects",
            ],
            check::<Slice>,
        ),
        Key::Crossed(..) => (&["crossed", "crossed-hours"], check::<Crossed>),
        Key::Removed(_) => (&["removed"], check::<Figures>),
        Key::Cleared(_) => (&["cleared"], check::<Cleared>),
        Key::Purged(..) => (&["purged", "purged-imported"], check::<Purged>),
        Key::LedgerDay(..) => (&["ledger"], check::<Day>),
        Key::RejectsCrossed(..) => (&["rejectscrossed"], check::<Crossed>),
        Key::RejectsRemoved(_) => (&["rejectsremoved"], check::<Figures>),
        Key::Incarnation(_) => (&["incarnation"], check::<Incarnation>),
        Key::Registration(_) => (&["registration"], check::<Registration>),
        Key::Figures(_) => (&["figures"], check::<VolumeFigures>),
        Key::Forgotten(_) => (&["forgotten"], check::<Tombstone>),
        Key::Node { .. } => (&["node"], check::<NodeRegistration>),
        Key::Task(_) => (
            &[
                "task",
                "task-node",
                "task-finished",
                "task-failed",
                "task-purged",
            ],
            check::<Task>,
        ),
        Key::Lock(_) => (&["lock"], check::<Holder>),
        Key::Dropping(_) => (&["dropping"], check::<Dropping>),
        Key::Token(_) => (&["token"], check::<Token>),
        Key::Project(_) => (&["project"], check::<Project>),
        Key::Destination(_) => (&["destination"], check::<Destination>),
        Key::Provisioning(_) => (
            &["provisioning", "provisioning-begun"],
            check::<Provisioning>,
        ),
    }
}

/// One key of each kind.
fn one_of_each() -> Vec<Key> {
    let id = "01900000000070008000000000000001";
    [
        "entity/source/1/1/a",
        "entity/sink/1/1/a/b",
        "entity/assignment/1/1/a",
        &format!("entity/file/1/1/a/b/{id}"),
        "entity/current/1/1/a/b",
        &format!("entity/slice/1/1/a/b/{id}"),
        &format!("entity/crossed/1/1/a/b/{id}"),
        "entity/removed/1/1/a/b",
        "entity/cleared/1/1/a/b",
        "ledger/1/1/a/b/0000020455",
        &format!("entity/purged/1/1/a/b/{id}"),
        &format!("entity/rejectscrossed/1/1/a/b/{id}"),
        "entity/rejectsremoved/1/1/a/b",
        &format!("volume/incarnation/{id}"),
        &format!("volume/registration/{id}"),
        &format!("volume/figures/{id}"),
        &format!("volume/forgotten/{id}"),
        "node/api/n",
        "task/a/b",
        "lock/a/b",
        "entity/dropping/x",
        "token/x",
        "project/1",
        "destination/1/1/a/b",
        "provisioning/1/1/a/b",
    ]
    .iter()
    .map(|text| text.parse().expect("a key"))
    .collect()
}

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/golden/v1/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    // The line end belongs to the file, not to the value.
    bytes.strip_suffix(b"\n").unwrap_or(&bytes).to_vec()
}

#[test]
fn every_value_of_version_1_is_read_and_written_again_byte_for_byte() {
    let mut seen = 0;
    for key in one_of_each() {
        let (names, check) = files(&key);
        assert!(!names.is_empty(), "{key}");
        for name in names {
            check(name, &golden(name));
            seen += 1;
        }
    }
    let dir = format!("{}/golden/v1", env!("CARGO_MANIFEST_DIR"));
    let files = std::fs::read_dir(dir).expect("the directory").count();
    assert_eq!(seen, files, "each file is checked");
}
