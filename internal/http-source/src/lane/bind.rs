//! Binding a batch: to which slices, mapped how, with which numbers; and where it goes when it cannot be bound here.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use stream_model::SliceId;
use stream_storage::wire::Opened;
use tokio::time::Instant;
use tracing::{debug, error};

use super::owner::{MAX_ASKING, MAX_PAUSE, Owner, Suspect};
use crate::batch::{Bound, Gathered, InFlight};
use crate::completion::Failure;
use crate::frames::offload;
use crate::link::Linked;
use crate::route::{Plan, Ready, Route, State, Target, VolumeRoute};
use crate::templates::Pending;

/// Why a batch was not bound.
pub(super) enum Obstacle {
    /// It may be tried again later.
    Later(Gathered),
    /// It has been answered, or given to another lane.
    Settled,
}

impl Owner {
    /// Binds a batch to the slices of this moment.
    pub(super) async fn bind(&mut self, batch: Gathered) -> Result<(Bound, Linked), Obstacle> {
        // What the directory says from here on is news when it changes after this.
        self.news.mark_unchanged();
        let route = self.around.directory.route(&self.source);
        let (batch, ready) = self.find_ready(batch, route.as_deref())?;
        let here = ready
            .volumes
            .iter()
            .find(|volume| volume.volume == self.link.volume());
        let Some(here) = here else {
            return Err(self.move_away(batch, &ready.volumes));
        };
        let mut batch = self.map_if_changed(batch, ready).await?;
        let unkept = batch.give_up_rejects(here);
        self.around.metrics.rejects.unkept.inc_by(unkept);
        if batch.is_empty() {
            self.lane.recycle(batch.finish_empty(here.weakest()));
            return Err(Obstacle::Settled);
        }
        let targets = batch.targets(here);
        self.forget_unused(here);
        let (batch, link) = self.open_slices(batch, &targets).await?;
        let all = here.clone();
        let packed = offload(batch.raw_bytes(), move || batch.compress(&all)).await;
        match packed {
            Some(Ok(packed)) => {
                let numbers = &mut self.numbers;
                let next = |slice| {
                    let number = numbers.get_mut(&slice).expect("every target was opened");
                    *number += 1;
                    *number - 1
                };
                Ok((packed.bind(next), link))
            }
            Some(Err((batch, reason))) => {
                error!(source = %self.source, %reason, "cannot compress a batch");
                self.fail(batch, Failure::Internal);
                Err(Obstacle::Settled)
            }
            // The batch has answered its requests when it was dropped by the panic.
            None => Err(Obstacle::Settled),
        }
    }

    /// Passes a batch on when the route can take it; otherwise it is answered or has to wait.
    fn find_ready<'a>(
        &mut self,
        batch: Gathered,
        route: Option<&'a Route>,
    ) -> Result<(Gathered, &'a Ready), Obstacle> {
        let failure = match route.map(|route| &route.state) {
            Some(State::Ready(ready)) => return Ok((batch, ready)),
            Some(State::NoSlice | State::Broken) => return Err(self.hold_on(batch)),
            Some(State::Disabled) => Failure::DisabledSource,
            Some(State::NoEnabledSink) => Failure::NoEnabledSink,
            None => Failure::NoSource,
        };
        self.fail(batch, failure);
        Err(Obstacle::Settled)
    }

    /// Maps the records of a batch again when the mapping has changed since.
    async fn map_if_changed(
        &mut self,
        batch: Gathered,
        ready: &Ready,
    ) -> Result<Gathered, Obstacle> {
        let plan = Arc::clone(&ready.plan);
        let is_same = Arc::ptr_eq(batch.plan(), &plan) || batch.plan().makes_same_rows_as(&plan);
        if is_same && !batch.must_map() {
            return Ok(batch);
        }
        debug!(source = %self.source, records = batch.records(), "mapping a batch again");
        let batch = if plan.has_templates() {
            self.evaluate_again(batch, &plan).await?
        } else {
            batch
        };
        let mapper = Arc::clone(&self.around.mapper);
        let mapped = offload(batch.raw_bytes(), move || batch.map_again(&plan, &mapper)).await;
        mapped.ok_or(Obstacle::Settled)
    }

    /// Has the templates of a plan evaluated for the records of a batch.
    async fn evaluate_again(
        &mut self,
        mut batch: Gathered,
        plan: &Arc<Plan>,
    ) -> Result<Gathered, Obstacle> {
        batch.prepare_for(plan);
        let evaluators = &self.around.evaluators;
        let received = batch.received().iter();
        let pending = received.map(|received| evaluators.submit(&self.source, plan, received));
        let evaluated = join_all(pending.map(Pending::evaluated).collect::<Vec<_>>());
        let evaluated = self.meanwhile(batch.deadline(), evaluated).await;
        let evaluated = evaluated.ok_or(Failure::TemplatesBusy).and_then(|all| {
            let mut failures = all.iter().filter_map(|one| one.failure(plan));
            failures.next().map_or(Ok(all), Err)
        });
        match evaluated {
            Ok(evaluated) => {
                batch.set_evaluated(evaluated);
                Ok(batch)
            }
            // Nobody is there any more to send these records again.
            Err(_) if batch.acknowledged() > 0 && batch.deadline() > Instant::now() => {
                Err(self.hold_on(batch))
            }
            Err(failure) => {
                self.fail(batch, failure);
                Err(Obstacle::Settled)
            }
        }
    }

    /// Makes sure that the next number in each slice is known.
    async fn open_slices(
        &mut self,
        batch: Gathered,
        targets: &[Target],
    ) -> Result<(Gathered, Linked), Obstacle> {
        let slices = targets.iter().map(|target| target.slice);
        if slices.clone().any(|slice| self.sealed.contains(&slice)) {
            // The mirror has not shown the successor yet.
            return Err(self.hold_on(batch));
        }
        let limit = batch.deadline().min(Instant::now() + MAX_ASKING);
        let link = Arc::clone(&self.link);
        let link = match self
            .meanwhile(limit, async move { link.connection().await })
            .await
        {
            Some(Ok(link)) => link,
            Some(Err(reason)) => {
                debug!(source = %self.source, %reason, "cannot connect");
                return Err(self.leave_or_wait(batch));
            }
            None => return Err(self.leave_or_wait(batch)),
        };
        let unopened: Vec<_> = slices
            .filter(|slice| !self.numbers.contains_key(slice))
            .collect();
        if unopened.is_empty() {
            return Ok((batch, link));
        }
        let asked = link.connection.open(unopened.clone());
        let Some(Ok(opened)) = self.meanwhile(limit, asked).await else {
            self.link.lose(link.generation);
            return Err(self.leave_or_wait(batch));
        };
        for slice in unopened {
            match opened.get(&slice) {
                Some(Opened::Last(last)) => drop(self.numbers.insert(slice, last + 1)),
                Some(Opened::Sealed(_)) => drop(self.sealed.insert(slice)),
                Some(Opened::UnknownSlice) | None => {}
            }
        }
        if targets
            .iter()
            .all(|target| self.numbers.contains_key(&target.slice))
        {
            return Ok((batch, link));
        }
        Err(self.hold_on(batch))
    }

    /// Numbers and seals of slices that are used no more. Safe to forget: a slice that is used again is opened again.
    fn forget_unused(&mut self, here: &VolumeRoute) {
        let is_target = |slice: &SliceId| {
            let mut targets = here.targets.iter().chain(here.rejects.iter().flatten());
            targets.any(|target| target.slice == *slice)
        };
        let in_flight: BTreeSet<_> = self
            .flight
            .iter()
            .flat_map(InFlight::places)
            .map(|place| place.slice)
            .collect();
        self.numbers
            .retain(|slice, _| is_target(slice) || in_flight.contains(slice));
        self.sealed.retain(is_target);
    }

    /// Lets a batch wait for news, at most for the present pause.
    fn hold_on(&mut self, batch: Gathered) -> Obstacle {
        self.hold = Some(Instant::now() + self.next_pause());
        Obstacle::Later(batch)
    }

    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(MAX_PAUSE);
        pause
    }

    /// The source is no longer written to this volume: another lane takes the batch.
    fn move_away(&mut self, batch: Gathered, volumes: &[VolumeRoute]) -> Obstacle {
        if batch.is_keyed() {
            // Only this volume knows the keys, if it comes back.
            self.fail(batch, Failure::VolumeUnavailable);
            return Obstacle::Settled;
        }
        let Some(other) = crate::balance::choose(volumes) else {
            return self.hold_on(batch);
        };
        match other.lane.adopt(batch) {
            Ok(()) => Obstacle::Settled,
            Err(batch) => self.hold_on(batch),
        }
    }

    /// The volume cannot be reached: another lane takes the batch, or it waits.
    fn leave_or_wait(&mut self, batch: Gathered) -> Obstacle {
        self.lane.rest();
        match self.hand_over(batch) {
            Ok(()) => Obstacle::Settled,
            Err(batch) => self.hold_on(batch),
        }
    }

    /// While this volume cannot be reached, what it certainly does not hold goes to others: nobody should wait for what
    /// became of somebody else's records.
    pub(super) fn pass_on(&mut self) {
        if !self.lane.is_resting() {
            return;
        }
        for suspect in std::mem::take(&mut self.suspects) {
            let kept = match suspect {
                Suspect::Unwritten(batch) => self.hand_over(batch).err().map(Suspect::Unwritten),
                unknown @ Suspect::Unknown(_) => Some(unknown),
            };
            self.suspects.extend(kept);
        }
        let mut kept = VecDeque::new();
        while let Some(batch) = self.queue.pop_front().or_else(|| self.lane.take(0)) {
            if let Err(batch) = self.hand_over(batch) {
                let is_keyed = batch.is_keyed();
                kept.push_back(batch);
                // What has keys waits here; what has none and is not taken elsewhere says that nothing is.
                if !is_keyed {
                    break;
                }
            }
        }
        kept.append(&mut self.queue);
        self.queue = kept;
    }

    /// Gives a batch to the lane of another volume that is not resting as well. What is certainly unwritten may go
    /// anywhere.
    pub(super) fn hand_over(&mut self, batch: Gathered) -> Result<(), Gathered> {
        if batch.is_keyed() {
            return Err(batch);
        }
        let Some(route) = self.around.directory.route(&self.source) else {
            return Err(batch);
        };
        let State::Ready(ready) = &route.state else {
            return Err(batch);
        };
        let others: Vec<_> = ready
            .volumes
            .iter()
            .filter(|other| !other.lane.is(&self.lane) && !other.lane.is_resting())
            .cloned()
            .collect();
        match crate::balance::choose(&others) {
            Some(other) => other.lane.adopt(batch),
            None => Err(batch),
        }
    }
}
