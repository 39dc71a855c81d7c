//! Putting, deleting, compacting.

use etcd_client::{Client, DeleteOptions, GetOptions, PutOptions};
use tonic::Code;

use super::{place, revision};
use crate::harness::{refusal, refused};

pub(super) async fn a_key_tells_its_revisions_and_version(mut client: Client) {
    let key = place(&mut client, "versions").await + "a";
    let first = revision!(client.put(key.clone(), "1", None).await.expect("put"));
    let second = revision!(client.put(key.clone(), "2", None).await.expect("put"));
    assert_eq!(second, first + 1);
    let got = client.get(key.clone(), None).await.expect("get");
    assert_eq!(revision!(got), second);
    let pair = &got.kvs()[0];
    assert_eq!((pair.key(), pair.value()), (key.as_bytes(), &b"2"[..]));
    assert_eq!(
        (pair.create_revision(), pair.mod_revision(), pair.version()),
        (first, second, 2)
    );
    assert_eq!(pair.lease(), 0);

    client.delete(key.clone(), None).await.expect("delete");
    assert!(
        client
            .get(key.clone(), None)
            .await
            .expect("get")
            .kvs()
            .is_empty()
    );
    let again = revision!(client.put(key.clone(), "3", None).await.expect("put"));
    let got = client.get(key, None).await.expect("get");
    let pair = &got.kvs()[0];
    assert_eq!((pair.create_revision(), pair.version()), (again, 1));
}

pub(super) async fn put_answers_the_previous_value_when_asked(mut client: Client) {
    let key = place(&mut client, "previous").await + "a";
    let options = || Some(PutOptions::new().with_prev_key());
    let first = client.put(key.clone(), "1", options()).await.expect("put");
    assert!(first.prev_key().is_none());
    let second = client.put(key.clone(), "2", options()).await.expect("put");
    let previous = second.prev_key().expect("there was a value");
    assert_eq!(previous.value(), b"1");
    assert_eq!(previous.mod_revision(), revision!(first));
    let third = client.put(key, "3", None).await.expect("put");
    assert!(third.prev_key().is_none());
}

pub(super) async fn put_can_keep_the_value_or_the_lease(mut client: Client) {
    let key = place(&mut client, "ignore").await + "a";
    let lease = client.lease_grant(600, None).await.expect("grant").id();
    let bound = PutOptions::new().with_lease(lease);
    client
        .put(key.clone(), "1", Some(bound))
        .await
        .expect("put");

    let keep_lease = PutOptions::new().with_ignore_lease();
    client
        .put(key.clone(), "2", Some(keep_lease))
        .await
        .expect("put");
    let got = client.get(key.clone(), None).await.expect("get");
    assert_eq!(
        (got.kvs()[0].value(), got.kvs()[0].lease()),
        (&b"2"[..], lease)
    );

    let keep_value = PutOptions::new().with_ignore_value();
    client
        .put(key.clone(), "", Some(keep_value))
        .await
        .expect("put");
    let got = client.get(key, None).await.expect("get");
    assert_eq!((got.kvs()[0].value(), got.kvs()[0].lease()), (&b"2"[..], 0));
    assert_eq!(got.kvs()[0].version(), 3);
    client.lease_revoke(lease).await.expect("revoke");
}

pub(super) async fn put_refuses_contradictions(mut client: Client) {
    let key = place(&mut client, "contradictions").await + "a";
    let keep_value = PutOptions::new().with_ignore_value();
    let keep_lease = PutOptions::new().with_ignore_lease();
    assert_eq!(
        refusal(client.put(key.clone(), "1", Some(keep_value.clone())).await),
        refused(Code::InvalidArgument, "etcdserver: value is provided")
    );
    assert_eq!(
        refusal(
            client
                .put(key.clone(), "1", Some(keep_lease.clone().with_lease(1)))
                .await
        ),
        refused(Code::InvalidArgument, "etcdserver: lease is provided")
    );
    for options in [keep_value, keep_lease] {
        assert_eq!(
            refusal(client.put(key.clone(), "", Some(options)).await),
            refused(Code::InvalidArgument, "etcdserver: key not found")
        );
    }
    assert_eq!(
        refusal(
            client
                .put(key, "1", Some(PutOptions::new().with_lease(77)))
                .await
        ),
        refused(Code::NotFound, "etcdserver: requested lease not found")
    );
}

pub(super) async fn deletes_a_range_and_answers_what_was_there(mut client: Client) {
    let place = place(&mut client, "delete").await;
    for name in ["a", "b", "c"] {
        client
            .put(format!("{place}{name}"), name, None)
            .await
            .expect("put");
    }
    let options = DeleteOptions::new()
        .with_range(format!("{place}c"))
        .with_prev_key();
    let before = revision!(client.get("x", None).await.expect("get"));
    let deleted = client
        .delete(format!("{place}a"), Some(options))
        .await
        .expect("delete");
    assert_eq!((deleted.deleted(), revision!(deleted)), (2, before + 1));
    let values: Vec<_> = deleted.prev_kvs().iter().map(|pair| pair.value()).collect();
    assert_eq!(values, [b"a", b"b"]);

    let prefix = DeleteOptions::new().with_prefix();
    let deleted = client.delete(place, Some(prefix)).await.expect("delete");
    assert_eq!(deleted.deleted(), 1);
    assert!(deleted.prev_kvs().is_empty());
}

pub(super) async fn deleting_nothing_is_no_revision(mut client: Client) {
    let place = place(&mut client, "nothing").await;
    let before = revision!(client.get("x", None).await.expect("get"));
    let deleted = client.delete(place, None).await.expect("delete");
    assert_eq!((deleted.deleted(), revision!(deleted)), (0, before));
}

pub(super) async fn refuses_an_empty_key(mut client: Client) {
    let expected = refused(Code::InvalidArgument, "etcdserver: key is not provided");
    assert_eq!(refusal(client.put("", "1", None).await), expected);
    assert_eq!(refusal(client.get("", None).await), expected);
    assert_eq!(refusal(client.delete("", None).await), expected);
}

pub(super) async fn refuses_a_request_that_is_too_large(mut client: Client) {
    let key = place(&mut client, "large").await + "a";
    let limit = 1_536 * 1_024;
    client
        .put(key.clone(), vec![b'x'; limit - 4_096], None)
        .await
        .expect("put");
    assert_eq!(
        refusal(client.put(key.clone(), vec![b'x'; limit + 1], None).await),
        refused(Code::InvalidArgument, "etcdserver: request is too large")
    );
    client.delete(key, None).await.expect("delete");
}

pub(super) async fn compaction_forgets_the_past(mut client: Client) {
    let place = place(&mut client, "compaction").await;
    let mut revisions = Vec::new();
    for value in ["1", "2", "3"] {
        let put = client.put(format!("{place}a"), value, None).await;
        revisions.push(revision!(put.expect("put")));
    }
    client
        .put(format!("{place}gone"), "1", None)
        .await
        .expect("put");
    let deleted = client.delete(format!("{place}gone"), None).await;
    let last = revision!(deleted.expect("delete"));
    client.compact(revisions[1], None).await.expect("compact");

    let at = |revision| Some(GetOptions::new().with_revision(revision));
    assert_eq!(
        refusal(client.get(format!("{place}a"), at(revisions[0])).await),
        refused(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted"
        )
    );
    for (index, value) in [(1, b"2"), (2, b"3")] {
        let got = client
            .get(format!("{place}a"), at(revisions[index]))
            .await
            .expect("get");
        assert_eq!(got.kvs()[0].value(), value);
        assert_eq!(got.kvs()[0].create_revision(), revisions[0]);
    }
    client.compact(last, None).await.expect("compact");
    let got = client.get(format!("{place}a"), None).await.expect("get");
    assert_eq!(got.kvs()[0].version(), 3);
    let gone = client.get(format!("{place}gone"), None).await.expect("get");
    assert_eq!(gone.count(), 0);
}

pub(super) async fn compaction_refuses_the_past_and_the_future(mut client: Client) {
    let key = place(&mut client, "compactions").await + "a";
    let now = revision!(client.put(key, "1", None).await.expect("put"));
    client.compact(now, None).await.expect("compact");
    for past in [now, now - 1] {
        assert_eq!(
            refusal(client.compact(past, None).await),
            refused(
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted"
            )
        );
    }
    assert_eq!(
        refusal(client.compact(now + 100, None).await),
        refused(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision"
        )
    );
}
