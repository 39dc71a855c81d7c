//! Applies the mappings of a plan to a record.
//!
//! Rows are written into a buffer of the thread and copied from there into the batch, so that the lock of the batch is
//! held for a copy and not for a mapping.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stream_encoding::{ContentType, Headers, MapError, Record, Reject, Rows};

use crate::answer::{full_name, rejected};
use crate::route::{Plan, PlannedSink};
use crate::templates::Evaluated;
use crate::turns::Turn;

/// The buffer of a thread is thrown away when a record has made it larger than this.
const SCRATCH_BYTES: usize = 1 << 20;

/// A record as it is kept until it is answered.
///
/// Most mappings read no headers. They stay as they came until a plan needs them, be it a later one.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    /// The record.
    pub record: Record,
    /// What templates made of it, if any were needed.
    pub evaluated: Option<Evaluated>,
    /// Headers that are not in the record yet.
    raw_headers: HeaderMap,
    /// Its request.
    request: HeaderValue,
    /// Its place in the request, from 0.
    index: u32,
    /// Why it is no record, if it is none: every sink refuses it.
    malformed: Option<Box<MapError>>,
    /// Set when the record has an idempotency key: the right to write it. Records of a request may share one.
    pub key: Option<Arc<Turn>>,
}

impl Received {
    /// A record whose headers are in `headers` only.
    pub fn new(record: Record, headers: HeaderMap) -> Self {
        Self {
            record,
            evaluated: None,
            raw_headers: headers,
            request: HeaderValue::from_static(""),
            index: 0,
            malformed: None,
            key: None,
        }
    }

    /// The same as a record of this request.
    #[must_use]
    pub fn of_request(mut self, request: HeaderValue) -> Self {
        self.request = request;
        self
    }

    /// The same with the headers in the record, whatever needs them. For a request that many records are made of.
    #[must_use]
    pub fn with_headers(mut self) -> Self {
        self.take_headers();
        self
    }

    /// One of the records of a request: it shares everything but the body, which is JSON.
    #[must_use]
    pub fn of_batch(&self, index: u32, body: Bytes) -> Self {
        let mut one = self.clone();
        one.record.body = body;
        one.record.content_type = ContentType::Json;
        one.index = index;
        one
    }

    /// The same as an item of a batch that is no record.
    #[must_use]
    pub fn malformed(mut self, error: MapError) -> Self {
        self.malformed = Some(Box::new(error));
        self
    }

    /// The content type as it was sent.
    fn content_type(&self) -> &str {
        let raw = self.raw_headers.get(CONTENT_TYPE);
        let raw = raw.and_then(|value| value.to_str().ok());
        raw.or_else(|| self.record.headers.get("content-type"))
            .unwrap_or("")
    }

    /// Puts the headers into the record if the plan reads them.
    pub fn prepare_for(&mut self, plan: &Plan) {
        if plan.needs_headers() {
            self.take_headers();
        }
    }

    /// Whether a plan needs to know what its templates make of the record first. Then it must be prepared for the plan, and
    /// evaluated ([`crate::templates`]).
    pub fn needs_evaluation_for(&self, plan: &Plan) -> bool {
        plan.has_templates()
            && self.malformed.is_none()
            && !(self.evaluated.as_ref()).is_some_and(|evaluated| evaluated.covers(plan))
    }

    fn take_headers(&mut self) {
        if !self.raw_headers.is_empty() {
            let headers = std::mem::take(&mut self.raw_headers);
            let pairs = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_bytes()));
            self.record.headers = Headers::new(pairs);
        }
    }
}

/// A record that a sink refuses.
#[derive(Debug, Clone)]
pub(crate) struct Rejection {
    /// Position of the sink in the plan.
    pub sink: usize,
    /// Why.
    pub error: MapError,
}

/// The rows of one record.
#[derive(Debug)]
pub(crate) struct Mapped {
    rows: Rows,
    spans: Vec<Range<usize>>,
    /// The sinks that refuse the record.
    pub rejections: Vec<Rejection>,
    /// The rejected record, as it is kept for each of them.
    rejects: Vec<u8>,
    reject_spans: Vec<(usize, Range<usize>)>,
}

impl Mapped {
    /// The row for the sink at this position of the plan; empty when the sink refuses the record.
    pub fn row(&self, sink: usize) -> &[u8] {
        self.spans
            .get(sink)
            .map_or(&[], |span| &self.rows.as_bytes()[span.clone()])
    }

    /// For each sink that refuses the record, its position in the plan and the row that keeps the record.
    pub fn rejected_rows(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let spans = self.reject_spans.iter();
        spans.map(|(sink, span)| (*sink, &self.rejects[span.clone()]))
    }

    /// Bytes of all rows, with those of the rejected record.
    pub fn bytes(&self) -> usize {
        self.rows.len() + self.rejects.len()
    }

    /// Whether no sink takes the record.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Maps records.
pub(crate) struct Mapper {
    row_limit: usize,
    ids: Mutex<StdRng>,
}

thread_local! {
    static SCRATCH: RefCell<Mapped> =
        const { RefCell::new(Mapped {
            rows: Rows::new(),
            spans: Vec::new(),
            rejections: Vec::new(),
            rejects: Vec::new(),
            reject_spans: Vec::new(),
        }) };
}

impl Mapper {
    /// `row_limit` is the most bytes of a row, `seed` makes the random part of UUID columns.
    pub fn new(row_limit: usize, seed: u64) -> Self {
        Self {
            row_limit,
            ids: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    /// Maps a prepared record and hands it to `take` with its rows. Must not be called from `take`.
    pub fn map<R>(
        &self,
        plan: &Plan,
        received: Received,
        take: impl FnOnce(Received, &mut Mapped) -> R,
    ) -> R {
        SCRATCH.with_borrow_mut(|scratch| {
            self.fill(plan, &received, scratch);
            take(received, scratch)
        })
    }

    fn fill(&self, plan: &Plan, received: &Received, scratch: &mut Mapped) {
        scratch.clear(self.row_limit);
        let mut ids = || {
            let mut bytes = [0; 10];
            self.ids.lock().fill_bytes(&mut bytes);
            bytes
        };
        for (position, sink) in plan.sinks.iter().enumerate() {
            let rows = &mut scratch.rows;
            let start = rows.len();
            let mapped = map(sink, received, rows, &mut ids);
            scratch.spans.push(start..rows.len());
            if let Err(error) = mapped {
                scratch.reject(plan, position, received, error);
            }
        }
    }
}

/// Appends the row of a record for a sink.
fn map(
    sink: &PlannedSink,
    received: &Received,
    rows: &mut Rows,
    ids: &mut dyn FnMut() -> [u8; 10],
) -> Result<(), MapError> {
    if let Some(error) = &received.malformed {
        return Err(MapError::clone(error));
    }
    let record = &received.record;
    let Some(templates) = sink.mapping.templates() else {
        return sink.mapping.map(record, rows, ids);
    };
    let evaluated = received.evaluated.as_ref();
    match evaluated.and_then(|evaluated| evaluated.of(templates.id())) {
        Some(Ok(Err(refusal))) => Err(refusal.clone()),
        Some(Ok(Ok(values))) => sink.mapping.map_with(record, Some(values), rows, ids),
        // Refused by the mapping: it was not evaluated.
        Some(Err(_)) | None => sink.mapping.map(record, rows, ids),
    }
}

impl Mapped {
    fn clear(&mut self, row_limit: usize) {
        if self.rows.row_limit() != row_limit || self.rows.len() > SCRATCH_BYTES {
            self.rows = Rows::with_row_limit(row_limit);
        }
        self.rows.clear();
        self.spans.clear();
        self.rejections.clear();
        self.rejects.clear();
        self.rejects.shrink_to(SCRATCH_BYTES);
        self.reject_spans.clear();
    }

    fn reject(&mut self, plan: &Plan, sink: usize, received: &Received, error: MapError) {
        let (start, refusal) = (self.rejects.len(), rejected(&error));
        let record = &received.record;
        let reject = Reject {
            received_at: record.received_at,
            request_id: received.request.to_str().unwrap_or_default(),
            source: &plan.source,
            sink: plan.sinks[sink].sink.as_str(),
            index: received.index,
            error: &full_name(refusal.name),
            column: error.column(),
            message: &refusal.message,
            client_ip: record.client_ip,
            content_type: received.content_type(),
            body: &record.body,
        };
        reject.write(&mut self.rejects);
        self.reject_spans.push((sink, start..self.rejects.len()));
        self.rejections.push(Rejection { sink, error });
    }
}
