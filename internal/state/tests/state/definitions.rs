//! Sources and sinks.

use stream_model::definition::{MAX_CHILDREN, Source};
use stream_model::file::State;
use stream_model::{ErrorKind, slice};
use stream_state::{Opening, StateError, Store};

use crate::setup::*;
use crate::support::*;

fn named(mut source: Source, name: &str) -> Source {
    name.clone_into(&mut source.name);
    source
}

#[tokio::test]
async fn created_source_is_read_back_with_its_revision() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        assert!(
            store
                .source(&source_key("a"))
                .await
                .expect("read")
                .is_none()
        );
        let created = store.create_source(source("a")).await.expect("created");
        let read = store.source(&source_key("a")).await.expect("read");
        assert_eq!(read, Some(created));
    })
    .await;
}

#[tokio::test]
async fn live_source_cannot_be_created_again_but_a_deleted_one_can_and_goes_on_counting() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        store.create_source(source("a")).await.expect("created");
        let again = store.create_source(source("a")).await.expect_err("lives");
        assert!(matches!(again, StateError::AlreadyExists { .. }), "{again}");
        assert_eq!(again.kind(), ErrorKind::Conflict);

        store
            .delete_source(&source_key("a"), switch())
            .await
            .expect("deleted");
        let gone = store.delete_source(&source_key("a"), switch()).await;
        assert_eq!(gone.expect_err("is deleted").kind(), ErrorKind::NotFound);
        let revived = store.create_source(source("a")).await.expect("created");
        assert_eq!(revived.value.version.number, 2);
        let versions = store.source_versions(&source_key("a")).await.expect("read");
        let numbers: Vec<u64> = versions.iter().map(|v| v.version.number).collect();
        assert_eq!(numbers, [1, 2]);
    })
    .await;
}

#[tokio::test]
async fn list_of_one_source_does_not_cover_a_longer_name() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        for name in ["a", "a-2", "a0"] {
            store.create_source(source(name)).await.expect("created");
            store
                .create_sink(sink(name, "s"), None)
                .await
                .expect("created");
        }
        let sinks = store.sinks(&source_key("a")).await.expect("listed");
        assert_eq!(sinks.len(), 1);
        let tree = store
            .delete_source(&source_key("a"), switch())
            .await
            .expect("deleted");
        assert_eq!(tree.sinks.len(), 1);
        for other in ["a-2", "a0"] {
            let sink = store.sink(&sink_key(other, "s")).await.expect("read");
            assert!(sink.expect("is there").value.deleted.is_none(), "{other}");
        }
        let names: Vec<String> = store
            .sources(&branch())
            .await
            .expect("listed")
            .into_iter()
            .map(|source| source.value.name)
            .collect();
        assert_eq!(names, ["a", "a-2", "a0"]);
    })
    .await;
}

#[tokio::test]
async fn concurrent_updates_are_all_applied() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        store.create_source(source("a")).await.expect("created");
        let append = |letter: char| {
            let store = store.clone();
            async move {
                let change = |mut source: Source| {
                    source.description.push(letter);
                    Ok::<_, StateError>(source)
                };
                store.update_source(&source_key("a"), change).await
            }
        };
        let (a, b, c, d) = tokio::join!(append('a'), append('b'), append('c'), append('d'));
        for updated in [a, b, c, d] {
            updated.expect("updated");
        }
        let read = store
            .source(&source_key("a"))
            .await
            .expect("read")
            .expect("is there");
        let mut letters: Vec<char> = read.value.description.chars().collect();
        letters.sort_unstable();
        assert_eq!(letters, ['a', 'b', 'c', 'd']);
    })
    .await;
}

#[tokio::test]
async fn update_that_breaks_a_rule_is_refused() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        store.create_source(source("a")).await.expect("created");
        let key = source_key("a");
        let renamed = store
            .update_source(&key, |_| Ok::<_, StateError>(source("b")))
            .await
            .expect_err("another identifier");
        assert_eq!(renamed.kind(), ErrorKind::Invalid);
        let back = store
            .update_source(&key, |mut source| {
                source.version = version(0);
                Ok::<_, StateError>(source)
            })
            .await;
        assert_eq!(back.expect_err("goes back").kind(), ErrorKind::Invalid);
        let missing = store
            .update_source(&source_key("none"), Ok::<_, StateError>)
            .await;
        assert_eq!(missing.expect_err("is missing").kind(), ErrorKind::NotFound);
        let own: Result<_, OwnError> = store.update_source(&key, |_| Err(OwnError::Mine)).await;
        assert!(matches!(own, Err(OwnError::Mine)));
    })
    .await;
}

#[derive(Debug)]
enum OwnError {
    Mine,
    #[expect(dead_code, reason = "only has to be convertible")]
    State(StateError),
}

impl From<StateError> for OwnError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

#[tokio::test]
async fn a_new_version_is_kept_and_an_unchanged_one_is_not_written_twice() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let created = store.create_source(source("a")).await.expect("created");
        let same = store
            .update_source(&source_key("a"), Ok::<_, StateError>)
            .await
            .expect("nothing to do");
        assert_eq!(same, created);
        let change = |source: Source| {
            let mut source = named(source, "new");
            source.version = version(2);
            Ok::<_, StateError>(source)
        };
        store
            .update_source(&source_key("a"), change)
            .await
            .expect("updated");
        let old = store
            .source_version(&source_key("a"), 1)
            .await
            .expect("read");
        assert_eq!(old.expect("is kept").name, "a");
        let new = store
            .source_version(&source_key("a"), 2)
            .await
            .expect("read");
        assert_eq!(new.expect("is kept").name, "new");
    })
    .await;
}

async fn fill(store: &Store) {
    store.create_source(source("full")).await.expect("created");
    for i in 0..MAX_CHILDREN {
        let sink = sink("full", &format!("s{i}"));
        store.create_sink(sink, None).await.expect("created");
    }
}

#[tokio::test]
async fn limit_counts_live_ones_only_and_holds_for_reviving_too() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        fill(store).await;
        let more = store.create_sink(sink("full", "more"), None).await;
        let error = more.expect_err("too many");
        assert!(
            matches!(error, StateError::LimitReached { limit: 100, .. }),
            "{error}"
        );

        let first = sink_key("full", "s0");
        store.delete_sink(&first, switch()).await.expect("deleted");
        store
            .create_sink(sink("full", "more"), None)
            .await
            .expect("there is room");
        let revive = |mut sink: stream_model::definition::Sink| {
            sink.deleted = None;
            Ok::<_, StateError>(sink)
        };
        let error = store
            .update_sink(&first, revive)
            .await
            .expect_err("too many");
        assert!(matches!(error, StateError::LimitReached { .. }), "{error}");

        // The source and its hundred live sinks are deleted by one transaction.
        let tree = store
            .delete_source(&source_key("full"), switch())
            .await
            .expect("deleted");
        assert_eq!(tree.sinks.len(), 101);
        for sink in &tree.sinks {
            let deleted = sink.value.deleted.as_ref().expect("deleted");
            assert_eq!(
                deleted.directly,
                sink.value.key == first,
                "{}",
                sink.value.key
            );
        }
        let orphan = store
            .update_sink(&first, revive)
            .await
            .expect_err("no live source");
        assert_eq!(orphan.kind(), ErrorKind::NotFound);
    })
    .await;
}

#[tokio::test]
async fn a_sink_that_is_created_during_a_deletion_does_not_survive_it() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        store.create_source(source("a")).await.expect("created");
        let key = source_key("a");
        let create = async {
            for i in 0..20 {
                let created = store.create_sink(sink("a", &format!("s{i}")), None).await;
                if let Err(error) = created {
                    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                }
            }
        };
        let delete = async { store.delete_source(&key, switch()).await.expect("deleted") };
        tokio::join!(create, delete);
        let sinks = store.sinks(&source_key("a")).await.expect("listed");
        assert!(sinks.iter().all(|sink| sink.value.deleted.is_some()));
    })
    .await;
}

#[tokio::test]
async fn the_first_sink_of_a_source_does_not_survive_it_either() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        for round in 0..40 {
            let name = format!("source-{round}");
            store.create_source(source(&name)).await.expect("created");
            let key = source_key(&name);
            let create = async {
                // A few steps later each time, so that the deletion falls into every gap.
                for _ in 0..round % 4 {
                    store.source(&key).await.expect("read");
                }
                store.create_sink(sink(&name, "first"), None).await
            };
            let (_, deleted) = tokio::join!(create, store.delete_source(&key, switch()));
            deleted.expect("deleted");
            let sinks = store.sinks(&key).await.expect("listed");
            assert!(sinks.iter().all(|sink| sink.value.deleted.is_some()));
        }
    })
    .await;
}

#[tokio::test]
async fn sink_is_created_together_with_its_file_slices_and_assignment() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        assert_eq!(open.file.revision, open.sink.revision);
        assert_eq!(open.slice.revision, open.sink.revision);
        assert_eq!(open.file.value.state, State::Writing);
        let assignment = store.assignment(&source_key("orders")).await.expect("read");
        assert_eq!(assignment.expect("is there").value, [volume(1)]);
    })
    .await;
}

#[tokio::test]
async fn an_opening_that_does_not_fit_creates_nothing() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let open = open(store).await;
        let key = sink_key("orders", "second");
        let (file, slices) = unstored(&key, 2);
        let good = Opening {
            assignment: None,
            file,
            slices,
        };
        let mut foreign = good.clone();
        foreign.file.sink = open.sink.value.key.clone();
        let mut empty = good.clone();
        empty.slices.clear();
        let mut elsewhere = good.clone();
        elsewhere.slices[0].volume = volume(9);
        let mut closed = good.clone();
        closed.slices[0].state = slice::State::Closing(closing(None));
        for bad in [foreign, empty, elsewhere, closed] {
            let error = store
                .create_sink(sink("orders", "second"), Some(bad))
                .await
                .expect_err("does not fit");
            assert!(matches!(error, StateError::Violation(_)), "{error}");
        }
        // Somebody else has assigned volumes meanwhile.
        let late = Opening {
            assignment: Some(vec![volume(1)]),
            ..good.clone()
        };
        let error = store
            .create_sink(sink("orders", "second"), Some(late))
            .await
            .expect_err("assigned already");
        assert!(
            error.to_string().contains("entity/assignment/1/1/orders"),
            "{error}"
        );
        assert!(store.sink(&key).await.expect("read").is_none());
        store
            .create_sink(sink("orders", "second"), Some(good))
            .await
            .expect("fits");
    })
    .await;
}

#[tokio::test]
async fn a_recreated_sink_opens_its_file_under_the_next_version() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let key = unopened(store, ["raw"]).await[0].value.key.clone();
        store.delete_sink(&key, switch()).await.expect("deleted");
        let sink = store
            .create_sink(sink("orders", "raw"), Some(opening(&key)))
            .await
            .expect("created");
        assert_eq!(sink.value.version.number, 2);
        assert_eq!(
            read_file(store, &key, file_id(1))
                .await
                .value
                .mapping_version,
            2
        );
        assert_eq!(
            read_slice(store, &key, slice_id(1))
                .await
                .value
                .mapping_version,
            2
        );
    })
    .await;
}

#[tokio::test]
async fn assignment_is_replaced_only_when_it_is_the_known_one() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        let key = source_key("orders");
        store
            .replace_assignment(&key, &[], vec![volume(1)])
            .await
            .expect("first");
        let stale = store.replace_assignment(&key, &[], vec![volume(2)]).await;
        assert_conflict(stale, "entity/assignment");
        store
            .replace_assignment(&key, &[volume(1)], vec![volume(2)])
            .await
            .expect("second");
        let stored = store
            .assignment(&key)
            .await
            .expect("read")
            .expect("is there");
        assert_eq!(stored.value, [volume(2)]);
    })
    .await;
}

#[tokio::test]
async fn long_lists_come_complete_and_sorted() {
    on_every_server(async |fixture| {
        let mut raw = fixture.client.clone();
        let store = &fixture.store;
        store.create_source(source("a")).await.expect("created");
        // More than two pages, written past the limit of live siblings.
        for chunk in (0..1_100).collect::<Vec<u32>>().chunks(100) {
            let puts: Vec<etcd_client::TxnOp> = chunk
                .iter()
                .map(|i| {
                    let mut json =
                        serde_json::to_value(sink("a", &format!("s{i:05}"))).expect("JSON");
                    json["v"] = 1.into();
                    let key = format!("{}/entity/sink/1/1/a/s{i:05}", fixture.namespace);
                    etcd_client::TxnOp::put(key, json.to_string(), None)
                })
                .collect();
            raw.txn(etcd_client::Txn::new().and_then(puts))
                .await
                .expect("written");
        }
        let sinks = store.sinks(&source_key("a")).await.expect("listed");
        assert_eq!(sinks.len(), 1_100);
        assert!(sinks.is_sorted_by(|a, b| a.value.key < b.value.key));
    })
    .await;
}
