//! Leases.

use etcd_client::{
    Client, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions, WatchOptions,
};
use tonic::Code;

use super::{place, revision};
use crate::harness::{events, next, refusal, refused, spell, within};

async fn grant(client: &mut Client, ttl: i64) -> i64 {
    client.lease_grant(ttl, None).await.expect("grant").id()
}

async fn put(client: &mut Client, key: &str, lease: i64) -> i64 {
    let options = PutOptions::new().with_lease(lease);
    revision!(client.put(key, "1", Some(options)).await.expect("put"))
}

async fn keys_of(client: &mut Client, lease: i64) -> Vec<String> {
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let told = client.lease_time_to_live(lease, Some(options)).await;
    let mut keys: Vec<_> = told
        .expect("time to live")
        .keys()
        .iter()
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect();
    keys.sort();
    keys
}

pub(super) async fn grants_under_a_given_or_a_new_identifier(mut client: Client) {
    let id = 0x5eed_0001;
    let _ = client.lease_revoke(id).await;
    let options = LeaseGrantOptions::new().with_id(id);
    let granted = client.lease_grant(600, Some(options)).await.expect("grant");
    assert_eq!((granted.id(), granted.ttl()), (id, 600));
    let first = grant(&mut client, 600).await;
    let second = grant(&mut client, 600).await;
    assert!(first > 0 && second > 0 && first != second);
    for lease in [id, first, second] {
        client.lease_revoke(lease).await.expect("revoke");
    }
}

pub(super) async fn refuses_a_used_identifier_and_an_endless_time(mut client: Client) {
    let lease = grant(&mut client, 600).await;
    let options = LeaseGrantOptions::new().with_id(lease);
    assert_eq!(
        refusal(client.lease_grant(600, Some(options)).await),
        refused(Code::FailedPrecondition, "etcdserver: lease already exists")
    );
    assert_eq!(
        refusal(client.lease_grant(9_000_000_001, None).await),
        refused(Code::OutOfRange, "etcdserver: too large lease TTL")
    );
    client.lease_revoke(lease).await.expect("revoke");
}

pub(super) async fn revoking_deletes_the_keys_in_one_revision(mut client: Client) {
    let place = place(&mut client, "revoke").await;
    let lease = grant(&mut client, 600).await;
    for name in ["b", "a", "c"] {
        put(&mut client, &format!("{place}{name}"), lease).await;
    }
    client
        .delete(format!("{place}c"), None)
        .await
        .expect("delete");
    let options = WatchOptions::new().with_prefix();
    let mut stream = client
        .watch(place.clone(), Some(options))
        .await
        .expect("watch");
    assert!(next(&mut stream).await.created());
    let revoked = client.lease_revoke(lease).await.expect("revoke");
    let at = revision!(revoked);
    let responses = events(&mut stream, 2).await;
    assert_eq!(responses.len(), 1);
    assert_eq!(
        spell(&responses),
        [
            format!("delete {place}a @{at}"),
            format!("delete {place}b @{at}")
        ]
    );
    let got = client
        .get(place, Some(GetOptions::new().with_prefix()))
        .await
        .expect("get");
    assert_eq!((got.count(), revision!(got)), (0, at));
}

pub(super) async fn an_unknown_lease_is_refused(mut client: Client) {
    let unknown = refused(Code::NotFound, "etcdserver: requested lease not found");
    let lease = grant(&mut client, 600).await;
    client.lease_revoke(lease).await.expect("revoke");
    assert_eq!(refusal(client.lease_revoke(lease).await), unknown);
    let options = PutOptions::new().with_lease(lease);
    assert_eq!(refusal(client.put("x", "1", Some(options)).await), unknown);
    let told = client.lease_time_to_live(lease, None).await.expect("told");
    assert_eq!((told.id(), told.ttl(), told.granted_ttl()), (lease, -1, 0));
}

pub(super) async fn tells_the_time_left_and_the_keys(mut client: Client) {
    let place = place(&mut client, "time-to-live").await;
    let lease = grant(&mut client, 600).await;
    for name in ["a", "b"] {
        put(&mut client, &format!("{place}{name}"), lease).await;
    }
    let told = client.lease_time_to_live(lease, None).await.expect("told");
    assert_eq!((told.id(), told.granted_ttl()), (lease, 600));
    assert!((500..=600).contains(&told.ttl()), "{}", told.ttl());
    assert!(told.keys().is_empty());
    assert_eq!(
        keys_of(&mut client, lease).await,
        [format!("{place}a"), format!("{place}b")]
    );
    client.lease_revoke(lease).await.expect("revoke");
}

pub(super) async fn lists_all(mut client: Client) {
    let granted = [grant(&mut client, 600).await, grant(&mut client, 600).await];
    let listed = client.leases().await.expect("leases");
    let ids: Vec<_> = listed.leases().iter().map(|lease| lease.id()).collect();
    for lease in granted {
        assert!(ids.contains(&lease));
        client.lease_revoke(lease).await.expect("revoke");
    }
    let listed = client.leases().await.expect("leases");
    assert!(
        !listed
            .leases()
            .iter()
            .any(|lease| granted.contains(&lease.id()))
    );
}

pub(super) async fn a_key_belongs_to_its_last_lease(mut client: Client) {
    let place = place(&mut client, "rebind").await;
    let [moved, freed, again] = ["moved", "freed", "again"].map(|name| format!("{place}{name}"));
    let first = grant(&mut client, 600).await;
    let second = grant(&mut client, 600).await;
    for key in [&moved, &freed, &again] {
        put(&mut client, key, first).await;
    }
    put(&mut client, &moved, second).await;
    client.put(freed.clone(), "2", None).await.expect("put");
    client.delete(again.clone(), None).await.expect("delete");
    client.put(again.clone(), "2", None).await.expect("put");
    assert!(keys_of(&mut client, first).await.is_empty());
    assert_eq!(
        keys_of(&mut client, second).await,
        std::slice::from_ref(&moved)
    );

    let before = revision!(client.get("x", None).await.expect("get"));
    let revoked = client.lease_revoke(first).await.expect("revoke");
    assert_eq!(revision!(revoked), before);
    let got = client.get(moved.clone(), None).await.expect("get");
    assert_eq!(got.kvs()[0].lease(), second);
    client.lease_revoke(second).await.expect("revoke");
    for (key, count) in [(moved, 0), (freed, 1), (again, 1)] {
        assert_eq!(client.get(key, None).await.expect("get").count(), count);
    }
}

pub(super) async fn keeping_alive_answers_the_time_to_live(mut client: Client) {
    let lease = grant(&mut client, 600).await;
    let (mut keeper, mut stream) = client.lease_keep_alive(lease).await.expect("keep alive");
    for _ in 0..2 {
        keeper.keep_alive().await.expect("request");
        let answer = within(stream.message()).await.expect("no error");
        let answer = answer.expect("the stream goes on");
        assert_eq!((answer.id(), answer.ttl()), (lease, 600));
    }
    client.lease_revoke(lease).await.expect("revoke");
    keeper.keep_alive().await.expect("request");
    let answer = within(stream.message()).await.expect("no error");
    assert_eq!(answer.expect("the stream goes on").ttl(), 0);
    assert!(client.lease_keep_alive(lease).await.is_err());
}

pub(super) async fn an_expired_lease_deletes_its_keys(mut client: Client) {
    let place = place(&mut client, "expiry").await;
    let lease = client.lease_grant(1, None).await.expect("grant");
    assert!(lease.ttl() >= 1);
    let kept = format!("{place}kept");
    client.put(kept.clone(), "1", None).await.expect("put");
    let last = put(&mut client, &format!("{place}a"), lease.id()).await;
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(last + 1);
    let mut stream = client
        .watch(place.clone(), Some(options))
        .await
        .expect("watch");
    assert!(next(&mut stream).await.created());
    let found = spell(&events(&mut stream, 1).await);
    assert!(
        found[0].starts_with(&format!("delete {place}a @")),
        "{found:?}"
    );
    let told = client.lease_time_to_live(lease.id(), None).await;
    assert_eq!(told.expect("told").ttl(), -1);
    assert_eq!(client.get(kept, None).await.expect("get").count(), 1);
}

pub(super) async fn a_lease_kept_alive_does_not_expire(mut client: Client) {
    let place = place(&mut client, "kept").await;
    // Both would be over at the same time; only one is kept alive until the other is gone.
    let short = client.lease_grant(3, None).await.expect("grant").id();
    let kept = client.lease_grant(3, None).await.expect("grant").id();
    put(&mut client, &format!("{place}short"), short).await;
    let last = put(&mut client, &format!("{place}kept"), kept).await;
    let options = WatchOptions::new().with_start_revision(last + 1);
    let key = format!("{place}short");
    let mut stream = client.watch(key, Some(options)).await.expect("watch");
    assert!(next(&mut stream).await.created());
    let (mut keeper, mut answers) = client.lease_keep_alive(kept).await.expect("keep alive");
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
    loop {
        tokio::select! {
            _ = tick.tick() => {
                keeper.keep_alive().await.expect("request");
                let answer = within(answers.message()).await.expect("no error");
                assert_eq!(answer.expect("goes on").ttl(), 3);
            }
            response = next(&mut stream) => {
                assert_eq!(response.events().len(), 1);
                break;
            }
        }
    }
    let got = client.get(format!("{place}kept"), None).await.expect("get");
    assert_eq!(got.count(), 1);
    client.lease_revoke(kept).await.expect("revoke");
}
