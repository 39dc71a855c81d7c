//! What all components of a process share, and how each component is started with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use stream_api::Projects;
use stream_api::token::AdminToken;
use stream_http_source::HttpSource;
use stream_model::time::SystemClock;
use stream_model::unit::ByteSize;
use stream_model::{Clock, NodeId, Secret, SessionId};
use stream_node::{Listener, OnError, Readiness, ReadyFlag, ReconcilerMetrics, Shutdown, Tasks};
use stream_state::{Lease, Mirror, NodeRegistration, Store};
use stream_storage::local;
use stream_storage::staging::Staging;
use stream_storage::wire::Transport;
use stream_storage::wire::direct::Direct;
use stream_storage_coordinator::{CleanupOptions, Coordinator, CoordinatorOptions, RejectsKept};
use stream_storage_node::reader::SliceFiles;
use stream_storage_node::{
    FoundVolumes, Reader, ReaderDeps, ReaderOptions, Writer, WriterDeps, WriterOptions,
};
use stream_target::Targets;

use super::neighbours;
use crate::banner::Addresses;
use crate::component::Component;
use crate::config::Config;

/// The flags by which the components say that they are ready. All of them exist before the first component starts: a process
/// is ready when the last one is.
pub struct ReadyFlags(BTreeMap<Component, ReadyFlag>);

impl ReadyFlags {
    /// A flag for each component, not set.
    pub fn register(readiness: &Readiness, components: &BTreeSet<Component>) -> Self {
        let flag = |component: &Component| (*component, readiness.register(component.name()));
        Self(components.iter().map(flag).collect())
    }

    /// The flag of a component that is being started.
    pub fn take(&mut self, component: Component) -> ReadyFlag {
        self.0
            .remove(&component)
            .expect("a component is started once, and only when it was chosen")
    }
}

/// What all components share.
pub struct Common {
    pub store: Store,
    mirror: Mirror,
    pub lease: Lease,
    pub clock: Arc<dyn Clock>,
    pub registry: prometheus::Registry,
    reconcilers: ReconcilerMetrics,
    pub shutdown: Shutdown,
    node: NodeId,
}

impl Common {
    pub async fn open(
        config: &Config,
        client: etcd_client::Client,
        registry: &prometheus::Registry,
        shutdown: &Shutdown,
    ) -> anyhow::Result<(Self, Tasks)> {
        let metrics = stream_state::Metrics::register(registry)?;
        let store = Store::open_with(client, &config.etcd.namespace, metrics).await?;
        let (mirror, mirror_task) = Mirror::start(&store).await?;
        mirror.register(registry)?;
        let lease = store.grant_lease(config.registration_ttl()).await?;
        let tasks = Tasks::new("state", shutdown);
        let token = tasks.token();
        tasks.spawn("mirror", OnError::StopProcess, async move {
            mirror_task.run(token).await.map_err(Into::into)
        });
        let (token, kept) = (tasks.token(), lease.clone());
        tasks.spawn("lease", OnError::StopProcess, async move {
            kept.keep_alive(token).await.map_err(Into::into)
        });
        let common = Self {
            store,
            mirror,
            lease,
            clock: Arc::new(SystemClock),
            registry: registry.clone(),
            reconcilers: ReconcilerMetrics::register(registry)?,
            shutdown: shutdown.clone(),
            node: config.node_id.parse()?,
        };
        Ok((common, tasks))
    }

    /// Announces the components of this process.
    pub async fn register(
        &self,
        config: &Config,
        components: &BTreeSet<Component>,
        addresses: &Addresses,
    ) -> anyhow::Result<()> {
        neighbours::check(config, components, &self.store).await?;
        let listeners = [
            ("api", addresses.api),
            ("source", addresses.source),
            ("admin", addresses.admin),
        ];
        let mut shown: BTreeMap<String, String> = listeners
            .into_iter()
            .filter_map(|(name, address)| Some((name.to_owned(), address?.to_string())))
            .collect();
        shown.insert(neighbours::HOST.to_owned(), config.hostname.clone());
        if let Some(writer) = &addresses.writer {
            shown.insert(
                stream_http_source::WRITER_LISTENER.to_owned(),
                writer.clone(),
            );
        }
        for component in components {
            let registration = NodeRegistration {
                version: crate::VERSION.to_owned(),
                started_at: self.clock.now(),
                addresses: shown.clone(),
            };
            self.store
                .register_node(&self.lease, component.name(), &self.node, registration)
                .await?;
        }
        Ok(())
    }

    pub async fn coordinator(
        &self,
        ready: ReadyFlag,
        config: &Config,
        staging: Staging,
        targets: Targets,
    ) -> anyhow::Result<Coordinator> {
        let cleanup = &config.storage.metadata_cleanup;
        let options = CoordinatorOptions {
            defaults: config.defaults(),
            cleanup: CleanupOptions {
                enabled: cleanup.enable,
                interval: cleanup.interval.0,
                retention: cleanup.archived_file_expiration.0,
                archived_files_per_sink: cleanup.archived_file_retention_per_sink,
                rejects: RejectsKept {
                    retention: config.storage.rejects.retention.0,
                    objects_per_sink: config.storage.rejects.max_objects_per_sink,
                },
                ..CleanupOptions::default()
            },
            ..CoordinatorOptions::default()
        };
        let deps = stream_storage_coordinator::Deps {
            store: self.store.clone(),
            mirror: self.mirror.clone(),
            staging,
            targets,
            clock: Arc::clone(&self.clock),
            registry: self.registry.clone(),
            reconcilers: self.reconcilers.clone(),
            ready,
            shutdown: self.shutdown.clone(),
            node: self.node.clone(),
        };
        Ok(Coordinator::start(options, deps).await?)
    }

    pub async fn writer(
        &self,
        ready: ReadyFlag,
        config: &Config,
        direct: Direct,
    ) -> anyhow::Result<Writer> {
        let volumes_path = config
            .storage
            .volumes_path
            .clone()
            .context("storage.volumesPath has no value")?;
        let level = &config.storage.level.local;
        let options = WriterOptions {
            create_default: config.is_standalone()
                && volumes_path == config.data_dir.join("volumes"),
            volumes_path,
            volume: local::Options {
                segment_bytes: level.journal.segment_size.0,
                checkpoint_bytes: level.journal.checkpoint_size.0,
                max_journal_bytes: level.journal.max_size.0,
                reserve_bytes: level.reserve.0,
                max_bytes: level.volume.max_size.map(|size| size.0),
                max_sink_bytes: level.sink.max_size.map(|size| size.0),
                max_keys: level.idempotency.max_keys,
                key_window: level.idempotency.window.0,
                metrics: local::Metrics::register(&self.registry)?,
                ..local::Options::new(PathBuf::new(), Arc::clone(&self.clock))
            },
            keys_away_after: level.idempotency.away_after.0,
        };
        let deps = WriterDeps {
            store: self.store.clone(),
            mirror: self.mirror.clone(),
            lease: self.lease.clone(),
            direct,
            node: self.node.clone(),
            clock: Arc::clone(&self.clock),
            registry: self.registry.clone(),
            reconcilers: self.reconcilers.clone(),
            ready,
            shutdown: self.shutdown.clone(),
        };
        Ok(Writer::start(options, deps).await?)
    }

    /// The volumes of this machine that another process has open, and the task that finds them.
    pub fn found_volumes(&self, config: &Config) -> anyhow::Result<(Arc<dyn SliceFiles>, Tasks)> {
        let path = config.storage.volumes_path.clone();
        let found = FoundVolumes::new(path.context("storage.volumesPath has no value")?);
        let tasks = Tasks::new("storage-reader volumes", &self.shutdown);
        let following = found.clone().follow(tasks.token());
        tasks.spawn("volumes", OnError::StopProcess, following);
        Ok((Arc::new(found), tasks))
    }

    pub fn reader(
        &self,
        ready: ReadyFlag,
        volumes: Arc<dyn SliceFiles>,
        staging: Staging,
    ) -> anyhow::Result<Reader> {
        let deps = ReaderDeps {
            store: self.store.clone(),
            mirror: self.mirror.clone(),
            staging,
            files: volumes,
            clock: Arc::clone(&self.clock),
            registry: self.registry.clone(),
            reconcilers: self.reconcilers.clone(),
            ready,
            shutdown: self.shutdown.clone(),
        };
        Ok(Reader::start(&ReaderOptions::default(), deps)?)
    }

    pub async fn admin_token(
        &self,
        config: &Config,
    ) -> anyhow::Result<(PathBuf, Option<Secret<String>>)> {
        let path = config.data_dir.join("admin-token");
        let token = stream_api::token::ensure_admin_token(&self.store, &path, &*self.clock).await?;
        Ok((
            path,
            match token {
                AdminToken::Created(token) => Some(token),
                AdminToken::Existing => None,
            },
        ))
    }

    pub async fn api(
        &self,
        ready: ReadyFlag,
        config: &Config,
        listener: Listener,
        (targets, projects): (Targets, Option<Projects>),
    ) -> anyhow::Result<stream_api::Api> {
        let deps = stream_api::Deps {
            store: self.store.clone(),
            lease: self.lease.clone(),
            node: self.node.clone(),
            mirror: self.mirror.clone(),
            targets,
            projects,
            defaults: config.defaults(),
            source_public_url: config.source.http.public_url_or_default(),
            helpers: crate::evaluator::helpers(config.source.http.jsonnet.memory),
            record_limits: record_limits(&config.source.http),
            traces: traces(config),
            clock: Arc::clone(&self.clock),
            registry: self.registry.clone(),
            listener,
            ready,
            shutdown: self.shutdown.clone(),
            version: crate::VERSION,
        };
        Ok(stream_api::Api::start(config.api.clone(), deps).await?)
    }

    pub async fn source(
        &self,
        ready: ReadyFlag,
        config: &Config,
        listener: Listener,
        transport: Arc<dyn Transport>,
    ) -> anyhow::Result<HttpSource> {
        let deps = stream_http_source::Deps {
            mirror: self.mirror.clone(),
            transport,
            clock: Arc::clone(&self.clock),
            helpers: crate::evaluator::helpers(config.source.http.jsonnet.memory),
            registry: self.registry.clone(),
            listener,
            ready,
            shutdown: self.shutdown.clone(),
            session: SessionId(rand::random()),
            seed: rand::random(),
        };
        Ok(HttpSource::start(config.source.http.clone(), deps).await?)
    }
}

/// How late records can be, and for how long they can be found.
fn traces(config: &Config) -> stream_api::Traces {
    let (cleanup, rejects) = (&config.storage.metadata_cleanup, &config.storage.rejects);
    stream_api::Traces {
        request_timeout: config.source.http.request_timeout.0,
        kept: match cleanup.enable {
            false => stream_api::Kept::All,
            true => stream_api::Kept::Newest {
                files: cleanup.archived_file_retention_per_sink,
                rejects: rejects.max_objects_per_sink,
                rejects_for: rejects.retention.0,
            },
        },
    }
}

/// What the HTTP source takes, for those who try out what it would make of a record.
fn record_limits(source: &stream_http_source::Config) -> stream_api::RecordLimits {
    let bytes = |size: ByteSize| usize::try_from(size.0).unwrap_or(usize::MAX);
    stream_api::RecordLimits {
        row: bytes(source.row_size_limit),
        body: bytes(source.max_request_body_size),
        batch: bytes(source.batch_limit()),
        template_time: source.jsonnet.timeout.0,
    }
}
