//! The transport to volumes in the same process: plain calls, the same messages.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;
use stream_model::{SessionId, VolumeId};

use super::network::{Admit, Caller};
use super::{ConnectError, Connection, Transport};
use crate::local::Volume;

/// The volumes that are open in this process. Filled by the storage-writer, used by the http-source.
#[derive(Clone, Default)]
pub struct Direct {
    volumes: Arc<RwLock<HashMap<VolumeId, Reachable>>>,
}

/// A volume that is open here.
#[derive(Clone)]
struct Reachable {
    volume: Volume,
    /// The number of its opening; 0 when nobody has counted.
    incarnation: u64,
}

impl Direct {
    /// A transport that knows no volume yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a volume reachable. It replaces one with the same id, as after a volume was closed and opened again.
    pub fn add(&self, volume: Volume) {
        self.add_incarnation(volume, 0);
    }

    /// The same for a volume whose openings are counted: callers from elsewhere are let in when they mean this one.
    pub fn add_incarnation(&self, volume: Volume, incarnation: u64) {
        let id = volume.id();
        let reachable = Reachable {
            volume,
            incarnation,
        };
        self.volumes.write().insert(id, reachable);
    }

    /// Makes a volume unreachable, unless another one with its id took its place. Existing connections go on until the volume
    /// stops.
    pub fn remove(&self, volume: &Volume) {
        let mut volumes = self.volumes.write();
        let is_same = |it: &Reachable| it.volume.is(volume);
        if volumes.get(&volume.id()).is_some_and(is_same) {
            volumes.remove(&volume.id());
        }
    }

    fn find(&self, volume: VolumeId) -> Result<Reachable, ConnectError> {
        let found = self.volumes.read().get(&volume).cloned();
        found.ok_or(ConnectError::NoRoute(volume))
    }
}

fn enter(volume: &Volume, session: SessionId) -> Result<Box<dyn Connection>, ConnectError> {
    let connection = volume.connect(session)?;
    Ok(Box::new(connection))
}

#[async_trait]
impl Transport for Direct {
    async fn connect(
        &self,
        volume: VolumeId,
        session: SessionId,
    ) -> Result<Box<dyn Connection>, ConnectError> {
        enter(&self.find(volume)?.volume, session)
    }
}

#[async_trait]
impl Admit for Direct {
    async fn admit(&self, caller: Caller) -> Result<Box<dyn Connection>, ConnectError> {
        let found = self.find(caller.volume)?;
        if found.incarnation != caller.incarnation {
            return Err(ConnectError::NoRoute(caller.volume));
        }
        enter(&found.volume, caller.session)
    }
}
