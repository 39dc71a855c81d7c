//! Several sources and writers, each a process: a key is the same whichever source it comes to.

use std::sync::Arc;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tokio::time::sleep;

use super::storm::{DAY, REQUESTS, Senders, Storm, TIMES, Way};
use super::{BETWEEN_ANSWERS, small};
use crate::ownership::installation::Installation;
use crate::ownership::number;
use crate::pods::Pods;
use crate::seed;

/// Those on the way of a record from its client to the table.
const VICTIMS: [&str; 5] = [
    "source-1",
    "source-2",
    "writer-1",
    "writer-2",
    "coordinator",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_used_once_whichever_source_it_comes_to_and_whatever_is_killed() {
    let seed = seed("idempotency of several sources");
    let mut rng = StdRng::seed_from_u64(seed);
    let Some(site) = Installation::new().await else {
        return;
    };
    let mut pods = Pods::start_as(&site, |_, setup| small(setup)).await;
    let api = pods.named("api").api().expect("a token");
    let storm = Storm::create(&api, pods.sources()).await;
    let storm = Arc::new(storm.expect("they are created"));
    let mut victims: Vec<&str> = Vec::new();
    for _ in 0..number("STREAM_TEST_ROUNDS", 1) {
        let mut round = VICTIMS;
        round.shuffle(&mut rng);
        victims.extend(round);
    }
    let mut senders = Senders::start(&storm);
    for (kill, victim) in (1..).zip(&victims) {
        senders.until(kill, victims.len() as u64 + 1).await;
        sleep(BETWEEN_ANSWERS.mul_f64(rng.random())).await;
        let pod = pods.named(victim);
        pod.kill().await.expect("it runs");
        pod.restart().await.expect("it starts again");
    }
    let repetitions = senders.finish().await;
    let tables = site.tables();
    Storm::check(&tables).await.expect("each record once");
    // What one source has written the other one knows as well, now that no process remembers it by itself.
    for name in ["source-1", "source-2"] {
        pods.named(name).kill().await.expect("it runs");
        pods.named(name).restart().await.expect("it starts again");
    }
    for at in 0..storm.addresses.len() {
        let mut way = Way::to(at);
        for number in (0..REQUESTS).step_by(7) {
            let reply = storm.deliver(&mut way, number).await.expect("accepted");
            let is_repetition = reply.headers.contains_key("idempotency-replayed");
            assert!(is_repetition, "request {number} at source {at}");
            assert_eq!(reply.headers["idempotency-window"], DAY);
        }
    }
    Storm::check(&tables).await.expect("each record still once");
    pods.stop(&site).await;
    eprintln!(
        "idempotency of several sources: {} requests, {} kills: {repetitions} answered as repetitions, 0 records missing, 0 doubled",
        REQUESTS * TIMES,
        victims.len()
    );
}
