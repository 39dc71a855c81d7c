//! The ledger adds up: killed at any instruction, every acknowledged record of a sink is in one of its columns, and what it says
//! is in the table is in the table.

use std::time::Duration;

use anyhow::ensure;
use hyper::Method;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use stream_tests::client::{Api, Connection, PATIENCE, PAUSE, Source, request};
use stream_tests::service::Service;
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use crate::verdict::assert_sound;
use crate::{new_setup, seed};

/// Kills in a run, and requests between two of them.
const KILLS: u32 = 3;
const REQUESTS: u32 = 150;
const SOURCE: &str = "/v1/branches/default/sources/orders";

/// What the answers of the source said.
#[derive(Debug, Default, Clone, Copy)]
struct Answers {
    acknowledged: u64,
    rejected: u64,
    /// Requests without an answer.
    unknown: u64,
}

/// Sends records, a third of which the sink rejects, and dies in the last one.
async fn send(
    service: &mut Service,
    source: &Source,
    rng: &mut StdRng,
    answers: &mut Answers,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(service.setup().source_address()).await?;
    for _ in 0..REQUESTS {
        let is_good = rng.random_ratio(2, 3);
        let body = if is_good { "{\"n\":1}" } else { "{}" };
        let mut record = request(Method::POST, &source.path, body);
        record
            .headers_mut()
            .insert("content-type", "application/json".parse()?);
        match connection.send(record).await {
            Ok(reply) if reply.status == 200 => answers.acknowledged += 1,
            Ok(reply) if reply.status == 422 => answers.rejected += 1,
            Ok(reply) => anyhow::bail!("{} {}", reply.status, reply.message()),
            Err(_) => anyhow::bail!("the connection broke"),
        }
    }
    let mut record = request(Method::POST, &source.path, "{\"n\":1}");
    record
        .headers_mut()
        .insert("content-type", "application/json".parse()?);
    let (moment, sending) = (
        Duration::from_millis(20).mul_f64(rng.random()),
        connection.send(record),
    );
    let (sent, killed) = tokio::join!(sending, service.kill_after(moment));
    killed?;
    match sent {
        Ok(reply) if reply.status == 200 => answers.acknowledged += 1,
        Ok(reply) => anyhow::bail!("{}", reply.status),
        Err(_) => answers.unknown += 1,
    }
    service.restart().await
}

async fn ledger(api: &Api, path: &str) -> anyhow::Result<Value> {
    let reply = api.call(Method::GET, path, &Value::Null).await?;
    ensure!(reply.status == 200, "{} {}", reply.status, reply.message());
    let ledger = reply.json();
    ensure!(ledger["addsUp"] == true, "it does not add up: {ledger}");
    Ok(ledger)
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_says_what_is_in_the_table_and_every_record_is_somewhere() {
    let seed = seed("ledger");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_scratch, setup) = new_setup();
    let setup = setup
        .importing_each_second()
        .env("STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_COUNT", "40");
    let mut service = Service::start(setup).await.expect("it starts");
    let api = service.api().expect("a token");
    let source = api.create_source("orders").await.expect("it is created");
    let column = json!({"type": "path", "name": "n", "path": "n", "rawString": true});
    api.create_sink(&source, "raw", &[column])
        .await
        .expect("it is created");
    let path = format!("{SOURCE}/sinks/raw/ledger");
    let mut answers = Answers::default();
    for _ in 0..KILLS {
        let sent = send(&mut service, &source, &mut rng, &mut answers).await;
        sent.expect("the answers are the right ones");
        ledger(&api, &path).await.expect("at any moment");
    }
    let deadline = Instant::now() + PATIENCE;
    let last = loop {
        let ledger = ledger(&api, &path).await.expect("it adds up");
        let total = &ledger["total"];
        if number(&total["imported"]) >= answers.acknowledged {
            break ledger;
        }
        assert!(Instant::now() < deadline, "{ledger} {answers:?}");
        sleep(PAUSE).await;
    };
    let total = &last["total"];
    let tables = Tables::open(&service.setup().tables()).expect("a database");
    let rows = tables.rows("raw").expect("it is there");
    assert_eq!(total["imported"], rows, "{last}");
    let rows = number(&total["imported"]) + number(&total["buffered"]) + number(&total["staged"]);
    assert!(
        rows <= answers.acknowledged + answers.unknown,
        "{last} {answers:?}"
    );
    // The slice of rejected records is open for an hour: disabling the sink closes it.
    let sink = format!("{SOURCE}/sinks/raw/disable");
    api.done(Method::PUT, &sink, &Value::Null)
        .await
        .expect("it is disabled");
    loop {
        let ledger = ledger(&api, &path).await.expect("it adds up");
        let rejected = number(&ledger["total"]["rejected"]);
        let most = answers.rejected + answers.unknown;
        if ledger["openSlices"] == 0 && rejected >= answers.rejected {
            assert!(rejected <= most, "{ledger} {answers:?}");
            break;
        }
        assert!(Instant::now() < deadline, "{ledger} {answers:?}");
        sleep(PAUSE).await;
    }
    let all = ledger(&api, &format!("{SOURCE}/ledger"))
        .await
        .expect("it adds up");
    assert_eq!(all["total"], all["sinks"][0]["total"]);
    service.stop().await.expect("it stops");
    assert_sound(service.setup()).await;
    service.assert_quiet(&[]);
    eprintln!("ledger: {KILLS} kills, {answers:?}; {}", all["total"]);
}
