//! Sends requests over many connections, at a fixed rate or as fast as they are answered.
//!
//! At a fixed rate each request has its time, whatever became of the ones before, and its latency counts from that time: a
//! server that stalls cannot slow down the questions and so hide the wait. Times are whole milliseconds; requests of one
//! millisecond are sent together, a little burst that is harder on the server than an even stream. A thread of its own
//! tells the connections when they are due: the timer of the runtime is up to a millisecond late, which would be most of
//! the latency that is to be measured.
//!
//! One thread, no pipelining, requests made beforehand: the load generator shares the machine with what it measures.

mod connection;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use self::connection::Connection;
use crate::body::Requests;
use crate::histogram::Histogram;
use crate::machine::{self, CpuPressure};
use crate::target::Target;

/// A request that takes longer counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two attempts to connect again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// What to send.
#[derive(Debug)]
pub struct Load {
    /// Where to.
    pub target: Target,
    /// What is sent, in turn.
    pub requests: Requests,
    /// Requests in a second, over all connections; 0 is as fast as they are answered.
    pub rate: u64,
    /// Connections.
    pub connections: u64,
    /// For how long.
    pub duration: Duration,
    /// Records in a request.
    pub batch: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Measured {
    /// Requests that were sent.
    pub sent: u64,
    /// Requests by the status of their answer.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer.
    pub failed: u64,
    /// Records in the requests that were answered 2xx.
    pub records: u64,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// From the time at which a request was due to its answer, for requests answered 2xx.
    pub latency: Histogram,
    /// The same for requests answered 429 or 503.
    pub refusal: Histogram,
    /// From the time at which a request was due to the time at which it was sent.
    pub lag: Histogram,
    /// CPU seconds of this process.
    pub own_cpu: f64,
    /// Share of the time in which some task of the machine waited for a CPU.
    pub cpu_pressure: Option<f64>,
    /// `avg10` of the kernel before and after, in percent.
    pub avg10: (Option<f64>, Option<f64>),
}

impl Measured {
    /// Requests that were answered 2xx.
    pub fn ok(&self) -> u64 {
        self.statuses.range(200..300).map(|(_, count)| count).sum()
    }

    /// Requests that were answered 429 or 503.
    pub fn refused(&self) -> u64 {
        let of = |status| self.statuses.get(status).copied().unwrap_or(0);
        [429, 503].iter().map(of).sum()
    }

    /// Requests in a second that were answered 2xx.
    pub fn rate(&self) -> f64 {
        self.ok() as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}

/// What the connections count.
struct Counts {
    sent: u64,
    statuses: BTreeMap<u16, u64>,
    failed: u64,
    latency: Histogram,
    refusal: Histogram,
    lag: Histogram,
}

/// Sends it all and waits for the answers.
///
/// # Errors
/// When nobody listens.
pub async fn run(load: Load) -> anyhow::Result<Measured> {
    let load = Arc::new(load);
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        let connection = Connection::open(&load.target).await;
        let address = load.target.address;
        connections.push(connection.with_context(|| format!("cannot connect to {address}"))?);
    }
    let counts = Arc::new(Mutex::new(Counts {
        sent: 0,
        statuses: BTreeMap::new(),
        failed: 0,
        latency: Histogram::new(),
        refusal: Histogram::new(),
        lag: Histogram::new(),
    }));
    let (own, pressure, avg10) = (
        machine::cpu_seconds(std::process::id())?,
        CpuPressure::begin(),
        machine::pressure_avg10(),
    );
    let wakers: Arc<[Notify]> = (0..load.connections).map(|_| Notify::new()).collect();
    let start = Instant::now();
    let pacer = Pacer {
        start,
        rate: load.rate,
        duration: load.duration,
        wakers,
    };
    let wakers = Arc::clone(&pacer.wakers);
    let pacer = (load.rate > 0).then(|| std::thread::spawn(move || pacer.run()));
    let mut workers = JoinSet::new();
    for (number, connection) in (0..).zip(connections) {
        let worker = Worker {
            load: Arc::clone(&load),
            counts: Arc::clone(&counts),
            number,
            connection,
            start,
            wakers: Arc::clone(&wakers),
        };
        workers.spawn(worker.run());
    }
    while let Some(worker) = workers.join_next().await {
        worker.context("a connection panicked")?;
    }
    let elapsed = start.elapsed();
    if let Some(pacer) = pacer {
        // It lasts as long as the requests and does nothing that can panic.
        let _ = pacer.join();
    }
    let own_cpu = machine::cpu_seconds(std::process::id())? - own;
    let counts = Arc::into_inner(counts).context("a connection is still open")?;
    let counts = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut measured = Measured {
        sent: counts.sent,
        statuses: counts.statuses,
        failed: counts.failed,
        records: 0,
        elapsed,
        latency: counts.latency,
        refusal: counts.refusal,
        lag: counts.lag,
        own_cpu,
        cpu_pressure: pressure.share(),
        avg10: (avg10, machine::pressure_avg10()),
    };
    measured.records = measured.ok() * load.batch;
    Ok(measured)
}

/// When request number `turn` is due after the start.
fn due_after(turn: u64, rate: u64) -> Duration {
    Duration::from_millis(turn.saturating_mul(1_000) / rate)
}

/// Wakes each connection when a request of it is due. A thread: the kernel wakes it within some ten microseconds.
struct Pacer {
    start: Instant,
    rate: u64,
    duration: Duration,
    wakers: Arc<[Notify]>,
}

impl Pacer {
    fn run(self) {
        let mut turn = 0;
        loop {
            let after = due_after(turn, self.rate);
            if after >= self.duration {
                return;
            }
            std::thread::sleep((self.start + after).saturating_duration_since(Instant::now()));
            while due_after(turn, self.rate) <= after {
                self.wakers[position(turn, self.wakers.len())].notify_one();
                turn += 1;
            }
        }
    }
}

struct Worker {
    load: Arc<Load>,
    counts: Arc<Mutex<Counts>>,
    number: u64,
    connection: Connection,
    start: Instant,
    wakers: Arc<[Notify]>,
}

impl Worker {
    async fn run(mut self) {
        let mut turn = self.number;
        let mut keyed = Vec::new();
        while let Some(due) = self.due(turn) {
            if let Some(due) = due {
                self.wait(due).await;
            }
            let load = Arc::clone(&self.load);
            let request = load.requests.of_turn(turn, &mut keyed);
            let sent = Instant::now();
            let due = due.unwrap_or(sent);
            let answer = timeout(PATIENCE, self.connection.exchange(request)).await;
            self.count(due, sent, answer.ok().and_then(Result::ok));
            if self.connection.is_broken && !self.reconnect().await {
                return;
            }
            turn += load.connections;
        }
    }

    /// When request number `turn` is due; nothing: at once. `None` when the time is over.
    #[allow(
        clippy::option_option,
        reason = "over, at once and at a time are three things, used once"
    )]
    fn due(&self, turn: u64) -> Option<Option<Instant>> {
        if self.load.rate == 0 {
            return (self.start.elapsed() < self.load.duration).then_some(None);
        }
        let after = due_after(turn, self.load.rate);
        (after < self.load.duration).then_some(Some(self.start + after))
    }

    /// Waits for the pacer, unless the time has passed already.
    async fn wait(&self, due: Instant) {
        let waker = &self.wakers[position(self.number, self.wakers.len())];
        // A word of the pacer about an earlier request may be left over.
        while Instant::now() < due {
            waker.notified().await;
        }
    }

    fn count(&self, due: Instant, sent: Instant, status: Option<u16>) {
        let answered = Instant::now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.sent += 1;
        counts.lag.record(sent.saturating_duration_since(due));
        let Some(status) = status else {
            counts.failed += 1;
            return;
        };
        *counts.statuses.entry(status).or_default() += 1;
        let took = answered.saturating_duration_since(due);
        match status {
            200..300 => counts.latency.record(took),
            429 | 503 => counts.refusal.record(took),
            _ => {}
        }
    }

    /// Connects again. False when the time is over before that.
    async fn reconnect(&mut self) -> bool {
        while self.start.elapsed() < self.load.duration {
            if let Ok(connection) = Connection::open(&self.load.target).await {
                self.connection = connection;
                return true;
            }
            sleep(RECONNECT_PAUSE).await;
        }
        false
    }
}

fn position(turn: u64, len: usize) -> usize {
    usize::try_from(turn).unwrap_or(usize::MAX) % len
}
