//! HTTP: which request is a record, what belongs to it, and the answer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    CONTENT_TYPE, HeaderName, HeaderValue, SERVER,
};
use hyper::{Method, Request};
use stream_encoding::{
    BatchError, BatchFormat, BatchLimits, ContentType, Headers, MapError, Record,
};
use stream_model::idempotency::Extent;
use stream_model::{Clock, SessionId};
use stream_node::Peer;
use tokio::time::Instant;

use crate::admission::{Admission, RECORD_OVERHEAD, Reservation};
use crate::answer::{self, Answer, Detail, NO_SOURCE, OVERLOADED, Refusal};
use crate::body;
use crate::dispatch::Dispatcher;
use crate::forwarded::TrustedProxies;
use crate::key::Key;
use crate::many::{self, Fate};
use crate::mapper::Received;
use crate::metrics::Metrics;
use crate::table::{Entry, Table};

/// The most records of a request.
const MAX_BATCH_RECORDS: usize = 10_000;
/// Bodies with many records up to this size are taken apart where they were received.
const SPLIT_INLINE_BYTES: usize = 64 << 10;

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
    /// The most bytes of request line and headers.
    pub max_header: usize,
    /// The most bytes of a body with one record.
    pub max_body: usize,
    /// The most bytes of a body with many.
    pub max_batch: usize,
    /// The proxies that say who their clients are.
    pub proxies: TrustedProxies,
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
        if header_bytes(&request) > self.max_header {
            let message = "Request line and headers are too long. Send less, or raise source.http.readBufferSize.";
            return Err(Refusal::new(413, "headerTooLarge", message));
        }
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

    /// Takes one record, or many.
    async fn take(
        &self,
        request: Request<Incoming>,
        sources: &[Arc<Entry>],
    ) -> Result<Answer, Refusal> {
        let query = Query::read(request.uri().query().unwrap_or(""));
        let received_at = self.clock.now();
        let deadline = Instant::now() + self.timeout;
        let reserved = self.admission.reserve(RECORD_OVERHEAD);
        let mut reserved = reserved.ok_or_else(|| Refusal::later(503, "overloaded", OVERLOADED))?;
        let (parts, body) = request.into_parts();
        let content_type = parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let batch = BatchFormat::of(content_type, query.batch);
        let limit = batch.map_or(self.max_body, |_| self.max_batch);
        let body = body::read(body, limit, deadline, &mut reserved).await?;
        let (body, reserved) = body::decode(&parts.headers, body, limit, reserved).await?;
        let extent = match batch {
            Some(_) => Extent::Batch,
            None => Extent::Record,
        };
        let key = Key::of_request(&parts.headers, extent, &body)?;
        let peer = parts.extensions.get::<Peer>();
        let record = Record {
            received_at,
            client_ip: peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| {
                self.proxies.client(peer.0.ip(), &parts.headers)
            }),
            headers: Headers::default(),
            content_type: ContentType::parse(content_type),
            body,
        };
        let received = Received::new(record, parts.headers);
        if let Some(format) = batch {
            let key = key.as_ref();
            return self
                .take_many(format, received, reserved, sources, key)
                .await;
        }
        let reports = self
            .dispatcher
            .dispatch(sources, received, reserved, key.as_ref());
        let reports = reports.await;
        Ok(answer::answer(&reports, query.detail))
    }

    /// Takes the records of a batch.
    async fn take_many(
        &self,
        format: BatchFormat,
        request: Received,
        mut reserved: Reservation,
        sources: &[Arc<Entry>],
        key: Option<&Key>,
    ) -> Result<Answer, Refusal> {
        let items = self.split(format, request.record.body.clone()).await?;
        let mut records = Vec::with_capacity(items.len());
        let mut unreadable = BTreeMap::new();
        let request = request.with_headers();
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Ok(body) => {
                    let bytes = body.len() + RECORD_OVERHEAD;
                    if !reserved.grow(bytes) {
                        return Err(Refusal::later(503, "overloaded", OVERLOADED));
                    }
                    let share = reserved.split(bytes);
                    records.push((request.of_batch(body), share));
                }
                Err(error) => {
                    unreadable.insert(index, error);
                }
            }
        }
        drop((request, reserved));
        let count = records.len() + unreadable.len();
        let reports = match key {
            Some(key) => {
                let all = self.dispatcher.dispatch_request(sources, records, key);
                all.await
            }
            None => self.dispatcher.dispatch_many(sources, records).await,
        };
        let mut reports = reports.into_iter();
        let fates: Vec<Fate> = (0..count)
            .map(|index| match unreadable.remove(&index) {
                Some(error) => Fate::Unreadable(error),
                None => Fate::Sent(reports.next().unwrap_or_default()),
            })
            .collect();
        Ok(many::answer(&fates))
    }

    /// Takes the body of a batch apart: of a long one on a thread that may be busy for a while.
    async fn split(
        &self,
        format: BatchFormat,
        body: Bytes,
    ) -> Result<Vec<Result<Bytes, MapError>>, Refusal> {
        let limits = BatchLimits {
            records: MAX_BATCH_RECORDS,
            csv_as_json_bytes: 4 * self.max_batch,
        };
        let split = if body.len() <= SPLIT_INLINE_BYTES {
            format.split(&body, limits)
        } else {
            let internal = |_| Refusal::new(500, "genericError", "The batch could not be read.");
            tokio::task::spawn_blocking(move || format.split(&body, limits))
                .await
                .map_err(internal)?
        };
        split.map_err(|error| {
            let (status, name) = match error {
                BatchError::TooManyRecords { .. } | BatchError::TooLarge { .. } => {
                    (413, "bodyTooLarge")
                }
                _ => (400, "badRequest"),
            };
            Refusal::new(status, name, format!("No record was written: {error}."))
        })
    }
}

/// Bytes of request line and headers, as HTTP/1.1 writes them.
fn header_bytes<B>(request: &Request<B>) -> usize {
    let line =
        request.method().as_str().len() + request.uri().path().len() + "  HTTP/1.1\r\n".len();
    let query = request.uri().query().map_or(0, |query| query.len() + 1);
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + query + headers.sum::<usize>()
}

/// What the URL asks for. Anything unknown is ignored: clients add what their own tools want.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    detail: Detail,
    /// The body has many records.
    batch: bool,
}

impl Query {
    fn read(query: &str) -> Self {
        let has = |wanted| query.split('&').any(|pair| pair == wanted);
        Self {
            detail: if has("verbose=true") {
                Detail::Verbose
            } else {
                Detail::Short
            },
            batch: has("batch=true"),
        }
    }
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
    fn only_the_exact_flags_count() {
        let query = |detail, batch| Query { detail, batch };
        assert_eq!(
            Query::read("a=1&verbose=true"),
            query(Detail::Verbose, false)
        );
        assert_eq!(
            Query::read("verbose=false&xverbose=true&batch=1"),
            query(Detail::Short, false)
        );
        assert_eq!(
            Query::read("batch=true&verbose=true"),
            query(Detail::Verbose, true)
        );
    }
}
