//! The memory and the disk that are used do not depend on how long the server runs.

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use stream_etcd_embedded::{Options, Stats};

use crate::harness::{Running, next, within};

const KEYS: usize = 20;
const VALUE_BYTES: usize = 5_000;
const KEEP: u64 = 100;
/// Each sets all keys.
const ROUNDS: usize = 500;

async fn overwrite(client: &mut Client, round: usize) {
    let value = vec![round as u8; VALUE_BYTES];
    let all: Vec<_> = (0..KEYS)
        .map(|key| TxnOp::put(format!("{key}"), value.clone(), None))
        .collect();
    client.txn(Txn::new().and_then(all)).await.expect("txn");
}

/// 50 MB are written to keys that hold 100 kB, with a history of 11 MB.
#[tokio::test]
async fn overwriting_for_ever_needs_neither_more_memory_nor_more_disk() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = Options {
        keep_revisions: KEEP,
        ..Options::new(dir.path())
    };
    let running = Running::start_with(options).await;
    let mut client = running.client().await;
    let mut largest: Option<Stats> = None;
    let mut compactions = 0;
    let mut compacted = -1;
    for round in 0..ROUNDS {
        overwrite(&mut client, round).await;
        let stats = running.observer.stats();
        compactions += usize::from(stats.compacted != compacted);
        compacted = stats.compacted;
        if largest.is_none_or(|largest| stats.database_bytes > largest.database_bytes) {
            largest = Some(stats);
        }
    }
    let largest = largest.expect("there were rounds");
    eprintln!("{compactions} compactions, at most {largest:?}");
    // What one version of each key occupies, roughly.
    let once = KEYS * (VALUE_BYTES + 200);
    let history = once * (usize::try_from(KEEP + KEEP / 8).expect("small") + 2);
    let stats = running.observer.stats();
    assert!(compactions > 15, "{compactions}");
    assert_eq!(stats.live_keys, KEYS);
    assert!(stats.history_bytes <= history, "{stats:?}");
    assert!(stats.used_bytes <= history + once, "{stats:?}");
    assert!(
        largest.database_bytes as usize <= 3 * (history + once),
        "{largest:?}"
    );

    // What is no longer needed is given back on request.
    let revision = stats.revision;
    client.compact(revision, None).await.expect("compact");
    client.defragment().await.expect("defragment");
    let after = running.observer.stats();
    assert!(after.database_bytes as usize <= 8 * once, "{after:?}");
    assert_eq!(
        client.get("0", None).await.expect("get").kvs()[0]
            .value()
            .len(),
        VALUE_BYTES
    );
    running.stop().await;
}

#[tokio::test]
async fn tells_figures() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    let lease = client.lease_grant(600, None).await.expect("grant").id();
    let bound = PutOptions::new().with_lease(lease);
    client.put("a", "1", Some(bound)).await.expect("put");
    client.put("b", "1", None).await.expect("put");
    client.delete("b", None).await.expect("delete");
    let mut watch = client.watch("a", None).await.expect("watch");
    assert!(next(&mut watch).await.created());
    let stats = running.observer.stats();
    assert_eq!((stats.revision, stats.compacted), (4, -1));
    assert_eq!((stats.live_keys, stats.history_changes), (1, 3));
    assert_eq!((stats.leases, stats.watchers), (1, 1));
    assert_eq!((stats.commits, stats.committed_requests), (3, 3));
    assert!(stats.longest_commit <= stats.commit_time && !stats.commit_time.is_zero());
    assert!(stats.database_bytes > 0 && stats.used_bytes == stats.history_bytes);
    drop(watch);
    client.lease_revoke(lease).await.expect("revoke");
    // The server notices a closed stream, and gives back the bytes of a request, after the client has its answer.
    let settled = async {
        loop {
            let stats = running.observer.stats();
            if (stats.watchers, stats.waiting_bytes) == (0, 0) {
                return stats;
            }
            tokio::task::yield_now().await;
        }
    };
    let stats = within(settled).await;
    assert_eq!((stats.live_keys, stats.leases), (0, 0));
    running.stop().await;
}
