//! Changing, disabling, deleting and reviving sources and sinks, and going back to a version.

use serde_json::{Value, json};

use super::world::{SINKS, World, sink_body};

const SOURCES: &str = "/v1/branches/default/sources";
const ORDERS: &str = "/v1/branches/default/sources/orders";
const AUDIT: &str = "/v1/branches/default/sources/orders/sinks/audit";

async fn world() -> World {
    let world = World::start().await;
    world.source("orders").await;
    world.sink("audit").await;
    world.sink("all").await;
    world
}

/// Number and description of the current version.
fn version(entity: &Value) -> (u64, &str) {
    let version = &entity["version"];
    let number = version["number"].as_u64().expect("a number");
    (number, version["description"].as_str().expect("a text"))
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_nothing_else() {
    let world = world().await;
    let client = &world.client;
    let body = json!({"name": "Orders of the shop", "changeDescription": "Better name."});
    let task = client.done("PATCH", ORDERS, body).await;
    assert_eq!(task["type"], "api.update.source");
    let before = client.get(AUDIT).await.json();
    let source = client.get(ORDERS).await.json();
    assert_eq!(source["name"], "Orders of the shop");
    assert_eq!(source["sourceId"], "orders");
    assert_eq!(version(&source), (2, "Better name."));
    // The table keeps its name, and gets a column.
    let columns = json!([{"type": "body", "name": "body"}, {"type": "datetime", "name": "at"}]);
    let body = json!({"table": {"mapping": {"columns": columns}}, "description": "with time"});
    client.done("PATCH", AUDIT, body).await;
    let after = client.get(AUDIT).await.json();
    assert_eq!(after["table"]["tableId"], before["table"]["tableId"]);
    assert_eq!(after["table"]["mapping"]["columns"], columns);
    assert_eq!(after["description"], "with time");
    assert_eq!(after["created"], before["created"]);
    assert_eq!(version(&after), (2, "Updated."));
    assert_ne!(after["version"]["hash"], before["version"]["hash"]);
    world.stop().await.expect("it stops");
}

#[tokio::test]
async fn a_patch_that_cannot_be_is_refused_and_changes_nothing() {
    let world = world().await;
    let client = &world.client;
    let before = client.get(AUDIT).await.text;
    for (path, body, code) in [
        (ORDERS, json!({"name": ""}), "invalidLength"),
        (ORDERS, json!({"nmae": "x"}), "badRequest"),
        (ORDERS, json!({"type": "otlp"}), "invalidEnumValue"),
        (AUDIT, json!({"type": "stream"}), "invalidEnumValue"),
        (
            AUDIT,
            json!({"table": {"type": "oracle"}}),
            "invalidEnumValue",
        ),
        (AUDIT, json!({"table": {"tableId": ""}}), "invalidLength"),
        (
            AUDIT,
            json!({"table": {"mapping": {"columns": []}}}),
            "invalidLength",
        ),
        (
            AUDIT,
            json!({"table": {"mapping": {"columns": [
                {"type": "template", "name": "t", "template": {"language": "jsonnet", "content": "Body("}}
            ]}}}),
            "badRequest",
        ),
    ] {
        let (status, name) = client.refused("PATCH", path, Some(body.clone())).await;
        assert_eq!(
            (status, name),
            (400, format!("stream.api.{code}")),
            "{body}"
        );
    }
    for (path, code) in [
        ("/v1/branches/default/sources/none", "sourceNotFound"),
        (
            "/v1/branches/default/sources/orders/sinks/none",
            "sinkNotFound",
        ),
    ] {
        let refused = client
            .refused("PATCH", path, Some(json!({"name": "x"})))
            .await;
        assert_eq!(refused, (404, format!("stream.api.{code}")));
    }
    assert_eq!(client.get(AUDIT).await.text, before);
    world.stop().await.expect("it stops");
}

#[tokio::test]
async fn disabling_a_source_takes_its_sinks_along_and_enabling_gives_them_back() {
    let world = world().await;
    let client = &world.client;
    client
        .done("PUT", &format!("{AUDIT}/disable"), Value::Null)
        .await;
    let task = client
        .done("PUT", &format!("{ORDERS}/disable"), Value::Null)
        .await;
    assert_eq!(task["type"], "api.disable.source");
    let source = client.get(ORDERS).await.json();
    assert_eq!(version(&source), (2, "Disabled."));
    assert_eq!(source["disabled"]["by"]["type"], "user");
    let all = client.get(&format!("{SINKS}/all")).await.json();
    assert_eq!(all["disabled"]["reason"], "API");
    client
        .done("PUT", &format!("{ORDERS}/enable"), Value::Null)
        .await;
    let all = client.get(&format!("{SINKS}/all")).await.json();
    assert_eq!(version(&all), (3, "Enabled."));
    assert!(all.get("disabled").is_none(), "{all}");
    assert_eq!(
        version(&client.get(AUDIT).await.json()),
        (2, "Disabled."),
        "for itself"
    );
    client
        .done("PUT", &format!("{AUDIT}/enable"), Value::Null)
        .await;
    let audit = client.get(AUDIT).await.json();
    assert_eq!(version(&audit), (3, "Enabled."));
    // Again: nothing to do, no version.
    client
        .done("PUT", &format!("{AUDIT}/enable"), Value::Null)
        .await;
    assert_eq!(client.get(AUDIT).await.json(), audit);
    world.stop().await.expect("it stops");
}

#[tokio::test]
async fn what_was_deleted_is_listed_and_comes_back_with_what_went_along() {
    let world = world().await;
    let client = &world.client;
    client.done("DELETE", AUDIT, Value::Null).await;
    let listed = client.get(&format!("{SINKS}/deleted")).await.json();
    assert_eq!(listed["page"]["totalCount"], 1);
    assert_eq!(listed["sinks"][0]["sinkId"], "audit");
    assert_eq!(listed["sinks"][0]["deleted"]["reason"], "API");
    client.done("DELETE", ORDERS, Value::Null).await;
    let undelete = format!("{AUDIT}/undelete");
    let refused = client.refused("PUT", &undelete, None).await;
    assert_eq!(refused, (404, "stream.api.sourceNotFound".to_owned()));
    let listed = client.get(&format!("{SOURCES}/deleted")).await.json();
    assert_eq!(listed["sources"][0]["sourceId"], "orders");
    let task = client
        .done("PUT", &format!("{ORDERS}/undelete"), Value::Null)
        .await;
    assert_eq!(task["type"], "api.undelete.source");
    let source = client.get(ORDERS).await.json();
    assert_eq!(version(&source), (2, "Undeleted to version \"1\"."));
    // The sink that was deleted before stays so, until somebody asks for it.
    let sinks = client.get(SINKS).await.json();
    assert_eq!(sinks["page"]["totalCount"], 1);
    client.done("PUT", &undelete, Value::Null).await;
    let sink = client.get(AUDIT).await.json();
    assert_eq!(version(&sink), (2, "Undeleted to version \"1\"."));
    for (path, code) in [
        (undelete, "deletedSinkNotFound"),
        (format!("{ORDERS}/undelete"), "deletedSourceNotFound"),
        (format!("{SOURCES}/none/undelete"), "deletedSourceNotFound"),
    ] {
        let refused = client.refused("PUT", &path, None).await;
        assert_eq!(refused, (404, format!("stream.api.{code}")), "{path}");
    }
    world.stop().await.expect("it stops");
}

#[tokio::test]
async fn a_new_secret_is_given_at_once_and_a_rollback_does_not_bring_the_old_one_back() {
    let world = world().await;
    let client = &world.client;
    let url = |source: &Value| source["http"]["url"].as_str().expect("a URL").to_owned();
    let before = client.get(ORDERS).await.json();
    let rotated = client
        .send("POST", &format!("{ORDERS}/rotate-secret"), None)
        .await;
    assert_eq!(rotated.status, 200);
    let rotated = rotated.json();
    assert_ne!(url(&rotated), url(&before));
    assert_eq!(version(&rotated), (2, "Rotated secret."));
    assert_eq!(client.get(ORDERS).await.json(), rotated);
    client.done("PATCH", ORDERS, json!({"name": "Other"})).await;
    let task = client
        .done("PUT", &format!("{ORDERS}/versions/1/rollback"), Value::Null)
        .await;
    assert_eq!(task["type"], "api.rollback.sourceVersion");
    let back = client.get(ORDERS).await.json();
    assert_eq!(back["name"], before["name"]);
    assert_eq!(back["version"]["hash"], before["version"]["hash"]);
    assert_eq!(url(&back), url(&rotated));
    world.stop().await.expect("it stops");
}

#[tokio::test]
async fn a_rollback_is_a_new_version_with_old_content_and_the_present_state() {
    let world = world().await;
    let client = &world.client;
    let before = client.get(AUDIT).await.json();
    let columns = json!([{"type": "ip", "name": "from"}]);
    let body = json!({"name": "Two", "table": {"mapping": {"columns": columns}}});
    client.done("PATCH", AUDIT, body).await;
    let setting = json!({"settings": [
        {"key": "storage.level.staging.upload.trigger.count", "value": 5}
    ]});
    client
        .done("PATCH", &format!("{AUDIT}/settings"), setting)
        .await;
    client
        .done("PUT", &format!("{AUDIT}/disable"), Value::Null)
        .await;
    client
        .done("PUT", &format!("{AUDIT}/versions/1/rollback"), Value::Null)
        .await;
    let back = client.get(AUDIT).await.json();
    assert_eq!(version(&back), (5, "Rollback to version \"1\"."));
    assert_eq!(
        (&back["name"], &back["table"]),
        (&before["name"], &before["table"])
    );
    assert_eq!(back["version"]["hash"], before["version"]["hash"]);
    assert!(back["disabled"].is_object(), "still disabled");
    let settings = client.get(&format!("{AUDIT}/settings")).await.json();
    let changed = |setting: &&Value| setting["overwritten"] == true;
    assert_eq!(
        settings["settings"]
            .as_array()
            .expect("a list")
            .iter()
            .find(changed),
        None
    );
    let versions = client
        .get(&format!("{AUDIT}/versions?limit=2&afterId=2"))
        .await
        .json();
    let numbers: Vec<_> = versions["versions"]
        .as_array()
        .expect("a list")
        .iter()
        .collect();
    assert_eq!(numbers.len(), 2);
    assert_eq!(numbers[0]["number"], 3);
    assert_eq!(versions["page"]["lastId"], "0000000004");
    let one = client.get(&format!("{AUDIT}/versions/5")).await.json();
    assert_eq!(one, back["version"]);
    world.stop().await.expect("it stops");
}

#[tokio::test]
async fn versions_that_are_none_are_named() {
    let world = world().await;
    let client = &world.client;
    for (method, path, status, code) in [
        (
            "GET",
            format!("{ORDERS}/versions/25"),
            404,
            "sourceVersionNotFound",
        ),
        (
            "PUT",
            format!("{ORDERS}/versions/25/rollback"),
            404,
            "sourceVersionNotFound",
        ),
        (
            "GET",
            format!("{AUDIT}/versions/25"),
            404,
            "sinkVersionNotFound",
        ),
        (
            "PUT",
            format!("{AUDIT}/versions/25/rollback"),
            404,
            "sinkVersionNotFound",
        ),
        (
            "GET",
            format!("{AUDIT}/versions/0"),
            400,
            "invalidFieldType",
        ),
        (
            "PUT",
            format!("{AUDIT}/versions/x/rollback"),
            400,
            "invalidFieldType",
        ),
        ("GET", format!("{SINKS}/none/versions"), 404, "sinkNotFound"),
        (
            "GET",
            format!("{SOURCES}/none/versions"),
            404,
            "sourceNotFound",
        ),
        (
            "GET",
            format!("{ORDERS}/versions?afterId=x"),
            400,
            "invalidFieldType",
        ),
    ] {
        let refused = client.refused(method, &path, None).await;
        assert_eq!(
            refused,
            (status, format!("stream.api.{code}")),
            "{method} {path}"
        );
    }
    world.stop().await.expect("it stops");
}

#[tokio::test]
async fn nothing_is_called_deleted() {
    let world = world().await;
    let body = json!({"type": "http", "name": "Deleted"});
    let refused = world.client.refused("POST", SOURCES, Some(body)).await;
    assert_eq!(refused, (400, "stream.api.badRequest".to_owned()));
    let refused = world
        .client
        .refused("POST", SINKS, Some(sink_body("deleted")))
        .await;
    assert_eq!(refused, (400, "stream.api.badRequest".to_owned()));
    world.stop().await.expect("it stops");
}

#[tokio::test]
async fn an_aggregation_has_sources_sinks_figures_and_files() {
    let world = world().await;
    world.source("other").await;
    let client = &world.client;
    let all = client
        .get("/v1/branches/default/aggregation/sources")
        .await
        .json();
    assert_eq!(all["page"]["totalCount"], 2);
    let orders = &all["sources"][0];
    assert_eq!(orders["sourceId"], "orders");
    assert!(orders["http"]["url"].is_string());
    assert_eq!(orders["sinks"][1]["sinkId"], "audit");
    assert_eq!(orders["sinks"][1]["statistics"]["total"]["recordsCount"], 0);
    assert_eq!(all["sources"][1]["sinks"], json!([]));
    let files = client
        .get(&format!("{AUDIT}/statistics/files"))
        .await
        .json();
    assert_eq!(
        files,
        json!({"files": orders["sinks"][1]["statistics"]["files"]})
    );
    let page = "/v1/branches/default/aggregation/sources?limit=1&afterId=orders";
    let second = client.get(page).await.json();
    assert_eq!(second["sources"][0]["sourceId"], "other");
    let none = client
        .refused("GET", &format!("{SINKS}/none/statistics/files"), None)
        .await;
    assert_eq!(none, (404, "stream.api.sinkNotFound".to_owned()));
    world.stop().await.expect("it stops");
}
