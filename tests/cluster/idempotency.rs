//! Idempotency keys: however often, over however many connections and through however many sources a record is sent, whatever is
//! killed meanwhile, it is in its table once.
//!
//! Longer runs: `STREAM_TEST_ROUNDS` (each process of several is killed so many times, 1).

mod away;
mod several;
mod storm;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_tests::client::request;
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use tokio::time::sleep;

use self::storm::{DAY, REQUESTS, Senders, Storm, TIMES, Way};
use crate::{new_setup, seed};

const KILLS: u64 = 4;
/// About so long takes what goes on after an answer.
const BETWEEN_ANSWERS: Duration = Duration::from_millis(20);

/// Small segments and runs, so that keys are written, merged and asked for while processes are killed.
fn small(setup: Setup) -> Setup {
    setup
        .env("STORAGE_LEVEL_LOCAL_IDEMPOTENCY_MAX_KEYS", "2000")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_SEGMENT_SIZE", "1MB")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_CHECKPOINT_SIZE", "2MB")
}

/// Two volumes in one process.
fn two_volumes(setup: Setup) -> Setup {
    let volumes = setup.data_dir().with_extension("volumes");
    for label in ["a", "b"] {
        std::fs::create_dir_all(volumes.join("default").join(label)).expect("a directory");
    }
    setup
        .importing_each_second()
        .env("STORAGE_VOLUMES_PATH", &volumes.display().to_string())
        .env("STORAGE_LEVEL_LOCAL_VOLUME_ASSIGNMENT_COUNT", "2")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_repetitions_writes_every_record_once_whatever_is_killed() {
    let seed = seed("idempotency");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_scratch, setup) = new_setup();
    let setup = two_volumes(small(setup));
    let mut service = Service::start(setup.clone()).await.expect("it starts");
    let api = service.api().expect("a token");
    let storm = Storm::create(&api, vec![setup.source_address()]).await;
    let storm = Arc::new(storm.expect("they are created"));
    let mut senders = Senders::start(&storm);
    for kill in 1..=KILLS {
        senders.until(kill, KILLS + 1).await;
        sleep(BETWEEN_ANSWERS.mul_f64(rng.random())).await;
        service.kill().await.expect("it runs");
        service.restart().await.expect("it starts again");
    }
    let repetitions = senders.finish().await;
    let tables = setup.tables();
    Storm::check(&tables).await.expect("each record once");
    after_a_restart(&mut service, &storm)
        .await
        .expect("keys are remembered");
    Storm::check(&tables).await.expect("each record still once");
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
    let all = REQUESTS * TIMES;
    eprintln!(
        "idempotency: {all} requests, {KILLS} kills: {repetitions} answered as repetitions, 0 records missing, 0 doubled"
    );
}

/// An orderly stop keeps all keys; another body is refused.
async fn after_a_restart(service: &mut Service, storm: &Storm) -> anyhow::Result<()> {
    service.stop().await?;
    service.restart().await?;
    let mut way = Way::to(0);
    for number in (0..REQUESTS).step_by(7) {
        let reply = storm.deliver(&mut way, number).await?;
        ensure!(
            reply.headers.contains_key("idempotency-replayed"),
            "request {number}"
        );
        ensure!(reply.headers["idempotency-window"] == DAY);
    }
    let connection = way.open.as_mut().context("it is open")?;
    for (source, key) in [(&storm.by_header, "request 0"), (&storm.by_path, "")] {
        let mut request = request(Method::POST, &source.path, r#"{"id":"1-0","x":"another"}"#);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !key.is_empty() {
            headers.insert("idempotency-key", HeaderValue::from_static(key));
        }
        let reply = connection.send(request).await?;
        let told = (reply.status, reply.error());
        ensure!(
            told == (422, "stream.in.idempotencyKeyReused".to_owned()),
            "{told:?}"
        );
    }
    Ok(())
}
