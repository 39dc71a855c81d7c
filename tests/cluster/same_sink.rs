//! Fifty clients create the same sink at the same moment: one is accepted, the others are refused, and one sink is there.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::{Value, json};
use stream_tests::client::{Api, PATIENCE, PAUSE, sink};
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::new_setup;
use crate::ownership::installation::Installation;

const CLIENTS: usize = 50;
/// Sinks that are created so, one after the other.
const ROUNDS: usize = 5;
const SINKS: &str = "/v1/branches/default/sources/orders/sinks";

/// Creates a sink with all clients at once, who ask the APIs by turns, and waits until it is there.
async fn create_at_once(apis: &[Api], name: &str) {
    let columns = [json!({"type": "body", "name": "body"})];
    let body = sink(name, &columns);
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (api, body) = (apis[client % apis.len()].clone(), body.clone());
        clients.spawn(async move { api.call(Method::POST, SINKS, &body).await });
    }
    let mut answers: BTreeMap<(u16, String), usize> = BTreeMap::new();
    let mut task = Value::Null;
    while let Some(answer) = clients.join_next().await {
        let answer = answer.expect("no panic").expect("an answer");
        if answer.status == 202 {
            task = answer.json();
        }
        *answers.entry((answer.status, answer.error())).or_default() += 1;
    }
    let exists = (409, "stream.api.sinkAlreadyExists".to_owned());
    let expected = BTreeMap::from([((202, String::new()), 1), (exists, CLIENTS - 1)]);
    assert_eq!(answers, expected, "{name}");
    let path = format!("/v1/tasks/{}", task["taskId"].as_str().expect("an id"));
    let deadline = Instant::now() + PATIENCE;
    while task["isFinished"] != true {
        assert!(Instant::now() < deadline, "{task}");
        sleep(PAUSE).await;
        let shown = apis[0].call(Method::GET, &path, &Value::Null).await;
        task = shown.expect("an answer").json();
    }
    assert_eq!(task["status"], "success", "{task}");
    for api in apis {
        let path = format!("{SINKS}/{name}");
        let shown = api.call(Method::GET, &path, &Value::Null).await;
        assert_eq!(shown.expect("an answer").json()["version"]["number"], 1);
    }
}

/// The state has of each sink what one creation makes, no lock, and breaks no rule.
async fn assert_nothing_left(setup: &Setup) {
    let command = |words: &[&str]| setup.clone().words(words);
    let check = command(&["state", "check"]).run_to_end().await;
    let check = check.expect("it ends");
    assert!(check.success, "{}", check.stdout);
    let dump = command(&["state", "dump", "json"]).run_to_end().await;
    let dump = dump.expect("it ends").stdout;
    let keys = dump.lines().map(|line| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["key"].as_str().expect("a key").to_owned()
    });
    let keys: Vec<String> = keys.collect();
    let count = |prefix: String| keys.iter().filter(|key| key.starts_with(&prefix)).count();
    for round in 0..ROUNDS {
        let name = format!("same-{round}");
        let sink = format!("1/1/orders/{name}");
        for kind in ["entity/sink", "entity/current"] {
            assert!(
                keys.contains(&format!("{kind}/{sink}")),
                "{kind} of {name}: {keys:#?}"
            );
        }
        for (prefix, expected) in [
            (format!("version/sink/{sink}/"), 1),
            (format!("entity/file/{sink}/"), 1),
            (format!("task/api.create.sink/1/orders/{name}/"), 1),
        ] {
            assert_eq!(count(prefix.clone()), expected, "{prefix}: {keys:#?}");
        }
    }
    assert_eq!(count("lock/".to_owned()), 0, "{keys:#?}");
    assert_eq!(count("version/sink/".to_owned()), ROUNDS);
    assert_eq!(count("task/api.create.sink/".to_owned()), ROUNDS);
}

/// Without rotation: what is counted is what the creations made.
fn at_rest(setup: Setup) -> Setup {
    setup
        .env("STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL", "30m")
        .env("STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL", "24h")
}

#[tokio::test]
async fn of_fifty_creations_of_one_sink_one_is_accepted_by_one_process() {
    let (_scratch, setup) = new_setup();
    let mut service = Service::start(at_rest(setup)).await.expect("it starts");
    let api = service.api().expect("a token");
    api.create_source("orders").await.expect("it is created");
    for round in 0..ROUNDS {
        create_at_once(std::slice::from_ref(&api), &format!("same-{round}")).await;
    }
    assert_nothing_left(service.setup()).await;
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}

#[tokio::test]
async fn of_fifty_creations_of_one_sink_one_is_accepted_by_two_processes_on_etcd() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let mut services = Vec::new();
    for (name, label) in [("one", "a"), ("two", "b")] {
        let setup = at_rest(site.node(name, &site.volumes(name, &[label])));
        services.push(Service::start(setup).await.expect("it starts"));
    }
    let api = services[0].api().expect("a token");
    let other = Api {
        address: services[1].setup().api_address(),
        token: api.token.clone(),
    };
    api.create_source("orders").await.expect("it is created");
    // What one process does the other one sees a moment later.
    let path = "/v1/branches/default/sources/orders";
    let shown = other.call(Method::GET, path, &Value::Null).await;
    assert_eq!(shown.expect("an answer").status, 200);
    for round in 0..ROUNDS {
        create_at_once(&[api.clone(), other.clone()], &format!("same-{round}")).await;
    }
    assert_nothing_left(services[0].setup()).await;
    for service in &mut services {
        service.stop().await.expect("it stops");
        service.assert_quiet(&[]);
    }
}
