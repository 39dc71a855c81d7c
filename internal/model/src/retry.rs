//! Repeated failures of one piece of work, and when to try again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The longest pause between two tries.
pub const MAX_PAUSE: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A failure that will be tried again. Nothing is ever given up: the pause stops growing, the tries do not stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How often it failed, from 1.
    pub attempt: u32,
    /// Why it failed last.
    pub reason: String,
    /// When it failed first.
    pub first_failed_at: Timestamp,
    /// When it failed last.
    pub last_failed_at: Timestamp,
    /// Not tried again before.
    pub after: Timestamp,
}

impl Retry {
    /// The next state after a failure at `now`: pauses of 1 s, 2 s, 4 s … up to [`MAX_PAUSE`].
    #[must_use]
    pub fn next(previous: Option<&Self>, reason: String, now: Timestamp) -> Self {
        let attempt = previous.map_or(1, |retry| retry.attempt.saturating_add(1));
        let pause = FIRST_PAUSE
            .saturating_mul(1 << (attempt - 1).min(16))
            .min(MAX_PAUSE);
        Self {
            attempt,
            reason,
            first_failed_at: previous.map_or(now, |retry| retry.first_failed_at),
            last_failed_at: now,
            after: now + pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_doubles_up_to_the_limit() {
        let now = Timestamp::from_millis(0);
        let mut retry = None;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let next = Retry::next(retry.as_ref(), "away".to_owned(), now);
            pauses.push(next.after.since(now).as_secs());
            retry = Some(next);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    }
}
