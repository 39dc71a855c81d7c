//! A steady load beside an etcd that goes away: clients that go on until they are told to stop, and note every answer that
//! a sender would not like.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use stream_tests::client::{Broken, Connection, PATIENCE, Reply, Source};
use stream_tests::webhook::Record;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::traffic::{AfterBreak, Fate, Traffic};

/// Clients of a load.
const CONNECTIONS: u64 = 8;
/// A client's time between an answer and its next record.
const PACE: Duration = Duration::from_millis(15);
/// Time between two attempts of a record that was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Clients at work.
pub struct Load {
    traffic: Arc<Traffic>,
    clients: JoinSet<anyhow::Result<Sent>>,
    acknowledged: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
}

/// What the clients know at the end.
#[derive(Debug, Default)]
pub struct Sent {
    /// What became of each record, in the order in which each client learned it.
    pub fates: Vec<(u64, Fate)>,
    /// Answers that told a client to come back later or that nobody knows, by what they said, with how often they did.
    pub refusals: BTreeMap<String, u64>,
}

impl Load {
    /// Starts the clients. They send records number `first` and later.
    pub fn start(seed: u64, first: u64, address: SocketAddr, source: &Source) -> Self {
        let traffic = Arc::new(Traffic {
            seed,
            records: u64::MAX,
            connections: CONNECTIONS,
            address,
            source: source.clone(),
            after_break: AfterBreak::End,
            made: Mutex::default(),
        });
        let (count, acknowledged) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let count = Arc::new(count);
        let mut clients = JoinSet::new();
        for number in 0..CONNECTIONS {
            let client = Client {
                traffic: Arc::clone(&traffic),
                acknowledged: Arc::clone(&count),
                sent: Sent::default(),
            };
            clients.spawn(client.run(first + number, stopped.clone()));
        }
        Self {
            traffic,
            clients,
            acknowledged,
            stop,
        }
    }

    /// How many records are acknowledged.
    pub fn count(&self) -> u64 {
        *self.acknowledged.borrow()
    }

    /// Waits until so many records are acknowledged.
    pub async fn acknowledged(&mut self, count: u64) -> anyhow::Result<()> {
        let reached = self.acknowledged.wait_for(|reached| *reached >= count);
        let reached = timeout(PATIENCE, reached).await;
        let reached = reached.context("records are not acknowledged any more")?;
        reached.map(|_| ()).context("the clients ended before")
    }

    /// Lets the load go on for so long. Gives how many records were acknowledged in each second of it, which is at least
    /// one: a second in which there is none ends with the first.
    pub async fn go_on_for(&mut self, duration: Duration) -> anyhow::Result<Vec<u64>> {
        let end = Instant::now() + duration;
        let mut seconds = Vec::new();
        while Instant::now() < end {
            let before = self.count();
            sleep(Duration::from_secs(1).min(end - Instant::now())).await;
            self.acknowledged(before + 1).await?;
            seconds.push(self.count() - before);
        }
        Ok(seconds)
    }

    /// Ends the clients after the records that they are sending.
    pub async fn stop(mut self) -> anyhow::Result<(Arc<Traffic>, Sent)> {
        self.stop.send_replace(true);
        let mut all = Sent::default();
        while let Some(client) = self.clients.join_next().await {
            let sent = client.context("a client panicked")??;
            all.fates.extend(sent.fates);
            for (text, count) in sent.refusals {
                *all.refusals.entry(text).or_default() += count;
            }
        }
        Ok((self.traffic, all))
    }
}

/// What an answer says about its record.
enum Verdict {
    Known(Fate),
    Later,
}

/// Sends its share of the records, one after the other, over one connection. Ends with the connection.
struct Client {
    traffic: Arc<Traffic>,
    acknowledged: Arc<watch::Sender<u64>>,
    sent: Sent,
}

impl Client {
    async fn run(mut self, first: u64, stop: watch::Receiver<bool>) -> anyhow::Result<Sent> {
        let mut connection = Connection::open(self.traffic.address).await?;
        let mut index = first;
        while !*stop.borrow() {
            let record = self.traffic.record(index);
            let Some(fate) = self.deliver(&mut connection, &record).await? else {
                break;
            };
            self.sent.fates.push((index, fate));
            if fate == Fate::Acknowledged {
                self.acknowledged.send_modify(|count| *count += 1);
            }
            index += CONNECTIONS;
            sleep(PACE).await;
        }
        Ok(self.sent)
    }

    /// Sends a record until its fate is known. None when the service is gone.
    async fn deliver(
        &mut self,
        connection: &mut Connection,
        record: &Record,
    ) -> anyhow::Result<Option<Fate>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = record.request(&self.traffic.source.path);
            let reply = match connection.send(request).await {
                Ok(reply) => reply,
                // Its connections break only when the service is killed.
                Err(Broken::Unsent(_)) => return Ok(None),
                Err(Broken::Unknown(_)) => {
                    self.sent.fates.push((record.index, Fate::Unknown));
                    return Ok(None);
                }
            };
            match self.judge(record, &reply)? {
                Verdict::Known(fate) => return Ok(Some(fate)),
                Verdict::Later => {}
            }
            ensure!(
                Instant::now() < deadline,
                "record {} is refused all the time: {}",
                record.index,
                reply.message()
            );
            sleep(RETRY_PAUSE).await;
        }
    }

    fn judge(&mut self, record: &Record, reply: &Reply) -> anyhow::Result<Verdict> {
        let (status, error) = (reply.status, reply.error());
        let fate = match (status, error.as_str()) {
            (200, _) if !record.is_malformed() => return Ok(Verdict::Known(Fate::Acknowledged)),
            (422, _) if record.is_malformed() => return Ok(Verdict::Known(Fate::Refused)),
            (503, "stream.in.outcomeUnknown") => Verdict::Known(Fate::Unknown),
            (429 | 500..=599, _) => Verdict::Later,
            (status, _) => bail!(
                "record {} is answered {status} {error}: {}",
                record.index,
                reply.message()
            ),
        };
        let text = format!("{status} {error}: {}", reply.message());
        *self.sent.refusals.entry(text).or_default() += 1;
        Ok(fate)
    }
}
