//! Where a record is.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stream_model::opening;
use stream_model::request::number_after;
use stream_model::slice::{Closing, Kind, Seal, Slice};
use stream_model::statistics::Figures;
use stream_model::trigger::Reason;
use stream_model::{Clock, RequestId, SessionId, SinkKey, SliceId, Timestamp, VolumeId};

use super::sink::{opened, register_volume, sink_key};
use super::world::{Reply, SINKS, START, World};

const SESSION: SessionId = SessionId(0xab);
const OTHER: SessionId = SessionId(0xcd);

/// So many seconds after the beginning.
fn after(seconds: i64) -> Timestamp {
    Timestamp::from_millis(START.as_millis() + 1_000 * seconds)
}

/// A request that arrived so many seconds after the beginning.
fn request(session: SessionId, seconds: i64) -> String {
    let number = number_after(0, after(seconds)) + 7;
    RequestId { session, number }.to_string()
}

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

    /// Kind, stage and certainty of each place that a request can have; and what is forgotten.
    async fn places(
        &self,
        session: SessionId,
        seconds: i64,
    ) -> (Vec<(String, String, bool)>, Value) {
        let id = request(session, seconds);
        let shown = self.shown(&id).await;
        assert_eq!(shown["requestId"], id.as_str());
        assert_eq!(shown["arrivedAt"], after(seconds).to_string());
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let places = shown["places"].as_array().expect("a list").iter();
        let places =
            places.map(|it| (text(&it["kind"]), text(&it["stage"]), it["certain"] == true));
        (places.collect(), shown["forgotten"].clone())
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
                first_at: Some(START),
                last_at: Some(after(5)),
                ..Figures::default()
            },
            later_hours: stream_model::hours::LaterHours::default(),
            checksum: "00".repeat(32),
            sessions: BTreeMap::from([(SESSION, 5), (OTHER, 2)]),
        }
    }

    /// Takes the file with its only slice to staging. Answers the name of the object.
    async fn upload(&self, slice: SliceId) -> String {
        self.upload_sealed(slice, self.seal()).await
    }

    /// The same for a slice with this content.
    async fn upload_sealed(&self, slice: SliceId, seal: Seal) -> String {
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
        let sealed = store.seal_slice(&slice, seal, self.incarnation).await;
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
        // Of an earlier version.
        "00000000000000ab-0000000000000001",
        "6fa459ea-ee8a-3ca4-894e-db77e160355e",
        "mine",
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

fn place(kind: &str, stage: &str, certain: bool) -> (String, String, bool) {
    (kind.to_owned(), stage.to_owned(), certain)
}

#[tokio::test]
async fn a_request_id_leads_to_every_slice_that_can_have_its_records() {
    let stage = Stage::new().await;
    let rows = opened(&stage.world, &stage.key, Kind::Rows);
    let rejects = opened(&stage.world, &stage.key, Kind::Rejects);
    let shown = stage.shown(&request(SESSION, 2)).await;
    let mut by_position = Vec::new();
    for slice in [rows.id, rejects.id] {
        let mut place = stage.shown(&format!("{slice}:1")).await;
        place.as_object_mut().expect("an object").remove("seq");
        by_position.push(place);
    }
    assert_eq!(shown["places"], Value::from(by_position));
    let (row, rejected) = (
        |stage, certain| place("row", stage, certain),
        place("rejected", "local", false),
    );
    let open = vec![row("local", false), rejected.clone()];
    // As late as can be, and a little later.
    assert_eq!(stage.places(SESSION, -50).await, (open, json!([])));
    stage.is_unknown(&request(SESSION, -51)).await;

    stage.upload(rows.id).await;
    let staged = vec![row("staging", true), rejected.clone()];
    for seconds in [0, 5] {
        let found = stage.places(SESSION, seconds).await;
        assert_eq!(found, (staged.clone(), json!([])), "{seconds}");
    }
    let only_rejected = (vec![rejected.clone()], json!([]));
    for (session, seconds) in [(SESSION, -1), (SESSION, 6), (SessionId(0xef), 3)] {
        let found = stage.places(session, seconds).await;
        assert_eq!(found, only_rejected, "{session} {seconds}");
    }
    stage.import(&rows).await;
    let in_target = vec![row("target", true), rejected.clone()];
    assert_eq!(stage.places(OTHER, 3).await, (in_target, json!([])));

    let store = &stage.world.base.store;
    let file = store
        .file(&stage.key, rows.file)
        .await
        .expect("read")
        .expect("there");
    let slice = store
        .slice(&stage.key, rows.id)
        .await
        .expect("read")
        .expect("there");
    store
        .remove_file(&file, &[slice])
        .await
        .expect("cleaned up");
    let forgotten = (vec![rejected], json!(["row"]));
    assert_eq!(stage.places(SESSION, 3).await, forgotten);
    assert_eq!(stage.places(SESSION, 6).await, only_rejected);
    let reply = stage.ask(&request(SESSION, -60)).await;
    assert!(reply.text.contains("30 newer ones"), "{}", reply.text);
    stage.world.stop().await.expect("stopped");
}

#[tokio::test]
async fn of_two_slices_that_can_have_a_record_none_has_it_for_certain() {
    let stage = Stage::new().await;
    let slice = opened(&stage.world, &stage.key, Kind::Rows);
    let store = &stage.world.base.store;
    let stored = store
        .slice(&stage.key, slice.id)
        .await
        .expect("read")
        .expect("there");
    let file = store
        .file(&stage.key, slice.file)
        .await
        .expect("read")
        .expect("there");
    let successor = opening::successor(&slice, after(4), [3; 10]);
    let closing = Closing {
        successor: Some(successor.id),
        ..stage.closing()
    };
    let rotated = store
        .rotate_slice(&file, &stored, closing, successor.clone())
        .await;
    let closed = rotated.expect("rotated").closed;
    let sealed = store
        .seal_slice(&closed, stage.seal(), stage.incarnation)
        .await;
    sealed.expect("sealed");
    let found = async |seconds| {
        let shown = stage.shown(&request(SESSION, seconds)).await;
        let places = shown["places"].as_array().expect("a list").iter();
        let rows = places.filter(|it| it["kind"] == "row");
        let found = rows.map(|it| (it["sliceId"].clone(), it["certain"] == true));
        found.collect::<Vec<_>>()
    };
    let (first, second) = (json!(slice.id), json!(successor.id));
    // The second one takes rows still, of requests that took their time as well.
    assert_eq!(
        found(3).await,
        [(first.clone(), false), (second.clone(), false)]
    );
    assert_eq!(found(6).await, [(second.clone(), false)]);
    // The file has both slices: the second one is sealed with it.
    let late = Seal {
        figures: Figures {
            first_at: Some(after(3)),
            last_at: Some(after(9)),
            ..stage.seal().figures
        },
        ..stage.seal()
    };
    let stored = store
        .slice(&stage.key, successor.id)
        .await
        .expect("read")
        .expect("there");
    let file = store
        .file(&stage.key, slice.file)
        .await
        .expect("read")
        .expect("there");
    let closings = vec![(stored, stage.closing())];
    let at = stage.world.base.clock.now();
    let closed = store
        .close_file(&file, at, Reason::Count, closings, None)
        .await;
    closed.expect("closed");
    let closing = store
        .slice(&stage.key, successor.id)
        .await
        .expect("read")
        .expect("there");
    let sealed = store.seal_slice(&closing, late, stage.incarnation).await;
    sealed.expect("sealed");
    assert_eq!(found(2).await, [(first.clone(), true)]);
    assert_eq!(found(4).await, [(first, false), (second.clone(), false)]);
    assert_eq!(found(7).await, [(second, true)]);
    stage.world.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_request_is_found_in_what_a_purge_left_and_not_in_a_sink_that_never_was() {
    let stage = Stage::new().await;
    let rows = opened(&stage.world, &stage.key, Kind::Rows).id;
    stage.upload(rows).await;
    let store = &stage.world.base.store;
    let open = opened(&stage.world, &stage.key, Kind::Rejects).id;
    let open = store
        .slice(&stage.key, open)
        .await
        .expect("read")
        .expect("there");
    let closed = store.close_rejects(&open, stage.closing(), None).await;
    closed.expect("closed");
    let closed = store
        .slice(&stage.key, open.value.id)
        .await
        .expect("read")
        .expect("there");
    let sealed = store
        .seal_slice(&closed, stage.seal(), stage.incarnation)
        .await;
    sealed.expect("sealed");
    let path = format!("{SINKS}/raw?cascade=true");
    stage.world.client.done("DELETE", &path, Value::Null).await;
    let discarded = |kind| place(kind, "discarded", true);
    let expected = vec![discarded("row"), discarded("rejected")];
    assert_eq!(stage.places(SESSION, 3).await, (expected, json!([])));
    for sink in ["raw", "none"] {
        let path = format!("{SINKS}/{sink}/records/{}", request(SESSION, 8));
        let refusal = stage.world.client.get(&path).await.refusal();
        assert_eq!(
            refusal,
            (404, "stream.api.sinkNotFound".to_owned()),
            "{sink}"
        );
    }
    stage.world.stop().await.expect("stopped");
}
