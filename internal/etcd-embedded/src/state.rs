//! Keys and leases together: every request that changes something, applied in memory.
//!
//! A method either refuses and changes nothing, or changes everything it has to. What was applied is not durable yet:
//! the writer stores it, then raises `durable`. Readers take `durable` as their view and see nothing newer.

use std::sync::Arc;

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse,
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseLeasesResponse, PbLeaseRevokeResponse,
    PbLeaseStatus, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest,
    PbPutResponse, PbResponseHeader,
};
use tokio::time::Instant;

use crate::lease::Leases;
use crate::mvcc::{Change, KeyRange, Live, Store};
use crate::refusal::Refusal;

/// Sees everything, durable or not. Only for requests that are answered after their group is durable.
const NEWEST: i64 = i64::MAX;

/// Everything the server knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) leases: Leases,
    /// The newest revision that is on disk.
    pub(crate) durable: i64,
    /// Asked for in the present group; carried out once that is durable.
    pub(crate) compaction: Option<i64>,
}

impl State {
    /// The state of a fresh boot: no leases, everything in `store` durable.
    pub(crate) fn new(store: Store) -> Self {
        Self {
            durable: store.revision(),
            store,
            leases: Leases::default(),
            compaction: None,
        }
    }

    /// A header with the newest revision. The rest of it is the same for all answers and filled in last.
    pub(crate) fn header(&self) -> Option<PbResponseHeader> {
        header(self.store.revision())
    }

    pub(crate) fn put(&mut self, request: PbPutRequest) -> Result<PbPutResponse, Refusal> {
        self.admit_put(&request)?;
        let base = self.store.revision();
        Ok(self.put_at(base, request))
    }

    /// Checks a put against the state before the transaction it is part of.
    pub(crate) fn admit_put(&self, request: &PbPutRequest) -> Result<(), Refusal> {
        if request.lease != 0 && !self.leases.exists(request.lease) {
            return Err(Refusal::LeaseNotFound);
        }
        let needs_key = request.ignore_value || request.ignore_lease;
        if needs_key && self.store.get(&request.key, NEWEST).is_none() {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    /// Carries out an admitted put in the revision after `base`.
    pub(crate) fn put_at(&mut self, base: i64, request: PbPutRequest) -> PbPutResponse {
        let before = self.store.get(&request.key, NEWEST).cloned();
        let old = before.as_ref().and_then(|change| change.after.as_ref());
        let bound = old.map_or(0, |old| old.lease);
        let lease = if request.ignore_lease {
            bound
        } else {
            request.lease
        };
        let value = match old {
            Some(old) if request.ignore_value => old.value.clone(),
            _ => request.value,
        };
        let live = Live {
            create_revision: old.map_or(base + 1, |old| old.create_revision),
            version: old.map_or(0, |old| old.version) + 1,
            lease,
            value,
        };
        let change = self.store.record(base, &request.key, Some(live));
        self.leases.rebind(&change.key, bound, lease);
        let prev_kv = before
            .filter(|_| request.prev_kv)
            .map(|change| change.to_key_value());
        PbPutResponse {
            header: self.header(),
            prev_kv,
        }
    }

    pub(crate) fn delete(&mut self, request: &PbDeleteRequest) -> PbDeleteResponse {
        let base = self.store.revision();
        self.delete_at(base, request)
    }

    /// Deletes in the revision after `base`; no key in the range, no new revision.
    pub(crate) fn delete_at(&mut self, base: i64, request: &PbDeleteRequest) -> PbDeleteResponse {
        let range = KeyRange::new(&request.key, &request.range_end);
        let doomed: Vec<Arc<Change>> = self.store.live_in(&range, NEWEST).cloned().collect();
        for change in &doomed {
            self.delete_live(base, change);
        }
        let prev_kvs = if request.prev_kv {
            doomed.iter().map(|change| change.to_key_value()).collect()
        } else {
            Vec::new()
        };
        PbDeleteResponse {
            header: self.header(),
            deleted: i64::try_from(doomed.len()).unwrap_or(i64::MAX),
            prev_kvs,
        }
    }

    fn delete_live(&mut self, base: i64, before: &Change) {
        let change = self.store.record(base, &before.key, None);
        let bound = before.after.as_ref().map_or(0, |old| old.lease);
        self.leases.rebind(&change.key, bound, 0);
    }

    pub(crate) fn compact(
        &mut self,
        request: PbCompactionRequest,
    ) -> Result<PbCompactionResponse, Refusal> {
        let target = request.revision;
        if target <= self.compaction.unwrap_or(self.store.compacted()) {
            return Err(Refusal::Compacted);
        }
        if target > self.store.revision() {
            return Err(Refusal::FutureRevision);
        }
        self.compaction = Some(target);
        Ok(PbCompactionResponse {
            header: self.header(),
        })
    }

    pub(crate) fn grant(
        &mut self,
        request: PbLeaseGrantRequest,
        now: Instant,
    ) -> Result<PbLeaseGrantResponse, Refusal> {
        let granted = self.leases.grant(request.id, request.ttl, now)?;
        Ok(PbLeaseGrantResponse {
            header: self.header(),
            id: granted.id,
            ttl: granted.ttl,
            error: String::new(),
        })
    }

    /// Ends a lease and deletes its keys in one revision.
    pub(crate) fn revoke(&mut self, id: i64) -> Result<PbLeaseRevokeResponse, Refusal> {
        let keys = self.leases.revoke(id).ok_or(Refusal::LeaseNotFound)?;
        let base = self.store.revision();
        for key in keys {
            self.store.record(base, &key, None);
        }
        Ok(PbLeaseRevokeResponse {
            header: self.header(),
        })
    }

    /// Revokes what is overdue: one revision per lease that has keys.
    pub(crate) fn expire(&mut self, now: Instant) {
        for id in self.leases.expired(now) {
            if self.revoke(id).is_ok() {
                tracing::info!(lease = id, "lease expired");
            }
        }
    }

    /// Deletes every key that is bound to a lease, in one revision. For a fresh boot, which has no leases.
    pub(crate) fn delete_leased(&mut self) -> usize {
        let everything = KeyRange::From(Vec::new());
        let orphans: Vec<Arc<Change>> = self
            .store
            .live_in(&everything, NEWEST)
            .filter(|change| change.after.as_ref().is_some_and(|live| live.lease != 0))
            .cloned()
            .collect();
        let base = self.store.revision();
        for change in &orphans {
            self.store.record(base, &change.key, None);
        }
        orphans.len()
    }

    pub(crate) fn time_to_live(
        &self,
        request: PbLeaseTimeToLiveRequest,
        now: Instant,
    ) -> PbLeaseTimeToLiveResponse {
        let mut response = PbLeaseTimeToLiveResponse {
            header: self.header(),
            id: request.id,
            ttl: -1,
            ..PbLeaseTimeToLiveResponse::default()
        };
        if let Some(lease) = self.leases.view(request.id, now) {
            response.ttl = lease.remaining;
            response.granted_ttl = lease.granted;
            if request.keys {
                response.keys = lease.keys;
            }
        }
        response
    }

    pub(crate) fn lease_ids(&self) -> PbLeaseLeasesResponse {
        PbLeaseLeasesResponse {
            header: self.header(),
            leases: self.leases.ids().map(|id| PbLeaseStatus { id }).collect(),
        }
    }
}

/// A header that tells a revision only.
pub(crate) fn header(revision: i64) -> Option<PbResponseHeader> {
    Some(PbResponseHeader {
        revision,
        ..PbResponseHeader::default()
    })
}
