//! Running components.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stream_model::{NodeId, Timestamp};

use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::lease::Lease;
use crate::store::Store;

/// A running component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRegistration {
    /// Version of the service.
    pub version: String,
    /// When the process started.
    pub started_at: Timestamp,
    /// Where it can be reached, by the name of the listener; and under `host` the name of its machine.
    pub addresses: BTreeMap<String, String>,
}

impl Store {
    /// Announces a running component for as long as the lease lives.
    ///
    /// # Errors
    /// When the component's name cannot be part of a key, or etcd is away; in the latter case it is announced all the same
    /// once the lease is kept alive again.
    pub async fn register_node(
        &self,
        lease: &Lease,
        component: &str,
        node: &NodeId,
        registration: NodeRegistration,
    ) -> Result<(), StateError> {
        check_component(component)?;
        let key = Key::Node {
            component: component.to_owned(),
            node: node.clone(),
        };
        lease.put(&key, &registration).await
    }

    /// Lists the live replicas of a component, sorted by node.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn nodes(
        &self,
        component: &str,
    ) -> Result<Vec<(NodeId, NodeRegistration)>, StateError> {
        check_component(component)?;
        let listed = self.list_readable(&prefix::nodes(component)).await?;
        Ok(listed
            .into_iter()
            .filter_map(|(key, registration)| match key {
                Key::Node { node, .. } => Some((node, registration.value)),
                _ => None,
            })
            .collect())
    }
}

fn check_component(component: &str) -> Result<(), StateError> {
    if component.is_empty() || component.contains(['/', '\0']) {
        return Err(StateError::InvalidName {
            what: "the name of a component",
            name: component.to_owned(),
            rule: "it must have at least one character and no '/'",
        });
    }
    Ok(())
}
