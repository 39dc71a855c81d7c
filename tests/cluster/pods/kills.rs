//! Processes that are killed, or stopped in an orderly way, one after the other under load.

use std::time::Duration;

use hyper::Method;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use stream_tests::client::{PATIENCE, PAUSE, request, send_once};
use stream_tests::service::Service;
use tokio::time::{Instant, sleep};

use super::{PODS, Pods};
use crate::ownership::installation::{Installation, create};
use crate::ownership::load::Load;
use crate::ownership::number;
use crate::seed;
use crate::traffic::Fate;

/// Records between two events.
const RECORDS: u64 = 80;
/// About so long takes what goes on after an answer.
const BETWEEN_ANSWERS: Duration = Duration::from_millis(20);

/// Waits until a source writes to both volumes.
async fn uses_both_volumes(source: &Service) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ask = request(Method::GET, "/metrics", "");
        let reply = send_once(source.setup().metrics_address(), ask).await;
        let reply = reply.expect("the admin port answers");
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        if text
            .lines()
            .any(|line| line == "stream_wire_client_streams 2")
        {
            return;
        }
        assert!(Instant::now() < deadline, "it does not:\n{text}");
        sleep(PAUSE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_process_is_killed_in_turn_and_every_acknowledged_record_is_in_the_table_once() {
    let seed = seed("pods");
    let mut rng = StdRng::seed_from_u64(seed);
    let Some(site) = Installation::new().await else {
        return;
    };
    let mut pods = Pods::start(&site).await;
    let source = create(pods.named("api")).await;
    let load = Load::start(&pods.sources(), &source, 0);
    load.more(RECORDS).await.expect("acknowledged");
    for name in ["source-1", "source-2"] {
        uses_both_volumes(pods.named(name)).await;
    }
    let rounds = number("STREAM_TEST_ROUNDS", 1);
    let mut kills = 0;
    for _ in 0..rounds {
        let mut order: Vec<usize> = (0..PODS.len()).collect();
        order.shuffle(&mut rng);
        for index in order {
            let victim = &mut pods.0[index];
            let moment = BETWEEN_ANSWERS.mul_f64(rng.random());
            victim.kill_after(moment).await.expect("it ran");
            kills += 1;
            // Of each kind on the way of a record there is another one.
            let without = load.more(RECORDS).await;
            without.unwrap_or_else(|error| panic!("without {}: {error}", PODS[index].0));
            pods.0[index].restart().await.expect("it starts again");
            load.more(RECORDS).await.expect("acknowledged");
        }
    }
    let sent = load.stop().await.expect("the right answers");
    pods.settle(&site, "pods", &sent).await;
    eprintln!(
        "pods: {kills} kills: {} acknowledged, 0 of them missing, 0 doubled; {} unknown, {} of them written",
        sent.count(Fate::Acknowledged),
        sent.count(Fate::Unknown),
        sent.written(&site.tables(), Fate::Unknown)
            .expect("readable")
            .len(),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_restart_of_a_writer_leaves_no_record_in_doubt() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let mut pods = Pods::start(&site).await;
    let source = create(pods.named("api")).await;
    let load = Load::start(&pods.sources(), &source, 0);
    for name in [
        "writer-1",
        "writer-2",
        "reader-1",
        "coordinator",
        "writer-1",
    ] {
        load.more(RECORDS).await.expect("acknowledged");
        pods.named(name).stop().await.expect("it stops");
        load.more(RECORDS).await.expect("acknowledged without it");
        pods.named(name).restart().await.expect("it starts again");
    }
    load.more(RECORDS).await.expect("acknowledged");
    let sent = load.stop().await.expect("the right answers");
    pods.settle(&site, "orderly", &sent).await;
    assert_eq!(sent.count(Fate::Unknown), 0, "{}", sent.summary());
}
