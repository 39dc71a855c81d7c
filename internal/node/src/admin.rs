//! The admin port: is the process alive, is it ready, and what do its metrics say.
//!
//! One per process, whatever components it runs. `/health` answers 200 as long as the process can
//! answer at all, so an orchestrator restarts only what hangs. `/ready` is about traffic: every
//! component holds a [`ReadyFlag`], and the process is ready when all of them are. `/metrics` is
//! the Prometheus text format.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use parking_lot::Mutex;
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::http::{Listener, ServeOptions};

/// Whether the components of this process are ready. Clones are handles of the same record.
#[derive(Clone, Default)]
pub struct Readiness {
    flags: Arc<Mutex<Flags>>,
}

#[derive(Default)]
struct Flags {
    next: u64,
    /// Component and why it is not ready; `None` when it is.
    flags: BTreeMap<u64, (&'static str, Option<String>)>,
}

/// What `/ready` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadinessReport {
    /// Whether all components are ready, and there is at least one.
    pub ready: bool,
    /// Each component by name.
    pub components: BTreeMap<&'static str, ComponentReadiness>,
}

/// One component in a [`ReadinessReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentReadiness {
    /// Whether it is ready.
    pub ready: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Readiness {
    /// No components yet; a process without components is not ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component, not ready until its flag says so.
    ///
    /// A component may hold several flags; it is ready when all of them are.
    pub fn register(&self, component: &'static str) -> ReadyFlag {
        let mut flags = self.flags.lock();
        let id = flags.next;
        flags.next += 1;
        flags
            .flags
            .insert(id, (component, Some("starting".to_owned())));
        ReadyFlag {
            flags: Arc::clone(&self.flags),
            id,
        }
    }

    /// Whether all components are ready, and there is at least one.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.report().ready
    }

    /// Every component and why it is not ready.
    #[must_use]
    pub fn report(&self) -> ReadinessReport {
        let mut components = BTreeMap::new();
        for (component, reason) in self.flags.lock().flags.values() {
            let entry = components.entry(*component).or_insert(ComponentReadiness {
                ready: true,
                reason: None,
            });
            if let (true, Some(reason)) = (entry.ready, reason) {
                *entry = ComponentReadiness {
                    ready: false,
                    reason: Some(reason.clone()),
                };
            }
        }
        let ready = !components.is_empty() && components.values().all(|component| component.ready);
        ReadinessReport { ready, components }
    }
}

/// Held by a component for as long as it works. Dropped: the component is not ready, for good.
#[must_use = "dropping the flag means that the component has stopped"]
pub struct ReadyFlag {
    flags: Arc<Mutex<Flags>>,
    id: u64,
}

impl ReadyFlag {
    /// The component can do its work.
    pub fn set_ready(&self) {
        self.set(None);
    }

    /// The component cannot do its work now, for this reason.
    pub fn set_not_ready(&self, reason: String) {
        self.set(Some(reason));
    }

    fn set(&self, reason: Option<String>) {
        if let Some((_, current)) = self.flags.lock().flags.get_mut(&self.id) {
            *current = reason;
        }
    }
}

impl Drop for ReadyFlag {
    fn drop(&mut self) {
        self.set(Some("stopped".to_owned()));
    }
}

/// Serves the admin port until `stop` is cancelled.
///
/// Stop it last: readiness and metrics of a process that is stopping are of interest.
pub async fn serve_admin(
    listener: Listener,
    readiness: Readiness,
    registry: Registry,
    stop: CancellationToken,
) {
    let options = ServeOptions {
        max_connections: 64,
        drain: Duration::from_secs(1),
        ..ServeOptions::default()
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &readiness, &registry);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    listener.serve(options, service, stop).await;
}

fn answer<B>(
    request: &Request<B>,
    readiness: &Readiness,
    registry: &Registry,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/health" => text(StatusCode::OK, "OK\n"),
        "/ready" => ready(&readiness.report()),
        "/metrics" => metrics(registry),
        _ => text(StatusCode::NOT_FOUND, "try /health, /ready or /metrics\n"),
    }
}

fn ready(report: &ReadinessReport) -> Response<Full<Bytes>> {
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut body = serde_json::to_vec_pretty(report).expect("plain strings and flags serialise");
    body.push(b'\n');
    respond(status, HeaderValue::from_static("application/json"), body)
}

fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(body) => respond(StatusCode::OK, HeaderValue::from_static(TEXT_FORMAT), body),
        Err(error) => {
            warn!(%error, "cannot encode metrics");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "cannot encode metrics, see the log\n",
            )
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    respond(
        status,
        HeaderValue::from_static("text/plain; charset=utf-8"),
        body,
    )
}

fn respond(
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use prometheus::IntCounter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(path: &str, readiness: &Readiness, registry: &Registry) -> (u16, String) {
        let request = Request::get(path).body(()).expect("a valid request");
        let response = answer(&request, readiness, registry);
        let status = response.status().as_u16();
        let body = response
            .into_body()
            .collect()
            .await
            .expect("a full body")
            .to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn ready_only_when_every_component_is() {
        let (readiness, registry) = (Readiness::new(), Registry::new());
        assert_eq!(
            get("/ready", &readiness, &registry).await.0,
            503,
            "nothing runs yet"
        );
        let (api, source) = (readiness.register("api"), readiness.register("http-source"));
        api.set_ready();
        let (status, body) = get("/ready", &readiness, &registry).await;
        assert_eq!(status, 503);
        let report: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(report["ready"], false);
        assert_eq!(
            report["components"]["api"],
            serde_json::json!({ "ready": true })
        );
        assert_eq!(report["components"]["http-source"]["reason"], "starting");
        source.set_ready();
        assert_eq!(get("/ready", &readiness, &registry).await.0, 200);
        source.set_not_ready("no volume".to_owned());
        let (status, body) = get("/ready", &readiness, &registry).await;
        assert_eq!(status, 503);
        assert!(body.contains("no volume"), "{body}");
    }

    #[test]
    fn dropped_flag_means_stopped() {
        let readiness = Readiness::new();
        let flag = readiness.register("api");
        flag.set_ready();
        assert!(readiness.is_ready());
        drop(flag);
        let report = readiness.report();
        assert!(!report.ready);
        assert_eq!(report.components["api"].reason.as_deref(), Some("stopped"));
    }

    #[test]
    fn component_with_several_flags_needs_them_all() {
        let readiness = Readiness::new();
        let (first, second) = (readiness.register("writer"), readiness.register("writer"));
        first.set_ready();
        assert!(!readiness.is_ready());
        second.set_ready();
        assert!(readiness.is_ready());
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        let (readiness, registry) = (Readiness::new(), Registry::new());
        assert_eq!(
            get("/health", &readiness, &registry).await,
            (200, "OK\n".to_owned())
        );
        assert_eq!(get("/", &readiness, &registry).await.0, 404);
        let request = Request::post("/health").body(()).expect("a valid request");
        assert_eq!(answer(&request, &readiness, &registry).status(), 405);
    }

    #[tokio::test]
    async fn metrics_are_served_over_the_wire() {
        let registry = Registry::new();
        let counter = IntCounter::new("stream_test_total", "Counts.").expect("a valid name");
        registry
            .register(Box::new(counter.clone()))
            .expect("a fresh registry");
        counter.inc_by(7);
        let address = "127.0.0.1:0".parse().expect("an address");
        let listener = Listener::bind(address, "metrics", "metrics.listen")
            .await
            .expect("port 0");
        let address = listener.local_addr();
        let stop = CancellationToken::new();
        let exchange = async {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await.expect("it reads");
            let mut text = String::new();
            stream.read_to_string(&mut text).await.expect("it answers");
            stop.cancel();
            text
        };
        let server = serve_admin(listener, Readiness::new(), registry, stop.clone());
        let ((), text) = tokio::join!(server, exchange);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(
            text.contains("content-type: text/plain; version=0.0.4"),
            "{text}"
        );
        assert!(text.contains("\nstream_test_total 7\n"), "{text}");
    }
}
