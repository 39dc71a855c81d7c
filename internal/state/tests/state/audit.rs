//! What the audit finds: nothing in what the verbs have written, and each single damage.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use stream_model::SinkKey;
use stream_model::definition::Sink;
use stream_model::definition::Token;
use stream_model::definition::token::Role;
use stream_model::file::File;
use stream_model::slice::Slice;
use stream_model::statistics::{Crossed, Figures, VolumeFigures};
use stream_model::trigger::Reason;
use stream_state::audit::{self, Entry, Snapshot};
use stream_state::{
    NodeRegistration, Opening, Outputs, StateError, Store, Task, TaskStatus, Versioned,
};

use crate::setup::*;
use crate::support::*;

mod sequences;

const SECRET: &str = "ssssssssssssssssssssssssssssssssssssssssssssssss";

/// An installation with something in every step of its life, made by the verbs alone.
struct Installation {
    entries: Vec<Entry>,
}

impl Installation {
    async fn new() -> Self {
        let mut embedded = Embedded::start().await;
        let store = Store::open(embedded.client().await, "audited")
            .await
            .expect("opens");
        build(&store).await;
        let snapshot = store.snapshot().await.expect("read");
        embedded.stop().await;
        let mut entries = snapshot.entries;
        let lock = json!({"v": 1, "by": "node n", "taking": "0123456789abcdef"});
        entries.push(Entry {
            key: "lock/some/thing".to_owned(),
            value: lock.to_string().into_bytes(),
            revision: 1000,
        });
        let installation = Self { entries };
        assert_findings(&installation.entries, &[]);
        installation
    }

    fn value(&self, key: &str) -> Value {
        let entry = self.entries.iter().find(|entry| entry.key == key);
        let entry = entry.unwrap_or_else(|| panic!("{key} exists"));
        serde_json::from_slice(&entry.value).expect("JSON")
    }

    fn with(&self, key: &str, value: impl ToString) -> Vec<Entry> {
        let mut entries = self.without_checking(key);
        let revision = self.entries.iter().find(|entry| entry.key == key);
        entries.push(Entry {
            key: key.to_owned(),
            value: value.to_string().into_bytes(),
            revision: revision.map_or(1000, |entry| entry.revision),
        });
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        entries
    }

    fn edited(&self, key: &str, change: impl FnOnce(&mut Value)) -> Vec<Entry> {
        let mut value = self.value(key);
        change(&mut value);
        self.with(key, value)
    }

    fn without(&self, key: &str) -> Vec<Entry> {
        let entries = self.without_checking(key);
        assert!(entries.len() < self.entries.len(), "{key} exists");
        entries
    }

    fn without_checking(&self, key: &str) -> Vec<Entry> {
        let mut entries = self.entries.clone();
        entries.retain(|entry| entry.key != key);
        entries
    }
}

#[track_caller]
fn assert_findings(entries: &[Entry], expected: &[(&str, &str)]) {
    let findings = audit::check(entries, at(100));
    let found: Vec<(&str, &str)> = findings
        .iter()
        .map(|finding| (finding.key.as_str(), finding.rule))
        .collect();
    let shown: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "{}", shown.join("\n"));
    for line in shown {
        assert!(
            !line.contains(SECRET) && !line.contains("hunter2"),
            "{line}"
        );
    }
}

const RAW: &str = "1/1/orders/raw";
const KEYED: &str = "1/1/orders/keyed";

fn file_path(sink: &str, n: u8) -> String {
    format!("entity/file/{sink}/{}", file_id(n))
}

fn slice_path(sink: &str, n: u8) -> String {
    format!("entity/slice/{sink}/{}", slice_id(n))
}

fn incarnation_path(n: u8) -> String {
    format!("volume/incarnation/{}", volume(n))
}

/// Volumes 1 and 2. Sink `raw` without a primary key: file 1 is cleaned up, file 2 imported (slices 3, 5), file 3 closing
/// (slices 6, 7, and 4, which was late and moved there), file 4 writing (slices 8, 9). Sink `keyed` with one: file 11
/// importing (slice 11), file 12 closing (slice 12), file 13 writing (slice 13). A deleted source `old` with sink `gone`.
async fn build(store: &Store) {
    for n in [1, 2] {
        let raised = store.raise_incarnation(volume(n), &node("n")).await;
        assert_eq!(raised.expect("raised"), 1);
    }
    store.mark_recovered(volume(1), 1).await.expect("recovered");
    store
        .create_source(source("orders"))
        .await
        .expect("created");
    let orders = source_key("orders");
    let renamed = store.update_source(&orders, |mut source| {
        source.version = version(2);
        Ok::<_, StateError>(source)
    });
    renamed.await.expect("updated");
    store.create_source(source("old")).await.expect("created");
    store
        .create_sink(sink("old", "gone"), None)
        .await
        .expect("created");
    store
        .delete_source(&source_key("old"), switch())
        .await
        .expect("deleted");
    build_raw(store).await;
    build_keyed(store).await;
    build_surroundings(store).await;
}

fn opening(file: File, slices: &[(u8, u8)]) -> (File, Vec<Slice>) {
    let slices = slices
        .iter()
        .map(|(id, on)| slice(&file, slice_id(*id), volume(*on)));
    let slices = slices.collect();
    (file, slices)
}

/// Closes a file and all slices that are named, each with its successor.
async fn close(
    store: &Store,
    sink: &SinkKey,
    file: u8,
    slices: &[(u8, u8)],
    next: (File, Vec<Slice>),
) {
    let mut closings = Vec::new();
    for (id, successor) in slices {
        let slice = read_slice(store, sink, slice_id(*id)).await;
        closings.push((slice, closing(Some(slice_id(*successor)))));
    }
    let file = read_file(store, sink, file_id(file)).await;
    store
        .close_file(&file, at(5), Reason::Interval, closings, Some(next))
        .await
        .expect("closed");
}

async fn seal_with(store: &Store, sink: &SinkKey, id: u8, rows: u64) -> Versioned<Slice> {
    let slice = read_slice(store, sink, slice_id(id)).await;
    let sealed = store.seal_slice(&slice, seal(rows, 1), 1).await;
    sealed.expect("sealed")
}

async fn upload(store: &Store, sink: &SinkKey, id: u8, rows: u64) -> Versioned<Slice> {
    let sealed = seal_with(store, sink, id, rows).await;
    let object = format!("objects/{id}");
    let uploaded = store.upload_slice(&sealed, object, at(7), 1).await;
    uploaded.expect("uploaded")
}

async fn import(
    store: &Store,
    sink: &SinkKey,
    file: u8,
    slices: &[Versioned<Slice>],
    rows: u64,
) -> Versioned<File> {
    let file = read_file(store, sink, file_id(file)).await;
    let importing = store.begin_import(&file, slices, at(8)).await;
    let importing = importing.expect("importing");
    let imported = store.complete_import(&importing, at(9), rows).await;
    imported.expect("imported")
}

async fn build_raw(store: &Store) {
    let key = sink_key("orders", "raw");
    let both = [volume(1), volume(2)];
    let (first, slices) = opening(file(&key, file_id(1), &both), &[(1, 1), (2, 2)]);
    let opened = Opening {
        assignment: Some(both.to_vec()),
        file: first,
        slices,
    };
    store
        .create_sink(sink("orders", "raw"), Some(opened))
        .await
        .expect("created");
    let next = opening(file(&key, file_id(2), &both), &[(3, 1), (4, 2)]);
    close(store, &key, 1, &[(1, 3), (2, 4)], next).await;
    let slices = [
        upload(store, &key, 1, 3).await,
        seal_with(store, &key, 2, 0).await,
    ];
    let imported = import(store, &key, 1, &slices, 3).await;
    store
        .remove_file(&imported, &slices)
        .await
        .expect("removed");

    let second = read_file(store, &key, file_id(2)).await;
    let third = read_slice(store, &key, slice_id(3)).await;
    let successor = slice(&second.value, slice_id(5), volume(1));
    let rotated = store.rotate_slice(&second, &third, closing(Some(slice_id(5))), successor);
    rotated.await.expect("rotated");
    let next = opening(file(&key, file_id(3), &both), &[(6, 1), (7, 2)]);
    close(store, &key, 2, &[(5, 6), (4, 7)], next).await;
    let late = read_slice(store, &key, slice_id(4)).await;
    let from = read_file(store, &key, file_id(2)).await;
    let to = read_file(store, &key, file_id(3)).await;
    store.move_slice(&late, &from, &to).await.expect("moved");
    let slices = [
        upload(store, &key, 3, 2).await,
        upload(store, &key, 5, 1).await,
    ];
    import(store, &key, 2, &slices, 3).await;

    let next = opening(file(&key, file_id(4), &both), &[(8, 1), (9, 2)]);
    close(store, &key, 3, &[(6, 8), (7, 9)], next).await;
    seal_with(store, &key, 6, 4).await;
    let crossed = Crossed {
        sink: key.clone(),
        slice: slice_id(8),
        volume: volume(1),
        reason: Reason::Size,
        figures: Figures::default(),
        later_hours: stream_model::hours::LaterHours::default(),
        at: at(9),
    };
    assert!(store.put_crossed(crossed).await.expect("noted"));
    let renamed = store.update_sink(&key, |mut sink| {
        sink.version = version(2);
        Ok::<_, StateError>(sink)
    });
    renamed.await.expect("updated");
}

fn keyed_sink() -> Sink {
    let mut keyed = sink("orders", "keyed");
    keyed.table.mapping.columns[0].primary_key = true;
    keyed
}

fn keyed_file(id: u8) -> File {
    let keyed = keyed_sink();
    File {
        table: keyed.table,
        ..file(&keyed.key, file_id(id), &[volume(1)])
    }
}

async fn build_keyed(store: &Store) {
    let key = sink_key("orders", "keyed");
    let (first, slices) = opening(keyed_file(11), &[(11, 1)]);
    let opened = Opening {
        assignment: None,
        file: first,
        slices,
    };
    store
        .create_sink(keyed_sink(), Some(opened))
        .await
        .expect("created");
    close(
        store,
        &key,
        11,
        &[(11, 12)],
        opening(keyed_file(12), &[(12, 1)]),
    )
    .await;
    let slices = [upload(store, &key, 11, 1).await];
    let file = read_file(store, &key, file_id(11)).await;
    store
        .begin_import(&file, &slices, at(8))
        .await
        .expect("importing");
    close(
        store,
        &key,
        12,
        &[(12, 13)],
        opening(keyed_file(13), &[(13, 1)]),
    )
    .await;
}

fn task(id: &str, status: TaskStatus) -> Task {
    let ended = status != TaskStatus::Processing;
    Task {
        id: id.to_owned(),
        kind: "api.create.sink".to_owned(),
        created_at: at(0),
        node: None,
        finished_at: ended.then(|| at(1)),
        duration_ms: ended.then_some(1000),
        status,
        result: None,
        error: None,
        outputs: Outputs::default(),
    }
}

async fn build_surroundings(store: &Store) {
    let lease = store
        .grant_lease(Duration::from_secs(60))
        .await
        .expect("granted");
    store
        .register_volume(&lease, volume(1), registration("n", 1))
        .await
        .expect("registered");
    let figures = VolumeFigures {
        slices: 3,
        figures: Figures::default(),
        free_bytes: 1 << 30,
    };
    store
        .publish_figures(&lease, volume(1), figures)
        .await
        .expect("published");
    let api = NodeRegistration {
        version: "1.0".to_owned(),
        started_at: at(0),
        addresses: BTreeMap::from([("api".to_owned(), "127.0.0.1:8000".to_owned())]),
    };
    store
        .register_node(&lease, "api", &node("n"), api)
        .await
        .expect("registered");
    for (id, status) in [
        ("a/done", TaskStatus::Success),
        ("a/now", TaskStatus::Processing),
    ] {
        store.create_task(task(id, status)).await.expect("created");
    }
    let token = Token {
        id: "tok".to_owned(),
        description: "for tests".to_owned(),
        role: Role::Admin,
        created_at: at(0),
    };
    store
        .create_token(&"ab".repeat(32), token)
        .await
        .expect("created");
}

#[tokio::test]
async fn what_cannot_be_read_is_found_and_puts_nothing_else_under_suspicion() {
    let state = Installation::new().await;
    let known = "every key is known to this version of the service";
    let readable = "every value can be read";
    let own = "every value is about what its key says";
    let format = "every value has a format that this version of the service reads";
    for key in ["entity/other", "entity/source/1/1", "\u{1b}[31m"] {
        assert_findings(&state.with(key, "{}"), &[(key, known)]);
    }
    assert_findings(&state.with("token/hunter2", "{}"), &[("token/***", known)]);
    assert_findings(
        &state.without("schema"),
        &[("schema", "the state says which format it has")],
    );
    assert_findings(&state.with("schema", "{}"), &[("schema", readable)]);
    assert_findings(
        &state.with("schema", r#"{"version":2}"#),
        &[("schema", format)],
    );
    assert_findings(&[], &[]);
    for entry in state.entries.iter().filter(|entry| entry.key != "schema") {
        let key = match entry.key.starts_with("token/") {
            true => "token/abababab…",
            false => &entry.key,
        };
        assert_findings(&state.with(&entry.key, "{hunter2"), &[(key, readable)]);
        let newer = json!({"v": 2, "secret": "hunter2"});
        assert_findings(&state.with(&entry.key, newer), &[(key, format)]);
    }
    for (from, to) in [
        (slice_path(RAW, 9), slice_path(RAW, 99)),
        (slice_path(RAW, 9), slice_path(KEYED, 9)),
        (file_path(RAW, 3), file_path(RAW, 99)),
        (
            "entity/source/1/1/orders".to_owned(),
            "entity/source/1/1/other".to_owned(),
        ),
        (format!("entity/sink/{RAW}"), format!("entity/sink/{RAW}-2")),
        (
            format!("version/sink/{RAW}/0000000002"),
            format!("version/sink/{RAW}/0000000001"),
        ),
        (
            "version/source/1/1/orders/0000000002".to_owned(),
            "version/source/1/1/orders/0000000001".to_owned(),
        ),
        (
            format!("entity/crossed/{RAW}/{}", slice_id(8)),
            format!("entity/crossed/{RAW}/{}", slice_id(9)),
        ),
        ("task/a/done".to_owned(), "task/a/other".to_owned()),
    ] {
        assert_findings(&state.with(&to, state.value(&from)), &[(&to, own)]);
    }
}

#[tokio::test]
async fn sizes_beyond_their_bounds_are_found() {
    let state = Installation::new().await;
    let size = "keys and values keep their size bounds";
    let same = "the record of the newest version is the definition itself";
    let orders = "entity/source/1/1/orders";
    let orders_version = "version/source/1/1/orders/0000000002";
    for (field, length) in [("name", 41), ("description", 4097)] {
        let long = state.edited(orders, |value| value[field] = json!("é".repeat(length)));
        assert_findings(&long, &[(orders, size), (orders_version, same)]);
    }
    let raw = format!("entity/sink/{RAW}");
    let raw_version = format!("version/sink/{RAW}/0000000002");
    let wide = state.edited(&raw, |value| {
        let column = value["table"]["mapping"]["columns"][0].clone();
        value["table"]["mapping"]["columns"] = json!(vec![column; 101]);
    });
    assert_findings(&wide, &[(&raw, size), (&raw_version, same)]);
    let template = state.edited(&raw, |value| {
        let template = json!({"language": "jsonnet", "content": "x".repeat(4097)});
        value["table"]["mapping"]["columns"][0] =
            json!({"type": "template", "name": "t", "template": template});
    });
    assert_findings(&template, &[(&raw, size), (&raw_version, same)]);
    let assignment = "entity/assignment/1/1/orders";
    let many = state.edited(assignment, |value| {
        value["volumes"] = json!(vec![volume(1); 101]);
    });
    assert_findings(&many, &[(assignment, size)]);
    let sealed = slice_path(RAW, 3);
    let sessions = |count: u64| -> Value {
        let session = |n: u64| (format!("{n:016x}"), json!(u64::MAX));
        (0..count).map(session).collect()
    };
    let hours = |count: i64| -> Value {
        let hour = |n: i64| (at(n * 3600).to_string(), json!(u32::MAX));
        (1..=count).map(hour).collect()
    };
    let full = state.edited(&sealed, |value| {
        value["state"]["seal"]["sessions"] = sessions(64);
        value["state"]["seal"]["laterHours"] = hours(71);
    });
    assert_findings(&full, &[]);
    let over = state.edited(&sealed, |value| {
        value["state"]["seal"]["sessions"] = sessions(65)
    });
    assert_findings(&over, &[(&sealed, size)]);
    let over = state.edited(&sealed, |value| {
        value["state"]["seal"]["laterHours"] = hours(72)
    });
    assert_findings(&over, &[(&sealed, size)]);
    let long = state.edited(&sealed, |value| {
        value["state"]["object"] = json!("o".repeat(7168))
    });
    assert_findings(&long, &[(&sealed, size)]);
    let failed = state.edited(&slice_path(RAW, 6), |value| {
        let time = json!(at(9));
        value["retry"] = json!({
            "attempt": 1, "reason": "r".repeat(5000),
            "firstFailedAt": time, "lastFailedAt": time, "after": time,
        });
    });
    assert_findings(&failed, &[]);
    let id = "a".repeat(513);
    let task = json!({
        "v": 1, "id": id, "kind": "k", "createdAt": at(0), "status": "processing",
    });
    let key = format!("task/{id}");
    assert_findings(&state.with(&key, task), &[(&key, size)]);
    for key in [
        format!("entity/current/{RAW}"),
        format!("entity/removed/{RAW}"),
        format!("entity/crossed/{RAW}/{}", slice_id(8)),
        incarnation_path(1),
        format!("volume/registration/{}", volume(1)),
        format!("volume/figures/{}", volume(1)),
        "node/api/n".to_owned(),
        assignment.to_owned(),
    ] {
        let padded = state.edited(&key, |value| value["later"] = json!("x".repeat(32 << 10)));
        assert_findings(&padded, &[(&key, size)]);
    }
}

#[tokio::test]
async fn broken_rules_of_definitions_are_found() {
    let state = Installation::new().await;
    let parent = "what others belong to exists";
    for key in ["entity/source/1/1/orders", "entity/source/1/1/old"] {
        assert_findings(&state.without(key), &[(key, parent)]);
    }
    let raw = format!("entity/sink/{RAW}");
    assert_findings(&state.without(&raw), &[(&raw, parent)]);
    let volumes = json!({"v": 1, "volumes": [volume(1)]});
    assert_findings(
        &state.with("entity/assignment/1/1/nobody", volumes),
        &[("entity/source/1/1/nobody", parent)],
    );

    let gone = "entity/sink/1/1/old/gone";
    let revived = state.edited(gone, |value| {
        value.as_object_mut().expect("an object").remove("deleted");
    });
    assert_findings(&revived, &[(gone, "a live sink belongs to a live source")]);

    let newest = format!("version/sink/{RAW}/0000000002");
    assert_findings(
        &state.without(&newest),
        &[(&newest, "the newest version of a definition has a record")],
    );
    let differs = state.edited(&newest, |value| value["name"] = json!("other"));
    let same = "the record of the newest version is the definition itself";
    assert_findings(&differs, &[(&newest, same)]);
    let later = format!("version/sink/{RAW}/0000000003");
    let mut value = state.value(&newest);
    value["version"]["number"] = json!(3);
    assert_findings(
        &state.with(&later, value),
        &[(&later, "no version is later than its definition")],
    );
    let dense = "the kept versions of a definition have no gaps";
    assert_findings(
        &state.without("version/source/1/1/orders/0000000001"),
        &[("entity/source/1/1/orders", dense)],
    );
    let recorded = "the version of the sink under which a file was opened has a record";
    assert_findings(
        &state.without(&format!("version/sink/{RAW}/0000000001")),
        &[
            (&file_path(RAW, 2), recorded),
            (&file_path(RAW, 3), recorded),
            (&file_path(RAW, 4), recorded),
            (&raw, dense),
        ],
    );
}

#[tokio::test]
async fn too_many_live_siblings_are_found() {
    let state = Installation::new().await;
    let limit = "at most 100 siblings live";
    let with_copies = |sinks: usize, sources: usize| {
        let mut entries = state.entries.clone();
        let mut copy = |from: &str, to: String, field: &str, name: &str| {
            let mut value = state.value(from);
            value["key"][field] = json!(name);
            let value = value.to_string().into_bytes();
            let (key, revision) = (to, 1000);
            entries.push(Entry {
                key,
                value,
                revision,
            });
        };
        for n in 0..sinks {
            let name = format!("copy-{n}");
            let to = |kind: &str| format!("{kind}/sink/1/1/orders/{name}");
            copy(&format!("entity/sink/{KEYED}"), to("entity"), "sink", &name);
            let version = format!("{}/0000000001", to("version"));
            copy(
                &format!("version/sink/{KEYED}/0000000001"),
                version,
                "sink",
                &name,
            );
        }
        for n in 0..sources {
            let name = format!("copy-{n}");
            for from in [
                "entity/source/1/1/orders",
                "version/source/1/1/orders/0000000001",
                "version/source/1/1/orders/0000000002",
            ] {
                copy(from, from.replace("orders", &name), "source", &name);
            }
        }
        entries
    };
    // With raw and keyed, with orders; the deleted ones do not count.
    assert_findings(&with_copies(98, 99), &[]);
    assert_findings(&with_copies(99, 0), &[("entity/source/1/1/orders", limit)]);
    assert_findings(&with_copies(0, 100), &[("entity/source/1/1", limit)]);
}

#[tokio::test]
async fn broken_rules_of_files_are_found() {
    let state = Installation::new().await;
    let current = format!("entity/current/{RAW}");
    let names = "current names the writing file of its sink, and exists as long as there is one";
    let exists = "a file that is named exists";
    let complete = "a writing file has a writing slice on each of its volumes";
    let order =
        "files of a table with a primary key are imported in the order in which they were opened";
    assert_findings(&state.without(&current), &[(&current, names)]);
    let closed = state.edited(&current, |value| value["file"] = json!(file_id(3)));
    assert_findings(&closed, &[(&current, names)]);
    let unknown = state.edited(&current, |value| value["file"] = json!(file_id(77)));
    assert_findings(
        &unknown,
        &[(&current, names), (&file_path(RAW, 77), exists)],
    );
    let second = state.edited(&file_path(KEYED, 12), |value| {
        value["state"] = json!({"name": "writing"});
    });
    assert_findings(
        &second,
        &[
            (
                &format!("entity/current/{KEYED}"),
                "a sink has at most one writing file",
            ),
            (&file_path(KEYED, 12), complete),
        ],
    );
    for file in [2, 3] {
        let key = file_path(RAW, file);
        assert_findings(&state.without(&key), &[(&key, exists)]);
    }
    let key = file_path(RAW, 4);
    assert_findings(&state.without(&key), &[(&key, exists)]);
    assert_findings(&state.without(&slice_path(RAW, 9)), &[(&key, complete)]);

    let key = file_path(RAW, 3);
    let table = state.edited(&key, |value| value["table"]["tableId"] = json!("other"));
    assert_findings(
        &table,
        &[(&key, "a file has the table of its mapping version")],
    );

    let key = file_path(RAW, 2);
    let uploaded = "a file is imported only when all its slices are uploaded";
    let unsealed = state.edited(&slice_path(RAW, 3), |value| {
        let closing = value["state"]["closing"].clone();
        value["state"] = closing;
        value["state"]["name"] = json!("closing");
    });
    assert_findings(&unsealed, &[(&key, uploaded)]);
    let fewer = state.edited(&key, |value| value["state"]["rows"] = json!(2));
    let rows = "an imported file counts at least the rows of its slices";
    assert_findings(&fewer, &[(&key, rows)]);

    let key = file_path(KEYED, 12);
    let early = state.edited(&key, |value| {
        let times = [at(5), at(8)];
        value["state"] = json!({"name": "importing", "closingAt": times[0], "at": times[1]});
    });
    assert_findings(&early, &[(&key, uploaded), (&key, order)]);
}

#[tokio::test]
async fn files_that_were_imported_in_the_wrong_order_are_found_by_their_revisions() {
    let state = Installation::new().await;
    let imported_at = |older: i64, younger: i64| {
        let mut entries = state.entries.clone();
        for entry in &mut entries {
            let is = |n: u8| entry.key == file_path(KEYED, n);
            let (rows, revision) = match (is(11), is(12)) {
                (true, _) => (1, older),
                (_, true) => (0, younger),
                _ => continue,
            };
            let mut value = state.value(&entry.key);
            value["state"] = json!({
                "name": "imported", "closingAt": at(5), "importingAt": at(8), "at": at(9), "rows": rows,
            });
            entry.value = value.to_string().into_bytes();
            entry.revision = revision;
        }
        // Slice 12 has no rows.
        entries.retain(|entry| entry.key != slice_path(KEYED, 12));
        entries
    };
    let order =
        "files of a table with a primary key are imported in the order in which they were opened";
    assert_findings(&imported_at(500, 501), &[]);
    assert_findings(&imported_at(501, 500), &[(&file_path(KEYED, 12), order)]);
}

#[tokio::test]
async fn broken_rules_of_slices_are_found() {
    let state = Installation::new().await;
    let key = slice_path(RAW, 7);
    let foreign = state.edited(&key, |value| value["file"] = json!(file_id(12)));
    assert_findings(&foreign, &[(&key, "a slice is in a file of its own sink")]);
    let mapping = state.edited(&key, |value| value["mappingVersion"] = json!(2));
    assert_findings(
        &mapping,
        &[(&key, "a slice has the mapping version of its file")],
    );
    let fork = state.edited(&key, |value| {
        value["state"]["successor"] = json!(slice_id(8))
    });
    assert_findings(
        &fork,
        &[(
            &slice_path(RAW, 8),
            "a slice is the successor of at most one slice",
        )],
    );

    let (key, mut copy) = (slice_path(RAW, 99), state.value(&slice_path(RAW, 9)));
    copy["id"] = json!(slice_id(99));
    assert_findings(
        &state.with(&key, copy),
        &[(&key, "a file has at most one writing slice on a volume")],
    );

    let key = slice_path(KEYED, 12);
    let own = "a slice that cannot have moved is on a volume of its file";
    let elsewhere = state.edited(&key, |value| value["volume"] = json!(volume(2)));
    assert_findings(&elsewhere, &[(&key, own)]);
    let lost = state.edited(&key, |value| {
        value["state"]["successor"] = json!(slice_id(77))
    });
    let successor = "a slice whose rows stay in order has the successor that it names";
    assert_findings(&lost, &[(&key, successor)]);
    let fewer = state.edited(&file_path(RAW, 4), |value| {
        value["volumes"] = json!([volume(1)])
    });
    assert_findings(&fewer, &[(&slice_path(RAW, 9), own)]);

    let key = slice_path(RAW, 3);
    let no_object = state.edited(&key, |value| {
        value["state"]
            .as_object_mut()
            .expect("an object")
            .remove("object");
    });
    assert_findings(
        &no_object,
        &[(
            &key,
            "only a slice without rows is uploaded without an object",
        )],
    );
    let later = state.edited(&key, |value| {
        value["state"]["seal"]["incarnation"] = json!(2)
    });
    let sealed_by = "no slice was sealed by a later incarnation than its volume has";
    assert_findings(&later, &[(&key, sealed_by)]);
    let key = slice_path(RAW, 6);
    let empty = state.edited(&key, |value| {
        value["state"]["seal"]["figures"]["rows"] = json!(0)
    });
    assert_findings(&empty, &[(&key, "a sealed slice without rows is uploaded")]);
}

#[tokio::test]
async fn what_the_verbs_may_leave_is_no_finding() {
    let state = Installation::new().await;
    // A late slice moved to a file on other volumes.
    let moved = state.edited(&file_path(RAW, 3), |value| {
        value["volumes"] = json!([volume(1)])
    });
    assert_findings(&moved, &[]);
    // A later file was imported and removed while an earlier one waits.
    assert_findings(
        &state.edited(&slice_path(RAW, 7), |value| {
            value["state"]["successor"] = json!(slice_id(77));
        }),
        &[],
    );
    // A large file is closed slice by slice.
    let chunk = state.edited(&slice_path(RAW, 7), |value| {
        value["state"] = json!({"name": "writing"})
    });
    assert_findings(&chunk, &[]);
    // A file that is being removed.
    assert_findings(&state.without(&slice_path(RAW, 3)), &[]);
}

#[tokio::test]
async fn broken_rules_of_limits_volumes_and_tasks_are_found() {
    let state = Installation::new().await;
    let writing = "only a writing slice has reached a limit, on its own volume";
    let path = |n: u8| format!("entity/crossed/{RAW}/{}", slice_id(n));
    for n in [7, 77] {
        let mut value = state.value(&path(8));
        value["slice"] = json!(slice_id(n));
        assert_findings(&state.with(&path(n), value), &[(&path(n), writing)]);
    }
    let elsewhere = state.edited(&path(8), |value| value["volume"] = json!(volume(2)));
    assert_findings(&elsewhere, &[(&path(8), writing)]);

    let key = incarnation_path(2);
    assert_findings(
        &state.without(&key),
        &[(&key, "a volume with slices has an incarnation")],
    );
    let key = format!("volume/registration/{}", volume(1));
    let later = state.edited(&key, |value| value["incarnation"] = json!(2));
    let recorded = "an open volume has no later incarnation than is recorded";
    assert_findings(&later, &[(&key, recorded)]);

    let ended = "a task has the time of its end when it has ended, and only then";
    let endless = state.edited("task/a/done", |value| {
        value
            .as_object_mut()
            .expect("an object")
            .remove("finishedAt");
    });
    assert_findings(&endless, &[("task/a/done", ended)]);
    let early = state.edited("task/a/now", |value| value["finishedAt"] = json!(at(1)));
    assert_findings(&early, &[("task/a/now", ended)]);
    let stuck = |entries: &[Entry], seconds: i64| -> Vec<String> {
        let findings = audit::check(entries, at(seconds));
        findings.into_iter().map(|finding| finding.key).collect()
    };
    assert!(stuck(&state.entries, 3600).is_empty());
    assert_eq!(stuck(&state.entries, 3602), ["task/a/now"]);
    assert!(stuck(&state.without("node/api/n"), 3602).is_empty());
}

#[tokio::test]
async fn the_tree_shows_everything_and_no_secret() {
    let state = Installation::new().await;
    let mut entries = state.with(
        "entity/source/1/1/odd",
        json!({"v": 2, "secret": "hunter2"}),
    );
    entries.push(Entry {
        key: "token/hunter2".to_owned(),
        value: b"{}".to_vec(),
        revision: 1,
    });
    let snapshot = Snapshot {
        revision: 77,
        entries,
    };
    let tree = audit::tree(&snapshot, at(100));
    for text in [
        "keys at revision 77".to_owned(),
        "project 1, branch 1".to_owned(),
        "  source orders: \"orders\", version 2 made 1m40s ago, enabled".to_owned(),
        format!("    volumes: {}, {}", volume(1), volume(2)),
        "sink gone: \"gone\", version 1 made 1m40s ago, deleted 1m40s ago".to_owned(),
        "sink keyed: \"keyed\", version 1 made 1m40s ago, enabled, sqlite table orders with 1 columns, primary key body".to_owned(),
        "      cleaned up: 3 rows, 9 B (30 B uncompressed)".to_owned(),
        format!("      file {}: imported, 3 rows, committed 1m31s ago, opened 1m40s ago", file_id(2)),
        format!("      file {}, current: writing, opened 1m40s ago, mapping version 1", file_id(4)),
        format!("        slice {}: writing, reached size 1m31s ago", slice_id(8)),
        format!("uploaded, closed by count 1m35s ago, successor {}, 2 rows, 6 B (20 B uncompressed), objects/3 1m33s ago", slice_id(5)),
        format!("  {}: incarnation 1 by n, recovered, open on n as default/local, 3 slices", volume(1)),
        format!("  {}: incarnation 1 by n, not recovered yet, not open", volume(2)),
        "  api on n: version 1.0, started 1m40s ago, api 127.0.0.1:8000".to_owned(),
        "  a/done: success, created 1m40s ago".to_owned(),
        "  tok: admin, \"for tests\", created 1m40s ago".to_owned(),
        "  entity/source/1/1/odd: it has format 2, this version reads up to 1".to_owned(),
        "  token/***: it is none of them".to_owned(),
        "locks\n  some/thing: held by node n".to_owned(),
    ] {
        assert!(tree.contains(&text), "{text:?} is not in:\n{tree}");
    }
    let lines = audit::json_lines(&snapshot);
    assert_eq!(lines.lines().count(), snapshot.entries.len());
    for text in [&tree, &lines] {
        assert!(
            !text.contains(SECRET) && !text.contains("hunter2"),
            "{text}"
        );
        assert!(!text.contains(&"ab".repeat(32)), "{text}");
    }
    let line = |key: &str| -> Value {
        let mut parsed = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        parsed
            .find(|line: &Value| line["key"] == key)
            .expect("is there")
    };
    let source = line("entity/source/1/1/orders");
    assert_eq!(
        source["value"]["kind"],
        json!({"type": "http", "secret": "***"})
    );
    assert_eq!(source["value"]["v"], 1);
    let version = line("version/source/1/1/orders/0000000001");
    assert_eq!(version["value"]["kind"]["secret"], "***");
    assert_eq!(line("schema")["value"], json!({"version": 1}));
    assert_eq!(
        line(&slice_path(RAW, 8))["value"],
        state.value(&slice_path(RAW, 8))
    );
    let odd = line("entity/source/1/1/odd");
    assert!(
        odd["value"].is_null() && odd["unreadable"].is_string(),
        "{odd}"
    );
}

#[tokio::test]
async fn looking_at_an_empty_namespace_writes_nothing() {
    on_every_server(async |mut fixture| {
        let namespace = format!("{}-empty", fixture.namespace);
        let store = Store::open_existing(fixture.client.clone(), &namespace)
            .await
            .expect("opens");
        let snapshot = store.snapshot().await.expect("read");
        assert!(snapshot.entries.is_empty(), "{:?}", snapshot.entries);
        assert!(snapshot.revision > 0);
        let key = format!("{namespace}/schema");
        let found = fixture.client.get(key.clone(), None).await.expect("read");
        assert_eq!(found.count(), 0);
        fixture
            .client
            .put(key, r#"{"version":2}"#, None)
            .await
            .expect("puts");
        let error = Store::open_existing(fixture.client.clone(), &namespace)
            .await
            .expect_err("is newer");
        assert!(
            matches!(error, StateError::NewerFormat { found: 2, .. }),
            "{error}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_snapshot_of_many_pages_is_of_one_revision() {
    on_every_server(async |mut fixture| {
        // More than two pages, all of which change while they are read. The last page must not be newer than the first.
        let round = async |fixture: &mut Fixture, n: u64| {
            for chunk in 0..12 {
                let puts: Vec<etcd_client::TxnOp> = (0..100)
                    .map(|i| {
                        let key = format!("{}/odd/{:04}", fixture.namespace, chunk * 100 + i);
                        etcd_client::TxnOp::put(key, n.to_string(), None)
                    })
                    .collect();
                let txn = etcd_client::Txn::new().and_then(puts);
                fixture.client.txn(txn).await.expect("puts");
            }
        };
        round(&mut fixture, 0).await;
        let store = fixture.store.clone();
        let writer = async {
            for n in 1..20 {
                round(&mut fixture, n).await;
            }
        };
        let reader = async {
            for _ in 0..10 {
                let snapshot = store.snapshot().await.expect("read");
                assert_eq!(snapshot.entries.len(), 1201);
                assert!(snapshot.entries.is_sorted_by(|a, b| a.key < b.key));
                let newest = snapshot.entries.iter().map(|entry| entry.revision).max();
                assert!(newest <= Some(snapshot.revision), "{newest:?}");
                // Whole transactions, in the order in which they were written.
                let values: Vec<u64> = snapshot
                    .entries
                    .iter()
                    .filter(|entry| entry.key.starts_with("odd/"))
                    .map(|entry| {
                        String::from_utf8_lossy(&entry.value)
                            .parse()
                            .expect("a number")
                    })
                    .collect();
                for chunk in values.chunks(100) {
                    assert!(chunk.iter().all(|value| *value == chunk[0]), "{chunk:?}");
                }
                assert!(values.is_sorted_by(|a, b| a >= b), "{values:?}");
            }
        };
        tokio::join!(writer, reader);
    })
    .await;
}
