//! Registrations that live as long as a process.

use std::collections::BTreeMap;
use std::time::Duration;

use stream_model::VolumeId;
use stream_model::statistics::{Figures, VolumeFigures};
use stream_state::{Lease, NodeRegistration, StateError, Store};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::setup::*;
use crate::support::*;

const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(60);

fn figures(slices: u64) -> VolumeFigures {
    VolumeFigures {
        slices,
        figures: Figures::default(),
        free_bytes: 1,
    }
}

fn replica() -> NodeRegistration {
    NodeRegistration {
        version: "1".to_owned(),
        started_at: at(0),
        addresses: BTreeMap::from([("grpc".to_owned(), "127.0.0.1:6000".to_owned())]),
    }
}

async fn volumes(store: &Store) -> Vec<VolumeId> {
    let volumes = store.volumes().await.expect("listed");
    volumes.into_iter().map(|(volume, _)| volume).collect()
}

fn keep(lease: &Lease) -> (CancellationToken, JoinHandle<Result<(), StateError>>) {
    let cancel = CancellationToken::new();
    let task = tokio::spawn(lease.clone().keep_alive(cancel.clone()));
    (cancel, task)
}

#[tokio::test]
async fn registrations_vanish_when_the_lease_is_revoked() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let lease = store.grant_lease(LONG).await.expect("granted");
        store
            .register_volume(&lease, volume(1), registration("n", 1))
            .await
            .expect("registered");
        store
            .publish_figures(&lease, volume(1), figures(2))
            .await
            .expect("published");
        let name = node("n");
        store
            .register_node(&lease, "storage-writer", &name, replica())
            .await
            .expect("registered");
        let bad = store.register_node(&lease, "a/b", &name, replica()).await;
        assert!(matches!(bad, Err(StateError::InvalidName { .. })));
        assert_eq!(volumes(store).await, [volume(1)]);
        assert_eq!(
            store.volume_figures().await.expect("listed"),
            [(volume(1), figures(2))]
        );
        assert_eq!(
            store.nodes("storage-writer").await.expect("listed"),
            [(name, replica())]
        );
        assert!(store.nodes("storage").await.expect("listed").is_empty());

        lease.revoke().await.expect("revoked");
        assert!(volumes(store).await.is_empty());
        assert!(
            store
                .nodes("storage-writer")
                .await
                .expect("listed")
                .is_empty()
        );
        lease.revoke().await.expect("twice does no harm");
        let late = store
            .register_volume(&lease, volume(1), registration("n", 1))
            .await;
        assert!(matches!(late, Err(StateError::LeaseLost)));
    })
    .await;
}

#[tokio::test]
async fn unchanged_figures_are_not_written_again() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let lease = store.grant_lease(LONG).await.expect("granted");
        let key = format!("{}/volume/figures/{}", fixture.namespace, volume(1));
        let writes = async || {
            let mut client = fixture.client.clone();
            let answer = client.get(key.as_str(), None).await.expect("read");
            answer.kvs().first().map(etcd_client::KeyValue::version)
        };
        for (slices, expected) in [(2, 1), (2, 1), (3, 2), (3, 2), (2, 3)] {
            store
                .publish_figures(&lease, volume(1), figures(slices))
                .await
                .expect("published");
            assert_eq!(writes().await, Some(expected), "{slices}");
        }
        lease.revoke().await.expect("revoked");
    })
    .await;
}

#[tokio::test]
async fn a_lost_lease_is_replaced_and_everything_is_registered_again() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let lease = store.grant_lease(SHORT).await.expect("granted");
        store
            .register_volume(&lease, volume(1), registration("n", 1))
            .await
            .expect("registered");
        store
            .register_volume(&lease, volume(2), registration("n", 1))
            .await
            .expect("registered");
        store
            .unregister_volume(&lease, volume(2))
            .await
            .expect("withdrawn");
        let (cancel, task) = keep(&lease);
        let lost = lease.id();
        fixture
            .client
            .clone()
            .lease_revoke(lost)
            .await
            .expect("revoked behind its back");
        until("registered again", async || {
            volumes(store).await == [volume(1)]
        })
        .await;
        assert_ne!(lease.id(), lost);
        cancel.cancel();
        within(task).await.expect("no panic").expect("ends well");
        lease.revoke().await.expect("revoked");
    })
    .await;
}

#[tokio::test]
async fn a_registration_under_a_lost_lease_is_made_up_for() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let lease = store.grant_lease(SHORT).await.expect("granted");
        fixture
            .client
            .clone()
            .lease_revoke(lease.id())
            .await
            .expect("revoked behind its back");
        let error = store
            .register_volume(&lease, volume(1), registration("n", 1))
            .await
            .expect_err("the lease is gone");
        assert_eq!(error.kind(), stream_model::ErrorKind::Unavailable);
        let (cancel, task) = keep(&lease);
        until("registered", async || volumes(store).await == [volume(1)]).await;
        cancel.cancel();
        within(task).await.expect("no panic").expect("ends well");
        lease.revoke().await.expect("revoked");
    })
    .await;
}

#[tokio::test]
async fn registrations_outlive_their_time_while_kept_alive_and_not_otherwise() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let kept = store.grant_lease(SHORT).await.expect("granted");
        let left = store.grant_lease(SHORT).await.expect("granted");
        store
            .register_volume(&kept, volume(1), registration("n", 1))
            .await
            .expect("registered");
        let (cancel, task) = keep(&kept);
        store
            .register_volume(&left, volume(2), registration("n", 1))
            .await
            .expect("registered");
        let id = kept.id();
        until("the other one expires", async || {
            volumes(store).await == [volume(1)]
        })
        .await;
        assert_eq!(kept.id(), id, "was not lost");
        cancel.cancel();
        within(task).await.expect("no panic").expect("ends well");
        kept.revoke().await.expect("revoked");
    })
    .await;
}

#[tokio::test]
async fn registrations_come_back_after_a_restart_of_the_server() {
    let mut server = Embedded::start().await;
    let store = Store::open(server.client().await, "test")
        .await
        .expect("opens");
    let lease = store.grant_lease(SHORT).await.expect("granted");
    store
        .register_volume(&lease, volume(1), registration("n", 1))
        .await
        .expect("registered");
    let (cancel, task) = keep(&lease);
    server.stop().await;
    let away = store
        .register_volume(&lease, volume(2), registration("n", 1))
        .await;
    assert!(away.is_err(), "nobody is there");
    server.start_again().await;
    let both = [volume(1), volume(2)];
    until("registered again", async || {
        store
            .volumes()
            .await
            .is_ok_and(|volumes| volumes.iter().map(|(id, _)| *id).eq(both))
    })
    .await;
    cancel.cancel();
    within(task).await.expect("no panic").expect("ends well");
    server.stop().await;
}

#[tokio::test]
async fn withdrawing_leaves_the_registration_of_another_process_alone() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let (old, new) = (
            store.grant_lease(LONG).await.expect("granted"),
            store.grant_lease(LONG).await.expect("granted"),
        );
        for (lease, incarnation) in [(&old, 1), (&new, 2)] {
            store
                .register_volume(lease, volume(1), registration("n", incarnation))
                .await
                .expect("registered");
        }
        store
            .unregister_volume(&old, volume(1))
            .await
            .expect("withdrawn");
        let left = store.volumes().await.expect("listed");
        assert_eq!(left, [(volume(1), registration("n", 2))]);
        store
            .unregister_volume(&new, volume(1))
            .await
            .expect("withdrawn");
        assert_eq!(volumes(store).await, []);
    })
    .await;
}
