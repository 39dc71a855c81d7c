//! The component as a process runs it: a real volume on a real disk, the embedded state store, a mirror, connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use prometheus::Registry;
use stream_encoding::{RowReader, RowValues};
use stream_etcd_embedded::{Options, Server};
use stream_model::definition::sink::Switch;
use stream_model::definition::source::SourceKind;
use stream_model::definition::{
    Actor, Column, ColumnKind, Mapping, Settings, Sink, Source, Stamp, Table, TableKind, Version,
};
use stream_model::level::Defaults;
use stream_model::slice::{Closing, Slice};
use stream_model::time::SystemClock;
use stream_model::trigger::Reason;
use stream_model::{NodeId, Secret, SinkKey, SourceKey, Timestamp, opening};
use stream_node::{Listener, Readiness, Shutdown};
use stream_state::{Mirror, Opening, Store};
use stream_storage::local::{self, SliceSpec, Volume};
use stream_storage::wire::direct::Direct;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::testing::{SESSION, source as source_key};
use crate::{Config, Deps, HttpSource};

const DEADLINE: Duration = Duration::from_secs(30);
const CLIENTS: usize = 8;
/// The least each client sends.
const RECORDS: usize = 20;

/// Everything around the component.
struct Process {
    store: Store,
    mirror: Mirror,
    direct: Direct,
    volume: Volume,
    source: Option<HttpSource>,
    registry: Registry,
    shutdown: Shutdown,
    dir: tempfile::TempDir,
    background: JoinSet<()>,
    stop: CancellationToken,
    ids: u8,
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn stamp() -> Stamp {
    Stamp {
        at: at(0),
        by: Actor::System,
    }
}

fn version() -> Version {
    let (hash, description) = ("0".repeat(16), "New.".to_owned());
    Version {
        number: 1,
        hash,
        description,
        at: at(0),
        by: Actor::System,
    }
}

fn definition(key: SourceKey) -> Source {
    Source {
        key,
        kind: SourceKind::Http {
            secret: Secret::new("secret".to_owned()),
        },
        name: "Orders".to_owned(),
        description: String::new(),
        version: version(),
        created: stamp(),
        disabled: None,
        deleted: None,
        purging: None,
        settings: Settings::default(),
    }
}

fn sink_definition(key: SinkKey) -> Sink {
    let column = Column {
        kind: ColumnKind::Body,
        name: "c".to_owned(),
        primary_key: false,
        data_type: stream_model::definition::mapping::DataType::String,
    };
    Sink {
        key,
        name: "Raw".to_owned(),
        description: String::new(),
        table: Table {
            kind: TableKind::Sqlite,
            table_id: "orders".to_owned(),
            mapping: Mapping {
                columns: vec![column],
            },
        },
        version: version(),
        created: stamp(),
        disabled: None,
        deleted: None,
        purging: None,
        settings: Settings::default(),
    }
}

fn sink_key(name: &str) -> SinkKey {
    SinkKey {
        source: source_key(),
        sink: name.parse().expect("valid"),
    }
}

fn spec(slice: &Slice) -> SliceSpec {
    SliceSpec {
        id: slice.id,
        compression: slice.compression,
        durability: slice.durability,
        trigger: slice.trigger,
    }
}

impl Process {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let stop = CancellationToken::new();
        let mut background = JoinSet::new();
        let state = Options::new(dir.path().join("state"));
        let server = tokio::task::spawn_blocking(|| Server::open(state).expect("opens"));
        let server = server.await.expect("no panic");
        let client = {
            let endpoint = server.endpoint();
            let cancel = stop.clone();
            background.spawn(async move { server.run(cancel).await.expect("runs") });
            endpoint.connect(None).await.expect("connects")
        };
        let store = Store::open(client, "test").await.expect("opens");
        let (mirror, task) = Mirror::start(&store).await.expect("starts");
        let cancel = stop.clone();
        background.spawn(async move { task.run(cancel).await.expect("runs") });
        let volume = Self::open_volume(dir.path());
        let direct = Direct::new();
        direct.add(volume.clone());
        let shutdown = Shutdown::new();
        let (source, ids) = (None, 0);
        let mut process = Self {
            store,
            mirror,
            direct,
            volume,
            source,
            registry: Registry::new(),
            shutdown,
            dir,
            background,
            stop,
            ids,
        };
        // First, so that the routes are complete when the first request comes.
        process.define().await;
        process.serve().await;
        process
    }

    async fn serve(&mut self) {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let deps = Deps {
            mirror: self.mirror.clone(),
            transport: Arc::new(self.direct.clone()),
            clock: Arc::new(SystemClock),
            registry: self.registry.clone(),
            helpers: crate::testing::helpers(),
            listener: Listener::bind(local, "the test", "test.listen")
                .await
                .expect("port 0"),
            ready: Readiness::new().register("http-source"),
            shutdown: self.shutdown.clone(),
            session: SESSION,
            seed: 1,
        };
        let source = HttpSource::start(Config::default(), deps).await;
        self.source = Some(source.expect("starts"));
    }

    fn open_volume(dir: &std::path::Path) -> Volume {
        let mut options = local::Options::new(dir.join("volume"), Arc::new(SystemClock));
        options.segment_bytes = 1 << 20;
        options.reserve_bytes = 0;
        let (volume, _) = Volume::open(options).expect("opens");
        volume
    }

    /// Creates the source with two sinks.
    async fn define(&mut self) {
        let node: NodeId = "n".parse().expect("valid");
        self.store
            .raise_incarnation(self.volume.id(), &node)
            .await
            .expect("raised");
        let source = self
            .store
            .create_source(definition(source_key()))
            .await
            .expect("created");
        let mut assignment = Some(vec![self.volume.id()]);
        let mut revision = 0;
        for name in ["a", "b"] {
            let sink = sink_definition(sink_key(name));
            let ids = &mut self.ids;
            let mut random = || {
                *ids += 1;
                [*ids; 10]
            };
            let defaults = Defaults::default();
            let volumes = [self.volume.id()];
            let plan = opening::plan(
                &source.value,
                &sink,
                &defaults,
                &volumes,
                at(1),
                &mut random,
            );
            plan.slices
                .iter()
                .for_each(|slice| self.volume.open_slice(spec(slice)));
            let opening = Opening {
                assignment: assignment.take(),
                file: plan.file,
                slices: plan.slices,
            };
            let created = self
                .store
                .create_sink(sink, Some(opening))
                .await
                .expect("created");
            revision = created.revision;
        }
        self.mirror.reached(revision).await;
    }

    fn writing_slices(&self) -> Vec<(Slice, i64)> {
        self.mirror.read(|topology| {
            let sinks = topology
                .sources
                .get(&source_key())
                .into_iter()
                .flat_map(|s| s.sinks.values());
            let slices = sinks.flat_map(|sink| sink.slices.values());
            let writing = slices.filter(|slice| slice.value.closing().is_none());
            writing
                .map(|slice| (slice.value.clone(), slice.revision))
                .collect()
        })
    }

    /// Rotates the slice of one sink, as coordinator and writer do.
    async fn rotate(&mut self, sink: &str) {
        let writing = self.writing_slices();
        let (slice, revision) = writing
            .into_iter()
            .find(|(slice, _)| slice.sink == sink_key(sink))
            .expect("one writes");
        let file = self
            .store
            .file(&slice.sink, slice.file)
            .await
            .expect("read")
            .expect("exists");
        self.ids += 1;
        let next = opening::successor(&slice, at(2), [self.ids; 10]);
        let closing = Closing {
            at: at(2),
            reason: Reason::Count,
            successor: Some(next.id),
        };
        let old = stream_state::Versioned::new(slice, revision);
        let rotated = self
            .store
            .rotate_slice(&file, &old, closing, next.clone())
            .await
            .expect("rotated");
        self.volume.open_slice(spec(&next));
        self.volume
            .seal(old.value.id, Some(next.id))
            .await
            .expect("sealed");
        self.mirror.reached(rotated.successor.revision).await;
    }

    /// The volume dies without a word and comes back.
    async fn crash_volume(&mut self) {
        self.volume.abandon().await;
        self.volume = Self::open_volume(self.dir.path());
        for (slice, _) in self.writing_slices() {
            self.volume.open_slice(spec(&slice));
        }
        self.direct.add(self.volume.clone());
    }

    /// Changes the definition of the source, as the API does.
    async fn change(&self, change: impl Fn(&mut Source) + Send + Sync) {
        let key = source_key();
        let changed = self.store.update_source(&key, |mut source| {
            change(&mut source);
            Ok::<_, stream_state::StateError>(source)
        });
        let changed = changed.await.expect("changed");
        self.mirror.reached(changed.revision).await;
    }

    /// Sends lines and gives the answer's status and time to wait.
    async fn post(&self, lines: usize) -> (u16, Option<u64>) {
        let address = self.source.as_ref().expect("it runs").local_addr();
        let socket = tokio::net::TcpStream::connect(address).await;
        let io = TokioIo::new(socket.expect("served"));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .expect("HTTP");
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let request = Request::post("/stream/1/orders/secret")
            .header("host", "x")
            .header("content-type", "application/x-ndjson");
        let body = Full::new(Bytes::from("1\n".repeat(lines)));
        let request = request.body(body).expect("valid");
        let response = sender.send_request(request).await.expect("answered");
        let wait = response.headers().get("retry-after");
        let wait = wait.and_then(|wait| wait.to_str().ok()?.parse().ok());
        (response.status().as_u16(), wait)
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus::TextEncoder::new()
            .encode_utf8(&self.registry.gather(), &mut text)
            .expect("text");
        text
    }

    /// Every row of each sink, with how often it is there.
    async fn rows(&self) -> BTreeMap<(String, String), usize> {
        let slices: Vec<Slice> = self.mirror.read(|topology| {
            let source = topology.sources.get(&source_key()).expect("it was created");
            let slices = source.sinks.values().flat_map(|sink| sink.slices.values());
            slices.map(|slice| slice.value.clone()).collect()
        });
        let mut rows = BTreeMap::new();
        for slice in slices {
            self.volume.seal(slice.id, None).await.expect("sealed");
            let file = std::fs::read(self.volume.slice_path(slice.id)).unwrap_or_default();
            let mut reader = RowReader::new(slice.compression, 1, file.as_slice());
            let mut values = RowValues::new();
            while reader.next(&mut values).expect("whole rows") {
                let value = values.iter().next().expect("one column");
                let value = String::from_utf8(value.to_vec()).expect("text");
                *rows
                    .entry((slice.sink.sink.to_string(), value))
                    .or_default() += 1;
            }
        }
        rows
    }

    async fn stop(mut self) {
        let source = self.source.take().expect("stopped once");
        source.stop(DEADLINE).await.expect("nothing is left");
        assert!(!self.shutdown.is_requested(), "no task has failed");
        self.stop.cancel();
        self.volume.stop().await;
        while let Some(ended) = self.background.join_next().await {
            ended.expect("no panic");
        }
    }
}

/// Sends records one after the other on one connection until there are enough; returns those that were acknowledged.
async fn client(address: SocketAddr, number: usize, enough: CancellationToken) -> Vec<String> {
    let socket = tokio::net::TcpStream::connect(address)
        .await
        .expect("served");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .expect("HTTP");
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let mut acknowledged = Vec::new();
    while acknowledged.len() < RECORDS || !enough.is_cancelled() {
        let body = format!("{number}-{}", acknowledged.len());
        let request = Request::post("/stream/1/orders/secret").header("host", "x");
        let request = request
            .body(Full::new(Bytes::from(body.clone())))
            .expect("valid");
        let response = sender.send_request(request).await.expect("answered");
        let status = response.status();
        let text = response
            .into_body()
            .collect()
            .await
            .expect("a whole body")
            .to_bytes();
        assert_eq!(status, 200, "{text:?}");
        acknowledged.push(body);
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_in_both_sinks_once_through_rotations_and_a_crash_of_the_volume() {
    let mut process = Process::start().await;
    let address = process.source.as_ref().expect("it runs").local_addr();
    let mut clients = JoinSet::new();
    let enough = CancellationToken::new();
    for number in 0..CLIENTS {
        clients.spawn(client(address, number, enough.clone()));
    }
    for sink in ["a", "b", "a"] {
        process.rotate(sink).await;
        process.crash_volume().await;
        process.rotate(sink).await;
    }
    enough.cancel();
    let mut acknowledged = Vec::new();
    let all = async {
        while let Some(done) = clients.join_next().await {
            acknowledged.extend(done.expect("no panic"));
        }
    };
    tokio::time::timeout(DEADLINE, all)
        .await
        .expect("all records are answered");
    let rows = process.rows().await;
    for sink in ["a", "b"] {
        for record in &acknowledged {
            let count = rows.get(&(sink.to_owned(), record.clone()));
            assert_eq!(count, Some(&1), "record {record} in sink {sink}");
        }
    }
    assert_eq!(rows.len(), 2 * acknowledged.len());
    process.stop().await;
}

#[tokio::test]
async fn a_changed_rate_counts_without_a_restart() {
    let process = Process::start().await;
    assert_eq!(process.post(1000).await, (200, None));
    assert_eq!(process.post(1000).await, (200, None));
    let key = "source.http.rateLimit.recordsPerSecond";
    let levels = Defaults::default().for_table(TableKind::Sqlite);
    let set = |source: &mut Source, rate: u32| {
        let value = serde_json::json!(rate);
        source.settings.set(&levels, key, value).expect("in range");
    };
    process.change(|source| set(source, 1)).await;
    // The first one passes, because nothing had been counted, and leaves a debt of a quarter of an hour.
    assert_eq!(process.post(1000).await, (200, None));
    let (status, wait) = process.post(1).await;
    assert_eq!(status, 429);
    assert!(
        wait.is_some_and(|wait| (500..=1000).contains(&wait)),
        "{wait:?}"
    );
    process.change(|source| set(source, 0)).await;
    assert_eq!(process.post(1).await, (200, None));
    let rows: usize = process.rows().await.into_values().sum();
    assert_eq!(rows, 2 * 3001);
    process.stop().await;
}

#[tokio::test]
async fn figures_of_a_source_go_with_it() {
    let process = Process::start().await;
    assert_eq!(process.post(3).await, (200, None));
    let labels = r#"{project="1",source="orders"}"#;
    let text = process.metrics();
    for line in [
        format!("stream_source_requests_total{labels} 1"),
        format!("stream_source_records_total{labels} 3"),
        format!("stream_source_body_bytes_total{labels} 6"),
        format!("stream_source_in_flight_requests{labels} 0"),
        format!("stream_source_request_seconds_count{labels} 1"),
    ] {
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    let gone = Switch {
        stamp: stamp(),
        directly: true,
    };
    process
        .change(|source| source.deleted = Some(gone.clone()))
        .await;
    assert_eq!(process.post(1).await.0, 404);
    let text = process.metrics();
    assert!(!text.contains(labels), "{text}");
    process.stop().await;
}
