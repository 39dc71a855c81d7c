//! Who answers.

use etcd_client::Client;

use super::place;

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
