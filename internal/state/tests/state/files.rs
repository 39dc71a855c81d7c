//! Opening, rotating, sealing, uploading and closing.

use stream_model::retry::Retry;
use stream_model::slice::{Slice, State};
use stream_model::statistics::Crossed;
use stream_model::trigger::Reason;
use stream_model::{ErrorKind, file as model_file};
use stream_state::{Mirror, StateError, Store, Versioned};

use crate::setup::*;
use crate::support::*;

/// Rotates slice 1 to slice 2 and seals it with that many rows.
async fn sealed(store: &Store, open: &Open, rows: u64) -> Versioned<Slice> {
    let closed = rotated(store, open).await.closed;
    store
        .seal_slice(&closed, seal(rows, open.incarnation), open.incarnation)
        .await
        .expect("sealed")
}

#[tokio::test]
async fn a_second_writing_file_is_impossible() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let (second, slices) = unstored(&open.sink.value.key, 2);
        let error = store
            .open_file(&open.sink, None, second, slices)
            .await
            .expect_err("one is writing");
        assert!(
            matches!(&error, StateError::AlreadyExists { key }
            if key == "entity/current/1/1/orders/raw"),
            "{error}"
        );
    })
    .await;
}

#[tokio::test]
async fn of_many_concurrent_openings_one_wins() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let [sink] = unopened(store, ["raw"]).await;
        let try_open = |n: u8| {
            let (file, slices) = unstored(&sink.value.key, n);
            store.open_file(&sink, None, file, slices)
        };
        let (a, b, c) = tokio::join!(try_open(1), try_open(2), try_open(3));
        let won = [a, b, c].into_iter().filter(Result::is_ok).count();
        assert_eq!(won, 1);
    })
    .await;
}

#[tokio::test]
async fn opening_needs_the_newest_sink() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let [stale] = unopened(store, ["raw"]).await;
        let new = store
            .update_sink(&stale.value.key, |mut sink| {
                sink.version = version(2);
                Ok::<_, StateError>(sink)
            })
            .await
            .expect("updated");
        let opened = |mapping_version| {
            let (mut file, mut slices) = unstored(&stale.value.key, 1);
            file.mapping_version = mapping_version;
            slices[0].mapping_version = mapping_version;
            (file, slices)
        };
        let (file, slices) = opened(1);
        assert_conflict(
            store.open_file(&stale, None, file, slices).await,
            "entity/sink",
        );
        let (file, slices) = opened(2);
        store
            .open_file(&new, None, file, slices)
            .await
            .expect("opened");
    })
    .await;
}

#[tokio::test]
async fn rotation_closes_opens_and_clears_the_crossed_limit_at_once() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        assert!(
            store
                .put_crossed(crossed(&open.slice.value))
                .await
                .expect("noted")
        );
        let rotation = rotated(store, &open).await;
        assert_eq!(rotation.closed.revision, rotation.successor.revision);
        let key = &open.sink.value.key;
        assert_eq!(read_slice(store, key, slice_id(1)).await, rotation.closed);
        assert_eq!(
            read_slice(store, key, slice_id(2)).await,
            rotation.successor
        );
        let (mirror, _task) = stream_state::Mirror::start(store).await.expect("listed");
        mirror.read(|topology| {
            let node = topology.sink(key).expect("is there");
            assert!(node.crossed.is_empty());
            assert_eq!(node.slices.len(), 2);
        });
    })
    .await;
}

#[tokio::test]
async fn rotation_is_refused_when_the_file_or_the_slice_has_changed() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let successor = || slice(&open.file.value, slice_id(2), volume(1));
        let stale = Versioned::new(open.slice.value.clone(), open.slice.revision - 1);
        let rotated = store
            .rotate_slice(&open.file, &stale, closing(Some(slice_id(2))), successor())
            .await;
        assert_conflict(rotated, "entity/slice");
        let stale = Versioned::new(open.file.value.clone(), open.file.revision - 1);
        let rotated = store
            .rotate_slice(&stale, &open.slice, closing(Some(slice_id(2))), successor())
            .await;
        assert_conflict(rotated, "entity/file");
        // Not the successor that the closing names.
        let error = store
            .rotate_slice(&open.file, &open.slice, closing(None), successor())
            .await
            .expect_err("names no successor");
        assert!(matches!(error, StateError::Violation(_)), "{error}");
        assert!(
            store
                .slice(&open.sink.value.key, slice_id(2))
                .await
                .expect("read")
                .is_none()
        );
    })
    .await;
}

#[tokio::test]
async fn a_slice_goes_from_writing_to_uploaded() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let sealed = sealed(store, &open, 3).await;
        let mut other_bytes = seal(3, open.incarnation);
        other_bytes.checksum = "11".repeat(32);
        let resealed = store
            .reseal_slice(&sealed, other_bytes, open.incarnation)
            .await
            .expect("sealed again");
        let object = "objects/1".to_owned();
        assert_conflict(
            store
                .upload_slice(&sealed, object.clone(), at(9), open.incarnation)
                .await,
            "entity/slice",
        );
        let uploaded = store
            .upload_slice(&resealed, object, at(9), open.incarnation)
            .await
            .expect("uploaded");
        assert_eq!(uploaded.value.object(), Some("objects/1"));
        assert_eq!(
            read_slice(store, &open.sink.value.key, slice_id(1)).await,
            uploaded
        );
    })
    .await;
}

#[tokio::test]
async fn an_empty_slice_is_uploaded_by_its_seal() {
    on_every_server(async |fixture| {
        let open = open(&fixture.store).await;
        let sealed = sealed(&fixture.store, &open, 0).await;
        assert!(sealed.value.is_uploaded());
        assert_eq!(sealed.value.object(), None);
    })
    .await;
}

#[tokio::test]
async fn a_holder_of_an_older_incarnation_can_neither_seal_nor_upload() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let sealed = sealed(store, &open, 3).await;
        let ours = open.incarnation;
        let newest = store
            .raise_incarnation(volume(1), &node("m"))
            .await
            .expect("raised");
        assert_eq!(newest, ours + 1);
        let upload = store
            .upload_slice(&sealed, "o".to_owned(), at(9), ours)
            .await;
        let reseal = store.reseal_slice(&sealed, seal(3, ours), ours).await;
        for refused in [upload, reseal] {
            let error = refused.expect_err("is stale");
            assert!(
                matches!(
                    error,
                    StateError::StaleIncarnation {
                        newest: 2,
                        ours: 1,
                        ..
                    }
                ),
                "{error}"
            );
            assert_eq!(error.kind(), ErrorKind::Conflict);
        }
        let lying = store.reseal_slice(&sealed, seal(3, ours), newest).await;
        assert_eq!(lying.expect_err("names another").kind(), ErrorKind::Invalid);
        store
            .upload_slice(&sealed, "o".to_owned(), at(9), newest)
            .await
            .expect("the present holder may");
    })
    .await;
}

#[tokio::test]
async fn sealing_is_not_disturbed_by_the_end_of_recovery() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let recover = store.mark_recovered(volume(1), open.incarnation);
        let (recovered, sealed) = tokio::join!(recover, sealed(store, &open, 3));
        recovered.expect("recovered");
        assert_eq!(sealed.value.state.name(), "uploading");
    })
    .await;
}

#[tokio::test]
async fn limits_are_noted_once_and_on_writing_slices_only() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let first = crossed(&open.slice.value);
        assert!(store.put_crossed(first.clone()).await.expect("noted"));
        let again = Crossed {
            reason: Reason::Size,
            ..first.clone()
        };
        assert!(store.put_crossed(again).await.expect("is noted already"));
        let (mirror, _task) = stream_state::Mirror::start(store).await.expect("listed");
        let noted = mirror.read(|topology| {
            let node = topology.sink(&open.sink.value.key).expect("is there");
            node.crossed
                .values()
                .map(|c| c.value.clone())
                .collect::<Vec<_>>()
        });
        assert_eq!(noted, std::slice::from_ref(&first));

        let elsewhere = Crossed {
            volume: volume(9),
            ..first.clone()
        };
        assert_eq!(
            store
                .put_crossed(elsewhere)
                .await
                .expect_err("other volume")
                .kind(),
            ErrorKind::Invalid
        );
        let _ = sealed(store, &open, 3).await;
        assert!(!store.put_crossed(first.clone()).await.expect("too late"));
        let unknown = Crossed {
            slice: slice_id(99),
            ..first
        };
        assert!(!store.put_crossed(unknown).await.expect("no such slice"));
    })
    .await;
}

#[tokio::test]
async fn closing_a_file_closes_its_slices_and_opens_the_next() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let key = &open.sink.value.key;
        store
            .put_crossed(crossed(&open.slice.value))
            .await
            .expect("noted");
        let closed = followed(store, &open, 2).await;
        let (mirror, _task) = stream_state::Mirror::start(store).await.expect("listed");
        mirror.read(|topology| {
            let node = topology.sink(key).expect("is there");
            assert_eq!(node.current, Some(file_id(2)));
            assert!(node.crossed.is_empty());
            assert_eq!(node.files[&file_id(1)].as_ref(), &closed.file);
            assert_eq!(Some(node.files[&file_id(2)].as_ref()), closed.next.as_ref());
            assert_eq!(node.slices[&slice_id(1)].value.state.name(), "closing");
            assert_eq!(node.slices[&slice_id(2)].value.state, State::Writing);
        });
        // The same again finds nothing to close.
        let closings = vec![(open.slice.clone(), closing(None))];
        let again = store
            .close_file(&open.file, at(6), Reason::Interval, closings, None)
            .await;
        assert_conflict(again, "entity/");
    })
    .await;
}

#[tokio::test]
async fn without_a_next_file_the_sink_can_be_opened_again_later() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let closings = vec![(open.slice.clone(), closing(None))];
        let closed = store
            .close_file(&open.file, at(5), Reason::Definition, closings, None)
            .await
            .expect("closed");
        assert!(closed.next.is_none());
        let (again, slices) = unstored(&open.sink.value.key, 2);
        store
            .open_file(&open.sink, None, again, slices)
            .await
            .expect("opened");
    })
    .await;
}

#[tokio::test]
async fn a_file_is_not_closed_while_one_of_its_slices_goes_on_writing() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let left_out = store
            .close_file(&open.file, at(5), Reason::Interval, vec![], None)
            .await;
        assert_conflict(left_out, "entity/slice");
        // The slice was rotated after the coordinator looked.
        let _ = sealed(store, &open, 3).await;
        let closings = vec![(open.slice.clone(), closing(None))];
        let late = store
            .close_file(&open.file, at(5), Reason::Interval, closings, None)
            .await;
        assert_conflict(late, "entity/slice");
        let file = read_file(store, &open.sink.value.key, file_id(1)).await;
        assert_eq!(file.value.state, model_file::State::Writing);
    })
    .await;
}

#[tokio::test]
async fn the_next_file_needs_the_newest_version_of_an_enabled_sink() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let key = &open.sink.value.key;
        store
            .update_sink(key, |mut sink| {
                sink.version = version(2);
                Ok::<_, StateError>(sink)
            })
            .await
            .expect("updated");
        let close = |mapping_version| {
            let (mut next, mut slices) = unstored(key, 2);
            next.mapping_version = mapping_version;
            slices[0].mapping_version = mapping_version;
            let closings = vec![(open.slice.clone(), closing(Some(slice_id(2))))];
            store.close_file(
                &open.file,
                at(5),
                Reason::Definition,
                closings,
                Some((next, slices)),
            )
        };
        assert_conflict(close(1).await, "entity/sink");
        store.delete_sink(key, switch()).await.expect("deleted");
        assert_conflict(close(2).await, "entity/sink");
        let closings = vec![(open.slice.clone(), closing(None))];
        store
            .close_file(&open.file, at(5), Reason::Definition, closings, None)
            .await
            .expect("a deleted sink is closed");
    })
    .await;
}

#[tokio::test]
async fn a_file_with_more_slices_than_a_transaction_holds_is_closed_in_several() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let [sink] = unopened(store, ["raw"]).await;
        let volumes: Vec<_> = (0..100).map(volume).collect();
        let opened = |id: u8| {
            let file = file(&sink.value.key, file_id(id), &volumes);
            let slices: Vec<Slice> = (0..100)
                .map(|n| {
                    let mut bytes = [n; 16];
                    bytes[0] = id;
                    slice(&file, stream_model::SliceId::from_bytes(bytes), volume(n))
                })
                .collect();
            (file, slices)
        };
        let (file, slices) = opened(1);
        let file = store
            .open_file(&sink, None, file, slices.clone())
            .await
            .expect("a hundred volumes fit");
        let first = slices.clone();
        let closings = slices
            .into_iter()
            .zip(opened(2).1)
            .map(|(value, next)| {
                let closing = closing(Some(next.id));
                (Versioned::new(value, file.revision), closing)
            })
            .collect();
        let closed = store
            .close_file(&file, at(5), Reason::Interval, closings, Some(opened(2)))
            .await
            .expect("in several transactions");
        let key = &sink.value.key;
        assert_eq!(read_file(store, key, file_id(1)).await, closed.file);
        assert_eq!(closed.next.expect("the next").value.volumes.len(), 100);
        for slice in &first {
            let slice = read_slice(store, key, slice.id).await;
            assert!(matches!(slice.value.state, State::Closing(_)));
        }
        for slice in &opened(2).1 {
            let slice = read_slice(store, key, slice.id).await;
            assert_eq!(slice.value.state, State::Writing);
        }
    })
    .await;
}

#[tokio::test]
async fn what_an_interrupted_closing_left_is_closed_later() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let key = open.sink.value.key.clone();
        let early = store
            .close_slices(&open.file, vec![(open.slice.clone(), closing(None))])
            .await;
        let error = early.expect_err("the file is writing");
        assert!(matches!(error, StateError::Violation(_)), "{error}");

        // As if the process had died between the two transactions.
        let mut fixture = fixture;
        let file_key = format!("entity/file/{key}/{}", file_id(1));
        let mut value = fixture.raw(&file_key).await;
        value["state"] = serde_json::json!({
            "name": "closing", "at": at(5).to_string(), "reason": "interval",
        });
        fixture.put_raw(&file_key, &value.to_string()).await;
        let store = &fixture.store;
        store
            .put_crossed(crossed(&open.slice.value))
            .await
            .expect("the slice takes rows still");
        let file = read_file(store, &key, file_id(1)).await;
        let closings = vec![(open.slice.clone(), closing(None))];
        store
            .close_slices(&file, closings.clone())
            .await
            .expect("closed");
        let closed = read_slice(store, &key, slice_id(1)).await;
        assert!(matches!(closed.value.state, State::Closing(_)));
        let listed = Mirror::start(store).await.expect("starts").0;
        let left = listed.read(|topology| topology.sink(&key).map(|sink| sink.crossed.len()));
        assert_eq!(left, Some(0));
        assert_conflict(store.close_slices(&file, closings).await, "entity/slice");
    })
    .await;
}

#[tokio::test]
async fn a_late_slice_moves_to_the_next_file() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let key = &open.sink.value.key;
        let early = store
            .move_slice(&open.slice, &open.file, &open.file)
            .await
            .expect_err("is writing");
        assert_eq!(early.kind(), ErrorKind::Invalid);
        let closed = followed(store, &open, 2).await;
        let late = read_slice(store, key, slice_id(1)).await;
        let to = closed.next.expect("is open");
        let moved = store
            .move_slice(&late, &closed.file, &to)
            .await
            .expect("moved");
        assert_eq!(moved.value.file, file_id(2));
        assert_conflict(
            store.move_slice(&late, &closed.file, &to).await,
            "entity/slice",
        );
        let sealed = store
            .seal_slice(&moved, seal(0, open.incarnation), open.incarnation)
            .await
            .expect("sealed");
        assert!(sealed.value.is_uploaded());
    })
    .await;
}

#[tokio::test]
async fn failures_are_noted_until_the_step_is_done() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let retry = Retry::next(None, "away".to_owned(), at(1));
        let file = store
            .fail_file(&open.file, retry.clone())
            .await
            .expect("noted");
        assert_eq!(file.value.retry.as_ref().map(|r| r.attempt), Some(1));
        assert_conflict(
            store.fail_file(&open.file, retry.clone()).await,
            "entity/file",
        );
        let slice = store
            .fail_slice(&open.slice, retry.clone())
            .await
            .expect("noted");
        assert_eq!(
            slice.value.retry.as_ref().map(|r| r.reason.as_str()),
            Some("away")
        );

        let open = Open {
            file,
            slice,
            ..open
        };
        let empty = sealed(store, &open, 0).await;
        assert_eq!(empty.value.retry, None);
        let error = store
            .fail_slice(&empty, retry)
            .await
            .expect_err("is uploaded");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    })
    .await;
}
