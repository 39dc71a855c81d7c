//! Acknowledged is stored: killed at any instruction, each record that was answered 200 is in the table, once.

use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_tests::service::Service;

use crate::traffic::{AfterBreak, Fate, Traffic};
use crate::verdict::Verdict;
use crate::{new_setup, seed, sinks};

const RECORDS: u64 = 10_500;
const CONNECTIONS: u64 = 12;
const KILLS: u64 = 3;

/// What a process may say after its predecessor was killed.
const AFTER_A_KILL: &[&str] = &[];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_record_is_in_the_table_exactly_once() {
    let seed = seed("crash");
    let (_scratch, setup) = new_setup();
    // Small segments and slices, so that every kind of rotation happens while the process is killed.
    let setup = setup
        .importing_each_second()
        .env("STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_COUNT", "700")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_SEGMENT_SIZE", "4MB")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_CHECKPOINT_SIZE", "8MB")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_MAX_SIZE", "64MB");
    let tables = setup.tables();
    let mut service = Service::start(setup).await.expect("it starts");
    let source = sinks::create(&service.api().expect("a token"), "webhooks").await;
    let traffic = Arc::new(Traffic {
        seed,
        records: RECORDS,
        connections: CONNECTIONS,
        address: service.setup().source_address(),
        source: source.expect("it is created"),
        after_break: AfterBreak::Reconnect,
        made: Mutex::default(),
    });

    let mut running = traffic.start();
    for count in kill_points(seed) {
        running
            .acknowledged(count)
            .await
            .expect("records are acknowledged");
        service.kill().await.expect("it runs");
        service.restart().await.expect("it starts again");
        running.restarted();
    }
    let fates = running
        .finish()
        .await
        .expect("the answers are the right ones");

    let verdict = Verdict::new(&traffic, &fates);
    let [acknowledged, refused, unknown] =
        [Fate::Acknowledged, Fate::Refused, Fate::Unknown].map(|fate| verdict.count(fate));
    eprintln!("crash: {acknowledged} acknowledged, {refused} refused, {unknown} unknown");
    assert_eq!(
        acknowledged + refused + unknown,
        usize::try_from(RECORDS).expect("it fits")
    );
    assert!(
        acknowledged >= 10_000,
        "only {acknowledged} were acknowledged"
    );
    assert!(unknown <= usize::try_from(CONNECTIONS * KILLS).expect("it fits"));
    verdict
        .wait_for_import(&tables)
        .await
        .expect("all records are imported");
    // After an orderly stop the tables do not change any more.
    service.stop().await.expect("it stops");
    verdict
        .check(&tables)
        .expect("the tables hold what was acknowledged");
    service.assert_quiet(AFTER_A_KILL);
}

/// Numbers of acknowledged records at which the process is killed: one in each part of the run.
fn kill_points(seed: u64) -> Vec<u64> {
    let mut rng = StdRng::seed_from_u64(seed);
    let part = RECORDS / (KILLS + 1);
    (0..KILLS)
        .map(|kill| part * kill + rng.random_range(part / 4..part))
        .collect()
}
