//! The component: start and stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use prometheus::Registry;
use stream_model::unit::ByteSize;
use stream_model::{Clock, ErrorKind, SessionId};
use stream_node::{
    Helpers, Listener, OnError, ReadyFlag, ServeOptions, ServerMetrics, Shutdown, StillRunning,
    Tasks, Tls, TlsError,
};
use stream_state::Mirror;
use stream_storage::wire::Transport;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::access::AccessLog;
use crate::config::Config;
use crate::dispatch::Dispatcher;
use crate::feed::{Feed, Routes};
use crate::intake::Budgets;
use crate::lane::Surroundings;
use crate::lanes::Lanes;
use crate::mapper::Mapper;
use crate::metrics::Metrics;
use crate::receive::Receiver;
use crate::request_id::RequestIds;
use crate::route::Directory;
use crate::source_metrics::Families;
use crate::table::Table;
use crate::templates::{Evaluators, Limits};
use stream_node::TrustedProxies;

/// How often the gauge of the memory budget is set.
const GAUGE_PERIOD: Duration = Duration::from_secs(1);
/// Headers up to this size are read to their end even when less is allowed, so that the client is told what is wrong.
const HARD_HEADER_LIMIT: usize = 64 << 10;

/// What the component needs from the process.
pub struct Deps {
    /// The picture of sources, sinks and slices. Somebody else keeps it up to date.
    pub mirror: Mirror,
    /// The way to the volumes.
    pub transport: Arc<dyn Transport>,
    /// Gives records their time of arrival.
    pub clock: Arc<dyn Clock>,
    /// Starts the processes that evaluate templates.
    pub helpers: Helpers,
    /// Takes the metrics.
    pub registry: Registry,
    /// The open port.
    pub listener: Listener,
    /// Set when requests are served.
    pub ready: ReadyFlag,
    /// Requested when a task of the component fails.
    pub shutdown: Shutdown,
    /// This run of the component: random and never used before.
    pub session: SessionId,
    /// Seeds the random part of UUID columns.
    pub seed: u64,
}

/// Why the component cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not valid.
    #[error("{0}")]
    Config(String),
    /// Certificate or key cannot be used.
    #[error("source.http.tls: {0}")]
    Tls(#[from] TlsError),
    /// The metrics cannot be registered.
    #[error("cannot register the metrics of the HTTP source")]
    Metrics(#[from] prometheus::Error),
}

impl StartError {
    /// What the caller can do about it: correct the configuration, or start it once per registry.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// The running HTTP source.
#[must_use = "stop it, so that accepted records are written"]
pub struct HttpSource {
    address: SocketAddr,
    intake: Tasks,
    lanes: Tasks,
    templates: Tasks,
    feed: Tasks,
    ready: ReadyFlag,
}

impl HttpSource {
    /// Starts to serve requests. The first route table is complete when this returns.
    ///
    /// # Errors
    /// When the configuration or the registry is not usable.
    #[expect(
        clippy::unused_async,
        reason = "must run inside the runtime, as all starts do"
    )]
    pub async fn start(config: Config, deps: Deps) -> Result<Self, StartError> {
        config.validate().map_err(StartError::Config)?;
        let Deps {
            mirror,
            transport,
            clock,
            helpers,
            registry,
            listener,
            ready,
            shutdown,
            session,
            seed,
        } = deps;
        let tls = load_tls(&config)?;
        let metrics = Metrics::register(&registry)?;
        let server_metrics = ServerMetrics::register(&registry, "http-source")?;
        let intake = Tasks::new("http-source", &shutdown);
        let lane_tasks = Tasks::new("http-source lanes", &shutdown);
        let template_tasks = Tasks::new("http-source templates", &shutdown);
        let feed_tasks = Tasks::new("http-source routes", &shutdown);
        let timeout = config.request_timeout.0;

        let mapper = Arc::new(Mapper::new(bytes(config.row_size_limit), seed));
        let table = Arc::new(table(&config, &registry, &metrics)?);
        let routes = Arc::new(Routes::new(Arc::clone(&table), mirror));
        let lanes = Arc::new(Lanes::new(
            session,
            transport,
            timeout,
            spawner(&lane_tasks, "lane"),
        ));
        let around = Surroundings {
            directory: Arc::clone(&routes) as Arc<dyn Directory>,
            mapper,
            evaluators: evaluators(helpers, &config, &metrics, &template_tasks),
            metrics: Arc::clone(&metrics),
            stop: lane_tasks.token(),
        };
        let dispatcher = Dispatcher::within(&around, timeout);
        let mut feed = Feed::new(routes, lanes, around, config.rate());
        feed.refresh();
        spawn(&feed_tasks, "routes", feed.run(feed_tasks.token()));

        let budgets = table.budgets.clone();
        let receiver = Arc::new(Receiver {
            table,
            dispatcher,
            clock,
            metrics: Arc::clone(&metrics),
            max_header: bytes(config.read_buffer_size),
            max_body: bytes(config.max_request_body_size),
            max_batch: bytes(config.batch_limit()),
            proxies: TrustedProxies::parse(&config.trusted_proxies).expect("it was validated"),
            timeout,
            ids: RequestIds::new(session),
            access: AccessLog::new(&config.access_log),
        });
        spawn(
            &intake,
            "gauge",
            show_budgets(budgets, metrics, intake.token()),
        );
        if let Some(tls) = tls.clone() {
            spawn(&intake, "certificate", tls.follow(intake.token()));
        }
        let address = listener.local_addr();
        let options = serve_options(&config, tls, server_metrics);
        let served = serve(listener, options, receiver, intake.token());
        spawn(&intake, "listener", served);
        ready.set_ready();
        info!(%address, %session, "http source serves requests");
        Ok(Self {
            address,
            intake,
            lanes: lane_tasks,
            templates: template_tasks,
            feed: feed_tasks,
            ready,
        })
    }

    /// The address with the port the system chose, when port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, answers those that are being served, and writes what was accepted.
    ///
    /// # Errors
    /// Names what still ran when `deadline` had passed. What was not written by then was answered so.
    pub async fn stop(self, deadline: Duration) -> Result<(), StillRunning> {
        self.ready.set_not_ready("stopping".to_owned());
        let end = tokio::time::Instant::now() + deadline;
        let intake = self.intake.stop(deadline).await;
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        // Also after a late intake: what can be written is written.
        let lanes = self.lanes.stop(left.max(deadline / 10)).await;
        // Last: lanes that wait for a slice need the routes until they are done, and may have to map again.
        let templates = self.templates.stop(deadline).await;
        let feed = self.feed.stop(deadline).await;
        intake.and(lanes).and(templates).and(feed)
    }
}

fn bytes(size: ByteSize) -> usize {
    usize::try_from(size.0).unwrap_or(usize::MAX)
}

/// The table of the component, without sources.
fn table(
    config: &Config,
    registry: &Registry,
    metrics: &Metrics,
) -> Result<Table, prometheus::Error> {
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let families = Families::new(count(config.metrics.max_sources))?;
    families.register(registry)?;
    let limit = i64::try_from(config.in_flight_bytes.0).unwrap_or(i64::MAX);
    metrics.in_flight_limit_bytes.set(limit);
    metrics
        .in_flight_limit_requests
        .set(i64::from(config.max_in_flight_requests));
    let budgets = Budgets::new(
        bytes(config.in_flight_bytes),
        count(config.max_in_flight_requests),
        config
            .max_in_flight_requests_per_source
            .map_or(usize::MAX, count),
    );
    Ok(Table::new(budgets, Arc::new(families)))
}

fn load_tls(config: &Config) -> Result<Option<Tls>, TlsError> {
    match (&config.tls.cert, &config.tls.key) {
        (Some(cert), Some(key)) => Tls::load(cert, key).map(Some),
        _ => Ok(None),
    }
}

fn serve_options(config: &Config, tls: Option<Tls>, metrics: ServerMetrics) -> ServeOptions {
    let hard_limit = bytes(config.read_buffer_size).saturating_mul(4);
    ServeOptions {
        max_connections: usize::try_from(config.max_connections).unwrap_or(usize::MAX),
        header_limit: hard_limit.max(HARD_HEADER_LIMIT),
        idle_timeout: config.idle_timeout.0,
        drain: config.request_timeout.0,
        tls,
        metrics: Some(metrics),
        ..ServeOptions::default()
    }
}

fn evaluators(helpers: Helpers, config: &Config, metrics: &Metrics, tasks: &Tasks) -> Evaluators {
    let workers = usize::try_from(config.jsonnet.workers).unwrap_or(usize::MAX);
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let limits = Limits {
        workers: if workers == 0 { cores() } else { workers },
        time: config.jsonnet.timeout.0,
        row: bytes(config.row_size_limit),
    };
    let (metrics, spawn) = (metrics.templates.clone(), spawner(tasks, "evaluator"));
    Evaluators::new(helpers, limits, metrics, spawn, tasks.token())
}

fn spawner(tasks: &Tasks, name: &'static str) -> crate::lanes::Spawn {
    let tasks = tasks.clone();
    Box::new(move |task| {
        spawn(&tasks, name, task);
    })
}

/// All tasks of the component end when they are told to; nothing but a panic is a failure.
fn spawn(tasks: &Tasks, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(name, OnError::StopProcess, async move {
        task.await;
        Ok(())
    });
}

async fn serve(
    listener: Listener,
    options: ServeOptions,
    receiver: Arc<Receiver>,
    stop: CancellationToken,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let receiver = Arc::clone(&receiver);
        async move { Ok::<_, Infallible>(receiver.receive(request).await) }
    });
    let drained = listener.serve(options, service, stop).await;
    if drained.aborted > 0 {
        warn!(
            connections = drained.aborted,
            "requests were cut by the stop"
        );
    }
}

async fn show_budgets(budgets: Budgets, metrics: Arc<Metrics>, stop: CancellationToken) {
    let shown = |used: usize| i64::try_from(used).unwrap_or(i64::MAX);
    loop {
        metrics.in_flight_bytes.set(shown(budgets.bytes.used()));
        metrics
            .in_flight_requests
            .set(shown(budgets.requests.used()));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(GAUGE_PERIOD) => {}
        }
    }
}
