//! Transactions: comparing, branching, one revision.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
};

use super::{place, revision};

/// Whether all comparisons hold.
async fn holds(client: &mut Client, comparisons: impl Into<Vec<Compare>>) -> bool {
    let txn = Txn::new().when(comparisons);
    client.txn(txn).await.expect("txn").succeeded()
}

pub(super) async fn compares_every_target_with_every_result(mut client: Client) {
    let key = place(&mut client, "compare").await + "a";
    let lease = client.lease_grant(600, None).await.expect("grant").id();
    let bound = || Some(PutOptions::new().with_lease(lease));
    let created = revision!(client.put(key.clone(), "1", bound()).await.expect("put"));
    let modified = revision!(client.put(key.clone(), "m", bound()).await.expect("put"));

    for (result, less, same, more) in [
        (CompareOp::Equal, false, true, false),
        (CompareOp::NotEqual, true, false, true),
        (CompareOp::Greater, true, false, false),
        (CompareOp::Less, false, false, true),
    ] {
        for (offset, expected) in [(-1, less), (0, same), (1, more)] {
            let value = match offset {
                -1 => "a",
                0 => "m",
                _ => "z",
            };
            for comparison in [
                Compare::version(key.clone(), result, 2 + offset),
                Compare::create_revision(key.clone(), result, created + offset),
                Compare::mod_revision(key.clone(), result, modified + offset),
                Compare::lease(key.clone(), result, lease + offset),
                Compare::value(key.clone(), result, value),
            ] {
                assert_eq!(
                    holds(&mut client, [comparison.clone()]).await,
                    expected,
                    "{comparison:?}"
                );
            }
        }
    }
    client.lease_revoke(lease).await.expect("revoke");
}

pub(super) async fn a_missing_key_has_zeroes_but_no_value(mut client: Client) {
    let key = place(&mut client, "missing").await + "a";
    let equal = CompareOp::Equal;
    assert!(holds(&mut client, [Compare::version(key.clone(), equal, 0)]).await);
    assert!(
        holds(
            &mut client,
            [Compare::create_revision(key.clone(), equal, 0)]
        )
        .await
    );
    assert!(holds(&mut client, [Compare::mod_revision(key.clone(), equal, 0)]).await);
    assert!(holds(&mut client, [Compare::lease(key.clone(), equal, 0)]).await);
    assert!(!holds(&mut client, [Compare::value(key.clone(), equal, "")]).await);
    let differs = Compare::value(key.clone(), CompareOp::NotEqual, "x");
    assert!(!holds(&mut client, [differs]).await);

    client.put(key.clone(), "1", None).await.expect("put");
    client.delete(key.clone(), None).await.expect("delete");
    assert!(holds(&mut client, [Compare::create_revision(key, equal, 0)]).await);
    assert!(holds(&mut client, []).await);
}

pub(super) async fn compares_every_key_of_a_range(mut client: Client) {
    let place = place(&mut client, "compare-range").await;
    let at_least = |version: i64| {
        let comparison = Compare::version(place.clone(), CompareOp::Greater, version - 1);
        [comparison.with_prefix()]
    };
    assert!(!holds(&mut client, at_least(1)).await);
    let absent = Compare::create_revision(place.clone(), CompareOp::Equal, 0).with_prefix();
    assert!(holds(&mut client, [absent.clone()]).await);

    for name in ["a", "b", "b"] {
        let put = client.put(format!("{place}{name}"), name, None).await;
        put.expect("put");
    }
    assert!(holds(&mut client, at_least(1)).await);
    assert!(!holds(&mut client, at_least(2)).await);
    assert!(!holds(&mut client, [absent]).await);
    let from_b = Compare::version(format!("{place}b"), CompareOp::Equal, 2);
    let span = from_b.with_range(format!("{place}c"));
    assert!(holds(&mut client, [span]).await);
}

pub(super) async fn carries_out_one_branch_in_one_revision(mut client: Client) {
    let place = place(&mut client, "branch").await;
    let key = |name: &str| format!("{place}{name}");
    let before = revision!(client.put(key("old"), "1", None).await.expect("put"));
    let txn = |version| {
        Txn::new()
            .when([
                Compare::version(key("old"), CompareOp::Equal, 1),
                Compare::version(key("a"), CompareOp::Equal, version),
            ])
            .and_then([
                TxnOp::put(key("a"), "1", None),
                TxnOp::put(key("b"), "2", None),
                TxnOp::delete(key("old"), Some(DeleteOptions::new().with_prev_key())),
            ])
            .or_else([TxnOp::get(key("old"), None)])
    };
    let failed = client.txn(txn(9)).await.expect("txn");
    assert!(!failed.succeeded());
    assert_eq!(revision!(failed), before);
    let responses = failed.op_responses();
    let [TxnOpResponse::Get(got)] = responses.as_slice() else {
        panic!("{responses:?}");
    };
    assert_eq!(got.kvs()[0].value(), b"1");

    let done = client.txn(txn(0)).await.expect("txn");
    assert!(done.succeeded());
    assert_eq!(revision!(done), before + 1);
    let responses = done.op_responses();
    let [
        TxnOpResponse::Put(first),
        TxnOpResponse::Put(_),
        TxnOpResponse::Delete(deleted),
    ] = responses.as_slice()
    else {
        panic!("{responses:?}");
    };
    assert_eq!(revision!(first), before + 1);
    assert_eq!(
        (deleted.deleted(), deleted.prev_kvs()[0].value()),
        (1, &b"1"[..])
    );
    let prefix = GetOptions::new().with_prefix();
    let got = client.get(place, Some(prefix)).await.expect("get");
    assert_eq!(revision!(got), before + 1);
    let revisions: Vec<_> = got.kvs().iter().map(|pair| pair.mod_revision()).collect();
    assert_eq!(revisions, [before + 1, before + 1]);
}

pub(super) async fn a_range_sees_what_the_transaction_wrote_before(mut client: Client) {
    let place = place(&mut client, "own-writes").await;
    let key = |name: &str| format!("{place}{name}");
    client.put(key("b"), "1", None).await.expect("put");
    let count = || {
        let options = GetOptions::new().with_prefix().with_count_only();
        TxnOp::get(place.clone(), Some(options))
    };
    let txn = Txn::new().and_then([
        count(),
        TxnOp::put(key("a"), "1", None),
        count(),
        TxnOp::delete(key("b"), None),
        count(),
    ]);
    let done = client.txn(txn).await.expect("txn");
    let counts: Vec<_> = done
        .op_responses()
        .into_iter()
        .filter_map(|response| match response {
            TxnOpResponse::Get(got) => Some(got.count()),
            _ => None,
        })
        .collect();
    assert_eq!(counts, [1, 2, 1]);
}

pub(super) async fn without_a_write_there_is_no_revision(mut client: Client) {
    let key = place(&mut client, "read-only").await + "a";
    let before = revision!(client.put(key.clone(), "1", None).await.expect("put"));
    let missing = format!("{key}-missing");
    let txn = Txn::new().and_then([TxnOp::get(key.clone(), None), TxnOp::delete(missing, None)]);
    let done = client.txn(txn).await.expect("txn");
    assert_eq!((done.succeeded(), revision!(done)), (true, before));
    let next = revision!(client.put(key, "2", None).await.expect("put"));
    assert_eq!(next, before + 1);
}

pub(super) async fn nested_comparisons_see_the_state_before(mut client: Client) {
    let place = place(&mut client, "nested").await;
    let key = |name: &str| format!("{place}{name}");
    let nested = Txn::new()
        .when([Compare::version(key("a"), CompareOp::Equal, 0)])
        .and_then([TxnOp::put(key("b"), "a was missing", None)])
        .or_else([TxnOp::put(key("b"), "a was there", None)]);
    let outer = Txn::new().and_then([
        TxnOp::put(key("a"), "1", None),
        TxnOp::txn(nested.clone()),
        TxnOp::get(key("b"), None),
    ]);
    let done = client.txn(outer.clone()).await.expect("txn");
    let responses = done.op_responses();
    let [_, TxnOpResponse::Txn(inner), TxnOpResponse::Get(got)] = responses.as_slice() else {
        panic!("{responses:?}");
    };
    assert!(inner.succeeded());
    assert_eq!(got.kvs()[0].value(), b"a was missing");
    assert_eq!(got.kvs()[0].mod_revision(), revision!(done));

    client.txn(outer_without_put(nested)).await.expect("txn");
    let got = client.get(key("b"), None).await.expect("get");
    assert_eq!(got.kvs()[0].value(), b"a was there");
}

fn outer_without_put(nested: Txn) -> Txn {
    Txn::new().and_then([TxnOp::txn(nested)])
}

pub(super) async fn of_concurrent_swaps_one_wins(mut client: Client) {
    const CLIENTS: usize = 8;
    const SWAPS: usize = 10;
    let key = place(&mut client, "swaps").await + "counter";
    client.put(key.clone(), "0", None).await.expect("put");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, key) = (client.clone(), key.clone());
        tasks.spawn(async move { swap_until_won(client, key, SWAPS).await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no task fails");
    }
    let got = client.get(key, None).await.expect("get");
    let swaps = CLIENTS * SWAPS;
    assert_eq!(got.kvs()[0].value(), swaps.to_string().as_bytes());
    assert_eq!(got.kvs()[0].version() as usize, swaps + 1);
}

/// Raises the counter by one, `times` times.
async fn swap_until_won(mut client: Client, key: String, times: usize) {
    let mut won = 0;
    while won < times {
        let got = client.get(key.clone(), None).await.expect("get");
        let pair = &got.kvs()[0];
        let count: usize = pair.value_str().expect("text").parse().expect("a number");
        let unchanged = Compare::mod_revision(key.clone(), CompareOp::Equal, pair.mod_revision());
        let raise = TxnOp::put(key.clone(), (count + 1).to_string(), None);
        let txn = Txn::new().when([unchanged]).and_then([raise]);
        if client.txn(txn).await.expect("txn").succeeded() {
            won += 1;
        }
    }
}
