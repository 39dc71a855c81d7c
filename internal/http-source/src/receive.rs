//! HTTP: which request is a record, what belongs to it, and the answer.
//!
//! A request that is refused costs less than one that is accepted: whatever its head tells is decided before its body is
//! read. In this order: is there such a source (404), is there room for one more request (503), is the body too large (413),
//! would it fit into memory (503), is the source within its rate (429).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    CONNECTION, CONTENT_TYPE, HeaderValue, SERVER,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Version};
use stream_encoding::{
    BatchError, BatchFormat, BatchLimits, ContentType, Headers, Malformed, MapError, Record,
};
use stream_model::idempotency::Extent;
use stream_model::{Clock, SourceKey};
use stream_node::Peer;

use crate::access::{AccessLog, Line};
use crate::admission::{RECORD_OVERHEAD, Reservation};
use crate::answer::{self, Answer, NO_SOURCE, OVERLOADED, Refusal};
use crate::body;
use crate::dispatch::{Dispatcher, Report};
use crate::head::{Query, Target, header_bytes};
use crate::key::Key;
use crate::many::{self, Fate};
use crate::mapper::Received;
use crate::metrics::Metrics;
use crate::request_id::{Arrival, REQUEST_ID, RequestIds};
use crate::table::{Entry, Table};
use crate::visit::Visit;
use stream_node::TrustedProxies;

/// The most records of a request.
const MAX_BATCH_RECORDS: usize = 10_000;

/// Bodies with many records up to this size are taken apart where they were received: to move them to another thread would
/// take longer than the half millisecond at most that they take. Lines are only looked for, arrays are read, CSV is written
/// anew.
const fn inline_bytes(format: BatchFormat) -> usize {
    match format {
        BatchFormat::Lines => 512 << 10,
        BatchFormat::Array => 128 << 10,
        BatchFormat::Csv => 64 << 10,
    }
}

const METHODS: HeaderValue = HeaderValue::from_static("OPTIONS, POST");
const ANY: HeaderValue = HeaderValue::from_static("*");
const SERVER_NAME: HeaderValue = HeaderValue::from_static("stream-service");
const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// Takes requests.
pub(crate) struct Receiver {
    /// Where sources are found.
    pub table: Arc<Table>,
    /// Where records go.
    pub dispatcher: Dispatcher,
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
    /// One line for a request.
    pub access: AccessLog,
}

impl Receiver {
    /// Answers a request.
    ///
    /// # Cancel safety
    /// When the client goes away, the record is written or not; what the request held is given back either way.
    pub async fn receive(&self, request: Request<Incoming>) -> Answer {
        let (mut head, mut body) = request.into_parts();
        let arrival = self.ids.arrival(&head.headers, self.clock.now());
        let id = arrival.id.clone();
        let mut visit = self.begin(&head, arrival);
        let outcome = self.route(&mut head, &mut body, &mut visit).await;
        let is_left = outcome.is_err() || visit.sources.is_empty();
        let mut answer = outcome.unwrap_or_else(|refusal| refusal.answer());
        if is_left {
            leave(&mut answer, &head, body).await;
        }
        if visit.end == body::End::Trailers && head.version == Version::HTTP_11 {
            answer.headers_mut().insert(CONNECTION, CLOSE);
        }
        let headers = answer.headers_mut();
        headers.insert(SERVER, SERVER_NAME);
        headers.insert(REQUEST_ID, id.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
        self.metrics.answered(answer.status().as_u16());
        let elapsed = visit.begun.elapsed();
        visit.count(&answer, elapsed);
        self.log(&head, &visit, &answer, &id, elapsed);
        answer
    }

    fn begin(&self, head: &Parts, arrival: Arrival) -> Visit {
        let peer = head.extensions.get::<Peer>();
        let client = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| {
            self.proxies.client(peer.0.ip(), &head.headers)
        });
        Visit::new(arrival, client)
    }

    fn log(&self, head: &Parts, visit: &Visit, answer: &Answer, id: &HeaderValue, took: Duration) {
        let (status, error) = (answer.status().as_u16(), answer::error_name(answer));
        let (wants, tells) = (self.access.wants(status), self.access.tells(status, error));
        if !wants && !tells {
            return;
        }
        let source = visit.sources.first().and_then(|source| source.route());
        let source: Option<&SourceKey> = source.as_deref().map(|route| &route.source);
        let line = Line {
            method: &head.method,
            path: head.uri.path(),
            source,
            status,
            error,
            bytes: visit.bytes,
            elapsed: took,
            request_id: id.to_str().unwrap_or_default(),
            client: visit.client,
        };
        if wants {
            line.log();
        }
        if tells {
            line.tell();
        }
    }

    async fn route(
        &self,
        head: &mut Parts,
        body: &mut Incoming,
        visit: &mut Visit,
    ) -> Result<Answer, Refusal> {
        body::check_chunks(&head.headers)?;
        if header_bytes(head) > self.max_header {
            let message = "Request line and headers are too long. Send less, or raise source.http.readBufferSize.";
            return Err(Refusal::new(413, "headerTooLarge", message));
        }
        match (Target::parse(head.uri.path()), &head.method) {
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
                visit.sources = self.find(project, source, secret)?;
                self.take(head, body, visit).await
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
        head: &mut Parts,
        body: &mut Incoming,
        visit: &mut Visit,
    ) -> Result<Answer, Refusal> {
        let query = Query::read(head.uri.query().unwrap_or(""));
        let deadline = visit.begun + self.timeout;
        let content_type = head.headers.get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let batch = BatchFormat::of(content_type, query.batch);
        let content_type = ContentType::parse(content_type);
        let limit = batch.map_or(self.max_body, |_| self.max_batch);
        let mut reserved = visit.admit()?;
        body::check(body, limit, &reserved)?;
        let ahead = body::known_len(&head.headers, body);
        visit.pay_ahead(batch, ahead)?;
        let (body, end) = body::read(body, limit, deadline, &mut reserved).await?;
        visit.end = end;
        let (body, reserved) = body::decode(&head.headers, body, limit, reserved).await?;
        visit.read(&body, ahead)?;
        let extent = match batch {
            Some(_) => Extent::Batch,
            None => Extent::Record,
        };
        let key = Key::of_request(&head.headers, extent, &body)?;
        let record = Record {
            received_at: visit.arrived_at,
            client_ip: visit.client,
            headers: Headers::default(),
            content_type,
            body,
        };
        let received = Received::new(record, std::mem::take(&mut head.headers));
        let received = received.of_request(visit.id.clone());
        if let Some(format) = batch {
            let key = key.as_ref();
            return self.take_many(format, received, reserved, visit, key).await;
        }
        let dispatched = self
            .dispatcher
            .dispatch(&visit.sources, received, reserved, key.as_ref());
        let reports = dispatched.await;
        visit.held = u64::from(reports.iter().any(Report::is_held));
        Ok(answer::answer(&reports, query.detail))
    }

    /// Takes the records of a batch.
    async fn take_many(
        &self,
        format: BatchFormat,
        request: Received,
        mut reserved: Reservation,
        visit: &mut Visit,
        key: Option<&Key>,
    ) -> Result<Answer, Refusal> {
        let items = self.split(format, request.record.body.clone()).await?;
        visit.pay(items.len(), 0)?;
        let mut records = Vec::with_capacity(items.len());
        let mut unreadable: BTreeMap<u32, MapError> = BTreeMap::new();
        let request = request.with_headers();
        for (index, item) in (0..).zip(items) {
            let record = match item {
                Ok(body) => request.of_batch(index, body),
                Err(Malformed { error, bytes }) => {
                    unreadable.insert(index, error.clone());
                    request.of_batch(index, bytes).malformed(error)
                }
            };
            let bytes = record.record.body.len() + RECORD_OVERHEAD;
            if !reserved.grow(bytes) {
                return Err(Refusal::later(503, "overloaded", OVERLOADED));
            }
            records.push((record, reserved.split(bytes)));
        }
        drop((request, reserved));
        let reports = match key {
            Some(key) => {
                let all = (self.dispatcher).dispatch_request(&visit.sources, records, key);
                all.await
            }
            None => self.dispatcher.dispatch_many(&visit.sources, records).await,
        };
        let fates: Vec<Fate> = (0..)
            .zip(reports)
            .map(|(index, reports)| match unreadable.remove(&index) {
                Some(error) => Fate::Unreadable(error, reports),
                None => Fate::Sent(reports),
            })
            .collect();
        visit.held = fates.iter().filter(|fate| fate.is_held()).count() as u64;
        Ok(many::answer(&fates))
    }

    /// Takes the body of a batch apart: of a long one on a thread that may be busy for a while.
    async fn split(
        &self,
        format: BatchFormat,
        body: Bytes,
    ) -> Result<Vec<Result<Bytes, Malformed>>, Refusal> {
        let limits = BatchLimits {
            records: MAX_BATCH_RECORDS,
            csv_as_json_bytes: 4 * self.max_batch,
        };
        let split = if body.len() <= inline_bytes(format) {
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

/// Reads as much of a body that nobody wants as keeps the connection of use, or says that it will be closed.
async fn leave(answer: &mut Answer, head: &Parts, mut body: Incoming) {
    // HTTP/2 ends the one request and keeps the connection; a client that was too slow is not waited for again.
    if head.version != Version::HTTP_11 {
        return;
    }
    let was_slow = matches!(answer.status().as_u16(), 408 | 499);
    let is_doubtful = body::check_chunks(&head.headers).is_err();
    if was_slow || is_doubtful || !body::drain(&head.headers, &mut body).await {
        answer.headers_mut().insert(CONNECTION, CLOSE);
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
