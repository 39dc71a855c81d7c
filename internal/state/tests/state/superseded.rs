//! Two writers on copies of one volume: the older one learns it, and stays out of the way of the newer one.

use std::time::Duration;

use stream_model::VolumeId;
use stream_state::{Lease, Registration, StateError, Store};
use tokio_util::sync::CancellationToken;

use crate::setup::*;
use crate::support::*;

const LONG: Duration = Duration::from_secs(60);

async fn registered(store: &Store) -> Vec<(VolumeId, Registration)> {
    store.volumes().await.expect("listed")
}

async fn raise(store: &Store, by: &str) -> u64 {
    let raised = store.raise_incarnation(volume(1), &node(by)).await;
    raised.expect("raised")
}

async fn register(store: &Store, lease: &Lease, of: &str, incarnation: u64) {
    let registration = registration(of, incarnation);
    let registered = store.register_volume(lease, volume(1), registration).await;
    registered.expect("registered");
}

#[tokio::test]
async fn a_holder_learns_of_a_newer_one_at_once_and_also_when_it_asks_late() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let ours = raise(store, "a").await;
        let waiting = store.superseded(volume(1), ours);
        let opening = async {
            // Nothing of this is about another holder.
            store
                .mark_recovered(volume(1), ours)
                .await
                .expect("recovered");
            let other = store.raise_incarnation(volume(2), &node("b")).await;
            other.expect("raised");
            raise(store, "b").await
        };
        let (learned, newest) = within(async { tokio::join!(waiting, opening) }).await;
        for learned in [learned, within(store.superseded(volume(1), ours)).await] {
            assert!(
                matches!(learned, StateError::StaleIncarnation { newest: 2, .. }),
                "{learned}"
            );
        }
        let still = store.superseded(volume(1), newest);
        let still = tokio::time::timeout(Duration::from_millis(50), still).await;
        assert!(still.is_err(), "the newer one is not superseded");
    })
    .await;
}

#[tokio::test]
async fn a_holder_of_a_forgotten_volume_learns_that_it_was_forgotten() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let ours = raise(store, "a").await;
        let waiting = store.superseded(volume(1), ours);
        let operator = node("op");
        let forgetting = store.forget_volume(volume(1), &operator, at(5));
        let (learned, forgotten) = within(async { tokio::join!(waiting, forgetting) }).await;
        forgotten.expect("nobody has it registered");
        assert!(
            matches!(learned, StateError::Forgotten { at: when, .. } if when == at(5)),
            "{learned}"
        );
    })
    .await;
}

#[tokio::test]
async fn what_happened_while_the_server_was_away_is_learned_when_it_is_back() {
    let mut server = Embedded::start().await;
    let store = Store::open(server.client().await, "test").await;
    let store = store.expect("opens");
    let ours = raise(&store, "a").await;
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { store.superseded(volume(1), ours).await })
    };
    server.stop().await;
    assert!(!waiting.is_finished(), "an outage says nothing");
    server.start_again().await;
    raise(
        &Store::open(server.client().await, "test")
            .await
            .expect("opens"),
        "b",
    )
    .await;
    let learned = within(waiting).await.expect("no panic");
    assert!(matches!(learned, StateError::StaleIncarnation { .. }));
    server.stop().await;
}

#[tokio::test]
async fn a_superseded_holder_does_not_register_the_volume_again() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let (old, new) = (
            store
                .grant_lease(Duration::from_secs(1))
                .await
                .expect("granted"),
            store.grant_lease(LONG).await.expect("granted"),
        );
        let ours = raise(store, "a").await;
        register(store, &old, "a", ours).await;
        let other = registration("a", 1);
        let kept = store.register_volume(&old, volume(2), other.clone()).await;
        kept.expect("registered");
        let newest = raise(store, "b").await;
        register(store, &new, "b", newest).await;

        // It was paused and its lease is gone: what it had announced is written again, but for the volume that it lost.
        let gone = fixture.client.clone().lease_revoke(old.id()).await;
        gone.expect("revoked behind its back");
        let cancel = CancellationToken::new();
        let task = tokio::spawn(old.clone().keep_alive(cancel.clone()));
        let both = [(volume(1), registration("b", newest)), (volume(2), other)];
        until("registered again", async || registered(store).await == both).await;

        let again = registration("a", ours);
        let refused = store.register_volume(&old, volume(1), again).await;
        let error = refused.expect_err("it is not its volume any more");
        assert!(
            matches!(error, StateError::StaleIncarnation { .. }),
            "{error}"
        );
        let withdrawn = store.unregister_volume(&old, volume(1)).await;
        withdrawn.expect("there is nothing to withdraw");
        cancel.cancel();
        within(task).await.expect("no panic").expect("ends well");
        old.revoke().await.expect("revoked");
        assert_eq!(registered(store).await, both[..1]);
        new.revoke().await.expect("revoked");
    })
    .await;
}

#[tokio::test]
async fn an_older_incarnation_seals_nothing() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let next = slice(&open.file.value, slice_id(2), volume(1));
        let rotated = store
            .rotate_slice(&open.file, &open.slice, closing(Some(slice_id(2))), next)
            .await
            .expect("rotated");
        let ours = open.incarnation;
        let newest = raise(store, "b").await;
        // The holder has not heard of it: what it knows of its own number is what it read long ago.
        let refused = store.seal_slice(&rotated.closed, seal(9, ours), ours).await;
        let error = refused.expect_err("is stale");
        assert!(
            matches!(error, StateError::StaleIncarnation { .. }),
            "{error}"
        );
        let sealed = store.seal_slice(&rotated.closed, seal(3, newest), newest);
        let sealed = sealed.await.expect("the present holder may");
        let rows = sealed
            .value
            .seal()
            .map(|seal| (seal.incarnation, seal.figures.rows));
        assert_eq!(rows, Some((newest, 3)));
    })
    .await;
}
