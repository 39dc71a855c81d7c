//! The mirror shows what a fresh list would.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use stream_model::file::State as FileState;
use stream_model::slice::State as SliceState;
use stream_model::statistics::{Crossed, Figures};
use stream_model::trigger::Reason;
use stream_model::{FileId, SinkKey, SliceId};
use stream_state::{Mirror, SinkNode, StateError, Store, Topology};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::setup::*;
use crate::support::*;

struct Running {
    mirror: Mirror,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), StateError>>,
}

async fn start(store: &Store) -> Running {
    let (mirror, task) = Mirror::start(store).await.expect("listed");
    let cancel = CancellationToken::new();
    let task = tokio::spawn(task.run(cancel.clone()));
    Running {
        mirror,
        cancel,
        task,
    }
}

impl Running {
    async fn stop(self) {
        self.cancel.cancel();
        within(self.task)
            .await
            .expect("no panic")
            .expect("ends well");
    }
}

/// Compares the picture with one that is listed now, including what is derived from it.
async fn assert_equals_a_fresh_list(mirror: &Mirror, store: &Store) {
    let (fresh, _task) = Mirror::start(store).await.expect("listed");
    fresh.read(|fresh| {
        mirror.read(|mirror| {
            assert_eq!(mirror.sources, fresh.sources);
            for n in 1..=2 {
                let on_volume = |topology: &Topology| {
                    topology
                        .slices_of_volume(volume(n))
                        .cloned()
                        .collect::<Vec<_>>()
                };
                assert_eq!(on_volume(mirror), on_volume(fresh));
            }
            for node in fresh
                .sources
                .values()
                .flat_map(|source| source.sinks.values())
            {
                for (id, slice) in &node.slices {
                    assert_eq!(mirror.slice(*id), Some(slice));
                }
            }
        });
    });
}

#[tokio::test]
async fn is_filled_when_it_starts_and_follows_every_change() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        store
            .create_source(source("before"))
            .await
            .expect("created");
        let running = start(store).await;
        let mirror = &running.mirror;
        assert!(mirror.read(|t| t.sources.contains_key(&source_key("before"))));
        let before = mirror.revision();
        let open = open(store).await;
        within(mirror.reached(open.sink.revision)).await;
        mirror.read(|topology| {
            assert!(topology.revision >= open.sink.revision);
            let node = topology.sink(&open.sink.value.key).expect("is there");
            assert_eq!(node.sink.as_deref(), Some(&open.sink));
            assert_eq!(node.current, Some(file_id(1)));
            assert_eq!(
                topology.slice(slice_id(1)).map(AsRef::as_ref),
                Some(&open.slice)
            );
            let changed: Vec<_> = topology.changed_since(before).collect();
            assert_eq!(changed, [&source_key("orders")]);
        });
        assert_equals_a_fresh_list(mirror, store).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn never_shows_half_of_a_transaction() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let running = start(store).await;
        let mirror = running.mirror.clone();
        // A thread of its own: tasks of this runtime would never look between two steps of another one.
        let watcher = tokio::task::spawn_blocking(move || {
            let look = |topology: &Topology| {
                let nodes = || topology.sources.values().flat_map(|s| s.sinks.values());
                assert!(nodes().all(is_whole));
                nodes().any(|node| node.files.len() >= 20)
            };
            let given_up = Instant::now() + DEADLINE;
            while !mirror.read(look) && Instant::now() < given_up {
                std::thread::yield_now();
            }
        });
        let open = open(store).await;
        let key = &open.sink.value.key;
        let (mut file, mut slice_now) = (open.file, open.slice);
        for n in 2..=20 {
            let closings = vec![(slice_now, closing(Some(slice_id(n))))];
            let next = Some(unstored(key, n));
            let closed = store
                .close_file(&file, at(5), Reason::Interval, closings, next)
                .await
                .expect("closed");
            file = closed.next.expect("is open");
            slice_now = read_slice(store, key, slice_id(n)).await;
        }
        within(watcher).await.expect("was whole each time");
        running.stop().await;
    })
    .await;
}

/// What every transaction leaves true: the current file is the one that writes, and only it has writing slices.
fn is_whole(node: &SinkNode) -> bool {
    let writing_files: Vec<FileId> = node
        .files
        .values()
        .filter(|file| file.value.state == FileState::Writing)
        .map(|file| file.value.id)
        .collect();
    let slices_fit = node
        .slices
        .values()
        .filter(|slice| slice.value.state == SliceState::Writing)
        .all(|slice| Some(slice.value.file) == node.current);
    writing_files == node.current.into_iter().collect::<Vec<_>>() && slices_fit
}

/// Does some random verb on a sink. Which ones are possible is read from the mirror.
async fn random_step(
    store: &Store,
    mirror: &Mirror,
    key: &SinkKey,
    rng: &mut StdRng,
) -> Option<i64> {
    let node = mirror.read(|topology| topology.sink(key).cloned())?;
    let sink = node.sink.clone()?;
    let fresh = |rng: &mut StdRng| {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        bytes
    };
    let file = node.current.and_then(|id| node.files.get(&id)).cloned();
    let Some(file) = file else {
        let file = crate::support::file(key, FileId::from_bytes(fresh(rng)), &[volume(1)]);
        let slices = vec![slice(&file, SliceId::from_bytes(fresh(rng)), volume(1))];
        let opened = store
            .open_file(&sink, None, file, slices)
            .await
            .expect("opened");
        return Some(opened.revision);
    };
    let slices: Vec<_> = node.slices.values().cloned().collect();
    let some_slice = slices.choose(rng)?;
    let writing = slices
        .iter()
        .find(|s| s.value.state == SliceState::Writing)?;
    match rng.random_range(0..8) {
        0 => {
            let successor = slice(&file.value, SliceId::from_bytes(fresh(rng)), volume(1));
            let how = closing(Some(successor.id));
            let rotated = store.rotate_slice(&file, writing, how, successor).await;
            Some(rotated.expect("rotated").closed.revision)
        }
        1 => {
            let closings = vec![(writing.as_ref().clone(), closing(None))];
            let closed = store
                .close_file(&file, at(1), Reason::Interval, closings, None)
                .await;
            Some(closed.expect("closed").file.revision)
        }
        2 => {
            let crossed = Crossed {
                sink: key.clone(),
                slice: writing.value.id,
                volume: volume(1),
                reason: Reason::Size,
                figures: Figures::default(),
                later_hours: stream_model::hours::LaterHours::default(),
                at: at(1),
            };
            store.put_crossed(crossed).await.expect("noted");
            None
        }
        3 => import_or_remove(store, &node).await,
        _ => match &some_slice.value.state {
            SliceState::Writing => {
                let retry = stream_model::retry::Retry::next(None, "x".to_owned(), at(1));
                let failed = store.fail_slice(some_slice, retry).await.expect("noted");
                Some(failed.revision)
            }
            SliceState::Closing(_) => {
                let seal = seal(rng.random_range(0..3), 1);
                let sealed = store.seal_slice(some_slice, seal, 1).await.expect("sealed");
                Some(sealed.revision)
            }
            SliceState::Uploading { .. } => {
                let uploaded = store
                    .upload_slice(some_slice, "o".to_owned(), at(1), 1)
                    .await;
                Some(uploaded.expect("uploaded").revision)
            }
            SliceState::Uploaded { .. } => None,
        },
    }
}

/// Takes the first file that is ready for it one step further.
async fn import_or_remove(store: &Store, node: &SinkNode) -> Option<i64> {
    for file in node.files.values() {
        let slices: Vec<_> = node
            .slices
            .values()
            .filter(|slice| slice.value.file == file.value.id)
            .map(|slice| slice.as_ref().clone())
            .collect();
        let step = match &file.value.state {
            FileState::Closing { .. } if slices.iter().all(|s| s.value.is_uploaded()) => store
                .begin_import(file, &slices, at(2))
                .await
                .map(|file| file.revision),
            FileState::Importing { .. } => store
                .complete_import(file, at(3), 1)
                .await
                .map(|file| file.revision),
            FileState::Imported { .. } => store.remove_file(file, &slices).await,
            FileState::Writing | FileState::Closing { .. } => continue,
        };
        return Some(step.expect("goes on"));
    }
    None
}

#[tokio::test]
async fn equals_a_fresh_list_after_any_sequence_of_verbs() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let mut rng = StdRng::seed_from_u64(20_260_101);
        store
            .raise_incarnation(volume(1), &node("n"))
            .await
            .expect("raised");
        let running = start(store).await;
        let mut sinks = Vec::new();
        for name in ["a", "a-2", "b"] {
            store.create_source(source(name)).await.expect("created");
            let key = sink_key(name, "s");
            let sink = store
                .create_sink(sink(name, "s"), None)
                .await
                .expect("created");
            within(running.mirror.reached(sink.revision)).await;
            sinks.push(key);
        }
        for _ in 0..250 {
            let key = sinks.choose(&mut rng).expect("some");
            let step = random_step(store, &running.mirror, key, &mut rng).await;
            if let Some(revision) = step {
                within(running.mirror.reached(revision)).await;
                let whole = running
                    .mirror
                    .read(|topology| topology.sink(key).is_some_and(is_whole));
                assert!(whole, "{key}");
            }
        }
        let last = store
            .delete_source(&source_key("b"), switch())
            .await
            .expect("deleted");
        within(running.mirror.reached(last.source.revision)).await;
        assert_equals_a_fresh_list(&running.mirror, store).await;
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn survives_a_compaction_of_what_it_has_not_seen() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        store
            .create_source(source("untouched"))
            .await
            .expect("created");
        let (mirror, task) = Mirror::start(store).await.expect("listed");
        let before = mirror.revision();

        // Missed: a slice comes, another one and a file change, a crossed limit goes.
        let rotation = rotated(store, &open).await;
        let closings = vec![(rotation.successor, closing(None))];
        let last = store
            .close_file(&open.file, at(5), Reason::Interval, closings, None)
            .await
            .expect("closed")
            .file;
        fixture
            .client
            .clone()
            .compact(last.revision, None)
            .await
            .expect("compacted");

        let cancel = CancellationToken::new();
        let task = tokio::spawn(task.run(cancel.clone()));
        within(mirror.reached(last.revision)).await;
        assert_equals_a_fresh_list(&mirror, store).await;
        mirror.read(|topology| {
            assert_eq!(
                topology
                    .sink(&open.sink.value.key)
                    .and_then(|node| node.current),
                None
            );
            let changed: Vec<_> = topology.changed_since(before).collect();
            assert_eq!(changed, [&source_key("orders")], "and nothing else");
        });
        // And goes on from there.
        let next = store.create_source(source("next")).await.expect("created");
        within(mirror.reached(next.revision)).await;
        cancel.cancel();
        within(task).await.expect("no panic").expect("ends well");
    })
    .await;
}

#[tokio::test]
async fn shows_the_old_picture_while_the_server_is_away_and_the_new_one_after() {
    let mut server = Embedded::start().await;
    let store = Store::open(server.client().await, "test")
        .await
        .expect("opens");
    let open = open(&store).await;
    let running = start(&store).await;
    let mirror = &running.mirror;
    server.stop().await;
    assert!(mirror.read(|t| t.slice(slice_id(1)).is_some()));
    let away = store
        .create_source(source("late"))
        .await
        .expect_err("nobody is there");
    assert_eq!(away.kind(), stream_model::ErrorKind::Unavailable, "{away}");

    server.start_again().await;
    // Another process writes, so that the mirror's own connection is what is tested.
    let other = Store::open(server.client().await, "test")
        .await
        .expect("opens");
    let late = other.create_source(source("late")).await.expect("created");
    within(mirror.reached(late.revision)).await;
    assert_equals_a_fresh_list(mirror, &other).await;
    assert!(mirror.read(|t| t.sink(&open.sink.value.key).is_some()));
    running.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn unreadable_entries_are_marked_and_do_not_stop_it() {
    on_every_server(async |mut fixture| {
        let open = open(&fixture.store).await;
        let running = start(&fixture.store).await;
        fixture.put_raw("entity/sink/1/1/orders/broken", "{").await;
        let file_key = format!("entity/file/1/1/orders/raw/{}", file_id(1));
        fixture.put_raw(&file_key, r#"{"v":99}"#).await;
        fixture.put_raw("entity/something/else", "{}").await;
        let store = &fixture.store;
        let last = store.create_source(source("good")).await.expect("created");
        within(running.mirror.reached(last.revision)).await;
        let look = |topology: &Topology| {
            let node = &topology.sources[&source_key("orders")];
            node.unreadable
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        let broken = running.mirror.read(look);
        assert_eq!(broken, ["entity/sink/1/1/orders/broken", file_key.as_str()]);
        let kept = running.mirror.read(|topology| {
            let node = topology.sink(&open.sink.value.key).expect("is there");
            node.files.contains_key(&file_id(1))
        });
        assert!(kept, "what was readable is still shown");
        let (fresh, _task) = Mirror::start(store).await.expect("listed");
        assert_eq!(fresh.read(look), broken);
        running.stop().await;
    })
    .await;
}

#[tokio::test]
async fn handles_are_shared_and_waiting_ends_for_all() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let running = start(store).await;
        let (one, two) = (running.mirror.clone(), running.mirror.clone());
        let created = store.create_source(source("a")).await.expect("created");
        within(async {
            tokio::join!(one.reached(created.revision), two.reached(created.revision));
        })
        .await;
        assert_eq!(one.revision(), two.revision());
        assert!(one.staleness() < DEADLINE);
        running.stop().await;
    })
    .await;
}
