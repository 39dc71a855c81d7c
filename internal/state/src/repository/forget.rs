//! Giving up a volume that is lost for good.
//!
//! Nothing automatic does that: an absent volume may come back, and its rows with it. A person who knows that the disk is gone
//! says so once. From then on a tombstone keeps the volume away, should it return after all; its slices count as empty, so the
//! files that waited for them go on; and its sources get other volumes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stream_model::idempotency::Assigned;
use stream_model::slice::{Event, Slice};
use stream_model::{NodeId, SourceKey, Timestamp, VolumeId};

use super::definition::UPDATE_TRIES;
use super::file::slice_key;
use super::slice::apply;
use super::statistics::crossed_key;
use super::volume::{Incarnation, Registration};
use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{Store, Versioned, Written};
use crate::txn::Tries;

/// Slices that fit into one transaction.
const CHUNK: usize = 60;

/// That a volume is given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// When.
    pub at: Timestamp,
    /// Where the command was given.
    pub by: NodeId,
}

/// What goes, or went, with a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loss {
    /// Slices whose rows are not in staging.
    pub slices: u64,
    /// Those among them that were sealed, and their rows. Of the others nobody but the volume knows.
    pub sealed: u64,
    /// Rows of the sealed ones.
    pub rows: u64,
    /// Sources that get other volumes.
    pub sources: Vec<SourceKey>,
    /// Where the volume was opened last, if it ever was.
    pub last: Option<Incarnation>,
}

impl Store {
    /// Looks what would go with a volume.
    ///
    /// # Errors
    /// When etcd is away or a value cannot be read.
    pub async fn loss_of_volume(&self, volume: VolumeId) -> Result<Loss, StateError> {
        let mut loss = Loss {
            last: self.incarnation(volume).await?,
            ..Loss::default()
        };
        for slice in self.slices_not_uploaded(volume).await? {
            loss.slices += 1;
            if let Some(seal) = slice.value.seal() {
                loss.sealed += 1;
                loss.rows += seal.figures.rows;
            }
        }
        loss.sources = self.sources_on(volume).await?.into_keys().collect();
        Ok(loss)
    }

    /// Gives a volume up: all rows on it that are not in staging are lost. Repeating it after an interruption goes on where it
    /// stopped. Answers what went.
    ///
    /// # Errors
    /// `NotFound` for a volume that was never opened; `Violation` while a process has it open; else when etcd is away.
    pub async fn forget_volume(
        &self,
        volume: VolumeId,
        by: &NodeId,
        at: Timestamp,
    ) -> Result<Loss, StateError> {
        let loss = self.loss_of_volume(volume).await?;
        let incarnation = self.bury(volume, by, at).await?;
        loop {
            let mut slices = self.slices_not_uploaded(volume).await?;
            slices.truncate(CHUNK);
            if slices.is_empty() {
                break;
            }
            match self.give_up(&slices, incarnation, at).await {
                // Somebody closed one meanwhile.
                Ok(()) | Err(StateError::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for (source, assigned) in self.sources_on(volume).await? {
            self.withdraw(&source, assigned, volume, at).await?;
        }
        Ok(loss)
    }

    /// Refuses a volume that was given up.
    pub(crate) async fn refuse_forgotten(&self, volume: VolumeId) -> Result<(), StateError> {
        match self.get::<Tombstone>(&Key::Forgotten(volume)).await? {
            Some(stored) => Err(StateError::Forgotten {
                volume,
                at: stored.value.at,
            }),
            None => Ok(()),
        }
    }

    /// Sets the tombstone, and raises the incarnation so that whatever still writes to the volume is refused. Answers the
    /// incarnation under which the volume is given up.
    async fn bury(&self, volume: VolumeId, by: &NodeId, at: Timestamp) -> Result<u64, StateError> {
        let (stone, number) = (Key::Forgotten(volume), Key::Incarnation(volume));
        let registration = Key::Registration(volume);
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            let stored: Versioned<Incarnation> = self.require(&number).await?;
            if self.get::<Tombstone>(&stone).await?.is_some() {
                return Ok(stored.value.number);
            }
            if let Some(open) = self.get::<Registration>(&registration).await? {
                let entity = format!("volume {volume}, open on node {}", open.value.node);
                let rule = "only a volume that no process has open is forgotten";
                return Err(StateError::violation(entity, rule));
            }
            let raised = Incarnation {
                number: stored.value.number + 1,
                node: by.clone(),
                recovered: false,
            };
            let raised = Written::over(&stored, raised);
            let tombstone = Tombstone { at, by: by.clone() };
            let txn = self
                .txn()
                .absent(&stone)
                .absent(&registration)
                .unmodified(&number, stored.revision)
                .write(&number, &raised)
                .put(&stone, &tombstone);
            match txn.commit().await {
                Ok(_) => return Ok(raised.value.number),
                // Seen by the next look.
                Err(StateError::AlreadyExists { key }) => {
                    tries.after(StateError::conflict(key)).await?;
                }
                Err(error) => tries.after(error).await?,
            }
        }
    }

    async fn give_up(
        &self,
        slices: &[Versioned<Slice>],
        incarnation: u64,
        at: Timestamp,
    ) -> Result<(), StateError> {
        let mut txn = self.txn();
        for slice in slices {
            let given_up = apply(&slice.value, Event::Forget { incarnation, at })?;
            let key = slice_key(&given_up);
            let crossed = crossed_key(&given_up);
            txn = txn
                .unmodified(&key, slice.revision)
                .write(&key, &Written::over(slice, given_up))
                .delete(&crossed);
        }
        txn.commit().await.map(|_| ())
    }

    /// Takes a volume from a source. A source without any is given new ones with its next file. The others take over its
    /// idempotency keys, of which they know nothing up to then.
    async fn withdraw(
        &self,
        source: &SourceKey,
        assigned: Versioned<Assigned>,
        volume: VolumeId,
        at: Timestamp,
    ) -> Result<(), StateError> {
        let key = Key::Assignment(source.clone());
        let left = assigned.value.without(source, volume, at);
        let txn = self.txn().unmodified(&key, assigned.revision);
        let txn = match left.volumes.is_empty() {
            true => txn.delete(&key),
            false => {
                let left = Written::over(&assigned, left);
                txn.write(&key, &left)
            }
        };
        txn.commit().await.map(|_| ())
    }

    async fn slices_not_uploaded(
        &self,
        volume: VolumeId,
    ) -> Result<Vec<Versioned<Slice>>, StateError> {
        let mut slices = Vec::new();
        for entry in &self.scan(prefix::SLICES).await?.entries {
            let slice: Versioned<Slice> = entry.decode()?;
            if slice.value.volume == volume && !slice.value.is_uploaded() {
                slices.push(slice);
            }
        }
        Ok(slices)
    }

    async fn sources_on(
        &self,
        volume: VolumeId,
    ) -> Result<BTreeMap<SourceKey, Versioned<Assigned>>, StateError> {
        let listed = self.list_readable(prefix::ASSIGNMENTS).await?;
        let on_it = |(key, assigned): (Key, Versioned<Assigned>)| match key {
            Key::Assignment(source) if assigned.value.volumes.contains(&volume) => {
                Some((source, assigned))
            }
            _ => None,
        };
        Ok(listed.into_iter().filter_map(on_it).collect())
    }
}
