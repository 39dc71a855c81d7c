//! A journal that waits for its disk to work again.
//!
//! After a write that failed the journal goes on in a new segment, and whatever it tries there costs another one when it
//! fails too. So it tries nothing but a probe, at first after a second, then after longer and longer pauses.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// The longest pause between two probes, in ticks of the flush thread, which are seconds.
const MAX_PAUSE: u32 = 60;

/// Whether the journal waits, and for how long.
#[derive(Debug, Default)]
pub(super) struct Suspension {
    on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    reason: String,
    /// Ticks between the last failure and the next probe.
    pause: u32,
    /// Ticks until then.
    left: u32,
}

impl Suspension {
    /// Whether the journal waits.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Why, if it does.
    pub fn reason(&self) -> Option<String> {
        self.is_on().then(|| self.state.lock().reason.clone())
    }

    /// Notes a failure. Returns whether the journal did not wait before.
    pub fn begin(&self, reason: String) -> bool {
        let mut state = self.state.lock();
        let begins = !self.on.swap(true, Ordering::AcqRel);
        state.pause = if begins {
            1
        } else {
            (state.pause * 2).min(MAX_PAUSE)
        };
        state.left = state.pause;
        state.reason = reason;
        begins
    }

    /// The disk works again.
    pub fn end(&self) {
        self.on.store(false, Ordering::Release);
    }

    /// Notes that a second has passed. Returns whether it is time for a probe.
    pub fn tick(&self) -> bool {
        if !self.is_on() {
            return false;
        }
        let mut state = self.state.lock();
        state.left = state.left.saturating_sub(1);
        state.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks until the next probe.
    fn ticks(suspension: &Suspension) -> u32 {
        (1..).find(|_| suspension.tick()).expect("some day")
    }

    #[test]
    fn probes_become_rarer_and_start_anew_after_a_success() {
        let suspension = Suspension::default();
        assert!(!suspension.tick() && suspension.reason().is_none());
        assert!(suspension.begin("first".to_owned()));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.push(ticks(&suspension));
            assert!(!suspension.begin("again".to_owned()));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(suspension.reason().as_deref(), Some("again"));
        suspension.end();
        assert!(!suspension.is_on());
        assert!(suspension.begin("later".to_owned()));
        assert_eq!(ticks(&suspension), 1);
    }
}
