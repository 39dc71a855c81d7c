//! How often a mapping has exceeded its limits of late, and whether it has to rest for it.
//!
//! A few overruns are forgiven: they refuse their own records and cost little. What goes on costs an evaluator each time, so
//! the mapping rests, each time twice as long. Its records are not evaluated then and not refused for good either.

use std::time::Duration;

use tokio::time::Instant;

/// Overruns in a row that are forgiven.
const FORGIVEN: f64 = 3.0;
/// How long it takes to forget one.
const FORGET_ONE: Duration = Duration::from_secs(10);
/// The first rest; it doubles.
const FIRST_REST: Duration = Duration::from_secs(1);
/// The longest rest.
const MAX_REST: Duration = Duration::from_secs(60);
/// After that time without an overrun the next rest is the first again.
const FORGET_ALL: Duration = Duration::from_secs(300);

/// What is remembered.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Overruns {
    level: f64,
    latest: Option<Instant>,
    rest: Option<Duration>,
    rests_until: Option<Instant>,
}

impl Overruns {
    /// Notes one. True: from now on it rests.
    pub fn note(&mut self, now: Instant) -> bool {
        if let Some(latest) = self.latest {
            let passed = now.saturating_duration_since(latest);
            self.level -= passed.as_secs_f64() / FORGET_ONE.as_secs_f64();
            if passed >= FORGET_ALL {
                self.rest = None;
            }
        }
        self.level = self.level.max(0.0) + 1.0;
        self.latest = Some(now);
        if self.level <= FORGIVEN {
            return false;
        }
        let rest = self
            .rest
            .map_or(FIRST_REST, |rest| (rest * 2).min(MAX_REST));
        self.rest = Some(rest);
        self.rests_until = Some(now + rest);
        true
    }

    /// Whether it rests.
    pub fn is_resting(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// Whether there is nothing to remember any more.
    pub fn is_forgotten(&self, now: Instant) -> bool {
        self.latest
            .is_none_or(|latest| now.saturating_duration_since(latest) >= FORGET_ALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_forgiven_and_more_cost_a_longer_rest_each() {
        let mut now = Instant::now();
        let mut overruns = Overruns::default();
        assert!(overruns.is_forgotten(now));
        for _ in 0..3 {
            assert!(!overruns.note(now));
        }
        assert!(!overruns.is_resting(now));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert!(overruns.note(now), "{seconds}");
            let rest = Duration::from_secs(seconds);
            assert!(overruns.is_resting(now + rest - Duration::from_millis(1)));
            assert!(!overruns.is_resting(now + rest));
            assert!(!overruns.is_forgotten(now));
        }
        now += FORGET_ALL;
        assert!(overruns.is_forgotten(now));
        assert!(!overruns.note(now), "the level has sunk");
        for _ in 0..3 {
            overruns.note(now);
        }
        assert!(
            !overruns.is_resting(now + FIRST_REST),
            "the first rest again"
        );
    }

    #[test]
    fn one_in_ten_seconds_never_rests() {
        let mut now = Instant::now();
        let mut overruns = Overruns::default();
        for _ in 0..100 {
            assert!(!overruns.note(now));
            now += FORGET_ONE;
        }
    }
}
