//! Idempotency keys: by header and by path, with the same and with another body, together and one after the other.

use stream_model::SourceKey;
use stream_model::idempotency::{Assigned, Extent, Origin, body_hash, key_hash};
use stream_storage::wire::KeyHash;

use super::*;
use crate::completion::Failure;
use crate::key::{Key, KeyPath, KeyRouting};
use crate::testing::{ModelVolume, WINDOW_SECONDS, record};

const NDJSON: &str = "application/x-ndjson";

/// A request with a key.
async fn send(server: &Server, kind: &str, key: &str, body: &str) -> Answer {
    let request = Request::builder()
        .method("POST")
        .uri(PATH)
        .header("content-type", kind)
        .header("idempotency-key", key);
    let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
    server.send(request.body(body).expect("valid")).await
}

async fn post(server: &Server, key: &str, body: &str) -> Answer {
    send(server, "application/json", key, body).await
}

fn is_repetition(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == Some("true")
}

/// The volume remembers a key of which the process knows nothing.
fn remember(volume: &ModelVolume, source: &SourceKey, key: &str, extent: Extent, body: &str) {
    let hash = key_hash(source, Origin::Request, key.as_bytes());
    let body = body_hash(extent, body.as_bytes());
    volume.with(|state| state.keys.insert(KeyHash::from_bytes(hash), body));
}

fn rows(server: &Server) -> Vec<String> {
    server.rig.volume.rows(slice(1))
}

/// A server whose source takes keys from a path.
async fn by_path(path: &str) -> Server {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let mut route = route_on(
        volume_id(1),
        &server.rig.lane,
        vec![body_sink("a", 1)],
        &[target(slice(1))],
    );
    if let State::Ready(ready) = &mut route.state {
        ready.keys = Arc::new(KeyRouting {
            path: Some(KeyPath::compile(path).expect("valid")),
            assigned: Assigned::to(vec![volume_id(1)]),
        });
    }
    server.rig.directory.set_route(route);
    server
}

#[tokio::test]
async fn a_repeated_request_is_answered_alike_and_written_once() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let first = post(&server, "k1", "{}").await;
    assert_eq!((first.status(), first.text()), (200, "OK"));
    assert!(!is_repetition(&first));
    let window = WINDOW_SECONDS.to_string();
    assert_eq!(first.header("idempotency-window"), Some(&*window));
    let second = post(&server, "k1", "{}").await;
    assert_eq!((second.status(), second.text()), (200, "OK"));
    assert_eq!(second.header("x-stream-durability"), Some("disk"));
    assert_eq!(second.header("idempotency-window"), Some(&*window));
    assert!(is_repetition(&second));
    let third = post(&server, "k2", "{}").await;
    assert!(third.status() == 200 && !is_repetition(&third));
    assert_eq!(rows(&server).len(), 2);
    assert_eq!(server.rig.admission.used(), 0);
    assert!(
        server
            .post("{}")
            .await
            .header("idempotency-window")
            .is_none()
    );
}

#[tokio::test]
async fn another_body_under_the_same_key_is_refused_whoever_remembers_it() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    post(&server, "k1", "1").await;
    remember(&server.rig.volume, &source(), "k2", Extent::Record, "1");
    for key in ["k1", "k2", "k2"] {
        let answer = post(&server, key, "2").await;
        assert_eq!(answer.error(), error(422, "idempotencyKeyReused"), "{key}");
        assert!(answer.header("retry-after").is_none());
        assert!(!is_repetition(&answer));
    }
    let same = post(&server, "k2", "1").await;
    assert!(same.status() == 200 && is_repetition(&same));
    assert_eq!(rows(&server), ["\"1\""]);
}

#[tokio::test]
async fn known_keys_in_a_batch_with_others_keep_nobody_from_being_written() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let volume = &server.rig.volume;
    remember(volume, &source(), "old", Extent::Record, "1");
    remember(volume, &source(), "other", Extent::Record, "1");
    post(&server, "first", "0").await;
    volume.hold();
    let opened = server.post("open");
    let keyed = async {
        // The batch under way keeps these waiting, so that they share the next one.
        volume.received(2).await;
        let all = futures_util::future::join4(
            post(&server, "old", "1"),
            post(&server, "other", "2"),
            post(&server, "new", "3"),
            server.post("4"),
        );
        let release = async {
            while server.rig.admission.used() < 5 * 512 {
                tokio::task::yield_now().await;
            }
            volume.release();
        };
        futures_util::future::join(all, release).await.0
    };
    let (open, (old, other, new, plain)) = futures_util::future::join(opened, keyed).await;
    assert_eq!(
        (open.status(), old.status(), new.status(), plain.status()),
        (200, 200, 200, 200)
    );
    assert_eq!(other.error(), error(422, "idempotencyKeyReused"));
    assert!(is_repetition(&old) && !is_repetition(&new));
    let mut rows = rows(&server);
    rows.sort();
    assert_eq!(rows, ["\"0\"", "\"3\"", "\"4\"", "\"open\""]);
    assert_eq!(server.rig.admission.used(), 0);
}

#[tokio::test]
async fn a_request_waits_for_the_one_before_it_with_the_same_key() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.rig.volume.hold();
    let storm = futures_util::future::join_all((0..20).map(|_| post(&server, "k", "1")));
    let release = async {
        server.rig.volume.received(1).await;
        server.rig.volume.release();
    };
    let (answers, ()) = futures_util::future::join(storm, release).await;
    assert!(answers.iter().all(|answer| answer.status() == 200));
    let first = answers.iter().filter(|answer| !is_repetition(answer));
    assert_eq!(first.count(), 1);
    assert_eq!(rows(&server).len(), 1);
}

#[tokio::test]
async fn what_was_refused_is_not_remembered() {
    let server = Server::start(vec![path_sink("a", 1, "x")]).await;
    let refused = post(&server, "k", "{}").await;
    assert_eq!(refused.error(), error(422, "unprocessableContent"));
    server
        .rig
        .volume
        .script([Act::Refuse(RefusalReason::DiskFull)]);
    let full = post(&server, "k", r#"{"x":"1"}"#).await;
    assert_eq!(full.error(), error(507, "insufficientStorage"));
    let written = post(&server, "k", r#"{"x":"1"}"#).await;
    assert!(written.status() == 200 && !is_repetition(&written));
    assert_eq!(rows(&server).len(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_found_again_and_its_repetition_is_one() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.rig.volume.script([Act::LoseAnswer]);
    assert_eq!(post(&server, "k", "1").await.status(), 200);
    assert!(is_repetition(&post(&server, "k", "1").await));
    server.rig.volume.script([Act::LoseBatch]);
    let written = post(&server, "l", "1").await;
    assert!(written.status() == 200 && !is_repetition(&written));
    assert_eq!(rows(&server).len(), 2);
}

#[tokio::test]
async fn a_request_with_many_records_is_known_as_a_whole() {
    let server = Server::start(vec![body_sink("a", 1), path_sink("b", 1, "x")]).await;
    let body = "{\"x\":1}\n{\"y\":1}\nnot json\n{\"x\":2}\n";
    let first = send(&server, NDJSON, "k", body).await;
    assert_eq!(first.status(), 207);
    assert_eq!(server.rig.volume.with(|state| state.keys.len()), 1);
    let second = send(&server, NDJSON, "k", body).await;
    assert_eq!((second.status(), second.json()), (207, first.json()));
    assert_eq!(server.rig.volume.rows(slice(2)).len(), 2);
    let count = rows(&server).len();
    // The same bytes as one record, and other records.
    assert_eq!(
        post(&server, "k", body).await.error(),
        error(422, "idempotencyKeyReused")
    );
    let other = send(&server, NDJSON, "k", "{\"x\":1}\n").await;
    assert_eq!(other.error(), error(422, "idempotencyKeyReused"));
    // What only the volume knows.
    let known = "{\"x\":7}\n{\"x\":8}\n";
    remember(&server.rig.volume, &source(), "v", Extent::Batch, known);
    let answer = send(&server, NDJSON, "v", known).await;
    assert!(answer.status() == 200 && is_repetition(&answer));
    assert_eq!(rows(&server).len(), count);
    assert_eq!(server.rig.admission.used(), 0);
}

#[tokio::test]
async fn a_path_makes_every_record_known_by_itself() {
    let server = by_path("id").await;
    let lines = "{\"id\":1}\n{\"id\":2}\n{\"id\":1}\n{}\n";
    let first = server
        .request("POST", PATH, ("content-type", NDJSON), lines)
        .await;
    assert_eq!(
        (first.status(), first.json()["accepted"].clone()),
        (200, json!(4))
    );
    assert_eq!(rows(&server).len(), 3);
    // The header does not count, and the records may come in another request.
    let again = post(&server, "k", "{\"id\":2}").await;
    assert!(again.status() == 200 && is_repetition(&again));
    let other = "{\"id\":2,\"v\":9}\n{\"id\":3}\n";
    let mixed = send(&server, NDJSON, "k", other).await;
    assert_eq!(
        (mixed.status(), mixed.json()["accepted"].clone()),
        (207, json!(1))
    );
    assert_eq!(
        mixed.json()["records"][0]["error"],
        "stream.in.idempotencyKeyReused"
    );
    assert_eq!(rows(&server).len(), 4);
    assert_eq!(server.post("{}").await.status(), 200);
    assert_eq!(server.rig.metrics.unkeyed_records.get(), 2);
}

#[tokio::test]
async fn wrong_keys_are_refused() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    assert_eq!(
        post(&server, "", "1").await.error(),
        error(400, "badRequest")
    );
    let long = "k".repeat(256);
    assert_eq!(
        post(&server, &long, "1").await.error(),
        error(400, "badRequest")
    );
    assert!(rows(&server).is_empty());
}

/// A dispatcher for the source of a rig, and a key.
fn dispatcher(rig: &Rig) -> Dispatcher {
    let (mapper, metrics) = (Arc::clone(&rig.mapper), Arc::clone(&rig.metrics));
    let (evaluators, directory) = (rig.evaluators.clone(), Arc::clone(&rig.directory) as _);
    Dispatcher::new(mapper, evaluators, metrics, directory, TIMEOUT)
}

async fn written(rig: &Rig, dispatcher: &Dispatcher, key: &str) -> Result<Durability, Failure> {
    told(rig, dispatcher, key).await.written
}

/// What the sender of a record with a key is told.
async fn told(rig: &Rig, dispatcher: &Dispatcher, key: &str) -> crate::dispatch::Report {
    let mut headers = hyper::HeaderMap::new();
    headers.insert("idempotency-key", key.parse().expect("valid"));
    let key = Key::of_request(&headers, Extent::Record, b"1");
    let key = key.expect("valid").expect("there is one");
    let sources = rig.directory.table.authenticate(1, "orders", "secret");
    let received = crate::mapper::Received::new(record("1"), hyper::HeaderMap::new());
    let reserved = rig.admission.reserve(1).expect("fits");
    let reports = dispatcher.dispatch(&sources, received, reserved, Some(&key));
    reports.await.remove(0)
}

/// Two volumes of a source, both live.
fn two_volumes(assigned: &[u8]) -> (Rig, Rig) {
    let first = Rig::new();
    let second = Rig::with(ModelVolume::new(2), Arc::clone(&first.directory), 2);
    let volumes = [(1, &first), (2, &second)].map(|(id, rig)| {
        rig.volume.open_slice(slice(id));
        crate::route::VolumeRoute {
            volume: volume_id(id),
            lane: rig.lane.clone(),
            targets: [target(slice(id))].into(),
            rejects: [None].into(),
        }
    });
    let state = State::Ready(Ready {
        plan: Arc::new(crate::route::Plan::new(vec![body_sink("a", 1)])),
        volumes: volumes.to_vec(),
        keys: Arc::new(KeyRouting {
            path: None,
            assigned: Assigned::to(assigned.iter().copied().map(volume_id).collect()),
        }),
    });
    first.directory.set_route(Route {
        source: source(),
        secret: Secret::new("secret".to_owned()),
        state,
    });
    (first, second)
}

#[tokio::test(start_paused = true)]
async fn a_key_goes_to_its_volume_whatever_the_load() {
    let (first, second) = two_volumes(&[1, 2]);
    let dispatcher = dispatcher(&first);
    for key in 0..40 {
        let key = format!("k{key}");
        assert!(written(&first, &dispatcher, &key).await.is_ok());
        let hash = KeyHash::from_bytes(key_hash(&source(), Origin::Request, key.as_bytes()));
        let volumes = [volume_id(1), volume_id(2)];
        let owner = stream_model::idempotency::owner(&source(), hash.shard(), &volumes);
        let own = [&first, &second].map(|rig| rig.volume.with(|s| s.keys.contains_key(&hash)));
        assert_eq!(
            own,
            [owner == Some(volume_id(1)), owner == Some(volume_id(2))]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn keys_of_a_volume_that_is_away_are_refused_until_it_is_back() {
    let (first, _second) = two_volumes(&[9]);
    let dispatcher = dispatcher(&first);
    let refused = written(&first, &dispatcher, "k").await;
    assert_eq!(refused, Err(Failure::KeyOwnerAway));
    assert!(Failure::KeyOwnerAway.refusal().retry);
    assert_eq!(Failure::KeyOwnerAway.refusal().status, 503);
    assert!(first.volume.with(|state| state.keys.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn keys_that_were_taken_over_go_to_the_other_volume_with_a_window_from_then_on() {
    let (first, second) = two_volumes(&[1, 2]);
    let route = first.directory.table.route(&source()).expect("it is set");
    let State::Ready(ready) = &route.state else {
        panic!("it is ready");
    };
    let received = record("x").received_at;
    let before = Assigned::to(vec![volume_id(1), volume_id(2)]);
    let since = stream_model::Timestamp::from_millis(received.as_millis() - 300_000);
    let taken = before.taken_over(&source(), volume_id(1), &[volume_id(2)], since);
    let keys = KeyRouting {
        path: None,
        assigned: taken.expect("it has shards"),
    };
    first.directory.set_route(Route {
        source: source(),
        secret: Secret::new("secret".to_owned()),
        state: State::Ready(Ready {
            plan: Arc::clone(&ready.plan),
            volumes: ready.volumes.clone(),
            keys: Arc::new(keys),
        }),
    });
    let dispatcher = dispatcher(&first);
    let mut windows = std::collections::BTreeSet::new();
    for key in 0..40 {
        let key = format!("k{key}");
        let hash = KeyHash::from_bytes(key_hash(&source(), Origin::Request, key.as_bytes()));
        let owner = before.owner(&source(), hash.shard()).expect("there is one");
        for is_repetition in [false, true] {
            let report = told(&first, &dispatcher, &key).await;
            let told = report.key.expect("it has a key");
            assert_eq!(told.is_repetition, is_repetition);
            let expected = match owner.volume == volume_id(1) {
                true => 300,
                false => WINDOW_SECONDS,
            };
            assert_eq!(told.window_seconds, Some(expected));
            windows.insert(expected);
        }
    }
    assert_eq!(windows.len(), 2);
    assert!(first.volume.rows(slice(1)).is_empty());
    assert_eq!(second.volume.rows(slice(2)).len(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_does_not_decide_about_a_key_is_not_asked_again_and_nothing_is_written() {
    let (first, second) = two_volumes(&[1]);
    let dispatcher = dispatcher(&first);
    first
        .volume
        .script([Act::Refuse(RefusalReason::KeysElsewhere)]);
    let refused = written(&first, &dispatcher, "k").await;
    assert_eq!(refused, Err(Failure::KeyOwnerAway));
    assert!(first.volume.rows(slice(1)).is_empty() && second.volume.rows(slice(2)).is_empty());
    // The volume goes on with what has no key: it is not taken for broken.
    assert!(!first.lane.is_resting());
    assert!(written(&first, &dispatcher, "k").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_record_with_a_key_is_not_taken_to_another_volume() {
    let (first, second) = two_volumes(&[1]);
    let dispatcher = dispatcher(&first);
    first.volume.script([
        Act::Refuse(RefusalReason::WriteFailed),
        Act::Refuse(RefusalReason::WriteFailed),
    ]);
    assert!(written(&first, &dispatcher, "k").await.is_ok());
    first.volume.script([Act::Refuse(RefusalReason::DiskFull)]);
    assert!(written(&first, &dispatcher, "l").await.is_err());
    assert!(second.volume.rows(slice(2)).is_empty());
    assert_eq!(first.volume.rows(slice(1)).len(), 1);
}
