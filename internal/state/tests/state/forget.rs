//! Giving up a volume.

use stream_model::slice::State;
use stream_model::{ErrorKind, SliceId};
use stream_state::{Opening, StateError, Store, audit};

use crate::setup::*;
use crate::support::*;

/// Source `orders` with sinks on volumes 1 and 2: `raw` with a writing, a closing and a sealed slice on volume 1.
async fn scene(store: &Store) -> u64 {
    let open = open(store).await;
    let mut file = open.file;
    let mut slice_1 = open.slice;
    for n in [2, 3] {
        let successor = slice(&file.value, slice_id(n), volume(1));
        let closing = closing(Some(slice_id(n)));
        let rotated = store
            .rotate_slice(&file, &slice_1, closing, successor)
            .await
            .expect("rotated");
        if n == 2 {
            let seal = seal(5, open.incarnation);
            let sealed = store.seal_slice(&rotated.closed, seal, open.incarnation);
            sealed.await.expect("sealed");
        }
        slice_1 = rotated.successor;
        file = read_file(store, &file.value.sink, file.value.id).await;
    }
    open.incarnation
}

async fn state_of(store: &Store, id: SliceId) -> State {
    let slice = read_slice(store, &sink_key("orders", "raw"), id).await;
    slice.value.state
}

#[tokio::test]
async fn what_is_on_it_counts_as_empty_and_its_sources_get_other_volumes() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let incarnation = scene(store).await;
        let loss = store.loss_of_volume(volume(1)).await.expect("looked");
        assert_eq!((loss.slices, loss.sealed, loss.rows), (3, 1, 5));
        assert_eq!(loss.sources, [source_key("orders")]);
        assert_eq!(
            state_of(store, slice_id(3)).await,
            State::Writing,
            "looking changes nothing"
        );

        let forgotten = store
            .forget_volume(volume(1), &node("op"), at(50))
            .await
            .expect("forgotten");
        assert_eq!((forgotten.slices, forgotten.rows), (3, 5));
        for (n, rows) in [(1, Some(5)), (2, None), (3, None)] {
            let slice = read_slice(store, &sink_key("orders", "raw"), slice_id(n)).await;
            assert!(slice.value.is_uploaded() && slice.value.object().is_none());
            assert_eq!(slice.value.forgotten.expect("given up").rows, rows);
        }
        let assigned = store.assignment(&source_key("orders")).await;
        assert_eq!(assigned.expect("read"), None, "it had no other volume");

        // The old writer, should it still run, and the volume, should it return.
        let raised = store.raise_incarnation(volume(1), &node("n")).await;
        let error = raised.expect_err("it stays away");
        assert!(matches!(error, StateError::Forgotten { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let marked = store.mark_recovered(volume(1), incarnation).await;
        assert!(matches!(marked, Err(StateError::StaleIncarnation { .. })));

        let again = store
            .forget_volume(volume(1), &node("op"), at(60))
            .await
            .expect("nothing is left to do");
        assert_eq!((again.slices, again.sources.len()), (0, 0));
        let snapshot = store.snapshot().await.expect("read");
        assert_eq!(audit::check(&snapshot.entries, at(60)), []);
    })
    .await;
}

#[tokio::test]
async fn a_volume_that_is_open_or_was_never_seen_is_not_forgotten() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let unknown = store.forget_volume(volume(9), &node("op"), at(1)).await;
        let error = unknown.expect_err("never seen");
        assert_eq!(error.kind(), ErrorKind::NotFound);

        let incarnation = scene(store).await;
        let lease = store.grant_lease(DEADLINE).await.expect("granted");
        store
            .register_volume(&lease, volume(1), registration("n", incarnation))
            .await
            .expect("registered");
        let open = store.forget_volume(volume(1), &node("op"), at(1)).await;
        let error = open.expect_err("it is open");
        assert!(error.to_string().contains("open on node n"), "{error}");
        assert_eq!(state_of(store, slice_id(3)).await, State::Writing);
        store
            .raise_incarnation(volume(1), &node("n"))
            .await
            .expect("it is as it was");
    })
    .await;
}

#[tokio::test]
async fn a_source_keeps_its_other_volumes() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        for n in [1, 2] {
            let raised = store.raise_incarnation(volume(n), &node("n")).await;
            raised.expect("raised");
        }
        store.create_source(source("a")).await.expect("created");
        let key = sink_key("a", "s");
        let file = file(&key, file_id(1), &[volume(1), volume(2)]);
        let slices = [1, 2]
            .map(|n| slice(&file, slice_id(n), volume(n)))
            .to_vec();
        let opening = Opening {
            assignment: Some(vec![volume(1), volume(2)]),
            file,
            slices,
        };
        store
            .create_sink(sink("a", "s"), Some(opening))
            .await
            .expect("created");
        store
            .forget_volume(volume(2), &node("op"), at(1))
            .await
            .expect("forgotten");
        let assigned = store.assignment(&source_key("a")).await.expect("read");
        assert_eq!(assigned.expect("one is left").value, [volume(1)]);
        let kept = read_slice(store, &key, slice_id(1)).await;
        assert_eq!(kept.value.state, State::Writing);
        let snapshot = store.snapshot().await.expect("read");
        assert_eq!(audit::check(&snapshot.entries, at(2)), []);
    })
    .await;
}
