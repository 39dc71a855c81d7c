//! Sources.

use serde_json::{Value, json};
use stream_model::definition::{MAX_CHILDREN, Source};
use stream_model::{BranchId, BranchKey, ProjectId};

use super::world::World;

const SOURCES: &str = "/v1/branches/default/sources";

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

#[tokio::test]
async fn a_created_source_is_shown_as_clients_expect() {
    let world = World::start().await;
    let body = json!({"type": "http", "name": "My Source"});
    let reply = world.client.send("POST", SOURCES, Some(body)).await;
    assert_eq!(reply.status, 202);
    let task = reply.json();
    assert_eq!(
        keys(&task),
        ["taskId", "type", "url", "status", "isFinished", "createdAt"]
    );
    let id = task["taskId"].as_str().expect("an id");
    assert!(
        id.starts_with("api.create.source/1/my-source/2026-01-01T00:00:00.000Z_"),
        "{id}"
    );
    assert_eq!(
        task["url"],
        format!("https://stream.example.com/v1/tasks/{id}")
    );
    assert_eq!(
        (&task["status"], &task["isFinished"]),
        (&json!("processing"), &json!(false))
    );
    let task = world.client.ended(id).await;
    assert_eq!(
        keys(&task),
        [
            "taskId",
            "type",
            "url",
            "status",
            "isFinished",
            "createdAt",
            "finishedAt",
            "duration",
            "result",
            "outputs"
        ]
    );
    assert_eq!(
        task["outputs"],
        json!({
            "url": "https://stream.example.com/v1/branches/1/sources/my-source",
            "projectId": 1, "branchId": 1, "sourceId": "my-source",
        })
    );
    let source = world
        .client
        .get(&format!("{SOURCES}/my-source"))
        .await
        .json();
    let secret = source["http"]["url"].as_str().expect("a URL");
    let secret = secret
        .strip_prefix("https://in.example.com/stream/1/my-source/")
        .expect("a URL");
    assert_eq!(secret.len(), 48);
    let by = &source["created"]["by"];
    assert_eq!(by["type"], "user");
    let at = "2026-01-01T00:00:00.000Z";
    assert_eq!(
        source,
        json!({
            "projectId": 1, "branchId": 1, "sourceId": "my-source",
            "type": "http", "name": "My Source", "description": "",
            "http": {"url": source["http"]["url"]},
            "version": {
                "number": 1, "hash": source["version"]["hash"], "description": "New source.",
                "at": at, "by": by,
            },
            "created": {"at": at, "by": by},
        })
    );
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn of_two_creations_at_once_one_is_accepted() {
    let world = World::start().await;
    let body = || Some(json!({"type": "http", "name": "Orders"}));
    for _ in 0..5 {
        let (a, b) = tokio::join!(
            world.client.send("POST", SOURCES, body()),
            world.client.send("POST", SOURCES, body())
        );
        let (accepted, refused) = if a.status == 202 { (a, b) } else { (b, a) };
        assert_eq!(accepted.status, 202);
        assert_eq!(
            refused.refusal(),
            (409, "stream.api.sourceAlreadyExists".to_owned())
        );
        world
            .client
            .ended(accepted.json()["taskId"].as_str().expect("an id"))
            .await;
        let refusal = world.client.refused("POST", SOURCES, body()).await;
        assert_eq!(refusal, (409, "stream.api.sourceAlreadyExists".to_owned()));
        world
            .client
            .done("DELETE", &format!("{SOURCES}/orders"), Value::Null)
            .await;
    }
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_deleted_source_is_gone_and_its_versions_go_on() {
    let world = World::start().await;
    let path = format!("{SOURCES}/orders");
    let not_found = (404, "stream.api.sourceNotFound".to_owned());
    assert_eq!(world.client.refused("GET", &path, None).await, not_found);
    assert_eq!(world.client.refused("DELETE", &path, None).await, not_found);
    world.source("Orders").await;
    world.sink("Raw").await;
    let cascade = world
        .client
        .refused("DELETE", &format!("{path}?cascade=yes"), None)
        .await;
    assert_eq!(cascade, (400, "stream.api.invalidFieldType".to_owned()));
    let url = world.client.get(&path).await.json()["http"]["url"].clone();
    let task = world.client.done("DELETE", &path, Value::Null).await;
    assert_eq!(task["type"], "api.delete.source");
    assert_eq!(world.client.refused("GET", &path, None).await, not_found);
    let sink = world
        .client
        .refused("GET", &format!("{path}/sinks/raw"), None)
        .await;
    assert_eq!(sink, not_found);
    assert_eq!(
        world.client.get(SOURCES).await.json()["page"]["totalCount"],
        0
    );
    world.source("Orders").await;
    let source = world.client.get(&path).await.json();
    assert_eq!(source["version"]["number"], 2);
    assert_ne!(source["http"]["url"], url, "a new source has a new secret");
    let sinks = world.client.get(&format!("{path}/sinks")).await.json();
    assert_eq!(sinks["page"]["totalCount"], 0, "the sinks stay deleted");
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn mistakes_in_a_new_source_have_their_names() {
    let world = World::start().await;
    for (body, name) in [
        (json!({"name": "x", "type": "foo"}), "invalidEnumValue"),
        (json!({"name": "", "type": "http"}), "invalidLength"),
        (json!({"type": "http"}), "missingField"),
        (json!({"name": 1, "type": "http"}), "invalidFieldType"),
        (
            json!({"name": "x", "type": "http", "extra": 1}),
            "badRequest",
        ),
        (json!({"name": "x", "type": "otlp"}), "badRequest"),
    ] {
        let refusal = world
            .client
            .refused("POST", SOURCES, Some(body.clone()))
            .await;
        assert_eq!(refusal, (400, format!("stream.api.{name}")), "{body}");
    }
    let too_large = json!({"name": "x".repeat(5 << 20), "type": "http"});
    let reply = world.client.send("POST", SOURCES, Some(too_large)).await;
    assert_eq!(reply.refusal(), (413, "stream.api.bodyTooLarge".to_owned()));
    assert_eq!(
        world.client.get(SOURCES).await.json()["page"]["totalCount"],
        0
    );
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn the_list_comes_in_pages_and_ends_at_the_limit_of_sources() {
    let world = World::start().await;
    world.source("Template").await;
    let branch = BranchKey {
        project: ProjectId(1),
        branch: BranchId(1),
    };
    let sources = world.base.store.sources(&branch).await.expect("listed");
    let template = &sources[0].value;
    for number in 1..MAX_CHILDREN {
        let mut source: Source = template.clone();
        source.key.source = format!("s-{number:03}").parse().expect("an id");
        world
            .base
            .store
            .create_source(source)
            .await
            .expect("created");
    }
    let page = |query: &str| {
        let (client, path) = (world.client.clone(), format!("{SOURCES}{query}"));
        async move { client.get(&path).await.json() }
    };
    let first = page("?limit=3").await;
    assert_eq!(keys(&first), ["projectId", "branchId", "page", "sources"]);
    assert_eq!(
        first["page"],
        json!({"limit": 3, "totalCount": 100, "afterId": "", "lastId": "s-003"})
    );
    assert_eq!(first["sources"].as_array().map(Vec::len), Some(3));
    let last = page("?afterId=s-099").await;
    assert_eq!(last["page"]["lastId"], "template");
    let empty = page("?afterId=template").await;
    assert_eq!(
        empty["page"],
        json!({"limit": 100, "totalCount": 100, "afterId": "template", "lastId": ""})
    );
    let refusal = world
        .client
        .refused("GET", &format!("{SOURCES}?limit=101"), None)
        .await;
    assert_eq!(refusal, (400, "stream.api.invalidRange".to_owned()));
    let body = json!({"type": "http", "name": "One more"});
    let refusal = world.client.refused("POST", SOURCES, Some(body)).await;
    assert_eq!(
        refusal,
        (409, "stream.api.sourceCountLimitReached".to_owned())
    );
    world.stop().await.expect("stopped");
}
