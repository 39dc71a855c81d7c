//! Clients that send numbers: the lightest traffic whose table can be compared row by row. They go on until they are told to
//! stop, note how long each refusal took, and send a number again until it is not refused.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hyper::Method;
use serde_json::json;
use stream_tests::client::{Api, Broken, Connection, PATIENCE, Source, request};
use stream_tests::table::Tables;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::traffic::Fate;

/// Time between two attempts of a number that was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Bytes beside the number, so that a disk fills.
const PADDING: usize = 600;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The status.
    pub status: u16,
    /// The name of the error.
    pub error: String,
    /// The sentence.
    pub message: String,
    /// Whether it says when to try again.
    pub has_retry_after: bool,
    /// From the request to the answer.
    pub took: Duration,
}

/// Clients at work.
pub struct Numbers {
    clients: JoinSet<anyhow::Result<BTreeMap<u64, Fate>>>,
    shared: Arc<Shared>,
    acknowledged: watch::Receiver<u64>,
}

struct Shared {
    address: SocketAddr,
    source: Source,
    clients: u64,
    stop: watch::Sender<bool>,
    acknowledged: watch::Sender<u64>,
    refused: Mutex<Vec<Refused>>,
}

/// Creates a source with one sink, and a table, all of that name.
pub async fn create(api: &Api, id: &str) -> anyhow::Result<Source> {
    let source = api.create_source(id).await?;
    let column =
        |name: &str| json!({"type": "path", "name": name, "path": name, "rawString": true});
    api.create_sink(&source, id, &[column("n"), column("padding")])
        .await?;
    Ok(source)
}

/// What stands beside a number: not to be compressed away.
fn padding(number: u64) -> String {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let digit = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + u8::try_from(state % 26).expect("it is a letter"))
    };
    (0..PADDING).map(digit).collect()
}

impl Numbers {
    /// Starts them.
    pub fn start(address: SocketAddr, source: Source, clients: u64) -> Self {
        let shared = Arc::new(Shared {
            address,
            source,
            clients,
            stop: watch::Sender::new(false),
            acknowledged: watch::Sender::new(0),
            refused: Mutex::default(),
        });
        let mut running = JoinSet::new();
        for client in 0..clients {
            running.spawn(run(Arc::clone(&shared), client));
        }
        Self {
            clients: running,
            acknowledged: shared.acknowledged.subscribe(),
            shared,
        }
    }

    /// Numbers that are acknowledged.
    pub fn acknowledged(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Waits until so many more are acknowledged. Returns how long that took.
    pub async fn more(&mut self, count: u64) -> anyhow::Result<Duration> {
        let since = Instant::now();
        let wanted = self.acknowledged() + count;
        let reached = self.acknowledged.wait_for(|number| *number >= wanted);
        let reached = timeout(PATIENCE, reached).await;
        reached.context("numbers are not acknowledged any more")??;
        Ok(since.elapsed())
    }

    /// Waits until so many more are refused.
    pub async fn refusals(&self, count: usize) -> anyhow::Result<Vec<Refused>> {
        let known = self.refused().len();
        let deadline = Instant::now() + PATIENCE;
        while self.refused().len() < known + count {
            ensure!(Instant::now() < deadline, "nothing is refused");
            sleep(RETRY_PAUSE).await;
        }
        Ok(self.refused().split_off(known))
    }

    /// All refusals so far.
    pub fn refused(&self) -> Vec<Refused> {
        let refused = self.shared.refused.lock();
        refused.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops the clients. Returns what became of each number.
    pub async fn stop(mut self) -> anyhow::Result<BTreeMap<u64, Fate>> {
        self.shared.stop.send_replace(true);
        let mut fates = BTreeMap::new();
        while let Some(client) = self.clients.join_next().await {
            fates.extend(client.context("a client panicked")??);
        }
        Ok(fates)
    }
}

async fn run(shared: Arc<Shared>, client: u64) -> anyhow::Result<BTreeMap<u64, Fate>> {
    let (mut fates, mut connection) = (BTreeMap::new(), None);
    for number in (client..).step_by(usize::try_from(shared.clients)?) {
        if *shared.stop.borrow() {
            break;
        }
        let fate = shared.deliver(number, &mut connection).await?;
        fates.insert(number, fate);
        if fate == Fate::Acknowledged {
            shared.acknowledged.send_modify(|count| *count += 1);
        }
    }
    Ok(fates)
}

impl Shared {
    /// Sends one number until its fate is known.
    async fn deliver(
        &self,
        number: u64,
        connection: &mut Option<Connection>,
    ) -> anyhow::Result<Fate> {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            ensure!(Instant::now() < deadline, "number {number} is never taken");
            let mut open = match connection.take() {
                Some(open) => open,
                None => match Connection::open(self.address).await {
                    Ok(open) => open,
                    Err(_) => {
                        // Nothing was sent. The service is being started again.
                        sleep(RETRY_PAUSE).await;
                        continue;
                    }
                },
            };
            let since = Instant::now();
            let reply = match open.send(self.request(number)).await {
                Ok(reply) => reply,
                Err(Broken::Unsent(_)) => continue,
                Err(Broken::Unknown(_)) => return Ok(Fate::Unknown),
            };
            let took = since.elapsed();
            *connection = Some(open);
            match (reply.status, reply.error().as_str()) {
                (200, _) => return Ok(Fate::Acknowledged),
                (503, "stream.in.outcomeUnknown") => return Ok(Fate::Unknown),
                (503 | 507, _) => {}
                (status, _) => bail!("number {number} is answered {status}: {}", reply.message()),
            }
            let refused = Refused {
                status: reply.status,
                error: reply.error(),
                message: reply.message(),
                has_retry_after: reply.headers.contains_key("retry-after"),
                took,
            };
            let all = self.refused.lock();
            all.unwrap_or_else(PoisonError::into_inner).push(refused);
            if *self.stop.borrow() {
                return Ok(Fate::Refused);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    fn request(&self, number: u64) -> hyper::Request<http_body_util::Full<bytes::Bytes>> {
        let body = json!({"n": number, "padding": padding(number)}).to_string();
        let mut request = request(Method::POST, &self.source.path, body);
        let json = "application/json".parse().expect("it is a header");
        request.headers_mut().insert("content-type", json);
        request
    }
}

/// How long 99 of 100 refusals took at most.
pub fn p99(refused: &[Refused]) -> Duration {
    let mut took: Vec<Duration> = refused.iter().map(|it| it.took).collect();
    took.sort_unstable();
    let position = (took.len() * 99).div_ceil(100).saturating_sub(1);
    took.get(position).copied().unwrap_or_default()
}

/// Waits until every acknowledged number is in the table, then compares it row by row: each acknowledged number once, each of
/// unknown fate at most once, and nothing else.
pub async fn check(path: &Path, table: &str, fates: &BTreeMap<u64, Fate>) -> anyhow::Result<()> {
    let acknowledged = |(_, fate): &(&u64, &Fate)| **fate == Fate::Acknowledged;
    let count = i64::try_from(fates.iter().filter(acknowledged).count())?;
    wait_for_rows(path, table, count).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let counts = Tables::open(path)?.counts(table, "n")?;
        let is_missing = |number: &&u64| !counts.contains_key(&number.to_string());
        let numbers = fates.iter().filter(acknowledged).map(|(number, _)| number);
        let missing: Vec<_> = numbers.filter(is_missing).collect();
        if missing.is_empty() {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "{} acknowledged numbers are not in table {table}: {:?} …",
            missing.len(),
            &missing[..missing.len().min(20)]
        );
        sleep(10 * RETRY_PAUSE).await;
    }
    let tables = Tables::open(path)?;
    for (number, count) in tables.counts(table, "n")? {
        let number: u64 = number.parse().context("it is no number")?;
        let fate = fates.get(&number);
        ensure!(
            count == 1,
            "{number} ({fate:?}) is {count} times in table {table}"
        );
        ensure!(
            matches!(fate, Some(Fate::Acknowledged | Fate::Unknown)),
            "{number} is in table {table}, but was answered {fate:?}"
        );
    }
    tables.each_row(table, |row| {
        let number: u64 = row.value("n")?.parse()?;
        ensure!(
            row.value("padding")? == padding(number),
            "{number} has another row"
        );
        Ok(())
    })
}

/// Waits until a table has so many rows.
pub async fn wait_for_rows(path: &Path, table: &str, count: i64) -> anyhow::Result<()> {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let rows = Tables::open(path).and_then(|tables| tables.rows(table));
        if rows.as_ref().is_ok_and(|rows| *rows >= count) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "table {table} has {rows:?} rows instead of {count}"
        );
        sleep(10 * RETRY_PAUSE).await;
    }
}
