//! What stands before any component: the data directory, the state, the ports, staging and targets.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use stream_api::Projects;
use stream_etcd_embedded::OpenError;
use stream_model::Clock;
use stream_model::definition::TableKind;
use stream_node::{Listener, OnError, Shutdown, Tasks};
use stream_storage::local::durable;
use stream_storage::staging::{Staging, StagingConfig};
use stream_target::Targets;
use stream_target::keboola::{Custody, StorageApi, StorageApiError};
use stream_target::sqlite::SqliteTarget;
use tokio::time::{Instant, sleep};

use tracing::warn;

use super::embedded;
use crate::component::Component;
use crate::config::{Config, EncryptionProvider};
use crate::network;

/// How long the start waits for the Storage API.
const STORAGE_API_PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two looks, each of which has several tries.
const STORAGE_API_PAUSE: Duration = Duration::from_secs(1);

/// The open ports: all of them before any work begins, so that a taken one is known at once.
pub struct Ports {
    pub admin: Listener,
    pub api: Option<Listener>,
    pub source: Option<Listener>,
    pub writer: Option<Listener>,
}

/// Connects to the state: the embedded store of this process, or a real etcd.
pub async fn connect(
    config: &Config,
    registry: &prometheus::Registry,
    shutdown: &Shutdown,
) -> anyhow::Result<(etcd_client::Client, Option<Tasks>, String)> {
    create_data_dir(&config.data_dir)?;
    if !config.is_standalone() {
        let client = stream_state::connect(&config.etcd_options()).await?;
        return Ok((
            client,
            None,
            format!("etcd at {}", config.etcd.endpoint.join(", ")),
        ));
    }
    let mut options = stream_etcd_embedded::Options::new(config.data_dir.join("state"));
    options.listen = config.etcd.embedded.listen;
    let opened = tokio::task::spawn_blocking(|| stream_etcd_embedded::Server::open(options));
    let opened = opened
        .await
        .context("opening the embedded state store was cut short")?;
    let server = opened.map_err(|error| match error {
        OpenError::AlreadyOpen { .. } => anyhow!(
            "another process uses the data directory {}; stop it, or give this one a directory of its own with dataDir \
             (STREAM_DATA_DIR, --data-dir)",
            config.data_dir.display()
        ),
        error => error.into(),
    })?;
    let endpoint = server.endpoint();
    embedded::register(registry, server.observer())?;
    let tasks = Tasks::new("embedded-state", shutdown);
    let token = tasks.token();
    tasks.spawn("embedded state store", OnError::StopProcess, async move {
        server.run(token).await.map_err(Into::into)
    });
    let client = endpoint
        .connect(None)
        .await
        .context("cannot connect to the embedded state store")?;
    Ok((
        client,
        Some(tasks),
        format!("embedded ({})", endpoint.address()),
    ))
}

/// Asks the Storage API for its index, for as long as it takes within the limit: it may be away for a moment, or start together
/// with this process.
///
/// # Errors
/// When it is not there, or there is something else at its address.
pub async fn storage_api(config: &Config) -> anyhow::Result<Option<StorageApi>> {
    let Some(address) = config.storage_api_address().map_err(anyhow::Error::msg)? else {
        return Ok(None);
    };
    let shown = address.to_string();
    let storage_api = StorageApi::new(address, config.storage_api_options())
        .context("storageApiHost cannot be reached")?;
    let deadline = Instant::now() + STORAGE_API_PATIENCE;
    let mut told = false;
    loop {
        let error = match storage_api.check().await {
            Ok(()) => return Ok(Some(storage_api)),
            Err(error @ StorageApiError::Unavailable { .. }) if Instant::now() < deadline => error,
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("storageApiHost is {shown}, but no Storage API answers there")
                });
            }
        };
        if !std::mem::replace(&mut told, true) {
            warn!(address = shown, %error, "waiting for the storage api");
        }
        sleep(STORAGE_API_PAUSE).await;
    }
}

/// What the API needs for projects.
///
/// # Errors
/// When credentials could not be kept safely.
pub fn projects(
    config: &Config,
    storage_api: Option<StorageApi>,
) -> anyhow::Result<Option<Projects>> {
    let Some(storage_api) = storage_api else {
        return Ok(None);
    };
    let key = config.encryption.aes.secret_key.as_ref();
    let key = key.filter(|_| config.encryption.provider == EncryptionProvider::Aes);
    let Some(key) = key else {
        return Err(anyhow!(
            "storageApiHost needs encryption.provider \"aes\": sinks get tokens of their own, which are kept in etcd; set \
             encryption.aes.secretKey to the output of: openssl rand -base64 32"
        ));
    };
    let custody = Custody::new(key).context("encryption.aes.secretKey is not valid")?;
    Ok(Some(Projects {
        storage_api,
        custody,
    }))
}

fn create_data_dir(path: &Path) -> anyhow::Result<()> {
    let advice =
        "give a directory that this user may write to with dataDir (STREAM_DATA_DIR, --data-dir)";
    durable::create_dir_all(path).map_err(|error| {
        anyhow!(
            "cannot use the data directory {}: {error}; {advice}",
            path.display()
        )
    })?;
    // Processes that share the directory may start at the same moment.
    let probe = path.join(format!(".write-probe-{}", std::process::id()));
    durable::replace(&probe, b"")
        .and_then(|()| durable::remove(&probe))
        .map_err(|error| {
            anyhow!(
                "cannot write to the data directory {}: {error}; {advice}",
                path.display()
            )
        })
}

pub async fn bind(config: &Config, components: &BTreeSet<Component>) -> anyhow::Result<Ports> {
    let admin = Listener::bind(
        config.metrics.listen,
        "health and metrics",
        "metrics.listen",
    )
    .await?;
    let api = match components.contains(&Component::Api) {
        true => Some(Listener::bind(config.api.listen, "the API", "api.listen").await?),
        false => None,
    };
    let source = match components.contains(&Component::HttpSource) {
        true => {
            let listen = config.source.http.listen;
            Some(Listener::bind(listen, "the HTTP source", "source.http.listen").await?)
        }
        false => None,
    };
    // Nobody but this process finds the volumes of an installation that keeps its state itself.
    let writer = match components.contains(&Component::StorageWriter) && !config.is_standalone() {
        true => {
            let listen = config.storage.level.local.writer.network.listen;
            Some(Listener::bind(listen, "the storage writer", network::LISTEN).await?)
        }
        false => None,
    };
    Ok(Ports {
        admin,
        api,
        source,
        writer,
    })
}

pub fn open_staging(config: &Config) -> anyhow::Result<Staging> {
    Ok(Staging::open(&StagingConfig {
        url: config.staging.url.clone(),
    })?)
}

pub async fn open_targets(
    config: &Config,
    clock: &Arc<dyn Clock>,
    components: &BTreeSet<Component>,
) -> anyhow::Result<Targets> {
    let wanted = [Component::Api, Component::StorageCoordinator];
    if !wanted
        .iter()
        .any(|component| components.contains(component))
    {
        return Ok(Targets::new());
    }
    let path = config
        .target
        .sqlite
        .path
        .clone()
        .context("target.sqlite.path has no value")?;
    let clock = Arc::clone(clock);
    let opened = tokio::task::spawn_blocking(move || SqliteTarget::open(&path, clock));
    let sqlite = opened
        .await
        .context("opening the SQLite target was cut short")??;
    let targets = Targets::new().with(Arc::new(sqlite));
    // Their sinks take rows; what imports them is not there yet.
    Ok(match config.storage_api_host {
        Some(_) => targets.with_waiting(TableKind::Keboola),
        None => targets,
    })
}
