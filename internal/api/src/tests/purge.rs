//! Deleting with everything that belongs to a source or a sink.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use stream_model::definition::sink::Switch;
use stream_model::slice::{Kind, Seal, State};
use stream_model::statistics::Figures;
use stream_model::{Clock, VolumeId};
use stream_state::{Store, Versioned};

use super::definitions::stamp;
use super::sink::{register_volume, sink_key};
use super::world::{Client, PATIENCE, SINKS, World, sink_body};

fn volume() -> VolumeId {
    VolumeId::from_bytes([7; 16])
}

const RAW: &str = "/v1/branches/default/sources/orders/sinks/raw";
const SOURCE: &str = "/v1/branches/default/sources/orders";

/// A source with a sink on a volume.
async fn world() -> (World, u64) {
    let world = World::start().await;
    world.source("Orders").await;
    let node = "n1".parse().expect("a node");
    let incarnation = world.base.store.raise_incarnation(volume(), &node).await;
    register_volume(&world, volume()).await;
    world.sink("Raw").await;
    (world, incarnation.expect("raised"))
}

/// What a writer does: seals whatever is closing. Rows slices hold 7 rows, slices of rejected records 2.
async fn seal(world: &World, incarnation: u64) {
    let store = &world.base.store;
    loop {
        let closing: Vec<_> = world.base.mirror.read(|topology| {
            let slices = topology.slices_of_volume(volume());
            let closing = slices.filter(|slice| matches!(slice.value.state, State::Closing(_)));
            closing.map(|slice| Versioned::clone(slice)).collect()
        });
        for slice in closing {
            let rows = match slice.value.kind {
                Kind::Rows => 7,
                Kind::Rejects => 2,
            };
            let seal = Seal {
                at: world.base.clock.now(),
                incarnation,
                figures: Figures {
                    rows,
                    ..Figures::default()
                },
                later_hours: stream_model::hours::LaterHours::default(),
                checksum: "00".repeat(32),
                sessions: std::collections::BTreeMap::new(),
            };
            // Taken out of the state meanwhile: nothing is left to be sealed.
            let _ = store.seal_slice(&slice, seal, incarnation).await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Purges, with a writer at work.
async fn purge(world: &World, incarnation: u64, path: &str) -> Value {
    let path = format!("{path}?cascade=true");
    tokio::select! {
        task = world.client.finished("DELETE", &path, Value::Null) => task,
        () = seal(world, incarnation) => unreachable!("it never ends"),
    }
}

async fn remains(store: &Store) -> (usize, usize, usize) {
    let remains = store.remains(&sink_key("raw")).await.expect("readable");
    (
        remains.files.len(),
        remains.slices.len(),
        remains.purged.len(),
    )
}

async fn gone(client: &Client, path: &str) {
    assert_eq!(client.get(path).await.status, 404, "{path}");
}

/// Whether the target has the table of the sink: a table with another key is refused only while there is one.
async fn has_table(world: &World) -> bool {
    let mut body = sink_body("Raw");
    body["name"] = json!("Probe");
    body["table"]["mapping"]["columns"][0]["primaryKey"] = json!(true);
    let probe = world.client.finished("POST", SINKS, body).await;
    probe["status"] == "error"
}

#[tokio::test]
async fn a_purged_sink_leaves_nothing_but_notes_and_its_name_begins_anew() {
    let (world, incarnation) = world().await;
    world
        .client
        .done("PATCH", RAW, json!({"name": "Renamed"}))
        .await;
    assert!(has_table(&world).await);
    let task = purge(&world, incarnation, RAW).await;
    assert_eq!(task["status"], "success", "{task}");
    assert_eq!(task["type"], "api.delete.sink");
    assert_eq!(
        task["outputs"],
        json!({
            "url": "https://stream.example.com/v1/branches/1/sources/orders/sinks/raw",
            "projectId": 1, "branchId": 1, "sourceId": "orders", "sinkId": "raw",
            "discardedRows": 7, "discardedRejects": 2,
        })
    );
    for path in [
        RAW,
        &format!("{RAW}/versions"),
        &format!("{RAW}/statistics/total"),
    ] {
        gone(&world.client, path).await;
    }
    let deleted = world.client.get(&format!("{SINKS}/deleted")).await.json();
    assert_eq!(deleted["sinks"], json!([]));
    let undelete = format!("{RAW}/undelete");
    let refused = world.client.refused("PUT", &undelete, None).await;
    assert_eq!(refused, (404, "stream.api.deletedSinkNotFound".to_owned()));
    let store = &world.base.store;
    assert_eq!(
        store.sink_versions(&sink_key("raw")).await.expect("read"),
        []
    );
    assert_eq!(remains(store).await, (0, 0, 2));
    assert!(!has_table(&world).await);

    let probe = purge(&world, incarnation, &format!("{SINKS}/probe")).await;
    assert_eq!(probe["status"], "success", "{probe}");
    world.sink("Raw").await;
    let sink = world.client.get(RAW).await.json();
    assert_eq!(sink["version"]["number"], 1);
    let total = world
        .client
        .get(&format!("{RAW}/statistics/total"))
        .await
        .json();
    assert_eq!(total["total"]["recordsCount"], 0);
    let rejected = world.client.get(&format!("{RAW}/rejected")).await.json();
    assert_eq!(rejected["page"]["totalCount"], 1, "its own");
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_purged_source_takes_all_its_sinks_along() {
    let (world, incarnation) = world().await;
    world.sink("Second").await;
    world
        .client
        .done("DELETE", &format!("{SINKS}/second"), Value::Null)
        .await;
    let old = world.client.get(SOURCE).await.json();
    let task = purge(&world, incarnation, SOURCE).await;
    assert_eq!(task["status"], "success", "{task}");
    assert_eq!(task["outputs"]["sourceId"], "orders");
    // The one that was deleted before goes along.
    assert_eq!(task["outputs"]["discardedRows"], 14);
    assert_eq!(task["outputs"]["discardedRejects"], 4);
    for path in [SOURCE, RAW] {
        gone(&world.client, path).await;
    }
    let branch = "/v1/branches/default/sources";
    let deleted = world.client.get(&format!("{branch}/deleted")).await.json();
    assert_eq!(deleted["sources"], json!([]));
    world.source("Orders").await;
    let new = world.client.get(SOURCE).await.json();
    assert_eq!(new["version"]["number"], 1);
    assert_ne!(new["http"]["url"], old["http"]["url"]);
    let sinks = world.client.get(SINKS).await.json();
    assert_eq!(sinks["page"]["totalCount"], 0);
    let deleted = world.client.get(&format!("{SINKS}/deleted")).await.json();
    assert_eq!(deleted["sinks"], json!([]));
    assert_eq!(
        world
            .base
            .store
            .assignment(&sink_key("raw").source)
            .await
            .expect("read"),
        None
    );
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_purge_that_fails_says_so_and_goes_on_when_it_is_asked_for_again() {
    let (world, incarnation) = world().await;
    world.base.target.broken.store(true, Ordering::SeqCst);
    let task = purge(&world, incarnation, SOURCE).await;
    assert_eq!(task["status"], "error", "{task}");
    let error = task["error"].as_str().expect("a reason");
    assert!(error.contains("\"raw\""), "{error}");
    assert_eq!(task["outputs"]["sourceId"], "orders");
    assert_eq!(
        task["outputs"].get("discardedRows"),
        None,
        "nothing is lost yet: {task}"
    );
    let exists = (409, "stream.api.sourceAlreadyExists".to_owned());
    let body = json!({"type": "http", "name": "Orders"});
    let sources = "/v1/branches/default/sources";
    assert_eq!(
        world.client.refused("POST", sources, Some(body)).await,
        exists
    );
    gone(&world.client, SOURCE).await;
    let undelete = format!("{SOURCE}/undelete");
    let refused = world.client.refused("PUT", &undelete, None).await;
    assert_eq!(
        refused,
        (404, "stream.api.deletedSourceNotFound".to_owned())
    );
    // Without the flag there is nothing to delete.
    gone(&world.client, SOURCE).await;
    assert_eq!(world.client.refused("DELETE", SOURCE, None).await.0, 404);
    world.base.target.broken.store(false, Ordering::SeqCst);
    let task = purge(&world, incarnation, SOURCE).await;
    assert_eq!(task["status"], "success", "{task}");
    assert_eq!(task["outputs"]["discardedRows"], 7);
    world.source("Orders").await;
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_purge_whose_process_died_is_finished_by_the_next_one() {
    let (World { base, api, client }, incarnation) = world().await;
    api.stop(PATIENCE).await.expect("stopped");
    let switch = Switch {
        stamp: stamp(1),
        directly: true,
    };
    let begun = base.store.begin_sink_purge(&sink_key("raw"), switch).await;
    begun.expect("begun");
    let api = base.api().await;
    let client = Client {
        address: api.local_addr(),
        ..client
    };
    let world = World { base, api, client };
    let finished = async {
        while world
            .base
            .store
            .sink(&sink_key("raw"))
            .await
            .expect("read")
            .is_some()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let both = async {
        tokio::select! {
            () = finished => {}
            () = seal(&world, incarnation) => {}
        }
    };
    tokio::time::timeout(PATIENCE, both)
        .await
        .expect("finished");
    assert_eq!(remains(&world.base.store).await, (0, 0, 2));
    world.sink("Raw").await;
    assert_eq!(world.client.get(RAW).await.json()["version"]["number"], 1);
    world.stop().await.expect("stopped");
}

/// From when it is decided that the table goes until it is gone.
#[tokio::test]
async fn no_sink_is_created_on_a_table_that_is_going() {
    let (world, incarnation) = world().await;
    world.base.target.broken.store(true, Ordering::SeqCst);
    let task = purge(&world, incarnation, RAW).await;
    assert_eq!(task["status"], "error", "{task}");
    let mut body = sink_body("Raw");
    body["name"] = json!("Neighbour");
    let refused = world.client.finished("POST", SINKS, body.clone()).await;
    assert_eq!(refused["status"], "error", "{refused}");
    let error = refused["error"].as_str().expect("a reason");
    assert!(error.contains("is being dropped"), "{error}");
    gone(&world.client, &format!("{SINKS}/neighbour")).await;
    world.base.target.broken.store(false, Ordering::SeqCst);
    let task = purge(&world, incarnation, RAW).await;
    assert_eq!(task["status"], "success", "{task}");
    world.client.done("POST", SINKS, body).await;
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_table_that_another_sink_writes_to_stays() {
    let (world, incarnation) = world().await;
    let mut body = sink_body("Raw");
    body["name"] = json!("Neighbour");
    world.client.done("POST", SINKS, body).await;
    let task = purge(&world, incarnation, RAW).await;
    assert_eq!(task["status"], "success", "{task}");
    assert!(has_table(&world).await);
    world.stop().await.expect("stopped");
}
