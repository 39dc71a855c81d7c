//! Puts the chosen components together, in the order in which they depend on each other, and takes them apart in reverse.
//!
//! Start: data directory and state → ports → mirror → writer → coordinator → reader → API → HTTP source.
//! Stop: HTTP source (finish what was accepted) → API → coordinator → reader → writer (commit, keep slices open) → lease and
//! mirror → state → admin port. Every phase has a deadline; one that is over it is logged and the next one runs.
//!
//! Stores, clocks and registries are made here and handed down; nothing below this file reads the environment.

mod common;
mod ground;

use std::collections::BTreeSet;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use stream_http_source::HttpSource;
use stream_node::{Listener, OnError, Phases, Readiness, Shutdown, TaskError, Tasks, serve_admin};
use stream_state::Lease;
use stream_storage::wire::direct::Direct;
use stream_storage_coordinator::Coordinator;
use stream_storage_node::{Reader, Writer};

use self::common::{Common, ReadyFlags};
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
            "storage writer",
            deadline::WRITER,
            writer.map(|it| boxed(it.stop(deadline::WRITER))),
        );
        add(
            "lease",
            deadline::STATE,
            Some(boxed(async move { lease.revoke().await })),
        );
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
    let has = |component| components.contains(&component);
    let registry = prometheus::Registry::new();
    stream_node::register_process_metrics(&registry)?;
    let (client, embedded, state_address) = ground::connect(config, shutdown).await?;
    let ports = ground::bind(config, components).await?;
    let addresses = Addresses {
        admin: Some(ports.admin.local_addr()),
        api: ports.api.as_ref().map(Listener::local_addr),
        source: ports.source.as_ref().map(Listener::local_addr),
        state: state_address,
    };
    let readiness = Readiness::new();
    let mut flags = ReadyFlags::register(&readiness, components);
    let admin = Tasks::new("admin", shutdown);
    let (report, shown) = (readiness, registry.clone());
    let token = admin.token();
    admin.spawn("admin port", OnError::StopProcess, async move {
        serve_admin(ports.admin, report, shown, token).await;
        Ok(())
    });
    let common = Common::open(config, client, &registry, shutdown).await?;
    let (common, state) = common;
    let staging = ground::open_staging(config)?;
    let targets = ground::open_targets(config, &common.clock, components).await?;
    let direct = Direct::new();
    common.register(components, &addresses).await?;
    // Before the coordinator, which otherwise would find no live volume at first.
    let writer = match has(Component::StorageWriter) {
        true => Some(
            common
                .writer(flags.take(Component::StorageWriter), config, direct.clone())
                .await?,
        ),
        false => None,
    };
    let coordinator = match has(Component::StorageCoordinator) {
        true => Some(
            common
                .coordinator(
                    flags.take(Component::StorageCoordinator),
                    config,
                    staging.clone(),
                    targets.clone(),
                )
                .await?,
        ),
        false => None,
    };
    let reader = match (&writer, has(Component::StorageReader)) {
        (Some(writer), true) => Some(common.reader(
            flags.take(Component::StorageReader),
            writer.volumes(),
            staging,
        )?),
        _ => None,
    };
    let mut admin_token = None;
    let api = match ports.api {
        Some(listener) => {
            admin_token = Some(common.admin_token(config).await?);
            Some(
                common
                    .api(flags.take(Component::Api), config, listener, targets)
                    .await?,
            )
        }
        None => None,
    };
    let source = match ports.source {
        Some(listener) => Some(
            common
                .source(flags.take(Component::HttpSource), config, listener, direct)
                .await?,
        ),
        None => None,
    };
    let shown_token = admin_token
        .as_ref()
        .map(|(path, created)| banner::AdminToken {
            path,
            created: created.as_ref().map(|token| token.expose().as_str()),
        });
    let text = banner::text(config, components, &addresses, shown_token.as_ref());
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
    };
    Ok((running, text))
}
