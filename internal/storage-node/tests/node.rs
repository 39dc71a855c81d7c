//! A writer and a reader at work on a real state store, real volumes and real staging. The coordinator is played by the
//! tests.
#![allow(
    clippy::disallowed_methods,
    reason = "tests join what they spawn, by ending"
)]

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use stream_encoding::{Encoder, RowReader, RowValues};
use stream_model::definition::{Sink, Source};
use stream_model::hours::Hour;
use stream_model::level::Defaults;
use stream_model::opening::{self, Opening};
use stream_model::slice::{Closing, Slice};
use stream_model::time::SystemClock;
use stream_model::trigger::Reason;
use stream_model::{Clock, NodeId, SessionId, SliceId, Timestamp, VolumeId};
use stream_node::{CancellationToken, Readiness, ReconcilerMetrics, Shutdown};
use stream_state::{Lease, Mirror, Registration, Store, Topology, Versioned};
use stream_storage::local::Options;
use stream_storage::staging::{Content, Staging, StagingConfig};
use stream_storage::wire::direct::Direct;
use stream_storage::wire::{Answer, Batch, Connection, Opened, Part, Transport, Unknown};
use stream_storage_node::reader::SliceFiles;
use stream_storage_node::{
    Reader, ReaderDeps, ReaderOptions, Writer, WriterDeps, WriterError, WriterOptions,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

struct Machine {
    dir: TempDir,
    store: Store,
    mirror: Mirror,
    lease: Lease,
    staging: Staging,
    readiness: Readiness,
}

/// A running writer and what it is reached by.
struct Running {
    writer: Writer,
    direct: Direct,
}

impl Machine {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = stream_etcd_embedded::Options::new(dir.path().join("state"));
        let server = stream_etcd_embedded::Server::open(options).expect("opened");
        let endpoint = server.endpoint();
        tokio::spawn(server.run(CancellationToken::new()));
        let client = endpoint.connect(None).await.expect("connected");
        let store = Store::open(client, "test").await.expect("opened");
        let (mirror, task) = Mirror::start(&store).await.expect("started");
        tokio::spawn(task.run(CancellationToken::new()));
        let lease = store
            .grant_lease(Duration::from_secs(600))
            .await
            .expect("granted");
        let config = StagingConfig::in_directory(&dir.path().join("staging")).expect("valid");
        let staging = Staging::open(&config).expect("opened");
        Self {
            dir,
            store,
            mirror,
            lease,
            staging,
            readiness: Readiness::new(),
        }
    }

    fn options(&self) -> WriterOptions {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let mut volume = Options::new(PathBuf::new(), clock);
        volume.segment_bytes = 1 << 20;
        volume.reserve_bytes = 0;
        WriterOptions {
            volumes_path: self.dir.path().join("volumes"),
            create_default: true,
            volume,
            keys_away_after: Duration::from_secs(30),
        }
    }

    async fn try_writer(&self, options: WriterOptions) -> Result<Running, WriterError> {
        let registry = prometheus::Registry::new();
        let direct = Direct::new();
        let deps = WriterDeps {
            store: self.store.clone(),
            mirror: self.mirror.clone(),
            lease: self.lease.clone(),
            direct: direct.clone(),
            node: "a".parse().expect("valid node"),
            clock: Arc::new(SystemClock),
            reconcilers: ReconcilerMetrics::register(&registry).expect("registered"),
            registry,
            ready: self.readiness.register("storage-writer"),
            shutdown: Shutdown::new(),
        };
        Writer::start(options, deps)
            .await
            .map(|writer| Running { writer, direct })
    }

    async fn writer(&self) -> Running {
        self.try_writer(self.options()).await.expect("started")
    }

    fn reader(&self, running: &Running) -> Reader {
        let registry = prometheus::Registry::new();
        let deps = ReaderDeps {
            store: self.store.clone(),
            mirror: self.mirror.clone(),
            staging: self.staging.clone(),
            files: Arc::new(running.writer.volumes()),
            clock: Arc::new(SystemClock),
            reconcilers: ReconcilerMetrics::register(&registry).expect("registered"),
            registry,
            ready: self.readiness.register("storage-reader"),
            shutdown: Shutdown::new(),
        };
        Reader::start(&ReaderOptions::default(), deps).expect("started")
    }

    /// Creates a sink with a slice on the volume.
    async fn sink(&self, volume: VolumeId) -> Slice {
        let source: Source = serde_json::from_value(json!({
            "key": {"project": 1, "branch": 1, "source": "orders"},
            "kind": {"type": "http", "secret": "x"},
            "name": "Orders", "description": "", "version": version(), "created": stamp(),
        }))
        .expect("valid source");
        let sink: Sink = serde_json::from_value(json!({
            "key": {"project": 1, "branch": 1, "source": "orders", "sink": "raw"},
            "name": "Raw", "description": "", "version": version(), "created": stamp(),
            "table": {"type": "sqlite", "tableId": "t", "mapping": {"columns": [{"type": "body", "name": "body"}]}},
        }))
        .expect("valid sink");
        let (defaults, now) = (Defaults::default(), SystemClock.now());
        let mut random = || [5; 10];
        let Opening { file, slices } =
            opening::plan(&source, &sink, &defaults, &[volume], now, &mut random);
        let slice = slices[0].clone();
        self.store.create_source(source).await.expect("created");
        let opening = stream_state::Opening {
            assignment: Some(vec![volume]),
            file,
            slices,
        };
        self.store
            .create_sink(sink, Some(opening))
            .await
            .expect("created");
        slice
    }

    async fn wait<T>(&self, what: &str, mut look: impl FnMut(&Topology) -> Option<T>) -> T {
        let mut revisions = self.mirror.subscribe();
        let found = async {
            loop {
                if let Some(found) = self.mirror.read(&mut look) {
                    return found;
                }
                revisions.changed().await.expect("the mirror runs");
            }
        };
        tokio::time::timeout(PATIENCE, found)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"))
    }

    async fn wait_for_state(&self, slice: SliceId, state: &str) -> Arc<Versioned<Slice>> {
        self.wait(state, |topology| {
            let slice = topology.slice(slice)?;
            (slice.value.state.name() == state).then(|| Arc::clone(slice))
        })
        .await
    }

    /// What the coordinator does when a slice is to be uploaded. Returns the successor.
    async fn rotate(&self, slice: SliceId) -> Slice {
        let (file, old) = self
            .wait("the slice", |topology| {
                let slice = topology.slice(slice)?;
                let file = topology
                    .sink(&slice.value.sink)?
                    .files
                    .get(&slice.value.file)?;
                Some((Arc::clone(file), Arc::clone(slice)))
            })
            .await;
        let now = SystemClock.now();
        let successor = opening::successor(&old.value, now, [6; 10]);
        let closing = Closing {
            at: now,
            reason: Reason::Count,
            successor: Some(successor.id),
        };
        let rotated = self
            .store
            .rotate_slice(&file, &old, closing, successor)
            .await;
        rotated.expect("rotated").successor.value
    }

    fn staged_rows(&self, slice: &Slice) -> Vec<String> {
        let (seal, object) = (
            slice.seal().expect("sealed"),
            slice.object().expect("uploaded"),
        );
        let content = Content {
            bytes: seal.figures.bytes,
            checksum: seal.checksum.clone(),
        };
        let input: Box<dyn Read + Send> =
            self.staging.read_blocking(object, &content).expect("there");
        let mut reader = RowReader::new(slice.compression, 1, input);
        let (mut row, mut rows) = (RowValues::new(), Vec::new());
        while reader.next(&mut row).expect("whole") {
            rows.push(String::from_utf8_lossy(row.get(0).expect("one column")).into_owned());
        }
        rows
    }
}

impl Running {
    fn volume(&self) -> VolumeId {
        self.writer.volumes().volumes()[0]
    }

    async fn connect(&self) -> Box<dyn Connection> {
        self.direct
            .connect(self.volume(), SessionId(1))
            .await
            .expect("served")
    }

    /// Waits until the volume has been told of the slice.
    async fn opened(&self, connection: &dyn Connection, slice: SliceId) -> u64 {
        let asking = async {
            loop {
                let mut answer = connection.open(vec![slice]).await.expect("answered");
                match answer.remove(&slice) {
                    Some(Opened::Last(last)) => return last,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, asking)
            .await
            .expect("the slice is opened")
    }

    async fn stop(self) {
        self.writer.stop(PATIENCE).await.expect("stopped");
    }
}

fn batch(slice: &Slice, seq: u64, rows: &[&str]) -> Batch {
    batch_at(slice, seq, rows, SystemClock.now())
}

/// A batch of rows that arrived then.
fn batch_at(slice: &Slice, seq: u64, rows: &[&str], at: Timestamp) -> Batch {
    let csv: String = rows.iter().map(|row| format!("\"{row}\"\n")).collect();
    let frame: Bytes = Encoder::new(slice.compression)
        .frame(csv.as_bytes())
        .expect("compressed");
    Batch {
        parts: vec![Part {
            slice: slice.id,
            seq,
            rows: u32::try_from(rows.len()).expect("few"),
            raw_bytes: u32::try_from(csv.len()).expect("short"),
            first_at: at,
            last_at: at,
            compression: slice.compression,
            frame,
        }],
        keys: Vec::new(),
    }
}

fn stamp() -> serde_json::Value {
    json!({"at": "2026-01-01T00:00:00.000Z", "by": {"type": "system"}})
}

fn version() -> serde_json::Value {
    json!({"number": 1, "hash": "00", "description": "", "at": "2026-01-01T00:00:00.000Z", "by": {"type": "system"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_slice_is_sealed_uploaded_and_released() {
    let machine = Machine::start().await;
    let running = machine.writer().await;
    let reader = machine.reader(&running);
    assert!(machine.readiness.is_ready());
    let slice = machine.sink(running.volume()).await;
    let connection = running.connect().await;
    assert_eq!(running.opened(&*connection, slice.id).await, 0);
    let answer = connection.append(batch(&slice, 1, &["one", "two"])).await;
    assert_eq!(answer, Ok(Answer::Committed));

    let successor = machine.rotate(slice.id).await;
    let uploaded = machine
        .wait_for_state(slice.id, "uploaded")
        .await
        .value
        .clone();
    assert_eq!(uploaded.seal().map(|seal| seal.figures.rows), Some(2));
    assert_eq!(
        uploaded
            .seal()
            .and_then(|seal| seal.sessions.get(&SessionId(1))),
        Some(&1)
    );
    let staged = tokio::task::spawn_blocking(move || (machine.staged_rows(&uploaded), machine));
    let (rows, machine) = staged.await.expect("read");
    assert_eq!(rows, ["one", "two"]);

    // The local copy goes, and the successor takes rows.
    let path = running
        .writer
        .volumes()
        .path(running.volume(), slice.id)
        .expect("open");
    let released = async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, released)
        .await
        .expect("released");
    running.opened(&*connection, successor.id).await;
    let answer = connection.append(batch(&successor, 1, &["three"])).await;
    assert_eq!(answer, Ok(Answer::Committed));
    reader.stop(PATIENCE).await.expect("stopped");
    running.stop().await;
    drop(machine);
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_stay_open_over_a_restart() {
    let machine = Machine::start().await;
    let running = machine.writer().await;
    let slice = machine.sink(running.volume()).await;
    let volume = running.volume();
    let connection = running.connect().await;
    running.opened(&*connection, slice.id).await;
    let first = batch(&slice, 1, &["one"]);
    assert_eq!(
        connection.append(first.clone()).await,
        Ok(Answer::Committed)
    );
    running.stop().await;
    assert_eq!(
        machine.store.volumes().await.expect("readable"),
        [],
        "the volume is withdrawn"
    );

    let running = machine.writer().await;
    assert_eq!(running.volume(), volume);
    let connection = running.connect().await;
    assert_eq!(
        running.opened(&*connection, slice.id).await,
        1,
        "the last number is remembered"
    );
    assert_eq!(
        connection.append(first).await,
        Ok(Answer::Committed),
        "and not written again"
    );
    let second = connection.append(batch(&slice, 2, &["two"])).await;
    assert_eq!(second, Ok(Answer::Committed));
    let reader = machine.reader(&running);
    machine.rotate(slice.id).await;
    let uploaded = machine
        .wait_for_state(slice.id, "uploaded")
        .await
        .value
        .clone();
    assert_eq!(
        uploaded
            .seal()
            .map(|seal| (seal.incarnation, seal.figures.rows)),
        Some((2, 2))
    );
    reader.stop(PATIENCE).await.expect("stopped");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_across_a_full_hour_is_sealed_with_the_rows_of_each() {
    let machine = Machine::start().await;
    let running = machine.writer().await;
    let slice = machine.sink(running.volume()).await;
    let connection = running.connect().await;
    running.opened(&*connection, slice.id).await;
    let first = Hour::of(SystemClock.now());
    let next = Hour(first.0 + 1);
    let end = Timestamp::from_millis(next.begins().as_millis() - 1);
    let before = batch_at(&slice, 1, &["one", "two"], end);
    assert_eq!(connection.append(before).await, Ok(Answer::Committed));
    let after = batch_at(&slice, 2, &["three"], next.begins());
    assert_eq!(connection.append(after).await, Ok(Answer::Committed));
    running.stop().await;

    let running = machine.writer().await;
    let connection = running.connect().await;
    assert_eq!(running.opened(&*connection, slice.id).await, 2);
    let last = batch_at(&slice, 3, &["four", "five", "six"], next.begins());
    assert_eq!(connection.append(last).await, Ok(Answer::Committed));
    machine.rotate(slice.id).await;
    let sealed = machine.wait_for_state(slice.id, "uploading").await;
    assert_eq!(sealed.value.sealed_by_hour(), [(first, 2), (next, 4)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_sealed_before_a_restart_is_verified_and_uploaded_after_it() {
    let machine = Machine::start().await;
    let running = machine.writer().await;
    let slice = machine.sink(running.volume()).await;
    let connection = running.connect().await;
    running.opened(&*connection, slice.id).await;
    let answer = connection.append(batch(&slice, 1, &["one", "two"])).await;
    assert_eq!(answer, Ok(Answer::Committed));
    machine.rotate(slice.id).await;
    let sealed = machine.wait_for_state(slice.id, "uploading").await;
    let path = running
        .writer
        .volumes()
        .path(running.volume(), slice.id)
        .expect("open");
    running.stop().await;
    // What only the page cache held may be gone after a power loss; the journal builds the file again.
    std::fs::write(&path, b"").expect("truncated");

    let running = machine.writer().await;
    let reader = machine.reader(&running);
    let uploaded = machine.wait_for_state(slice.id, "uploaded").await;
    let checksum = |slice: &Slice| slice.seal().map(|seal| seal.checksum.clone());
    assert_eq!(checksum(&uploaded.value), checksum(&sealed.value));
    let incarnation = machine
        .store
        .incarnation(running.volume())
        .await
        .expect("readable");
    assert!(incarnation.is_some_and(|incarnation| incarnation.recovered));
    reader.stop(PATIENCE).await.expect("stopped");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_without_rows_is_sealed_without_an_object() {
    let machine = Machine::start().await;
    let running = machine.writer().await;
    let slice = machine.sink(running.volume()).await;
    machine.rotate(slice.id).await;
    let uploaded = machine.wait_for_state(slice.id, "uploaded").await;
    assert_eq!(uploaded.value.object(), None);
    assert_eq!(uploaded.value.seal().map(|seal| seal.figures.rows), Some(0));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_that_reaches_a_limit_is_reported_at_once() {
    let machine = Machine::start().await;
    let running = machine.writer().await;
    let slice = machine.sink(running.volume()).await;
    let connection = running.connect().await;
    running.opened(&*connection, slice.id).await;
    let mut large = batch(&slice, 1, &["one"]);
    large.parts[0].rows = u32::try_from(slice.trigger.count).expect("fits");
    assert_eq!(connection.append(large).await, Ok(Answer::Committed));
    let crossed = machine
        .wait("the report", |topology| {
            topology.sink(&slice.sink)?.crossed.get(&slice.id).cloned()
        })
        .await;
    assert_eq!(crossed.value.reason, Reason::Count);
    assert_eq!(crossed.value.figures.rows, slice.trigger.count);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_was_superseded_gives_the_volume_up() {
    let machine = Machine::start().await;
    let running = machine.writer().await;
    let slice = machine.sink(running.volume()).await;
    machine.wait_for_state(slice.id, "writing").await;
    let connection = running.connect().await;
    running.opened(&*connection, slice.id).await;
    let volume = running.volume();
    let other: NodeId = "b".parse().expect("valid node");
    let raised = machine.store.raise_incarnation(volume, &other).await;
    let registration = Registration {
        node: other,
        kind: "default".to_owned(),
        label: "copy".to_owned(),
        incarnation: raised.expect("raised"),
    };
    let lease = machine.store.grant_lease(Duration::from_secs(600)).await;
    let lease = lease.expect("granted");
    machine
        .store
        .register_volume(&lease, volume, registration.clone())
        .await
        .expect("registered");
    // There is nothing to seal: it has to learn that by itself.
    let given_up = async {
        while !running.writer.volumes().volumes().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, given_up)
        .await
        .expect("given up");
    let answer = connection.append(batch(&slice, 1, &["late"])).await;
    assert_eq!(answer, Err(Unknown), "nothing is promised any more");
    machine.rotate(slice.id).await;
    assert!(!machine.readiness.is_ready());
    // And stays so: nothing is sealed under the old incarnation.
    machine.wait_for_state(slice.id, "closing").await;
    running.stop().await;
    let registered = machine.store.volumes().await.expect("readable");
    assert_eq!(
        registered,
        [(volume, registration)],
        "the registration is the other writer's"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_and_its_copy_are_not_opened() {
    let machine = Machine::start().await;
    machine.writer().await.stop().await;
    let volumes = machine.dir.path().join("volumes/default");
    std::fs::create_dir(volumes.join("copy")).expect("created");
    let id = volumes.join("local/volume-id");
    std::fs::copy(id, volumes.join("copy/volume-id")).expect("copied");
    let refused = machine.try_writer(machine.options()).await;
    let error = refused.err().expect("there is nothing else").to_string();
    for word in ["default/local", "default/copy", "move the copy away"] {
        assert!(error.contains(word), "{word} is not in: {error}");
    }
    std::fs::rename(volumes.join("copy"), machine.dir.path().join("away")).expect("moved");
    machine.writer().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_without_volumes_says_what_to_do() {
    let machine = Machine::start().await;
    let options = WriterOptions {
        create_default: false,
        ..machine.options()
    };
    let error = machine
        .try_writer(options)
        .await
        .err()
        .expect("there is no volume");
    assert!(error.to_string().contains("create a directory"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_in_use_is_taken_over_when_it_is_free_and_does_not_stop_the_others() {
    let mut machine = Machine::start().await;
    let first = machine.writer().await;
    // Each process has its own.
    machine.readiness = Readiness::new();
    let waiting = machine.writer().await;
    assert!(!machine.readiness.is_ready(), "it has none");
    waiting.stop().await;
    machine.readiness = Readiness::new();
    std::fs::create_dir_all(machine.dir.path().join("volumes/ssd/second")).expect("created");
    let second = machine
        .try_writer(machine.options())
        .await
        .expect("one volume is free");
    assert_eq!(second.writer.volumes().volumes().len(), 1);
    assert!(!machine.readiness.is_ready(), "one volume is missing");
    let volume = first.volume();
    let number = async || {
        let stored = machine.store.incarnation(volume).await;
        stored.expect("readable").map(|stored| stored.number)
    };
    assert_eq!(number().await, Some(1));
    first.stop().await;
    let taken_over = async {
        while second.writer.volumes().volumes().len() < 2 || !machine.readiness.is_ready() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), taken_over)
        .await
        .unwrap_or_else(|_| {
            panic!(
                "not taken over: {:?} {:?}",
                second.writer.volumes().volumes(),
                machine.readiness.report()
            )
        });
    assert_eq!(number().await, Some(2));
    second.stop().await;
}
