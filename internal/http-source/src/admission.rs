//! Admission by bytes: what is accepted must fit into memory until it is answered.
//!
//! One budget for the whole process. A request takes its share before its body is read and the batch gives it back when
//! the outcome is known, so a slow disk fills the budget and new requests are refused at once, whoever sends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Charged for each record beside its body: what the record itself, its place in the batch and its connection take.
pub(crate) const RECORD_OVERHEAD: usize = 512;

/// The budget.
#[derive(Debug, Clone)]
pub(crate) struct Admission(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// A share of the budget. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping a reservation gives it back"]
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Admission {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Budget {
            limit,
            used: AtomicUsize::new(0),
        }))
    }

    /// Takes `bytes`, or nothing when they do not fit.
    pub fn reserve(&self, bytes: usize) -> Option<Reservation> {
        let mut reservation = Reservation {
            budget: Arc::clone(&self.0),
            bytes: 0,
        };
        reservation.grow(bytes).then_some(reservation)
    }

    /// Bytes taken.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }
}

impl Reservation {
    /// Takes `bytes` more. False: they do not fit, and nothing has changed.
    pub fn grow(&mut self, bytes: usize) -> bool {
        // Added first and taken back when too much: two requests may refuse each other at the very limit, none gets over it.
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.budget.limit {
            self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.bytes += bytes;
        true
    }

    /// Hands out all that it holds, the first time; nothing afterwards. For work that is split and counted once.
    pub fn share(&mut self) -> Self {
        Self {
            budget: Arc::clone(&self.budget),
            bytes: std::mem::take(&mut self.bytes),
        }
    }

    /// Hands out `bytes` of what it holds, or all if that is less.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            budget: Arc::clone(&self.budget),
            bytes,
        }
    }

    /// Takes over what `other` holds.
    pub fn absorb(&mut self, mut other: Self) {
        debug_assert!(
            Arc::ptr_eq(&self.budget, &other.budget),
            "one budget per process"
        );
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_beyond_the_limit_and_takes_back_what_was_dropped() {
        let admission = Admission::new(100);
        let mut first = admission.reserve(60).expect("fits");
        assert!(admission.reserve(41).is_none());
        assert!(!first.grow(41));
        assert_eq!(admission.used(), 60);
        let second = admission.reserve(40).expect("fits exactly");
        first.absorb(second);
        assert_eq!(admission.used(), 100);
        drop(first.split(30));
        assert_eq!(admission.used(), 70);
        drop((first.split(100), first.split(1)));
        assert_eq!(admission.used(), 0);
        drop(first);
        assert_eq!(admission.used(), 0);
    }
}
