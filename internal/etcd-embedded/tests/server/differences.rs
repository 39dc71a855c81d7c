//! Where the embedded server is meant to differ from etcd 3.4.

use etcd_client::{DeleteOptions, Txn, TxnOp, WatchOptions};
use tonic::Code;

use crate::conformance::revision;
use crate::harness::{Running, events, next, refusal, refused, spell};

/// etcd compares the end of such a range like any other, so it does not see that the range contains the key.
#[tokio::test]
async fn a_delete_without_an_end_and_a_put_exclude_each_other() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    let everything = DeleteOptions::new().with_range(vec![0]);
    let delete = TxnOp::delete("a", Some(everything));
    let txn = Txn::new().and_then([delete.clone(), TxnOp::put("b", "1", None)]);
    assert_eq!(
        refusal(client.txn(txn).await),
        refused(
            Code::InvalidArgument,
            "etcdserver: duplicate key given in txn request"
        )
    );
    // Before the range there is no contradiction, nor in a range that contains nothing.
    let inverted = TxnOp::delete("c", Some(DeleteOptions::new().with_range("b")));
    let txn = Txn::new().and_then([delete, TxnOp::put("\0", "1", None), inverted]);
    assert!(client.txn(txn).await.expect("txn").succeeded());
    running.stop().await;
}

/// etcd 3.4 forgets the deletion, and who resumes there never learns of it.
#[tokio::test]
async fn a_deletion_at_the_compaction_can_still_be_watched() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let running = Running::start(dir.path()).await;
    let mut client = running.client().await;
    client.put("a", "1", None).await.expect("put");
    let at = revision!(client.delete("a", None).await.expect("delete"));
    client.put("b", "1", None).await.expect("put");
    client.compact(at, None).await.expect("compact");
    let options = WatchOptions::new().with_start_revision(at);
    let mut stream = client.watch("a", Some(options)).await.expect("watch");
    assert!(next(&mut stream).await.created());
    let found = spell(&events(&mut stream, 1).await);
    assert_eq!(found, [format!("delete a @{at}")]);
    running.stop().await;
}
