//! Whether a table goes with its sink, decided while others create sinks.

use stream_model::Clock;
use stream_model::definition::Sink;
use stream_model::definition::sink::Switch;
use stream_model::purge::Dropping;
use stream_state::{Mirror, Store, Versioned};
use stream_target::Fate;
use tokio_util::sync::CancellationToken;

use super::definitions::{sink, source, stamp};
use super::world::{Base, PATIENCE};
use crate::fate::decide;

fn switch() -> Switch {
    Switch {
        stamp: stamp(1),
        directly: true,
    }
}

/// A sink of source `a` with table `t`.
async fn create(store: &Store, name: &str) -> Versioned<Sink> {
    let mut sink = sink(name);
    "t".clone_into(&mut sink.table.table_id);
    store.create_sink(sink, None).await.expect("created")
}

async fn is_marked(store: &Store) -> bool {
    let snapshot = store.snapshot().await.expect("readable");
    let mut keys = snapshot.entries.iter().map(|entry| entry.key.as_str());
    keys.any(|key| key.starts_with("entity/dropping/"))
}

/// What is decided of table `t` of a sink, by a process whose mirror begins to follow only when the table is marked.
async fn decided(
    base: &Base,
    leaving: &Versioned<Sink>,
    behind: (Mirror, stream_state::MirrorTask),
) -> Fate {
    let (store, (mirror, task)) = (&base.store, behind);
    let dropping = Dropping {
        sink: leaving.value.key.clone(),
        kind: leaving.value.table.kind,
        table_id: leaving.value.table.table_id.clone(),
        at: base.clock.now(),
    };
    let following = async {
        while !is_marked(store).await {}
        task.run(CancellationToken::new()).await
    };
    let deciding = tokio::time::timeout(
        PATIENCE,
        decide(store, &mirror, &dropping, leaving.revision),
    );
    let fate = tokio::select! {
        biased;
        fate = deciding => fate.expect("in time").expect("decided"),
        ended = following => panic!("the mirror ended: {ended:?}"),
    };
    store.unmark_table(&dropping).await.expect("unmarked");
    fate
}

#[tokio::test]
async fn a_sink_that_this_process_has_not_seen_yet_keeps_its_table() {
    let base = Base::start().await;
    let store = &base.store;
    store.create_source(source("a")).await.expect("created");
    let leaving = create(store, "raw").await.value.key;
    let behind = Mirror::start(store).await.expect("listed");
    let neighbour = create(store, "neighbour").await.value.key;
    let leaving = store.begin_sink_purge(&leaving, switch()).await;
    let leaving = leaving.expect("begun");
    assert_eq!(decided(&base, &leaving, behind).await, Fate::Kept);

    // A deleted one may come back, one that is purged does not.
    store
        .delete_sink(&neighbour, switch())
        .await
        .expect("deleted");
    let behind = Mirror::start(store).await.expect("listed");
    assert_eq!(decided(&base, &leaving, behind).await, Fate::Kept);
    let mut other = sink("other");
    "u".clone_into(&mut other.table.table_id);
    store.create_sink(other, None).await.expect("created");
    let behind = Mirror::start(store).await.expect("listed");
    let revived = store.update_sink(&neighbour, |mut sink| {
        sink.deleted = None;
        sink.version.number += 1;
        Ok::<_, stream_state::StateError>(sink)
    });
    revived.await.expect("it is back");
    store
        .begin_sink_purge(&neighbour, switch())
        .await
        .expect("begun");
    assert_eq!(decided(&base, &leaving, behind).await, Fate::Dropped);
    base.background.stop(PATIENCE).await.expect("stopped");
}
