//! Processes that do not run for longer than their lease, and go on as if nothing had happened.

use rand::RngExt;
use stream_tests::service::Service;
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use super::installation::{Installation, TABLE, TTL_SECONDS, create, id_of};
use super::load::Load;
use super::{AFTER_A_PAUSE, pause, rounds};
use crate::traffic::Fate;

/// More than the time to live: everybody takes the process for dead.
fn lapse() -> std::time::Duration {
    std::time::Duration::from_secs(TTL_SECONDS + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_frozen_past_its_lease_goes_on_with_its_volume() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let volumes = site.volumes("volumes", &["local"]);
    let mut frozen = Service::start(site.node("a", &volumes))
        .await
        .expect("starts");
    let source = create(&frozen).await;
    let volume = id_of(&volumes.join("default/local"));
    // It has all components, so it takes the work of the coordinator over. The volume stays locked.
    let mut other = Service::spawn(site.node("b", &volumes)).expect("starts");
    other
        .until_said("as soon as it is free")
        .await
        .expect("it waits");
    let addresses = [&frozen, &other].map(|service| service.setup().source_address());
    let load = Load::start(&addresses, &source, 0);
    load.more(300).await.expect("acknowledged");

    let begun = Instant::now();
    frozen.freeze().expect("it runs");
    while !site.of_volume("registration", &volume).await.is_null() {
        assert!(begun.elapsed() < lapse() * 10, "the lease does not end");
        sleep(stream_tests::client::PAUSE).await;
    }
    sleep(pause().saturating_sub(begun.elapsed())).await;
    load.longest_gap();
    let before = load.count();
    frozen.thaw().expect("it is there");
    let thawed = Instant::now();
    load.more(1).await.expect("it goes on by itself");
    let going = thawed.elapsed();
    frozen
        .until_said("lease lost, registering again")
        .await
        .expect("it notices");
    frozen.until_ready().await.expect("it is ready");
    load.more(300).await.expect("acknowledged");
    eprintln!(
        "frozen for {} ms: {before} acknowledged before, the next one {} ms after it went on",
        thawed.duration_since(begun).as_millis(),
        going.as_millis()
    );
    let registration = site.of_volume("registration", &volume).await;
    assert_eq!(registration["node"], "a", "it is announced again");
    let sent = load
        .stop()
        .await
        .expect("only answers that a client may repeat");
    assert_eq!(
        site.incarnation(&volume).await,
        1,
        "nobody else could open it"
    );
    // It has to be imported by whom it may; the other one never gets the volume.
    site.settle("frozen", &sent, &mut [&mut frozen, &mut other])
        .await;
    frozen.assert_quiet(AFTER_A_PAUSE);
    other.assert_quiet(&[AFTER_A_PAUSE, &["as soon as it is free"]].concat());
}

/// Rows in the table.
fn rows(site: &Installation) -> i64 {
    let tables = Tables::open(&site.tables()).expect("it is there");
    tables.rows(TABLE).expect("it is there")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_that_are_frozen_in_turn_import_nothing_twice() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let volumes = site.volumes("volumes", &["local"]);
    let writer = ["api", "http-source", "storage-writer", "storage-reader"];
    let writer = site.node("w", &volumes).words(&writer);
    let mut writer = Service::start(writer).await.expect("starts");
    let mut coordinators = Vec::new();
    for name in ["c1", "c2"] {
        let setup = site.node(name, &volumes).words(&["storage-coordinator"]);
        coordinators.push(Service::start(setup).await.expect("starts"));
    }
    let source = create(&writer).await;
    let load = Load::start(&[writer.setup().source_address()], &source, 0);
    let mut taken_over = 0;
    for round in 0..rounds() {
        load.more(100).await.expect("acknowledged");
        // At whatever it is doing: a sink belongs to one of them, so both have their turn.
        let moment = rand::rng().random_range(0..1_000);
        sleep(std::time::Duration::from_millis(moment)).await;
        let frozen = &coordinators[usize::try_from(round % 2).unwrap_or(0)];
        frozen.freeze().expect("it runs");
        sleep(lapse()).await;
        let before = rows(&site);
        sleep(lapse()).await;
        let after = rows(&site);
        taken_over += u64::from(after > before);
        frozen.thaw().expect("it is there");
        eprintln!(
            "coordinator frozen at {moment} ms: {before} rows when its lease was gone, {after} later"
        );
    }
    load.more(100).await.expect("acknowledged");
    let sent = load.stop().await.expect("the right answers");
    assert!(taken_over > 0, "nobody took the work over");
    assert_eq!(
        sent.count(Fate::Unknown),
        0,
        "acknowledging needs no coordinator"
    );
    assert!(sent.refusals.is_empty(), "{:?}", sent.refusals);
    let [c1, c2] = &mut coordinators[..] else {
        unreachable!("there are two");
    };
    site.settle("coordinators", &sent, &mut [&mut writer, c1, c2])
        .await;
    // One that is frozen within a transaction of SQLite keeps the other one out until it goes on.
    let busy = ["import failed, will go on trying"];
    for service in &coordinators {
        service.assert_quiet(&[AFTER_A_PAUSE, &busy].concat());
    }
    writer.assert_quiet(AFTER_A_PAUSE);
}
