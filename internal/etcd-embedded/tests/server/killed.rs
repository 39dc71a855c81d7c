//! A process that serves is killed at whatever instruction it is, again and again, under concurrent writers.
//!
//! The process is this test program, asked to run nothing but [`serves_until_killed`]. `STREAM_TEST_KILLS` says how often it
//! is killed, `STREAM_TEST_SEED` seeds the moments.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use etcd_client::{Client, Txn, TxnOp, WatchOptions, WatchStream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_etcd_embedded::{Endpoint, Options};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::conformance::revision;
use crate::harness::{next, open, within};

const DIRECTORY: &str = "STREAM_TEST_SERVE_DIRECTORY";
const WRITERS: usize = 4;
const KILLS: u64 = 8;
const FIRST_SEED: u64 = 1;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number"))
    })
}

#[tokio::test]
#[ignore = "it is the process that is killed, and ends at once without a directory"]
async fn serves_until_killed() {
    let Some(dir) = std::env::var_os(DIRECTORY) else {
        return;
    };
    // Ends with its parent, even when that is killed.
    let orphaned = tokio::task::spawn_blocking(|| {
        let mut nothing = [0];
        std::io::stdin().read(&mut nothing)
    });
    let server = open(Options::new(dir)).await.expect("opened");
    let cancel = CancellationToken::new();
    tokio::select! {
        ended = server.run(cancel) => ended.expect("no error"),
        _ = orphaned => {}
    }
}

fn serve(dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "killed::serves_until_killed", "--ignored"])
        .env(DIRECTORY, dir)
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts")
}

async fn connect(dir: &Path) -> Client {
    let endpoint = Endpoint::of_directory(dir).expect("it exists");
    let connected = async {
        loop {
            // A process that was killed leaves its socket, on which nobody answers.
            if let Ok(mut client) = endpoint.connect(None).await
                && client.get("x", None).await.is_ok()
            {
                return client;
            }
            tokio::task::yield_now().await;
        }
    };
    within(Box::pin(connected)).await
}

/// What a writer knows about its pair of keys.
#[derive(Debug, Clone, Copy, Default)]
struct Written {
    /// The last number that was acknowledged, and its revision.
    number: u64,
    revision: i64,
}

/// Counts up in both halves of a pair until the server is gone.
async fn write(
    mut client: Client,
    writer: usize,
    mut written: Written,
    acknowledged: mpsc::UnboundedSender<()>,
) -> Written {
    loop {
        let value = (written.number + 1).to_string();
        let txn = Txn::new().and_then([
            TxnOp::put(format!("{writer}/left"), value.clone(), None),
            TxnOp::put(format!("{writer}/right"), value, None),
        ]);
        let Ok(done) = client.txn(txn).await else {
            return written;
        };
        written = Written {
            number: written.number + 1,
            revision: revision!(done),
        };
        // Nobody counts any more once the server is killed.
        let _ = acknowledged.send(());
    }
}

/// Follows the history over all lives of the server.
struct Follower {
    /// The last revision it saw.
    seen: i64,
}

impl Follower {
    async fn watch(&self, client: &mut Client) -> WatchStream {
        let options = WatchOptions::new()
            .with_all_keys()
            .with_start_revision(self.seen + 1);
        let mut stream = client.watch("", Some(options)).await.expect("watch");
        assert!(next(&mut stream).await.created());
        stream
    }

    /// Reads until the revision, or until the server is gone.
    async fn follow(&mut self, stream: &mut WatchStream, until: i64) {
        while self.seen < until {
            let Ok(Some(response)) = within(stream.message()).await else {
                return;
            };
            assert!(!response.canceled());
            for pair in response.events().chunks(2) {
                let [left, right] = [&pair[0], &pair[1]].map(|event| event.kv().expect("a key"));
                assert_eq!(
                    left.mod_revision(),
                    self.seen + 1,
                    "revisions follow each other"
                );
                assert_eq!(right.mod_revision(), left.mod_revision());
                assert_eq!(left.value(), right.value());
                self.seen += 1;
            }
        }
    }
}

/// What is stored, when it is consistent with what was acknowledged.
async fn check(client: &mut Client, writer: usize, before: Written) -> Written {
    let mut halves = Vec::new();
    for side in ["left", "right"] {
        let got = client.get(format!("{writer}/{side}"), None).await;
        let got = got.expect("get");
        let number = got.kvs().first().map_or(0, |pair| {
            let value = pair.value_str().expect("text");
            value.parse::<u64>().expect("a number")
        });
        let at = got.kvs().first().map_or(0, |pair| pair.mod_revision());
        halves.push((number, at));
    }
    let (number, revision) = halves[0];
    assert_eq!(halves[1], halves[0], "a transaction is there as a whole");
    // The last one may have been carried out without being acknowledged.
    assert!(
        number == before.number && revision == before.revision
            || number == before.number + 1 && revision > before.revision,
        "{number} at {revision} after {before:?}"
    );
    Written { number, revision }
}

/// At a moment drawn from the time in which it opens and verifies its file.
async fn kill_while_it_starts(dir: &Path, random: &mut StdRng) {
    let mut process = serve(dir);
    let moment = Duration::from_micros(random.random_range(0..30_000));
    tokio::time::sleep(moment).await;
    process.kill().await.expect("it runs");
}

#[tokio::test]
async fn a_killed_process_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut random = StdRng::seed_from_u64(number("STREAM_TEST_SEED", FIRST_SEED));
    let mut written = [Written::default(); WRITERS];
    let mut follower = Follower { seen: 1 };
    for _ in 0..number("STREAM_TEST_KILLS", KILLS) {
        if random.random_bool(0.5) {
            kill_while_it_starts(dir.path(), &mut random).await;
        }
        let mut process = serve(dir.path());
        let mut client = connect(dir.path()).await;
        let current = revision!(client.get("x", None).await.expect("get"));
        assert!(current >= follower.seen, "nothing that was shown is lost");
        for (writer, written) in written.iter_mut().enumerate() {
            *written = check(&mut client, writer, *written).await;
            assert!(written.revision <= current);
        }
        let (sender, mut acknowledged) = mpsc::unbounded_channel();
        let mut writers = Vec::new();
        for (writer, written) in written.into_iter().enumerate() {
            let client = connect(dir.path()).await;
            writers.push(tokio::spawn(write(client, writer, written, sender.clone())));
        }
        let mut stream = follower.watch(&mut client).await;
        let enough = random.random_range(1..300);
        let kill = async {
            for _ in 0..enough {
                within(acknowledged.recv()).await.expect("writers go on");
            }
            process.kill().await.expect("it runs");
        };
        tokio::join!(kill, follower.follow(&mut stream, i64::MAX));
        for (writer, task) in writers.into_iter().enumerate() {
            written[writer] = within(task).await.expect("no panic");
        }
    }
    let mut process = serve(dir.path());
    let mut client = connect(dir.path()).await;
    for (writer, written) in written.into_iter().enumerate() {
        check(&mut client, writer, written).await;
    }
    let last = revision!(client.get("x", None).await.expect("get"));
    let mut stream = follower.watch(&mut client).await;
    follower.follow(&mut stream, last).await;
    assert_eq!(follower.seen, last);
    process.kill().await.expect("it runs");
}
