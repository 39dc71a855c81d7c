//! The mode `available`: the keys of a volume that is away are taken over by the others, with a window from then on.

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use stream_tests::client::{PATIENCE, PAUSE, Reply, Source, request, send_once};
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use super::small;
use crate::ownership::installation::Installation;
use crate::pods::Pods;

/// Keys of a batch; enough that either volume has some.
const KEYS: u64 = 24;
const AVAILABLE: &str = "available";
const STRICT: &str = "strict";

/// Sends one record with a key, once. The sources of the installation take turns.
async fn send(addresses: &[SocketAddr], source: &Source, key: u64) -> anyhow::Result<Reply> {
    let body = json!({"id": key.to_string()}).to_string();
    let mut record = request(Method::POST, &source.path, body);
    let headers = record.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("idempotency-key", format!("key {key}").parse()?);
    let at = usize::try_from(key).unwrap_or(0) % addresses.len();
    send_once(addresses[at], record).await
}

/// Sends until it is accepted.
async fn deliver(addresses: &[SocketAddr], source: &Source, key: u64) -> Reply {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = send(addresses, source, key).await.expect("an answer");
        if reply.is_success() {
            return reply;
        }
        assert_eq!(reply.status, 503, "{}", reply.message());
        assert!(Instant::now() < deadline, "key {key}: {}", reply.message());
        sleep(PAUSE).await;
    }
}

fn is_repetition(reply: &Reply) -> bool {
    reply.headers.contains_key("idempotency-replayed")
}

fn window(reply: &Reply) -> u64 {
    let window = reply.headers["idempotency-window"].to_str();
    let window = window.expect("a text").parse();
    window.expect("a number")
}

/// Waits until the state says of the source what is asked for.
async fn until(site: &Installation, source: &str, holds: impl Fn(&serde_json::Value) -> bool) {
    let key = format!("entity/assignment/1/1/{source}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = site.state().await;
        if holds(&state[&key]) {
            return;
        }
        assert!(Instant::now() < deadline, "{source} has {}", state[&key]);
        sleep(PAUSE).await;
    }
}

async fn create(pods: &mut Pods, id: &str) -> Source {
    let api = pods.named("api").api().expect("a token");
    let column = json!({"type": "path", "name": "id", "path": "id", "rawString": true});
    let source = api.create_source(id).await.expect("it is created");
    let created = api.create_sink(&source, id, &[column]).await;
    created.expect("it is created");
    let path = format!("/v1/branches/default/sources/{id}/settings");
    let change = json!({"settings": [{"key": "idempotency.mode", "value": id}]});
    api.done(Method::PATCH, &path, &change).await.expect("set");
    source
}

/// Each of these keys is in the table once, and nothing else.
async fn check(site: &Installation, table: &str, keys: &BTreeSet<u64>) {
    let expected: BTreeMap<String, i64> = keys.iter().map(|key| (key.to_string(), 1)).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let tables = Tables::open(&site.tables()).expect("it opens");
        let rows = tables.counts(table, "id").expect("it is readable");
        if rows == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{table}: {rows:?}");
        sleep(PAUSE * 10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_dead_writer_are_taken_over_where_that_is_allowed() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let setting = "STORAGE_LEVEL_LOCAL_IDEMPOTENCY_AWAY_AFTER";
    let mut pods = Pods::start_as(&site, |_, setup| small(setup).env(setting, "1s")).await;
    let (available, strict) = (
        create(&mut pods, AVAILABLE).await,
        create(&mut pods, STRICT).await,
    );
    let addresses = pods.sources();
    until(&site, AVAILABLE, |it| {
        it["yielding"].as_array().is_some_and(|all| all.len() == 2)
    })
    .await;
    let mut sent: BTreeSet<u64> = (0..KEYS).collect();
    for key in 0..KEYS {
        for source in [&available, &strict] {
            let reply = deliver(&addresses, source, key).await;
            assert!(!is_repetition(&reply) && window(&reply) == 86_400);
        }
    }

    let died = Instant::now();
    pods.named("writer-1").kill().await.expect("it runs");
    until(&site, AVAILABLE, |it| !it["moved"].is_null()).await;
    let taken = Instant::now();
    let (mut refused, mut short) = (0, 0);
    for key in KEYS..2 * KEYS {
        let reply = deliver(&addresses, &available, key).await;
        assert!(!is_repetition(&reply), "key {key}");
        let again = deliver(&addresses, &available, key).await;
        assert!(is_repetition(&again), "key {key}");
        for reply in [reply, again] {
            // No more than what has gone by, to the second.
            let is_short = window(&reply) <= died.elapsed().as_secs() + 1;
            assert!(is_short || window(&reply) == 86_400, "{}", window(&reply));
            short += u64::from(is_short);
        }
        sent.insert(key);
    }
    assert!(
        (2..2 * KEYS).contains(&short),
        "{short} with a short window"
    );
    for key in KEYS..2 * KEYS {
        match send(&addresses, &strict, key).await.expect("an answer") {
            reply if reply.is_success() => {}
            reply => refused += u64::from(reply.status == 503),
        }
    }
    assert!((1..KEYS).contains(&refused), "{refused} refused");

    // It comes back, and decides about nothing that was taken over.
    pods.named("writer-1")
        .restart()
        .await
        .expect("it starts again");
    for key in KEYS..2 * KEYS {
        let again = deliver(&addresses, &available, key).await;
        assert!(is_repetition(&again), "key {key}");
        // What was refused is accepted now, what was accepted is known.
        deliver(&addresses, &strict, key).await;
    }
    for key in 2 * KEYS..3 * KEYS {
        deliver(&addresses, &available, key).await;
        assert!(is_repetition(&deliver(&addresses, &available, key).await));
        sent.insert(key);
    }
    check(&site, AVAILABLE, &sent).await;
    check(&site, STRICT, &(0..2 * KEYS).collect()).await;
    pods.stop(&site).await;
    eprintln!(
        "away: keys taken over {} ms after the kill; {refused} of {KEYS} strict ones refused",
        (taken - died).as_millis()
    );
}
