//! What happens to a certain call of a certain person: the first, the second, the third … one.
//!
//! Calls with tokens that a person has made count as that person's; those that only ask who somebody is do not count.

use std::collections::BTreeMap;

use crate::call::Call;
use crate::fault::Fault;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// It fails.
    Once(Fault),
    /// It fails, and so do all that follow.
    FromThen(Fault),
    /// It has no effect, and is never answered.
    HoldBefore,
    /// It has its effect, and is never answered.
    HoldAfter,
}

/// A trap that is set.
#[derive(Debug)]
struct Set {
    trap: Trap,
    at: usize,
    calls: usize,
}

/// The traps by the tokens of persons.
#[derive(Debug, Default)]
pub(crate) struct Traps(BTreeMap<String, Set>);

impl Traps {
    pub(crate) fn set(&mut self, person: &str, at: usize, trap: Trap) {
        let calls = 0;
        self.0.insert(person.to_owned(), Set { trap, at, calls });
    }

    pub(crate) fn remove(&mut self, person: &str) {
        self.0.remove(person);
    }

    pub(crate) fn is_sprung(&self, person: &str) -> bool {
        self.0.get(person).is_some_and(|set| set.calls >= set.at)
    }

    /// Counts a call of a person.
    pub(crate) fn spring(&mut self, person: &str, call: &Call) -> Option<Trap> {
        if call.path == "tokens/verify" || call.path == "dev-branches" {
            return None;
        }
        let set = self.0.get_mut(person)?;
        set.calls += 1;
        let is_due = match set.trap {
            Trap::FromThen(_) => set.calls >= set.at,
            Trap::Once(_) | Trap::HoldBefore | Trap::HoldAfter => set.calls == set.at,
        };
        is_due.then_some(set.trap)
    }
}
