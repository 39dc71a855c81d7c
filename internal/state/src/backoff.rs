//! Pauses between tries to get back to etcd, and saying once that it is away and once that it is back.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(3);

/// Consecutive failures of one thing that needs etcd.
#[derive(Debug)]
pub(crate) struct Contact {
    what: &'static str,
    failures: u32,
}

impl Contact {
    pub(crate) const fn new(what: &'static str) -> Self {
        Self { what, failures: 0 }
    }

    /// Notes a success.
    pub(crate) fn works(&mut self) {
        if self.failures > 0 {
            tracing::info!(
                what = self.what,
                failures = self.failures,
                "state store is back"
            );
            self.failures = 0;
        }
    }

    /// Notes a failure and waits before the next try: longer each time, and by chance, so that not all processes come back
    /// in the same instant.
    pub(crate) async fn failed(&mut self, error: &crate::StateError) {
        if self.failures == 0 {
            tracing::warn!(what = self.what, %error, "state store lost");
        } else {
            tracing::debug!(what = self.what, %error, failures = self.failures, "state store still away");
        }
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(pause(self.failures, rand::random_range(0.5..=1.0))).await;
    }
}

fn pause(failures: u32, chance: f64) -> Duration {
    FIRST
        .saturating_mul(1 << failures.saturating_sub(1).min(10))
        .min(LONGEST)
        .mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        assert_eq!(pause(1, 1.0), FIRST);
        assert_eq!(pause(2, 1.0), FIRST * 2);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST);
        assert_eq!(pause(u32::MAX, 0.5), LONGEST / 2);
    }
}
