//! Who decides about the idempotency keys of a source.

use std::time::Duration;

use stream_model::VolumeId;
use stream_model::idempotency::{Assigned, Yields};
use stream_state::keyspace::Key;
use stream_state::{StateError, Store};

use crate::setup::*;
use crate::support::*;

const LONG: Duration = Duration::from_secs(60);

/// What is stored for the source, as others see it.
async fn stored(store: &Store) -> Assigned {
    let snapshot = store.snapshot().await.expect("read");
    let key = Key::Assignment(source_key("orders")).to_string();
    let entry = snapshot.entries.into_iter().find(|entry| entry.key == key);
    serde_json::from_slice(&entry.expect("it is there").value).expect("JSON")
}

async fn assign(store: &Store) {
    let volumes = vec![volume(1), volume(2)];
    let replaced = store
        .replace_assignment(&source_key("orders"), &[], volumes)
        .await;
    replaced.expect("stored");
}

async fn yields(store: &Store, volume: VolumeId) {
    let yields = Yields::WhileAway;
    let set = store
        .set_yielding(&source_key("orders"), volume, yields)
        .await;
    set.expect("stored");
}

#[tokio::test]
async fn a_volume_yields_until_it_takes_that_back() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        assign(store).await;
        for _ in 0..2 {
            yields(store, volume(2)).await;
            assert_eq!(stored(store).await.yielding, [volume(2)]);
        }
        // One that the source does not have.
        yields(store, volume(9)).await;
        assert_eq!(stored(store).await.yielding, [volume(2)]);
        let never = store
            .set_yielding(&source_key("orders"), volume(2), Yields::Never)
            .await;
        never.expect("stored");
        assert_eq!(stored(store).await.yielding, []);
    })
    .await;
}

#[tokio::test]
async fn keys_are_taken_over_only_from_a_volume_that_yields_and_is_away() {
    on_every_server(async |fixture| {
        let (store, source) = (&fixture.store, source_key("orders"));
        assign(store).await;
        let strict = stored(store).await;
        let new = |old: &Assigned| {
            let taken = old.taken_over(&source, volume(1), &[volume(2)], at(5));
            taken.expect("it has shards")
        };
        let refused = store
            .take_keys_over(&source, &strict, volume(1), new(&strict))
            .await;
        assert!(
            matches!(refused, Err(StateError::Violation { .. })),
            "{refused:?}"
        );
        yields(store, volume(1)).await;
        let old = stored(store).await;
        let lease = store.grant_lease(LONG).await.expect("granted");
        let incarnation = store.raise_incarnation(volume(1), &node("n")).await;
        let incarnation = incarnation.expect("raised");
        let registered = registration("n", incarnation);
        let registered = store.register_volume(&lease, volume(1), registered);
        registered.await.expect("registered");
        let refused = store.take_keys_over(&source, &old, volume(1), new(&old));
        let refused = refused.await.expect_err("it is there");
        assert!(
            matches!(refused, StateError::AlreadyExists { .. }),
            "{refused}"
        );
        assert_eq!(stored(store).await, old);
        store
            .unregister_volume(&lease, volume(1))
            .await
            .expect("withdrawn");
        let taken = store.take_keys_over(&source, &old, volume(1), new(&old));
        taken.await.expect("taken");
        let now = stored(store).await;
        assert_eq!(now, new(&old));
        assert!(now.shards_of(&source, volume(1)).is_empty());
        // Whoever has seen less is too late.
        let late = store.take_keys_over(&source, &old, volume(1), new(&old));
        let late = late.await.expect_err("it was taken");
        assert!(matches!(late, StateError::Conflict { .. }), "{late}");
    })
    .await;
}

#[tokio::test]
async fn of_several_that_take_keys_over_at_once_one_is_first() {
    on_every_server(async |fixture| {
        let (store, source) = (&fixture.store, source_key("orders"));
        assign(store).await;
        yields(store, volume(1)).await;
        let old = stored(store).await;
        let new = |seconds| {
            let taken = old.taken_over(&source, volume(1), &[volume(2)], at(seconds));
            taken.expect("it has shards")
        };
        let take = |seconds| store.take_keys_over(&source, &old, volume(1), new(seconds));
        let (a, b, c) = tokio::join!(take(1), take(2), take(3));
        let mut won = Vec::new();
        for (seconds, taken) in (1..).zip([a, b, c]) {
            match taken {
                Ok(_) => won.push(new(seconds)),
                Err(error) => assert!(matches!(error, StateError::Conflict { .. }), "{error}"),
            }
        }
        assert_eq!(won, [stored(store).await]);
    })
    .await;
}

#[tokio::test]
async fn a_registration_stands_as_long_as_its_lease_certainly_lives() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let key = Key::Registration(volume(1));
        let lease = store.grant_lease(LONG).await.expect("granted");
        assert_eq!(lease.registered_since(&key), None);
        let number = store.raise_incarnation(volume(1), &node("n")).await;
        let registered = registration("n", number.expect("raised"));
        let registered = store.register_volume(&lease, volume(1), registered);
        registered.await.expect("registered");
        let snapshot = store.snapshot().await.expect("read");
        let text = key.to_string();
        let entry = snapshot.entries.iter().find(|entry| entry.key == text);
        let since = entry.map(|entry| entry.revision);
        assert!(since.is_some());
        assert_eq!(lease.registered_since(&key), since);
        let withdrawn = store.unregister_volume(&lease, volume(1)).await;
        withdrawn.expect("withdrawn");
        assert_eq!(lease.registered_since(&key), None);
        let short = store.grant_lease(Duration::from_secs(1)).await;
        let short = short.expect("granted");
        let registered = registration("n", 1);
        let registered = store.register_volume(&short, volume(1), registered);
        registered.await.expect("registered");
        // Nobody keeps it alive.
        while short.registered_since(&key).is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_keys_of_a_forgotten_volume_are_promised_from_then_on_only() {
    on_every_server(async |fixture| {
        let (store, source) = (&fixture.store, source_key("orders"));
        assign(store).await;
        let before = stored(store).await;
        let raised = store.raise_incarnation(volume(1), &node("n")).await;
        raised.expect("raised");
        let forgotten = store.forget_volume(volume(1), &node("n"), at(7)).await;
        forgotten.expect("forgotten");
        let after = stored(store).await;
        assert_eq!(after.volumes, [volume(2)]);
        for shard in 0..=u8::MAX {
            let lost = before.owner(&source, shard).map(|owner| owner.volume) == Some(volume(1));
            let owner = after.owner(&source, shard).expect("there is one");
            assert_eq!(owner.since, lost.then(|| at(7)), "shard {shard}");
        }
    })
    .await;
}
