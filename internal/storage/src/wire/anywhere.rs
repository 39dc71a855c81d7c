//! The transport to volumes wherever they are: those of this process by direct call, all others through the network.

use async_trait::async_trait;
use stream_model::{SessionId, VolumeId};

use super::direct::Direct;
use super::network::Network;
use super::{ConnectError, Connection, Transport};

/// Takes the shorter way to each volume.
pub struct Anywhere {
    /// The volumes of this process.
    pub direct: Direct,
    /// The volumes of others.
    pub network: Network,
}

#[async_trait]
impl Transport for Anywhere {
    async fn connect(
        &self,
        volume: VolumeId,
        session: SessionId,
    ) -> Result<Box<dyn Connection>, ConnectError> {
        match self.direct.connect(volume, session).await {
            Err(ConnectError::NoRoute(_)) => self.network.connect(volume, session).await,
            connected => connected,
        }
    }
}
