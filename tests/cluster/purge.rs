//! Deleting with `cascade`: killed at any instruction, under load, no row of the old sink is in the table that takes its name.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use hyper::Method;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use stream_tests::client::{Api, Connection, PATIENCE, PAUSE, Source, request};
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use crate::verdict::assert_sound;
use crate::{new_setup, seed};

/// Purges in a run, every second one with a kill.
const PURGES: u32 = 6;
/// A purge takes about so long.
const PURGE: Duration = Duration::from_millis(60);
/// Records that the last sink is to have.
const LAST: i64 = 50;
const SINKS: &str = "/v1/branches/default/sources/orders/sinks";
const SINK: &str = "/v1/branches/default/sources/orders/sinks/orders";

/// A mapping that says in each row which sink it is of.
fn sink(generation: u32) -> Value {
    let column = json!({
        "type": "path", "name": "generation", "path": "none", "defaultValue": generation.to_string(), "rawString": true,
    });
    stream_tests::client::sink("orders", &[column])
}

/// Small slices, so that a purge finds them in each of their states.
fn small(setup: Setup) -> Setup {
    setup
        .importing_each_second()
        .env("STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_COUNT", "40")
}

/// Sends records until it is told to stop, whatever becomes of them. Counts those that were acknowledged.
async fn send(setup: Setup, source: Source, enough: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) {
    while !enough.load(Ordering::Relaxed) {
        let Ok(mut connection) = Connection::open(setup.source_address()).await else {
            sleep(PAUSE).await;
            continue;
        };
        while !enough.load(Ordering::Relaxed) {
            let mut record = request(Method::POST, &source.path, "{}");
            let json = "application/json".parse().expect("valid");
            record.headers_mut().insert("content-type", json);
            match connection.send(record).await {
                Ok(reply) if reply.status == 200 => {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                // There is no sink at the moment.
                Ok(_) => sleep(PAUSE).await,
                Err(_) => break,
            }
        }
    }
}

/// Creates the sink as soon as the old one is gone.
async fn create(api: &Api, generation: u32) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = api.call(Method::POST, SINKS, &sink(generation)).await?;
        if reply.status == 202 {
            break;
        }
        ensure!(reply.status == 409, "{} {}", reply.status, reply.message());
        ensure!(Instant::now() < deadline, "the old sink stays");
        sleep(PAUSE).await;
    }
    loop {
        let reply = api.call(Method::GET, SINK, &Value::Null).await?;
        if reply.status == 200 {
            let number = &reply.json()["version"]["number"];
            ensure!(*number == 1, "it begins with version {number}");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the new sink does not come");
        sleep(PAUSE).await;
    }
}

/// Waits until somebody holds so many more records.
async fn more(acknowledged: &AtomicU64, records: u64) -> anyhow::Result<()> {
    let (until, deadline) = (
        acknowledged.load(Ordering::Relaxed) + records,
        Instant::now() + PATIENCE,
    );
    while acknowledged.load(Ordering::Relaxed) < until {
        ensure!(Instant::now() < deadline, "no records are taken");
        sleep(PAUSE).await;
    }
    Ok(())
}

/// How many rows the table has of each sink; none when there is no table.
fn rows(setup: &Setup) -> BTreeMap<String, i64> {
    let tables = Tables::open(&setup.tables()).expect("a database");
    tables.counts("orders", "generation").unwrap_or_default()
}

async fn purge_often(
    service: &mut Service,
    acknowledged: &AtomicU64,
    rng: &mut StdRng,
) -> anyhow::Result<u32> {
    let mut discarded = 0;
    for generation in 0..PURGES {
        create(&service.api()?, generation).await?;
        more(acknowledged, rng.random_range(1..300)).await?;
        let path = format!("{SINK}?cascade=true");
        if generation % 2 == 0 {
            let task = service
                .api()?
                .done(Method::DELETE, &path, &Value::Null)
                .await?;
            discarded += task["outputs"]["discardedRows"].as_u64().unwrap_or(0);
            ensure!(task["outputs"].get("uncountedSlices").is_none(), "{task}");
            ensure!(rows(service.setup()).is_empty(), "the table is gone");
            continue;
        }
        let reply = service
            .api()?
            .call(Method::DELETE, &path, &Value::Null)
            .await?;
        ensure!(reply.status == 202, "{}", reply.status);
        service.kill_after(PURGE.mul_f64(rng.random())).await?;
        service.restart().await?;
        let api = service.api()?;
        if api.call(Method::GET, SINK, &Value::Null).await?.status == 200 {
            // It died before it had noted anything.
            api.done(Method::DELETE, &path, &Value::Null).await?;
        }
    }
    create(&service.api()?, PURGES).await?;
    ensure!(
        discarded > 0,
        "no purge has found a row that was not imported"
    );
    Ok(PURGES)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_of_a_purged_sink_is_in_the_table_that_takes_its_name() {
    let seed = seed("purge");
    let (_scratch, setup) = new_setup();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut service = Service::start(small(setup)).await.expect("it starts");
    let api = service.api().expect("a token");
    let source = api.create_source("orders").await.expect("it is created");
    let (enough, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let sending = tokio::spawn(send(
        service.setup().clone(),
        source,
        Arc::clone(&enough),
        Arc::clone(&acknowledged),
    ));
    let last = purge_often(&mut service, &acknowledged, &mut rng).await;
    let last = last.expect("it is purged and created again and again");
    let deadline = Instant::now() + PATIENCE;
    while rows(service.setup()).get(&last.to_string()).copied() < Some(LAST) {
        assert!(
            Instant::now() < deadline,
            "the rows of the last sink do not appear"
        );
        sleep(PAUSE).await;
    }
    enough.store(true, Ordering::Relaxed);
    sending.await.expect("no panic");
    service.stop().await.expect("it stops");
    let rows = rows(service.setup());
    assert_eq!(rows.len(), 1, "rows of sinks that were purged: {rows:?}");
    assert_sound(service.setup()).await;
    service.assert_quiet(&[]);
    eprintln!(
        "purge: {PURGES} purges, {} kills; {} records acknowledged, {rows:?} in the table",
        PURGES / 2,
        acknowledged.load(Ordering::Relaxed)
    );
}
