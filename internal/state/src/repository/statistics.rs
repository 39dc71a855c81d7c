//! Figures: limits that slices have reached, and what cleaned-up slices contained.

use stream_model::SinkKey;
use stream_model::definition::Sink;
use stream_model::slice::{Kind, Slice, State};
use stream_model::statistics::{Cleared, Crossed, Figures};

use super::definition::UPDATE_TRIES;
use crate::error::StateError;
use crate::keyspace::Key;
use crate::store::{Store, Versioned, Written};
use crate::txn::Tries;

/// Where it is noted that a slice has reached a limit.
pub(crate) fn crossed_key(slice: &Slice) -> Key {
    match slice.kind {
        Kind::Rows => Key::Crossed(slice.sink.clone(), slice.id),
        Kind::Rejects => Key::RejectsCrossed(slice.sink.clone(), slice.id),
    }
}

impl Store {
    /// Notes that a writing slice has reached a limit. Once noted it is left as it is.
    ///
    /// Returns whether the slice is still writing: when it is not, it was rotated already and nothing is noted.
    ///
    /// # Errors
    /// When etcd is away, or the slice's value cannot be read.
    pub async fn put_crossed(&self, crossed: Crossed) -> Result<bool, StateError> {
        let slice_key = Key::Slice(crossed.sink.clone(), crossed.slice);
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            let slice: Option<Versioned<Slice>> = self.get(&slice_key).await?;
            let Some(slice) = slice.filter(|slice| slice.value.state == State::Writing) else {
                return Ok(false);
            };
            let key = crossed_key(&slice.value);
            if slice.value.volume != crossed.volume {
                return Err(StateError::violation(
                    key,
                    "a limit is noted by the volume that holds the slice",
                ));
            }
            let noted = self
                .txn()
                .unmodified(&slice_key, slice.revision)
                .absent(&key)
                .put(&key, &crossed)
                .commit()
                .await;
            match noted {
                Ok(_) | Err(StateError::AlreadyExists { .. }) => return Ok(true),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// Reads the figures of all slices of a sink that were removed after their import.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn removed_figures(&self, sink: &SinkKey) -> Result<Figures, StateError> {
        let removed = self.get(&Key::Removed(sink.clone())).await?;
        Ok(removed.map(|removed| removed.value).unwrap_or_default())
    }

    /// Notes what was known of sinks when their statistics were cleared, over what was noted before. All of them, or none.
    ///
    /// # Errors
    /// `NotFound` when one of them does not exist; `Conflict` when others were faster each time.
    pub async fn clear_statistics(
        &self,
        cleared: &[(SinkKey, Cleared)],
    ) -> Result<i64, StateError> {
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            let mut txn = self.txn();
            for (sink, cleared) in cleared {
                let own = Key::Sink(sink.clone());
                let sink_revision = self.require::<Sink>(&own).await?.revision;
                let key = Key::Cleared(sink.clone());
                let old: Option<Versioned<Cleared>> = self.get(&key).await?;
                let new = match &old {
                    Some(old) => Written::over(old, *cleared),
                    None => Written::new(*cleared),
                };
                let revision = old.map_or(0, |old| old.revision);
                txn = txn
                    .unmodified(&own, sink_revision)
                    .unmodified(&key, revision)
                    .write(&key, &new);
            }
            match txn.commit().await {
                Ok(revision) => return Ok(revision),
                Err(error) => tries.after(error).await?,
            }
        }
    }
}
