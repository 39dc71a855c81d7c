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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::Options;
    use stream_model::Timestamp;
    use stream_model::time::ManualClock;

    #[tokio::test]
    async fn a_caller_is_let_in_to_the_opening_that_it_means_and_to_no_other() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1)));
        let options = Options {
            segment_bytes: 256 << 10,
            reserve_bytes: 1,
            ..Options::new(dir.path().to_owned(), clock)
        };
        let (volume, _) = Volume::open(options).expect("it opens");
        let direct = Direct::new();
        direct.add_incarnation(volume.clone(), 3);
        let admit = async |volume, incarnation| {
            let session = SessionId(1);
            let caller = Caller {
                session,
                volume,
                incarnation,
            };
            direct.admit(caller).await.map(drop)
        };
        let id = volume.id();
        assert_eq!(admit(id, 3).await, Ok(()));
        for other in [0, 2, 4] {
            assert_eq!(admit(id, other).await, Err(ConnectError::NoRoute(id)));
        }
        let unknown = VolumeId::from_bytes([1; 16]);
        assert_eq!(admit(unknown, 3).await, Err(ConnectError::NoRoute(unknown)));
        // Whoever is in the same process means whatever is open.
        let connected = direct.connect(id, SessionId(1)).await;
        connected.map(drop).expect("it is open");
        direct.remove(&volume);
        assert_eq!(admit(id, 3).await, Err(ConnectError::NoRoute(id)));
        volume.stop().await;
    }
}
