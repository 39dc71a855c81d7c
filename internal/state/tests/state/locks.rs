//! Locks between processes and their fencing tokens.

use std::time::Duration;

use stream_model::ErrorKind;
use stream_state::{Lease, StateError, Store};
use tokio_util::sync::CancellationToken;

use crate::support::*;

const LONG: Duration = Duration::from_secs(60);
const NAME: &str = "task/source/1/1/a";

async fn lease(store: &Store) -> Lease {
    store.grant_lease(LONG).await.expect("granted")
}

#[tokio::test]
async fn one_holder_at_a_time_and_tokens_that_rise() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let (ours, theirs) = (lease(store).await, lease(store).await);
        let first = store.try_lock(&ours, NAME, "us").await.expect("asked");
        let first = first.expect("nobody has it");
        assert!(first.is_held());
        for other in [&theirs, &ours] {
            let second = store.try_lock(other, NAME, "them").await.expect("asked");
            assert!(second.is_none(), "also not by the same process");
        }
        let near = store.try_lock(&theirs, "task/source/1/1/a/b", "them").await;
        assert!(near.expect("asked").is_some(), "names are whole");
        let token = first.token();
        first.release().await.expect("released");
        let second = store.try_lock(&theirs, NAME, "them").await.expect("asked");
        assert!(second.expect("free again").token() > token);
    })
    .await;
}

#[tokio::test]
async fn a_guarded_write_of_a_former_holder_is_refused() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let (ours, theirs) = (lease(store).await, lease(store).await);
        let lock = store.try_lock(&ours, NAME, "us").await.expect("asked");
        let lock = lock.expect("nobody has it");
        let guarded = store.guarded_by(&lock);
        let created = guarded.create_source(source("a")).await;
        created.expect("the lock is ours");

        // The process is paused for longer than its lease: somebody else takes over.
        fixture
            .client
            .clone()
            .lease_revoke(ours.id())
            .await
            .expect("revoked");
        let other = store.try_lock(&theirs, NAME, "them").await.expect("asked");
        let other = other.expect("free again");
        let error = guarded.create_source(source("b")).await.expect_err("late");
        assert!(matches!(error, StateError::LockLost { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let error = guarded
            .delete_source(&source_key("a"), switch())
            .await
            .expect_err("late");
        assert!(matches!(error, StateError::LockLost { .. }), "{error}");
        let sources = store.sources(&branch()).await.expect("listed");
        assert_eq!(sources.len(), 1);
        assert!(sources[0].value.deleted.is_none());

        let created = store.guarded_by(&other).create_source(source("b")).await;
        created.expect("the new holder writes");
        // Giving back what was lost does not take it from the new holder.
        lock.release().await.expect("nothing to do");
        let created = store.guarded_by(&other).create_source(source("c")).await;
        created.expect("still held");
    })
    .await;
}

#[tokio::test]
async fn waiting_ends_with_the_release_the_drop_or_the_death_of_the_holder() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let theirs = lease(store).await;
        for way in ["release", "drop", "death"] {
            let ours = lease(store).await;
            let cancel = CancellationToken::new();
            let keeper = tokio::spawn(ours.clone().keep_alive(cancel.clone()));
            let lock = within(store.lock(&ours, NAME, "us")).await.expect("taken");
            let waiting = {
                let (store, theirs) = (store.clone(), theirs.clone());
                tokio::spawn(async move { store.lock(&theirs, NAME, "them").await })
            };
            match way {
                "release" => lock.release().await.expect("released"),
                "drop" => drop(lock),
                _ => ours.revoke().await.expect("revoked"),
            }
            let taken = within(waiting).await.expect("no panic").expect("taken");
            taken.release().await.expect("released");
            cancel.cancel();
            within(keeper).await.expect("no panic").expect("ended");
        }
    })
    .await;
}

#[tokio::test]
async fn of_many_who_want_it_each_has_it_once_and_alone() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let running = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let (store, running) = (store.clone(), running.clone());
            tasks.push(tokio::spawn(async move {
                use std::sync::atomic::Ordering::SeqCst;
                let lease = lease(&store).await;
                let lock = store
                    .lock(&lease, NAME, "one of them")
                    .await
                    .expect("taken");
                assert_eq!(running.fetch_add(1, SeqCst), 0, "alone");
                tokio::task::yield_now().await;
                running.fetch_sub(1, SeqCst);
                let token = lock.token();
                lock.release().await.expect("released");
                token
            }));
        }
        let mut tokens = Vec::new();
        for task in tasks {
            tokens.push(within(task).await.expect("no panic"));
        }
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 8);
    })
    .await;
}

#[tokio::test]
async fn nothing_new_is_begun_when_the_lease_may_end_soon() {
    let mut embedded = Embedded::start().await;
    let client = embedded.client().await;
    let store = Store::open(client, "fencing").await.expect("opens");
    let lease = store
        .grant_lease(Duration::from_secs(2))
        .await
        .expect("granted");
    let cancel = CancellationToken::new();
    let keeper = tokio::spawn(lease.clone().keep_alive(cancel.clone()));
    let lock = store.try_lock(&lease, NAME, "us").await.expect("asked");
    let lock = lock.expect("nobody has it");
    assert!(lease.is_live() && lock.is_held());
    // Nobody prolongs it any more, and etcd could not say so.
    embedded.stop().await;
    until("the process stops by itself", async || !lease.is_live()).await;
    assert!(!lock.is_held());
    embedded.start_again().await;
    until("a new lease is granted", async || lease.is_live()).await;
    assert!(!lock.is_held(), "the lock went with the old lease");
    cancel.cancel();
    within(keeper).await.expect("no panic").expect("ended");
    embedded.stop().await;
}

#[tokio::test]
async fn a_name_that_cannot_be_a_key_is_refused() {
    on_every_server(async |fixture| {
        let lease = lease(&fixture.store).await;
        for name in ["", "a//b", "/a", "a/", "a\0b"] {
            let error = fixture.store.try_lock(&lease, name, "us").await;
            assert!(
                matches!(error, Err(StateError::InvalidName { .. })),
                "{name:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn a_lock_whose_taking_nobody_waits_for_any_more_is_given_back() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let (ours, theirs) = (lease(store).await, lease(store).await);
        let cancel = CancellationToken::new();
        let keeper = tokio::spawn(ours.clone().keep_alive(cancel.clone()));
        for patience in 0..30 {
            let taking = store.try_lock(&ours, NAME, "us");
            // Given up at different moments: before, while and after the server works on it.
            let pause = Duration::from_micros(100 * patience);
            if let Ok(taken) = tokio::time::timeout(pause, taking).await {
                let lock = taken.expect("asked").expect("nobody has it");
                lock.release().await.expect("released");
            }
            let other = within(store.lock(&theirs, NAME, "them")).await;
            other
                .expect("it is free again")
                .release()
                .await
                .expect("released");
        }
        cancel.cancel();
        within(keeper).await.expect("no panic").expect("ended");
    })
    .await;
}
