//! The transport to volumes in the same process: plain calls, the same messages.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;
use stream_model::{SessionId, VolumeId};

use super::{ConnectError, Connection, Transport};
use crate::local::Volume;

/// The volumes that are open in this process. Filled by the storage-writer, used by the http-source.
#[derive(Clone, Default)]
pub struct Direct {
    volumes: Arc<RwLock<HashMap<VolumeId, Volume>>>,
}

impl Direct {
    /// A transport that knows no volume yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a volume reachable. It replaces one with the same id, as after a volume was closed and opened again.
    pub fn add(&self, volume: Volume) {
        self.volumes.write().insert(volume.id(), volume);
    }

    /// Makes a volume unreachable, unless another one with its id took its place. Existing connections go on until the volume
    /// stops.
    pub fn remove(&self, volume: &Volume) {
        let mut volumes = self.volumes.write();
        if volumes.get(&volume.id()).is_some_and(|it| it.is(volume)) {
            volumes.remove(&volume.id());
        }
    }
}

#[async_trait]
impl Transport for Direct {
    async fn connect(
        &self,
        volume: VolumeId,
        session: SessionId,
    ) -> Result<Box<dyn Connection>, ConnectError> {
        let found = self.volumes.read().get(&volume).cloned();
        let found = found.ok_or(ConnectError::NoRoute(volume))?;
        found
            .connect(session)
            .map(|connection| Box::new(connection) as Box<dyn Connection>)
    }
}
