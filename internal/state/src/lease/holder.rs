//! Registrations of a volume: written by whoever opened it last, and by nobody else.
//!
//! A process that was paused may find its lease gone and another writer on a copy of its volume. If it registered again as it
//! does with everything else, the volume would be looked for where nothing is committed any more, and its registration would
//! vanish with the wrong process.

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use stream_model::VolumeId;

use super::Lease;
use crate::error::StateError;
use crate::keyspace::Key;
use crate::txn::Tries;

/// How often a registration is tried while the incarnation changes without becoming a newer one.
const TRIES: u32 = 5;

/// A volume and the number under which it is open here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) volume: VolumeId,
    pub(crate) incarnation: u64,
}

impl Lease {
    /// Writes a registration if the volume has no newer incarnation. Returns the revision.
    pub(super) async fn write_as_holder(
        &self,
        key: &str,
        value: &[u8],
        lease: i64,
        holder: Holder,
    ) -> Result<i64, StateError> {
        let store = &self.shared.store;
        let (full, number) = (store.full(key), Key::Incarnation(holder.volume));
        let mut tries = Tries::new(TRIES);
        loop {
            let newest = store.incarnation_entry(holder.volume).await?;
            let (newest, revision) = newest.map_or((0, 0), |it| (it.value.number, it.revision));
            if newest > holder.incarnation {
                return Err(StateError::StaleIncarnation {
                    volume: holder.volume,
                    ours: holder.incarnation,
                    newest,
                });
            }
            let options = PutOptions::new().with_lease(lease);
            let compared = store.full(&number.to_string());
            let request = Txn::new()
                .when([Compare::mod_revision(compared, CompareOp::Equal, revision)])
                .and_then([TxnOp::put(full.as_str(), value, Some(options))]);
            let mut kv = store.kv();
            let mut answer = self.ask(kv.txn(request)).await?;
            if answer.succeeded() {
                let header = answer.take_header();
                return Ok(header.map_or(0, |header| header.revision()));
            }
            tries
                .after(StateError::conflict(number.to_string()))
                .await?;
        }
    }
}
