//! How a process is started: its words, its environment, its ports, and where it keeps everything.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use hyper::Method;

use crate::client::{request, send_once};
use stream_tests_etcd::free_port::free_port;

/// All components.
const COMPONENTS: [&str; 5] = [
    "api",
    "http-source",
    "storage-coordinator",
    "storage-reader",
    "storage-writer",
];
/// Name of the data directory.
const DATA: &str = "data";

/// The variable that arms fail points.
const FAIL_POINTS: &str = "FAILPOINTS";

/// How a process is started, and started again.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Components, or other words.
    pub words: Vec<String>,
    /// Variables beside those for directory, ports and log format.
    pub env: Vec<(String, String)>,
    data_dir: PathBuf,
    api: u16,
    source: u16,
    metrics: u16,
}

impl Setup {
    /// All components, with the data directory inside `dir`, on free ports.
    ///
    /// # Errors
    /// When no ports are free.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            words: vec!["all".to_owned()],
            env: Vec::new(),
            data_dir: dir.join(DATA),
            api: free_port()?,
            source: free_port()?,
            metrics: free_port()?,
        })
    }

    /// With other words than `all`.
    #[must_use]
    pub fn words(mut self, words: &[&str]) -> Self {
        self.words = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// With a variable, by the rest of its name after `STREAM_`.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((format!("STREAM_{name}"), value.to_owned()));
        self
    }

    /// With these fail points, and no others: the text of `FAILPOINTS`.
    #[must_use]
    pub fn fail_points(mut self, text: &str) -> Self {
        self.env.retain(|(name, _)| name != FAIL_POINTS);
        self.env.push((FAIL_POINTS.to_owned(), text.to_owned()));
        self
    }

    /// With upload and import each second, so that a test need not wait.
    #[must_use]
    pub fn importing_each_second(self) -> Self {
        self.env("STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL", "1s")
            .env("STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL", "1s")
    }

    /// Where the process keeps everything.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The database with the tables.
    #[must_use]
    pub fn tables(&self) -> PathBuf {
        self.data_dir.join("tables.sqlite")
    }

    /// Where the API listens.
    #[must_use]
    pub fn api_address(&self) -> SocketAddr {
        local(self.api)
    }

    /// Where records are sent.
    #[must_use]
    pub fn source_address(&self) -> SocketAddr {
        local(self.source)
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn metrics_address(&self) -> SocketAddr {
        local(self.metrics)
    }

    /// The components that run with these words, sorted.
    #[must_use]
    pub fn components(&self) -> Vec<String> {
        let mut names = self.words.clone();
        if names.iter().any(|name| name == "all") {
            names = COMPONENTS.map(str::to_owned).to_vec();
        }
        names.sort();
        names
    }

    /// What the process says about its readiness.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn readiness(&self) -> anyhow::Result<Readiness> {
        let reply = send_once(self.metrics_address(), request(Method::GET, "/ready", "")).await?;
        let report = reply.json();
        let components = report["components"]
            .as_object()
            .context("components are not named")?;
        let mut components: Vec<String> = components.keys().cloned().collect();
        components.sort();
        Ok(Readiness {
            is_ready: reply.status == 200,
            components,
        })
    }

    /// The process, not started yet. Variables of the service that happen to be set here do not reach it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("STREAM_") {
                command.env_remove(name);
            }
        }
        command.env_remove(FAIL_POINTS);
        let listen = |port: u16| local(port).to_string();
        command
            .args(&self.words)
            .env("STREAM_DATA_DIR", &self.data_dir)
            .env("STREAM_API_LISTEN", listen(self.api))
            .env("STREAM_SOURCE_HTTP_LISTEN", listen(self.source))
            .env("STREAM_METRICS_LISTEN", listen(self.metrics))
            // Told to others through the state; used beside a real etcd only.
            .env(
                "STREAM_STORAGE_LEVEL_LOCAL_WRITER_NETWORK_LISTEN",
                listen(0),
            )
            .env("STREAM_LOG_FORMAT", "json")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Whether a process takes traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the answer is 200.
    pub is_ready: bool,
    /// The components that it is about, sorted.
    pub components: Vec<String>,
}
