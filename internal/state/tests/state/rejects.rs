//! Slices of rejected records: a lineage of their own beside the files.

use stream_model::ErrorKind;
use stream_model::file::File;
use stream_model::rejects;
use stream_model::slice::{Kind, Slice, State};
use stream_model::trigger::Reason;
use stream_state::{Mirror, Opening, SinkNode, StateError, Store, Versioned};

use crate::setup::*;
use crate::support::*;

fn planned(file: &File, volumes: &[u8]) -> Vec<Slice> {
    let rows = slice(file, slice_id(99), volume(1));
    let volumes: Vec<_> = volumes.iter().map(|n| volume(*n)).collect();
    rejects::plan(file, &rows, &volumes, rejects::default_trigger(), at(1))
}

/// A sink with a writing file on volume 1, and a slice of rejected records there.
async fn opened(store: &Store) -> (Open, Versioned<Slice>) {
    let open = open(store).await;
    let slices = planned(&open.file.value, &[1]);
    let id = slices[0].id;
    store
        .open_rejects(&open.file, slices)
        .await
        .expect("opened");
    let slice = read_slice(store, &open.sink.value.key, id).await;
    (open, slice)
}

async fn looked(store: &Store, open: &Open) -> SinkNode {
    let (mirror, _task) = Mirror::start(store).await.expect("listed");
    mirror
        .read(|topology| topology.sink(&open.sink.value.key).cloned())
        .expect("it exists")
}

fn assert_invalid<T: std::fmt::Debug>(result: Result<T, StateError>) {
    let kind = result.map_err(|error| error.kind());
    assert!(matches!(kind, Err(ErrorKind::Invalid)), "{kind:?}");
}

fn assert_exists<T: std::fmt::Debug>(result: Result<T, StateError>) {
    assert!(
        matches!(result, Err(StateError::AlreadyExists { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn whoever_misses_the_same_slice_opens_it_once() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let (open, slice) = opened(store).await;
        assert_eq!(slice.value.kind, Kind::Rejects);
        let again = planned(&open.file.value, &[1]);
        assert_exists(store.open_rejects(&open.file, again).await);
        let stale = Versioned::new(open.file.value.clone(), open.file.revision - 1);
        let other = planned(&open.file.value, &[2]);
        assert_conflict(store.open_rejects(&stale, other).await, "entity/file");
        let rows = vec![self::slice(&open.file.value, slice_id(50), volume(2))];
        assert_invalid(store.open_rejects(&open.file, rows).await);
        assert_eq!(looked(store, &open).await.rejects().count(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_end_of_a_file_leaves_its_neighbour_and_the_report_about_it() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let (open, slice) = opened(store).await;
        for of in [&slice.value, &open.slice.value] {
            assert!(store.put_crossed(crossed(of)).await.expect("noted"));
        }
        let before = looked(store, &open).await;
        assert_eq!((before.crossed.len(), before.rejects_crossed.len()), (1, 1));
        let closings = vec![(open.slice.clone(), closing(None))];
        let closed = store.close_file(&open.file, at(5), Reason::Interval, closings, None);
        closed.await.expect("closed");
        let after = looked(store, &open).await;
        assert_eq!((after.crossed.len(), after.rejects_crossed.len()), (0, 1));
        let same = read_slice(store, &open.sink.value.key, slice.value.id).await;
        assert_eq!(same, slice);
    })
    .await;
}

#[tokio::test]
async fn a_slice_is_rotated_sealed_uploaded_and_removed_and_its_figures_stay() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let (open, slice) = opened(store).await;
        let (key, incarnation) = (&open.sink.value.key, open.incarnation);
        assert!(
            store
                .put_crossed(crossed(&slice.value))
                .await
                .expect("noted")
        );
        let trigger = rejects::default_trigger();
        let next = rejects::successor(&slice.value, None, trigger, at(5), [7; 10]);
        let unnamed = store.close_rejects(&slice, closing(None), Some(next.clone()));
        assert_invalid(unnamed.await);
        let elsewhere = Slice {
            volume: volume(2),
            ..next.clone()
        };
        let elsewhere = store.close_rejects(&slice, closing(Some(next.id)), Some(elsewhere));
        assert_invalid(elsewhere.await);
        let closed = store.close_rejects(&slice, closing(Some(next.id)), Some(next.clone()));
        closed.await.expect("closed");
        assert!(looked(store, &open).await.rejects_crossed.is_empty());
        assert_invalid(store.close_rejects(&open.slice, closing(None), None).await);

        let early = read_slice(store, key, slice.value.id).await;
        assert_invalid(store.remove_rejects(&early).await);
        let sealed = store.seal_slice(&early, seal(3, incarnation), incarnation);
        let sealed = sealed.await.expect("sealed");
        let uploaded = store.upload_slice(&sealed, "rejects/o".to_owned(), at(7), incarnation);
        let uploaded = uploaded.await.expect("uploaded");
        store.remove_rejects(&uploaded).await.expect("removed");
        assert_conflict(store.remove_rejects(&uploaded).await, "entity/slice");

        let next = read_slice(store, key, next.id).await;
        let ended = store.close_rejects(&next, closing(None), None);
        ended.await.expect("closed");
        let empty = read_slice(store, key, next.value.id).await;
        let empty = store.seal_slice(&empty, seal(0, incarnation), incarnation);
        let empty = empty.await.expect("sealed");
        assert!(matches!(empty.value.state, State::Uploaded { .. }));
        store.remove_rejects(&empty).await.expect("removed");
        let node = looked(store, &open).await;
        assert_eq!(node.rejects().count(), 0);
        assert_eq!(node.rejects_removed.map(|removed| removed.rows), Some(3));
        assert_eq!(node.removed, None);
    })
    .await;
}

#[tokio::test]
async fn a_sink_has_them_from_its_creation_but_not_twice() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let (open, slice) = opened(store).await;
        let key = &open.sink.value.key;
        let opening = |id| {
            let (file, mut slices) = unstored(key, id);
            slices.extend(planned(&file, &[1]));
            Opening {
                assignment: None,
                file,
                slices,
            }
        };
        let closings = vec![(open.slice.clone(), closing(None))];
        let closed = store.close_file(&open.file, at(5), Reason::Definition, closings, None);
        closed.await.expect("closed");
        store.delete_sink(key, switch()).await.expect("deleted");
        // The slice of the deleted sink takes the rejects of the new one, until the coordinator decides otherwise.
        let again = store.create_sink(open.sink.value.clone(), Some(opening(40)));
        again.await.expect("created");
        let ids: Vec<_> = looked(store, &open)
            .await
            .rejects()
            .map(|it| it.value.id)
            .collect();
        assert_eq!(ids, [slice.value.id]);

        let mut other = open.sink.value.clone();
        other.key.sink = "other".parse().expect("valid");
        let mut first = opening(41);
        first.file.sink = other.key.clone();
        for slice in &mut first.slices {
            slice.sink = other.key.clone();
        }
        let id = first.slices[1].id;
        let created = store.create_sink(other.clone(), Some(first)).await;
        created.expect("created");
        assert_eq!(
            read_slice(store, &other.key, id).await.value.kind,
            Kind::Rejects
        );
    })
    .await;
}

#[tokio::test]
async fn a_volume_that_is_given_up_takes_its_rejects_with_it_and_gets_no_new_ones() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let (open, slice) = opened(store).await;
        assert!(
            store
                .put_crossed(crossed(&slice.value))
                .await
                .expect("noted")
        );
        let by = node("n");
        let forgotten = store.forget_volume(slice.value.volume, &by, at(9));
        let loss = forgotten.await.expect("forgotten");
        assert_eq!(loss.slices, 2);
        let node = looked(store, &open).await;
        assert!(node.rejects_crossed.is_empty());
        let slice = node.rejects().next().expect("its record stays");
        assert!(slice.value.is_uploaded() && slice.value.object().is_none());
        store.remove_rejects(slice).await.expect("removed");
        // A coordinator that has not heard of it.
        assert_exists(
            store
                .open_rejects(&open.file, planned(&open.file.value, &[1]))
                .await,
        );
    })
    .await;
}
