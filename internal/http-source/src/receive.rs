//! HTTP: which request is a record, what belongs to it, and the answer.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    CONTENT_TYPE, HeaderName, HeaderValue, SERVER,
};
use hyper::{Method, Request};
use stream_encoding::{ContentType, Headers, Record};
use stream_model::{Clock, SessionId};
use stream_node::Peer;
use tokio::time::Instant;

use crate::admission::{Admission, RECORD_OVERHEAD};
use crate::answer::{self, Answer, Detail, NO_SOURCE, OVERLOADED, Refusal};
use crate::body;
use crate::dispatch::Dispatcher;
use crate::mapper::Received;
use crate::metrics::Metrics;
use crate::table::{Entry, Table};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const METHODS: HeaderValue = HeaderValue::from_static("OPTIONS, POST");
const ANY: HeaderValue = HeaderValue::from_static("*");
const SERVER_NAME: HeaderValue = HeaderValue::from_static("stream-service");

/// Takes requests.
pub(crate) struct Receiver {
    /// Where sources are found.
    pub table: Arc<Table>,
    /// Where records go.
    pub dispatcher: Dispatcher,
    /// The memory budget.
    pub admission: Admission,
    /// The present time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The most bytes of a body.
    pub max_body: usize,
    /// The most time for a body.
    pub timeout: Duration,
    /// Where request ids come from.
    pub ids: RequestIds,
}

/// Makes request ids: the session and a number. A client's own id is not taken over, it could be anything.
pub(crate) struct RequestIds {
    session: [u8; 16],
    next: AtomicU64,
}

impl RequestIds {
    /// Ids of this session.
    pub fn new(session: SessionId) -> Self {
        Self {
            session: hex(session.0),
            next: AtomicU64::new(1),
        }
    }

    fn next(&self) -> HeaderValue {
        let mut id = [b'-'; 33];
        id[..16].copy_from_slice(&self.session);
        id[17..].copy_from_slice(&hex(self.next.fetch_add(1, Ordering::Relaxed)));
        HeaderValue::from_bytes(&id).expect("hexadecimal digits are a valid header value")
    }
}

fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (position, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * position) & 15) as usize];
    }
    digits
}

/// What the path of a request names.
#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    HealthCheck,
    Stream {
        project: &'a str,
        source: &'a str,
        secret: &'a str,
    },
    Nothing,
}

impl<'a> Target<'a> {
    fn parse(path: &'a str) -> Self {
        if path == "/health-check" {
            return Self::HealthCheck;
        }
        let mut segments = path.strip_prefix("/stream/").unwrap_or("").split('/');
        match (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) {
            (Some(project), Some(source), Some(secret), None)
                if ![project, source, secret].contains(&"") =>
            {
                Self::Stream {
                    project,
                    source,
                    secret,
                }
            }
            _ => Self::Nothing,
        }
    }
}

impl Receiver {
    /// Answers a request.
    ///
    /// # Cancel safety
    /// When the client goes away, the record is written or not; its memory is given back either way.
    pub async fn receive(&self, request: Request<Incoming>) -> Answer {
        let mut answer = match self.route(request).await {
            Ok(answer) => answer,
            Err(refusal) => refusal.answer(),
        };
        let headers = answer.headers_mut();
        headers.insert(SERVER, SERVER_NAME);
        headers.insert(REQUEST_ID, self.ids.next());
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
        self.metrics.answered(answer.status().as_u16());
        answer
    }

    async fn route(&self, request: Request<Incoming>) -> Result<Answer, Refusal> {
        match (Target::parse(request.uri().path()), request.method()) {
            (Target::HealthCheck, &Method::GET | &Method::HEAD) => Ok(answer::text(200, "OK")),
            (Target::HealthCheck, _) => Ok(not_allowed(HeaderValue::from_static("GET, HEAD"))),
            (Target::Stream { .. }, &Method::OPTIONS) => Ok(options()),
            (
                Target::Stream {
                    project,
                    source,
                    secret,
                },
                &Method::POST,
            ) => {
                self.dispatcher.catch_up().await;
                let sources = self.find(project, source, secret)?;
                self.take(request, &sources).await
            }
            (Target::Stream { .. }, _) => Ok(not_allowed(METHODS)),
            (Target::Nothing, _) => Err(Refusal::new(
                404,
                "routeNotFound",
                "There is nothing at this path. Send records to /stream/<project>/<source>/<secret>.",
            )),
        }
    }

    fn find(&self, project: &str, source: &str, secret: &str) -> Result<Vec<Arc<Entry>>, Refusal> {
        let project = project.parse().map_err(|_| {
            Refusal::new(400, "badRequest", "The project in the URL is not a number.")
        })?;
        let sources = self.table.authenticate(project, source, secret);
        if sources.is_empty() {
            return Err(Refusal::new(404, "noSourceFound", NO_SOURCE));
        }
        Ok(sources)
    }

    /// Takes one record.
    async fn take(
        &self,
        request: Request<Incoming>,
        sources: &[Arc<Entry>],
    ) -> Result<Answer, Refusal> {
        let detail = read_query(request.uri().query().unwrap_or(""))?;
        let received_at = self.clock.now();
        let deadline = Instant::now() + self.timeout;
        let reserved = self.admission.reserve(RECORD_OVERHEAD);
        let mut reserved = reserved.ok_or_else(|| Refusal::later(503, "overloaded", OVERLOADED))?;
        let (parts, body) = request.into_parts();
        let body = body::read(body, self.max_body, deadline, &mut reserved).await?;
        let body = body::decode(&parts.headers, body, self.max_body, &mut reserved).await?;
        let content_type = parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let peer = parts.extensions.get::<Peer>();
        let record = Record {
            received_at,
            client_ip: peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| {
                client_ip(peer.0.ip())
            }),
            headers: Headers::default(),
            content_type: ContentType::parse(content_type),
            body,
        };
        let received = Received::new(record, parts.headers);
        let reports = self.dispatcher.dispatch(sources, received, reserved).await;
        Ok(answer::answer(&reports, detail))
    }
}

/// An IPv4 client of a dual-stack listener is shown as such.
fn client_ip(peer: IpAddr) -> IpAddr {
    peer.to_canonical()
}

fn read_query(query: &str) -> Result<Detail, Refusal> {
    let mut detail = Detail::Short;
    for pair in query.split('&') {
        match pair {
            "verbose=true" => detail = Detail::Verbose,
            "batch=true" => {
                let message = "Batches are not supported yet. Send one record per request, without batch=true.";
                return Err(Refusal::new(400, "badRequest", message));
            }
            _ => {}
        }
    }
    Ok(detail)
}

fn options() -> Answer {
    let mut answer = answer::text(200, "");
    let headers = answer.headers_mut();
    headers.insert(ALLOW, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ANY);
    answer
}

fn not_allowed(allowed: HeaderValue) -> Answer {
    let message = "The method is not allowed here; the header Allow names those that are.";
    let mut answer = Refusal::new(405, "methodNotAllowed", message).answer();
    answer.headers_mut().insert(ALLOW, allowed);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_whole_segments_name_a_source() {
        let expected = Target::Stream {
            project: "1",
            source: "orders",
            secret: "abc",
        };
        assert_eq!(Target::parse("/stream/1/orders/abc"), expected);
        for path in [
            "/stream/1/orders",
            "/stream/1/orders/",
            "/stream/1/orders/abc/",
            "/stream//orders/abc",
            "/stream",
            "/",
            "/streams/1/orders/abc",
            "/x/stream/1/orders/abc",
            "/health-check/",
        ] {
            assert_eq!(Target::parse(path), Target::Nothing, "{path}");
        }
    }

    #[test]
    fn request_ids_are_the_session_and_a_number() {
        let ids = RequestIds::new(SessionId(0xab));
        assert_eq!(ids.next(), "00000000000000ab-0000000000000001");
        assert_eq!(ids.next(), "00000000000000ab-0000000000000002");
    }

    #[test]
    fn only_the_exact_flag_asks_for_details() {
        assert_eq!(read_query("a=1&verbose=true"), Ok(Detail::Verbose));
        assert_eq!(read_query("verbose=false&xverbose=true"), Ok(Detail::Short));
        assert!(read_query("batch=true").is_err_and(|refusal| refusal.status == 400));
    }
}
