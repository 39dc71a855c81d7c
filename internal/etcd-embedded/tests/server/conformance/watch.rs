//! Watching.

use etcd_client::{Client, DeleteOptions, Txn, TxnOp, WatchFilterType, WatchOptions, WatchStream};

use super::{place, revision};
use crate::harness::{events, next, spell, within};

/// A watch of everything in `place`, already created.
async fn watch(client: &mut Client, place: &str, options: WatchOptions) -> WatchStream {
    let mut stream = client
        .watch(place, Some(options.with_prefix()))
        .await
        .expect("watch");
    let created = next(&mut stream).await;
    assert!(created.created() && !created.canceled());
    assert!(created.events().is_empty());
    stream
}

async fn put(client: &mut Client, key: String, value: &str) -> i64 {
    revision!(client.put(key, value, None).await.expect("put"))
}

async fn delete(client: &mut Client, key: String) -> i64 {
    revision!(client.delete(key, None).await.expect("delete"))
}

pub(super) async fn delivers_changes_in_order(mut client: Client) {
    let place = place(&mut client, "watch").await;
    let a = format!("{place}a");
    put(&mut client, a.clone(), "before").await;
    let mut stream = watch(&mut client, &place, WatchOptions::new()).await;
    let first = put(&mut client, a.clone(), "1").await;
    let second = delete(&mut client, a.clone()).await;
    let third = put(&mut client, a.clone(), "2").await;
    let responses = events(&mut stream, 3).await;
    assert_eq!(
        spell(&responses),
        [
            format!("put {a}=1 @{first}"),
            format!("delete {a} @{second}"),
            format!("put {a}=2 @{third}"),
        ]
    );
    for response in &responses {
        let last = response.events().last().and_then(|event| event.kv());
        assert!(revision!(response) >= last.expect("not empty").mod_revision());
    }
    let last = responses[responses.len() - 1].events();
    let pair = last[last.len() - 1].kv().expect("a key");
    assert_eq!((pair.create_revision(), pair.version()), (third, 1));
}

pub(super) async fn delivers_the_previous_value_when_asked(mut client: Client) {
    let place = place(&mut client, "watch-previous").await;
    let a = format!("{place}a");
    let mut with = watch(&mut client, &place, WatchOptions::new().with_prev_key()).await;
    let mut without = watch(&mut client, &place, WatchOptions::new()).await;
    put(&mut client, a.clone(), "1").await;
    put(&mut client, a.clone(), "2").await;
    delete(&mut client, a).await;
    let previous = |responses: &[etcd_client::WatchResponse]| -> Vec<Option<Vec<u8>>> {
        let all = responses.iter().flat_map(|response| response.events());
        all.map(|event| event.prev_kv().map(|pair| pair.value().to_vec()))
            .collect()
    };
    assert_eq!(
        previous(&events(&mut with, 3).await),
        [None, Some(b"1".to_vec()), Some(b"2".to_vec())]
    );
    assert_eq!(previous(&events(&mut without, 3).await), [None, None, None]);
}

pub(super) async fn delivers_only_the_range(mut client: Client) {
    let place = place(&mut client, "watch-range").await;
    let key = |name: &str| format!("{place}{name}");
    let mut one = client.watch(key("b"), None).await.expect("watch");
    let span = WatchOptions::new().with_range(key("c"));
    let mut span = client.watch(key("b"), Some(span)).await.expect("watch");
    let from = WatchOptions::new().with_from_key();
    let mut from = client.watch(key("c"), Some(from)).await.expect("watch");
    for stream in [&mut one, &mut span, &mut from] {
        assert!(next(stream).await.created());
    }
    for name in ["a", "b", "ba", "c"] {
        put(&mut client, key(name), name).await;
    }
    let now = put(&mut client, key("b"), "last").await;
    let found = spell(&events(&mut one, 2).await);
    assert!(found[1].ends_with(&format!("b=last @{now}")), "{found:?}");
    assert_eq!(spell(&events(&mut span, 3).await)[2], found[1]);
    assert!(spell(&events(&mut from, 1).await)[0].contains("/c=c"));
}

pub(super) async fn starts_in_the_past(mut client: Client) {
    let place = place(&mut client, "watch-past").await;
    let key = |name: &str| format!("{place}{name}");
    put(&mut client, key("a"), "1").await;
    let start = put(&mut client, key("a"), "2").await;
    let gone = delete(&mut client, key("a")).await;
    let options = WatchOptions::new()
        .with_start_revision(start)
        .with_prev_key();
    let mut stream = watch(&mut client, &place, options).await;
    let responses = events(&mut stream, 2).await;
    assert_eq!(
        spell(&responses),
        [
            format!("put {}=2 @{start}", key("a")),
            format!("delete {} @{gone}", key("a")),
        ]
    );
    let all: Vec<_> = responses.iter().flat_map(|r| r.events()).collect();
    assert_eq!(all[0].prev_kv().expect("not compacted").value(), b"1");
    let live = put(&mut client, key("b"), "3").await;
    assert_eq!(
        spell(&events(&mut stream, 1).await),
        [format!("put {}=3 @{live}", key("b"))]
    );
}

pub(super) async fn starts_in_the_future(mut client: Client) {
    let place = place(&mut client, "watch-future").await;
    let key = format!("{place}a");
    let now = put(&mut client, key.clone(), "0").await;
    let options = WatchOptions::new().with_start_revision(now + 2);
    let mut stream = watch(&mut client, &place, options).await;
    put(&mut client, key.clone(), "1").await;
    let second = put(&mut client, key.clone(), "2").await;
    assert_eq!(
        spell(&events(&mut stream, 1).await),
        [format!("put {key}=2 @{second}")]
    );
}

pub(super) async fn filters_by_kind(mut client: Client) {
    let place = place(&mut client, "watch-filter").await;
    let key = format!("{place}a");
    let only = |filter| WatchOptions::new().with_filters([filter]);
    let mut deletes = watch(&mut client, &place, only(WatchFilterType::NoPut)).await;
    let mut puts = watch(&mut client, &place, only(WatchFilterType::NoDelete)).await;
    let first = put(&mut client, key.clone(), "1").await;
    let gone = delete(&mut client, key.clone()).await;
    let last = put(&mut client, key.clone(), "2").await;
    assert_eq!(
        spell(&events(&mut deletes, 1).await),
        [format!("delete {key} @{gone}")]
    );
    assert_eq!(
        spell(&events(&mut puts, 2).await),
        [
            format!("put {key}=1 @{first}"),
            format!("put {key}=2 @{last}")
        ]
    );
}

pub(super) async fn a_revision_is_one_response(mut client: Client) {
    let place = place(&mut client, "watch-txn").await;
    let mut stream = watch(&mut client, &place, WatchOptions::new()).await;
    let operations: Vec<_> = (0..100)
        .map(|index| TxnOp::put(format!("{place}{index:03}"), "x", None))
        .collect();
    let txn = Txn::new().and_then(operations);
    let at = revision!(client.txn(txn).await.expect("txn"));
    let response = next(&mut stream).await;
    assert_eq!(response.events().len(), 100);
    let everything = DeleteOptions::new().with_prefix();
    let deleted = client.delete(place.clone(), Some(everything)).await;
    assert_eq!(revision!(deleted.expect("delete")), at + 1);
    let response = next(&mut stream).await;
    assert_eq!(response.events().len(), 100);
    // Within a revision in the order of the operations.
    let found = spell(&[response]);
    assert_eq!(found[0], format!("delete {place}000 @{}", at + 1));
    assert_eq!(found[99], format!("delete {place}099 @{}", at + 1));
}

pub(super) async fn many_watchers_share_a_stream(mut client: Client) {
    let place = place(&mut client, "watch-many").await;
    let key = |name: &str| format!("{place}{name}");
    let options = WatchOptions::new().with_watch_id(7);
    let mut stream = client.watch(key("a"), Some(options)).await.expect("watch");
    assert_eq!(next(&mut stream).await.watch_id(), 7);
    stream.watch(key("b"), None).await.expect("watch");
    let created = next(&mut stream).await;
    assert!(created.created());
    let second = created.watch_id();
    assert_ne!(second, 7);

    put(&mut client, key("a"), "1").await;
    assert_eq!(next(&mut stream).await.watch_id(), 7);
    put(&mut client, key("b"), "1").await;
    assert_eq!(next(&mut stream).await.watch_id(), second);

    stream.cancel(7).await.expect("cancel");
    let canceled = next(&mut stream).await;
    assert!(canceled.canceled());
    assert_eq!((canceled.watch_id(), canceled.compact_revision()), (7, 0));
    put(&mut client, key("a"), "2").await;
    put(&mut client, key("b"), "2").await;
    let response = next(&mut stream).await;
    assert_eq!(response.watch_id(), second);
    assert!(spell(&[response])[0].contains("/b=2"));
}

pub(super) async fn refuses_a_used_identifier_and_an_empty_range(mut client: Client) {
    let place = place(&mut client, "watch-refused").await;
    let key = |name: &str| format!("{place}{name}");
    let options = || WatchOptions::new().with_watch_id(3);
    let mut stream = client
        .watch(key("a"), Some(options()))
        .await
        .expect("watch");
    assert!(next(&mut stream).await.created());
    stream
        .watch(key("b"), Some(options()))
        .await
        .expect("watch");
    let duplicate = next(&mut stream).await;
    assert!(duplicate.created() && duplicate.canceled());
    assert_eq!(duplicate.watch_id(), -1);

    let inverted = WatchOptions::new().with_range(key("a"));
    stream.watch(key("b"), Some(inverted)).await.expect("watch");
    let empty = next(&mut stream).await;
    assert!(empty.created() && empty.canceled());
    // The first watcher is still there.
    put(&mut client, key("a"), "1").await;
    assert_eq!(next(&mut stream).await.watch_id(), 3);
}

pub(super) async fn is_cancelled_when_its_start_is_compacted(mut client: Client) {
    let place = place(&mut client, "watch-compacted").await;
    let key = format!("{place}a");
    let start = put(&mut client, key.clone(), "1").await;
    put(&mut client, key.clone(), "2").await;
    let compacted = put(&mut client, key.clone(), "3").await;
    let last = put(&mut client, key.clone(), "4").await;
    client.compact(compacted, None).await.expect("compact");

    let options = WatchOptions::new().with_start_revision(start);
    let mut stream = client
        .watch(key.clone(), Some(options))
        .await
        .expect("watch");
    assert!(next(&mut stream).await.created());
    let canceled = next(&mut stream).await;
    assert!(canceled.canceled());
    assert_eq!(canceled.compact_revision(), compacted);
    assert_eq!(canceled.cancel_reason(), "");

    let options = WatchOptions::new().with_start_revision(compacted);
    let mut stream = watch(&mut client, &place, options).await;
    assert_eq!(
        spell(&events(&mut stream, 2).await),
        [
            format!("put {key}=3 @{compacted}"),
            format!("put {key}=4 @{last}")
        ]
    );
}

pub(super) async fn answers_progress_after_the_events(mut client: Client) {
    let place = place(&mut client, "watch-progress").await;
    let key = format!("{place}a");
    let mut stream = watch(&mut client, &place, WatchOptions::new()).await;
    put(&mut client, key.clone(), "1").await;
    events(&mut stream, 1).await;
    let elsewhere = put(&mut client, "conformance/elsewhere".to_owned(), "1").await;
    stream.request_progress().await.expect("request");
    let progress = next(&mut stream).await;
    assert_eq!((progress.watch_id(), progress.events().len()), (-1, 0));
    assert!(revision!(progress) >= elsewhere);
}

pub(super) async fn catches_up_with_a_long_history(mut client: Client) {
    const TRANSACTIONS: usize = 60;
    const KEYS: usize = 20;
    let place = place(&mut client, "watch-long").await;
    let value = "x".repeat(2_000);
    let mut revisions = Vec::new();
    for _ in 0..TRANSACTIONS {
        let operations: Vec<_> = (0..KEYS)
            .map(|index| TxnOp::put(format!("{place}{index}"), value.clone(), None))
            .collect();
        let txn = client.txn(Txn::new().and_then(operations)).await;
        revisions.push(revision!(txn.expect("txn")));
    }
    let options = WatchOptions::new().with_start_revision(revisions[0]);
    let mut stream = watch(&mut client, &place, options).await;
    let responses = events(&mut stream, TRANSACTIONS * KEYS).await;
    let mut found = Vec::new();
    for response in &responses {
        let mut in_response: Vec<_> = response
            .events()
            .iter()
            .map(|event| event.kv().expect("a key").mod_revision())
            .collect();
        in_response.dedup();
        found.extend(in_response);
    }
    // A revision that was split across responses would be here twice.
    assert_eq!(found, revisions);
}

/// Puts `count` values of `bytes` and deletes them in one revision, whose events have the values.
async fn delete_at_once(client: &mut Client, place: &str, count: usize, bytes: usize) -> i64 {
    for index in 0..count {
        let put = client.put(format!("{place}{index}"), vec![b'x'; bytes], None);
        put.await.expect("put");
    }
    let everything = DeleteOptions::new().with_prefix();
    let deleted = client.delete(place, Some(everything)).await;
    revision!(deleted.expect("delete"))
}

pub(super) async fn a_large_revision_is_fragmented_when_asked(mut client: Client) {
    const COUNT: usize = 4;
    const BYTES: usize = 900 << 10;
    let place = place(&mut client, "watch-fragment").await;
    let at = delete_at_once(&mut client, &place, COUNT, BYTES).await;
    let options = WatchOptions::new()
        .with_start_revision(at)
        .with_prev_key()
        .with_fragment();
    let mut stream = watch(&mut client, &place, options.clone()).await;
    let responses = events(&mut stream, COUNT).await;
    let shape: Vec<_> = responses
        .iter()
        .map(|response| (response.events().len(), response.0.fragment))
        .collect();
    assert_eq!(shape, [(2, true), (2, false)]);
    let found = spell(&responses);
    assert_eq!(found[0], format!("delete {place}0 @{at}"));
    assert_eq!(found[3], format!("delete {place}3 @{at}"));
    let previous = responses[1].events()[1].prev_kv();
    assert_eq!(previous.expect("asked for").value().len(), BYTES);
    // What is small is not split, and follows the last fragment.
    put(&mut client, format!("{place}a"), "1").await;
    let small = next(&mut stream).await;
    assert_eq!((small.events().len(), small.0.fragment), (1, false));
}

/// A message may have 4 MiB, says the client.
pub(super) async fn what_is_too_large_for_a_client_reaches_it_in_fragments(mut client: Client) {
    const COUNT: usize = 5;
    let place = place(&mut client, "watch-too-large").await;
    let at = delete_at_once(&mut client, &place, COUNT, 1 << 20).await;
    let options = WatchOptions::new().with_start_revision(at).with_prev_key();
    let mut whole = watch(&mut client, &place, options.clone()).await;
    let error = within(whole.message()).await.expect_err("it is too large");
    assert!(
        error
            .to_string()
            .contains("decoded message length too large"),
        "{error}"
    );
    let mut stream = watch(&mut client, &place, options.with_fragment()).await;
    let responses = events(&mut stream, COUNT).await;
    assert!(
        responses
            .iter()
            .all(|response| response.events().len() == 1)
    );
    assert_eq!(spell(&responses)[4], format!("delete {place}4 @{at}"));
}
