//! What anybody may ask, and requests that lead nowhere.

use stream_model::Clock;

use super::world::World;

#[tokio::test]
async fn the_service_describes_itself_without_a_token() {
    let world = World::start().await;
    let mut client = world.client.clone();
    client.token = None;
    let root = client.get("/").await;
    assert_eq!((root.status, root.header("location")), (301, "/v1"));
    let index = client.get("/v1").await;
    assert_eq!(index.status, 200);
    assert_eq!(
        index.text,
        "{\n  \"api\": \"stream\",\n  \"documentation\": \"https://stream.example.com/v1/documentation\"\n}\n"
    );
    assert_eq!(index.header("content-type"), "application/json");
    assert_eq!(index.header("server"), "stream-service/1.2.3");
    let health = client.get("/health-check").await;
    assert_eq!((health.status, health.text.as_str()), (200, "OK"));
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn every_answer_is_open_to_all_origins() {
    let world = World::start().await;
    let client = &world.client;
    for path in ["/v1", "/nowhere", "/v1/branches/default/sources"] {
        assert_eq!(
            client.get(path).await.header("access-control-allow-origin"),
            "*",
            "{path}"
        );
    }
    let mut anybody = client.clone();
    anybody.token = None;
    let options = anybody
        .send("OPTIONS", "/v1/branches/1/sources/a/sinks", None)
        .await;
    assert_eq!(options.status, 200);
    assert_eq!(
        options.header("access-control-allow-methods"),
        "GET, POST, OPTIONS"
    );
    assert!(
        options
            .header("access-control-allow-headers")
            .contains("Authorization")
    );
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn unknown_paths_methods_branches_and_tasks_are_named() {
    let world = World::start().await;
    let client = &world.client;
    for (method, path, status, name) in [
        ("GET", "/v2", 404, "endpointNotFound"),
        (
            "GET",
            "/v1/branches/default/sources/a/nothing",
            404,
            "endpointNotFound",
        ),
        ("GET", "/v1/branches/7/sources", 404, "branchNotFound"),
        (
            "GET",
            "/v1/tasks/api.create.source/1/a/x",
            404,
            "taskNotFound",
        ),
        (
            "PUT",
            "/v1/branches/default/sources",
            405,
            "methodNotAllowed",
        ),
        ("DELETE", "/v1", 405, "methodNotAllowed"),
    ] {
        let refusal = client.refused(method, path, None).await;
        assert_eq!(
            refusal,
            (status, format!("stream.api.{name}")),
            "{method} {path}"
        );
    }
    let reply = client
        .send("PUT", "/v1/branches/default/sources", None)
        .await;
    assert_eq!(reply.header("allow"), "GET, POST, OPTIONS");
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn the_status_shows_what_runs_and_how_much_is_wrong() {
    let world = World::start().await;
    world.source("orders").await;
    world.sink("audit").await;
    let started_at = world.base.clock.now();
    world.base.register_process("n1", started_at).await;
    let status = world.client.get("/v1/status").await;
    assert_eq!(status.status, 200, "{}", status.text);
    let status = status.json();
    assert_eq!(status["instances"][0]["component"], "api");
    assert_eq!(status["instances"][0]["node"], "n1");
    assert_eq!(status["instances"][0]["version"], "1.2.3");
    assert_eq!(status["work"]["unimported"]["count"], 0);
    let found = world.client.get("/v1/diagnose").await.json();
    let found = found["findings"].as_array().expect("a list").clone();
    assert_eq!(status["findings"], found.len());
    let missing = |component: &str| {
        let subject = format!("component {component}");
        found.iter().any(|finding| {
            finding["code"] == "componentMissing" && finding["subject"] == subject.as_str()
        })
    };
    assert!(missing("storage-writer") && !missing("api"), "{found:?}");
    let mut anybody = world.client.clone();
    anybody.token = None;
    let refused = anybody.refused("GET", "/v1/status", None).await;
    assert_eq!(refused, (400, "stream.api.missingField".to_owned()));
    world.stop().await.expect("stopped");
}
