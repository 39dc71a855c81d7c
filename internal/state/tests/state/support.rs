//! Servers to test on, and small valid entities.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stream_etcd_embedded::{Endpoint, Options, Server};
use stream_model::definition::sink::Switch;
use stream_model::definition::source::SourceKind;
use stream_model::definition::{
    Actor, Column, ColumnKind, Mapping, Settings, Sink, Source, Stamp, Table, TableKind, Version,
};
use stream_model::file::{self, File};
use stream_model::level::{Compression, Durability};
use stream_model::slice::{self, Closing, Seal, Slice};
use stream_model::statistics::Figures;
use stream_model::trigger::{ImportTrigger, Reason, UploadTrigger};
use stream_model::{
    BranchId, BranchKey, FileId, NodeId, ProjectId, Secret, SinkKey, SliceId, SourceKey, Timestamp,
    VolumeId,
};
use stream_state::{ConnectOptions, StateError, Store};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough for any machine; nothing waits for it unless a test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// An embedded server that can be stopped and started again on the same data.
pub(crate) struct Embedded {
    dir: PathBuf,
    running: Option<(CancellationToken, JoinHandle<()>)>,
    pub(crate) endpoint: Endpoint,
    _kept: tempfile::TempDir,
}

impl Embedded {
    pub(crate) async fn start() -> Self {
        let kept = tempfile::tempdir().expect("a temporary directory");
        let dir = kept.path().join("etcd");
        let (endpoint, running) = Self::run(dir.clone()).await;
        Self {
            dir,
            running: Some(running),
            endpoint,
            _kept: kept,
        }
    }

    async fn run(dir: PathBuf) -> (Endpoint, (CancellationToken, JoinHandle<()>)) {
        let open = move || Server::open(Options::new(dir)).expect("the server opens");
        let server = tokio::task::spawn_blocking(open).await.expect("no panic");
        let endpoint = server.endpoint();
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let task = tokio::spawn(async move {
            server.run(token).await.expect("the server runs");
        });
        (endpoint, (cancel, task))
    }

    pub(crate) async fn stop(&mut self) {
        if let Some((cancel, task)) = self.running.take() {
            cancel.cancel();
            within(task).await.expect("the server stops");
        }
    }

    pub(crate) async fn start_again(&mut self) {
        let (endpoint, running) = Self::run(self.dir.clone()).await;
        self.endpoint = endpoint;
        self.running = Some(running);
    }

    pub(crate) async fn client(&self) -> etcd_client::Client {
        self.endpoint.connect(None).await.expect("connects")
    }
}

/// A store of its own, and a way around it.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) client: etcd_client::Client,
    pub(crate) namespace: String,
}

impl Fixture {
    async fn open(client: etcd_client::Client) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("test-{}-{count}", std::process::id());
        let store = Store::open(client.clone(), &namespace)
            .await
            .expect("opens");
        Self {
            store,
            client,
            namespace,
        }
    }

    /// The JSON of a key that exists.
    pub(crate) async fn raw(&mut self, key: &str) -> serde_json::Value {
        let full = format!("{}/{key}", self.namespace);
        let answer = self.client.get(full, None).await.expect("read");
        let kv = answer
            .kvs()
            .first()
            .unwrap_or_else(|| panic!("{key} exists"));
        serde_json::from_slice(kv.value()).expect("JSON")
    }

    pub(crate) async fn put_raw(&mut self, key: &str, value: &str) {
        let full = format!("{}/{key}", self.namespace);
        self.client.put(full, value, None).await.expect("puts");
    }
}

/// Runs a test on the embedded server, and on a real etcd when there is one.
pub(crate) async fn on_every_server(test: impl AsyncFn(Fixture)) {
    let mut embedded = Embedded::start().await;
    test(Fixture::open(embedded.client().await).await).await;
    embedded.stop().await;
    if let Some(client) = real_client().await {
        let fixture = Fixture::open(client.clone()).await;
        let mut namespaces = client;
        let prefix = format!("{}/", fixture.namespace);
        test(fixture).await;
        let all = etcd_client::DeleteOptions::new().with_prefix();
        let _ = namespaces.delete(prefix, Some(all)).await;
    }
}

async fn real_client() -> Option<etcd_client::Client> {
    let cluster = stream_tests_etcd::shared().await?;
    Some(connect_to(cluster).await)
}

/// Connects to all members of a cluster without encryption or users.
pub(crate) async fn connect_to(cluster: &stream_tests_etcd::Cluster) -> etcd_client::Client {
    let options = ConnectOptions {
        endpoints: cluster.endpoints().to_vec(),
        username: None,
        password: None,
        tls: None,
        connect_timeout: Duration::from_secs(10),
        keep_alive_interval: Duration::from_secs(10),
        keep_alive_timeout: Duration::from_secs(5),
    };
    stream_state::connect(&options).await.expect("connects")
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("happens in time")
}

/// Looks again and again until the condition holds.
pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let look = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, look).await.is_ok(), "{what}");
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_767_225_600_000 + seconds * 1000)
}

pub(crate) fn stamp() -> Stamp {
    Stamp {
        at: at(0),
        by: Actor::System,
    }
}

pub(crate) fn switch() -> Switch {
    Switch {
        stamp: stamp(),
        directly: true,
    }
}

pub(crate) fn version(number: u64) -> Version {
    Version {
        number,
        hash: "0123456789abcdef".to_owned(),
        description: "test".to_owned(),
        at: at(0),
        by: Actor::System,
    }
}

pub(crate) fn branch() -> BranchKey {
    BranchKey {
        project: ProjectId(1),
        branch: BranchId(1),
    }
}

pub(crate) fn source_key(name: &str) -> SourceKey {
    SourceKey {
        branch: branch(),
        source: name.parse().expect("valid"),
    }
}

pub(crate) fn sink_key(source: &str, sink: &str) -> SinkKey {
    SinkKey {
        source: source_key(source),
        sink: sink.parse().expect("valid"),
    }
}

pub(crate) fn source(name: &str) -> Source {
    Source {
        key: source_key(name),
        kind: SourceKind::Http {
            secret: Secret::new("s".repeat(48)),
        },
        name: name.to_owned(),
        description: String::new(),
        version: version(1),
        created: stamp(),
        disabled: None,
        deleted: None,
        purging: None,
        settings: Settings::default(),
    }
}

pub(crate) fn table() -> Table {
    Table {
        kind: TableKind::Sqlite,
        table_id: "orders".to_owned(),
        mapping: Mapping {
            columns: vec![Column {
                kind: ColumnKind::Body,
                name: "body".to_owned(),
                primary_key: false,
                data_type: stream_model::definition::mapping::DataType::String,
            }],
        },
    }
}

pub(crate) fn sink(source: &str, name: &str) -> Sink {
    Sink {
        key: sink_key(source, name),
        name: name.to_owned(),
        description: String::new(),
        table: table(),
        version: version(1),
        created: stamp(),
        disabled: None,
        deleted: None,
        purging: None,
        settings: Settings::default(),
    }
}

pub(crate) fn volume(n: u8) -> VolumeId {
    VolumeId::from_bytes([n; 16])
}

pub(crate) fn node(name: &str) -> NodeId {
    name.parse().expect("valid")
}

pub(crate) fn file_id(n: u8) -> FileId {
    FileId::from_bytes([n; 16])
}

pub(crate) fn slice_id(n: u8) -> SliceId {
    SliceId::from_bytes([n; 16])
}

pub(crate) fn file(sink: &SinkKey, id: FileId, volumes: &[VolumeId]) -> File {
    File {
        id,
        sink: sink.clone(),
        mapping_version: 1,
        table: table(),
        volumes: volumes.to_vec(),
        trigger: ImportTrigger::default_for(TableKind::Sqlite),
        opened_at: at(0),
        state: file::State::Writing,
        retry: None,
    }
}

pub(crate) fn slice(file: &File, id: SliceId, volume: VolumeId) -> Slice {
    Slice {
        id,
        sink: file.sink.clone(),
        kind: slice::Kind::Rows,
        file: file.id,
        volume,
        mapping_version: file.mapping_version,
        compression: Compression::Zstd { level: 1 },
        durability: Durability::Disk,
        trigger: UploadTrigger::default_for(TableKind::Sqlite),
        opened_at: at(0),
        state: slice::State::Writing,
        retry: None,
        forgotten: None,
    }
}

pub(crate) fn closing(successor: Option<SliceId>) -> Closing {
    Closing {
        at: at(5),
        reason: Reason::Count,
        successor,
    }
}

pub(crate) fn seal(rows: u64, incarnation: u64) -> Seal {
    Seal {
        at: at(6),
        incarnation,
        figures: Figures {
            rows,
            raw_bytes: rows * 10,
            bytes: rows * 3,
            first_at: None,
            last_at: None,
        },
        later_hours: stream_model::hours::LaterHours::default(),
        checksum: "00".repeat(32),
        sessions: std::collections::BTreeMap::new(),
    }
}

#[track_caller]
pub(crate) fn assert_conflict<T: std::fmt::Debug>(result: Result<T, StateError>, key: &str) {
    match result {
        Err(StateError::Conflict { key: found }) if found.starts_with(key) => {}
        other => panic!("expected a conflict on {key}, got {other:?}"),
    }
}
