//! Other machines, as the registrations of their processes show them.
//!
//! Staging in a local directory and SQLite tables are files of one machine. Processes of several machines that used them would
//! each have their own, and rows would be uploaded to one and looked for in another. This is looked at once, at the start: it
//! catches an installation that was set up so, not one in which a machine changes its name.

use std::collections::BTreeSet;

use anyhow::bail;
use stream_state::Store;

use crate::component::Component;
use crate::config::Config;

/// The address of a process that is no address: the name of its machine.
pub const HOST: &str = "host";

/// Components that read or write staging and tables.
const SHARING: [Component; 3] = [
    Component::Api,
    Component::StorageCoordinator,
    Component::StorageReader,
];

/// Checks that no process on another machine would have to share local files with this one.
///
/// # Errors
/// A sentence that names the other machine and what to use.
pub async fn check(
    config: &Config,
    components: &BTreeSet<Component>,
    store: &Store,
) -> anyhow::Result<()> {
    let shares = SHARING.iter().any(|it| components.contains(it));
    if !shares || !config.staging.url.starts_with("file:") {
        return Ok(());
    }
    for component in SHARING {
        for (node, registration) in store.nodes(component.name()).await? {
            let other = registration.addresses.get(HOST);
            if let Some(other) = other.filter(|other| **other != config.hostname) {
                bail!(
                    "{component} of node {node} runs on the machine {other}, this process on {}: staging.url is {} and tables are \
                     SQLite, which are files of one machine; run api, storage-coordinator and storage-reader on one machine, or give \
                     its processes the same hostname (STREAM_HOSTNAME) if they see the same files",
                    config.hostname,
                    config.staging.url
                );
            }
        }
    }
    Ok(())
}
