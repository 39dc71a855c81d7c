//! The server: from a connection to an answer, and the life of the component.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request};
use prometheus::Registry;
use stream_model::definition::token::Role;
use stream_model::level::Defaults;
use stream_model::{Clock, ErrorKind, NodeId};
use stream_node::{
    Helpers, Listener, OnError, Peer, ReadyFlag, ServeOptions, ServerMetrics, Shutdown,
    StillRunning, Tasks, TrustedProxies,
};
use stream_state::{Lease, Mirror, Store};
use stream_target::Targets;
use stream_target::keboola::{Custody, StorageApi};
use tokio::time::Instant;
use tracing::{debug, info};

use crate::auth::{About, Authenticator, Caller, LocalTokens, ProjectTokens, sent_hash};
use crate::config::{Config, InvalidConfig, base_url};
use crate::context::{Context, Urls};
use crate::destination::{Destinations, settle_leftovers};
use crate::documentation::{Documentation, Tokens};
use crate::dry_run::RecordLimits;
use crate::error::{ApiError, Code};
use crate::failures::{Client, Failures};
use crate::metrics::Metrics;
use crate::operation::{Operation, Run};
use crate::orphan::{self, Own};
use crate::purge;
use crate::request::{Call, Path, Query, read_body};
use crate::response::{Answer, finish, options, refused};
use crate::route::Routes;
use crate::task::Runner;
use crate::templates::TemplateCheck;
use crate::traces::Traces;

/// How long a request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// How long a client may take to send the headers.
const HEADER_LIMIT: Duration = Duration::from_secs(10);
/// Connections at the same time. The API is for people and scripts, not for records.
const MAX_CONNECTIONS: usize = 1024;

/// What the API works with.
pub struct Deps {
    /// The state.
    pub store: Store,
    /// The lease of this process, under which tasks take their locks.
    pub lease: Lease,
    /// This process.
    pub node: NodeId,
    /// The mirror of the state in this process.
    pub mirror: Mirror,
    /// The targets of this installation.
    pub targets: Targets,
    /// The Storage API that knows tokens and projects; none: there are only local tokens and one project.
    pub projects: Option<Projects>,
    /// The configured defaults of settings.
    pub defaults: Defaults,
    /// URL under which clients reach the HTTP source.
    pub source_public_url: String,
    /// Starts the processes that check and try templates.
    pub helpers: Helpers,
    /// What a record may have, so that a dry run says what the HTTP source would.
    pub record_limits: RecordLimits,
    /// How late records can be, and for how long they can be found.
    pub traces: Traces,
    /// The present time.
    pub clock: Arc<dyn Clock>,
    /// Where to count.
    pub registry: Registry,
    /// The open port.
    pub listener: Listener,
    /// Says whether the API answers.
    pub ready: ReadyFlag,
    /// Stops the process when the API cannot go on.
    pub shutdown: Shutdown,
    /// Version of the service, for the `Server` header.
    pub version: &'static str,
}

/// What an installation with projects has.
pub struct Projects {
    /// Knows tokens and projects.
    pub storage_api: StorageApi,
    /// Seals the credentials of sinks.
    pub custody: Custody,
}

impl Projects {
    /// What verifies tokens, and what makes and gives back things in projects.
    fn open(
        self,
        (store, mirror): (&Store, &Mirror),
        (clock, metrics): (&Arc<dyn Clock>, &Metrics),
    ) -> (ProjectTokens, Destinations) {
        let (api, store) = (self.storage_api.clone(), store.clone());
        let tokens = ProjectTokens::new(api, store, Arc::clone(clock), metrics.clone());
        let (mirror, clock) = (mirror.clone(), Arc::clone(clock));
        let destinations = Destinations::new(self.storage_api, self.custody, mirror, clock);
        (tokens, destinations)
    }
}

/// Why the API could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The metrics are registered already.
    #[error("cannot register the metrics of the API")]
    Metrics(#[from] prometheus::Error),
}

impl StartError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Config(error) => error.kind(),
            Self::Metrics(_) => ErrorKind::Invalid,
        }
    }
}

/// The running API.
pub struct Api {
    address: SocketAddr,
    server: Tasks,
    work: Tasks,
    ready: ReadyFlag,
}

impl Api {
    /// Starts to answer requests.
    ///
    /// # Errors
    /// When a setting cannot be used.
    pub async fn start(config: Config, deps: Deps) -> Result<Self, StartError> {
        let urls = Urls {
            api: config.base_url()?,
            source: base_url(
                "source.http.publicUrl",
                &deps.source_public_url,
                "a URL such as http://localhost:7000",
            )?,
        };
        let metrics = Metrics::register(&deps.registry)?;
        let connections = ServerMetrics::register(&deps.registry, "api")?;
        let server = Tasks::new("api", &deps.shutdown);
        let work = Tasks::new("api work", &deps.shutdown);
        let own = Own {
            node: deps.node.clone(),
            started_at: deps.clock.now(),
        };
        let runner = Runner::new(
            deps.store.clone(),
            (deps.lease, deps.node),
            Arc::clone(&deps.clock),
            work.clone(),
            metrics.clone(),
        );
        let (store, clock) = (deps.store.clone(), Arc::clone(&deps.clock));
        let stop = server.token();
        server.spawn("interrupted tasks", OnError::LogAndContinue, async move {
            orphan::finish_interrupted(store, clock, own, stop).await;
            Ok(())
        });
        let described = match &deps.projects {
            None => Tokens::Local,
            Some(_) => Tokens::OfProjects,
        };
        let state = (&deps.store, &deps.mirror);
        let opened = |it: Projects| it.open(state, (&deps.clock, &metrics));
        let (tokens, destinations) = deps.projects.map(opened).unzip();
        let authenticator = Authenticator::new(LocalTokens::new(deps.store.clone()), tokens);
        let context = Arc::new(Context {
            store: deps.store,
            mirror: deps.mirror,
            targets: deps.targets,
            destinations,
            defaults: deps.defaults,
            documentation: Documentation::new(urls.api.clone(), deps.version, described),
            urls,
            templates: TemplateCheck::new(deps.helpers),
            record_limits: deps.record_limits,
            traces: deps.traces,
            clock: deps.clock,
            runner,
        });
        look_after(&server, &context);
        let handler = Arc::new(Handler {
            routes: Routes::new(),
            authenticator,
            failures: Failures::new(metrics.failures.clone(), metrics.failing_clients.clone()),
            proxies: config.proxies()?,
            metrics,
            header: server_header(deps.version),
            context,
        });
        let address = deps.listener.local_addr();
        serve(&server, deps.listener, connections, handler);
        deps.ready.set_ready();
        info!(%address, url = config.public_url, "api started");
        Ok(Self {
            address,
            server,
            work,
            ready: deps.ready,
        })
    }

    /// The address it listens on, with the port that the system chose when port 0 was asked for.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops: no new requests, those in flight are answered, accepted tasks are finished.
    ///
    /// # Errors
    /// Names what still ran when `deadline` had passed. Tasks that were cut off are finished with an error by the next
    /// start.
    pub async fn stop(self, deadline: Duration) -> Result<(), StillRunning> {
        let until = Instant::now() + deadline;
        self.ready.set_not_ready("stopping".to_owned());
        // The server first, because its requests start tasks.
        let server = self.server.stop(deadline).await;
        let work = self
            .work
            .stop(until.saturating_duration_since(Instant::now()))
            .await;
        server.and(work)
    }
}

/// Goes on with what earlier processes left behind.
fn look_after(server: &Tasks, context: &Arc<Context>) {
    let (settling, stop) = (Arc::clone(context), server.token());
    server.spawn("destinations", OnError::LogAndContinue, async move {
        settle_leftovers(settling, stop).await;
        Ok(())
    });
    let (purging, stop) = (Arc::clone(context), server.token());
    server.spawn("unfinished purges", OnError::LogAndContinue, async move {
        purge::resume(purging, stop).await;
        Ok(())
    });
}

fn server_header(version: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("stream-service/{version}"))
        .unwrap_or(HeaderValue::from_static("stream-service"))
}

fn serve(server: &Tasks, listener: Listener, connections: ServerMetrics, handler: Arc<Handler>) {
    let options = ServeOptions {
        max_connections: MAX_CONNECTIONS,
        header_timeout: HEADER_LIMIT,
        drain: REQUEST_LIMIT,
        metrics: Some(connections),
        ..ServeOptions::default()
    };
    let stop = server.token();
    server.spawn("listener", OnError::StopProcess, async move {
        let service = service_fn(move |request: Request<Incoming>| {
            let handler = Arc::clone(&handler);
            async move { Ok::<_, Infallible>(handler.handle(request).await) }
        });
        listener.serve(options, service, stop).await;
        Ok(())
    });
}

/// Turns requests into answers.
struct Handler {
    routes: Routes,
    authenticator: Authenticator,
    failures: Failures,
    proxies: TrustedProxies,
    metrics: Metrics,
    header: HeaderValue,
    context: Arc<Context>,
}

impl Handler {
    async fn handle(&self, request: Request<Incoming>) -> Answer {
        let started = Instant::now();
        let (endpoint, method, answer) = self.answer(request).await;
        let (elapsed, status) = (started.elapsed(), answer.status());
        self.metrics
            .requests
            .with_label_values(&[endpoint, method, status.as_str()])
            .inc();
        self.metrics
            .duration
            .with_label_values(&[endpoint])
            .observe(elapsed.as_secs_f64());
        debug!(
            endpoint,
            method,
            status = status.as_u16(),
            elapsed_ms = elapsed.as_millis(),
            "request answered"
        );
        finish(answer, &self.header)
    }

    /// The answer, with endpoint and method as bounded labels.
    async fn answer(&self, request: Request<Incoming>) -> (&'static str, &'static str, Answer) {
        let (endpoint, path) = match self.routes.find(request.uri().path()) {
            Ok(found) => found,
            Err(error) => return ("none", "any", refused(&error, "none")),
        };
        let label = endpoint.label();
        if request.method() == Method::OPTIONS {
            return (label, "OPTIONS", options(&endpoint.allow));
        }
        let Some(operation) = endpoint.operation(request.method()) else {
            let error = endpoint.method_not_allowed(request.method());
            let mut answer = refused(&error, label);
            answer.headers_mut().insert(ALLOW, endpoint.allow.clone());
            return (label, "other", answer);
        };
        let answer = self.operate(operation, path, request).await;
        (label, method_label(&operation.method), answer)
    }

    async fn operate(
        &self,
        operation: &Operation,
        path: Path,
        request: Request<Incoming>,
    ) -> Answer {
        if let Run::Open(run) = operation.run {
            return run(&self.context);
        }
        let authenticated = self.authenticated(operation, path, request);
        match tokio::time::timeout(REQUEST_LIMIT, authenticated).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => refused(&error, operation.path),
            Err(_) => refused(&too_slow(), operation.path),
        }
    }

    /// The holder of the token, unless the client has tried too many.
    async fn authenticate(
        &self,
        about: About,
        peer: IpAddr,
        headers: &HeaderMap,
    ) -> Result<Caller, ApiError> {
        let client = Client::of(self.proxies.client(peer, headers));
        let attempt = self.failures.attempt(client, sent_hash(headers)?)?;
        let outcome = self.authenticator.authenticate(about, headers).await;
        match &outcome {
            Ok(_) => attempt.succeeded(),
            Err(error) if [401, 403].contains(&error.status().as_u16()) => attempt.failed(),
            // Nobody knows whether it is good.
            Err(_) => drop(attempt),
        }
        outcome
    }

    async fn authenticated(
        &self,
        operation: &Operation,
        path: Path,
        request: Request<Incoming>,
    ) -> Result<Answer, ApiError> {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
        let about = match operation.run {
            Run::Survey(_) => About::Installation,
            Run::Open(_) | Run::Read(_) | Run::Write(_) => About::Project,
        };
        let caller = self.authenticate(about, peer, request.headers()).await?;
        let handler = match (operation.run, caller.role) {
            (Run::Open(run), _) => return Ok(run(&self.context)),
            (Run::Survey(handler) | Run::Read(handler), _) | (Run::Write(handler), Role::Admin) => {
                handler
            }
            (Run::Write(_), Role::ReadOnly) => {
                let message = "The token may only read; use an admin token for changes.";
                return Err(ApiError::new(Code::Forbidden, message));
            }
        };
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let (head, body) = request.into_parts();
        let body = read_body(body).await?;
        let call = Call {
            path: path.of(caller.home),
            query,
            body,
            headers: head.headers,
            peer,
            actor: caller.actor,
            owner: caller.owner,
        };
        handler(&self.context, &call).await
    }
}

fn too_slow() -> ApiError {
    let message = format!(
        "The request took longer than {} s; try again.",
        REQUEST_LIMIT.as_secs()
    );
    ApiError::new(Code::RequestTimeout, message)
}

/// The method of an operation as a label.
fn method_label(method: &Method) -> &'static str {
    ["GET", "POST", "PUT", "PATCH", "DELETE"]
        .into_iter()
        .find(|name| *name == method.as_str())
        .unwrap_or("other")
}
