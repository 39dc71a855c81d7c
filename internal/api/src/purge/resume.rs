//! Goes on with purges that nobody works on: whose process died, or whose target was away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use stream_state::Topology;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{sink, source};
use crate::context::Context;
use crate::task::Entity;

/// The pause between two looks.
const PERIOD: Duration = Duration::from_secs(5);

/// Looks for such purges until the stop.
pub(crate) async fn resume(context: Arc<Context>, stop: CancellationToken) {
    let mut failing = BTreeSet::new();
    loop {
        for entity in context.mirror.read(unfinished) {
            if stop.is_cancelled() {
                return;
            }
            resume_one(&context, entity, &mut failing).await;
        }
        if tokio::time::timeout(PERIOD, stop.cancelled()).await.is_ok() {
            return;
        }
    }
}

/// Sources and sinks with the intent. A sink of such a source goes with it.
fn unfinished(topology: &Topology) -> Vec<Entity> {
    let mut found = Vec::new();
    for (key, node) in &topology.sources {
        let source = node.source.as_ref();
        if source.is_some_and(|source| source.value.purging.is_some()) {
            found.push(Entity::Source(key.clone()));
            continue;
        }
        let sinks = node.sinks.values().filter_map(|node| node.sink.as_ref());
        let purging = sinks.filter(|sink| sink.value.purging.is_some());
        found.extend(purging.map(|sink| Entity::Sink(sink.value.key.clone())));
    }
    found
}

async fn resume_one(context: &Context, entity: Entity, failing: &mut BTreeSet<String>) {
    let name = entity.to_string();
    let outcome = context
        .runner
        .alone(&entity, |state| {
            let entity = entity.clone();
            async move {
                match &entity {
                    Entity::Sink(key) => sink(context, &state, key).await.map(|_| ()),
                    Entity::Source(key) => source(context, &state, key).await.1,
                }
            }
        })
        .await;
    match outcome {
        // Somebody works on it.
        Ok(None) => {}
        Ok(Some(())) => {
            info!(entity = name, "purge that was left unfinished is done");
            failing.remove(&name);
        }
        Err(error) if failing.insert(name.clone()) => {
            warn!(
                entity = name,
                reason = error.message,
                "purge cannot be finished yet, will go on trying"
            );
        }
        Err(error) => debug!(
            entity = name,
            reason = error.message,
            "purge still cannot be finished"
        ),
    }
}
