//! Clients that send records and remember what became of each.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use stream_tests::client::{Broken, Connection, PATIENCE, Source};
use stream_tests::webhook::Record;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Time between two attempts of a record that was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Answered 2xx.
    Acknowledged,
    /// Answered that it is not written, the last time it was sent.
    Refused,
    /// Sent and not answered, or answered that nobody knows.
    Unknown,
}

/// What a client does when its connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterBreak {
    /// It waits for the next start of the service and goes on with the next record.
    Reconnect,
    /// It ends.
    End,
}

/// The records of a run and how they are sent.
#[derive(Debug)]
pub struct Traffic {
    /// Where they come from.
    pub seed: u64,
    /// How many there are.
    pub records: u64,
    /// How many clients send them: record n is sent by client n modulo this.
    pub connections: u64,
    /// Where they are sent.
    pub address: SocketAddr,
    /// The source.
    pub source: Source,
    /// What clients do when the service goes away.
    pub after_break: AfterBreak,
    /// Records that were made: they are needed again when the tables are compared, and making them takes longer than all
    /// the rest.
    pub made: Mutex<HashMap<u64, Arc<Record>>>,
}

/// Clients at work.
pub struct Running {
    clients: JoinSet<anyhow::Result<Vec<(u64, Fate)>>>,
    boots: watch::Sender<u64>,
    acknowledged: watch::Receiver<u64>,
    enough: watch::Sender<bool>,
}

impl Traffic {
    /// The record of that number.
    pub fn record(&self, index: u64) -> Arc<Record> {
        let made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = made().get(&index) {
            return Arc::clone(record);
        }
        let record = Arc::new(Record::new(self.seed, index, index % self.connections));
        made().insert(index, Arc::clone(&record));
        record
    }

    /// Starts all clients. The service is up.
    pub fn start(self: &Arc<Self>) -> Running {
        let (boots, boot) = watch::channel(0);
        let (count, acknowledged) = watch::channel(0);
        let count = Arc::new(count);
        let (enough, ending) = watch::channel(false);
        let mut clients = JoinSet::new();
        for number in 0..self.connections {
            let client = Client {
                traffic: Arc::clone(self),
                number,
                boot: boot.clone(),
                acknowledged: Arc::clone(&count),
                ending: ending.clone(),
                connection: None,
                fates: Vec::new(),
            };
            clients.spawn(client.run());
        }
        Running {
            clients,
            boots,
            acknowledged,
            enough,
        }
    }
}

impl Running {
    /// Waits until so many records are acknowledged.
    pub async fn acknowledged(&mut self, count: u64) -> anyhow::Result<()> {
        let reached = self
            .acknowledged
            .wait_for(|acknowledged| *acknowledged >= count);
        let reached = timeout(PATIENCE, reached).await;
        let reached = reached.context("records are not acknowledged any more")?;
        reached.map(|_| ()).context("the clients ended before")
    }

    /// How many records are acknowledged.
    pub fn count(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Tells the clients to send no further records. The service is up.
    pub fn enough(&self) {
        self.enough.send_replace(true);
    }

    /// Tells the clients that the service is up again.
    pub fn restarted(&self) {
        self.boots.send_modify(|boot| *boot += 1);
    }

    /// Waits for the clients. Gives the fates in the order in which each client learned them.
    pub async fn finish(mut self) -> anyhow::Result<Vec<(u64, Fate)>> {
        let mut fates = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            fates.extend(client.context("a client panicked")??);
        }
        Ok(fates)
    }
}

/// Sends its share of the records, one after the other, over one connection at a time.
struct Client {
    traffic: Arc<Traffic>,
    number: u64,
    boot: watch::Receiver<u64>,
    acknowledged: Arc<watch::Sender<u64>>,
    ending: watch::Receiver<bool>,
    /// With the number of the start at which it was opened.
    connection: Option<(Connection, u64)>,
    fates: Vec<(u64, Fate)>,
}

/// What to do with the rest of the records.
#[derive(PartialEq)]
enum Then {
    GoOn,
    End,
}

impl Client {
    async fn run(mut self) -> anyhow::Result<Vec<(u64, Fate)>> {
        let mut index = self.number;
        while index < self.traffic.records && !*self.ending.borrow() {
            if self.deliver(index).await? == Then::End {
                break;
            }
            index += self.traffic.connections;
        }
        Ok(self.fates)
    }

    /// Sends one record until its fate is known, or cannot be.
    async fn deliver(&mut self, index: u64) -> anyhow::Result<Then> {
        let record = self.traffic.record(index);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(mut connection) = self.connection().await? else {
                return Ok(Then::End);
            };
            let request = record.request(&self.traffic.source.path);
            let reply = match connection.0.send(request).await {
                Ok(reply) => reply,
                Err(Broken::Unsent(_)) if self.broken(connection.1).await? == Then::End => {
                    return Ok(Then::End);
                }
                Err(Broken::Unsent(_)) => continue,
                Err(Broken::Unknown(_)) => {
                    self.fates.push((index, Fate::Unknown));
                    return self.broken(connection.1).await;
                }
            };
            self.connection = Some(connection);
            let fate = match (reply.status, reply.error().as_str()) {
                (200, _) => Fate::Acknowledged,
                (503, "stream.in.outcomeUnknown") => Fate::Unknown,
                (422, _) if record.is_malformed() => Fate::Refused,
                (429 | 500..=599, _) => {
                    ensure!(
                        Instant::now() < deadline,
                        "record {index} is refused all the time: {} {}",
                        reply.status,
                        reply.message()
                    );
                    if self.traffic.after_break == AfterBreak::End {
                        self.fates.push((index, Fate::Refused));
                        return Ok(Then::End);
                    }
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
                (status, error) => {
                    bail!(
                        "record {index} is answered {status} {error}: {}",
                        reply.message()
                    )
                }
            };
            ensure!(
                fate != Fate::Acknowledged || !record.is_malformed(),
                "record {index} is no JSON and was accepted"
            );
            self.fates.push((index, fate));
            if fate == Fate::Acknowledged {
                self.acknowledged.send_modify(|count| *count += 1);
            }
            return Ok(Then::GoOn);
        }
    }

    /// Takes the connection, or opens one.
    async fn connection(&mut self) -> anyhow::Result<Option<(Connection, u64)>> {
        if let Some(connection) = self.connection.take() {
            return Ok(Some(connection));
        }
        loop {
            let boot = *self.boot.borrow_and_update();
            match Connection::open(self.traffic.address).await {
                Ok(connection) => return Ok(Some((connection, boot))),
                // Nothing was sent. The service is going down, or is up again already.
                Err(_) if self.broken(boot).await? == Then::End => return Ok(None),
                Err(_) => {}
            }
        }
    }

    /// Waits for a start of the service after number `boot`.
    async fn broken(&mut self, boot: u64) -> anyhow::Result<Then> {
        if self.traffic.after_break == AfterBreak::End {
            return Ok(Then::End);
        }
        let next = timeout(PATIENCE, self.boot.wait_for(|number| *number > boot)).await;
        next.context("a connection broke and the service was not restarted")??;
        Ok(Then::GoOn)
    }
}
