//! Which volumes decide about the idempotency keys of a source.

use stream_model::idempotency::{Assigned, Yields};
use stream_model::{SourceKey, VolumeId};

use super::definition::UPDATE_TRIES;
use crate::error::StateError;
use crate::keyspace::Key;
use crate::store::{Store, Versioned, Written};
use crate::txn::Tries;

impl Store {
    /// Reads the volumes of a source, and which of them decides about which of its keys.
    ///
    /// # Errors
    /// `NotFound` when the source has none; else when etcd is away or the value cannot be read.
    pub async fn assigned(&self, source: &SourceKey) -> Result<Versioned<Assigned>, StateError> {
        self.require(&Key::Assignment(source.clone())).await
    }

    /// Writes down whether others may decide about keys in the place of a volume while it is away. Only whoever holds the volume
    /// says that: it has to keep to it.
    ///
    /// # Errors
    /// `NotFound` when the source has no volumes; `Conflict` when others were faster each time.
    pub async fn set_yielding(
        &self,
        source: &SourceKey,
        volume: VolumeId,
        yields: Yields,
    ) -> Result<(), StateError> {
        let key = Key::Assignment(source.clone());
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            let stored: Versioned<Assigned> = self.require(&key).await?;
            let new = stored.value.with_yielding(volume, yields);
            if new == stored.value || !new.volumes.contains(&volume) {
                return Ok(());
            }
            let new = Written::over(&stored, new);
            let txn = self.txn().unmodified(&key, stored.revision);
            match txn.write(&key, &new).commit().await {
                Ok(_) => return Ok(()),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// Gives the shards of a volume that is away to others. `old` is what `new` was made of.
    ///
    /// # Errors
    /// `Conflict` when the source has something else by now; `AlreadyExists` when the volume is registered; `Violation` when the volume
    /// does not yield.
    pub async fn take_keys_over(
        &self,
        source: &SourceKey,
        old: &Assigned,
        from: VolumeId,
        new: Assigned,
    ) -> Result<i64, StateError> {
        let key = Key::Assignment(source.clone());
        if !old.yields(from) {
            let rule = "shards are taken over only from a volume that yields";
            return Err(StateError::violation(key, rule));
        }
        let stored: Versioned<Assigned> = self.require(&key).await?;
        if stored.value != *old {
            return Err(StateError::conflict(key));
        }
        let new = Written::over(&stored, new);
        let txn = self
            .txn()
            .absent(&Key::Registration(from))
            .unmodified(&key, stored.revision)
            .write(&key, &new);
        txn.commit().await
    }
}
