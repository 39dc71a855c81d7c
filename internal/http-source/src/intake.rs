//! What a process knows of one source beside its route, for as long as the source lives: how much of its rate is used up,
//! what it holds of the budgets, and what is counted of it.
//!
//! Made once per source and looked up with it, so that a request finds everything without another search. Routes come and
//! go; this stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use stream_model::rate::RateLimit;
use tokio::time::Instant;

use crate::admission::{Account, Admission, Purse, Reservation};
use crate::bucket::Bucket;
use crate::source_metrics::SourceMetrics;

/// The budgets of the process.
#[derive(Debug, Clone)]
pub(crate) struct Budgets {
    /// Bytes of requests that are not answered yet.
    pub bytes: Admission,
    /// Requests that are not answered yet.
    pub requests: Admission,
    /// The most requests of one source that are not answered yet.
    pub requests_of_source: usize,
}

impl Budgets {
    /// Budgets of so many bytes and requests, of which a source gets its share of both and no more than
    /// `requests_of_source`.
    pub fn new(bytes: usize, requests: usize, requests_of_source: usize) -> Self {
        Self {
            bytes: Admission::new(bytes),
            requests: Admission::new(requests),
            requests_of_source,
        }
    }
}

/// The intake of one source.
#[derive(Debug)]
pub(crate) struct Intake {
    limit: Limit,
    records: Bucket,
    bytes: Bucket,
    held_bytes: Arc<Account>,
    purse: ArcSwap<Purse>,
    requests: Arc<Purse>,
    /// What is counted.
    pub metrics: Arc<SourceMetrics>,
}

/// A request that is not answered yet.
#[derive(Debug)]
#[must_use = "dropping it says that the request is answered"]
pub(crate) struct InFlight {
    _share: Reservation,
    metrics: Arc<SourceMetrics>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
    }
}

/// The rate limit, as two numbers that are read without a lock; zero is none.
#[derive(Debug, Default)]
struct Limit {
    records: AtomicU64,
    bytes: AtomicU64,
}

impl Intake {
    /// The intake of a source that has taken nothing yet.
    pub fn new(budgets: &Budgets, metrics: Arc<SourceMetrics>) -> Self {
        let held_bytes = Account::new(usize::MAX);
        let held_requests = Account::new(budgets.requests_of_source);
        Self {
            limit: Limit::default(),
            records: Bucket::new(),
            bytes: Bucket::new(),
            purse: ArcSwap::new(budgets.bytes.purse(&held_bytes, None)),
            requests: budgets.requests.purse(&held_requests, None),
            held_bytes,
            metrics,
        }
    }

    /// Sets the rate.
    pub fn set_rate(&self, rate: RateLimit) {
        let store = |number: &AtomicU64, rate| number.store(rate, Ordering::Relaxed);
        store(&self.limit.records, rate.records_or_zero());
        store(&self.limit.bytes, rate.bytes_or_zero());
    }

    /// Sets the account of the volume that takes all rows of the source, if one does.
    pub fn set_volume(&self, budgets: &Budgets, volume: Option<Arc<Account>>) {
        self.purse
            .store(budgets.bytes.purse(&self.held_bytes, volume));
    }

    /// The purse for bytes.
    pub fn purse(&self) -> Arc<Purse> {
        self.purse.load_full()
    }

    /// Counts a request that begins, unless there are too many.
    pub fn begin(&self) -> Option<InFlight> {
        let share = self.requests.reserve(1)?;
        self.metrics.in_flight.inc();
        Some(InFlight {
            _share: share,
            metrics: Arc::clone(&self.metrics),
        })
    }

    fn rate(&self) -> RateLimit {
        let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
        RateLimit::new(load(&self.limit.records), load(&self.limit.bytes))
    }

    /// Counts records and bytes against the rate.
    ///
    /// # Errors
    /// How long it takes until they could pass. Nothing is counted then.
    fn take(&self, records: u64, bytes: u64, now: Instant) -> Result<(), Duration> {
        let rate = self.rate();
        if let Some(rate) = rate.records {
            self.records.take(rate, records, now)?;
        }
        let Some(per_second) = rate.bytes else {
            return Ok(());
        };
        let taken = self.bytes.take(per_second, bytes, now);
        if taken.is_err()
            && let Some(rate) = rate.records
        {
            self.records.give_back(rate, records);
        }
        taken
    }

    fn give_back(&self, records: u64, bytes: u64) {
        let rate = self.rate();
        if let Some(rate) = rate.records {
            self.records.give_back(rate, records);
        }
        if let Some(rate) = rate.bytes {
            self.bytes.give_back(rate, bytes);
        }
    }

    /// Whether a request of at least one record could pass.
    ///
    /// # Errors
    /// How long that takes.
    fn check(&self, now: Instant) -> Result<(), Duration> {
        let rate = self.rate();
        if let Some(rate) = rate.records {
            self.records.check(rate, 1, now)?;
        }
        match rate.bytes {
            Some(rate) => self.bytes.check(rate, 1, now),
            None => Ok(()),
        }
    }
}

/// A request beyond the rate of a source, and how long it should wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooFast(pub Duration);

impl TooFast {
    /// The wait in whole seconds, rounded up.
    pub fn seconds(self) -> u64 {
        let Self(wait) = self;
        (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
    }
}

/// What a request has counted against the rates of its sources: everything or, once it is refused, nothing.
#[derive(Debug, Default)]
pub(crate) struct Toll {
    records: u64,
    bytes: u64,
}

impl Toll {
    /// Whether a request with an unknown number of records has any chance.
    ///
    /// # Errors
    /// When it has none now.
    pub fn check<'a>(
        intakes: impl Iterator<Item = &'a Intake>,
        now: Instant,
    ) -> Result<(), TooFast> {
        for intake in intakes {
            intake.check(now).map_err(TooFast)?;
        }
        Ok(())
    }

    /// Counts more records and bytes of the request, for each of its sources.
    ///
    /// # Errors
    /// When one of them is beyond its rate. Nothing of the request is counted then, at none of them.
    pub fn pay<'a>(
        &mut self,
        intakes: impl Iterator<Item = &'a Intake> + Clone,
        records: u64,
        bytes: u64,
        now: Instant,
    ) -> Result<(), TooFast> {
        for (paid, intake) in intakes.clone().enumerate() {
            if let Err(wait) = intake.take(records, bytes, now) {
                let before = intakes.clone().take(paid);
                before.for_each(|intake| intake.give_back(records, bytes));
                let (records, bytes) = (self.records, self.bytes);
                intakes.for_each(|intake| intake.give_back(records, bytes));
                *self = Self::default();
                return Err(TooFast(wait));
            }
        }
        self.records += records;
        self.bytes += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::source_metrics::Families;

    fn intake(records: u64, bytes: u64) -> Intake {
        let budgets = Budgets::new(1 << 20, 100, 100);
        let families = Arc::new(Families::new(1).expect("valid names"));
        let intake = Intake::new(&budgets, families.of(1, "orders"));
        intake.set_rate(RateLimit::new(records, bytes));
        intake
    }

    /// How much of both is left.
    fn left(intake: &Intake, now: Instant) -> (u64, u64) {
        let of = |bucket: &Bucket, rate: Option<NonZeroU64>| {
            let rate = rate.expect("there is a limit");
            let has = |amount: &u64| bucket.check(rate, *amount, now).is_ok();
            (0..=rate.get()).rev().find(has).unwrap_or(0)
        };
        let rate = intake.rate();
        (
            of(&intake.records, rate.records),
            of(&intake.bytes, rate.bytes),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_counted_for_all_its_sources_or_for_none() {
        let now = Instant::now();
        let sources = [intake(100, 100), intake(100, 50)];
        let mut toll = Toll::default();
        assert_eq!(toll.pay(sources.iter(), 10, 40, now), Ok(()));
        assert_eq!(left(&sources[0], now), (90, 60));
        assert_eq!(left(&sources[1], now), (90, 10));
        // The second source has no bytes left: what the request has paid before comes back too, everywhere.
        let refused = toll.pay(sources.iter(), 5, 20, now);
        assert_eq!(refused, Err(TooFast(Duration::from_millis(200))));
        assert_eq!(left(&sources[0], now), (100, 100));
        assert_eq!(left(&sources[1], now), (100, 50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_counts_from_the_next_request_on() {
        let now = Instant::now();
        let source = intake(0, 0);
        let pay = |records| Toll::default().pay(std::iter::once(&source), records, 0, now);
        assert_eq!(pay(1_000_000), Ok(()));
        source.set_rate(RateLimit::new(2, 0));
        assert_eq!(pay(2), Ok(()));
        assert_eq!(pay(1), Err(TooFast(Duration::from_millis(500))));
        assert!(Toll::check(std::iter::once(&source), now).is_err());
        source.set_rate(RateLimit::new(0, 0));
        assert_eq!(pay(1), Ok(()));
    }

    #[test]
    fn waits_are_told_in_whole_seconds() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (99_500, 100)] {
            assert_eq!(TooFast(Duration::from_millis(millis)).seconds(), seconds);
        }
    }
}
