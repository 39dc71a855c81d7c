//! A token bucket in one number: how much may pass in a second, with a burst of one second.
//!
//! The number is the time at which the bucket is full again. Taking moves it on by as long as the bucket needs to get that
//! much back; as long as it is at most a second ahead, there is something left. Without a lock and without a timer, and a
//! new rate needs no conversion.
//!
//! What is more than a whole second's worth passes when the bucket is full, and leaves a debt that has to be paid off before
//! anything else passes: the rate holds in the long run, and no request is too large for ever.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What a full bucket holds, in nanoseconds of its rate.
const BURST: u64 = 1_000_000_000;

/// The bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    origin: Instant,
    /// Nanoseconds after `origin`.
    full_at: AtomicU64,
}

impl Bucket {
    /// A full bucket.
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            full_at: AtomicU64::new(0),
        }
    }

    /// Takes `amount` at this rate in a second.
    ///
    /// # Errors
    /// How long it takes until there is enough. Nothing is taken then.
    pub fn take(&self, rate: NonZeroU64, amount: u64, now: Instant) -> Result<(), Duration> {
        let (now, cost) = (self.nanos(now), cost(rate, amount));
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let from = full_at.max(now);
            wait(from - now, cost)?;
            let next = from.saturating_add(cost);
            let swapped = self.full_at.compare_exchange_weak(
                full_at,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swapped {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    /// Whether `amount` could be taken, without taking it.
    ///
    /// # Errors
    /// As of [`Self::take`].
    pub fn check(&self, rate: NonZeroU64, amount: u64, now: Instant) -> Result<(), Duration> {
        let now = self.nanos(now);
        let from = self.full_at.load(Ordering::Relaxed).max(now);
        wait(from - now, cost(rate, amount))
    }

    /// Gives back what was taken for nothing.
    pub fn give_back(&self, rate: NonZeroU64, amount: u64) {
        let cost = cost(rate, amount);
        let earlier = |full_at: u64| Some(full_at.saturating_sub(cost));
        // It always succeeds: the closure never declines.
        let _ = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, earlier);
    }

    fn nanos(&self, now: Instant) -> u64 {
        let nanos = now.saturating_duration_since(self.origin).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

/// How long the bucket needs to get `amount` back, in nanoseconds.
fn cost(rate: NonZeroU64, amount: u64) -> u64 {
    let nanos = (u128::from(amount) * u128::from(BURST)).div_ceil(u128::from(rate.get()));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// Nothing when a bucket that is `behind` has `cost` left; else how long that takes.
fn wait(behind: u64, cost: u64) -> Result<(), Duration> {
    match behind.saturating_add(cost.min(BURST)).checked_sub(BURST) {
        None | Some(0) => Ok(()),
        Some(missing) => Err(Duration::from_nanos(missing)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(rate: u64) -> NonZeroU64 {
        NonZeroU64::new(rate).expect("not zero")
    }

    #[test]
    fn a_second_may_come_at_once_and_then_it_takes_its_time() {
        let bucket = Bucket::new();
        let start = bucket.origin;
        for _ in 0..10 {
            assert_eq!(bucket.take(rate(10), 1, start), Ok(()));
        }
        let tenth = Duration::from_millis(100);
        assert_eq!(bucket.check(rate(10), 1, start), Err(tenth));
        assert_eq!(bucket.take(rate(10), 1, start), Err(tenth));
        assert_eq!(bucket.take(rate(10), 3, start), Err(3 * tenth));
        assert_eq!(bucket.take(rate(10), 1, start + tenth), Ok(()));
        assert_eq!(bucket.take(rate(10), 1, start + tenth), Err(tenth));
        // A pause does not fill it with more than a second.
        let later = start + Duration::from_secs(100);
        assert_eq!(bucket.take(rate(10), 10, later), Ok(()));
        assert_eq!(bucket.take(rate(10), 1, later), Err(tenth));
        bucket.give_back(rate(10), 1);
        assert_eq!(bucket.take(rate(10), 1, later), Ok(()));
    }

    #[test]
    fn more_than_a_second_passes_when_it_is_full_and_is_paid_off() {
        let bucket = Bucket::new();
        let start = bucket.origin;
        assert_eq!(bucket.take(rate(10), 50, start), Ok(()));
        let debt = Duration::from_millis(4100);
        assert_eq!(bucket.take(rate(10), 1, start), Err(debt));
        assert_eq!(bucket.take(rate(10), 1, start + debt), Ok(()));
        let full = start + Duration::from_millis(5100);
        let almost = full - Duration::from_millis(1);
        assert!(bucket.check(rate(10), 50, almost).is_err());
        assert_eq!(bucket.take(rate(10), 50, full), Ok(()));
    }

    #[test]
    fn extreme_rates_do_not_overflow() {
        let bucket = Bucket::new();
        let now = bucket.origin;
        assert_eq!(bucket.take(rate(u64::MAX), u64::MAX, now), Ok(()));
        assert_eq!(
            bucket.take(rate(1), u64::MAX, now + Duration::from_secs(9)),
            Ok(())
        );
        assert!(
            bucket
                .take(rate(1), 1, now + Duration::from_secs(99))
                .is_err()
        );
        bucket.give_back(rate(1), u64::MAX);
        assert!(
            bucket
                .take(rate(1), 1, now + Duration::from_secs(99))
                .is_ok()
        );
    }

    proptest! {
        /// In any stretch of time no more passes than the rate allows, a burst, and one request that was too large for it;
        /// and whoever waits as long as he is told gets through.
        #[test]
        fn the_rate_holds(
            per_second in 1..5_000_u64,
            asked in proptest::collection::vec((0..300_u64, 1..800_u64), 1..200),
        ) {
            let bucket = Bucket::new();
            let mut now = bucket.origin;
            let (mut passed, mut largest) = (0, 0);
            for (pause, amount) in asked {
                now += Duration::from_millis(pause);
                match bucket.take(rate(per_second), amount, now) {
                    Ok(()) => {
                        passed += amount;
                        largest = largest.max(amount);
                    }
                    Err(wait) => {
                        prop_assert!(wait > Duration::ZERO);
                        prop_assert!(bucket.check(rate(per_second), amount, now + wait).is_ok());
                    }
                }
                let elapsed = now.duration_since(bucket.origin).as_secs_f64();
                #[allow(clippy::cast_precision_loss, reason = "small numbers")]
                let most = (elapsed + 1.0) * per_second as f64 + largest.saturating_sub(per_second) as f64;
                #[allow(clippy::cast_precision_loss, reason = "small numbers")]
                let passed = passed as f64;
                prop_assert!(passed <= most + 1e-6 * most, "{} of {}", passed, most);
            }
        }
    }
}
