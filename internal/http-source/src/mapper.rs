//! Applies the mappings of a plan to a record.
//!
//! Rows are written into a buffer of the thread and copied from there into the batch, so that the lock of the batch is
//! held for a copy and not for a mapping.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hyper::HeaderMap;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stream_encoding::{ContentType, Headers, MapError, Record, Rows};

use crate::route::Plan;
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
    /// Headers that are not in the record yet.
    raw_headers: HeaderMap,
    /// Set when the record has an idempotency key: the right to write it. Records of a request may share one.
    pub key: Option<Arc<Turn>>,
}

impl Received {
    /// A record whose headers are in `headers` only.
    pub fn new(record: Record, headers: HeaderMap) -> Self {
        Self {
            record,
            raw_headers: headers,
            key: None,
        }
    }

    /// The same with the headers in the record, whatever needs them. For a request that many records are made of.
    #[must_use]
    pub fn with_headers(mut self) -> Self {
        self.take_headers();
        self
    }

    /// One of the records of a request: it shares everything but the body, which is JSON.
    #[must_use]
    pub fn of_batch(&self, body: Bytes) -> Self {
        let mut one = self.clone();
        one.record.body = body;
        one.record.content_type = ContentType::Json;
        one
    }

    /// Puts the headers into the record if the plan reads them.
    pub fn prepare_for(&mut self, plan: &Plan) {
        if plan.needs_headers() {
            self.take_headers();
        }
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
}

impl Mapped {
    /// The row for the sink at this position of the plan; empty when the sink refuses the record.
    pub fn row(&self, sink: usize) -> &[u8] {
        self.spans
            .get(sink)
            .map_or(&[], |span| &self.rows.as_bytes()[span.clone()])
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> usize {
        self.rows.len()
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
        const { RefCell::new(Mapped { rows: Rows::new(), spans: Vec::new(), rejections: Vec::new() }) };
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
            self.fill(plan, &received.record, scratch);
            take(received, scratch)
        })
    }

    fn fill(&self, plan: &Plan, record: &Record, scratch: &mut Mapped) {
        let Mapped {
            rows,
            spans,
            rejections,
        } = scratch;
        if rows.row_limit() != self.row_limit || rows.len() > SCRATCH_BYTES {
            *rows = Rows::with_row_limit(self.row_limit);
        }
        rows.clear();
        spans.clear();
        rejections.clear();
        let mut ids = || {
            let mut bytes = [0; 10];
            self.ids.lock().fill_bytes(&mut bytes);
            bytes
        };
        for (position, sink) in plan.sinks.iter().enumerate() {
            let start = rows.len();
            if let Err(error) = sink.mapping.map(record, rows, &mut ids) {
                rejections.push(Rejection {
                    sink: position,
                    error,
                });
            }
            spans.push(start..rows.len());
        }
    }
}
