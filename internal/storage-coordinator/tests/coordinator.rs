//! A coordinator at work on a real state store and real staging. Writer and reader are played by the tests; the target is
//! one in memory that keeps the promises of every target.
#![allow(
    clippy::disallowed_methods,
    reason = "tests join what they spawn, by ending"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};
use stream_encoding::Encoder;
use stream_model::definition::{Sink, Source, Table, TableKind};
use stream_model::file::{File, State};
use stream_model::level::{ConfiguredImport, Defaults};
use stream_model::opening;
use stream_model::slice::{self, Seal, Slice};
use stream_model::statistics::{Crossed, Figures};
use stream_model::time::{ManualClock, SystemClock};
use stream_model::trigger::Reason;
use stream_model::unit::Interval;
use stream_model::{Clock, FileId, SinkKey, VolumeId};
use stream_node::{CancellationToken, Readiness, ReconcilerMetrics, Shutdown};
use stream_state::{Lease, Mirror, Opening, Registration, SinkNode, Store, Topology, Versioned};
use stream_storage::staging::{Content, Staging, StagingConfig};
use stream_storage_coordinator::{CleanupOptions, Coordinator, CoordinatorOptions, Deps};
use stream_target::{ImportFile, Imported, Removal, RowStream, Target, TargetError, Targets};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// Files and rows in memory. An import is all or nothing, and repeating one changes nothing.
#[derive(Default)]
struct MemoryTarget {
    files: Mutex<BTreeMap<FileId, Vec<String>>>,
    prepared: AtomicUsize,
}

#[async_trait]
impl Target for MemoryTarget {
    fn kind(&self) -> TableKind {
        TableKind::Sqlite
    }

    async fn prepare(&self, _table: &Table) -> Result<(), TargetError> {
        self.prepared.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn import(
        &self,
        file: &ImportFile,
        mut rows: RowStream,
    ) -> Result<Imported, TargetError> {
        if let Some(imported) = self.status(file.id).await? {
            return Ok(imported);
        }
        let mut read = Vec::new();
        while let Some(block) = rows.next().await {
            let block = block.map_err(TargetError::Rows)?;
            read.extend(block.rows().map(|row| row[0].to_owned()));
        }
        let imported = Imported {
            rows: read.len() as u64,
            at: SystemClock.now(),
            already: false,
        };
        self.files.lock().insert(file.id, read);
        Ok(imported)
    }

    async fn status(&self, file: FileId) -> Result<Option<Imported>, TargetError> {
        let rows = self.files.lock().get(&file).map(Vec::len);
        let at = SystemClock.now();
        Ok(rows.map(|rows| Imported {
            rows: rows as u64,
            at,
            already: true,
        }))
    }

    async fn remove(&self, removal: &Removal) -> Result<BTreeSet<FileId>, TargetError> {
        let mut files = self.files.lock();
        let known = removal.files.iter().filter(|id| files.contains_key(id));
        let known = known.copied().collect();
        for id in &removal.files {
            files.insert(*id, Vec::new());
        }
        Ok(known)
    }
}

impl MemoryTarget {
    fn rows(&self) -> Vec<String> {
        self.files.lock().values().flatten().cloned().collect()
    }
}

struct Cluster {
    dir: TempDir,
    store: Store,
    mirror: Mirror,
    staging: Staging,
    target: Arc<MemoryTarget>,
    volume: VolumeId,
    _lease: Lease,
}

impl Cluster {
    /// A state store, and a volume that seems to be served.
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
        let cluster = Self {
            staging: Staging::open(&config).expect("opened"),
            target: Arc::default(),
            volume: VolumeId::from_bytes([1; 16]),
            dir,
            store,
            mirror,
            _lease: lease.clone(),
        };
        let node = "a".parse().expect("valid node");
        let number = cluster
            .store
            .raise_incarnation(cluster.volume, &node)
            .await
            .expect("raised");
        assert_eq!(number, 1);
        let registration = Registration {
            node,
            kind: "default".to_owned(),
            label: "local".to_owned(),
            incarnation: number,
        };
        let registered = cluster
            .store
            .register_volume(&lease, cluster.volume, registration);
        registered.await.expect("registered");
        cluster
    }

    async fn coordinator(&self, node: &str, cleanup: CleanupOptions) -> Coordinator {
        self.coordinator_at(Arc::new(SystemClock), node, cleanup)
            .await
    }

    async fn coordinator_at(
        &self,
        clock: Arc<dyn Clock>,
        node: &str,
        cleanup: CleanupOptions,
    ) -> Coordinator {
        let registry = prometheus::Registry::new();
        // A file is due as soon as one row is known.
        let import = ConfiguredImport {
            count: Some(1),
            min_interval: Some(Interval::from_secs(0)),
            ..ConfiguredImport::default()
        };
        let options = CoordinatorOptions {
            defaults: Defaults {
                import,
                ..Defaults::default()
            },
            cleanup,
            ..CoordinatorOptions::default()
        };
        let deps = Deps {
            store: self.store.clone(),
            mirror: self.mirror.clone(),
            staging: self.staging.clone(),
            targets: Targets::new().with(Arc::clone(&self.target) as Arc<dyn Target>),
            clock,
            reconcilers: ReconcilerMetrics::register(&registry).expect("registered"),
            registry,
            ready: Readiness::new().register("storage-coordinator"),
            shutdown: Shutdown::new(),
            node: node.parse().expect("valid node"),
        };
        Coordinator::start(options, deps).await.expect("started")
    }

    async fn create_source(&self) -> Source {
        let source: Source = serde_json::from_value(json!({
            "key": {"project": 1, "branch": 1, "source": "orders"},
            "kind": {"type": "http", "secret": "x"},
            "name": "Orders", "description": "", "version": version(), "created": stamp(),
        }))
        .expect("valid source");
        let created = self.store.create_source(source).await;
        created.expect("created").value
    }

    async fn create_sink(&self, id: &str) -> SinkKey {
        let sink = sink(id);
        let key = sink.key.clone();
        self.store.create_sink(sink, None).await.expect("created");
        key
    }

    /// Waits until the mirror shows what is looked for.
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

    async fn wait_for_sink<T>(
        &self,
        key: &SinkKey,
        what: &str,
        mut look: impl FnMut(&SinkNode) -> Option<T>,
    ) -> T {
        self.wait(what, |topology| topology.sink(key).and_then(&mut look))
            .await
    }

    /// The writing file of a sink and its only slice.
    async fn writing(&self, key: &SinkKey) -> (Arc<Versioned<File>>, Arc<Versioned<Slice>>) {
        self.wait_for_sink(key, "a writing file", |sink| {
            let file = sink.files.get(&sink.current?)?;
            let slice = sink
                .slices
                .values()
                .find(|slice| slice.value.file == file.value.id)?;
            Some((Arc::clone(file), Arc::clone(slice)))
        })
        .await
    }

    /// What a writer does when a slice reaches a limit.
    async fn cross(&self, slice: &Slice, rows: u64) {
        let now = SystemClock.now();
        let figures = Figures {
            rows,
            raw_bytes: 1,
            bytes: 1,
            first_at: Some(now),
            last_at: Some(now),
        };
        let (sink, slice, volume) = (slice.sink.clone(), slice.id, slice.volume);
        let crossed = Crossed {
            sink,
            slice,
            volume,
            reason: Reason::Count,
            figures,
            later_hours: stream_model::hours::LaterHours::default(),
            at: now,
        };
        assert!(self.store.put_crossed(crossed).await.expect("recorded"));
    }

    async fn closing(&self, slice: &Slice) -> Arc<Versioned<Slice>> {
        self.wait("the slice is closed", |topology| {
            let slice = topology.slice(slice.id)?;
            matches!(slice.value.state, slice::State::Closing(_)).then(|| Arc::clone(slice))
        })
        .await
    }

    /// What writer and reader do with a closing slice. Returns the object.
    async fn seal_and_upload(&self, slice: &Versioned<Slice>, rows: &[&str]) -> Option<String> {
        let csv: String = rows.iter().map(|row| format!("\"{row}\"\n")).collect();
        let mut encoder = Encoder::new(slice.value.compression);
        let bytes = encoder.frame(csv.as_bytes()).expect("compressed");
        let checksum: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let now = SystemClock.now();
        let first_at = (!rows.is_empty()).then_some(now);
        let figures = Figures {
            rows: rows.len() as u64,
            raw_bytes: csv.len() as u64,
            bytes: bytes.len() as u64,
            first_at,
            last_at: first_at,
        };
        let (at, sessions) = (now, BTreeMap::new());
        let seal = Seal {
            at,
            incarnation: 1,
            figures,
            later_hours: stream_model::hours::LaterHours::default(),
            checksum: checksum.clone(),
            sessions,
        };
        let sealed = self.store.seal_slice(slice, seal, 1).await.expect("sealed");
        if rows.is_empty() {
            return None;
        }
        let path = self.dir.path().join("slice");
        std::fs::write(&path, &bytes).expect("written");
        let (key, id) = (&slice.value.sink, slice.value.id);
        let object = Staging::object_name(key, id, &checksum, slice.value.compression);
        let content = Content {
            bytes: bytes.len() as u64,
            checksum,
        };
        self.staging
            .upload(&object, &path, &content)
            .await
            .expect("uploaded");
        self.store
            .upload_slice(&sealed, object.clone(), now, 1)
            .await
            .expect("recorded");
        Some(object)
    }

    async fn imported(&self, key: &SinkKey, file: FileId) -> u64 {
        self.wait_for_sink(key, "the file is imported", |sink| {
            match sink.files.get(&file)?.value.state {
                State::Imported { rows, .. } => Some(rows),
                _ => None,
            }
        })
        .await
    }
}

fn sink(id: &str) -> Sink {
    serde_json::from_value(json!({
        "key": {"project": 1, "branch": 1, "source": "orders", "sink": id},
        "name": id, "description": "", "version": version(), "created": stamp(),
        "table": {"type": "sqlite", "tableId": id, "mapping": {"columns": [{"type": "body", "name": "body"}]}},
    }))
    .expect("valid sink")
}

fn stamp() -> serde_json::Value {
    json!({"at": "2026-01-01T00:00:00.000Z", "by": {"type": "system"}})
}

fn version() -> serde_json::Value {
    json!({"number": 1, "hash": "00", "description": "", "at": "2026-01-01T00:00:00.000Z", "by": {"type": "system"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_from_staging_to_the_table() {
    let cluster = Cluster::start().await;
    cluster.create_source().await;
    let coordinator = cluster.coordinator("a", CleanupOptions::default()).await;
    let key = cluster.create_sink("raw").await;
    let (file, slice) = cluster.writing(&key).await;
    assert_eq!(slice.value.volume, cluster.volume);

    cluster.cross(&slice.value, 2).await;
    let closing = cluster.closing(&slice.value).await;
    let successor = closing
        .value
        .closing()
        .and_then(|closing| closing.successor);
    let (next, next_slice) = cluster.writing(&key).await;
    assert_ne!(next.value.id, file.value.id);
    assert_eq!(successor, Some(next_slice.value.id));

    cluster.seal_and_upload(&closing, &["one", "two"]).await;
    assert_eq!(cluster.imported(&key, file.value.id).await, 2);
    assert_eq!(cluster.target.rows(), ["one", "two"]);
    coordinator.stop(PATIENCE).await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_coordinators_open_and_close_each_file_once() {
    let cluster = Cluster::start().await;
    cluster.create_source().await;
    // Neither sees the other's registration, so each believes that all sinks are its own.
    let racing = [
        cluster.coordinator("a", CleanupOptions::default()).await,
        cluster.coordinator("b", CleanupOptions::default()).await,
    ];
    let mut keys = Vec::new();
    for number in 0..8 {
        keys.push(cluster.create_sink(&format!("sink-{number}")).await);
    }
    for key in &keys {
        let (_, slice) = cluster.writing(key).await;
        cluster.cross(&slice.value, 1).await;
    }
    for key in &keys {
        let files = cluster
            .wait_for_sink(key, "two files", |sink| {
                let closed = sink.files.values().any(|f| f.value.state != State::Writing);
                (closed && sink.current.is_some()).then(|| sink.files.clone())
            })
            .await;
        let writing = files
            .values()
            .filter(|file| file.value.state == State::Writing);
        assert_eq!((files.len(), writing.count()), (2, 1), "{key}");
        let slices = cluster.mirror.read(|topology| {
            let sink = topology.sink(key).expect("it exists");
            (sink.slices.len(), sink.rejects().count())
        });
        assert_eq!(slices, (3, 1), "{key}");
    }
    for coordinator in racing {
        coordinator.stop(PATIENCE).await.expect("stopped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_not_recorded_is_repeated_without_adding_rows() {
    let cluster = Cluster::start().await;
    cluster.create_source().await;
    let key = cluster.create_sink("raw").await;
    let first = cluster.coordinator("a", CleanupOptions::default()).await;
    let (file, slice) = cluster.writing(&key).await;
    cluster.cross(&slice.value, 2).await;
    let closing = cluster.closing(&slice.value).await;
    first.stop(PATIENCE).await.expect("stopped");

    // The target commits, and the coordinator dies before it can say so.
    cluster.seal_and_upload(&closing, &["one", "two"]).await;
    let committed = vec!["one".to_owned(), "two".to_owned()];
    cluster
        .target
        .files
        .lock()
        .insert(file.value.id, committed.clone());

    let second = cluster.coordinator("b", CleanupOptions::default()).await;
    assert_eq!(cluster.imported(&key, file.value.id).await, 2);
    assert_eq!(cluster.target.rows(), committed);
    second.stop(PATIENCE).await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_sink_ends_its_file_and_an_empty_file_needs_no_target() {
    let cluster = Cluster::start().await;
    cluster.create_source().await;
    let coordinator = cluster.coordinator("a", CleanupOptions::default()).await;
    let key = cluster.create_sink("raw").await;
    let (file, slice) = cluster.writing(&key).await;
    let switch = || {
        serde_json::from_value(
            json!({"at": "2026-01-01T00:00:00.000Z", "by": {"type": "system"}, "directly": true}),
        )
        .expect("valid switch")
    };
    let disable = |sink| {
        Ok::<_, stream_state::StateError>(Sink {
            disabled: Some(switch()),
            ..sink
        })
    };
    cluster
        .store
        .update_sink(&key, disable)
        .await
        .expect("disabled");
    let closing = cluster.closing(&slice.value).await;
    assert_eq!(
        closing
            .value
            .closing()
            .and_then(|closing| closing.successor),
        None
    );
    cluster.seal_and_upload(&closing, &[]).await;
    assert_eq!(cluster.imported(&key, file.value.id).await, 0);
    assert_eq!(cluster.target.prepared.load(Ordering::SeqCst), 0);
    let files: BTreeSet<_> = cluster.mirror.read(|topology| {
        topology
            .sink(&key)
            .map(|sink| sink.files.keys().copied().collect())
            .unwrap_or_default()
    });
    assert_eq!(
        files,
        BTreeSet::from([file.value.id]),
        "no other file was opened"
    );
    coordinator.stop(PATIENCE).await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_leaves_no_row_and_is_imported_when_it_is_whole_again() {
    let cluster = Cluster::start().await;
    cluster.create_source().await;
    let key = cluster.create_sink("raw").await;
    let coordinator = cluster.coordinator("a", CleanupOptions::default()).await;
    let (file, slice) = cluster.writing(&key).await;
    cluster.cross(&slice.value, 1).await;
    let closing = cluster.closing(&slice.value).await;
    coordinator.stop(PATIENCE).await.expect("stopped");
    let object = cluster
        .seal_and_upload(&closing, &["one", "two"])
        .await
        .expect("there are rows");
    let path = cluster.dir.path().join("staging").join(&object);
    let whole = std::fs::read(&path).expect("readable");
    let mut damaged = whole.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    std::fs::write(&path, damaged).expect("written");

    let coordinator = cluster.coordinator("a", CleanupOptions::default()).await;
    let retry = cluster
        .wait_for_sink(&key, "the import fails", |sink| {
            sink.files.get(&file.value.id)?.value.retry.clone()
        })
        .await;
    assert!(retry.reason.contains(&object), "{}", retry.reason);
    assert!(cluster.target.rows().is_empty());
    std::fs::write(&path, whole).expect("written");
    assert_eq!(cluster.imported(&key, file.value.id).await, 2);
    coordinator.stop(PATIENCE).await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_file_leaves_neither_objects_nor_records_but_its_figures() {
    let cluster = Cluster::start().await;
    cluster.create_source().await;
    let cleanup = CleanupOptions {
        interval: Duration::from_millis(50),
        retention: Duration::ZERO,
        archived_files_per_sink: 0,
        ..CleanupOptions::default()
    };
    let coordinator = cluster.coordinator("a", cleanup).await;
    let key = cluster.create_sink("raw").await;
    let (file, slice) = cluster.writing(&key).await;
    cluster.cross(&slice.value, 1).await;
    let closing = cluster.closing(&slice.value).await;
    cluster.seal_and_upload(&closing, &["one", "two"]).await;
    let removed = cluster
        .wait_for_sink(&key, "the file is removed", |sink| {
            let gone = !sink.files.contains_key(&file.value.id)
                && !sink.slices.contains_key(&slice.value.id);
            sink.removed.filter(|_| gone)
        })
        .await;
    assert_eq!(removed.rows, 2);
    assert_eq!(cluster.staging.list("").await.expect("readable"), []);
    assert_eq!(cluster.target.rows(), ["one", "two"]);
    coordinator.stop(PATIENCE).await.expect("stopped");
}

/// The writing slice of rejected records.
async fn taking_rejects(cluster: &Cluster, key: &SinkKey) -> Arc<Versioned<Slice>> {
    cluster
        .wait_for_sink(key, "rejected records can be kept", |sink| {
            let mut slices = sink.rejects();
            let slice = slices.find(|slice| slice.value.state == slice::State::Writing);
            slice.cloned()
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_records_are_kept_beside_the_files_and_go_after_their_retention() {
    let cluster = Cluster::start().await;
    cluster.create_source().await;
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let cleanup = CleanupOptions {
        interval: Duration::from_millis(50),
        ..CleanupOptions::default()
    };
    let retention = cleanup.rejects.retention;
    let coordinator = cluster
        .coordinator_at(Arc::clone(&clock) as Arc<dyn Clock>, "a", cleanup)
        .await;
    let key = cluster.create_sink("raw").await;
    let (file, rows) = cluster.writing(&key).await;
    let rejects = taking_rejects(&cluster, &key).await;
    assert_eq!(rejects.value.volume, rows.value.volume);

    // The file is closed while the report of the rejects waits for its least interval: it must not be lost with the file's.
    cluster.cross(&rejects.value, 2).await;
    clock.advance(Duration::from_secs(2));
    cluster.cross(&rows.value, 1).await;
    let closing = cluster.closing(&rows.value).await;
    cluster.seal_and_upload(&closing, &["row"]).await;
    assert_eq!(cluster.imported(&key, file.value.id).await, 1);
    let still = taking_rejects(&cluster, &key).await;
    assert_eq!(still.value, rejects.value);
    clock.advance(Duration::from_secs(60));
    // Any change makes the coordinator look at its clock again.
    let (_, rows) = cluster.writing(&key).await;
    cluster.cross(&rows.value, 1).await;
    let closing = cluster.closing(&rejects.value).await;
    let next = taking_rejects(&cluster, &key).await;
    assert_eq!(
        closing.value.closing().and_then(|it| it.successor),
        Some(next.value.id)
    );
    let object = cluster.seal_and_upload(&closing, &["bad", "worse"]).await;
    let object = object.expect("there are records");
    assert_eq!(cluster.target.rows(), ["row"], "they are never imported");

    // Deleting the sink ends it, and what is kept stays.
    let switch = serde_json::from_value(
        json!({"at": "2026-01-01T00:00:00.000Z", "by": {"type": "system"}, "directly": true}),
    )
    .expect("valid switch");
    cluster
        .store
        .delete_sink(&key, switch)
        .await
        .expect("deleted");
    let last = cluster.closing(&next.value).await;
    assert_eq!(last.value.closing().and_then(|it| it.successor), None);
    cluster.seal_and_upload(&last, &[]).await;
    let objects = || async {
        let listed = cluster.staging.list("").await.expect("readable");
        listed.iter().any(|listed| listed.name == object)
    };
    clock.advance(retention - Duration::from_secs(100));
    let empty_gone = cluster.wait_for_sink(&key, "the empty one is gone", |sink| {
        (!sink.slices.contains_key(&last.value.id)).then_some(())
    });
    empty_gone.await;
    assert!(objects().await, "its time is not over");
    clock.advance(Duration::from_secs(200));
    let removed = cluster
        .wait_for_sink(&key, "the rejects are removed", |sink| {
            let gone = sink.rejects().next().is_none();
            sink.rejects_removed.filter(|_| gone)
        })
        .await;
    assert_eq!(removed.rows, 2);
    assert!(!objects().await);
    coordinator.stop(PATIENCE).await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_of_an_older_version_gets_its_place_for_rejects() {
    let cluster = Cluster::start().await;
    let source = cluster.create_source().await;
    let (sink, volumes) = (sink("raw"), [cluster.volume]);
    let (defaults, now) = (Defaults::default(), SystemClock.now());
    let mut random = rand::random;
    let plan = opening::plan(&source, &sink, &defaults, &volumes, now, &mut random);
    let opening = Opening {
        assignment: Some(volumes.to_vec()),
        file: plan.file,
        slices: plan.slices,
    };
    let key = sink.key.clone();
    let created = cluster.store.create_sink(sink, Some(opening)).await;
    created.expect("created");
    let (_, rows) = cluster.writing(&key).await;
    let none = cluster.mirror.read(|topology| {
        topology
            .sink(&key)
            .is_some_and(|sink| sink.rejects().next().is_none())
    });
    assert!(none, "nobody opened it");
    let racing = [
        cluster.coordinator("a", CleanupOptions::default()).await,
        cluster.coordinator("b", CleanupOptions::default()).await,
    ];
    let rejects = taking_rejects(&cluster, &key).await;
    assert_eq!(rejects.value.volume, rows.value.volume);
    let (_, same) = cluster.writing(&key).await;
    assert_eq!(same.value.id, rows.value.id, "the rows are left alone");
    for coordinator in racing {
        coordinator.stop(PATIENCE).await.expect("stopped");
    }
    let count = cluster
        .mirror
        .read(|topology| topology.sink(&key).map(|sink| sink.rejects().count()));
    assert_eq!(count, Some(1));
}
