//! Puts the chosen components together, in the order in which they depend on each other, and takes them apart in reverse.
//!
//! Start: data directory and state → ports → mirror → writer → coordinator → reader → API → HTTP source.
//! Stop: HTTP source (finish what was accepted) → API → coordinator → reader → writer (commit, keep slices open; its streams
//! last) → lease and mirror → state → admin port. Every phase has a deadline; one that is over it is logged and the next one
//! runs.
//!
//! Stores, clocks and registries are made here and handed down; nothing below this file reads the environment.

mod common;
mod embedded;
mod ground;
mod neighbours;
mod network;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use stream_http_source::HttpSource;
use stream_model::{ErrorKind, Secret};
use stream_node::{Listener, OnError, Phases, Readiness, Shutdown, TaskError, Tasks, serve_admin};
use stream_state::Lease;
use stream_storage::wire::direct::Direct;
use stream_storage_coordinator::Coordinator;
use stream_storage_node::{Reader, Writer};
use stream_target::keboola::StorageApi;

use self::common::{Common, ReadyFlags};
use self::network::Wires;
use crate::banner::{self, Addresses};
use crate::component::Component;
use crate::config::Config;

/// Open files below which a busy process runs out.
const WANTED_FILES: u64 = 10_000;

/// How long each phase of the stop may take.
mod deadline {
    use std::time::Duration;

    pub const HTTP_SOURCE: Duration = Duration::from_secs(35);
    pub const API: Duration = Duration::from_secs(30);
    pub const COORDINATOR: Duration = Duration::from_secs(30);
    pub const READER: Duration = Duration::from_secs(30);
    pub const WRITER: Duration = Duration::from_secs(30);
    pub const NETWORK: Duration = Duration::from_secs(10);
    pub const STATE: Duration = Duration::from_secs(10);
    pub const ADMIN: Duration = Duration::from_secs(2);
}

/// Raises the limit of open files as far as the system allows.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // The old limit is still in force when this fails; whether it is too low is what matters.
    let _ = setrlimit(Resource::Nofile, raised);
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if files < WANTED_FILES {
        tracing::warn!(
            files,
            wanted = WANTED_FILES,
            "few files may be open; raise the limit with ulimit -n"
        );
    }
}

/// Runs the components until the process is asked to stop.
///
/// # Errors
/// When something cannot be started.
pub async fn serve(config: Config, components: BTreeSet<Component>) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::new();
    let started = tokio::select! {
        biased;
        () = stream_node::wait_for_signal(&shutdown) => None,
        started = start(&config, &components, &shutdown) => Some(started?),
    };
    if let Some((running, text)) = started {
        std::io::stdout()
            .write_all(text.as_bytes())
            .context("cannot write to standard output")?;
        let _ = std::io::stdout().flush();
        tracing::info!("ready");
        stream_node::wait_for_signal(&shutdown).await;
        tracing::info!("exiting ({})", shutdown.requested().await);
        running.stop().await;
    }
    tracing::info!("exited");
    Ok(if shutdown.failure().is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Everything that runs, in the order of the start.
struct Running {
    admin: Tasks,
    embedded: Option<Tasks>,
    state: Tasks,
    lease: Lease,
    coordinator: Option<Coordinator>,
    writer: Option<Writer>,
    reader: Option<Reader>,
    api: Option<stream_api::Api>,
    source: Option<HttpSource>,
    found: Option<Tasks>,
    wires: Wires,
}

impl Running {
    async fn stop(self) -> bool {
        let Self {
            admin,
            embedded,
            state,
            lease,
            coordinator,
            writer,
            reader,
            api,
            source,
            found,
            mut wires,
        } = self;
        let mut phases = Phases::new();
        let mut add = |name, deadline: Duration, stop: Option<Stop>| {
            if let Some(stop) = stop {
                phases.add(name, deadline, move || stop);
            }
        };
        add(
            "http source",
            deadline::HTTP_SOURCE,
            source.map(|it| boxed(it.stop(deadline::HTTP_SOURCE))),
        );
        let client = wires.take_client();
        add(
            "http source network",
            deadline::STATE,
            client.map(|it| boxed(async move { it.stop(deadline::STATE).await })),
        );
        add(
            "api",
            deadline::API,
            api.map(|it| boxed(it.stop(deadline::API))),
        );
        add(
            "storage coordinator",
            deadline::COORDINATOR,
            coordinator.map(|it| boxed(it.stop(deadline::COORDINATOR))),
        );
        add(
            "storage reader",
            deadline::READER,
            reader.map(|it| boxed(it.stop(deadline::READER))),
        );
        add(
            "storage reader volumes",
            deadline::STATE,
            found.map(|it| boxed(async move { it.stop(deadline::STATE).await })),
        );
        add(
            "storage writer",
            deadline::WRITER,
            writer.map(|it| boxed(it.stop(deadline::WRITER))),
        );
        add(
            "storage writer network",
            deadline::NETWORK,
            Some(boxed(wires.stop(deadline::NETWORK))),
        );
        add("lease", deadline::STATE, Some(boxed(give_back(lease))));
        add(
            "mirror",
            deadline::STATE,
            Some(boxed(async move { state.stop(deadline::STATE).await })),
        );
        let embedded = embedded.map(|it| boxed(async move { it.stop(deadline::STATE).await }));
        add("embedded state store", deadline::STATE, embedded);
        add(
            "admin port",
            deadline::ADMIN,
            Some(boxed(async move { admin.stop(deadline::ADMIN).await })),
        );
        phases.run().await
    }
}

/// Gives the lease back. Without the state store the registrations simply expire.
async fn give_back(lease: Lease) -> Result<(), TaskError> {
    match lease.revoke().await {
        Err(error) if error.kind() == ErrorKind::Unavailable => {
            tracing::info!(%error, "registrations are left to expire");
            Ok(())
        }
        other => Ok(other?),
    }
}

type Stop = stream_node::lifecycle::BoxFuture<'static, Result<(), TaskError>>;

fn boxed<E>(stop: impl Future<Output = Result<(), E>> + Send + 'static) -> Stop
where
    E: Into<TaskError>,
{
    Box::pin(async move { stop.await.map_err(Into::into) })
}

async fn start(
    config: &Config,
    components: &BTreeSet<Component>,
    shutdown: &Shutdown,
) -> anyhow::Result<(Running, String)> {
    let registry = prometheus::Registry::new();
    stream_node::register_process_metrics(&registry)?;
    let (client, embedded, state_address) = ground::connect(config, &registry, shutdown).await?;
    let storage_api = ground::storage_api(config).await?;
    let ports = ground::bind(config, components).await?;
    let addresses = Addresses {
        admin: Some(ports.admin.local_addr()),
        api: ports.api.as_ref().map(Listener::local_addr),
        source: ports.source.as_ref().map(Listener::local_addr),
        writer: ports.writer.as_ref().map(|writer| {
            let settings = &config.storage.level.local.writer.network;
            settings.advertised(writer.local_addr(), &config.hostname)
        }),
        state: state_address,
    };
    let readiness = Readiness::new();
    let flags = ReadyFlags::register(&readiness, components);
    let admin = Tasks::new("admin", shutdown);
    let (shown, token) = (registry.clone(), admin.token());
    admin.spawn("admin port", OnError::StopProcess, async move {
        serve_admin(ports.admin, readiness, shown, token).await;
        Ok(())
    });
    let (common, state) = Common::open(config, client, &registry, shutdown).await?;
    common.register(config, components, &addresses).await?;
    let listeners = Listeners {
        api: ports.api,
        source: ports.source,
        writer: ports.writer,
    };
    let started =
        start_components(&common, config, components, listeners, flags, storage_api).await?;
    let shown_token = started
        .admin_token
        .as_ref()
        .map(|(path, created)| banner::AdminToken {
            path,
            created: created.as_ref().map(|token| token.expose().as_str()),
        });
    let text = banner::text(config, components, &addresses, shown_token.as_ref());
    let Started {
        coordinator,
        writer,
        reader,
        api,
        source,
        found,
        wires,
        ..
    } = started;
    let lease = common.lease;
    let running = Running {
        admin,
        embedded,
        state,
        lease,
        coordinator,
        writer,
        reader,
        api,
        source,
        found,
        wires,
    };
    Ok((running, text))
}

/// The components that were chosen.
struct Started {
    coordinator: Option<Coordinator>,
    writer: Option<Writer>,
    reader: Option<Reader>,
    api: Option<stream_api::Api>,
    source: Option<HttpSource>,
    /// What finds the volumes that the reader reads, when no writer of this process tells it.
    found: Option<Tasks>,
    wires: Wires,
    /// The file of the admin token, and the token if it was made just now.
    admin_token: Option<(PathBuf, Option<Secret<String>>)>,
}

/// The open ports of components.
struct Listeners {
    api: Option<Listener>,
    source: Option<Listener>,
    writer: Option<Listener>,
}

async fn start_components(
    common: &Common,
    config: &Config,
    components: &BTreeSet<Component>,
    listeners: Listeners,
    mut flags: ReadyFlags,
    storage_api: Option<StorageApi>,
) -> anyhow::Result<Started> {
    let staging = ground::open_staging(config)?;
    let targets = ground::open_targets(config, &common.clock, components).await?;
    let (direct, mut wires) = (Direct::new(), Wires::default());
    let has = |component| components.contains(&component);
    // Before the coordinator, which otherwise would find no live volume at first.
    let mut writer = None;
    if has(Component::StorageWriter) {
        let ready = flags.take(Component::StorageWriter);
        if let Some(listener) = listeners.writer {
            let (direct, shutdown) = (direct.clone(), &common.shutdown);
            wires.serve(config, listener, direct, &common.registry, shutdown)?;
        }
        writer = Some(common.writer(ready, config, direct.clone()).await?);
    }
    let mut coordinator = None;
    if has(Component::StorageCoordinator) {
        let ready = flags.take(Component::StorageCoordinator);
        let (staging, targets) = (staging.clone(), targets.clone());
        coordinator = Some(common.coordinator(ready, config, staging, targets).await?);
    }
    let (mut reader, mut found) = (None, None);
    if has(Component::StorageReader) {
        let ready = flags.take(Component::StorageReader);
        let volumes = match &writer {
            Some(writer) => Arc::new(writer.volumes()),
            None => {
                let (volumes, finding) = common.found_volumes(config)?;
                found = Some(finding);
                volumes
            }
        };
        reader = Some(common.reader(ready, volumes, staging)?);
    }
    let (mut admin_token, mut api) = (None, None);
    if let Some(listener) = listeners.api {
        admin_token = Some(common.admin_token(config).await?);
        let ready = flags.take(Component::Api);
        let projects = ground::projects(config, storage_api)?;
        let given = (targets, projects);
        api = Some(common.api(ready, config, listener, given).await?);
    }
    let mut source = None;
    if let Some(listener) = listeners.source {
        let ready = flags.take(Component::HttpSource);
        let (store, registry) = (&common.store, &common.registry);
        let reaching = wires.reach(config, direct, store, registry, &common.shutdown);
        let transport = reaching.await?;
        source = Some(common.source(ready, config, listener, transport).await?);
    }
    Ok(Started {
        coordinator,
        writer,
        reader,
        api,
        source,
        found,
        wires,
        admin_token,
    })
}
