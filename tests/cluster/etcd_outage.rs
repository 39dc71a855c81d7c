//! A real etcd goes away under load, and comes back: what is known goes on, what has to wait catches up, nothing is lost.
//!
//! It goes away for 8 s, or for `STREAM_TEST_OUTAGE_SECONDS`.

use std::time::Duration;

use hyper::Method;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use stream_tests::client::{PATIENCE, PAUSE, request, send_once};
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests_etcd::{Cluster, Transport};
use tokio::time::{Instant, sleep};

use crate::etcd_load::Load;
use crate::traffic::Fate;
use crate::verdict::Verdict;
use crate::{new_setup, seed, sinks};

/// How long etcd is away unless the environment says something else.
const OUTAGE: Duration = Duration::from_secs(8);

/// So old is what a process knows at most, in seconds, while etcd is there.
const NORMAL_AGE: f64 = 6.0;
/// So much a process may write while etcd is away: a few tries of everything that waits, and no loop without a pause.
const LINES_A_SECOND: u64 = 20;

/// What a process may say while etcd is away, and when it is back.
pub const WITHOUT_ETCD: &[&str] = &[
    "state store lost",
    "reconciler failing, will go on trying",
    "reached limit cannot be recorded, will go on trying",
    "result of the upload cannot be recorded yet",
    "result of the import cannot be recorded yet",
    "imported file cannot be cleaned up yet",
    "cannot read which volumes and coordinators are alive",
    "lease lost, registering again",
    "request cannot be answered now",
];

/// What it may say when it stops then: what is announced ends with the lease.
const STOPPED_WITHOUT_ETCD: &[&str] = &[
    "registration of the volume cannot be withdrawn",
    "\"phase\":\"lease\"",
];

/// How etcd goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// Its process is gone: requests fail at once.
    Killed,
    /// Its process does not run: requests are not answered.
    Frozen,
}

impl Failure {
    fn begin(self, cluster: &mut Cluster) {
        match self {
            Self::Killed => cluster.kill(0),
            Self::Frozen => cluster.freeze(0).expect("it runs"),
        }
    }

    async fn end(self, cluster: &mut Cluster) {
        match self {
            Self::Killed => cluster.start_again(0).expect("it starts"),
            Self::Frozen => cluster.thaw(0).expect("it runs"),
        }
        cluster.wait_until_healthy(0).await.expect("it is back");
    }
}

/// Lets a process work with an etcd. A volume is made for it, as an operator does.
pub fn with_etcd(setup: Setup, cluster: &Cluster) -> Setup {
    let volume = setup.data_dir().join("volumes/default/local");
    std::fs::create_dir_all(volume).expect("the directory of a volume");
    setup
        .importing_each_second()
        .env("ETCD_ENDPOINT", &cluster.endpoints().join(","))
}

/// How long ago the process has heard of etcd, as it says.
async fn state_age(setup: &Setup) -> f64 {
    let metrics = request(Method::GET, "/metrics", "");
    let reply = send_once(setup.metrics_address(), metrics).await;
    let reply = reply.expect("the admin port answers");
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let mut lines = text.lines();
    let age = lines.find_map(|line| line.strip_prefix("stream_state_age_seconds "));
    let age = age.expect("there is such a metric").parse();
    age.expect("it is a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_etcd_stops_no_acknowledgement_and_loses_nothing() {
    outage(Failure::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_etcd_stops_no_acknowledgement_and_loses_nothing() {
    outage(Failure::Frozen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_without_etcd_is_orderly_and_loses_nothing() {
    for failure in [Failure::Killed, Failure::Frozen] {
        stop(failure).await;
    }
}

async fn stop(failure: Failure) {
    let Some(program) = stream_tests_etcd::program() else {
        return;
    };
    let seed = seed(&format!("stop without etcd, {failure:?}"));
    let mut cluster = Cluster::start(&program, 1, Transport::Plain)
        .await
        .expect("etcd starts");
    let (_scratch, setup) = new_setup();
    let setup = with_etcd(setup, &cluster);
    let mut service = Service::start(setup.clone()).await.expect("it starts");
    let source = sinks::create(&service.api().expect("a token"), "webhooks").await;
    let source = source.expect("it is created");
    let mut load = Load::start(seed, 0, setup.source_address(), &source);
    load.acknowledged(300).await.expect("acknowledged");
    failure.begin(&mut cluster);
    let more = load.count() + 300;
    load.acknowledged(more).await.expect("records go on");
    let (traffic, sent) = load.stop().await.expect("the answers are the right ones");
    let begun = Instant::now();
    service.stop().await.expect("it exits with 0");
    eprintln!(
        "stop without etcd, {failure:?}: {} ms",
        begun.elapsed().as_millis()
    );

    failure.end(&mut cluster).await;
    service.restart().await.expect("it starts again");
    let verdict = Verdict::new(&traffic, &sent.fates);
    let imported = verdict.wait_for_import(&setup.tables()).await;
    imported.expect("all records are imported");
    service.stop().await.expect("it stops");
    let compared = verdict.check(&setup.tables());
    compared.expect("the tables hold what was acknowledged");
    service.assert_quiet(&[WITHOUT_ETCD, STOPPED_WITHOUT_ETCD].concat());
}

async fn outage(failure: Failure) {
    let Some(program) = stream_tests_etcd::program() else {
        return;
    };
    let seed = seed(&format!("etcd outage, {failure:?}"));
    let mut cluster = Cluster::start(&program, 1, Transport::Plain)
        .await
        .expect("etcd starts");
    let (_scratch, setup) = new_setup();
    // Small slices, so that limits are reached while nobody can be told.
    let setup = with_etcd(setup, &cluster).env("STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_COUNT", "700");
    let mut service = Service::start(setup.clone()).await.expect("it starts");
    let source = sinks::create(&service.api().expect("a token"), "webhooks").await;
    let source = source.expect("it is created");
    let mut load = Load::start(seed, 0, setup.source_address(), &source);
    let goes_away = StdRng::seed_from_u64(seed).random_range(300..1500);
    load.acknowledged(goes_away).await.expect("acknowledged");

    let (gone, said_before) = (Instant::now(), service.log().len());
    failure.begin(&mut cluster);
    let wanted = outage_length();
    let seconds = load.go_on_for(wanted).await.expect("records go on");
    assert_says_what_is_going_on(&service).await;
    let (lines, seconds_away) = (service.log().len() - said_before, gone.elapsed().as_secs());
    failure.end(&mut cluster).await;
    let back = Instant::now();
    assert!(
        lines as u64 <= 50 + LINES_A_SECOND * seconds_away,
        "{lines} lines in the log in {seconds_away} s without etcd"
    );
    assert_changes_are_taken_again(&service).await;
    eprintln!(
        "etcd outage, {failure:?}: acknowledged in each second {seconds:?}; changes taken {} ms after etcd was healthy",
        back.elapsed().as_millis()
    );
    let after = load.count() + 500;
    load.acknowledged(after).await.expect("records go on");
    let (traffic, sent) = load.stop().await.expect("the answers are the right ones");

    let verdict = Verdict::new(&traffic, &sent.fates);
    eprintln!(
        "etcd outage, {failure:?}: {} acknowledged, {} unknown; refusals: {:?}",
        verdict.count(Fate::Acknowledged),
        verdict.count(Fate::Unknown),
        sent.refusals
    );
    verdict
        .wait_for_import(&setup.tables())
        .await
        .expect("all records are imported");
    eprintln!(
        "etcd outage, {failure:?}: everything imported {} ms after etcd was healthy",
        back.elapsed().as_millis()
    );
    service.stop().await.expect("it stops");
    verdict
        .check(&setup.tables())
        .expect("the tables hold what was acknowledged");
    assert!(
        sent.refusals.is_empty(),
        "records of known sources were turned away: {:?}",
        sent.refusals
    );
    service.assert_quiet(WITHOUT_ETCD);
}

fn outage_length() -> Duration {
    let given = std::env::var("STREAM_TEST_OUTAGE_SECONDS").ok();
    given.map_or(OUTAGE, |text| {
        let seconds = text.parse();
        Duration::from_secs(seconds.expect("STREAM_TEST_OUTAGE_SECONDS is a number"))
    })
}

/// The process is alive and takes records, so it stays ready; what waits shows in the metrics, the log and the answers of
/// the API.
async fn assert_says_what_is_going_on(service: &Service) {
    let setup = service.setup();
    let readiness = setup.readiness().await.expect("the admin port answers");
    assert!(readiness.is_ready, "it takes records: {readiness:?}");
    assert!(
        service
            .log()
            .iter()
            .any(|line| line.contains("state store lost")),
        "the log does not tell that etcd is away"
    );
    let body = json!({"type": "http", "name": "late", "sourceId": "late"});
    let sources = "/v1/branches/default/sources";
    let api = service.api().expect("a token");
    let reply = api.call(Method::POST, sources, &body).await;
    let reply = reply.expect("the API answers");
    assert_eq!(reply.status, 503, "{}", reply.message());
    assert!(!reply.message().is_empty(), "without a sentence");
    let deadline = Instant::now() + PATIENCE;
    while state_age(setup).await <= NORMAL_AGE {
        assert!(Instant::now() < deadline, "no metric tells it");
        sleep(PAUSE).await;
    }
}

/// The API takes a change as soon as etcd is back.
async fn assert_changes_are_taken_again(service: &Service) {
    let api = service.api().expect("a token");
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = api.create_source("afterwards").await {
        let known = error.to_string();
        if known.contains("409") {
            // An earlier try was carried out although its answer got lost.
            return;
        }
        assert!(known.contains("503"), "{error:#}");
        assert!(Instant::now() < deadline, "{error:#}");
        sleep(PAUSE).await;
    }
}
