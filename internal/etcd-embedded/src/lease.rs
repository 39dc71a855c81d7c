//! Leases: a time to live that clients prolong, and the keys that die with it.
//!
//! Nothing here is stored: the lease of a key is part of the key's value, and leases do not outlive the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::refusal::Refusal;

/// etcd's limit, about 285 years.
const MAX_TTL: i64 = 9_000_000_000;
const MIN_TTL: i64 = 1;

/// All leases that are neither revoked nor expired.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<i64, Lease>,
    /// Every lease once, the next to expire first.
    deadlines: BTreeSet<(Instant, i64)>,
}

#[derive(Debug)]
struct Lease {
    /// Seconds.
    ttl: i64,
    deadline: Instant,
    keys: BTreeSet<Arc<[u8]>>,
}

/// A lease as of some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseView {
    /// Whole seconds left, rounded down.
    pub(crate) remaining: i64,
    /// Seconds granted.
    pub(crate) granted: i64,
    pub(crate) keys: Vec<Vec<u8>>,
}

/// A lease just granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) id: i64,
    /// Seconds; may be more than was asked for.
    pub(crate) ttl: i64,
}

impl Leases {
    /// Grants a lease of `ttl` seconds; `id` 0 means any.
    pub(crate) fn grant(&mut self, id: i64, ttl: i64, now: Instant) -> Result<Granted, Refusal> {
        if ttl > MAX_TTL {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        let id = if id == 0 { self.unused_id() } else { id };
        if self.by_id.contains_key(&id) {
            return Err(Refusal::LeaseExists);
        }
        let ttl = ttl.max(MIN_TTL);
        let lease = Lease {
            ttl,
            deadline: now + seconds(ttl),
            keys: BTreeSet::new(),
        };
        self.deadlines.insert((lease.deadline, id));
        self.by_id.insert(id, lease);
        Ok(Granted { id, ttl })
    }

    /// Starts the time to live again; answers it in seconds.
    pub(crate) fn keep_alive(&mut self, id: i64, now: Instant) -> Option<i64> {
        let lease = self.by_id.get_mut(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + seconds(lease.ttl);
        self.deadlines.insert((lease.deadline, id));
        Some(lease.ttl)
    }

    /// Removes the lease; answers the keys that die with it, in order.
    pub(crate) fn revoke(&mut self, id: i64) -> Option<BTreeSet<Arc<[u8]>>> {
        let lease = self.by_id.remove(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        Some(lease.keys)
    }

    pub(crate) fn count(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn exists(&self, id: i64) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(crate) fn view(&self, id: i64, now: Instant) -> Option<LeaseView> {
        let lease = self.by_id.get(&id)?;
        let left = lease.deadline.saturating_duration_since(now).as_secs();
        Some(LeaseView {
            remaining: i64::try_from(left).unwrap_or(i64::MAX),
            granted: lease.ttl,
            keys: lease.keys.iter().map(|key| key.to_vec()).collect(),
        })
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = i64> + '_ {
        self.by_id.keys().copied()
    }

    /// Records that `key` is no longer bound to the lease `from` but to `to` (0 = none).
    pub(crate) fn rebind(&mut self, key: &Arc<[u8]>, from: i64, to: i64) {
        if from == to {
            return;
        }
        if let Some(lease) = self.by_id.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.by_id.get_mut(&to) {
            lease.keys.insert(Arc::clone(key));
        }
    }

    /// When the next lease expires, unless it is kept alive.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The leases whose time is over.
    pub(crate) fn expired(&self, now: Instant) -> Vec<i64> {
        self.deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .map(|(_, id)| *id)
            .collect()
    }

    /// Random, so that an identifier of an earlier boot never names a lease of this one.
    fn unused_id(&self) -> i64 {
        loop {
            let id = rand::random::<i64>() & i64::MAX;
            if id != 0 && !self.by_id.contains_key(&id) {
                return id;
            }
        }
    }
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(ttl.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Arc<[u8]> {
        Arc::from(name.as_bytes())
    }

    #[test]
    fn expires_when_not_kept_alive() {
        let mut leases = Leases::default();
        let now = Instant::now();
        leases.grant(1, 10, now).expect("free id");
        leases.grant(2, 10, now).expect("free id");
        let later = now + Duration::from_secs(9);
        assert_eq!(leases.keep_alive(2, later), Some(10));
        assert_eq!(leases.expired(later), Vec::<i64>::new());
        assert_eq!(leases.expired(now + Duration::from_secs(10)), vec![1]);
        assert_eq!(leases.next_deadline(), Some(now + Duration::from_secs(10)));
        leases.revoke(1).expect("known");
        assert_eq!(
            leases.next_deadline(),
            Some(later + Duration::from_secs(10))
        );
        leases.revoke(2).expect("known");
        assert_eq!((leases.next_deadline(), leases.count()), (None, 0));
    }

    #[test]
    fn a_key_dies_with_the_lease_it_was_bound_to_last() {
        let mut leases = Leases::default();
        let now = Instant::now();
        leases.grant(1, 10, now).expect("free id");
        leases.grant(2, 10, now).expect("free id");
        leases.rebind(&key("a"), 0, 1);
        leases.rebind(&key("b"), 0, 1);
        leases.rebind(&key("a"), 1, 2);
        let keys = |id| leases.view(id, now).expect("known").keys;
        assert_eq!(keys(1), vec![b"b".to_vec()]);
        assert_eq!(keys(2), vec![b"a".to_vec()]);
    }

    #[test]
    fn refuses_a_known_id_and_an_endless_lease() {
        let mut leases = Leases::default();
        let now = Instant::now();
        assert_eq!(
            leases.grant(7, -3, now),
            Ok(Granted {
                id: 7,
                ttl: MIN_TTL
            })
        );
        assert_eq!(leases.grant(7, 5, now), Err(Refusal::LeaseExists));
        assert_eq!(
            leases.grant(8, MAX_TTL + 1, now),
            Err(Refusal::LeaseTtlTooLarge)
        );
    }
}
