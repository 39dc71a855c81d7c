//! Who answers.

use etcd_client::{AlarmAction, AlarmType, Client, GetOptions};
use tonic::Code;

use super::{place, revision};
use crate::harness::{refusal, refused};

pub(super) async fn headers_tell_the_same_cluster(mut client: Client) {
    let key = place(&mut client, "headers").await + "a";
    let put = client.put(key.clone(), "1", None).await.expect("put");
    let got = client.get(key, None).await.expect("get");
    let lease = client.lease_grant(60, None).await.expect("grant");
    let headers = [put.header(), got.header(), lease.header()];
    let who: Vec<_> = headers
        .iter()
        .map(|header| {
            let header = header.expect("every answer has a header");
            (header.cluster_id(), header.member_id(), header.raft_term())
        })
        .collect();
    assert!(who[0].0 != 0 && who[0].1 != 0 && who[0].2 != 0);
    assert!(who.iter().all(|one| *one == who[0]), "{who:?}");
    client.lease_revoke(lease.id()).await.expect("revoke");
}

pub(super) async fn the_only_member_leads(mut client: Client) {
    let members = client.member_list().await.expect("members");
    let [member] = members.members() else {
        panic!("{members:?}");
    };
    assert!(!member.client_urls().is_empty());
    let status = client.status().await.expect("status");
    assert_eq!(status.leader(), member.id());
    assert_eq!(status.header().expect("a header").member_id(), member.id());
    assert!(status.version().starts_with("3."));
    assert!(status.db_size() > 0);
}

pub(super) async fn a_checksum_is_of_a_revision(mut client: Client) {
    let key = place(&mut client, "checksum").await + "a";
    let first = revision!(client.put(key.clone(), "1", None).await.expect("put"));
    let before = client.hash_kv(first).await.expect("hash");
    let second = revision!(client.put(key, "2", None).await.expect("put"));
    let again = client.hash_kv(first).await.expect("hash");
    assert_eq!(again.hash(), before.hash());
    assert_eq!(revision!(again), second);
    let newest = client.hash_kv(0).await.expect("hash");
    assert_ne!(newest.hash(), before.hash());
    assert_eq!(
        newest.hash(),
        client.hash_kv(second).await.expect("hash").hash()
    );
    client.compact(second, None).await.expect("compact");
    let compacted = client.hash_kv(0).await.expect("hash");
    assert_eq!(compacted.compact_version(), second);
    assert_eq!(
        refusal(client.hash_kv(first).await),
        refused(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted"
        )
    );
    assert_eq!(
        refusal(client.hash_kv(second + 100).await),
        refused(
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision"
        )
    );
}

pub(super) async fn defragmenting_changes_nothing(mut client: Client) {
    let key = place(&mut client, "defragment").await + "a";
    let first = revision!(client.put(key.clone(), "1", None).await.expect("put"));
    let second = revision!(client.put(key.clone(), "2", None).await.expect("put"));
    client.defragment().await.expect("defragment");
    let at = |revision| Some(GetOptions::new().with_revision(revision));
    for (revision, value) in [(first, b"1"), (second, b"2")] {
        let got = client.get(key.clone(), at(revision)).await.expect("get");
        assert_eq!(got.kvs()[0].value(), value);
    }
    let third = revision!(client.put(key, "3", None).await.expect("put"));
    assert_eq!(third, second + 1);
    let status = client.status().await.expect("status");
    assert!(status.db_size() > 0);
}

pub(super) async fn there_are_no_alarms(mut client: Client) {
    let told = client.alarm(AlarmAction::Get, AlarmType::None, None).await;
    assert!(told.expect("alarms").alarms().is_empty());
}
