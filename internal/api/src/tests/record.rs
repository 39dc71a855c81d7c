//! Where a record is.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stream_model::slice::{Closing, Kind, Seal, Slice};
use stream_model::statistics::Figures;
use stream_model::trigger::Reason;
use stream_model::{Clock, SessionId, SinkKey, SliceId, VolumeId};

use super::sink::{opened, register_volume, sink_key};
use super::world::{Reply, SINKS, World};

const SESSION: SessionId = SessionId(0xab);
const OTHER: SessionId = SessionId(0xcd);

struct Stage {
    world: World,
    incarnation: u64,
    key: SinkKey,
}

impl Stage {
    async fn new() -> Self {
        let world = World::start().await;
        world.source("Orders").await;
        let volume = VolumeId::from_bytes([7; 16]);
        let node = "n1".parse().expect("a node");
        let incarnation = world.base.store.raise_incarnation(volume, &node).await;
        register_volume(&world, volume).await;
        world.sink("Raw").await;
        Self {
            world,
            incarnation: incarnation.expect("raised"),
            key: sink_key("raw"),
        }
    }

    async fn ask(&self, record: &str) -> Reply {
        self.world
            .client
            .get(&format!("{SINKS}/raw/records/{record}"))
            .await
    }

    async fn shown(&self, record: &str) -> Value {
        let reply = self.ask(record).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()
    }

    /// The stage, and whether it is certain that the record is there.
    async fn stage(&self, record: &str) -> (String, bool) {
        let shown = self.shown(record).await;
        let stage = shown["stage"].as_str().expect("a text").to_owned();
        (stage, shown["certain"] == true)
    }

    async fn is_unknown(&self, record: &str) {
        let refusal = self.ask(record).await.refusal();
        assert_eq!(
            refusal,
            (404, "stream.api.recordNotFound".to_owned()),
            "{record}"
        );
    }

    fn closing(&self) -> Closing {
        Closing {
            at: self.world.base.clock.now(),
            reason: Reason::Count,
            successor: None,
        }
    }

    fn seal(&self) -> Seal {
        Seal {
            at: self.world.base.clock.now(),
            incarnation: self.incarnation,
            figures: Figures {
                rows: 3,
                ..Figures::default()
            },
            later_hours: stream_model::hours::LaterHours::default(),
            checksum: "00".repeat(32),
            sessions: BTreeMap::from([(SESSION, 5), (OTHER, 2)]),
        }
    }

    /// Takes the file with its only slice to staging. Answers the name of the object.
    async fn upload(&self, slice: SliceId) -> String {
        let (store, key) = (&self.world.base.store, &self.key);
        let slice = store.slice(key, slice).await.expect("read").expect("there");
        let file = store
            .file(key, slice.value.file)
            .await
            .expect("read")
            .expect("there");
        let (at, closings) = (
            self.world.base.clock.now(),
            vec![(slice.clone(), self.closing())],
        );
        let closed = store
            .close_file(&file, at, Reason::Count, closings, None)
            .await;
        closed.expect("closed");
        let slice = store
            .slice(key, slice.value.id)
            .await
            .expect("read")
            .expect("there");
        let sealed = store
            .seal_slice(&slice, self.seal(), self.incarnation)
            .await;
        let sealed = sealed.expect("sealed");
        let object = "x/y.csv.zst".to_owned();
        let uploaded = store
            .upload_slice(&sealed, object.clone(), at, self.incarnation)
            .await;
        uploaded.expect("uploaded");
        object
    }

    async fn import(&self, slice: &Slice) {
        let (store, key, at) = (
            &self.world.base.store,
            &self.key,
            self.world.base.clock.now(),
        );
        let file = store
            .file(key, slice.file)
            .await
            .expect("read")
            .expect("there");
        let stored = store
            .slice(key, slice.id)
            .await
            .expect("read")
            .expect("there");
        let begun = store
            .begin_import(&file, &[stored], at)
            .await
            .expect("begun");
        store
            .complete_import(&begun, at, 3)
            .await
            .expect("imported");
    }
}

#[tokio::test]
async fn a_record_is_followed_from_its_volume_to_the_table() {
    let stage = Stage::new().await;
    let slice = opened(&stage.world, &stage.key, Kind::Rows);
    let id = slice.id;
    let record = format!("{id}:3");
    let shown = stage.shown(&record).await;
    assert_eq!(
        shown,
        json!({
            "sourceId": "orders", "sinkId": "raw", "sliceId": id, "seq": 3, "kind": "row",
            "stage": "local", "certain": false,
            "slice": {"state": "writing", "volumeId": slice.volume, "openedAt": slice.opened_at},
            "file": {"fileId": slice.file, "state": "writing"},
            "table": {"type": "sqlite", "tableId": "table Raw"},
        })
    );
    let object = stage.upload(id).await;
    let shown = stage.shown(&format!("{id}:2")).await;
    assert_eq!(
        (&shown["stage"], &shown["certain"]),
        (&json!("staging"), &json!(true))
    );
    assert_eq!(shown["slice"]["object"], object.as_str());
    // Only one of the sessions has written so much: whose number is it?
    assert_eq!(stage.stage(&record).await, ("staging".to_owned(), false));
    let own = format!("{record}?requestId={SESSION}-0000000000000001");
    assert_eq!(stage.stage(&own).await, ("staging".to_owned(), true));
    stage
        .is_unknown(&format!("{record}?requestId={OTHER}-0000000000000001"))
        .await;
    stage.is_unknown(&format!("{id}:6")).await;

    stage.import(&slice).await;
    let shown = stage.shown(&own).await;
    assert_eq!(
        (&shown["stage"], &shown["file"]["state"]),
        (&json!("target"), &json!("imported"))
    );
    assert!(shown["file"]["importedAt"].is_string());
    stage.world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_rejected_record_has_no_file_and_a_purged_one_leaves_a_note() {
    let stage = Stage::new().await;
    let (rows, rejects) = (
        opened(&stage.world, &stage.key, Kind::Rows),
        opened(&stage.world, &stage.key, Kind::Rejects),
    );
    let shown = stage.shown(&format!("{}:1", rejects.id)).await;
    assert_eq!(
        (&shown["kind"], &shown["stage"]),
        (&json!("rejected"), &json!("local"))
    );
    assert!(shown.get("file").is_none() && shown.get("table").is_none());
    stage.upload(rows.id).await;
    let store = &stage.world.base.store;
    let open = store
        .slice(&stage.key, rejects.id)
        .await
        .expect("read")
        .expect("there");
    store
        .close_rejects(&open, stage.closing(), None)
        .await
        .expect("closed");
    let closed = store
        .slice(&stage.key, rejects.id)
        .await
        .expect("read")
        .expect("there");
    let sealed = store
        .seal_slice(&closed, stage.seal(), stage.incarnation)
        .await;
    sealed.expect("sealed");
    let path = format!("{SINKS}/raw?cascade=true");
    stage.world.client.done("DELETE", &path, Value::Null).await;
    let record = format!("{}:3?requestId={SESSION}-0000000000000001", rows.id);
    assert_eq!(stage.stage(&record).await, ("discarded".to_owned(), true));
    stage.world.stop().await.expect("stopped");
}

#[tokio::test]
async fn what_is_no_position_is_told_what_one_is() {
    let stage = Stage::new().await;
    let slice = opened(&stage.world, &stage.key, Kind::Rows).id;
    let bad = (400, "stream.api.badRequest".to_owned());
    for record in [
        "00000000000000ab-0000000000000001",
        "x:1",
        &format!("{slice}:0"),
        &format!("{slice}:x"),
        &format!("{slice}:1?requestId=mine"),
    ] {
        assert_eq!(stage.ask(record).await.refusal(), bad, "{record}");
    }
    stage
        .is_unknown(&format!("{}:1", SliceId::from_bytes([9; 16])))
        .await;
    let other = format!("{SINKS}/none/records/{slice}:1");
    let refusal = stage.world.client.get(&other).await.refusal();
    assert_eq!(refusal, (404, "stream.api.sinkNotFound".to_owned()));
    stage.world.stop().await.expect("stopped");
}
