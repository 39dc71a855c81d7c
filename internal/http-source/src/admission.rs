//! Admission: what is accepted must fit into a budget until it is answered, and nobody may take all of it.
//!
//! There are two budgets for the whole process, one of bytes and one of requests. A request takes its share before its body
//! is read and gives it back when the outcome is known, so a slow disk fills the budget and new requests are refused at once.
//!
//! Whoever sends much, or writes to a volume that is slow, must leave room for others. What each source holds, and what all
//! sources of each volume hold, is counted in an [`Account`]; an account takes more only while that leaves free at least a
//! [`GREED`]th of what it holds then. One account alone comes to four fifths of the budget; however many want all of it,
//! something is left for the next one, which finds as much as they do. Nobody has to know how many there are
//! (`docs/adr/0013-shares-of-the-memory.md`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Charged for each record beside its body: what the record itself, its place in the batch and its connection take.
pub(crate) const RECORD_OVERHEAD: usize = 512;
/// An account holds at most so many times what is free.
const GREED: usize = 4;

/// A budget, of bytes or of requests.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    budget: Arc<Budget>,
    /// For what no source is charged with.
    nobody: Arc<Purse>,
}

#[derive(Debug)]
struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// What a source, or all sources of a volume, hold of a budget.
#[derive(Debug)]
pub(crate) struct Account {
    limit: usize,
    used: AtomicUsize,
}

impl Account {
    /// An account that may hold its share of the budget, and never more than `limit`.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// What it holds.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `amount` if the share that `free` leaves allows it.
    fn take(&self, amount: usize, free: usize) -> bool {
        let after = self.used.fetch_add(amount, Ordering::Relaxed) + amount;
        let allowed = self.allows(after, free);
        if !allowed {
            self.give_back(amount);
        }
        allowed
    }

    fn allows(&self, used: usize, free: usize) -> bool {
        used <= self.limit && used <= free.saturating_mul(GREED)
    }

    /// Takes what another account held.
    fn take_over(&self, amount: usize) {
        self.used.fetch_add(amount, Ordering::Relaxed);
    }

    fn give_back(&self, amount: usize) {
        self.used.fetch_sub(amount, Ordering::Relaxed);
    }
}

/// The budget and the accounts that one source draws on.
#[derive(Debug)]
pub(crate) struct Purse {
    budget: Arc<Budget>,
    accounts: [Option<Arc<Account>>; 2],
}

impl Purse {
    /// Takes `amount`, or nothing when it does not fit.
    pub fn reserve(self: &Arc<Self>, amount: usize) -> Option<Reservation> {
        self.take(amount).then(|| Reservation {
            purse: Arc::clone(self),
            amount,
        })
    }

    fn accounts(&self) -> impl Iterator<Item = &Arc<Account>> {
        self.accounts.iter().flatten()
    }

    fn take(&self, amount: usize) -> bool {
        // Added first and taken back when too much: two requests may refuse each other at the very limit, none gets over it.
        let before = self.budget.used.fetch_add(amount, Ordering::Relaxed);
        let after = before.saturating_add(amount);
        let Some(free) = self.budget.limit.checked_sub(after) else {
            self.budget.used.fetch_sub(amount, Ordering::Relaxed);
            return false;
        };
        for (position, account) in self.accounts().enumerate() {
            if !account.take(amount, free) {
                self.accounts()
                    .take(position)
                    .for_each(|account| account.give_back(amount));
                self.budget.used.fetch_sub(amount, Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    fn give_back(&self, amount: usize) {
        if amount > 0 {
            self.accounts()
                .for_each(|account| account.give_back(amount));
            self.budget.used.fetch_sub(amount, Ordering::Relaxed);
        }
    }
}

/// A share of the budget. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "dropping a reservation gives it back"]
pub(crate) struct Reservation {
    purse: Arc<Purse>,
    amount: usize,
}

impl Admission {
    /// A budget of `limit`.
    pub fn new(limit: usize) -> Self {
        let budget = Arc::new(Budget {
            limit,
            used: AtomicUsize::new(0),
        });
        let nobody = Arc::new(Purse {
            budget: Arc::clone(&budget),
            accounts: [None, None],
        });
        Self { budget, nobody }
    }

    /// The purse of a source, whose rows go to `volume` if that is one.
    pub fn purse(&self, source: &Arc<Account>, volume: Option<Arc<Account>>) -> Arc<Purse> {
        Arc::new(Purse {
            budget: Arc::clone(&self.budget),
            accounts: [Some(Arc::clone(source)), volume],
        })
    }

    /// Takes `amount` for nobody in particular, or nothing when it does not fit.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests fill the budget with it"))]
    pub fn reserve(&self, amount: usize) -> Option<Reservation> {
        self.nobody.reserve(amount)
    }

    /// What is taken.
    pub fn used(&self) -> usize {
        self.budget.used.load(Ordering::Relaxed)
    }
}

impl Reservation {
    /// Takes `amount` more. False: it does not fit, and nothing has changed.
    pub fn grow(&mut self, amount: usize) -> bool {
        let fits = self.purse.take(amount);
        if fits {
            self.amount += amount;
        }
        fits
    }

    /// Whether `amount` more would fit at this moment.
    pub fn could_grow(&self, amount: usize) -> bool {
        let used = self.purse.budget.used.load(Ordering::Relaxed);
        let after = used.saturating_add(amount);
        let free = self.purse.budget.limit.checked_sub(after);
        free.is_some_and(|free| {
            let mut accounts = self.purse.accounts();
            accounts.all(|account| account.allows(account.used().saturating_add(amount), free))
        })
    }

    /// Hands out all that it holds, the first time; nothing afterwards. For work that is split and counted once.
    pub fn share(&mut self) -> Self {
        Self {
            purse: Arc::clone(&self.purse),
            amount: std::mem::take(&mut self.amount),
        }
    }

    /// Hands out `amount` of what it holds, or all if that is less.
    pub fn split(&mut self, amount: usize) -> Self {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        Self {
            purse: Arc::clone(&self.purse),
            amount,
        }
    }

    /// Takes over what `other` holds. What comes from another purse is moved into this one, whatever its share.
    pub fn absorb(&mut self, mut other: Self) {
        debug_assert!(
            Arc::ptr_eq(&self.purse.budget, &other.purse.budget),
            "one budget per process"
        );
        let amount = std::mem::take(&mut other.amount);
        if !Arc::ptr_eq(&self.purse, &other.purse) {
            self.purse
                .accounts()
                .for_each(|account| account.take_over(amount));
            other
                .purse
                .accounts()
                .for_each(|account| account.give_back(amount));
        }
        self.amount += amount;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.purse.give_back(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_beyond_the_limit_and_takes_back_what_was_dropped() {
        let admission = Admission::new(100);
        let mut first = admission.reserve(60).expect("fits");
        assert!(admission.reserve(41).is_none());
        assert!(!first.grow(41) && !first.could_grow(41) && first.could_grow(40));
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

    fn fill(purse: &Arc<Purse>) -> Vec<Reservation> {
        std::iter::from_fn(|| purse.reserve(1)).collect()
    }

    #[test]
    fn one_source_gets_four_fifths_and_the_next_ones_find_room() {
        let admission = Admission::new(1000);
        let source = || admission.purse(&Account::new(usize::MAX), None);
        let greedy: Vec<_> = (0..3).map(|_| source()).collect();
        let first = fill(&greedy[0]);
        assert_eq!(first.len(), 800);
        // Four fifths of what is left, each.
        let (second, third) = (fill(&greedy[1]), fill(&greedy[2]));
        assert_eq!((second.len(), third.len()), (160, 32));
        assert!(source().reserve(1).is_some(), "a newcomer is not shut out");
        // What the first gives back is not its own again: the next one has it, and leaves a rest as well.
        drop(first);
        let (more, again) = (fill(&greedy[1]), fill(&greedy[0]));
        assert_eq!((more.len(), again.len()), (614, 155));
        assert!(source().reserve(1).is_some(), "nor is a later one");
    }

    #[test]
    fn all_sources_of_a_volume_together_leave_room_for_those_of_others() {
        let admission = Admission::new(1000);
        let stuck = Account::new(usize::MAX);
        let of_stuck =
            |_| fill(&admission.purse(&Account::new(usize::MAX), Some(Arc::clone(&stuck))));
        let held: Vec<_> = (0..50).map(of_stuck).collect();
        assert_eq!(stuck.used(), 800);
        let other = Account::new(usize::MAX);
        let volume = Some(Account::new(usize::MAX));
        assert_eq!(fill(&admission.purse(&other, volume)).len(), 160);
        drop(held);
        assert_eq!((stuck.used(), admission.used()), (0, 0));
    }

    #[test]
    fn an_account_keeps_to_its_own_limit() {
        let admission = Admission::new(1000);
        assert_eq!(fill(&admission.purse(&Account::new(7), None)).len(), 7);
    }

    proptest! {
        /// Whatever is taken, grown, split, absorbed and dropped: the sums are right, and in the end nothing is held.
        #[test]
        fn nothing_is_lost_and_nothing_is_held_twice(
            steps in proptest::collection::vec((0..6_u8, 0..3_usize, 0..40_usize), 1..200)
        ) {
            let admission = Admission::new(500);
            let accounts: Vec<_> = (0..2).map(|_| Account::new(usize::MAX)).collect();
            let volume = Account::new(usize::MAX);
            let purses = [
                admission.purse(&accounts[0], Some(Arc::clone(&volume))),
                admission.purse(&accounts[1], Some(Arc::clone(&volume))),
                admission.purse(&accounts[1], None),
            ];
            let mut held: Vec<Reservation> = Vec::new();
            for (step, which, amount) in steps {
                match (step, held.pop()) {
                    (0, kept) => {
                        held.extend(kept);
                        held.extend(purses[which].reserve(amount));
                    }
                    (1, Some(mut one)) => {
                        one.grow(amount);
                        held.push(one);
                    }
                    (2, Some(mut one)) => {
                        let other = one.split(amount);
                        held.extend([one, other]);
                    }
                    (3, Some(mut one)) => {
                        if let Some(other) = held.pop() {
                            one.absorb(other);
                        }
                        held.push(one);
                    }
                    (4, Some(mut one)) => {
                        let other = one.share();
                        held.extend([other, one]);
                    }
                    (_, dropped) => drop(dropped),
                }
                let sum = |of: &dyn Fn(&Reservation) -> bool| -> usize {
                    held.iter().filter(|one| of(one)).map(|one| one.amount).sum()
                };
                prop_assert!(admission.used() <= 500);
                prop_assert_eq!(admission.used(), sum(&|_| true));
                for account in accounts.iter().chain([&volume]) {
                    let of = |one: &Reservation| one.purse.accounts().any(|own| Arc::ptr_eq(own, account));
                    prop_assert_eq!(account.used(), sum(&of));
                }
            }
            held.clear();
            prop_assert_eq!(admission.used(), 0);
            prop_assert!(accounts.iter().all(|account| account.used() == 0));
        }
    }
}
