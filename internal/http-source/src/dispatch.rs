//! From a record to the batches of its sources, and back to what the sender is told.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::header::HeaderValue;
use stream_model::level::Durability;
use stream_model::{SourceKey, Timestamp};
use stream_storage::wire::KeyHash;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admission::Reservation;
use crate::balance::choose;
use crate::batch::Outlet;
use crate::completion::{Failure, Ticket};
use crate::key::Key;
use crate::lane::{Answering, Ended, Lane, Surroundings};
use crate::mapper::{Mapped, Mapper, Received, Rejection};
use crate::metrics::Metrics;
use crate::route::{Directory, Plan, Ready, Route, State, VolumeRoute};
use crate::table::Entry;
use crate::templates::{Evaluated, Evaluators};
use crate::turns::{Memory, Turn, Turns};

mod keyed;

/// How long a request waits for the news of a slice before it is refused.
const MAX_WAIT_FOR_SLICE: Duration = Duration::from_secs(2);
/// How long a request waits for routes that are behind what the process has heard.
const MAX_WAIT_FOR_ROUTES: Duration = Duration::from_secs(1);
/// How many records of a request are mapped before other requests get their turn on the thread.
const RECORDS_AT_ONCE: usize = 64;

/// What became of a record in one source.
#[derive(Debug)]
pub(crate) struct Report {
    /// The source.
    pub source: SourceKey,
    /// Written, with the weakest class among the sinks that took it; or why not.
    pub written: Result<Durability, Failure>,
    /// The sinks, when it came as far as mapping.
    pub plan: Option<Arc<Plan>>,
    /// The sinks that refuse the record.
    pub rejections: Vec<Rejection>,
    /// Where the others hold it.
    pub position: Option<HeaderValue>,
    /// Where it is kept for those that refuse it.
    pub kept: Option<HeaderValue>,
    /// What there is to say of its idempotency key, if it has one.
    pub key: Option<KeyReport>,
}

/// What the sender of a key is told beside the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyReport {
    /// For how long at least the key is remembered; none when the volume has not said it yet.
    pub window_seconds: Option<u32>,
    /// The record was there before.
    pub is_repetition: bool,
}

impl Report {
    /// Whether some sink of the source holds the record.
    pub fn is_held(&self) -> bool {
        let sinks = self.plan.as_ref().map_or(0, |plan| plan.sinks.len());
        self.written.is_ok() && self.rejections.len() < sinks
    }
}

/// Brings records into batches.
pub(crate) struct Dispatcher {
    mapper: Arc<Mapper>,
    evaluators: Evaluators,
    metrics: Arc<Metrics>,
    directory: Arc<dyn Directory>,
    news: watch::Receiver<i64>,
    max_wait: Duration,
    turns: Arc<Turns>,
    request_timeout: Duration,
}

/// A record that is in a batch, or needs none.
pub(crate) enum Placed {
    Waiting(SourceKey, Ticket, Option<WaitingKey>),
    Done(Report),
}

/// A key that is in a batch. It does not hold the turn: that ends with the batch.
pub(crate) struct WaitingKey {
    body: u64,
    memory: Arc<OnceLock<Memory>>,
    /// The class of a record that was there before.
    weakest: Durability,
    lane: Lane,
    /// For how long the volume has decided about it, when that is not always.
    owned_for: Option<u32>,
}

/// A record that cannot be placed now.
struct NotNow {
    received: Received,
    reserved: Reservation,
    failure: Failure,
}

impl Dispatcher {
    /// `request_timeout` bounds how long a request waits for a route in `directory`.
    pub fn new(
        mapper: Arc<Mapper>,
        evaluators: Evaluators,
        metrics: Arc<Metrics>,
        directory: Arc<dyn Directory>,
        request_timeout: Duration,
    ) -> Self {
        Self {
            mapper,
            evaluators,
            metrics,
            news: directory.news(),
            directory,
            max_wait: request_timeout.min(MAX_WAIT_FOR_SLICE),
            turns: Arc::default(),
            request_timeout,
        }
    }

    /// One that works with what the lanes work with.
    pub fn within(around: &Surroundings, request_timeout: Duration) -> Self {
        let Surroundings {
            directory,
            mapper,
            evaluators,
            metrics,
            ..
        } = around.clone();
        Self::new(mapper, evaluators, metrics, directory, request_timeout)
    }

    /// Waits until the routes have what this process had heard of when the request came. Whoever was told by the API of
    /// this process that a sink exists may rely on it: the next record is for that sink too.
    pub async fn catch_up(&self) {
        let heard = self.directory.heard();
        if *self.news.borrow() >= heard {
            return;
        }
        let mut news = self.news.clone();
        let caught_up = news.wait_for(|revision| *revision >= heard);
        // Routes that are late are better than none.
        let _ = tokio::time::timeout(MAX_WAIT_FOR_ROUTES, caught_up).await;
    }

    /// Writes a record to sources and waits for the outcomes.
    ///
    /// # Cancel safety
    /// A cancelled call gives up the answer. What is in a batch stays in it.
    pub async fn dispatch(
        &self,
        sources: &[Arc<Entry>],
        received: Received,
        reserved: Reservation,
        key: Option<&Key>,
    ) -> Vec<Report> {
        let [only] = sources else {
            return self.dispatch_to_all(sources, received, reserved, key).await;
        };
        match self.place(only, received, reserved, &mut None, key).await {
            Some(placed) => vec![report(placed).await],
            None => Vec::new(),
        }
    }

    /// Writes many records to sources and waits for the outcomes, those of each record in its turn.
    ///
    /// # Cancel safety
    /// As [`Self::dispatch`]: what was placed stays placed, the rest is never written.
    pub async fn dispatch_many(
        &self,
        sources: &[Arc<Entry>],
        mut records: Vec<(Received, Reservation)>,
    ) -> Vec<Vec<Report>> {
        let Some((last, others)) = sources.split_last() else {
            return records.iter().map(|_| Vec::new()).collect();
        };
        self.evaluate_all(sources, &mut records).await;
        let mut give_up = None;
        let mut placed = Vec::with_capacity(records.len());
        for (number, (received, mut reserved)) in records.into_iter().enumerate() {
            if number % RECORDS_AT_ONCE == RECORDS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let mut of_record = Vec::with_capacity(sources.len());
            for source in others {
                let (received, reserved) = (received.clone(), reserved.share());
                let placed = self.place(source, received, reserved, &mut give_up, None);
                of_record.extend(placed.await);
            }
            let placed_last = self.place(last, received, reserved, &mut give_up, None);
            of_record.extend(placed_last.await);
            placed.push(of_record);
        }
        let mut outcomes = Vec::with_capacity(placed.len());
        for of_record in placed {
            outcomes.push(reports(of_record).await);
        }
        outcomes
    }

    /// All branches first get the record, then all outcomes are waited for.
    async fn dispatch_to_all(
        &self,
        sources: &[Arc<Entry>],
        received: Received,
        mut reserved: Reservation,
        key: Option<&Key>,
    ) -> Vec<Report> {
        let (mut placed, mut give_up) = (Vec::with_capacity(sources.len()), None);
        for source in sources {
            let (received, reserved) = (received.clone(), reserved.share());
            let one = self.place(source, received, reserved, &mut give_up, key);
            placed.extend(one.await);
        }
        reports(placed).await
    }

    /// Brings a record into the batch of one source. None: the source is gone. A request waits for routes until `give_up`,
    /// whatever the number of its records; it is set when the first of them has to wait.
    async fn place(
        &self,
        source: &Entry,
        mut received: Received,
        mut reserved: Reservation,
        give_up: &mut Option<Instant>,
        key: Option<&Key>,
    ) -> Option<Placed> {
        let route = source.route()?;
        if let Err(failure) = self.evaluate(&route, &mut received, &mut reserved).await {
            return Some(Placed::Done(failed(&route, failure)));
        }
        let received = match self.claim(&route, received, key).await {
            Ok(received) => received,
            Err(report) => return Some(Placed::Done(report)),
        };
        let mut waiting = match self.try_place(&route, received, reserved) {
            Ok(placed) => return Some(placed),
            Err(not_now) => not_now,
        };
        let mut news = self.news.clone();
        let give_up = *give_up.get_or_insert_with(|| Instant::now() + self.max_wait);
        loop {
            // The clone has not seen the latest change, so the first round is at once: no change is missed.
            let changed = tokio::time::timeout_at(give_up, news.changed()).await;
            let route = source.route()?;
            if !matches!(changed, Ok(Ok(()))) {
                return Some(Placed::Done(failed(&route, waiting.failure)));
            }
            let NotNow {
                mut received,
                mut reserved,
                ..
            } = waiting;
            if let Err(failure) = self.evaluate(&route, &mut received, &mut reserved).await {
                return Some(Placed::Done(failed(&route, failure)));
            }
            let received = match self.claim(&route, received, key).await {
                Ok(received) => received,
                Err(report) => return Some(Placed::Done(report)),
            };
            waiting = match self.try_place(&route, received, reserved) {
                Ok(placed) => return Some(placed),
                Err(not_now) => not_now,
            };
        }
    }

    /// Has the templates of a route evaluated for a record, where there are any. Without, this neither waits nor allocates.
    async fn evaluate(
        &self,
        route: &Route,
        received: &mut Received,
        reserved: &mut Reservation,
    ) -> Result<(), Failure> {
        let State::Ready(Ready { plan, .. }) = &route.state else {
            return Ok(());
        };
        if !plan.has_templates() {
            return Ok(());
        }
        if received.needs_evaluation_for(plan) {
            received.prepare_for(plan);
            let pending = self.evaluators.submit(&route.source, plan, received);
            // Boxed, so that requests without templates do not carry the room for it.
            received.evaluated = Some(Box::pin(pending.evaluated()).await);
        }
        let evaluated = received.evaluated.as_ref();
        if let Some(failure) = evaluated.and_then(|evaluated| evaluated.failure(plan)) {
            return Err(failure);
        }
        let bytes = evaluated.map_or(0, Evaluated::bytes);
        if !reserved.grow(bytes) {
            return Err(Failure::Overloaded);
        }
        Ok(())
    }

    /// Has the templates of many records evaluated at the same time, as far as there is one source.
    async fn evaluate_all(&self, sources: &[Arc<Entry>], records: &mut [(Received, Reservation)]) {
        // More sources are as good as never there; their records are evaluated one by one.
        let [only] = sources else {
            return;
        };
        let Some(route) = only.route() else {
            return;
        };
        let State::Ready(Ready { plan, .. }) = &route.state else {
            return;
        };
        if !plan.has_templates() {
            return;
        }
        let submit = |(received, _): &mut (Received, Reservation)| {
            received.prepare_for(plan);
            self.evaluators.submit(&route.source, plan, received)
        };
        let pending: Vec<_> = records.iter_mut().map(submit).collect();
        for ((received, _), pending) in records.iter_mut().zip(pending) {
            received.evaluated = Some(Box::pin(pending.evaluated()).await);
        }
    }

    fn try_place(
        &self,
        route: &Route,
        mut received: Received,
        mut reserved: Reservation,
    ) -> Result<Placed, NotNow> {
        let not_now = |failure, received, reserved| {
            Err(NotNow {
                received,
                reserved,
                failure,
            })
        };
        let ready = match &route.state {
            State::Ready(ready) => ready,
            State::Disabled => return Ok(Placed::Done(failed(route, Failure::DisabledSource))),
            State::NoEnabledSink => return Ok(Placed::Done(failed(route, Failure::NoEnabledSink))),
            State::Broken => return Ok(Placed::Done(failed(route, Failure::Internal))),
            State::NoSlice => return not_now(Failure::NoSlice, received, reserved),
        };
        let turn = received.key.as_ref();
        let volume = match turn.map(|turn| turn.claim().key) {
            None => choose(&ready.volumes).ok_or(Failure::NoSlice),
            Some(key) => owner_of(route, ready, key).ok_or(Failure::KeyOwnerAway),
        };
        let volume = match volume {
            Ok(volume) => volume,
            Err(failure) => return not_now(failure, received, reserved),
        };
        received.prepare_for(&ready.plan);
        self.mapper.map(&ready.plan, received, |received, mapped| {
            if mapped.is_empty() && !keeps_any(volume, &mapped.rejections) {
                let unkept = mapped.rejections.len() as u64;
                self.metrics.rejects.unkept.inc_by(unkept);
                let rejections = std::mem::take(&mut mapped.rejections);
                let durability = volume.weakest();
                return Ok(Placed::Done(done(route, ready, durability, rejections)));
            }
            if !reserved.grow(mapped.bytes()) {
                return Ok(Placed::Done(failed(route, Failure::Overloaded)));
            }
            self.append(route, ready, volume, received, mapped, reserved)
        })
    }

    /// Adds a mapped record to the batch of a volume.
    fn append(
        &self,
        route: &Route,
        ready: &Ready,
        volume: &VolumeRoute,
        received: Received,
        mapped: &mut Mapped,
        reserved: Reservation,
    ) -> Result<Placed, NotNow> {
        let body = received.record.body.len() as u64;
        // If nobody waits for the outcome, the refusals are needed here and in the batch.
        let at = received.record.received_at;
        let key = received.key.as_ref();
        let key = key.map(|turn| waiting_key(route, ready, turn, volume, at));
        let (answering, refusals) = match volume.strongest() {
            // Whether a key is known is told by the volume.
            Durability::Memory if key.is_none() => (Answering::AtOnce, mapped.rejections.clone()),
            _ => (Answering::ByOutcome, Vec::new()),
        };
        let (plan, now) = (&ready.plan, Instant::now());
        let ticket = volume
            .lane
            .append(plan, received, mapped, reserved, answering, now)
            .map_err(|Ended(received, reserved)| NotNow {
                received,
                reserved,
                failure: Failure::Shutdown,
            })?;
        self.metrics.records.inc();
        self.metrics.bytes.inc_by(body);
        Ok(match answering {
            Answering::ByOutcome => Placed::Waiting(route.source.clone(), ticket, key),
            Answering::AtOnce => Placed::Done(done(route, ready, Durability::Memory, refusals)),
        })
    }
}

/// Whether a record that all sinks refuse can be kept for one of them.
fn keeps_any(volume: &VolumeRoute, rejections: &[Rejection]) -> bool {
    let mut outlets = rejections.iter().map(|one| Outlet::Rejects(one.sink));
    outlets.any(|outlet| volume.target(outlet).is_some())
}

/// The volume that decides about a key, when the source can be written there now.
pub(crate) fn owner_of<'a>(
    route: &Route,
    ready: &'a Ready,
    key: KeyHash,
) -> Option<&'a VolumeRoute> {
    let owner = ready.keys.owner(&route.source, key)?;
    ready.volumes.iter().find(|volume| volume.volume == owner)
}

pub(crate) fn waiting_key(
    route: &Route,
    ready: &Ready,
    turn: &Turn,
    volume: &VolumeRoute,
    at: Timestamp,
) -> WaitingKey {
    let claim = turn.claim();
    WaitingKey {
        owned_for: ready.keys.owned_for(&route.source, claim.key, at),
        body: claim.body,
        memory: turn.memory(),
        weakest: volume.weakest(),
        lane: volume.lane.clone(),
    }
}

pub(crate) fn done(
    route: &Route,
    ready: &Ready,
    durability: Durability,
    rejections: Vec<Rejection>,
) -> Report {
    Report {
        source: route.source.clone(),
        written: Ok(durability),
        plan: Some(Arc::clone(&ready.plan)),
        rejections,
        position: None,
        kept: None,
        key: None,
    }
}

pub(crate) fn failed(route: &Route, failure: Failure) -> Report {
    Report {
        source: route.source.clone(),
        written: Err(failure),
        plan: None,
        rejections: Vec::new(),
        position: None,
        kept: None,
        key: None,
    }
}

/// Waits for the outcomes of a record in all its sources.
pub(crate) async fn reports(placed: Vec<Placed>) -> Vec<Report> {
    let mut reports = Vec::with_capacity(placed.len());
    for placed in placed {
        reports.push(report(placed).await);
    }
    reports.sort_by(|a, b| a.source.cmp(&b.source));
    reports
}

/// Waits for the outcome of a record.
async fn report(placed: Placed) -> Report {
    let (source, ticket, key) = match placed {
        Placed::Done(report) => return report,
        Placed::Waiting(source, ticket, key) => (source, ticket, key),
    };
    let outcome = ticket.outcome().await;
    let rejections = ticket.rejections(outcome);
    let report = Report {
        source,
        written: outcome.written,
        plan: Some(Arc::clone(&outcome.plan)),
        rejections: rejections.to_vec(),
        position: outcome.positions.of(&outcome.plan, rejections),
        kept: outcome.positions.of_rejected(&outcome.plan, rejections),
        key: None,
    };
    match key {
        None => report,
        Some(key) => key.judge(report),
    }
}
