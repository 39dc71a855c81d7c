//! Volumes: how often they were opened, where they are, what they hold.

use serde::{Deserialize, Serialize};
use stream_model::statistics::VolumeFigures;
use stream_model::{NodeId, VolumeId};

use super::definition::UPDATE_TRIES;
use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::lease::{Holder, Lease};
use crate::store::{Store, Versioned, Written};
use crate::txn::Tries;

/// How often a volume was opened, and by whom last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incarnation {
    /// Rises by one with each opening.
    pub number: u64,
    /// The node that opened it last.
    pub node: NodeId,
    /// Whether that process has read its journal: before, the slice files may be incomplete.
    pub recovered: bool,
}

/// Where an open volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// The node whose storage-writer holds it.
    pub node: NodeId,
    /// Its type: the name of the directory above it.
    pub kind: String,
    /// Its label: the name of its directory.
    pub label: String,
    /// The incarnation that is open.
    pub incarnation: u64,
}

impl Store {
    /// Opens a volume anew: everything that an earlier holder still sends under its old incarnation is refused from now on.
    /// Returns the new number.
    ///
    /// # Errors
    /// `Forgotten` when the volume was given up for lost; else when etcd is away or the value cannot be read.
    pub async fn raise_incarnation(
        &self,
        volume: VolumeId,
        node: &NodeId,
    ) -> Result<u64, StateError> {
        let key = Key::Incarnation(volume);
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            let stored = self.incarnation_entry(volume).await?;
            let never = Incarnation {
                number: 0,
                node: node.clone(),
                recovered: false,
            };
            let stored = stored.unwrap_or_else(|| Versioned::new(never.clone(), 0));
            let raised = Incarnation {
                number: stored.value.number + 1,
                ..never
            };
            let raised = Written::over(&stored, raised);
            self.refuse_forgotten(volume).await?;
            let txn = self
                .txn()
                .absent(&Key::Forgotten(volume))
                .unmodified(&key, stored.revision)
                .write(&key, &raised);
            match txn.commit().await {
                Ok(_) => return Ok(raised.value.number),
                Err(StateError::AlreadyExists { .. }) => self.refuse_forgotten(volume).await?,
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// Notes that the holder of the volume has read its journal, so that the files of sealed slices are complete.
    ///
    /// # Errors
    /// `StaleIncarnation` when the volume was opened again since.
    pub async fn mark_recovered(
        &self,
        volume: VolumeId,
        incarnation: u64,
    ) -> Result<(), StateError> {
        let key = Key::Incarnation(volume);
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            self.forget_incarnation(volume);
            let own = self.own_incarnation(volume, incarnation).await?;
            if own.value.recovered {
                return Ok(());
            }
            let recovered = Incarnation {
                recovered: true,
                ..own.value.clone()
            };
            let recovered = Written::over(&own, recovered);
            let txn = self
                .txn()
                .unmodified(&key, own.revision)
                .write(&key, &recovered);
            let marked = txn.commit().await;
            self.forget_incarnation(volume);
            match marked {
                Ok(_) => return Ok(()),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// Reads how often a volume was opened; none when it never was.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn incarnation(&self, volume: VolumeId) -> Result<Option<Incarnation>, StateError> {
        let stored = self.incarnation_entry(volume).await?;
        Ok(stored.map(|stored| stored.value))
    }

    pub(crate) async fn incarnation_entry(
        &self,
        volume: VolumeId,
    ) -> Result<Option<Versioned<Incarnation>>, StateError> {
        self.get(&Key::Incarnation(volume)).await
    }

    /// The volume's incarnation, if it is still ours. May be an older one: the transaction that compares its revision tells,
    /// and [`Self::forget_incarnation`] makes the next look a fresh one.
    pub(crate) async fn own_incarnation(
        &self,
        volume: VolumeId,
        ours: u64,
    ) -> Result<Versioned<Incarnation>, StateError> {
        let known = self.incarnations().lock().get(&volume).cloned();
        if let Some(known) = known.filter(|known| known.value.number == ours) {
            return Ok(known);
        }
        match self.incarnation_entry(volume).await? {
            Some(stored) if stored.value.number == ours => {
                self.incarnations().lock().insert(volume, stored.clone());
                Ok(stored)
            }
            other => Err(StateError::StaleIncarnation {
                volume,
                ours,
                newest: other.map_or(0, |stored| stored.value.number),
            }),
        }
    }

    /// Has the incarnation of a volume read again.
    pub(crate) fn forget_incarnation(&self, volume: VolumeId) {
        self.incarnations().lock().remove(&volume);
    }

    /// Announces an open volume for as long as the lease lives. A registration of an earlier run is overwritten.
    ///
    /// # Errors
    /// `StaleIncarnation` when the volume was opened by another writer since; else when etcd is away: it is announced all the
    /// same once the lease is kept alive again.
    pub async fn register_volume(
        &self,
        lease: &Lease,
        volume: VolumeId,
        registration: Registration,
    ) -> Result<(), StateError> {
        let holder = Holder {
            volume,
            incarnation: registration.incarnation,
        };
        let key = Key::Registration(volume);
        lease.put_as_holder(&key, &registration, holder).await
    }

    /// Withdraws an open volume, with its figures.
    ///
    /// # Errors
    /// When etcd is away; it is withdrawn all the same once the lease is kept alive again.
    pub async fn unregister_volume(
        &self,
        lease: &Lease,
        volume: VolumeId,
    ) -> Result<(), StateError> {
        lease.remove(&Key::Registration(volume)).await?;
        lease.remove(&Key::Figures(volume)).await
    }

    /// Publishes what a volume holds, for as long as the lease lives. Nothing is written when nothing has changed.
    ///
    /// # Errors
    /// When etcd is away; they are published all the same once the lease is kept alive again.
    pub async fn publish_figures(
        &self,
        lease: &Lease,
        volume: VolumeId,
        figures: VolumeFigures,
    ) -> Result<(), StateError> {
        lease.put(&Key::Figures(volume), &figures).await
    }

    /// Lists the volumes that are open now.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn volumes(&self) -> Result<Vec<(VolumeId, Registration)>, StateError> {
        let listed = self.list_readable(prefix::REGISTRATIONS).await?;
        Ok(listed
            .into_iter()
            .filter_map(|(key, registration)| match key {
                Key::Registration(volume) => Some((volume, registration.value)),
                _ => None,
            })
            .collect())
    }

    /// Lists what the open volumes hold.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn volume_figures(&self) -> Result<Vec<(VolumeId, VolumeFigures)>, StateError> {
        let listed = self.list_readable(prefix::FIGURES).await?;
        Ok(listed
            .into_iter()
            .filter_map(|(key, figures)| match key {
                Key::Figures(volume) => Some((volume, figures.value)),
                _ => None,
            })
            .collect())
    }
}
