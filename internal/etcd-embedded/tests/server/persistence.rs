//! What is still there after a stop, a crash, or damage.

use std::fs;
use std::path::Path;

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, KeyValue, PutOptions, Txn, TxnOp, WatchOptions,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use redb::{Database, TableDefinition};
use stream_etcd_embedded::{OpenError, Options};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::conformance::revision;
use crate::harness::{Running, events, next, open, refusal, spell, within};

const FILE: &str = "etcd.redb";

async fn put(client: &mut Client, key: &str, value: &str) -> i64 {
    revision!(client.put(key, value, None).await.expect("put"))
}

/// Everything, and the revision.
async fn everything(client: &mut Client) -> (Vec<KeyValue>, i64) {
    let options = GetOptions::new().with_all_keys();
    let mut got = client.get("", Some(options)).await.expect("get");
    let revision = revision!(got);
    (got.take_kvs(), revision)
}

/// The data directory as a process that is killed now would leave it.
fn crash(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary directory");
    fs::copy(dir.join(FILE), copy.path().join(FILE)).expect("the file can be read");
    copy
}

#[tokio::test]
async fn keys_revisions_and_history_survive_a_stop_and_a_crash() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    let first = put(&mut client, "a", "1").await;
    put(&mut client, "a", "2").await;
    put(&mut client, "b", "1").await;
    let gone = revision!(client.delete("b", None).await.expect("delete"));
    let txn = Txn::new()
        .when([Compare::value("a", CompareOp::Equal, "2")])
        .and_then([TxnOp::put("c", "1", None), TxnOp::put("d", "1", None)]);
    let last = revision!(client.txn(txn).await.expect("txn"));
    let before = everything(&mut client).await;
    assert_eq!(before.1, last);

    let crashed = crash(dir.path());
    running.stop().await;
    for dir in [crashed.path(), dir.path()] {
        let running = Running::start(dir).await;
        let mut client = running.client().await;
        let after = everything(&mut client).await;
        assert_eq!(format!("{before:?}"), format!("{after:?}"));

        let past = GetOptions::new().with_revision(first);
        let got = client.get("a", Some(past)).await.expect("get");
        assert_eq!(got.kvs()[0].value(), b"1");

        let options = WatchOptions::new()
            .with_all_keys()
            .with_start_revision(first + 1)
            .with_prev_key();
        let mut stream = client.watch("", Some(options)).await.expect("watch");
        assert!(next(&mut stream).await.created());
        let next_put = put(&mut client, "e", "1").await;
        assert_eq!(next_put, last + 1);
        assert_eq!(
            spell(&events(&mut stream, 6).await),
            [
                format!("put a=2 @{}", first + 1),
                format!("put b=1 @{}", first + 2),
                format!("delete b @{gone}"),
                format!("put c=1 @{last}"),
                format!("put d=1 @{last}"),
                format!("put e=1 @{next_put}"),
            ]
        );
        running.stop().await;
    }
}

#[tokio::test]
async fn the_identity_survives_and_the_term_counts_the_boots() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut seen = Vec::new();
    for _ in 0..3 {
        let running = Running::start(dir.path()).await;
        let got = running.client().await.get("x", None).await.expect("get");
        let header = got.header().expect("a header");
        seen.push((header.cluster_id(), header.member_id(), header.raft_term()));
        running.stop().await;
    }
    let (cluster, member, _) = seen[0];
    assert_eq!(seen, [1, 2, 3].map(|term| (cluster, member, term)));
}

#[tokio::test]
async fn leases_of_the_previous_boot_are_revoked_in_one_revision() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    put(&mut client, "kept", "1").await;
    let mut leases = Vec::new();
    for key in ["b", "a"] {
        let lease = client.lease_grant(600, None).await.expect("grant").id();
        let options = PutOptions::new().with_lease(lease);
        client.put(key, "1", Some(options)).await.expect("put");
        leases.push(lease);
    }
    let last = revision!(client.get("x", None).await.expect("get"));
    running.stop().await;

    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    assert!(client.leases().await.expect("leases").leases().is_empty());
    let (left, revision) = everything(&mut client).await;
    assert_eq!(
        (left.len(), left[0].key(), revision),
        (1, &b"kept"[..], last + 1)
    );
    for lease in leases {
        let message = "etcdserver: requested lease not found".to_owned();
        assert_eq!(refusal(client.lease_revoke(lease).await).1, message);
    }
    let options = WatchOptions::new()
        .with_all_keys()
        .with_start_revision(last + 1);
    let mut stream = client.watch("", Some(options)).await.expect("watch");
    assert!(next(&mut stream).await.created());
    let responses = events(&mut stream, 2).await;
    assert_eq!(responses.len(), 1);
    assert_eq!(
        spell(&responses),
        [
            format!("delete a @{}", last + 1),
            format!("delete b @{}", last + 1)
        ]
    );
    running.stop().await;
    // Nothing to revoke, no revision.
    let running = Running::start(dir.path()).await;
    let (_, revision) = everything(&mut running.client().await).await;
    assert_eq!(revision, last + 1);
    running.stop().await;
}

#[tokio::test]
async fn a_compaction_survives() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    put(&mut client, "old", "1").await;
    let past = put(&mut client, "a", "1").await;
    let compacted = put(&mut client, "a", "2").await;
    let last = put(&mut client, "a", "3").await;
    client.compact(compacted, None).await.expect("compact");
    let crashed = crash(dir.path());
    running.stop().await;
    for dir in [crashed.path(), dir.path()] {
        let running = Running::start(dir).await;
        let mut client = running.client().await;
        let at = |revision| Some(GetOptions::new().with_revision(revision));
        assert!(
            refusal(client.get("a", at(past)).await)
                .1
                .contains("compacted")
        );
        assert!(
            refusal(client.compact(compacted, None).await)
                .1
                .contains("compacted")
        );
        let got = client.get("a", at(compacted)).await.expect("get");
        assert_eq!(
            (got.kvs()[0].value(), got.kvs()[0].version()),
            (&b"2"[..], 2)
        );
        let (left, revision) = everything(&mut client).await;
        assert_eq!((left.len(), revision), (2, last));
        running.stop().await;
    }
}

#[tokio::test]
async fn the_history_is_bounded_by_itself() {
    const KEEP: u64 = 40;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        keep_revisions: KEEP,
        ..Options::new(dir.path())
    };
    let running = Running::start_with(options).await;
    let mut client = running.client().await;
    put(&mut client, "untouched", "1").await;
    let mut last = 0;
    for index in 0..3 * KEEP {
        last = put(&mut client, "a", &index.to_string()).await;
    }
    let keep = i64::try_from(KEEP).expect("small");
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    client.get("a", at(last - keep)).await.expect("kept");
    let oldest = last - keep - keep / 8 - 1;
    assert!(
        refusal(client.get("a", at(oldest)).await)
            .1
            .contains("compacted")
    );
    running.stop().await;

    let rows = rows(dir.path());
    let bound = KEEP + KEEP / 8 + 2;
    assert!(rows <= bound, "{rows} rows on disk");
    let running = Running::start(dir.path()).await;
    let (left, revision) = everything(&mut running.client().await).await;
    assert_eq!((left.len(), revision), (2, last));
    running.stop().await;
}

fn rows(dir: &Path) -> u64 {
    use redb::{ReadableDatabase, ReadableTableMetadata};
    const CHANGES: TableDefinition<(i64, u32), &[u8]> = TableDefinition::new("changes");
    let database = Database::open(dir.join(FILE)).expect("a database");
    let transaction = database.begin_read().expect("readable");
    let table = transaction.open_table(CHANGES).expect("the table");
    table.len().expect("readable")
}

/// Writers are cut off by a crash: what was acknowledged is there, and transactions are there as a whole.
#[tokio::test]
async fn a_crash_loses_nothing_acknowledged_and_splits_no_transaction() {
    const WRITERS: usize = 4;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (stop, mut stopped) = oneshot::channel::<()>();
        let mut client = running.client().await;
        let task = tokio::spawn(async move {
            let mut acknowledged = 0;
            while stopped.try_recv().is_err() {
                let value = (acknowledged + 1).to_string();
                let txn = Txn::new().and_then([
                    TxnOp::put(format!("{writer}/left"), value.clone(), None),
                    TxnOp::put(format!("{writer}/right"), value, None),
                ]);
                if client.txn(txn).await.is_err() {
                    break;
                }
                acknowledged += 1;
            }
            acknowledged
        });
        writers.push((stop, task));
    }
    let mut client = running.client().await;
    let options = WatchOptions::new().with_all_keys().with_start_revision(1);
    let mut stream = client.watch("", Some(options)).await.expect("watch");
    let mut seen = 0;
    while seen < 200 {
        seen += next(&mut stream).await.events().len();
    }
    // Dropping the future is the nearest a task gets to being killed.
    running.task.abort();
    let mut acknowledged = Vec::new();
    for (stop, task) in writers {
        drop(stop);
        acknowledged.push(within(task).await.expect("no panic"));
    }
    let running = reopen(dir.path()).await;
    let mut client = running.client().await;
    for (writer, acknowledged) in acknowledged.into_iter().enumerate() {
        let mut read = async |side: &str| {
            let key = format!("{writer}/{side}");
            let got = client.get(key, None).await.expect("get");
            let pair = got.kvs().first().map(|pair| {
                let value = pair.value_str().expect("text").parse::<i32>();
                (value.expect("a number"), pair.mod_revision())
            });
            pair.unwrap_or((0, 0))
        };
        let (left, right) = (read("left").await, read("right").await);
        assert_eq!(left, right);
        assert!(left.0 == acknowledged || left.0 == acknowledged + 1);
    }
    running.stop().await;
}

/// Opens a directory whose server was dropped and is still ending.
async fn reopen(dir: &Path) -> Running {
    let freed = async {
        loop {
            match open(Options::new(dir)).await {
                Ok(server) => return server,
                Err(OpenError::AlreadyOpen { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    drop(within(freed).await);
    Running::start(dir).await
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = open(Options::new(dir.path())).await.expect("the first");
    let Err(error) = open(Options::new(dir.path())).await else {
        panic!("opened twice");
    };
    assert!(matches!(error, OpenError::AlreadyOpen { .. }));
    let path = dir.path().canonicalize().expect("it exists");
    assert_eq!(
        error.to_string(),
        format!("another process uses the data directory {}", path.display())
    );
    drop(server);
    open(Options::new(dir.path())).await.expect("free again");
}

#[tokio::test]
async fn another_format_is_refused() {
    const META: TableDefinition<&str, i64> = TableDefinition::new("meta");
    let dir = tempfile::tempdir().expect("a temporary directory");
    drop(open(Options::new(dir.path())).await.expect("created"));
    let path = dir.path().join(FILE);
    let set_format = |format: Option<i64>| {
        let database = Database::open(&path).expect("a database");
        let transaction = database.begin_write().expect("writable");
        {
            let mut meta = transaction.open_table(META).expect("the table");
            match format {
                Some(format) => meta.insert("format", format).map(drop),
                None => meta.remove("format").map(drop),
            }
            .expect("writable");
        }
        transaction.commit().expect("committed");
    };
    set_format(Some(2));
    let Err(error) = open(Options::new(dir.path())).await else {
        panic!("opened");
    };
    assert!(
        error
            .to_string()
            .ends_with("has format 2, this version reads format 1"),
        "{error}"
    );
    set_format(None);
    let Err(error) = open(Options::new(dir.path())).await else {
        panic!("opened");
    };
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    for bytes in [&b""[..], b"not a database", &[0; 8_192]] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join(FILE), bytes).expect("writable");
        let Err(error) = open(Options::new(dir.path())).await else {
            panic!("opened {bytes:?}");
        };
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
    }
}

/// Whatever happens to the bytes: it opens, or says why not. It never panics, and never shows a changed value.
#[tokio::test]
async fn damage_never_panics_and_never_goes_unnoticed() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    for index in 0..50 {
        put(&mut client, &format!("key{index:02}"), &"v".repeat(200)).await;
    }
    running.stop().await;
    let intact = fs::read(dir.path().join(FILE)).expect("readable");
    let mut random = StdRng::seed_from_u64(1);
    for round in 0..60 {
        let mut bytes = intact.clone();
        let mut at = |length: usize| random.random_range(0..length);
        if round % 3 == 0 {
            bytes.truncate(at(intact.len()));
        } else {
            for _ in 0..=at(8) {
                let index = at(bytes.len());
                bytes[index] ^= 1 << at(8);
            }
        }
        let damaged = tempfile::tempdir().expect("a temporary directory");
        fs::write(damaged.path().join(FILE), bytes).expect("writable");
        let Ok(server) = open(Options::new(damaged.path())).await else {
            continue;
        };
        drop(server);
        let Ok(server) = open(Options::new(damaged.path())).await else {
            continue;
        };
        let endpoint = server.endpoint();
        let cancel = CancellationToken::new();
        let task = tokio::spawn(server.run(cancel.clone()));
        let mut client = endpoint.connect(None).await.expect("it listens");
        let (pairs, _) = everything(&mut client).await;
        for pair in pairs {
            assert_eq!(pair.value(), "v".repeat(200).as_bytes());
        }
        let _ = client.put("another", "v".repeat(200), None).await;
        cancel.cancel();
        let _ = within(task).await.expect("no panic");
    }
}

#[tokio::test]
async fn an_unfinished_creation_is_forgotten() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("etcd.redb.new"), b"half a file").expect("writable");
    let running = Running::start(dir.path()).await;
    put(&mut running.client().await, "a", "1").await;
    running.stop().await;
    assert!(!dir.path().join("etcd.redb.new").exists());
}
