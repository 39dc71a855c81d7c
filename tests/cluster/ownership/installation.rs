//! Several processes of one installation: one etcd, one staging, one table, and volumes of their own or the same ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use stream_tests::client::Source;
use stream_tests::scratch::Scratch;
use stream_tests::service::{Ended, Service};
use stream_tests::setup::Setup;
use stream_tests_etcd::{Cluster, Transport};

use super::load::Sent;
use crate::etcd_keys as keys;

/// The sink and its table.
pub const TABLE: &str = "orders";
/// How long a process is taken for alive after etcd has heard of it last, in seconds. The least that etcd grants.
pub const TTL_SECONDS: u64 = 2;

/// What all processes share.
pub struct Installation {
    scratch: Scratch,
    etcd: Etcd,
    namespace: String,
}

/// Whose etcd it is.
enum Etcd {
    OfAllTests(&'static Cluster),
    Own(Cluster),
}

impl std::ops::Deref for Etcd {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        match self {
            Self::OfAllTests(cluster) => cluster,
            Self::Own(cluster) => cluster,
        }
    }
}

impl Installation {
    /// On the etcd of all tests; none when there is none.
    pub async fn new() -> Option<Self> {
        let etcd = stream_tests_etcd::shared().await?;
        Some(Self::on(Etcd::OfAllTests(etcd)))
    }

    /// On an etcd of its own, which the test may kill; none when there is none.
    pub async fn with_its_own_etcd() -> Option<Self> {
        let program = stream_tests_etcd::program()?;
        let etcd = Cluster::start(&program, 1, Transport::Plain).await;
        Some(Self::on(Etcd::Own(etcd.expect("etcd starts"))))
    }

    fn on(etcd: Etcd) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            scratch: Scratch::new().expect("a directory"),
            etcd,
            namespace: format!("ownership-{}-{count}", std::process::id()),
        }
    }

    /// Its own etcd.
    pub fn own_etcd(&mut self) -> &mut Cluster {
        match &mut self.etcd {
            Etcd::OfAllTests(_) => panic!("the etcd is of all tests"),
            Etcd::Own(cluster) => cluster,
        }
    }

    /// A path inside the directory of the installation.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// The database with the table.
    pub fn tables(&self) -> PathBuf {
        self.path("tables.sqlite")
    }

    /// Where etcd listens.
    pub fn etcd_address(&self) -> &str {
        let endpoint = &self.etcd.endpoints()[0];
        endpoint.strip_prefix("http://").expect("no encryption")
    }

    /// Makes a directory with these volumes, as an operator does.
    pub fn volumes(&self, name: &str, labels: &[&str]) -> PathBuf {
        let path = self.path(name);
        for label in labels {
            let volume = path.join("default").join(label);
            std::fs::create_dir_all(volume).expect("the directory of a volume");
        }
        path
    }

    /// A process with all components, with the volumes in a directory. Nothing is waited for longer than a test needs.
    pub fn node(&self, name: &str, volumes: &Path) -> Setup {
        let home = self.path(name);
        let staging = format!("file://{}", self.path("staging").display());
        std::fs::create_dir_all(&home).expect("a directory");
        Setup::new(&home)
            .expect("free ports")
            .importing_each_second()
            .env("NODE_ID", name)
            .env("ETCD_ENDPOINT", &format!("http://{}", self.etcd_address()))
            .env("ETCD_NAMESPACE", &self.namespace)
            .env("STORAGE_VOLUMES_PATH", &volumes.display().to_string())
            .env("STAGING_URL", &staging)
            .env("TARGET_SQLITE_PATH", &self.tables().display().to_string())
            .env("SOURCE_HTTP_REQUEST_TIMEOUT", "2s")
            .env(
                "STORAGE_LEVEL_LOCAL_VOLUME_REGISTRATION_TTL_SECONDS",
                &TTL_SECONDS.to_string(),
            )
    }

    /// What the state has under `volume/<kind>/<id>`; null for nothing.
    pub async fn of_volume(&self, kind: &str, id: &str) -> Value {
        let key = format!("{}/volume/{kind}/{id}", self.namespace);
        let found = keys::under(&self.etcd, &key).await.expect("etcd answers");
        let value = found.get(&key).map(|stored| stored.value.clone());
        value.map_or(Value::Null, |text| {
            serde_json::from_str(&text).expect("JSON")
        })
    }

    /// All that the state has, by keys without the namespace.
    pub async fn state(&self) -> BTreeMap<String, Value> {
        let prefix = format!("{}/", self.namespace);
        let found = keys::under(&self.etcd, &prefix)
            .await
            .expect("etcd answers");
        let entry = |(key, stored): (String, keys::Stored)| {
            let value = serde_json::from_str(&stored.value).expect("JSON");
            (key[prefix.len()..].to_owned(), value)
        };
        found.into_iter().map(entry).collect()
    }

    /// How often a volume was opened.
    pub async fn incarnation(&self, id: &str) -> u64 {
        let incarnation = self.of_volume("incarnation", id).await;
        incarnation["number"].as_u64().unwrap_or(0)
    }

    /// Waits until everything acknowledged is imported, lets the processes stop, and compares.
    pub async fn settle(&self, name: &str, sent: &Sent, services: &mut [&mut Service]) {
        eprintln!("{name}: {}", sent.summary());
        let imported = sent.wait_for_import(&self.tables()).await;
        imported.expect("all records are imported");
        for service in &mut *services {
            service.stop().await.expect("it stops");
        }
        let compared = sent.check(&self.tables());
        compared.expect("the table holds what was acknowledged");
        let check = self.command(&["state", "check"]).await;
        assert!(check.success, "{}", check.stdout);
    }

    /// Runs a command of the service on the state.
    pub async fn command(&self, words: &[&str]) -> Ended {
        let setup = self.node("command", &self.path("none")).words(words);
        setup.run_to_end().await.expect("it ends")
    }
}

/// Creates the source with one sink of one column: the number of the record.
pub async fn create(service: &Service) -> Source {
    let api = service.api().expect("a token");
    let source = api.create_source(TABLE).await.expect("it is created");
    let column = json!({"type": "path", "name": "total", "path": "total", "rawString": true});
    let created = api.create_sink(&source, TABLE, &[column]).await;
    created.expect("it is created");
    source
}

/// The identity of the volume in a directory.
pub fn id_of(volume: &Path) -> String {
    let id = std::fs::read_to_string(volume.join("volume-id")).expect("it has one");
    id.trim().to_owned()
}

/// Why a process says that its storage-writer is not ready; empty when it is.
pub async fn not_ready(setup: &Setup) -> String {
    use stream_tests::client::{request, send_once};

    let ready = request(hyper::Method::GET, "/ready", "");
    let reply = send_once(setup.metrics_address(), ready).await;
    let report = reply.expect("the admin port answers").json();
    let reason = &report["components"]["storage-writer"]["reason"];
    reason.as_str().unwrap_or_default().to_owned()
}
