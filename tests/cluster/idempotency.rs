//! Idempotency keys: however often and over however many connections a record is sent, whatever is killed meanwhile, it is in its
//! table once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use stream_tests::client::{Connection, PATIENCE, PAUSE, Reply, Source, request};
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests::table::Tables;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::{new_setup, seed};

/// Requests, and how often each is sent.
const REQUESTS: u64 = 900;
const TIMES: u64 = 5;
/// Requests that are under way at a time.
const GROUPS: u64 = 6;
/// Records of a request that has several.
const BATCH: u64 = 4;
const KILLS: u64 = 4;
/// About so long takes what goes on after an answer.
const BETWEEN_ANSWERS: Duration = Duration::from_millis(20);
const DAY: &str = "86400";

const BY_HEADER: &str = "by_header";
const BY_PATH: &str = "by_path";
const COLUMN: &str = "id";

/// What is sent where.
#[derive(Debug)]
struct Storm {
    address: SocketAddr,
    by_header: Source,
    by_path: Source,
}

impl Storm {
    /// Request number n: by turns one record with the header, one with a path, many with the header.
    fn request(&self, number: u64) -> Request<http_body_util::Full<bytes::Bytes>> {
        let ids = Self::ids(number);
        let line = |id: &String| json!({"id": id, "number": number}).to_string();
        let (source, kind, body) = match number % 3 {
            0 => (&self.by_header, "application/json", line(&ids[0])),
            1 => (&self.by_path, "application/json", line(&ids[0])),
            _ => {
                let lines: Vec<String> = ids.iter().map(line).collect();
                (&self.by_header, "application/x-ndjson", lines.join("\n"))
            }
        };
        let mut request = request(Method::POST, &source.path, body);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        if number % 3 != 1 {
            let key = format!("request {number}").parse().expect("a valid value");
            headers.insert("idempotency-key", key);
        }
        request
    }

    /// The records of a request.
    fn ids(number: u64) -> Vec<String> {
        let count = if number % 3 == 2 { BATCH } else { 1 };
        (0..count).map(|part| format!("{number}-{part}")).collect()
    }

    /// Sends a request until it is accepted.
    async fn deliver(
        &self,
        connection: &mut Option<Connection>,
        number: u64,
    ) -> anyhow::Result<Reply> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            ensure!(
                Instant::now() < deadline,
                "request {number} is never accepted"
            );
            let Some(open) = connection else {
                match Connection::open(self.address).await {
                    Ok(opened) => *connection = Some(opened),
                    Err(_) => sleep(PAUSE).await,
                }
                continue;
            };
            match open.send(self.request(number)).await {
                Ok(reply) if reply.is_success() => return Ok(reply),
                Ok(reply) if matches!(reply.status, 429 | 500..=599) => sleep(PAUSE).await,
                Ok(reply) => bail!("request {number}: {} {}", reply.status, reply.message()),
                // Whatever became of it: the key makes it safe to send it again.
                Err(_) => *connection = None,
            }
        }
    }
}

/// One of those who send all requests of a group.
async fn send_group(
    storm: Arc<Storm>,
    group: u64,
    done: Arc<watch::Sender<u64>>,
) -> anyhow::Result<u64> {
    let (mut connection, mut repetitions) = (None, 0);
    for number in (0..REQUESTS).filter(|number| number % GROUPS == group) {
        let reply = storm.deliver(&mut connection, number).await?;
        let window = reply.headers.get("idempotency-window");
        ensure!(window.is_none_or(|window| window == DAY), "{window:?}");
        repetitions += u64::from(reply.headers.contains_key("idempotency-replayed"));
        done.send_modify(|done| *done += 1);
    }
    Ok(repetitions)
}

/// Small segments and runs, and two volumes, so that keys are written, merged and asked for while the process is killed.
fn small(setup: Setup) -> Setup {
    let volumes = setup.data_dir().with_extension("volumes");
    for label in ["a", "b"] {
        std::fs::create_dir_all(volumes.join("default").join(label)).expect("a directory");
    }
    setup
        .importing_each_second()
        .env("STORAGE_VOLUMES_PATH", &volumes.display().to_string())
        .env("STORAGE_LEVEL_LOCAL_VOLUME_ASSIGNMENT_COUNT", "2")
        .env("STORAGE_LEVEL_LOCAL_IDEMPOTENCY_MAX_KEYS", "2000")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_SEGMENT_SIZE", "1MB")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_CHECKPOINT_SIZE", "2MB")
}

async fn sources(service: &Service) -> anyhow::Result<Storm> {
    let api = service.api()?;
    let columns = [json!({"type": "path", "name": COLUMN, "path": "id", "rawString": true})];
    let by_header = api.create_source("by-header").await?;
    api.create_sink(&by_header, BY_HEADER, &columns).await?;
    let by_path = api.create_source("by-path").await?;
    api.create_sink(&by_path, BY_PATH, &columns).await?;
    let settings = "/v1/branches/default/sources/by-path/settings";
    let change = json!({"settings": [{"key": "idempotency.keyPath", "value": "id"}]});
    api.done(Method::PATCH, settings, &change).await?;
    Ok(Storm {
        address: service.setup().source_address(),
        by_header,
        by_path,
    })
}

/// Every record is in its table, and how often.
async fn check(service: &Service) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let tables = Tables::open(&service.setup().tables())?;
        let mut missing = 0;
        let mut rows = [
            tables.counts(BY_HEADER, COLUMN)?,
            tables.counts(BY_PATH, COLUMN)?,
        ];
        for number in 0..REQUESTS {
            for id in Storm::ids(number) {
                match rows[usize::from(number % 3 == 1)].remove(&id) {
                    Some(1) => {}
                    Some(count) => bail!("record {id} is there {count} times"),
                    None => missing += 1,
                }
            }
        }
        ensure!(
            rows.iter().all(std::collections::BTreeMap::is_empty),
            "what is {rows:?}"
        );
        if missing == 0 {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{missing} acknowledged records are missing"
        );
        sleep(PAUSE * 10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_repetitions_writes_every_record_once_whatever_is_killed() {
    let seed = seed("idempotency");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_scratch, setup) = new_setup();
    let mut service = Service::start(small(setup)).await.expect("it starts");
    let storm = Arc::new(sources(&service).await.expect("they are created"));
    let (done, mut counted) = watch::channel(0);
    let done = Arc::new(done);
    let mut senders = JoinSet::new();
    for sender in 0..GROUPS * TIMES {
        senders.spawn(send_group(
            Arc::clone(&storm),
            sender % GROUPS,
            Arc::clone(&done),
        ));
    }
    for kill in 1..=KILLS {
        let count = REQUESTS * TIMES * kill / (KILLS + 1);
        let reached = counted.wait_for(|done| *done >= count);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached
            .expect("requests are accepted")
            .expect("they are being sent");
        sleep(BETWEEN_ANSWERS.mul_f64(rng.random())).await;
        service.kill().await.expect("it runs");
        service.restart().await.expect("it starts again");
    }
    let mut repetitions = 0;
    while let Some(sender) = senders.join_next().await {
        repetitions += sender
            .expect("no panic")
            .expect("every request is accepted");
    }
    assert!(
        repetitions >= REQUESTS * (TIMES - 1),
        "{repetitions} repetitions"
    );
    check(&service).await.expect("each record once");
    after_a_restart(&mut service, &storm)
        .await
        .expect("keys are remembered");
    check(&service).await.expect("each record still once");
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
    let all = REQUESTS * TIMES;
    eprintln!(
        "idempotency: {all} requests, {KILLS} kills: {repetitions} answered as repetitions, 0 records missing, 0 doubled"
    );
}

/// An orderly stop keeps all keys; another body is refused.
async fn after_a_restart(service: &mut Service, storm: &Storm) -> anyhow::Result<()> {
    service.stop().await?;
    service.restart().await?;
    let mut connection = None;
    for number in (0..REQUESTS).step_by(7) {
        let reply = storm.deliver(&mut connection, number).await?;
        ensure!(
            reply.headers.contains_key("idempotency-replayed"),
            "request {number}"
        );
        ensure!(reply.headers["idempotency-window"] == DAY);
    }
    let connection = connection.as_mut().context("it is open")?;
    for (source, key) in [(&storm.by_header, "request 0"), (&storm.by_path, "")] {
        let mut request = request(Method::POST, &source.path, r#"{"id":"1-0","x":"another"}"#);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if !key.is_empty() {
            headers.insert("idempotency-key", HeaderValue::from_static(key));
        }
        let reply = connection.send(request).await?;
        let told = (reply.status, reply.error());
        ensure!(
            told == (422, "stream.in.idempotencyKeyReused".to_owned()),
            "{told:?}"
        );
    }
    Ok(())
}
