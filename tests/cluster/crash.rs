//! Acknowledged is stored: killed at any instruction, each record that was answered 200 is in the table, once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_tests::service::Service;
use stream_tests::setup::Setup;

use crate::traffic::{AfterBreak, Fate, Running, Traffic};
use crate::verdict::{Verdict, assert_sound};
use crate::{new_setup, seed, sinks};

/// Records that are acknowledged in a run with few kills, and the least between two kills of one with many.
const RECORDS: u64 = 10_500;
const LEAST_BETWEEN: u64 = 500;
const CONNECTIONS: u64 = 12;
/// Kills under load, unless `STREAM_TEST_KILLS` says otherwise.
const KILLS: u64 = 3;
/// After every kill, one time in so many, the next process is killed while it starts.
const STARTS: u32 = 3;
/// A start takes about so long.
const START: Duration = Duration::from_millis(600);
/// About so long takes what goes on after an answer.
const BETWEEN_ANSWERS: Duration = Duration::from_millis(20);

/// What a process may say after its predecessor was killed.
const AFTER_A_KILL: &[&str] = &[];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_record_is_in_the_table_exactly_once() {
    let seed = seed("crash");
    let (_scratch, setup) = new_setup();
    let (kills, mut rng) = (kills(), StdRng::seed_from_u64(seed));
    let tables = setup.tables();
    let mut service = Service::start(small(setup)).await.expect("it starts");
    let source = sinks::create(&service.api().expect("a token"), "webhooks").await;
    let traffic = Arc::new(Traffic {
        seed,
        // As many as it takes: each kill leaves some of unknown fate.
        records: u64::MAX,
        connections: CONNECTIONS,
        address: service.setup().source_address(),
        source: source.expect("it is created"),
        after_break: AfterBreak::Reconnect,
        made: Mutex::default(),
    });

    let mut running = traffic.start();
    let in_starts = kill_often(&mut service, &mut running, kills, &mut rng).await;
    let in_starts = in_starts.expect("it takes records again and again");
    running.enough();
    let fates = running
        .finish()
        .await
        .expect("the answers are the right ones");

    let verdict = Verdict::new(&traffic, &fates);
    let [acknowledged, refused, unknown] =
        [Fate::Acknowledged, Fate::Refused, Fate::Unknown].map(|fate| verdict.count(fate));
    assert!(unknown <= usize::try_from(CONNECTIONS * kills).expect("it fits"));
    verdict
        .wait_for_import(&tables)
        .await
        .expect("all records are imported");
    // After an orderly stop the tables do not change any more.
    service.stop().await.expect("it stops");
    verdict
        .check(&tables)
        .expect("the tables hold what was acknowledged");
    assert_sound(service.setup()).await;
    service.assert_quiet(AFTER_A_KILL);
    let written = verdict.written_unknown(&tables).expect("readable").len();
    eprintln!(
        "crash: {kills} kills under load and {in_starts} in starts: \
        {acknowledged} acknowledged, 0 of them missing, 0 doubled; {unknown} unknown, {written} of them written; \
        {refused} refused; 0 human steps"
    );
}

/// Small segments and slices, so that every kind of rotation happens while the process is killed.
fn small(setup: Setup) -> Setup {
    setup
        .importing_each_second()
        .env("STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_COUNT", "700")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_SEGMENT_SIZE", "4MB")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_CHECKPOINT_SIZE", "8MB")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_MAX_SIZE", "64MB")
}

/// How often the process is killed under load.
fn kills() -> u64 {
    let given = std::env::var("STREAM_TEST_KILLS").ok();
    given.map_or(KILLS, |text| {
        text.parse().expect("STREAM_TEST_KILLS is a number")
    })
}

/// Kills the process so many times under load, and some times more while it starts. Returns how many.
async fn kill_often(
    service: &mut Service,
    running: &mut Running,
    kills: u64,
    rng: &mut StdRng,
) -> anyhow::Result<u32> {
    let part = (RECORDS / (kills + 1)).max(LEAST_BETWEEN);
    let mut in_starts = 0;
    for count in kill_points(rng, kills, part) {
        running.acknowledged(count).await?;
        service
            .kill_after(BETWEEN_ANSWERS.mul_f64(rng.random()))
            .await?;
        while rng.random_ratio(1, STARTS) {
            service
                .restart_and_kill(START.mul_f64(rng.random()))
                .await?;
            in_starts += 1;
        }
        service.restart().await?;
        running.restarted();
    }
    running.acknowledged(part * (kills + 1)).await?;
    Ok(in_starts)
}

/// Numbers of acknowledged records at which the process is killed: one in each part of the run.
fn kill_points(rng: &mut StdRng, kills: u64, part: u64) -> Vec<u64> {
    (0..kills)
        .map(|kill| part * kill + rng.random_range(part / 4..part))
        .collect()
}
