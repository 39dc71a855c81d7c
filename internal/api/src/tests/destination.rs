//! Sinks with tables in projects: what is made there, what is given back, and what is left after failures.

use serde_json::{Value, json};
use stream_model::definition::{Table, TableKind};
use stream_model::{Clock, SinkKey};
use stream_tests_storage_api::{Fault, Holdings, StorageApi as Double};

use super::project::{World, projects};
use super::world::{Base, Client, PATIENCE};

const SOURCES: &str = "/v1/branches/default/sources";
const ORDERS: &str = "/v1/branches/default/sources/orders";
const SINKS: &str = "/v1/branches/default/sources/orders/sinks";
const RAW: &str = "/v1/branches/default/sources/orders/sinks/raw";
const TABLE: &str = "in.c-shop.orders";

fn body(table: &str, columns: &[&str]) -> Value {
    let columns = columns.iter();
    let columns: Vec<Value> = columns
        .map(|name| json!({"type": "body", "name": name}))
        .collect();
    json!({
        "type": "table", "name": "Raw",
        "table": {"type": "keboola", "tableId": table, "mapping": {"columns": columns}},
    })
}

fn raw() -> SinkKey {
    let key = json!({"project": 12, "branch": 112, "source": "orders", "sink": "raw"});
    serde_json::from_value(key).expect("a key")
}

async fn world() -> World {
    let world = World::start().await;
    let source = json!({"type": "http", "name": "Orders"});
    world.client.done("POST", SOURCES, source).await;
    world
}

impl World {
    fn holdings(&self) -> Holdings {
        self.double.holdings(12)
    }

    /// Nothing but tables and buckets is there, and nothing is under way.
    async fn expect_nothing_held(&self) {
        let Holdings { tokens, files, .. } = self.holdings();
        assert_eq!((tokens.len(), files.len()), (0, 0), "{tokens:?} {files:?}");
        let store = &self.base.store;
        let destination = store.destination(&raw()).await.expect("readable");
        assert_eq!(destination, None);
        let changes = store.provisionings().await.expect("readable");
        assert_eq!(changes, []);
    }

    async fn expect_settled(&self, table: &str) {
        let store = &self.base.store;
        let destination = store.destination(&raw()).await.expect("readable");
        let destination = destination.expect("it has one").value;
        assert_eq!(destination.table_id, table);
        let changes = store.provisionings().await.expect("readable");
        assert_eq!(changes, []);
        let Holdings { tokens, files, .. } = self.holdings();
        assert_eq!((tokens.len(), files.len()), (1, 1), "{tokens:?} {files:?}");
    }
}

#[tokio::test]
async fn a_sink_gets_bucket_table_token_file_and_event_and_gives_token_and_file_back() {
    let world = world().await;
    let client = &world.client;
    let task = client
        .done("POST", SINKS, body(TABLE, &["id", "body"]))
        .await;
    assert_eq!(task["outputs"]["projectId"], 12);
    let held = world.holdings();
    assert_eq!(held.buckets, ["in.c-shop"]);
    let columns = vec!["id".to_owned(), "body".to_owned()];
    assert_eq!(held.tables, [(TABLE.to_owned(), columns)]);
    assert_eq!(held.permissions, [json!({"in.c-shop": "write"})]);
    assert!(
        held.tokens[0].contains("12/112/orders/raw"),
        "{:?}",
        held.tokens
    );
    assert!(held.events[0].contains(TABLE), "{:?}", held.events);
    world.expect_settled(TABLE).await;
    let sink = client.get(RAW).await.json();
    assert_eq!(sink["table"]["type"], "keboola");
    client.done("DELETE", RAW, Value::Null).await;
    world.expect_nothing_held().await;
    assert_eq!(world.holdings().tables.len(), 1, "the rows are theirs");
    client
        .done("PUT", &format!("{RAW}/undelete"), Value::Null)
        .await;
    world.expect_settled(TABLE).await;
    world.stop().await;
}

#[tokio::test]
async fn a_source_gives_back_what_its_sinks_have_and_they_get_it_again() {
    let world = world().await;
    let client = &world.client;
    client.done("POST", SINKS, body(TABLE, &["body"])).await;
    client.done("DELETE", ORDERS, Value::Null).await;
    world.expect_nothing_held().await;
    client
        .done("PUT", &format!("{ORDERS}/undelete"), Value::Null)
        .await;
    world.expect_settled(TABLE).await;
    client
        .done("PUT", &format!("{ORDERS}/disable"), Value::Null)
        .await;
    world.expect_settled(TABLE).await;
    world.stop().await;
}

#[tokio::test]
async fn another_table_gets_another_token_and_the_old_one_goes() {
    let world = world().await;
    let client = &world.client;
    client.done("POST", SINKS, body(TABLE, &["body"])).await;
    let before = world.holdings();
    let change = json!({"description": "the same table"});
    client.done("PATCH", RAW, change).await;
    assert_eq!(world.holdings().tokens, before.tokens, "as it was");
    let other = "in.c-other.orders";
    let change = json!({"table": {"tableId": other}});
    client.done("PATCH", RAW, change.clone()).await;
    world.expect_settled(other).await;
    let held = world.holdings();
    assert_ne!(held.tokens, before.tokens);
    assert_eq!(held.permissions, [json!({"in.c-other": "write"})]);
    let back = format!("{RAW}/versions/1/rollback");
    client.done("PUT", &back, Value::Null).await;
    world.expect_settled(TABLE).await;
    // A change that fails leaves everything as it was.
    world
        .double
        .fail("POST", "files/prepare", Fault::Status(500), 1);
    let held = world.holdings();
    let task = client.finished("PATCH", RAW, change).await;
    assert_eq!(task["status"], "error");
    world.expect_settled(TABLE).await;
    assert_eq!(world.holdings().tokens, held.tokens);
    world.stop().await;
}

#[tokio::test]
async fn whatever_fails_while_a_sink_is_made_nothing_is_left() {
    let world = world().await;
    let steps = [
        ("GET", "buckets/in.c-shop"),
        ("POST", "buckets"),
        ("GET", "tables/in.c-shop.orders"),
        ("POST", "tables-definition"),
        ("GET", "jobs/"),
        ("POST", "tokens"),
        ("POST", "files/prepare"),
    ];
    for (method, path) in steps {
        for fault in [
            Fault::Refuse(403, "accessDenied"),
            Fault::CutBefore,
            Fault::CutAfter,
        ] {
            // A look is tried four times, a change once.
            let times = if method == "GET" { 4 } else { 1 };
            world.double.fail(method, path, fault, times);
            let task = world
                .client
                .finished("POST", SINKS, body(TABLE, &["body"]))
                .await;
            let case = format!("{method} {path} {fault:?}");
            assert_eq!(task["status"], "error", "{case}: {task}");
            world.double.heal();
            assert_eq!(world.client.get(RAW).await.status, 404, "{case}");
            world.expect_nothing_held().await;
            let Holdings {
                buckets, tables, ..
            } = world.holdings();
            // A job that was cut off from us goes on there: whether its table is there when it is looked for is luck.
            if path != "jobs/" && path != "tables-definition" {
                assert_eq!(
                    (buckets.len(), tables.len()),
                    (0, 0),
                    "{case}: {buckets:?} {tables:?}"
                );
            }
        }
    }
    let done = world
        .client
        .done("POST", SINKS, body(TABLE, &["body"]))
        .await;
    assert_eq!(done["status"], "success");
    world.expect_settled(TABLE).await;
    world.stop().await;
}

/// The answer to the request for the table gets lost, and the table comes whenever it is made: before it is looked for, between two
/// looks, and when its bucket is gone.
#[tokio::test]
async fn a_table_that_comes_late_leaves_nothing_either() {
    let world = world().await;
    for calls in 1..=12 {
        world.double.make_tables_after(calls);
        let (method, path) = ("POST", "tables-definition");
        world.double.fail(method, path, Fault::CutAfter, 1);
        // A bucket of its own: a later one must not get the table.
        let table = format!("in.c-shop-{calls}.orders");
        let task = world
            .client
            .finished("POST", SINKS, body(&table, &["body"]));
        assert_eq!(task.await["status"], "error", "{calls}");
        world.expect_nothing_held().await;
    }
    let Holdings {
        buckets, tables, ..
    } = world.holdings();
    assert_eq!((buckets, tables), (vec![], vec![]));
    world.stop().await;
}

#[tokio::test]
async fn the_task_says_what_the_storage_api_said() {
    let world = world().await;
    world
        .double
        .fail("POST", "tokens", Fault::Refuse(403, "accessDenied"), 1);
    let task = world
        .client
        .finished("POST", SINKS, body(TABLE, &["body"]))
        .await;
    let error = task["error"].as_str().expect("an error");
    assert_eq!(error, "Refused for the test: accessDenied.");
    world.stop().await;
}

#[tokio::test]
async fn an_existing_table_must_fit_and_is_never_removed() {
    let world = world().await;
    world.double.add_table(12, TABLE, &["id", "body"]);
    let task = world
        .client
        .finished("POST", SINKS, body(TABLE, &["body"]))
        .await;
    let error = task["error"].as_str().expect("an error");
    assert!(error.contains("column \"id\""), "{error}");
    world.expect_nothing_held().await;
    assert_eq!(world.holdings().tables.len(), 1);
    world
        .client
        .done("POST", SINKS, body(TABLE, &["body", "id"]))
        .await;
    world.expect_settled(TABLE).await;
    world.stop().await;
}

#[tokio::test]
async fn an_event_that_cannot_be_sent_is_no_failure() {
    let world = world().await;
    world.double.fail("POST", "events", Fault::Status(500), 9);
    world
        .client
        .done("POST", SINKS, body(TABLE, &["body"]))
        .await;
    world.expect_settled(TABLE).await;
    world.stop().await;
}

#[tokio::test]
async fn a_name_that_no_table_can_have_is_refused_at_once() {
    let world = world().await;
    for table in ["orders", "sys.c-a.b", "in.c-a.b.c"] {
        let (status, name) = world
            .client
            .refused("POST", SINKS, Some(body(table, &["body"])))
            .await;
        assert_eq!(
            (status, name.as_str()),
            (400, "stream.api.badRequest"),
            "{table}"
        );
    }
    let mut typed = body(TABLE, &["body"]);
    typed["table"]["mapping"]["columns"][0]["dataType"] = json!("int");
    let (status, _) = world.client.refused("POST", SINKS, Some(typed)).await;
    assert_eq!(status, 400);
    world.stop().await;
}

/// What is left over while the Storage API is away goes when it is back, by itself.
#[tokio::test]
async fn what_could_not_be_undone_is_undone_later_by_another_process() {
    let World {
        base,
        api,
        double,
        tokens,
        ..
    } = world().await;
    let client = Client {
        address: api.local_addr(),
        token: Some(tokens.admin.clone()),
    };
    double.fail("POST", "files/prepare", Fault::Status(500), 1);
    double.fail("DELETE", "", Fault::Refuse(403, "accessDenied"), usize::MAX);
    let task = client.finished("POST", SINKS, body(TABLE, &["body"])).await;
    assert_eq!(task["status"], "error");
    assert_eq!(double.holdings(12).tokens.len(), 1);
    let left = base.store.provisionings().await.expect("readable");
    assert_eq!(left.len(), 1);
    let stored = format!("{:?}", left[0].1.value);
    assert!(!stored.contains("secret"), "{stored}");
    api.stop(PATIENCE).await.expect("stopped");
    double.heal();
    let api = base.api_with(Some(projects(&double))).await;
    until(async || {
        let left = base.store.provisionings().await.expect("readable");
        left.is_empty()
    })
    .await;
    let Holdings {
        buckets,
        tables,
        tokens,
        files,
        ..
    } = double.holdings(12);
    let left = (buckets.len(), tables.len(), tokens.len(), files.len());
    assert_eq!(left, (0, 0, 0, 0));
    api.stop(PATIENCE).await.expect("stopped");
    base.background.stop(PATIENCE).await.expect("stopped");
}

/// A crash right after the sink was stored: the new process keeps what was made.
#[tokio::test]
async fn a_change_whose_sink_was_stored_is_finished() {
    let world = world().await;
    world
        .client
        .done("POST", SINKS, body(TABLE, &["body"]))
        .await;
    let World {
        base, api, double, ..
    } = world;
    api.stop(PATIENCE).await.expect("stopped");
    // Back to the moment before it was settled.
    let store = &base.store;
    let has = store
        .destination(&raw())
        .await
        .expect("readable")
        .expect("there");
    let change = json!({
        "beganAt": base.clock.now(), "mark": "x", "owner": "unused", "tableId": TABLE,
        "bucket": "made", "table": "made", "token": has.value.token, "file": has.value.file,
    });
    let change = serde_json::from_value(change).expect("a change");
    let change = store
        .begin_provisioning(&raw(), change)
        .await
        .expect("begun");
    let change = store
        .retire_destination(&raw(), &change)
        .await
        .expect("retired");
    let mut value = change.value.clone();
    value.replaced = None;
    value.owner = owner_of(&double);
    store
        .update_provisioning(&raw(), &change, value)
        .await
        .expect("changed");
    let api = base.api_with(Some(projects(&double))).await;
    until(async || {
        let left = base.store.provisionings().await.expect("readable");
        left.is_empty()
    })
    .await;
    let kept = store.destination(&raw()).await.expect("readable");
    assert_eq!(kept.expect("there").value, has.value);
    let Holdings {
        tables,
        tokens,
        files,
        ..
    } = double.holdings(12);
    assert_eq!((tables.len(), tokens.len(), files.len()), (1, 1, 1));
    api.stop(PATIENCE).await.expect("stopped");
    base.background.stop(PATIENCE).await.expect("stopped");
}

/// The token of an admin of the project, sealed as by the API.
fn owner_of(double: &Double) -> stream_model::destination::Sealed {
    let admin = stream_model::Secret::new(double.add_project(12).admin);
    let place = "provisioning/12/112/orders/raw#owner";
    projects(double)
        .custody
        .seal(place, &admin)
        .expect("sealed")
}

async fn until(condition: impl AsyncFn() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("in time");
}

#[tokio::test]
async fn settings_of_such_sinks_are_those_that_existing_clients_know() {
    let world = world().await;
    let client = &world.client;
    client.done("POST", SINKS, body(TABLE, &["body"])).await;
    for path in [ORDERS, RAW] {
        let settings = client.get(&format!("{path}/settings")).await.json();
        assert_eq!(
            settings["settings"].as_array().map(Vec::len),
            Some(27),
            "{path}"
        );
    }
    let key = "storage.level.local.encoding.sync.intervalTrigger";
    let change = json!({"settings": [{"key": key, "value": "1s"}]});
    let path = format!("{RAW}/settings");
    let reply = client.send("PATCH", &path, Some(change)).await;
    assert_eq!(reply.refusal(), (403, "stream.api.forbidden".to_owned()));
    assert!(reply.text.contains(key), "{}", reply.text);
    let empty = client.done("PATCH", &path, json!({})).await;
    let url = empty["outputs"]["url"].as_str().expect("a URL");
    assert!(url.ends_with("/sinks/raw"), "{url}");
    world.stop().await;
}

#[tokio::test]
async fn a_sink_that_moves_to_another_kind_of_table_gives_back_what_it_had() {
    let world = world().await;
    world
        .client
        .done("POST", SINKS, body(TABLE, &["body"]))
        .await;
    let change = json!({"table": {"type": "sqlite", "tableId": "orders"}});
    world.client.done("PATCH", RAW, change).await;
    world.expect_nothing_held().await;
    let sink = world.base.store.sink(&raw()).await.expect("readable");
    let Table { kind, .. } = sink.expect("there").value.table;
    assert_eq!(kind, TableKind::Sqlite);
    world.stop().await;
}

#[tokio::test]
async fn a_purged_sink_takes_its_table_along_unless_another_sink_writes_to_it() {
    let world = world().await;
    let client = &world.client;
    client.done("POST", SINKS, body(TABLE, &["body"])).await;
    let mut other = body(TABLE, &["body"]);
    other["name"] = json!("Other");
    client.done("POST", SINKS, other).await;
    client
        .done("DELETE", &format!("{RAW}?cascade=true"), Value::Null)
        .await;
    assert_eq!(
        world.holdings().tables.len(),
        1,
        "the other one writes to it"
    );
    assert_eq!(world.holdings().tokens.len(), 1);
    client
        .done("DELETE", &format!("{ORDERS}?cascade=true"), Value::Null)
        .await;
    world.expect_nothing_held().await;
    assert_eq!(keys_of_destinations(&world.base).await, [""; 0]);
    let Holdings {
        buckets, tables, ..
    } = world.holdings();
    assert_eq!((buckets.len(), tables.len()), (0, 0));
    world.stop().await;
}

/// The keys of the state that are about what sinks have in projects.
async fn keys_of_destinations(base: &Base) -> Vec<String> {
    let snapshot = base.store.snapshot().await.expect("readable");
    let keys = snapshot.entries.into_iter().map(|entry| entry.key);
    let prefixes = ["destination/", "provisioning/", "entity/dropping/"];
    keys.filter(|key| prefixes.iter().any(|prefix| key.starts_with(prefix)))
        .collect()
}

/// The sink is purged although its project is away; what it has there goes later, and no key of it is left.
#[tokio::test]
async fn what_a_purged_sink_has_goes_when_its_project_is_back() {
    let World {
        base,
        api,
        double,
        client,
        ..
    } = world().await;
    client.done("POST", SINKS, body(TABLE, &["body"])).await;
    double.fail("DELETE", "", Fault::Refuse(403, "accessDenied"), usize::MAX);
    client
        .done("DELETE", &format!("{RAW}?cascade=true"), Value::Null)
        .await;
    assert_eq!(client.get(RAW).await.status, 404);
    assert!(base.store.sink(&raw()).await.expect("readable").is_none());
    let left = keys_of_destinations(&base).await;
    assert!(!left.is_empty(), "it is noted what is left over there");
    // It comes before the table could be removed, and has it then.
    let mut other = body(TABLE, &["body"]);
    other["name"] = json!("Other");
    client.done("POST", SINKS, other).await;
    api.stop(PATIENCE).await.expect("stopped");
    double.heal();
    let api = base.api_with(Some(projects(&double))).await;
    until(async || {
        let left = base.store.provisionings().await.expect("readable");
        left.is_empty()
    })
    .await;
    let keys = keys_of_destinations(&base).await;
    assert_eq!(keys, ["destination/12/112/orders/other"]);
    let Holdings {
        buckets,
        tables,
        tokens,
        files,
        ..
    } = double.holdings(12);
    let left = (buckets.len(), tables.len(), tokens.len(), files.len());
    assert_eq!(left, (1, 1, 1, 1));
    api.stop(PATIENCE).await.expect("stopped");
    base.background.stop(PATIENCE).await.expect("stopped");
}
