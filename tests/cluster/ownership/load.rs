//! Clients that send numbered records to several processes, go to another one when a process is gone, frozen or turns them
//! away, and remember what became of each record; and what the table must hold then.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use hyper::Method;
use stream_tests::client::{Broken, Connection, PATIENCE, PAUSE, Reply, Source, request};
use stream_tests::table::Tables;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::installation::TABLE;
use crate::traffic::Fate;

/// Clients of a load.
const CLIENTS: u64 = 8;
/// A client's time between an answer and its next record.
const PACE: Duration = Duration::from_millis(15);
/// Time between two attempts of a record that was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a client waits for an answer. More than the service takes for one that it can give.
const CLIENT_PATIENCE: Duration = Duration::from_secs(4);
/// More than the import of everything takes.
const IMPORT_PATIENCE: Duration = Duration::from_secs(120);

/// What all clients share.
struct Shared {
    addresses: Vec<SocketAddr>,
    path: String,
    acknowledged: watch::Sender<u64>,
    pace: Mutex<Pace>,
}

/// How records were acknowledged over time.
#[derive(Debug, Clone, Copy)]
struct Pace {
    last: Instant,
    longest: Duration,
}

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<anyhow::Result<Sent>>,
    stop: watch::Sender<bool>,
}

/// What the clients know at the end.
#[derive(Debug, Default)]
pub struct Sent {
    /// What became of each record.
    pub fates: BTreeMap<u64, Fate>,
    /// Answers that told a client to come back later, with how often they did.
    pub refusals: BTreeMap<String, u64>,
}

impl Load {
    /// Starts the clients. They send records number `first` and later, a part of them to each address at first.
    pub fn start(addresses: &[SocketAddr], source: &Source, first: u64) -> Self {
        let shared = Arc::new(Shared {
            addresses: addresses.to_vec(),
            path: source.path.clone(),
            acknowledged: watch::Sender::new(0),
            pace: Mutex::new(Pace {
                last: Instant::now(),
                longest: Duration::ZERO,
            }),
        });
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client {
                shared: Arc::clone(&shared),
                stop: stopped.clone(),
                address: usize::try_from(number).unwrap_or(0),
                connection: None,
                sent: Sent::default(),
            };
            clients.spawn(client.run(first + number));
        }
        Self {
            shared,
            clients,
            stop,
        }
    }

    /// How many records are acknowledged.
    pub fn count(&self) -> u64 {
        *self.shared.acknowledged.borrow()
    }

    /// Waits until so many more records are acknowledged.
    pub async fn more(&self, count: u64) -> anyhow::Result<()> {
        let wanted = self.count() + count;
        let mut acknowledged = self.shared.acknowledged.subscribe();
        let reached = acknowledged.wait_for(|reached| *reached >= wanted);
        let reached = timeout(PATIENCE, reached).await;
        let reached = reached.context("records are not acknowledged any more")?;
        reached.map(|_| ()).context("the clients ended before")
    }

    /// The longest time without an acknowledgement since this was asked last.
    pub fn longest_gap(&self) -> Duration {
        let mut pace = self
            .shared
            .pace
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let longest = pace.longest.max(pace.last.elapsed());
        (pace.last, pace.longest) = (Instant::now(), Duration::ZERO);
        longest
    }

    /// Ends the clients after the records that they are sending.
    pub async fn stop(mut self) -> anyhow::Result<Sent> {
        self.stop.send_replace(true);
        let mut all = Sent::default();
        while let Some(client) = self.clients.join_next().await {
            all.add(client.context("a client panicked")??);
        }
        Ok(all)
    }
}

/// One client.
struct Client {
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    /// Which of the addresses it sends to, modulo their number.
    address: usize,
    connection: Option<Connection>,
    sent: Sent,
}

impl Client {
    async fn run(mut self, first: u64) -> anyhow::Result<Sent> {
        let mut index = first;
        while !*self.stop.borrow() {
            let fate = self.deliver(index).await?;
            self.sent.fates.insert(index, fate);
            if fate == Fate::Acknowledged {
                self.shared.acknowledged();
            }
            index += CLIENTS;
            sleep(PACE).await;
        }
        Ok(self.sent)
    }

    /// Sends a record until its fate is known, or cannot be.
    async fn deliver(&mut self, index: u64) -> anyhow::Result<Fate> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.send(index).await {
                Err(Broken::Unknown(_)) => {
                    self.go_elsewhere();
                    return Ok(Fate::Unknown);
                }
                Err(Broken::Unsent(_)) => self.note("no connection".to_owned()),
                Ok(reply) => match judge(index, &reply)? {
                    Some(fate) => return Ok(fate),
                    None => self.note(format!("{} {}", reply.status, reply.error())),
                },
            }
            self.go_elsewhere();
            ensure!(
                Instant::now() < deadline,
                "record {index} is refused all the time: {:?}",
                self.sent.refusals
            );
            if *self.stop.borrow() {
                return Ok(Fate::Refused);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn send(&mut self, index: u64) -> Result<Reply, Broken> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let address = self.shared.addresses[self.address % self.shared.addresses.len()];
                // A frozen process is connected to by the system in its place.
                Connection::open(address).await.map_err(Broken::Unsent)?
            }
        };
        let body = format!(r#"{{"total": {index}}}"#);
        let mut record = request(Method::POST, &self.shared.path, body);
        let json = hyper::header::HeaderValue::from_static("application/json");
        record.headers_mut().insert("content-type", json);
        let answer = timeout(CLIENT_PATIENCE, connection.send(record)).await;
        let given_up = |_| Err(Broken::Unknown(anyhow::anyhow!("given up")));
        let reply = answer.unwrap_or_else(given_up)?;
        self.connection = Some(connection);
        Ok(reply)
    }

    fn note(&mut self, refusal: String) {
        *self.sent.refusals.entry(refusal).or_default() += 1;
    }

    fn go_elsewhere(&mut self) {
        self.connection = None;
        self.address += 1;
    }
}

/// What an answer says about its record; none when it has to be sent again.
fn judge(index: u64, reply: &Reply) -> anyhow::Result<Option<Fate>> {
    Ok(match (reply.status, reply.error().as_str()) {
        (200, _) => Some(Fate::Acknowledged),
        (503, "stream.in.outcomeUnknown") => Some(Fate::Unknown),
        (429 | 500..=599, _) => None,
        (status, error) => bail!(
            "record {index} is answered {status} {error}: {}",
            reply.message()
        ),
    })
}

impl Shared {
    fn acknowledged(&self) {
        self.acknowledged.send_modify(|count| *count += 1);
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        pace.longest = pace.longest.max(pace.last.elapsed());
        pace.last = Instant::now();
    }
}

impl Sent {
    /// Takes in what other clients know.
    pub fn add(&mut self, other: Self) {
        self.fates.extend(other.fates);
        for (text, count) in other.refusals {
            *self.refusals.entry(text).or_default() += count;
        }
    }

    /// The number after the last record.
    pub fn next(&self) -> u64 {
        self.fates.keys().last().map_or(0, |last| last + 1)
    }

    /// How many records had a fate.
    pub fn count(&self, fate: Fate) -> usize {
        self.fates.values().filter(|own| **own == fate).count()
    }

    /// The records of a fate that are in the table.
    pub fn written(&self, tables: &Path, fate: Fate) -> anyhow::Result<Vec<u64>> {
        let counts = counts(tables)?;
        let of_fate = self.fates.iter().filter(|(_, own)| **own == fate);
        let written = of_fate.filter(|(index, _)| counts.contains_key(&index.to_string()));
        Ok(written.map(|(index, _)| *index).collect())
    }

    /// Waits until each acknowledged record is in the table.
    pub async fn wait_for_import(&self, tables: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + IMPORT_PATIENCE;
        loop {
            let counts = counts(tables)?;
            let acknowledged = self.fates.iter().filter(|it| *it.1 == Fate::Acknowledged);
            let is_missing = |index: &&u64| !counts.contains_key(&index.to_string());
            let missing: Vec<_> = acknowledged.map(|it| it.0).filter(is_missing).collect();
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} acknowledged records are not in the table: {:?} …",
                missing.len(),
                &missing[..missing.len().min(20)]
            );
            sleep(PAUSE * 10).await;
        }
    }

    /// Each acknowledged record once, each of unknown fate once or not at all, and nothing else.
    pub fn check(&self, tables: &Path) -> anyhow::Result<()> {
        let counts = counts(tables)?;
        for (id, count) in &counts {
            let fate = self.fates.get(&id.parse().context("no number")?);
            let may_be = matches!(fate, Some(Fate::Acknowledged | Fate::Unknown));
            ensure!(
                *count == 1 && may_be,
                "record {id} is {count} times in the table and was answered {fate:?}"
            );
        }
        for (index, fate) in &self.fates {
            ensure!(
                *fate != Fate::Acknowledged || counts.contains_key(&index.to_string()),
                "record {index} was acknowledged and is not in the table"
            );
        }
        Ok(())
    }

    /// What to print about a run.
    pub fn summary(&self) -> String {
        format!(
            "{} acknowledged, {} unknown, {} given up; turned away: {:?}",
            self.count(Fate::Acknowledged),
            self.count(Fate::Unknown),
            self.count(Fate::Refused),
            self.refusals
        )
    }
}

fn counts(tables: &Path) -> anyhow::Result<BTreeMap<String, i64>> {
    Tables::open(tables)?.counts(TABLE, "total")
}
