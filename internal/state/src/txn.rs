//! One compare-and-swap transaction: what must still be true, and what is written then.
//!
//! When something is not true any more, the same request brings back what is there instead, so the error can name it.

use std::time::Duration;

use etcd_client::proto::PbTxnOpResponse;
use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, TxnOp, TxnResponse};
use serde::Serialize;

use crate::codec;
use crate::crash::{self, Point};
use crate::error::StateError;
use crate::keyspace::{Key, end_of};
use crate::metrics::Operation;
use crate::store::{Store, Versioned, Written};

/// The most comparisons, and the most operations, of one transaction: etcd's default.
pub(crate) const MAX_OPERATIONS: usize = 128;

/// A transaction being put together.
#[must_use = "nothing is sent before commit"]
pub(crate) struct Txn<'a> {
    store: &'a Store,
    expectations: Vec<Expectation>,
    operations: Vec<TxnOp>,
    /// Of keys and values to be written.
    bytes: usize,
}

enum Expectation {
    /// The key was not written since this revision.
    Unmodified { key: String, revision: i64 },
    /// The key does not exist.
    Absent { key: String },
    /// The key does not exist: the table is not being dropped.
    TableStays { key: String, table: String },
    /// The key is the one that this revision created: a lock is still ours.
    CreatedAt { key: String, revision: i64 },
    /// No key under the prefix was written after this revision.
    NoneWritten { prefix: String, revision: i64 },
}

impl<'a> Txn<'a> {
    pub(crate) const fn new(store: &'a Store) -> Self {
        Self {
            store,
            expectations: Vec::new(),
            operations: Vec::new(),
            bytes: 0,
        }
    }

    pub(crate) fn unmodified(mut self, key: &Key, revision: i64) -> Self {
        self.expectations.push(Expectation::Unmodified {
            key: key.to_string(),
            revision,
        });
        self
    }

    pub(crate) fn absent(mut self, key: &Key) -> Self {
        self.expectations.push(Expectation::Absent {
            key: key.to_string(),
        });
        self
    }

    pub(crate) fn table_stays(mut self, key: &Key, table: &str) -> Self {
        self.expectations.push(Expectation::TableStays {
            key: key.to_string(),
            table: table.to_owned(),
        });
        self
    }

    pub(crate) fn created_at(mut self, key: String, revision: i64) -> Self {
        self.expectations
            .push(Expectation::CreatedAt { key, revision });
        self
    }

    /// Expects that nothing under `prefix` was created or changed after `revision`. Deleted keys are not noticed.
    pub(crate) fn none_written(mut self, prefix: String, revision: i64) -> Self {
        self.expectations
            .push(Expectation::NoneWritten { prefix, revision });
        self
    }

    /// Stores a value that nothing is known to be beside.
    pub(crate) fn put<T: Serialize>(self, key: &Key, value: &T) -> Self {
        self.put_raw(key, codec::encode(value))
    }

    pub(crate) fn write<T>(self, key: &Key, written: &Written<T>) -> Self {
        self.put_raw(key, written.bytes.clone())
    }

    pub(crate) fn put_raw(mut self, key: &Key, value: Vec<u8>) -> Self {
        let full = self.store.full(&key.to_string());
        self.bytes += full.len() + value.len();
        self.operations.push(TxnOp::put(full, value, None));
        self
    }

    pub(crate) fn put_with(mut self, key: &Key, value: Vec<u8>, options: PutOptions) -> Self {
        let full = self.store.full(&key.to_string());
        self.operations.push(TxnOp::put(full, value, Some(options)));
        self
    }

    pub(crate) fn delete(mut self, key: &Key) -> Self {
        let full = self.store.full(&key.to_string());
        self.operations.push(TxnOp::delete(full, None));
        self
    }

    pub(crate) fn delete_all(mut self, prefix: &str) -> Self {
        let end = DeleteOptions::new().with_range(self.store.full(&end_of(prefix)));
        self.operations
            .push(TxnOp::delete(self.store.full(prefix), Some(end)));
        self
    }

    /// How many more comparisons with an operation each fit.
    pub(crate) fn room(&self) -> usize {
        MAX_OPERATIONS.saturating_sub(self.expectations.len().max(self.operations.len()))
    }

    /// Applies all operations if all expectations hold, and nothing otherwise. Returns the revision of the change.
    ///
    /// # Errors
    /// `Conflict` or `AlreadyExists` name the first expectation that does not hold; nothing was written then. After
    /// `Unavailable` it may have been applied.
    pub(crate) async fn commit(self) -> Result<i64, StateError> {
        let size = self.expectations.len().max(self.operations.len());
        if size > MAX_OPERATIONS {
            return Err(StateError::TooLarge {
                operations: size,
                limit: MAX_OPERATIONS,
            });
        }
        let store = self.store;
        let compares: Vec<Compare> = self
            .expectations
            .iter()
            .map(|expectation| expectation.compare(store))
            .collect();
        let otherwise: Vec<TxnOp> = self
            .expectations
            .iter()
            .map(|expectation| expectation.look(store))
            .collect();
        let request = etcd_client::Txn::new()
            .when(compares)
            .and_then(self.operations)
            .or_else(otherwise);
        let mut kv = store.kv();
        let keys = || self.expectations.iter().map(Expectation::key);
        crash::point(Point::Writing, keys());
        let answer = store.ask(Operation::Write, kv.txn(request)).await?;
        if answer.succeeded() {
            crash::point(Point::Written, keys());
            store.metrics().wrote(self.bytes);
            return Ok(answer
                .header()
                .map_or(0, etcd_client::ResponseHeader::revision));
        }
        store.metrics().conflicts.inc();
        Err(first_broken(&self.expectations, &found(&answer)))
    }

    /// Commits a transaction that writes a value, and returns that with the revision of the change.
    pub(crate) async fn commit_as<T: Serialize>(
        self,
        written: Written<T>,
    ) -> Result<Versioned<T>, StateError> {
        let revision = self.commit().await?;
        Ok(written.at(revision))
    }
}

impl Expectation {
    /// The key, or what the keys begin with.
    fn key(&self) -> &str {
        match self {
            Self::Unmodified { key, .. }
            | Self::Absent { key }
            | Self::TableStays { key, .. }
            | Self::CreatedAt { key, .. } => key,
            Self::NoneWritten { prefix, .. } => prefix,
        }
    }

    fn compare(&self, store: &Store) -> Compare {
        match self {
            Self::Unmodified { key, revision } => {
                Compare::mod_revision(store.full(key), CompareOp::Equal, *revision)
            }
            Self::Absent { key } | Self::TableStays { key, .. } => {
                Compare::mod_revision(store.full(key), CompareOp::Equal, 0)
            }
            Self::CreatedAt { key, revision } => {
                Compare::create_revision(store.full(key), CompareOp::Equal, *revision)
            }
            Self::NoneWritten { prefix, revision } => {
                Compare::mod_revision(store.full(prefix), CompareOp::Less, revision + 1)
                    .with_range(store.full(&end_of(prefix)))
            }
        }
    }

    /// Reads what is there; only whether it exists and its revision.
    fn look(&self, store: &Store) -> TxnOp {
        let options = GetOptions::new().with_keys_only();
        match self {
            Self::Unmodified { key, .. }
            | Self::Absent { key }
            | Self::TableStays { key, .. }
            | Self::CreatedAt { key, .. } => TxnOp::get(store.full(key), Some(options)),
            // That a range has changed follows from all the others being as expected.
            Self::NoneWritten { prefix, .. } => TxnOp::get(
                store.full(prefix),
                Some(
                    options
                        .with_range(store.full(&end_of(prefix)))
                        .with_limit(1),
                ),
            ),
        }
    }

    fn broken(&self, found: i64) -> Option<StateError> {
        match self {
            Self::Unmodified { key, revision } if found != *revision => {
                Some(StateError::conflict(key))
            }
            Self::Absent { key } if found != 0 => Some(StateError::already_exists(key)),
            Self::TableStays { table, .. } if found != 0 => Some(StateError::table_leaves(table)),
            // A lock is created and removed, never changed, so both revisions of its key are the same.
            Self::CreatedAt { key, revision } if found != *revision => {
                Some(StateError::LockLost { key: key.clone() })
            }
            Self::Unmodified { .. }
            | Self::Absent { .. }
            | Self::TableStays { .. }
            | Self::CreatedAt { .. }
            | Self::NoneWritten { .. } => None,
        }
    }
}

/// The revisions of the keys looked at, 0 for a missing one.
///
/// Reads the fields themselves: the library's accessor panics on an answer without content.
fn found(answer: &TxnResponse) -> Vec<i64> {
    answer
        .0
        .responses
        .iter()
        .map(|operation| match &operation.response {
            Some(PbTxnOpResponse::ResponseRange(range)) => {
                range.kvs.first().map_or(0, |kv| kv.mod_revision)
            }
            _ => 0,
        })
        .collect()
}

fn first_broken(expectations: &[Expectation], found: &[i64]) -> StateError {
    let named = expectations
        .iter()
        .zip(found)
        .find_map(|(expectation, found)| expectation.broken(*found));
    named.unwrap_or_else(|| {
        let range = expectations
            .iter()
            .find_map(|expectation| match expectation {
                Expectation::NoneWritten { prefix, .. } => Some(prefix.as_str()),
                Expectation::Unmodified { .. }
                | Expectation::Absent { .. }
                | Expectation::TableStays { .. }
                | Expectation::CreatedAt { .. } => None,
            });
        StateError::conflict(range.unwrap_or("the state"))
    })
}

/// Bounded repetition of a read-modify-write that lost against another one.
pub(crate) struct Tries {
    left: u32,
    attempt: u32,
}

impl Tries {
    pub(crate) const fn new(limit: u32) -> Self {
        Self {
            left: limit,
            attempt: 0,
        }
    }

    /// Waits a little after a conflict. Any other error, and a conflict after the last try, is handed back.
    pub(crate) async fn after(&mut self, error: StateError) -> Result<(), StateError> {
        let conflict = matches!(error, StateError::Conflict { .. });
        self.left = self.left.saturating_sub(1);
        if !conflict || self.left == 0 {
            return Err(error);
        }
        let most = (2_u64 << self.attempt.min(6)).min(100);
        self.attempt += 1;
        let pause = Duration::from_millis(rand::random_range(0..=most));
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
