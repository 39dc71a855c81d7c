//! One request, from its head to its answer: whose it is, what it holds and what is counted of it.
//!
//! All branches behind a URL are charged with the rate; memory, its place among the requests in flight and the figures are those
//! of the first, whose URL it is as well.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderValue;
use stream_encoding::BatchFormat;
use stream_model::Timestamp;
use tokio::time::Instant;

use crate::admission::{RECORD_OVERHEAD, Reservation};
use crate::answer::{self, Answer, OVERLOADED, Refusal};
use crate::body::End;
use crate::intake::{InFlight, Intake, Toll, TooFast};
use crate::request_id::Arrival;
use crate::table::Entry;

/// What is known of a request while it is served. Dropped with it, be it that the client has gone away.
pub(crate) struct Visit {
    /// When its head had come.
    pub begun: Instant,
    /// Its id.
    pub id: HeaderValue,
    /// When its head had come, by the clock: the arrival of its records.
    pub arrived_at: Timestamp,
    /// The address of the client.
    pub client: IpAddr,
    /// The sources behind its URL.
    pub sources: Vec<Arc<Entry>>,
    in_flight: Option<InFlight>,
    toll: Toll,
    /// Bytes of the body, after decoding.
    pub bytes: u64,
    /// Records that some sink holds.
    pub held: u64,
    /// What was at the end of its body.
    pub end: End,
}

impl Visit {
    /// A request that begins now.
    pub fn new(arrival: Arrival, client: IpAddr) -> Self {
        Self {
            begun: Instant::now(),
            id: arrival.id,
            arrived_at: arrival.at,
            client,
            sources: Vec::new(),
            in_flight: None,
            toll: Toll::default(),
            bytes: 0,
            held: 0,
            end: End::Clear,
        }
    }

    /// Takes room for one more request, and for its record without the body.
    ///
    /// # Errors
    /// What to answer when there is none.
    pub fn admit(&mut self) -> Result<Reservation, Refusal> {
        let refused = || Refusal::later(503, "overloaded", OVERLOADED);
        let source = self.sources.first().ok_or_else(refused)?;
        let in_flight = source.intake.begin().ok_or_else(refused)?;
        let reserved = source.intake.purse().reserve(RECORD_OVERHEAD);
        let reserved = reserved.ok_or_else(refused)?;
        self.in_flight = Some(in_flight);
        Ok(reserved)
    }

    fn intakes(&self) -> impl Iterator<Item = &Intake> + Clone {
        self.sources.iter().map(|source| &source.intake)
    }

    /// Counts records and bytes against the rates of the sources.
    ///
    /// # Errors
    /// What to answer when one of them is beyond its rate.
    pub fn pay(&mut self, records: usize, bytes: u64) -> Result<(), Refusal> {
        let mut toll = std::mem::take(&mut self.toll);
        let paid = toll.pay(self.intakes(), records as u64, bytes, Instant::now());
        self.toll = toll;
        paid.map_err(too_fast)
    }

    /// Counts what the head of the request tells.
    ///
    /// # Errors
    /// What to answer when one of them is beyond its rate.
    pub fn pay_ahead(
        &mut self,
        batch: Option<BatchFormat>,
        bytes: Option<u64>,
    ) -> Result<(), Refusal> {
        if batch.is_some() || bytes.is_none() {
            Toll::check(self.intakes(), Instant::now()).map_err(too_fast)?;
        }
        let records = usize::from(batch.is_none());
        self.pay(records, bytes.unwrap_or(0))
    }

    /// Notes a body once it is decoded.
    ///
    /// # Errors
    /// What to answer when one of them is beyond its rate.
    pub fn read(&mut self, body: &Bytes, ahead: Option<u64>) -> Result<(), Refusal> {
        self.bytes = body.len() as u64;
        if let Some(source) = self.sources.first() {
            source.intake.metrics.bytes.inc_by(self.bytes);
        }
        match ahead {
            Some(_) => Ok(()),
            None => self.pay(0, self.bytes),
        }
    }

    /// Counts the answer for the source. Branches that share the URL share its figures.
    pub fn count(&self, answer: &Answer, elapsed: Duration) {
        let Some(source) = self.sources.first() else {
            return;
        };
        let metrics = &source.intake.metrics;
        metrics.answered(elapsed);
        metrics.records.inc_by(self.held);
        if let Some(name) = answer::error_name(answer) {
            metrics.rejected(name);
        }
    }
}

fn too_fast(wait: TooFast) -> Refusal {
    Refusal::too_fast(wait.seconds())
}
