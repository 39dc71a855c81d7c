//! An API with everything it needs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{HeaderMap, HeaderName};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use prometheus::Registry;
use serde_json::{Value, json};
use stream_etcd_embedded::{Options, Server};
use stream_model::definition::{Table, TableKind};
use stream_model::level::Defaults;
use stream_model::time::ManualClock;
use stream_model::{Clock, FileId, Timestamp};
use stream_node::{Helpers, Listener, OnError, Readiness, Shutdown, StillRunning, Tasks};
use stream_state::{Lease, Mirror, NodeRegistration, Store};
use stream_target::sqlite::SqliteTarget;
use stream_target::{ImportFile, Imported, Removal, RowStream, Target, TargetError, Targets};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};

use super::described;
use crate::token::{AdminToken, ensure_admin_token};
use crate::{Api, Config, Deps, Kept, Projects, RecordLimits, Traces};

/// More than any test takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Of the API's own process.
const LEASE: Duration = Duration::from_secs(10);
/// 2026-01-01T00:00:00Z
pub(super) const START: Timestamp = Timestamp::from_millis(1_767_225_600_000);

/// What a record may have.
pub(super) const LIMITS: RecordLimits = RecordLimits {
    row: 1 << 20,
    body: 64 << 10,
    batch: 1 << 20,
    template_time: Duration::from_secs(1),
};

/// How late records may be: 50 s.
pub(super) const TRACES: Traces = Traces {
    request_timeout: Duration::from_secs(10),
    kept: Kept::Newest {
        files: 30,
        rejects: 1_000,
        rejects_for: Duration::from_secs(720 * 3_600),
    },
};

/// Evaluators that are threads of the test.
fn evaluators() -> Helpers {
    let serve = |socket: std::os::unix::net::UnixStream| {
        let output = socket.try_clone().expect("another handle");
        // The line breaks when the API is done with it.
        let _ = stream_encoding::jsonnet::serve(socket, output);
    };
    Helpers::threads(serve, stream_encoding::jsonnet::HELLO)
}

/// A state store and a target, without the API.
pub(super) struct Base {
    pub(super) dir: TempDir,
    pub(super) store: Store,
    pub(super) lease: Lease,
    pub(super) mirror: Mirror,
    pub(super) clock: Arc<ManualClock>,
    pub(super) target: Arc<Gated>,
    pub(super) readiness: Readiness,
    /// The state store and what keeps the mirror.
    pub(super) background: Tasks,
    shutdown: Shutdown,
}

impl Base {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (shutdown, clock) = (Shutdown::new(), Arc::new(ManualClock::new(START)));
        let background = Tasks::new("test", &shutdown);
        let server = Server::open(Options::new(dir.path().join("state"))).expect("a state store");
        let endpoint = server.endpoint();
        let token = background.token();
        background.spawn("state store", OnError::LogAndContinue, async move {
            Ok(server.run(token).await?)
        });
        let client = endpoint.connect(None).await.expect("connected");
        let store = Store::open(client, "stream").await.expect("opened");
        let (mirror, task) = Mirror::start(&store).await.expect("mirrored");
        let token = background.token();
        background.spawn("mirror", OnError::LogAndContinue, async move {
            Ok(task.run(token).await?)
        });
        let lease = store.grant_lease(LEASE).await.expect("granted");
        let (token, kept) = (background.token(), lease.clone());
        background.spawn("lease", OnError::LogAndContinue, async move {
            Ok(kept.keep_alive(token).await?)
        });
        let as_clock: Arc<dyn Clock> = clock.clone();
        let sqlite = SqliteTarget::open(&dir.path().join("tables.sqlite"), as_clock);
        let target = Arc::new(Gated::new(sqlite.expect("a database")));
        let readiness = Readiness::new();
        Self {
            dir,
            store,
            lease,
            mirror,
            clock,
            target,
            readiness,
            background,
            shutdown,
        }
    }

    pub(super) async fn admin_token(&self) -> AdminToken {
        let path = self.dir.path().join("admin-token");
        let token = ensure_admin_token(&self.store, &path, self.clock.as_ref()).await;
        token.expect("the directory is writable")
    }

    pub(super) async fn api(&self) -> Api {
        self.api_with(None).await
    }

    /// An API that knows a Storage API.
    pub(super) async fn api_with(&self, projects: Option<Projects>) -> Api {
        let mut targets = Targets::new().with(self.target.clone());
        if projects.is_some() {
            targets = targets.with_waiting(TableKind::Keboola);
        }
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(any_port, "the API", "api.listen")
            .await
            .expect("a port");
        let config = Config {
            listen: any_port,
            public_url: "https://stream.example.com/".to_owned(),
            trusted_proxies: vec!["127.0.0.0/8".to_owned()],
        };
        let deps = Deps {
            store: self.store.clone(),
            lease: self.lease.clone(),
            node: "api-1".parse().expect("a node id"),
            mirror: self.mirror.clone(),
            targets,
            projects,
            defaults: Defaults::default(),
            source_public_url: "https://in.example.com".to_owned(),
            helpers: evaluators(),
            record_limits: LIMITS,
            traces: TRACES,
            clock: self.clock.clone(),
            registry: Registry::new(),
            listener,
            ready: self.readiness.register("api"),
            shutdown: self.shutdown.clone(),
            version: "1.2.3",
        };
        Api::start(config, deps).await.expect("started")
    }

    /// Announces an API process.
    pub(super) async fn register_process(&self, node: &str, started_at: Timestamp) {
        let lease = self.store.grant_lease(PATIENCE).await.expect("granted");
        let registration = NodeRegistration {
            version: "1.2.3".to_owned(),
            started_at,
            addresses: BTreeMap::new(),
        };
        let node = node.parse().expect("a node id");
        self.store
            .register_node(&lease, "api", &node, registration)
            .await
            .expect("registered");
    }
}

/// A running API and a client of it with an admin token.
pub(super) struct World {
    pub(super) base: Base,
    pub(super) api: Api,
    pub(super) client: Client,
}

impl World {
    pub(super) async fn start() -> Self {
        let base = Base::start().await;
        let AdminToken::Created(token) = base.admin_token().await else {
            panic!("a new installation gets a token");
        };
        let api = base.api().await;
        let client = Client {
            address: api.local_addr(),
            token: Some(token.expose().clone()),
        };
        Self { base, api, client }
    }

    /// Creates a source named `name` and waits for it.
    pub(super) async fn source(&self, name: &str) {
        let body = json!({"type": "http", "name": name});
        self.client
            .done("POST", "/v1/branches/default/sources", body)
            .await;
    }

    /// Creates a sink of `orders` with one column and waits for it.
    pub(super) async fn sink(&self, name: &str) {
        self.client.done("POST", SINKS, sink_body(name)).await;
    }

    pub(super) async fn stop(self) -> Result<(), StillRunning> {
        let stopped = self.api.stop(PATIENCE).await;
        assert!(!self.base.readiness.is_ready());
        self.base
            .background
            .stop(PATIENCE)
            .await
            .expect("the state store stops");
        stopped
    }
}

/// Where the sinks of the source `orders` are.
pub(super) const SINKS: &str = "/v1/branches/default/sources/orders/sinks";

/// A sink with one column, into a table of its own.
pub(super) fn sink_body(name: &str) -> Value {
    json!({
        "type": "table", "name": name,
        "table": {
            "type": "sqlite", "tableId": format!("table {name}"),
            "mapping": {"columns": [{"type": "body", "name": "body"}]},
        },
    })
}

/// Sends requests, each on its own connection.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) token: Option<String>,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).expect("a JSON answer")
    }

    /// Status and error name.
    pub(super) fn refusal(&self) -> (u16, String) {
        let body = self.json();
        assert_eq!(body["statusCode"], self.status, "{body}");
        let message = body["message"].as_str().expect("a message");
        assert!(message.ends_with('.') && message.len() > 10, "{message}");
        (
            self.status,
            body["error"].as_str().expect("a name").to_owned(),
        )
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("a text"))
    }
}

impl Client {
    pub(super) async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, None).await
    }

    /// Sends a request that must be refused.
    pub(super) async fn refused(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (u16, String) {
        let reply = self.send(method, path, body).await;
        reply.refusal()
    }

    /// Starts a task, waits until it has ended well, and returns it.
    pub(super) async fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let task = self.finished(method, path, body).await;
        assert_eq!(task["status"], "success", "{task}");
        task
    }

    /// Starts a task, waits until it has ended, and returns it.
    pub(super) async fn finished(&self, method: &str, path: &str, body: Value) -> Value {
        let body = Some(body).filter(|body| !body.is_null());
        let reply = self.send(method, path, body).await;
        assert_eq!(reply.status, 202, "{}", reply.text);
        let task = reply.json();
        self.ended(task["taskId"].as_str().expect("an id")).await
    }

    /// Waits until a task has ended.
    pub(super) async fn ended(&self, id: &str) -> Value {
        let wait = async {
            loop {
                let task = self.get(&format!("/v1/tasks/{id}")).await.json();
                if task["isFinished"] == true {
                    return task;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .expect("the task ends")
    }

    pub(super) async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        let headers: Vec<(&str, &str)> = match &self.token {
            Some(token) => vec![("x-storageapi-token", token)],
            None => vec![],
        };
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.send_raw(method, path, &headers, body.into()).await
    }

    pub(super) async fn send_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Reply {
        let stream = TcpStream::connect(self.address).await.expect("connected");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP");
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::from_bytes(method.as_bytes()).expect("a method");
        *request.uri_mut() = path.parse().expect("a path");
        request
            .headers_mut()
            .insert("host", "test".parse().expect("a value"));
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a name");
            request
                .headers_mut()
                .insert(name, value.parse().expect("a value"));
        }
        let exchange = async {
            let answer = sender.send_request(request).await.expect("an answer");
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let body = answer
                .into_body()
                .collect()
                .await
                .expect("a body")
                .to_bytes();
            let text = String::from_utf8(body.to_vec()).expect("a text");
            Reply {
                status,
                headers,
                text,
            }
        };
        tokio::pin!(exchange);
        tokio::pin!(connection);
        let both = async {
            tokio::select! {
                reply = &mut exchange => reply,
                _ = &mut connection => exchange.await,
            }
        };
        let reply = tokio::time::timeout(PATIENCE, both)
            .await
            .expect("an answer in time");
        described::check(method, path, &reply);
        reply
    }
}

/// A target whose tables are made only while its gate is open.
pub(super) struct Gated {
    target: SqliteTarget,
    gate: Semaphore,
    waiting: watch::Sender<usize>,
    /// Nothing can be removed.
    pub(super) broken: AtomicBool,
}

impl Gated {
    fn new(target: SqliteTarget) -> Self {
        Self {
            target,
            gate: Semaphore::new(1),
            waiting: watch::Sender::new(0),
            broken: AtomicBool::new(false),
        }
    }

    /// Closes the gate until the permit is dropped.
    pub(super) async fn close(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.gate.acquire().await.expect("never closed for good")
    }

    /// Waits until so many tables have arrived at the gate, ever.
    pub(super) async fn arrived(&self, tables: usize) {
        let mut waiting = self.waiting.subscribe();
        let arrived = waiting.wait_for(|waiting| *waiting >= tables);
        let arrived = tokio::time::timeout(PATIENCE, arrived)
            .await
            .expect("they arrive");
        arrived.expect("the sender lives");
    }
}

#[async_trait]
impl Target for Gated {
    fn kind(&self) -> TableKind {
        self.target.kind()
    }

    async fn prepare(&self, table: &Table) -> Result<(), TargetError> {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _open = self.gate.acquire().await.expect("never closed for good");
        self.target.prepare(table).await
    }

    async fn import(&self, file: &ImportFile, rows: RowStream) -> Result<Imported, TargetError> {
        self.target.import(file, rows).await
    }

    async fn status(&self, file: FileId) -> Result<Option<Imported>, TargetError> {
        self.target.status(file).await
    }

    async fn remove(&self, removal: &Removal) -> Result<BTreeSet<FileId>, TargetError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(TargetError::Stopped);
        }
        self.target.remove(removal).await
    }
}
