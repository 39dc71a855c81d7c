//! Other machines, as the registrations of their processes show them.
//!
//! Staging in a local directory and SQLite tables are files of one machine. Processes of several machines that used them would
//! each have their own, and rows would be uploaded to one and looked for in another. This is looked at at the start: it catches
//! an installation that was set up so, not one in which a machine changes its name.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;
use stream_state::Store;
use tokio::time::{Instant, sleep};
use tracing::info;

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

/// How much longer than a registration lives the start waits for that of another machine to end: it may be what a killed process
/// left behind.
const GRACE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(250);

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
    let deadline = Instant::now() + config.registration_ttl() + GRACE;
    let mut told = false;
    while let Some((who, machine)) = find(config, store).await? {
        if Instant::now() >= deadline {
            bail!(
                "{who} runs on the machine {machine}, this process on {}: staging.url is {} and tables are SQLite, which are files \
                 of one machine; run api, storage-coordinator and storage-reader on one machine, or give its processes the same \
                 hostname (STREAM_HOSTNAME) if they see the same files",
                config.hostname,
                config.staging.url
            );
        }
        if !std::mem::replace(&mut told, true) {
            info!(
                who,
                machine, "waiting for a process on another machine to end"
            );
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// A process on another machine with which local files would be shared, and that machine.
async fn find(config: &Config, store: &Store) -> anyhow::Result<Option<(String, String)>> {
    for component in SHARING {
        for (node, registration) in store.nodes(component.name()).await? {
            let machine = registration.addresses.get(HOST);
            if let Some(machine) = machine.filter(|machine| **machine != config.hostname) {
                return Ok(Some((
                    format!("{component} of node {node}"),
                    machine.clone(),
                )));
            }
        }
    }
    Ok(None)
}
