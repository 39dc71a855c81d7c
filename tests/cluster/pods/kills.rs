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

/// Of each kind on the way of a record there is another one.
async fn kill_pod(pods: &mut Pods, index: usize, load: &Load) {
    pods.0[index].kill().await.expect("it ran");
    let without = load.more(RECORDS).await;
    without.unwrap_or_else(|error| panic!("without {}: {error}", PODS[index].0));
    pods.0[index].restart().await.expect("it starts again");
}

/// There is one etcd. What the processes know is enough for as long as it is away, and it comes back with what it had.
async fn kill_etcd(site: &mut Installation, load: &Load) {
    site.own_etcd().kill(0);
    load.more(RECORDS).await.expect("acknowledged without etcd");
    site.own_etcd().start_again(0).expect("it starts again");
    let healthy = site.own_etcd().wait_until_healthy(0).await;
    healthy.expect("it is back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_process_is_killed_in_turn_and_every_acknowledged_record_is_in_the_table_once() {
    let seed = seed("pods");
    let mut rng = StdRng::seed_from_u64(seed);
    let Some(mut site) = Installation::with_its_own_etcd().await else {
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
        let mut order: Vec<Option<usize>> = (0..PODS.len()).map(Some).chain([None]).collect();
        order.shuffle(&mut rng);
        for victim in order {
            sleep(BETWEEN_ANSWERS.mul_f64(rng.random())).await;
            kills += 1;
            match victim {
                Some(index) => kill_pod(&mut pods, index, &load).await,
                None => kill_etcd(&mut site, &load).await,
            }
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
