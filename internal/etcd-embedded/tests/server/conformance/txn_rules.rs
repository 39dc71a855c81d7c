//! Transactions that are refused as a whole.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
};
use tonic::Code;

use super::{place, revision};
use crate::harness::{refusal, refused};

const LIMIT: usize = 128;

async fn outcome(client: &mut Client, txn: Txn) -> (Code, String) {
    refusal(client.txn(txn).await)
}

fn put(key: &str) -> TxnOp {
    TxnOp::put(key, "1", None)
}

fn delete_from(key: &str, end: &str) -> TxnOp {
    TxnOp::delete(key, Some(DeleteOptions::new().with_range(end)))
}

fn nested(success: Vec<TxnOp>, failure: Vec<TxnOp>) -> TxnOp {
    TxnOp::txn(Txn::new().and_then(success).or_else(failure))
}

pub(super) async fn refuses_to_put_a_key_twice(mut client: Client) {
    let place = place(&mut client, "twice").await;
    let [a, b, c] = ["a", "b", "c"].map(|name| format!("{place}{name}"));
    let (a, b, c) = (a.as_str(), b.as_str(), c.as_str());
    let duplicate = refused(
        Code::InvalidArgument,
        "etcdserver: duplicate key given in txn request",
    );
    for operations in [
        vec![put(a), put(a)],
        vec![put(b), delete_from(a, c)],
        vec![delete_from(a, c), put(b)],
        vec![TxnOp::delete(a, None), put(a)],
        vec![put(a), nested(vec![put(a)], vec![])],
        vec![put(a), nested(vec![], vec![put(a)])],
        vec![nested(vec![put(a)], vec![]), nested(vec![], vec![put(a)])],
        vec![delete_from(a, c), nested(vec![put(b)], vec![])],
        vec![nested(vec![delete_from(a, c)], vec![]), put(b)],
        vec![
            nested(vec![delete_from(a, c)], vec![]),
            nested(vec![put(b)], vec![]),
        ],
    ] {
        let success = Txn::new().and_then(operations.clone());
        assert_eq!(
            outcome(&mut client, success).await,
            duplicate,
            "{operations:?}"
        );
        // Also in the branch that is not taken.
        let failure = Txn::new().or_else(operations);
        assert_eq!(outcome(&mut client, failure).await, duplicate);
    }
    let got = client
        .get(place, Some(GetOptions::new().with_prefix()))
        .await;
    assert_eq!(got.expect("get").count(), 0);
}

pub(super) async fn allows_what_cannot_happen_together(mut client: Client) {
    let place = place(&mut client, "exclusive").await;
    let [a, b, c] = ["a", "b", "c"].map(|name| format!("{place}{name}"));
    let (a, b, c) = (a.as_str(), b.as_str(), c.as_str());
    for operations in [
        vec![nested(vec![put(a)], vec![put(a)])],
        vec![nested(vec![delete_from(a, c)], vec![put(b)])],
        vec![
            nested(vec![put(b)], vec![]),
            nested(vec![delete_from(a, c)], vec![]),
        ],
        vec![put(c), delete_from(a, c)],
        vec![delete_from(a, c), delete_from(b, c)],
        vec![TxnOp::get(a, None), put(a)],
    ] {
        let txn = Txn::new().and_then(operations.clone());
        client
            .txn(txn)
            .await
            .unwrap_or_else(|error| panic!("{operations:?}: {error}"));
    }
    let both = Txn::new().and_then([put(b)]).or_else([put(b)]);
    client.txn(both).await.expect("txn");
}

pub(super) async fn refuses_too_many_operations(mut client: Client) {
    let place = place(&mut client, "many").await;
    let puts = |count| -> Vec<TxnOp> {
        (0..count)
            .map(|index| put(&format!("{place}{index}")))
            .collect()
    };
    let comparisons = |count| -> Vec<Compare> {
        (0..count)
            .map(|index| Compare::version(format!("{place}{index}"), CompareOp::Equal, 0))
            .collect()
    };
    let too_many = refused(
        Code::InvalidArgument,
        "etcdserver: too many operations in txn request",
    );
    for txn in [
        Txn::new().and_then(puts(LIMIT + 1)),
        Txn::new().or_else(puts(LIMIT + 1)),
        Txn::new().when(comparisons(LIMIT + 1)),
    ] {
        assert_eq!(outcome(&mut client, txn).await, too_many);
    }
    let full = Txn::new()
        .when(comparisons(LIMIT))
        .and_then(puts(LIMIT))
        .or_else(puts(LIMIT));
    assert!(client.txn(full).await.expect("txn").succeeded());
    let options = DeleteOptions::new().with_prefix();
    let deleted = client.delete(place, Some(options)).await.expect("delete");
    assert_eq!(deleted.deleted(), LIMIT as i64);
}

pub(super) async fn nesting_shares_the_limit(mut client: Client) {
    let place = place(&mut client, "nested-many").await;
    let gets = |count| vec![TxnOp::get(place.clone(), None); count];
    let with_nested = |outer, inner| {
        let mut operations = gets(outer - 1);
        operations.push(nested(gets(inner), vec![]));
        Txn::new().and_then(operations)
    };
    client
        .txn(with_nested(LIMIT / 2, LIMIT / 2))
        .await
        .expect("txn");
    assert_eq!(
        outcome(&mut client, with_nested(LIMIT / 2, LIMIT / 2 + 1)).await,
        refused(
            Code::InvalidArgument,
            "etcdserver: too many operations in txn request"
        )
    );
}

pub(super) async fn a_refused_operation_undoes_the_others(mut client: Client) {
    let place = place(&mut client, "atomic").await;
    let key = |name: &str| format!("{place}{name}");
    let before = revision!(client.put(key("old"), "1", None).await.expect("put"));
    let unknown_lease = PutOptions::new().with_lease(77);
    let keeps_value = PutOptions::new().with_ignore_value();
    for (refusing, expected) in [
        (
            TxnOp::put(key("b"), "1", Some(unknown_lease)),
            refused(Code::NotFound, "etcdserver: requested lease not found"),
        ),
        (
            TxnOp::put(key("b"), "", Some(keeps_value)),
            refused(Code::InvalidArgument, "etcdserver: key not found"),
        ),
    ] {
        for refusing in [refusing.clone(), nested(vec![refusing], vec![])] {
            let txn = Txn::new().and_then([
                TxnOp::put(key("a"), "1", None),
                TxnOp::delete(key("old"), None),
                refusing,
            ]);
            assert_eq!(outcome(&mut client, txn).await, expected);
        }
    }
    let prefix = GetOptions::new().with_prefix();
    let got = client.get(place.clone(), Some(prefix)).await.expect("get");
    assert_eq!((got.count(), revision!(got)), (1, before));
    // The branch that is not taken may be impossible.
    let impossible = TxnOp::put(key("b"), "1", Some(PutOptions::new().with_lease(77)));
    let txn = Txn::new().and_then([put(&key("a"))]).or_else([impossible]);
    assert!(client.txn(txn).await.expect("txn").succeeded());
}

pub(super) async fn an_unreadable_revision_undoes_the_others(mut client: Client) {
    let place = place(&mut client, "atomic-range").await;
    let key = |name: &str| format!("{place}{name}");
    let now = revision!(client.put(key("old"), "1", None).await.expect("put"));
    let read_at = |revision| {
        let options = GetOptions::new().with_revision(revision);
        Txn::new().and_then([
            TxnOp::put(key("a"), "1", None),
            TxnOp::get(key("old"), Some(options)),
        ])
    };
    assert_eq!(
        outcome(&mut client, read_at(now + 100)).await,
        refused(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision"
        )
    );
    client.compact(now, None).await.expect("compact");
    assert_eq!(
        outcome(&mut client, read_at(now - 1)).await,
        refused(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted"
        )
    );
    let got = client.get(key("a"), None).await.expect("get");
    assert_eq!((got.count(), revision!(got)), (0, now));
    let done = client.txn(read_at(now)).await.expect("txn");
    let responses = done.op_responses();
    let [_, TxnOpResponse::Get(got)] = responses.as_slice() else {
        panic!("{responses:?}");
    };
    assert_eq!(got.kvs()[0].mod_revision(), now);
}

pub(super) async fn operations_are_checked_like_requests(mut client: Client) {
    let empty = refused(Code::InvalidArgument, "etcdserver: key is not provided");
    for operation in [
        TxnOp::put("", "1", None),
        TxnOp::get("", None),
        TxnOp::delete("", None),
        nested(vec![put("")], vec![]),
    ] {
        let txn = Txn::new().or_else([operation]);
        assert_eq!(outcome(&mut client, txn).await, empty);
    }
    let comparison = Compare::version("", CompareOp::Equal, 0);
    assert_eq!(
        outcome(&mut client, Txn::new().when([comparison])).await,
        empty
    );
    let contradiction = TxnOp::put("a", "1", Some(PutOptions::new().with_ignore_value()));
    assert_eq!(
        outcome(&mut client, Txn::new().and_then([contradiction])).await,
        refused(Code::InvalidArgument, "etcdserver: value is provided")
    );
}
