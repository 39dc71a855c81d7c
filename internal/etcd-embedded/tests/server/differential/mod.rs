//! Random requests against the embedded server and a real etcd of its own: both must answer the same.
//!
//! Both are empty in the beginning and get the same requests, so even their revisions are the same. `STREAM_TEST_OPERATIONS`
//! says how many requests are drawn, `STREAM_TEST_SEED` which seed is the first. Each seed draws for one round, and a round
//! depends on nothing but its seed.

mod draw;
mod side;
mod watching;

use std::collections::VecDeque;

use etcd_client::{Client, DeleteOptions};
use stream_etcd_embedded::Options;
use stream_tests_etcd::{Cluster, Transport};

use self::draw::{LEASES, Request, Source, Step, Watched};
use self::side::{Told, ask, everything};
use self::watching::Watching;
use crate::harness::Running;

/// About 20 seconds.
const OPERATIONS: u64 = 6_000;
/// Requests of one seed.
const ROUND: u64 = 500;
const FIRST_SEED: u64 = 1;
/// More watches at the same time are not opened.
const MAX_WATCHES: usize = 4;
/// Revisions that are read again at the end of a round.
const PAST: i64 = 30;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number"))
    })
}

/// The two servers in one round.
struct Round {
    real: Client,
    embedded: Client,
    source: Source,
    watches: VecDeque<Watching>,
    /// For messages.
    at: String,
}

impl Round {
    /// Empties both servers.
    async fn begin(mut real: Client, mut embedded: Client, seed: u64) -> Self {
        for client in [&mut real, &mut embedded] {
            for lease in LEASES {
                // Most rounds leave some leases, few all of them.
                let _ = client.lease_revoke(lease).await;
            }
            let all = DeleteOptions::new().with_range(vec![0]);
            client.delete(vec![0], Some(all)).await.expect("delete");
        }
        let put = real.put("a", "", None).await.expect("put");
        let base = crate::conformance::revision!(put);
        let put = embedded.put("a", "", None).await.expect("put");
        assert_eq!(crate::conformance::revision!(put), base);
        for client in [&mut real, &mut embedded] {
            client.compact(base, None).await.expect("compact");
        }
        Self {
            real,
            embedded,
            source: Source::new(seed, base),
            watches: VecDeque::new(),
            at: String::new(),
        }
    }

    async fn step(&mut self) {
        match self.source.step() {
            Step::Ask(request) => self.ask(request).await,
            Step::Open(watched) => self.open(watched).await,
            Step::Close => {
                if let Some(mut oldest) = self.watches.pop_front() {
                    oldest.catch_up(&mut self.real, &mut self.embedded).await;
                    oldest.close(&self.at).await;
                }
            }
        }
    }

    async fn ask(&mut self, request: Request) {
        if matches!(request, Request::Compact(_)) {
            self.catch_up().await;
        }
        let (expected, found) = tokio::join!(
            ask(&mut self.real, request.clone()),
            ask(&mut self.embedded, request.clone())
        );
        self.compare(&found, &expected, &request);
    }

    fn compare(&mut self, found: &Told, expected: &Told, request: &Request) {
        assert_eq!(found, expected, "{} {request:?}", self.at);
        if let (Request::Compact(at), Some(_)) = (request, expected.revision) {
            self.source.compacted = *at;
        }
        self.source.now = expected.revision.unwrap_or(self.source.now);
    }

    async fn open(&mut self, watched: Watched) {
        if self.watches.len() == MAX_WATCHES {
            return;
        }
        let mut watching = Watching::open(&mut self.real, &mut self.embedded, watched).await;
        watching.catch_up(&mut self.real, &mut self.embedded).await;
        watching.compare(&self.at);
        self.watches.push_back(watching);
    }

    async fn catch_up(&mut self) {
        for watching in &mut self.watches {
            watching.catch_up(&mut self.real, &mut self.embedded).await;
            watching.compare(&self.at);
        }
    }

    /// Compares what is left, now and in the past.
    async fn end(mut self) {
        self.catch_up().await;
        for at in (self.source.now - PAST).max(1)..=self.source.now {
            let (expected, found) = tokio::join!(
                everything(&mut self.real, at),
                everything(&mut self.embedded, at)
            );
            assert_eq!(found, expected, "{} at revision {at}", self.at);
        }
        for watching in self.watches {
            watching.close(&self.at).await;
        }
    }
}

#[tokio::test]
async fn both_servers_answer_the_same() {
    let Some(program) = stream_tests_etcd::program() else {
        return;
    };
    let cluster = Cluster::start(&program, 1, Transport::Plain).await;
    let cluster = cluster.expect("etcd starts");
    let real = Client::connect(cluster.endpoints(), None).await;
    let real = real.expect("a valid endpoint");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        // etcd compacts nothing by itself.
        keep_revisions: u64::MAX,
        ..Options::new(dir.path())
    };
    let running = Running::start_with(options).await;
    let embedded = running.client().await;
    let mut left = number("STREAM_TEST_OPERATIONS", OPERATIONS);
    let mut seed = number("STREAM_TEST_SEED", FIRST_SEED);
    while left > 0 {
        let mut round = Box::pin(Round::begin(real.clone(), embedded.clone(), seed)).await;
        for operation in 0..left.min(ROUND) {
            round.at = format!("STREAM_TEST_SEED={seed}, operation {operation}");
            round.step().await;
        }
        Box::pin(round.end()).await;
        left = left.saturating_sub(ROUND);
        seed += 1;
    }
    running.stop().await;
}
