//! Tables that are being dropped with the sink that they belonged to.
//!
//! A table may go only when no other sink writes to it. Whoever wants to drop one marks it first: from then on no sink can be
//! stored with that table, and every one that was stored before has an older revision. So a mirror that has reached the
//! revision of the mark shows all of them, and that stays so until the mark is gone.

use stream_model::SinkKey;
use stream_model::definition::Sink;
use stream_model::purge::Dropping;

use super::definition::UPDATE_TRIES;
use crate::error::StateError;
use crate::keyspace::Key;
use crate::store::{Store, Versioned};
use crate::txn::{Tries, Txn};

impl Store {
    /// Marks the table of a sink that is purged, or was. `revision` is that of the sink as the caller knows it, 0 for none.
    /// Answers the revision of the mark, also of an earlier one for the same sink.
    ///
    /// # Errors
    /// `Conflict` when the sink was changed; `TableLeaves` when the table is marked with another sink.
    pub async fn mark_table(&self, dropping: &Dropping, revision: i64) -> Result<i64, StateError> {
        let key = key(dropping);
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            match self.get::<Dropping>(&key).await? {
                Some(found) if found.value.sink == dropping.sink => return Ok(found.revision),
                Some(found) => return Err(StateError::table_leaves(&found.value.table_id)),
                None => {}
            }
            let txn = self
                .txn()
                .unmodified(&Key::Sink(dropping.sink.clone()), revision)
                .unmodified(&key, 0)
                .put(&key, dropping);
            match txn.commit().await {
                Err(StateError::Conflict { key: changed }) if changed == key.to_string() => {
                    tries.after(StateError::conflict(changed)).await?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Takes the mark off a table, if it is that of the sink.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn unmark_table(&self, dropping: &Dropping) -> Result<(), StateError> {
        let key = key(dropping);
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            let Some(revision) = self.marked_with(&key, &dropping.sink).await? else {
                return Ok(());
            };
            let txn = self.txn().unmodified(&key, revision).delete(&key);
            match txn.commit().await {
                Ok(_) => return Ok(()),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// Adds to a transaction that the table of a sink is marked with it no more.
    pub(crate) async fn add_unmarking<'a>(
        &self,
        txn: Txn<'a>,
        sink: &Sink,
    ) -> Result<Txn<'a>, StateError> {
        let key = Key::Dropping(sink.table.place(&sink.key).hash());
        let marked = self.marked_with(&key, &sink.key).await?;
        Ok(match marked {
            Some(revision) => txn.unmodified(&key, revision).delete(&key),
            None => txn,
        })
    }

    async fn marked_with(&self, key: &Key, sink: &SinkKey) -> Result<Option<i64>, StateError> {
        let found: Option<Versioned<Dropping>> = self.get(key).await?;
        let own = found.filter(|found| found.value.sink == *sink);
        Ok(own.map(|own| own.revision))
    }
}

/// Adds to a transaction that the table of a sink stays.
pub(crate) fn table_stays<'a>(txn: Txn<'a>, sink: &Sink) -> Txn<'a> {
    let key = Key::Dropping(sink.table.place(&sink.key).hash());
    txn.table_stays(&key, &sink.table.table_id)
}

fn key(dropping: &Dropping) -> Key {
    Key::Dropping(dropping.place().hash())
}
