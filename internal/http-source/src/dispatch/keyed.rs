//! Records with an idempotency key: their turn, requests that are written as a whole, and what repetitions are told.

use std::sync::Arc;

use stream_storage::wire::Claim;
use tokio::time::{Instant, timeout};

use super::{
    Dispatcher, KeyReport, Placed, RECORDS_AT_ONCE, Report, WaitingKey, done, failed, owner_of,
    reports, waiting_key,
};
use crate::admission::Reservation;
use crate::completion::Failure;
use crate::key::Key;
use crate::mapper::Received;
use crate::route::{Plan, Ready, Route, State, VolumeRoute};
use crate::table::Entry;
use crate::turns::{Memory, Taken, Turn};

/// The most bytes of rows that a request with a key may come to: it is one batch, which a volume takes up to 256 MiB long.
const MAX_KEYED_BYTES: usize = 128 << 20;

/// The records of a request, and what was reserved for each.
type Records = Vec<(Received, Reservation)>;

impl Dispatcher {
    /// Gives a record the turn of its key, if it has one. A report: there is nothing to write.
    pub(super) async fn claim(
        &self,
        route: &Route,
        mut received: Received,
        key: Option<&Key>,
    ) -> Result<Received, Report> {
        let State::Ready(ready) = &route.state else {
            return Ok(received);
        };
        if received.key.is_some() {
            return Ok(received);
        }
        let own = match &ready.keys.path {
            Some(path) => Key::of_record(path, &received.record),
            None => key.cloned(),
        };
        let Some(own) = own else {
            if ready.keys.path.is_some() {
                self.metrics.unkeyed_records.inc();
            }
            return Ok(received);
        };
        let claim = own.claim(&route.source);
        match self.turn(claim).await {
            Ok(Taken::Turn(turn)) => {
                received.key = Some(turn);
                Ok(received)
            }
            Ok(Taken::Known(body)) => Err(self.repetition(route, ready, received, claim, body)),
            Err(failure) => Err(failed(route, failure)),
        }
    }

    async fn turn(&self, claim: Claim) -> Result<Taken, Failure> {
        let taken = timeout(self.request_timeout, self.turns.take(claim)).await;
        taken.map_err(|_| Failure::KeyBusy)
    }

    /// What is told of a key that was committed with `body`.
    fn repetition(
        &self,
        route: &Route,
        ready: &Ready,
        mut received: Received,
        claim: Claim,
        body: u64,
    ) -> Report {
        let Some(volume) = owner_of(route, ready, claim.key) else {
            return failed(route, Failure::KeyOwnerAway);
        };
        let at = received.record.received_at;
        let owned_for = ready.keys.owned_for(&route.source, claim.key, at);
        let key = KeyReport {
            window_seconds: window(volume.lane.key_window(), owned_for),
            is_repetition: body == claim.body,
        };
        self.metrics.repetitions.inc();
        if !key.is_repetition {
            let mut report = failed(route, Failure::KeyReused);
            report.key = Some(key);
            return report;
        }
        received.prepare_for(&ready.plan);
        let refusals = self.mapper.map(&ready.plan, received, |_, mapped| {
            std::mem::take(&mut mapped.rejections)
        });
        let mut report = done(route, ready, volume.weakest(), refusals);
        report.key = Some(key);
        report
    }

    /// Writes the records of a request with a key to sources, in each of them all together or none, and waits for the outcomes. Where
    /// records have keys of their own the one of the request does not count.
    ///
    /// # Cancel safety
    /// As [`Self::dispatch`].
    pub async fn dispatch_request(
        &self,
        sources: &[Arc<Entry>],
        records: Records,
        key: &Key,
    ) -> Vec<Vec<Report>> {
        let mut records = records;
        self.evaluate_all(sources, &mut records).await;
        let mut placed: Vec<Vec<Placed>> = records.iter().map(|_| Vec::new()).collect();
        for source in sources {
            let share = |(received, reserved): &mut (Received, Reservation)| {
                (received.clone(), reserved.share())
            };
            let own: Records = records.iter_mut().map(share).collect();
            let Some(of_source) = self.place_all(source, own, key).await else {
                continue;
            };
            for (placed, one) in placed.iter_mut().zip(of_source) {
                placed.push(one);
            }
        }
        let mut outcomes = Vec::with_capacity(placed.len());
        for of_record in placed {
            outcomes.push(reports(of_record).await);
        }
        outcomes
    }

    /// Brings all records of a request into one batch of a source. None: the source is gone.
    async fn place_all(&self, source: &Entry, records: Records, key: &Key) -> Option<Vec<Placed>> {
        let mut news = self.news.clone();
        let give_up = Instant::now() + self.max_wait;
        let route = loop {
            // Before the look, so that no change after it is missed.
            news.mark_unchanged();
            let route = source.route()?;
            let Some(failure) = not_ready(&route, key) else {
                break route;
            };
            let may_change = matches!(failure, Failure::NoSlice | Failure::KeyOwnerAway);
            let changed = tokio::time::timeout_at(give_up, news.changed());
            if !may_change || !matches!(changed.await, Ok(Ok(()))) {
                return Some(all_failed(&route, records.len(), failure));
            }
        };
        let State::Ready(ready) = &route.state else {
            return Some(all_failed(&route, records.len(), Failure::NoSlice));
        };
        if ready.keys.path.is_some() {
            return self.place_each(source, records).await;
        }
        let claim = key.claim(&route.source);
        match self.turn(claim).await {
            Err(failure) => Some(all_failed(&route, records.len(), failure)),
            Ok(Taken::Known(body)) => {
                let mut placed = Vec::with_capacity(records.len());
                for (mut received, mut reserved) in records {
                    let evaluated = self.evaluate(&route, &mut received, &mut reserved).await;
                    placed.push(Placed::Done(match evaluated {
                        Ok(()) => self.repetition(&route, ready, received, claim, body),
                        Err(failure) => failed(&route, failure),
                    }));
                }
                Some(placed)
            }
            Ok(Taken::Turn(turn)) => {
                let count = records.len();
                let placed = self.gather(&route, ready, records, &turn).await;
                Some(placed.unwrap_or_else(|failure| all_failed(&route, count, failure)))
            }
        }
    }

    /// As any batch: each record has a key of its own, or none.
    async fn place_each(&self, source: &Entry, records: Records) -> Option<Vec<Placed>> {
        let (mut placed, mut give_up) = (Vec::with_capacity(records.len()), None);
        for (number, (received, reserved)) in records.into_iter().enumerate() {
            if number % RECORDS_AT_ONCE == RECORDS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            placed.push(
                self.place(source, received, reserved, &mut give_up, None)
                    .await?,
            );
        }
        Some(placed)
    }

    /// Maps all records into a batch of their own and gives it to the lane.
    async fn gather(
        &self,
        route: &Route,
        ready: &Ready,
        records: Records,
        turn: &Arc<Turn>,
    ) -> Result<Vec<Placed>, Failure> {
        let volume = owner_of(route, ready, turn.claim().key).ok_or(Failure::KeyOwnerAway)?;
        let (plan, mut batch) = (&ready.plan, None);
        let mut placed = Vec::with_capacity(records.len());
        for (number, (mut received, mut reserved)) in records.into_iter().enumerate() {
            if number % RECORDS_AT_ONCE == RECORDS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            self.evaluate(route, &mut received, &mut reserved).await?;
            received.key = Some(Arc::clone(turn));
            let at = received.record.received_at;
            let ticket = self.gather_one(&mut batch, plan, volume, received, reserved)?;
            let key = Some(waiting_key(route, ready, turn, volume, at));
            placed.push(Placed::Waiting(route.source.clone(), ticket, key));
        }
        if let Some(batch) = batch {
            // A lane that has ended drops the batch, which answers that nothing is written.
            drop(volume.lane.adopt(batch.close()));
        }
        Ok(placed)
    }

    fn gather_one(
        &self,
        batch: &mut Option<crate::batch::Open>,
        plan: &Arc<Plan>,
        volume: &VolumeRoute,
        mut received: Received,
        mut reserved: Reservation,
    ) -> Result<crate::completion::Ticket, Failure> {
        received.prepare_for(plan);
        let body = received.record.body.len() as u64;
        let ticket = self.mapper.map(plan, received, |received, mapped| {
            if !reserved.grow(mapped.bytes()) {
                return Err(Failure::Overloaded);
            }
            let open = match batch {
                Some(open) => {
                    open.absorb(reserved);
                    open
                }
                None => batch.insert(volume.lane.batch_of_its_own(plan, reserved, Instant::now())),
            };
            let ticket = open.push(received, mapped);
            match open.raw_bytes() > MAX_KEYED_BYTES {
                true => Err(Failure::KeyedTooLarge),
                false => Ok(ticket),
            }
        })?;
        self.metrics.records.inc();
        self.metrics.bytes.inc_by(body);
        Ok(ticket)
    }
}

/// For how many seconds back keys are remembered: as the volume says, and not from before it decided about them.
fn window(of_volume: Option<u32>, owned_for: Option<u32>) -> Option<u32> {
    of_volume.map(|seconds| owned_for.map_or(seconds, |owned| owned.min(seconds)))
}

/// Why a request with a key cannot be placed now.
fn not_ready(route: &Route, key: &Key) -> Option<Failure> {
    match &route.state {
        State::Ready(ready) if ready.keys.path.is_some() => None,
        State::Ready(ready) => {
            let hash = key.claim(&route.source).key;
            owner_of(route, ready, hash)
                .is_none()
                .then_some(Failure::KeyOwnerAway)
        }
        State::Disabled => Some(Failure::DisabledSource),
        State::NoEnabledSink => Some(Failure::NoEnabledSink),
        State::Broken => Some(Failure::Internal),
        State::NoSlice => Some(Failure::NoSlice),
    }
}

fn all_failed(route: &Route, count: usize, failure: Failure) -> Vec<Placed> {
    (0..count)
        .map(|_| Placed::Done(failed(route, failure)))
        .collect()
}

impl WaitingKey {
    /// Says what became of a record with a key, now that its batch has an outcome.
    pub(super) fn judge(self, mut report: Report) -> Report {
        let mut key = KeyReport {
            window_seconds: window(self.lane.key_window(), self.owned_for),
            is_repetition: false,
        };
        if let Some(Memory::Known(body)) = self.memory.get() {
            key.is_repetition = *body == self.body;
            report.position = None;
            report.kept = None;
            if key.is_repetition {
                report.written = Ok(self.weakest);
            } else {
                report.written = Err(Failure::KeyReused);
                report.rejections.clear();
            }
        }
        report.key = Some(key);
        report
    }
}
