//! An orderly stop finishes what was accepted.

use std::sync::{Arc, Mutex};

use stream_tests::service::Service;

use crate::traffic::{AfterBreak, Fate, Traffic};
use crate::verdict::Verdict;
use crate::{new_setup, seed, sinks};

/// More than are sent before the stop.
const RECORDS: u64 = 1_000_000;
const CONNECTIONS: u64 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_exits_with_0_and_loses_nothing_that_was_acknowledged() {
    let seed = seed("shutdown");
    let (_scratch, setup) = new_setup();
    let setup = setup.importing_each_second();
    let tables = setup.tables();
    let mut service = Service::start(setup).await.expect("it starts");
    let source = sinks::create(&service.api().expect("a token"), "webhooks").await;
    let traffic = Arc::new(Traffic {
        seed,
        records: RECORDS,
        connections: CONNECTIONS,
        address: service.setup().source_address(),
        source: source.expect("it is created"),
        after_break: AfterBreak::End,
        made: Mutex::default(),
    });

    let mut running = traffic.start();
    running
        .acknowledged(1_500)
        .await
        .expect("records are acknowledged");
    service.ask_to_stop().expect("it runs");
    // The clients end when their connections do.
    let fates = running
        .finish()
        .await
        .expect("the answers are the right ones");
    service.stopped().await.expect("it exits with 0");

    service.restart().await.expect("it starts again");
    let verdict = Verdict::new(&traffic, &fates);
    eprintln!(
        "shutdown: {} acknowledged, {} unknown",
        verdict.count(Fate::Acknowledged),
        verdict.count(Fate::Unknown)
    );
    verdict
        .wait_for_import(&tables)
        .await
        .expect("all records are imported");
    service.stop().await.expect("it stops");
    verdict
        .check(&tables)
        .expect("the tables hold what was acknowledged");
    // A client that sends while its idle connection is being closed cannot know; one whose record was taken is told.
    let written = verdict
        .written_unknown(&tables)
        .expect("the tables are there");
    assert!(written.is_empty(), "written, but not answered: {written:?}");
    service.assert_quiet(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_process_stops_and_starts_again_with_its_definitions() {
    let (_scratch, setup) = new_setup();
    let mut service = Service::start(setup).await.expect("it starts");
    let source = sinks::create(&service.api().expect("a token"), "webhooks").await;
    let source = source.expect("it is created");
    service.stop().await.expect("it stops");
    service.restart().await.expect("it starts again");
    let path = format!("/v1/branches/default/sources/{}", source.id);
    let api = service.api().expect("the token is still there");
    let reply = api
        .call(hyper::Method::GET, &path, &serde_json::Value::Null)
        .await;
    let reply = reply.expect("an answer");
    assert_eq!(reply.status, 200, "{}", reply.message());
    let url = reply.json()["http"]["url"]
        .as_str()
        .expect("it has a URL")
        .to_owned();
    assert!(url.ends_with(&source.path), "the secret is another one");
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}
