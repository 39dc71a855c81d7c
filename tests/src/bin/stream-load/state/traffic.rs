//! What is written to the state while a service does nothing, and while all its sinks take records.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use hyper::{Method, header};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use stream_model::{file, slice};
use stream_state::{Mirror, Store};
use stream_tests::client::{Api, Connection, Source, request};
use stream_tests::service::Service;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::ground::{Ground, database_bytes};
use super::ledger::{self, Ledger};
use super::{Options, seed};
use crate::body;
use crate::histogram::Histogram;
use crate::machine;

/// How long an idle service is left alone before it is watched.
const SETTLE: Duration = Duration::from_secs(15);
/// Time between two records of a source.
const PERIOD: Duration = Duration::from_secs(1);
/// Bytes of a record.
const RECORD: usize = 1_024;

/// What was written.
pub struct Writes {
    pub idle: Ledger,
    pub active: Option<Active>,
}

/// A service whose sinks all take records.
pub struct Active {
    pub sources: u32,
    pub sinks: u64,
    /// How long their creation through the API took, one after the other in each source.
    pub creating: Duration,
    pub ledger: Ledger,
    pub sent: Sent,
    /// CPUs that the service used.
    pub cpus: f64,
    /// Its anonymous memory at the end.
    pub anonymous: u64,
    /// Bytes of the database, before and after.
    pub database: [u64; 2],
    /// Work that was not done, before and after.
    pub backlog: [Backlog; 2],
}

/// Records that were answered.
#[derive(Debug)]
pub struct Sent {
    pub accepted: u64,
    pub refused: u64,
    pub latency: Histogram,
}

/// What the state holds, and what of it waits for somebody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backlog {
    /// All files and slices.
    pub entities: u64,
    /// Slices to be sealed.
    pub closing: u64,
    /// Slices to be uploaded.
    pub uploading: u64,
    /// Files to be imported.
    pub importing: u64,
}

/// Watches an idle service, then a busy one.
///
/// # Errors
/// When one does not start, or the state goes away.
pub async fn measure(options: Options) -> anyhow::Result<Writes> {
    let idle = measure_idle(options).await?;
    let active = match options.active {
        0 => None,
        sinks => Some(measure_active(options, sinks).await?),
    };
    Ok(Writes { idle, active })
}

async fn measure_idle(options: Options) -> anyhow::Result<Ledger> {
    let ground = Ground::new(options.store).await?;
    let mut service = ground.start(&["all"]).await?;
    create_source(service.api()?, "source".to_owned(), 1).await?;
    let (mut client, _) = ground.connect().await?;
    eprintln!("watching an idle service");
    sleep(SETTLE).await;
    let (ledger, ()) = ledger::during(&mut client, sleep(options.idle)).await?;
    service.stop().await?;
    Ok(ledger)
}

async fn measure_active(options: Options, sinks: u64) -> anyhow::Result<Active> {
    let ground = Ground::new(options.store).await?;
    let mut service = ground.start(&["all"]).await?;
    eprintln!("creating {sinks} sinks");
    let start = Instant::now();
    let sources = create_sources(&service, sinks).await?;
    let creating = start.elapsed();
    eprintln!("sending records");
    let senders = Senders::start(service.setup().source_address(), &sources);
    sleep(options.warm_up).await;
    let (mut client, store) = ground.connect().await?;
    let (first, before) = (look(&store).await?, database_bytes(&mut client).await?);
    let cpu = machine::cpu_seconds(service.pid())?;
    senders.forget();
    let (ledger, ()) = ledger::during(&mut client, sleep(options.duration)).await?;
    let sent = senders.stop().await?;
    let cpu = machine::cpu_seconds(service.pid())? - cpu;
    let (last, after) = (look(&store).await?, database_bytes(&mut client).await?);
    let anonymous = machine::anonymous_memory(service.pid())?;
    service.stop().await?;
    ensure!(sent.accepted > 0, "no record was accepted");
    Ok(Active {
        sources: u32::try_from(sources.len())?,
        sinks,
        creating,
        cpus: cpu / ledger.seconds,
        ledger,
        sent,
        anonymous,
        database: [before, after],
        backlog: [first, last],
    })
}

async fn create_sources(service: &Service, sinks: u64) -> anyhow::Result<Vec<Source>> {
    let mut creating = JoinSet::new();
    for (name, sinks) in seed::sources(sinks) {
        creating.spawn(create_source(service.api()?, name, sinks));
    }
    let mut sources = Vec::new();
    while let Some(source) = creating.join_next().await {
        sources.push(source??);
    }
    Ok(sources)
}

async fn create_source(api: Api, name: String, sinks: u64) -> anyhow::Result<Source> {
    let source = api.create_source(&name).await?;
    for number in 0..sinks {
        let sink = seed::sink_name(&name, number);
        let created = api.create_sink(&source, &sink, &seed::columns()).await;
        created.with_context(|| format!("cannot create {sink}"))?;
    }
    Ok(source)
}

/// What is in the state now.
async fn look(store: &Store) -> anyhow::Result<Backlog> {
    let (mirror, feed) = Mirror::start(store).await?;
    // One look is enough.
    drop(feed);
    Ok(mirror.read(|topology| {
        let mut found = Backlog::default();
        let sources = topology.sources.values();
        for sink in sources.flat_map(|source| source.sinks.values()) {
            for slice in sink.slices.values() {
                found.entities += 1;
                match slice.value.state {
                    slice::State::Closing(_) => found.closing += 1,
                    slice::State::Uploading { .. } => found.uploading += 1,
                    slice::State::Writing | slice::State::Uploaded { .. } => {}
                }
            }
            for file in sink.files.values() {
                found.entities += 1;
                match file.value.state {
                    file::State::Closing { .. } | file::State::Importing { .. } => {
                        found.importing += 1;
                    }
                    file::State::Writing | file::State::Imported { .. } => {}
                }
            }
        }
        found
    }))
}

/// Sends a record to each source, again and again.
struct Senders {
    sent: Arc<Mutex<Sent>>,
    stop: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Senders {
    fn start(address: SocketAddr, sources: &[Source]) -> Self {
        let sent = Arc::new(Mutex::new(Sent::new()));
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for (seed, source) in sources.iter().enumerate() {
            let sender = Sender {
                address,
                path: source.path.clone(),
                rng: StdRng::seed_from_u64(seed as u64),
                sent: Arc::clone(&sent),
            };
            tasks.spawn(sender.run(stop.clone()));
        }
        Self { sent, stop, tasks }
    }

    /// Begins to count anew.
    fn forget(&self) {
        *self.sent.lock() = Sent::new();
    }

    async fn stop(mut self) -> anyhow::Result<Sent> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(std::mem::replace(&mut *self.sent.lock(), Sent::new()))
    }
}

impl Sent {
    fn new() -> Self {
        Self {
            accepted: 0,
            refused: 0,
            latency: Histogram::new(),
        }
    }
}

struct Sender {
    address: SocketAddr,
    path: String,
    rng: StdRng,
    sent: Arc<Mutex<Sent>>,
}

impl Sender {
    async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut connection = Connection::open(self.address).await?;
        let mut turns = interval(PERIOD);
        while !stop.is_cancelled() {
            turns.tick().await;
            let mut request = request(
                Method::POST,
                &self.path,
                body::record(&mut self.rng, RECORD),
            );
            let json = header::HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
            let start = Instant::now();
            let reply = connection.send(request).await?;
            let mut sent = self.sent.lock();
            sent.latency.record(start.elapsed());
            match reply.is_success() {
                true => sent.accepted += 1,
                false => sent.refused += 1,
            }
        }
        Ok(())
    }
}
