//! Purging: a sink leaves the state step by step, and nothing of it comes back.

use stream_model::purge::Rows;
use stream_model::slice::Slice;
use stream_model::trigger::Reason;
use stream_state::{Mirror, StateError, Store, Versioned, audit};

use crate::setup::*;
use crate::support::*;

async fn assert_sound(store: &Store) {
    let snapshot = store.snapshot().await.expect("read");
    let findings = audit::check(&snapshot.entries, at(100));
    assert!(findings.is_empty(), "{findings:?}");
}

fn assert_violation<T: std::fmt::Debug>(result: Result<T, StateError>) {
    assert!(
        matches!(result, Err(StateError::Violation(_))),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_sink_is_taken_out_step_by_step_and_created_anew() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let key = &open.sink.value.key;
        assert_violation(store.bury_file(&open.sink, &open.file).await);
        assert_violation(store.finish_sink_purge(&open.sink).await);
        let purging = store.begin_sink_purge(key, switch()).await.expect("begun");
        let again = store.begin_sink_purge(key, switch()).await.expect("again");
        assert_eq!(purging, again);
        assert_sound(store).await;

        // Nothing of it comes back.
        let created = store.create_sink(sink("orders", "raw"), None).await;
        assert!(
            matches!(created, Err(StateError::AlreadyExists { .. })),
            "{created:?}"
        );
        let revived = store
            .update_sink(key, |mut sink| {
                sink.deleted = None;
                Ok::<_, StateError>(sink)
            })
            .await;
        assert_violation(revived);
        assert_violation(store.bury_file(&purging, &open.file).await);

        let closings = vec![(open.slice.clone(), closing(None))];
        let closed = store.close_file(&open.file, at(5), Reason::Definition, closings, None);
        let file = closed.await.expect("closed").file;
        assert_conflict(store.finish_sink_purge(&purging).await, "entity/file");
        let slice = read_slice(store, key, open.slice.value.id).await;
        let seal = seal(3, open.incarnation);
        let slice = store
            .seal_slice(&slice, seal, open.incarnation)
            .await
            .expect("sealed");
        let stale = vec![(open.slice.clone(), Rows::Discarded)];
        assert_conflict(
            store.bury_slices(&purging, &stale, at(7)).await,
            "entity/slice",
        );
        let slices = vec![(slice.clone(), Rows::Discarded)];
        store
            .bury_slices(&purging, &slices, at(7))
            .await
            .expect("taken out");
        assert_sound(store).await;
        store.bury_file(&purging, &file).await.expect("removed");
        store.finish_sink_purge(&purging).await.expect("finished");
        assert_sound(store).await;

        let (mirror, _task) = Mirror::start(store).await.expect("listed");
        mirror.read(|topology| {
            assert!(topology.slice(slice.value.id).is_none());
            let note = topology.purged(slice.value.id).expect("a note");
            assert_eq!(note.value.slice, slice.value);
            assert_eq!(note.value.discarded(), Some(3));
        });
        let new = store
            .create_sink(sink("orders", "raw"), None)
            .await
            .expect("created");
        assert_eq!(new.value.version.number, 1);
        assert_sound(store).await;
        let notes = store.remains(key).await.expect("read").purged;
        store.remove_purged(&notes[0]).await.expect("removed");
        assert_conflict(store.remove_purged(&notes[0]).await, "entity/purged");
    })
    .await;
}

#[tokio::test]
async fn a_source_goes_when_its_sinks_are_gone() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let key = source_key("orders");
        unopened(store, ["a", "b"]).await;
        store
            .delete_sink(&sink_key("orders", "b"), switch())
            .await
            .expect("deleted");
        let tree = store
            .begin_source_purge(&key, switch())
            .await
            .expect("begun");
        assert!(tree.sinks.iter().all(|sink| sink.value.purging.is_some()));
        assert_conflict(store.finish_source_purge(&tree.source).await, "entity/sink");
        for sink in &tree.sinks {
            store.finish_sink_purge(sink).await.expect("finished");
        }
        store
            .finish_source_purge(&tree.source)
            .await
            .expect("finished");
        assert_sound(store).await;
        assert_eq!(store.source_versions(&key).await.expect("read"), []);
        let new = store
            .create_source(source("orders"))
            .await
            .expect("created");
        assert_eq!(new.value.version.number, 1);
    })
    .await;
}

/// A neighbour whose name begins the same keeps everything.
#[tokio::test]
async fn a_purge_touches_no_neighbour() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        unopened(store, ["a", "a-2"]).await;
        let purging = store
            .begin_sink_purge(&sink_key("orders", "a"), switch())
            .await
            .expect("begun");
        store.finish_sink_purge(&purging).await.expect("finished");
        let neighbour = sink_key("orders", "a-2");
        assert!(store.sink(&neighbour).await.expect("read").is_some());
        assert_eq!(
            store.sink_versions(&neighbour).await.expect("read").len(),
            1
        );
    })
    .await;
}

/// More slices than fit into a transaction.
#[tokio::test]
async fn many_slices_are_taken_out_in_several_transactions() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let key = &open.sink.value.key;
        let mut slices: Vec<Versioned<Slice>> = vec![open.slice.clone()];
        let (mut file, mut last) = (open.file.clone(), open.slice.clone());
        for number in 2..100 {
            let successor = slice(&file.value, slice_id(number), volume(1));
            let closing = closing(Some(successor.id));
            let rotated = store.rotate_slice(&file, &last, closing, successor).await;
            let rotated = rotated.expect("rotated");
            slices.push(rotated.successor.clone());
            last = rotated.successor;
            file = read_file(store, key, file.value.id).await;
        }
        let purging = store.begin_sink_purge(key, switch()).await.expect("begun");
        let closings = vec![(last, closing(None))];
        let closed = store.close_file(&file, at(5), Reason::Definition, closings, None);
        let file = closed.await.expect("closed").file;
        let slices = store.remains(key).await.expect("read").slices.into_iter();
        let slices: Vec<_> = slices.map(|slice| (slice, Rows::Discarded)).collect();
        assert_eq!(slices.len(), 99);
        store
            .bury_slices(&purging, &slices, at(7))
            .await
            .expect("taken out");
        store.bury_file(&purging, &file).await.expect("removed");
        store.finish_sink_purge(&purging).await.expect("finished");
        let remains = store.remains(key).await.expect("read");
        assert_eq!(
            (
                remains.files.len(),
                remains.slices.len(),
                remains.purged.len()
            ),
            (0, 0, 99)
        );
        assert!(
            remains
                .purged
                .iter()
                .all(|note| note.value.discarded().is_none())
        );
    })
    .await;
}
