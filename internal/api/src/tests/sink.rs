//! Sinks and their statistics.

use std::time::Duration;

use serde_json::{Value, json};
use stream_model::slice::{Kind, Slice, State};
use stream_model::statistics::{Crossed, Figures};
use stream_model::trigger::Reason;
use stream_model::{BranchId, BranchKey, Clock, ProjectId, SinkKey, SourceKey, VolumeId};
use stream_state::Registration;

use super::world::{PATIENCE, SINKS, World, sink_body};

pub(super) fn sink_key(sink: &str) -> SinkKey {
    let branch = BranchKey {
        project: ProjectId(1),
        branch: BranchId(1),
    };
    let source = SourceKey {
        branch,
        source: "orders".parse().expect("an id"),
    };
    SinkKey {
        source,
        sink: sink.parse().expect("an id"),
    }
}

pub(super) async fn register_volume(world: &World, volume: VolumeId) {
    let lease = world
        .base
        .store
        .grant_lease(PATIENCE)
        .await
        .expect("granted");
    let registration = Registration {
        node: "n1".parse().expect("a node"),
        kind: "default".to_owned(),
        label: "local".to_owned(),
        incarnation: 1,
    };
    let store = &world.base.store;
    store
        .register_volume(&lease, volume, registration)
        .await
        .expect("registered");
}

#[tokio::test]
async fn a_created_sink_is_shown_as_clients_expect() {
    let world = World::start().await;
    world.source("Orders").await;
    let table = json!({
        "type": "sqlite", "tableId": "in.c-my-bucket.my-table",
        "mapping": {"columns": [
            {"type": "uuid", "name": "id", "primaryKey": true},
            {"type": "path", "path": "a.b[0]", "defaultValue": "", "rawString": true, "name": "b"},
            {"type": "template", "template": {"language": "jsonnet", "content": "Body('a')"}, "name": "t"},
        ]},
    });
    let body = json!({"name": "My Sink", "type": "table", "table": table, "allowedSignals": []});
    let task = world.client.done("POST", SINKS, body).await;
    assert_eq!(task["type"], "api.create.sink");
    assert_eq!(
        task["outputs"],
        json!({
            "url": "https://stream.example.com/v1/branches/1/sources/orders/sinks/my-sink",
            "projectId": 1, "branchId": 1, "sourceId": "orders", "sinkId": "my-sink",
        })
    );
    let sink = world.client.get(&format!("{SINKS}/my-sink")).await.json();
    let (at, by) = ("2026-01-01T00:00:00.000Z", &sink["created"]["by"]);
    assert_eq!(
        sink,
        json!({
            "projectId": 1, "branchId": 1, "sourceId": "orders", "sinkId": "my-sink",
            "type": "table", "name": "My Sink", "description": "", "table": table,
            "version": {
                "number": 1, "hash": sink["version"]["hash"], "description": "New sink.",
                "at": at, "by": by,
            },
            "created": {"at": at, "by": by},
        })
    );
    let list = world.client.get(SINKS).await.json();
    assert_eq!(
        list,
        json!({
            "projectId": 1, "branchId": 1, "sourceId": "orders",
            "page": {"limit": 100, "totalCount": 1, "afterId": "", "lastId": "my-sink"},
            "sinks": [sink],
        })
    );
    world.stop().await.expect("stopped");
}

/// Creates sinks that must all be refused, each with its error name and a text in the message.
async fn refuses(cases: Vec<(Value, &str, &str)>) {
    let world = World::start().await;
    world.source("Orders").await;
    for (body, name, says) in cases {
        let reply = world.client.send("POST", SINKS, Some(body.clone())).await;
        assert_eq!(
            reply.refusal(),
            (400, format!("stream.api.{name}")),
            "{body}"
        );
        let message = reply.json()["message"].as_str().expect("a text").to_owned();
        assert!(message.contains(says), "{body}: {message}");
    }
    let list = world.client.get(SINKS).await.json();
    assert_eq!(list["page"]["totalCount"], 0);
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn mistakes_in_a_new_sink_are_named_with_the_field() {
    let table = |table: Value| json!({"type": "table", "name": "S", "table": table});
    let sink = |field: &str, value: &str| {
        let mut body = sink_body("S");
        body[field] = json!(value);
        body
    };
    let columns = json!({"columns": [{"type": "uuid", "name": "id"}]});
    let empty = json!({"columns": []});
    let typed = |kind: &str| table(json!({"type": kind, "tableId": "t", "mapping": columns}));
    refuses(vec![
        (
            sink("type", "foo"),
            "invalidEnumValue",
            "\"body.type\" must be one of \"table\"",
        ),
        (sink("name", ""), "invalidLength", "body.name"),
        (sink("sinkId", ""), "invalidLength", "body.sinkId"),
        (sink("nmae", "S"), "badRequest", "body.nmae"),
        (
            json!({"type": "table", "name": "S"}),
            "missingField",
            "body.table",
        ),
        (
            table(json!({"tableId": "t"})),
            "missingField",
            "body.table.mapping",
        ),
        (
            table(json!({"mapping": columns})),
            "missingField",
            "body.table.tableId",
        ),
        (
            table(json!({"tableId": "t", "mapping": empty})),
            "invalidLength",
            "1 to 100",
        ),
        (
            table(json!({"tableId": "sqlite_x", "mapping": columns})),
            "badRequest",
            "reserved",
        ),
        (
            table(json!({"tableId": "t", "mapping": columns, "x": 1})),
            "badRequest",
            "body.table.x",
        ),
        (typed("mysql"), "invalidEnumValue", "\"postgres\""),
        (typed("keboola"), "badRequest", "use one of \"sqlite\""),
        (typed("postgres"), "badRequest", "use one of \"sqlite\""),
    ])
    .await;
}

#[tokio::test]
async fn mistakes_in_a_mapping_are_named_with_the_column() {
    let column = |column: Value| {
        let mut body = sink_body("S");
        let columns = body["table"]["mapping"]["columns"]
            .as_array_mut()
            .expect("a list");
        columns.push(column);
        body
    };
    let ip = |field: &str, value: &str| {
        let mut ip = json!({"type": "ip", "name": "x"});
        ip[field] = json!(value);
        column(ip)
    };
    let path = |path: Value| column(json!({"type": "path", "name": "x", "path": path}));
    let template = |content: &str| {
        let template = json!({"language": "jsonnet", "content": content});
        column(json!({"type": "template", "name": "x", "template": template}))
    };
    refuses(vec![
        (
            ip("type", "uid"),
            "invalidEnumValue",
            "\"uuid\", \"datetime\"",
        ),
        (ip("pth", "a"), "badRequest", "columns[1].pth"),
        (
            ip("dataType", "int"),
            "badRequest",
            "\"x\": its values are never of data type int",
        ),
        (
            ip("dataType", "integer"),
            "invalidEnumValue",
            "\"timestamp\"",
        ),
        (ip("name", "BODY"), "badRequest", "\"BODY\""),
        (ip("name", ""), "invalidLength", "columns[1].name"),
        (path(Value::Null), "missingField", "columns[1].path"),
        (path(json!("a..b")), "badRequest", "\"x\""),
        (
            template("Invalid()"),
            "badRequest",
            "Column \"x\": the template is invalid: 1:1-8 undefined local: Invalid.",
        ),
        (template("Body('a') +"), "badRequest", "1:12 syntax error"),
        (template(""), "invalidLength", "template.content"),
        (
            template(&"x".repeat(4097)),
            "invalidLength",
            "template.content",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_sink_of_an_unknown_source_is_refused() {
    let world = World::start().await;
    let not_found = (404, "stream.api.sourceNotFound".to_owned());
    let body = || Some(sink_body("Raw"));
    assert_eq!(world.client.refused("POST", SINKS, body()).await, not_found);
    assert_eq!(world.client.refused("GET", SINKS, None).await, not_found);
    let statistics = format!("{SINKS}/raw/statistics/total");
    assert_eq!(
        world.client.refused("GET", &statistics, None).await,
        not_found
    );
    world.source("Orders").await;
    let not_found = (404, "stream.api.sinkNotFound".to_owned());
    for path in ["", "/settings", "/statistics/total", "/rejected"] {
        let path = format!("{SINKS}/raw{path}");
        assert_eq!(
            world.client.refused("GET", &path, None).await,
            not_found,
            "{path}"
        );
    }
    assert_eq!(
        world
            .client
            .refused("DELETE", &format!("{SINKS}/raw"), None)
            .await,
        not_found
    );
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_second_creation_is_refused_while_the_first_one_runs() {
    let world = World::start().await;
    world.source("Orders").await;
    let gate = world.base.target.close().await;
    let first = world
        .client
        .send("POST", SINKS, Some(sink_body("Raw")))
        .await
        .json();
    world.base.target.arrived(1).await;
    let exists = (409, "stream.api.sinkAlreadyExists".to_owned());
    let body = || Some(sink_body("Raw"));
    assert_eq!(world.client.refused("POST", SINKS, body()).await, exists);
    let id = first["taskId"].as_str().expect("an id");
    let task = world.client.get(&format!("/v1/tasks/{id}")).await.json();
    assert_eq!(task["status"], "processing");
    drop(gate);
    assert_eq!(world.client.ended(id).await["status"], "success");
    assert_eq!(world.client.refused("POST", SINKS, body()).await, exists);
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_task_that_fails_says_why_and_leaves_no_sink() {
    let world = World::start().await;
    world.source("Orders").await;
    world.sink("Raw").await;
    let mut other_key = sink_body("Raw");
    other_key["name"] = json!("Other");
    other_key["table"]["mapping"]["columns"][0]["primaryKey"] = json!(true);
    let task = world.client.finished("POST", SINKS, other_key).await;
    assert_eq!(task["status"], "error");
    assert!(
        task["error"]
            .as_str()
            .expect("a reason")
            .contains("table Raw"),
        "{task}"
    );
    assert!(
        task.get("outputs").is_none() && task.get("result").is_none(),
        "{task}"
    );
    let sink = world
        .client
        .refused("GET", &format!("{SINKS}/other"), None)
        .await;
    assert_eq!(sink.0, 404);
    world
        .client
        .done("POST", SINKS, {
            let mut body = sink_body("Second table");
            body["name"] = json!("Other");
            body
        })
        .await;
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_new_sink_takes_rows_at_once_on_the_volumes_of_its_source() {
    let world = World::start().await;
    world.source("Orders").await;
    world.sink("Early").await;
    let key = sink_key("raw");
    let volume = VolumeId::from_bytes([7; 16]);
    register_volume(&world, volume).await;
    world.sink("Raw").await;
    let opened = |key: SinkKey| {
        world.base.mirror.read(move |topology| {
            let sink = topology
                .sink(&key)
                .expect("mirrored when the task has ended");
            let on = |kind: Kind| -> Vec<VolumeId> {
                let slices = sink.slices.values();
                let slices = slices.filter(|slice| slice.value.kind == kind);
                slices.map(|slice| slice.value.volume).collect()
            };
            // What the sink rejects is kept where its rows are.
            assert_eq!(on(Kind::Rows), on(Kind::Rejects));
            (sink.current.is_some(), on(Kind::Rows))
        })
    };
    assert_eq!(
        opened(sink_key("early")),
        (false, vec![]),
        "there was no volume"
    );
    assert_eq!(opened(key.clone()), (true, vec![volume]));
    // Another volume does not change where the source is.
    register_volume(&world, VolumeId::from_bytes([1; 16])).await;
    world.sink("Late").await;
    assert_eq!(opened(sink_key("late")), (true, vec![volume]));
    // Over a deleted sink whose file is not closed yet there is no second file.
    let path = format!("{SINKS}/raw");
    world.client.done("DELETE", &path, Value::Null).await;
    assert_eq!(world.client.refused("GET", &path, None).await.0, 404);
    world.sink("Raw").await;
    assert_eq!(opened(key), (true, vec![volume]));
    let sink = world.client.get(&path).await.json();
    assert_eq!(sink["version"]["number"], 2);
    world.stop().await.expect("stopped");
}

/// The only slice of that kind.
pub(super) fn opened(world: &World, key: &SinkKey, kind: Kind) -> Slice {
    world.base.mirror.read(|topology| {
        let sink = topology.sink(key).expect("mirrored");
        let mut slices = sink.slices.values();
        let slice = slices.find(|slice| slice.value.kind == kind);
        slice.expect("opened").value.clone()
    })
}

/// What a writer does when the slice has reached a limit, with 5 rows.
pub(super) async fn cross(world: &World, slice: &Slice) {
    let at = world.base.clock.now();
    world.base.clock.advance(Duration::from_secs(1));
    let crossed = Crossed {
        sink: slice.sink.clone(),
        slice: slice.id,
        volume: slice.volume,
        reason: Reason::Count,
        figures: Figures {
            rows: 5,
            raw_bytes: 100,
            bytes: 30,
            first_at: Some(at),
            last_at: Some(at),
        },
        later_hours: stream_model::hours::LaterHours::default(),
        at,
    };
    world.base.store.put_crossed(crossed).await.expect("stored");
}

#[tokio::test]
async fn rejected_records_are_listed_and_counted_apart_from_the_others() {
    let world = World::start().await;
    world.source("Orders").await;
    register_volume(&world, VolumeId::from_bytes([7; 16])).await;
    world.sink("Raw").await;
    let slice = opened(&world, &sink_key("raw"), Kind::Rejects);
    let path = format!("{SINKS}/raw/rejected");
    let figures = json!({"recordsCount": 0, "compressedSize": 0, "uncompressedSize": 0});
    let mut shown = json!({
        "projectId": 1, "branchId": 1, "sourceId": "orders", "sinkId": "raw",
        "page": {"limit": 100, "totalCount": 1, "afterId": "", "lastId": slice.id},
        "rejected": [{
            "sliceId": slice.id, "state": "writing", "volumeId": slice.volume,
            "compression": {"type": "zstd", "level": 1}, "openedAt": slice.opened_at,
            "statistics": figures,
        }],
    });
    assert_eq!(world.client.get(&path).await.json(), shown);
    cross(&world, &slice).await;
    let figures = json!({
        "firstRecordAt": "2026-01-01T00:00:00.000Z", "lastRecordAt": "2026-01-01T00:00:00.000Z",
        "recordsCount": 5, "compressedSize": 30, "uncompressedSize": 100,
    });
    shown["rejected"][0]["statistics"] = figures.clone();
    let reached = async { while world.client.get(&path).await.json() != shown {} };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.expect("mirrored");
    let total = format!("{SINKS}/raw/statistics/total");
    let none = json!({"recordsCount": 0, "compressedSize": 0, "uncompressedSize": 0});
    assert_eq!(
        world.client.get(&total).await.json(),
        json!({"total": none, "levels": {}, "rejected": figures})
    );
    let next = format!("{path}?limit=1&afterId={}", slice.id);
    let next = world.client.get(&next).await.json();
    assert_eq!(next["rejected"], json!([]));
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn statistics_show_what_crossed_a_limit_and_leave_out_empty_levels() {
    let world = World::start().await;
    world.source("Orders").await;
    register_volume(&world, VolumeId::from_bytes([7; 16])).await;
    world.sink("Raw").await;
    let path = format!("{SINKS}/raw/statistics/total");
    let empty = world.client.get(&path).await.json();
    assert_eq!(
        empty,
        json!({
            "total": {"recordsCount": 0, "compressedSize": 0, "uncompressedSize": 0},
            "levels": {},
        })
    );
    let key = sink_key("raw");
    let slice = opened(&world, &key, Kind::Rows);
    assert_eq!(slice.state, State::Writing);
    cross(&world, &slice).await;
    let shown = async {
        loop {
            let statistics = world.client.get(&path).await.json();
            if statistics["total"]["recordsCount"] == 5 {
                return statistics;
            }
        }
    };
    let shown = tokio::time::timeout(PATIENCE, shown)
        .await
        .expect("mirrored");
    let figures = json!({
        "firstRecordAt": "2026-01-01T00:00:00.000Z", "lastRecordAt": "2026-01-01T00:00:00.000Z",
        "recordsCount": 5, "compressedSize": 30, "uncompressedSize": 100,
    });
    assert_eq!(
        shown,
        json!({"total": figures, "levels": {"local": figures}})
    );
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn sinks_come_in_pages() {
    let world = World::start().await;
    world.source("Orders").await;
    for number in 1..=5 {
        world.sink(&format!("My Sink {number}")).await;
    }
    let page = |query: &str| {
        let (client, path) = (world.client.clone(), format!("{SINKS}{query}"));
        async move {
            let page = client.get(&path).await.json();
            let ids: Vec<String> = page["sinks"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|sink| sink["sinkId"].as_str().expect("an id").to_owned())
                .collect();
            (page["page"].clone(), ids)
        }
    };
    let (position, ids) = page("?limit=2").await;
    assert_eq!(
        position,
        json!({"limit": 2, "totalCount": 5, "afterId": "", "lastId": "my-sink-2"})
    );
    assert_eq!(ids, ["my-sink-1", "my-sink-2"]);
    assert_eq!(page("?limit=2&afterId=my-sink-4").await.1, ["my-sink-5"]);
    let (position, ids) = page("?limit=2&afterId=my-sink-5").await;
    assert_eq!((position["lastId"].as_str(), ids.len()), (Some(""), 0));
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn cleared_statistics_begin_with_nothing() {
    let world = World::start().await;
    world.source("Orders").await;
    register_volume(&world, VolumeId::from_bytes([7; 16])).await;
    world.sink("Raw").await;
    world.sink("Other").await;
    let count = |sink: &str| {
        let (client, path) = (
            world.client.clone(),
            format!("{SINKS}/{sink}/statistics/total"),
        );
        async move {
            let total = client.get(&path).await.json();
            total["total"]["recordsCount"].as_u64().expect("a number")
        }
    };
    let files = |sink: &str| {
        let (client, path) = (
            world.client.clone(),
            format!("{SINKS}/{sink}/statistics/files"),
        );
        async move {
            let files = client.get(&path).await.json();
            files["files"].as_array().expect("a list").len()
        }
    };
    for sink in ["raw", "other"] {
        cross(&world, &opened(&world, &sink_key(sink), Kind::Rows)).await;
        let known = async { while count(sink).await != 5 {} };
        tokio::time::timeout(PATIENCE, known)
            .await
            .expect("mirrored");
        assert_eq!(files(sink).await, 1);
    }
    let path = format!("{SINKS}/raw/statistics/clear");
    let cleared = world.client.send("DELETE", &path, None).await;
    assert_eq!((cleared.status, cleared.text.as_str()), (200, ""));
    assert_eq!((count("raw").await, files("raw").await), (0, 0));
    assert_eq!((count("other").await, files("other").await), (5, 1));
    let all = "/v1/branches/default/sources/orders/statistics/clear";
    let cleared = world.client.send("DELETE", all, None).await;
    assert_eq!(cleared.status, 200);
    assert_eq!((count("other").await, files("other").await), (0, 0));
    let none = format!("{SINKS}/none/statistics/clear");
    let refused = world.client.refused("DELETE", &none, None).await;
    assert_eq!(refused, (404, "stream.api.sinkNotFound".to_owned()));
    world.stop().await.expect("stopped");
}
