//! Starts beside a real etcd that is away, that has lost its quorum, or that still holds what a killed process announced.

use std::collections::BTreeSet;

use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests_etcd::{Cluster, Transport};
use tokio::time::Instant;

use crate::etcd_keys as keys;
use crate::etcd_load::Load;
use crate::etcd_outage::{WITHOUT_ETCD, with_etcd};
use crate::traffic::Fate;
use crate::verdict::Verdict;
use crate::{new_setup, seed, sinks};

/// Keys that live as long as the process that wrote them.
const ANNOUNCED: [&str; 3] = [
    "stream/volume/registration/",
    "stream/volume/figures/",
    "stream/node/",
];

/// Starts a process that cannot start. It says why in one line, with these words.
async fn assert_refused(setup: &Setup, words: &[&str]) {
    let begun = Instant::now();
    let ended = setup.run_to_end().await.expect("it ends");
    eprintln!("after {} ms: {}", begun.elapsed().as_millis(), ended.stderr);
    crate::start::assert_refused(&ended, words);
}

async fn started(members: usize) -> Option<Cluster> {
    let program = stream_tests_etcd::program()?;
    let cluster = Cluster::start(&program, members, Transport::Plain).await;
    Some(cluster.expect("etcd starts"))
}

fn host(cluster: &Cluster, member: usize) -> &str {
    let endpoint = &cluster.endpoints()[member];
    endpoint.strip_prefix("http://").expect("no encryption")
}

#[tokio::test]
async fn a_start_without_etcd_is_refused_with_its_address() {
    let Some(mut cluster) = started(1).await else {
        return;
    };
    let (_scratch, setup) = new_setup();
    let setup = with_etcd(setup, &cluster).env("ETCD_CONNECT_TIMEOUT", "2s");
    cluster.freeze(0).expect("it runs");
    assert_refused(&setup, &["etcd", host(&cluster, 0), "2 s"]).await;
    cluster.kill(0);
    assert_refused(&setup, &["etcd", host(&cluster, 0), "refused"]).await;
}

#[tokio::test]
async fn a_start_without_quorum_is_refused_with_that_word() {
    let Some(mut cluster) = started(3).await else {
        return;
    };
    cluster.kill(1);
    cluster.kill(2);
    let (_scratch, setup) = new_setup();
    let setup = with_etcd(setup, &cluster).env("ETCD_CONNECT_TIMEOUT", "4s");
    assert_refused(&setup, &["etcd", host(&cluster, 0), "quorum"]).await;
}

#[tokio::test]
async fn two_of_three_members_are_enough_for_a_start() {
    let Some(mut cluster) = started(3).await else {
        return;
    };
    // Which of the named endpoints is dead does not matter.
    for dead in 0..cluster.count() {
        cluster.kill(dead);
        let (_scratch, setup) = new_setup();
        // The token of an installation is in the data directory of its first start.
        let setup = with_etcd(setup, &cluster).env("ETCD_NAMESPACE", &format!("without-{dead}"));
        let mut service = Service::start(setup).await.expect("it starts");
        let api = service.api().expect("a token");
        let created = api.create_source(&format!("orders-{dead}")).await;
        created.expect("the state takes changes");
        service.stop().await.expect("it stops");
        service.assert_quiet(&[]);
        cluster.start_again(dead).expect("it starts");
        cluster.wait_until_healthy(dead).await.expect("healthy");
    }
}

/// The leases under which the processes of the installation are announced.
async fn leases(cluster: &Cluster) -> BTreeSet<i64> {
    let mut leases = BTreeSet::new();
    for prefix in ANNOUNCED {
        let found = keys::under(cluster, prefix).await.expect("etcd answers");
        assert!(!found.is_empty(), "nothing is announced under {prefix}");
        leases.extend(found.values().map(|stored| stored.lease));
    }
    leases
}

/// How often service and etcd are killed; more by `STREAM_TEST_RUNS` to measure.
fn runs() -> usize {
    let given = std::env::var("STREAM_TEST_RUNS").ok();
    given.map_or(1, |text| {
        text.parse().expect("STREAM_TEST_RUNS is a number")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_process_announced_is_taken_over_at_once() {
    let Some(mut cluster) = started(1).await else {
        return;
    };
    let seed = seed("etcd start");
    let (_scratch, setup) = new_setup();
    // What the killed process announced must not be gone by itself before the next one starts.
    let setup =
        with_etcd(setup, &cluster).env("STORAGE_LEVEL_LOCAL_VOLUME_REGISTRATION_TTL_SECONDS", "60");
    let mut service = Service::start(setup.clone()).await.expect("it starts");
    let source = sinks::create(&service.api().expect("a token"), "webhooks").await;
    let source = source.expect("it is created");
    let mut ready_ms = Vec::new();
    for run in 0..runs() as u64 {
        let mut load = Load::start(seed, run << 32, setup.source_address(), &source);
        load.acknowledged(200).await.expect("acknowledged");
        let old = leases(&cluster).await;
        assert!(old.len() == 1 && !old.contains(&0), "one lease: {old:?}");
        service.kill().await.expect("it runs");
        cluster.kill(0);
        let (traffic, sent) = load.stop().await.expect("the answers are the right ones");

        cluster.start_again(0).expect("it starts");
        cluster.wait_until_healthy(0).await.expect("it is back");
        assert_eq!(leases(&cluster).await, old, "etcd kept them alive");
        let begun = Instant::now();
        service.restart().await.expect("it starts again");
        ready_ms.push(begun.elapsed().as_millis());
        let new = leases(&cluster).await;
        assert!(
            new.len() == 1 && new.is_disjoint(&old),
            "{old:?}, then {new:?}"
        );
        for lease in old {
            keys::revoke(&cluster, lease).await.expect("etcd answers");
        }
        assert_eq!(leases(&cluster).await, new, "they ended with the old lease");

        let verdict = Verdict::new(&traffic, &sent.fates);
        let imported = verdict.wait_for_import(&setup.tables()).await;
        imported.expect("all records are imported");
    }
    ready_ms.sort_unstable();
    eprintln!(
        "etcd start: ready after {ready_ms:?} ms, median {} ms",
        ready_ms[ready_ms.len() / 2]
    );
    service.stop().await.expect("it stops");
    for prefix in ANNOUNCED {
        let left = keys::under(&cluster, prefix).await.expect("etcd answers");
        assert!(left.is_empty(), "announced after the stop: {left:?}");
    }
    service.assert_quiet(WITHOUT_ETCD);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_without_etcd_starts_only_with_it_and_has_lost_nothing() {
    let Some(mut cluster) = started(1).await else {
        return;
    };
    let seed = seed("etcd start, killed without");
    let (_scratch, setup) = new_setup();
    let setup = with_etcd(setup, &cluster);
    let mut service = Service::start(setup.clone()).await.expect("it starts");
    let source = sinks::create(&service.api().expect("a token"), "webhooks").await;
    let source = source.expect("it is created");
    let mut load = Load::start(seed, 0, setup.source_address(), &source);
    load.acknowledged(400).await.expect("acknowledged");
    cluster.kill(0);
    let more = load.count() + 600;
    load.acknowledged(more).await.expect("records go on");
    service.kill().await.expect("it runs");
    let (traffic, sent) = load.stop().await.expect("the answers are the right ones");

    let impatient = setup.clone().env("ETCD_CONNECT_TIMEOUT", "2s");
    assert_refused(&impatient, &["etcd", host(&cluster, 0)]).await;
    cluster.start_again(0).expect("it starts");
    // Not healthy yet: a start waits for it.
    service.restart().await.expect("it starts again");
    let verdict = Verdict::new(&traffic, &sent.fates);
    eprintln!(
        "etcd start: {} acknowledged, {} unknown",
        verdict.count(Fate::Acknowledged),
        verdict.count(Fate::Unknown)
    );
    verdict
        .wait_for_import(&setup.tables())
        .await
        .expect("all records are imported");
    service.stop().await.expect("it stops");
    verdict
        .check(&setup.tables())
        .expect("the tables hold what was acknowledged");
    service.assert_quiet(WITHOUT_ETCD);
}
