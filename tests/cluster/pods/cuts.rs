//! The network between sources and writers fails, all processes live.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use stream_tests::proxy::Proxy;
use stream_tests_etcd::free_port::free_port;
use tokio::time::sleep;

use super::Pods;
use crate::ownership::installation::{Installation, create};
use crate::ownership::load::Load;
use crate::ownership::number;
use crate::seed;
use crate::traffic::Fate;

/// Cuts in a round.
const CUTS: u64 = 12;
/// Records between two cuts.
const RECORDS: u64 = 40;
/// The longest time for which nothing gets through to a writer.
const LONGEST: Duration = Duration::from_millis(800);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_cut_again_and_again_loses_and_doubles_nothing() {
    let seed = seed("cuts");
    let mut rng = StdRng::seed_from_u64(seed);
    let Some(site) = Installation::new().await else {
        return;
    };
    // Each writer is reached through a way of its own.
    let mut ways = BTreeMap::new();
    for name in ["writer-1", "writer-2"] {
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port().expect("a free port")));
        let proxy = Proxy::start(listen).await.expect("it starts");
        ways.insert(name, (listen, proxy));
    }
    let network = "STORAGE_LEVEL_LOCAL_WRITER_NETWORK";
    let mut pods = Pods::start_as(&site, |name, setup| match ways.get(name) {
        Some((listen, proxy)) => setup
            .env(&format!("{network}_LISTEN"), &listen.to_string())
            .env(
                &format!("{network}_ADVERTISE"),
                &proxy.address().to_string(),
            ),
        None => setup,
    })
    .await;
    let source = create(pods.named("api")).await;
    let load = Load::start(&pods.sources(), &source, 0);
    let proxies: Vec<&Proxy> = ways.values().map(|(_, proxy)| proxy).collect();
    let cuts = CUTS * number("STREAM_TEST_ROUNDS", 1);
    for _ in 0..cuts {
        load.more(RECORDS).await.expect("acknowledged");
        let cut: Vec<&&Proxy> = match rng.random_bool(0.3) {
            true => proxies.iter().collect(),
            false => proxies.choose(&mut rng).into_iter().collect(),
        };
        cut.iter().for_each(|proxy| proxy.cut());
        sleep(LONGEST.mul_f64(rng.random())).await;
        cut.iter().for_each(|proxy| proxy.mend());
    }
    load.more(RECORDS).await.expect("acknowledged");
    let sent = load.stop().await.expect("the right answers");
    pods.settle(&site, "cuts", &sent).await;
    // A cut is over long before the deadline of a request, so what it left in doubt is settled by then on a machine that has time.
    eprintln!(
        "cuts: {cuts} cuts: {} acknowledged, 0 of them missing, 0 doubled; {} unknown",
        sent.count(Fate::Acknowledged),
        sent.count(Fate::Unknown)
    );
}
