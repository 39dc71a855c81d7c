//! Tables that are being dropped: nobody begins to use them meanwhile.

use std::collections::BTreeSet;

use futures_util::future::join;
use stream_model::SinkKey;
use stream_model::definition::Sink;
use stream_model::purge::Dropping;
use stream_state::{Mirror, StateError, Store, Versioned, audit};

use crate::support::*;

fn sink_of(name: &str, table_id: &str) -> Sink {
    let mut sink = sink("orders", name);
    table_id.clone_into(&mut sink.table.table_id);
    sink
}

fn dropping(sink: &Sink) -> Dropping {
    Dropping {
        sink: sink.key.clone(),
        kind: sink.table.kind,
        table_id: sink.table.table_id.clone(),
        at: at(9),
    }
}

/// A sink that is being purged.
async fn purging(store: &Store, name: &str, table_id: &str) -> Versioned<Sink> {
    let created = store.create_sink(sink_of(name, table_id), None).await;
    let key = created.expect("created").value.key;
    store.begin_sink_purge(&key, switch()).await.expect("begun")
}

async fn change_table(store: &Store, key: &SinkKey, table_id: &str) -> Result<(), StateError> {
    let changed = store.update_sink(key, |mut sink| {
        table_id.clone_into(&mut sink.table.table_id);
        sink.version = version(sink.version.number + 1);
        Ok::<_, StateError>(sink)
    });
    changed.await.map(|_| ())
}

fn assert_leaves<T: std::fmt::Debug>(result: Result<T, StateError>) {
    assert!(
        matches!(result, Err(StateError::TableLeaves { .. })),
        "{result:?}"
    );
}

async fn findings(store: &Store) -> Vec<String> {
    let snapshot = store.snapshot().await.expect("read");
    let findings = audit::check(&snapshot.entries, at(100)).into_iter();
    findings.map(|finding| finding.to_string()).collect()
}

#[tokio::test]
async fn no_sink_is_stored_with_a_table_that_is_being_dropped() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        store
            .create_source(source("orders"))
            .await
            .expect("created");
        let other = store.create_sink(sink_of("other", "u"), None).await;
        let other = other.expect("created").value.key;
        let leaving = purging(store, "raw", "t").await;
        let own = dropping(&leaving.value);
        let marked = store.mark_table(&own, leaving.revision).await;
        let again = store.mark_table(&own, leaving.revision).await;
        assert_eq!(marked.expect("marked"), again.expect("is its own"));
        assert_eq!(findings(store).await, [""; 0]);

        // Upper and lower case are the same for databases.
        assert_leaves(store.create_sink(sink_of("new", "T"), None).await);
        assert_leaves(change_table(store, &other, "t").await);
        let neighbour = purging(store, "neighbour", "v").await;
        let mut foreign = dropping(&leaving.value);
        foreign.sink = neighbour.value.key.clone();
        assert_leaves(store.mark_table(&foreign, neighbour.revision).await);
        store.unmark_table(&foreign).await.expect("not its own");
        assert_leaves(store.create_sink(sink_of("new", "t"), None).await);
        change_table(store, &other, "w").await.expect("another one");
        let renamed = store.update_sink(&other, |mut sink| {
            sink.name = "Renamed".to_owned();
            sink.version = version(3);
            Ok::<_, StateError>(sink)
        });
        renamed.await.expect("nothing to do with tables");

        store.unmark_table(&own).await.expect("unmarked");
        store.unmark_table(&own).await.expect("once more");
        let new = store.create_sink(sink_of("new", "t"), None).await;
        new.expect("the table is free");
        assert_eq!(findings(store).await, [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn a_mark_goes_with_the_purge_and_cannot_come_after_it() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        store
            .create_source(source("orders"))
            .await
            .expect("created");
        let leaving = purging(store, "raw", "t").await;
        let own = dropping(&leaving.value);
        let live = store.mark_table(&own, leaving.revision - 1).await;
        assert_conflict(live, "entity/sink");
        store
            .mark_table(&own, leaving.revision)
            .await
            .expect("marked");
        store.finish_sink_purge(&leaving).await.expect("finished");
        let late = store.mark_table(&own, leaving.revision).await;
        assert_conflict(late, "entity/sink");
        let new = store.create_sink(sink_of("raw", "t"), None).await;
        new.expect("the table is free");
        // Of a sink that is gone and whose table is elsewhere, and that is settled afterwards.
        let mut elsewhere = own.clone();
        elsewhere.sink = sink_key("orders", "gone");
        "u".clone_into(&mut elsewhere.table_id);
        let marked = store.mark_table(&elsewhere, 0).await;
        marked.expect("marked");
        let left = findings(store).await;
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(left[0].contains("entity/dropping/"), "{left:?}");
    })
    .await;
}

/// Whichever comes first: a sink is refused, or whoever drops the table sees it.
#[tokio::test]
async fn a_sink_that_is_stored_at_the_same_moment_is_refused_or_seen() {
    on_every_server(async |fixture| {
        let store = &fixture.store;
        store
            .create_source(source("orders"))
            .await
            .expect("created");
        let (mirror, task) = Mirror::start(store).await.expect("listed");
        let cancel = tokio_util::sync::CancellationToken::new();
        let following = tokio::spawn(task.run(cancel.clone()));
        let leaving = purging(store, "raw", "t").await;
        let own = dropping(&leaving.value);
        let mut outcomes = BTreeSet::new();
        for turn in 0..60 {
            let key = sink_key("orders", &format!("new-{turn}"));
            let new = sink_of(key.sink.as_str(), "t");
            // One of them gets a head start of some yields.
            let start = async |yields: u32| {
                for _ in 0..yields {
                    tokio::task::yield_now().await;
                }
            };
            let creating = async {
                start((turn % 7) * 3).await;
                store.create_sink(new, None).await
            };
            let looking = async {
                start((turn % 5) * 3).await;
                let marked = store.mark_table(&own, leaving.revision).await;
                mirror.reached(marked.expect("marked")).await;
                mirror.read(|topology| topology.sink(&key).is_some())
            };
            let (created, seen) = join(creating, looking).await;
            match created {
                Ok(created) => {
                    assert!(seen, "it would have lost its table");
                    let key = &created.value.key;
                    let begun = store.begin_sink_purge(key, switch()).await;
                    let begun = begun.expect("begun");
                    store.finish_sink_purge(&begun).await.expect("finished");
                }
                Err(error) => assert_leaves::<()>(Err(error)),
            }
            outcomes.insert(seen);
            store.unmark_table(&own).await.expect("unmarked");
        }
        eprintln!("seen: {outcomes:?}");
        cancel.cancel();
        following.await.expect("no panic").expect("it went well");
    })
    .await;
}
