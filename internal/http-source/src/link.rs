//! The connection to a volume, shared by all lanes that write there.
//!
//! A session has one connection per volume: a newer one supersedes the older. So a lane that has lost its connection must
//! not simply make another, it would cut off the others again. It reports which connection is lost; the next call then
//! makes a new one, once for all lanes.
//!
//! What is lost stays lost for every lane. That matters for an unknown batch: asking about it on the connection on which
//! it was sent would settle nothing, because it may still be waiting there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use stream_model::{SessionId, VolumeId};
use stream_storage::wire::{ConnectError, Connection, Transport};
use tokio::sync::Mutex;

/// A connection with its number.
#[derive(Clone)]
pub(crate) struct Linked {
    /// Counts the connections to the volume, from 1.
    pub generation: u64,
    /// The connection.
    pub connection: Arc<dyn Connection>,
}

/// The way to one volume.
pub(crate) struct Link {
    volume: VolumeId,
    session: SessionId,
    transport: Arc<dyn Transport>,
    current: Mutex<Current>,
    /// The number of the newest connection that is lost.
    lost: AtomicU64,
}

#[derive(Default)]
struct Current {
    generation: u64,
    connection: Option<Arc<dyn Connection>>,
}

impl Link {
    /// A way that is connected on first use.
    pub fn new(volume: VolumeId, session: SessionId, transport: Arc<dyn Transport>) -> Self {
        Self {
            volume,
            session,
            transport,
            current: Mutex::default(),
            lost: AtomicU64::new(0),
        }
    }

    /// The volume at its end.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The session of the process.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Notes that the connection with this number cannot be trusted any more.
    pub fn lose(&self, generation: u64) {
        self.lost.fetch_max(generation, Ordering::SeqCst);
    }

    /// A connection that is not lost.
    ///
    /// # Errors
    /// When the volume cannot be reached.
    ///
    /// # Cancel safety
    /// A cancelled call leaves no connection, or one that the next call returns.
    pub async fn connection(&self) -> Result<Linked, ConnectError> {
        let mut current = self.current.lock().await;
        if current.generation <= self.lost.load(Ordering::SeqCst) {
            current.connection = None;
        }
        let connection = match &current.connection {
            Some(connection) => Arc::clone(connection),
            None => {
                let made = self.transport.connect(self.volume, self.session).await?;
                let made: Arc<dyn Connection> = Arc::from(made);
                current.generation += 1;
                current.connection = Some(Arc::clone(&made));
                made
            }
        };
        Ok(Linked {
            generation: current.generation,
            connection,
        })
    }
}
