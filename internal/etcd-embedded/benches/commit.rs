//! Durable transactions per second through the client and the unix socket, beside what the disk can sync.
//!
//! Each figure is the median of three runs. The runs take turns, so that what disturbs the disk disturbs all alike.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark joins what it spawns"
)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use stream_etcd_embedded::{Endpoint, Observer, Options, Server};
use tokio_util::sync::CancellationToken;

const RUNS: usize = 3;
const SEQUENTIAL: u32 = 3_000;
const CLIENTS: u32 = 64;
const PUTS_OF_A_CLIENT: u32 = 500;
const VALUE: [u8; 200] = [b'x'; 200];

/// Operations per second.
fn rate(operations: u32, began: Instant) -> f64 {
    f64::from(operations) / began.elapsed().as_secs_f64()
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// What the disk does without anything above it: append 4 KiB, sync.
fn fdatasync(dir: &Path) -> f64 {
    let mut file = File::create(dir.join("appended")).expect("writable");
    let began = Instant::now();
    for _ in 0..SEQUENTIAL {
        file.write_all(&[0; 4_096]).expect("writable");
        file.sync_data().expect("it syncs");
    }
    rate(SEQUENTIAL, began)
}

async fn put(client: &mut Client) -> f64 {
    let began = Instant::now();
    for index in 0..SEQUENTIAL {
        let key = format!("key/{}", index % 1_000);
        client.put(key, VALUE, None).await.expect("put");
    }
    rate(SEQUENTIAL, began)
}

/// One comparison, two puts and a read, like a change of state with an invariant.
async fn compare_and_swap(client: &mut Client) -> f64 {
    client.put("counter", "0", None).await.expect("put");
    let began = Instant::now();
    for index in 0..SEQUENTIAL {
        let txn = Txn::new()
            .when([Compare::value(
                "counter",
                CompareOp::Equal,
                index.to_string(),
            )])
            .and_then([
                TxnOp::put("counter", (index + 1).to_string(), None),
                TxnOp::put(format!("key/{}", index % 1_000), VALUE, None),
                TxnOp::get("counter", None),
            ]);
        assert!(client.txn(txn).await.expect("txn").succeeded());
    }
    rate(SEQUENTIAL, began)
}

/// The rate, and how many requests a commit answered.
async fn concurrent(endpoint: &Endpoint, observer: &Observer) -> (f64, f64) {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(endpoint.connect(None).await.expect("it listens"));
    }
    let before = observer.stats();
    let began = Instant::now();
    let tasks: Vec<_> = clients
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            tokio::spawn(async move {
                for index in 0..PUTS_OF_A_CLIENT {
                    let key = format!("client/{number}/{}", index % 20);
                    client.put(key, VALUE, None).await.expect("put");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    let rate = rate(CLIENTS * PUTS_OF_A_CLIENT, began);
    let after = observer.stats();
    let requests = after.committed_requests - before.committed_requests;
    let commits = after.commits - before.commits;
    (rate, requests as f64 / commits as f64)
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on the disk");
    let server = Server::open(Options::new(dir.path().join("state"))).expect("opened");
    let (endpoint, observer) = (server.endpoint(), server.observer());
    let cancel = CancellationToken::new();
    let task = tokio::spawn(server.run(cancel.clone()));
    let mut client = endpoint.connect(None).await.expect("it listens");
    let mut rates: [Vec<f64>; 5] = Default::default();
    for _ in 0..RUNS {
        rates[0].push(fdatasync(dir.path()));
        rates[1].push(put(&mut client).await);
        rates[2].push(compare_and_swap(&mut client).await);
        let (rate, group) = concurrent(&endpoint, &observer).await;
        rates[3].push(rate);
        rates[4].push(group);
    }
    let [disk, put, swap, concurrent, group] = rates.map(median);
    println!("fdatasync of 4 KiB appends          {disk:>8.0}/s");
    println!(
        "put, one client                     {put:>8.0}/s  {:.2} of the disk",
        put / disk
    );
    println!(
        "compare-and-swap, one client        {swap:>8.0}/s  {:.2} of the disk",
        swap / disk
    );
    println!(
        "put, {CLIENTS} clients                     {concurrent:>8.0}/s  {:.2} of the disk, {group:.1} in a commit",
        concurrent / disk
    );
    let stats = observer.stats();
    println!(
        "a commit took {:.2} ms on average, {:.2} ms at most",
        stats.commit_time.as_secs_f64() * 1e3 / stats.commits as f64,
        stats.longest_commit.as_secs_f64() * 1e3
    );
    cancel.cancel();
    task.await.expect("no panic").expect("no error");
}
