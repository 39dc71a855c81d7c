//! Settings.

use serde_json::{Value, json};

use super::world::{SINKS, World};

const SOURCE: &str = "/v1/branches/default/sources/orders/settings";
const COUNT: &str = "storage.level.staging.upload.trigger.count";
const INTERVAL: &str = "storage.level.target.import.trigger.interval";

fn setting(settings: &Value, key: &str) -> Value {
    let settings = settings["settings"].as_array().expect("a list");
    settings
        .iter()
        .find(|setting| setting["key"] == key)
        .expect(key)
        .clone()
}

fn change(key: &str, value: Value) -> Value {
    json!({"settings": [{"key": key, "value": value}]})
}

#[tokio::test]
async fn settings_are_listed_by_key_with_their_defaults() {
    let world = World::start().await;
    world.source("Orders").await;
    let settings = world.client.get(SOURCE).await.json();
    let keys: Vec<&str> = settings["settings"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|setting| setting["key"].as_str().expect("a key"))
        .collect();
    assert!(keys.is_sorted() && keys.len() >= 7, "{keys:?}");
    let count = setting(&settings, COUNT);
    assert_eq!(
        count,
        json!({
            "key": COUNT, "type": "int", "description": count["description"],
            "value": 10000, "defaultValue": 10000, "overwritten": false, "protected": false,
            "validation": count["validation"],
        })
    );
    assert_eq!(setting(&settings, INTERVAL)["value"], "10s");
    let wait = setting(&settings, "storage.level.local.encoding.sync.wait");
    assert_eq!(
        (&wait["type"], &wait["value"]),
        (&json!("bool"), &json!(true))
    );
    assert!(wait.get("validation").is_none());
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn the_path_of_keys_is_a_path_and_belongs_to_the_source() {
    const PATH: &str = "idempotency.keyPath";
    let world = World::start().await;
    world.source("Orders").await;
    world.sink("Raw").await;
    let patch = async |url: &str, value: Value| {
        let body = Some(change(PATH, value));
        world.client.send("PATCH", url, body).await
    };
    for wrong in [json!("a..b"), json!(5)] {
        assert_eq!(patch(SOURCE, wrong).await.status, 400);
    }
    let sink = format!("{SINKS}/raw/settings");
    assert_eq!(patch(&sink, json!("order.id")).await.status, 400);
    let body = change(PATH, json!("order.id"));
    world.client.done("PATCH", SOURCE, body).await;
    let shown = world.client.get(SOURCE).await.json();
    assert_eq!(setting(&shown, PATH)["value"], "order.id");
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_sink_inherits_from_its_source_and_null_resets() {
    let world = World::start().await;
    world.source("Orders").await;
    world.sink("Raw").await;
    let sink = format!("{SINKS}/raw/settings");
    let task = world
        .client
        .done("PATCH", SOURCE, change(COUNT, json!(500)))
        .await;
    assert_eq!(task["type"], "api.update.sourceSettings");
    let shown = setting(&world.client.get(SOURCE).await.json(), COUNT);
    assert_eq!(
        (&shown["value"], &shown["defaultValue"]),
        (&json!(500), &json!(10000))
    );
    assert_eq!(shown["overwritten"], true);
    let shown = setting(&world.client.get(&sink).await.json(), COUNT);
    assert_eq!(
        (&shown["value"], &shown["overwritten"]),
        (&json!(500), &json!(false))
    );
    let mut body = change(COUNT, json!(7));
    body["changeDescription"] = json!("Smaller slices.");
    let task = world.client.done("PATCH", &sink, body).await;
    assert_eq!(task["type"], "api.update.sinkSettings");
    let shown = setting(&world.client.get(&sink).await.json(), COUNT);
    assert_eq!(
        (&shown["value"], &shown["defaultValue"]),
        (&json!(7), &json!(500))
    );
    let version = |value: &Value| {
        (
            value["version"]["number"].clone(),
            value["version"]["description"].clone(),
        )
    };
    let shown = world.client.get(&format!("{SINKS}/raw")).await.json();
    assert_eq!(version(&shown), (json!(2), json!("Smaller slices.")));
    world
        .client
        .done("PATCH", &sink, change(COUNT, Value::Null))
        .await;
    let shown = setting(&world.client.get(&sink).await.json(), COUNT);
    assert_eq!(
        (&shown["value"], &shown["overwritten"]),
        (&json!(500), &json!(false))
    );
    let shown = world.client.get(&format!("{SINKS}/raw")).await.json();
    assert_eq!(version(&shown), (json!(3), json!("Updated settings.")));
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn protected_keys_and_values_out_of_range_change_nothing() {
    let world = World::start().await;
    world.source("Orders").await;
    let protected = "storage.level.local.encoding.sync.mode";
    let both = json!({"settings": [
        {"key": COUNT, "value": 5}, {"key": protected, "value": "cache"},
    ]});
    let reply = world.client.send("PATCH", SOURCE, Some(both)).await;
    assert_eq!(reply.refusal(), (403, "stream.api.forbidden".to_owned()));
    assert_eq!(
        reply.json()["message"],
        format!("Cannot modify protected keys: \"{protected}\".")
    );
    for (key, value) in [
        (COUNT, json!(0)),
        (COUNT, json!("5")),
        (COUNT, json!(10_000_001)),
        (INTERVAL, json!("999ms")),
        (INTERVAL, json!("25h")),
        ("storage.level.staging.upload.trigger.size", json!("99B")),
        ("nope", json!(1)),
    ] {
        let body = change(key, value.clone());
        let reply = world.client.send("PATCH", SOURCE, Some(body)).await;
        assert_eq!(
            reply.refusal(),
            (400, "stream.api.badRequest".to_owned()),
            "{key} {value}"
        );
        assert!(reply.text.contains(key), "{}", reply.text);
    }
    let shown = world
        .client
        .get("/v1/branches/default/sources/orders")
        .await
        .json();
    assert_eq!(shown["version"]["number"], 1);
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn rates_are_settings_of_sources_and_not_of_sinks() {
    let world = World::start().await;
    world.source("Orders").await;
    world.sink("Raw").await;
    let (records, bytes) = (
        "source.http.rateLimit.recordsPerSecond",
        "source.http.rateLimit.bytesPerSecond",
    );
    let shown = setting(&world.client.get(SOURCE).await.json(), records);
    assert_eq!(
        (&shown["value"], &shown["defaultValue"], &shown["type"]),
        (&json!(0), &json!(0), &json!("int"))
    );
    let body = json!({"settings": [
        {"key": records, "value": 2000}, {"key": bytes, "value": "1MB"},
    ]});
    world.client.done("PATCH", SOURCE, body).await;
    let settings = world.client.get(SOURCE).await.json();
    assert_eq!(setting(&settings, records)["value"], 2000);
    assert_eq!(setting(&settings, bytes)["value"], "1MB");
    world
        .client
        .done("PATCH", SOURCE, change(bytes, Value::Null))
        .await;
    let settings = world.client.get(SOURCE).await.json();
    assert_eq!(setting(&settings, bytes)["value"], "0B");
    let sink = format!("{SINKS}/raw/settings");
    let of_sink = world.client.get(&sink).await.text;
    assert!(!of_sink.contains("rateLimit"), "{of_sink}");
    let body = change(records, json!(5));
    let reply = world.client.send("PATCH", &sink, Some(body)).await;
    assert_eq!(reply.refusal(), (400, "stream.api.badRequest".to_owned()));
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn changes_run_in_the_order_of_their_requests() {
    let world = World::start().await;
    world.source("Orders").await;
    let mut tasks = Vec::new();
    for count in 1..=10 {
        let reply = world
            .client
            .send("PATCH", SOURCE, Some(change(COUNT, json!(count))))
            .await;
        assert_eq!(reply.status, 202, "{}", reply.text);
        tasks.push(reply.json()["taskId"].as_str().expect("an id").to_owned());
    }
    for task in tasks {
        assert_eq!(world.client.ended(&task).await["status"], "success");
    }
    assert_eq!(
        setting(&world.client.get(SOURCE).await.json(), COUNT)["value"],
        10
    );
    let shown = world
        .client
        .get("/v1/branches/default/sources/orders")
        .await
        .json();
    assert_eq!(shown["version"]["number"], 11);
    world.stop().await.expect("stopped");
}
