//! Clients that go on while members of etcd are killed: nothing is lost, nothing is done twice, every failure is cured by
//! trying again, and every mirror shows what is stored.
//!
//! Three members; one is killed, and started again after the clients have done some work without it. `STREAM_TEST_KILLS`
//! says how often, `STREAM_TEST_SECONDS` for how long instead. `STREAM_TEST_SEED` repeats the choices of a run, though not
//! their timing.

mod client;
mod history;
mod operation;
mod picture;

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_state::{Mirror, Store};
use stream_tests_etcd::{Cluster, Transport};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::{connect_to, until};
use client::{Client, Expected};
use history::History;

const CLIENTS: u64 = 8;
const MEMBERS: usize = 3;
const KILLS: u64 = 3;
/// Operations that the clients carry out with, and without, all members before the next thing happens.
const OPERATIONS: std::ops::Range<u64> = 80..300;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("it is a number"))
}

async fn store(cluster: &Cluster) -> Store {
    let client = connect_to(cluster).await;
    Store::open(client, "members").await.expect("opens")
}

/// Clients at work, each with a connection and a mirror of its own.
struct Running {
    history: Arc<History>,
    clients: JoinSet<Expected>,
    stop_clients: CancellationToken,
    mirrors: Vec<Mirror>,
    tasks: JoinSet<()>,
    stop_tasks: CancellationToken,
}

impl Running {
    async fn start(cluster: &Cluster, seed: u64) -> Self {
        client::create_shared(&store(cluster).await).await;
        let mut running = Self {
            history: Arc::default(),
            clients: JoinSet::new(),
            stop_clients: CancellationToken::new(),
            mirrors: Vec::new(),
            tasks: JoinSet::new(),
            stop_tasks: CancellationToken::new(),
        };
        for number in 0..CLIENTS {
            let store = store(cluster).await;
            let mirror = running.mirror(&store).await;
            let history = Arc::clone(&running.history);
            let client = Client::new(number, seed, store, mirror, history);
            let stop = running.stop_clients.clone();
            running.clients.spawn(client.run(stop));
        }
        running
    }

    /// A mirror, with what feeds it and what looks at it.
    async fn mirror(&mut self, store: &Store) -> Mirror {
        let (mirror, task) = Mirror::start(store).await.expect("listed");
        let stop = self.stop_tasks.clone();
        self.tasks.spawn(async move {
            task.run(stop).await.expect("it outlives every failure");
        });
        let (looked_at, history) = (mirror.clone(), Arc::clone(&self.history));
        let stop = self.stop_tasks.clone();
        self.tasks.spawn(async move {
            let looking = picture::look_for_tears(&looked_at, &history);
            stop.run_until_cancelled(looking).await;
        });
        self.mirrors.push(mirror.clone());
        mirror
    }

    /// Stops the clients and holds what they and the mirrors know against what is stored.
    async fn finish(mut self, store: &Store) -> Vec<String> {
        self.stop_clients.cancel();
        let mut expected = Vec::new();
        while let Some(client) = self.clients.join_next().await {
            expected.push(client.expect("a client does not panic"));
        }
        let (stored, _task) = Mirror::start(store).await.expect("listed");
        // Not by the revision of the list: the last change may be one of a task or a volume, which no mirror sees.
        for mirror in &self.mirrors {
            let up_to_date =
                async || mirror.read(|own| stored.read(|stored| own.sources == stored.sources));
            until("a mirror shows what is stored", up_to_date).await;
        }
        self.stop_tasks.cancel();
        while let Some(task) = self.tasks.join_next().await {
            task.expect("no panic");
        }
        stored.read(|topology| self.history.compare(topology));
        for expected in &expected {
            expected.compare(store, &self.history).await;
        }
        client::compare_shared(store, &expected, &self.history).await;
        self.history.problems()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_members_cost_nothing_but_another_try() {
    let Some(program) = stream_tests_etcd::program() else {
        return;
    };
    let seed = number("STREAM_TEST_SEED").unwrap_or_else(rand::random);
    eprintln!("members: STREAM_TEST_SEED={seed}");
    let mut cluster = Cluster::start(&program, MEMBERS, Transport::Plain)
        .await
        .expect("etcd starts");
    let running = Running::start(&cluster, seed).await;
    let history = Arc::clone(&running.history);
    kill_members(&mut cluster, seed, &history).await;
    let problems = running.finish(&store(&cluster).await).await;
    eprintln!("members: {}", history.summary());
    assert!(
        problems.is_empty(),
        "seed {seed}: {} problems:\n{}",
        problems.len(),
        problems.join("\n")
    );
}

/// Kills one member at a time, each after the one before is healthy again.
async fn kill_members(cluster: &mut Cluster, seed: u64, history: &History) {
    let mut rng = StdRng::seed_from_u64(seed);
    let begun = Instant::now();
    let (kills, length) = (
        number("STREAM_TEST_KILLS").unwrap_or(KILLS),
        number("STREAM_TEST_SECONDS").map(Duration::from_secs),
    );
    let mut killed = 0;
    while length.map_or(killed < kills, |length| begun.elapsed() < length) {
        history.more_operations(rng.random_range(OPERATIONS)).await;
        let member = rng.random_range(0..MEMBERS);
        cluster.kill(member);
        history.member_away();
        history.more_operations(rng.random_range(OPERATIONS)).await;
        cluster.start_again(member).expect("it starts");
        cluster.wait_until_healthy(member).await.expect("healthy");
        history.all_members_back();
        killed += 1;
    }
    history.more_operations(OPERATIONS.start).await;
    eprintln!("members: {killed} kills in {} s", begun.elapsed().as_secs());
}
