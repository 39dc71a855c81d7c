//! Requests with keys that are sent again and again, over many connections and to any of the sources, until each is accepted.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{bail, ensure};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request};
use serde_json::json;
use stream_tests::client::{Api, Connection, PATIENCE, PAUSE, Reply, Source, request};
use stream_tests::table::Tables;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Requests, and how often each is sent.
pub const REQUESTS: u64 = 900;
pub const TIMES: u64 = 5;
/// Requests that are under way at a time.
const GROUPS: u64 = 6;
/// Records of a request that has several.
const BATCH: u64 = 4;
pub const DAY: &str = "86400";

const BY_HEADER: &str = "by_header";
const BY_PATH: &str = "by_path";
const COLUMN: &str = "id";

/// What is sent where.
#[derive(Debug)]
pub struct Storm {
    /// The HTTP sources, any of which takes any request.
    pub addresses: Vec<SocketAddr>,
    pub by_header: Source,
    pub by_path: Source,
}

/// A connection to one of the sources, which goes to the next one when there is no good answer.
#[derive(Debug)]
pub struct Way {
    at: usize,
    pub open: Option<Connection>,
}

impl Way {
    /// A way to the source of that number, modulo how many there are.
    pub const fn to(at: usize) -> Self {
        Self { at, open: None }
    }

    fn go_elsewhere(&mut self) {
        self.at += 1;
        self.open = None;
    }
}

impl Storm {
    /// Creates the two sources with a sink each.
    pub async fn create(api: &Api, addresses: Vec<SocketAddr>) -> anyhow::Result<Self> {
        let columns = [json!({"type": "path", "name": COLUMN, "path": "id", "rawString": true})];
        let by_header = api.create_source("by-header").await?;
        api.create_sink(&by_header, BY_HEADER, &columns).await?;
        let by_path = api.create_source("by-path").await?;
        api.create_sink(&by_path, BY_PATH, &columns).await?;
        let settings = "/v1/branches/default/sources/by-path/settings";
        let change = json!({"settings": [{"key": "idempotency.keyPath", "value": "id"}]});
        api.done(Method::PATCH, settings, &change).await?;
        Ok(Self {
            addresses,
            by_header,
            by_path,
        })
    }

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
    pub async fn deliver(&self, way: &mut Way, number: u64) -> anyhow::Result<Reply> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            ensure!(
                Instant::now() < deadline,
                "request {number} is never accepted"
            );
            let Some(open) = &mut way.open else {
                let address = self.addresses[way.at % self.addresses.len()];
                match Connection::open(address).await {
                    Ok(opened) => way.open = Some(opened),
                    Err(_) => {
                        way.go_elsewhere();
                        sleep(PAUSE).await;
                    }
                }
                continue;
            };
            match open.send(self.request(number)).await {
                Ok(reply) if reply.is_success() => return Ok(reply),
                Ok(reply) if matches!(reply.status, 429 | 500..=599) => {
                    way.go_elsewhere();
                    sleep(PAUSE).await;
                }
                Ok(reply) => bail!("request {number}: {} {}", reply.status, reply.message()),
                // Whatever became of it: the key makes it safe to send it again.
                Err(_) => way.go_elsewhere(),
            }
        }
    }

    /// Every record is in its table, and how often.
    pub async fn check(path: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let missing = Self::missing(path)?;
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

    /// How many records are in no table yet.
    fn missing(path: &Path) -> anyhow::Result<u64> {
        let tables = Tables::open(path)?;
        let mut missing = 0;
        let mut rows = [
            tables.counts(BY_HEADER, COLUMN)?,
            tables.counts(BY_PATH, COLUMN)?,
        ];
        for number in 0..REQUESTS {
            for id in Self::ids(number) {
                match rows[usize::from(number % 3 == 1)].remove(&id) {
                    Some(1) => {}
                    Some(count) => bail!("record {id} is there {count} times"),
                    None => missing += 1,
                }
            }
        }
        ensure!(rows.iter().all(BTreeMap::is_empty), "what is {rows:?}");
        Ok(missing)
    }
}

/// All who send.
pub struct Senders {
    senders: JoinSet<anyhow::Result<u64>>,
    counted: watch::Receiver<u64>,
}

impl Senders {
    /// Starts them: each request is sent by five, who begin at different sources.
    pub fn start(storm: &Arc<Storm>) -> Self {
        let (done, counted) = watch::channel(0);
        let done = Arc::new(done);
        let mut senders = JoinSet::new();
        for time in 0..TIMES {
            for group in 0..GROUPS {
                let way = Way::to(usize::try_from(time).unwrap_or(0));
                senders.spawn(send_group(Arc::clone(storm), way, group, Arc::clone(&done)));
            }
        }
        Self { senders, counted }
    }

    /// Waits until such a part of all requests is accepted.
    pub async fn until(&mut self, part: u64, of: u64) {
        let count = REQUESTS * TIMES * part / of;
        let reached = self.counted.wait_for(|done| *done >= count);
        let reached = timeout(PATIENCE, reached).await;
        reached
            .expect("requests are accepted")
            .expect("they are being sent");
    }

    /// Waits until all are accepted. How many were answered as repetitions.
    pub async fn finish(mut self) -> u64 {
        let mut repetitions = 0;
        while let Some(sender) = self.senders.join_next().await {
            repetitions += sender
                .expect("no panic")
                .expect("every request is accepted");
        }
        assert!(
            repetitions >= REQUESTS * (TIMES - 1),
            "{repetitions} repetitions"
        );
        repetitions
    }
}

/// One of those who send all requests of a group.
async fn send_group(
    storm: Arc<Storm>,
    mut way: Way,
    group: u64,
    done: Arc<watch::Sender<u64>>,
) -> anyhow::Result<u64> {
    let mut repetitions = 0;
    for number in (0..REQUESTS).filter(|number| number % GROUPS == group) {
        let reply = storm.deliver(&mut way, number).await?;
        let window = reply.headers.get("idempotency-window");
        ensure!(window.is_none_or(|window| window == DAY), "{window:?}");
        repetitions += u64::from(reply.headers.contains_key("idempotency-replayed"));
        done.send_modify(|done| *done += 1);
    }
    Ok(repetitions)
}
