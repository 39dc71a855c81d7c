//! Where the volumes of other processes are, read from the registrations of live writers.
//!
//! One task reads them about once a second, and sooner when somebody missed a volume; everybody else answers from memory. While
//! the state is away the last picture stays: registrations are for finding a writer, not for deciding whether it may commit.
//!
//! A registration of a volume names its node, and the registration of the node's storage-writer names the address. Two writers
//! under one node id would be mistaken for each other; a writer refuses volumes that it does not have, so that is found out and
//! harms nothing but availability.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use stream_model::VolumeId;
use stream_state::{NodeRegistration, Registration, StateError, Store};
use stream_storage::wire::network::{Route, Routes};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// The component whose registrations are read.
const COMPONENT: &str = "storage-writer";
/// The listener among the addresses of a node.
pub const LISTENER: &str = "writer";
/// Time between two looks when nobody misses anything.
const PERIOD: Duration = Duration::from_secs(1);
/// The least time between two looks.
const LEAST: Duration = Duration::from_millis(250);

/// The known writers. Clones share them.
#[derive(Clone, Default)]
pub struct Writers(Arc<Known>);

#[derive(Default)]
struct Known {
    routes: RwLock<HashMap<VolumeId, Route>>,
    doubted: Notify,
}

impl Writers {
    /// Reads the registrations once.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn refresh(&self, store: &Store) -> Result<(), StateError> {
        let volumes = store.volumes().await?;
        let nodes = store.nodes(COMPONENT).await?;
        let nodes = nodes
            .into_iter()
            .map(|(node, of)| (node.to_string(), of))
            .collect();
        *self.0.routes.write() = routes(volumes, &nodes);
        Ok(())
    }

    /// Keeps the picture up to date until cancelled.
    pub async fn follow(self, store: Store, cancel: CancellationToken) {
        let looking = async {
            loop {
                if let Err(error) = self.refresh(&store).await {
                    // The mirror says that the state is away.
                    debug!(%error, "registrations of writers cannot be read");
                }
                sleep(LEAST).await;
                // Either is a reason to look again.
                let _ = timeout(PERIOD - LEAST, self.0.doubted.notified()).await;
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = looking => {}
        }
    }
}

impl Routes for Writers {
    fn find(&self, volume: VolumeId) -> Option<Route> {
        self.0.routes.read().get(&volume).cloned()
    }

    fn doubt(&self) {
        self.0.doubted.notify_one();
    }
}

fn routes(
    volumes: Vec<(VolumeId, Registration)>,
    nodes: &BTreeMap<String, NodeRegistration>,
) -> HashMap<VolumeId, Route> {
    let route = |(volume, registration): (VolumeId, Registration)| {
        let node = nodes.get(registration.node.as_str())?;
        let address = node.addresses.get(LISTENER)?.clone();
        let incarnation = registration.incarnation;
        Some((
            volume,
            Route {
                address,
                incarnation,
            },
        ))
    };
    volumes.into_iter().filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use stream_model::Timestamp;

    #[test]
    fn a_volume_is_where_the_writer_of_its_node_listens() {
        let volume = |n| VolumeId::from_bytes([n; 16]);
        let registration = |node: &str| Registration {
            node: node.parse().expect("valid"),
            kind: "default".to_owned(),
            label: "local".to_owned(),
            incarnation: 3,
        };
        let node = |addresses: &[(&str, &str)]| NodeRegistration {
            version: "1".to_owned(),
            started_at: Timestamp::from_millis(0),
            addresses: addresses
                .iter()
                .map(|(name, at)| ((*name).to_owned(), (*at).to_owned()))
                .collect(),
        };
        let nodes = BTreeMap::from([
            (
                "a".to_owned(),
                node(&[(LISTENER, "a:6000"), ("admin", "a:9000")]),
            ),
            // Of a process that serves itself only.
            ("b".to_owned(), node(&[("admin", "b:9000")])),
        ]);
        let volumes = vec![
            (volume(1), registration("a")),
            (volume(2), registration("b")),
            (volume(3), registration("gone")),
        ];
        let expected = Route {
            address: "a:6000".to_owned(),
            incarnation: 3,
        };
        assert_eq!(
            routes(volumes, &nodes),
            HashMap::from([(volume(1), expected)])
        );
    }
}
