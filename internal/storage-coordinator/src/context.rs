//! What all reconcilers of a coordinator share: the handles they work with, who is alive, and how they act.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use parking_lot::RwLock;
use stream_model::placement::{self, Candidate};
use stream_model::{Clock, ErrorKind, NodeId, SinkKey, SourceKey, VolumeId};
use stream_node::{Activator, CancellationToken, TaskError};
use stream_state::{Mirror, StateError, Store, Topology};
use stream_storage::staging::Staging;
use stream_target::Targets;
use tracing::{debug, info, warn};

use crate::metrics::Metrics;
use crate::picture::Picture;
use crate::{COMPONENT, CoordinatorOptions};

/// Transactions of one reconciler that are under way at the same time.
const CONCURRENT_STEPS: usize = 16;
/// How often the live replicas and volumes are read.
const SURROUNDINGS_PERIOD: Duration = Duration::from_secs(2);
/// How long a round waits for the mirror to show what it wrote. Going on without costs conflicts, nothing else.
const MIRROR_PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) mirror: Mirror,
    pub(crate) staging: Staging,
    pub(crate) targets: Targets,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Box<dyn Fn() -> [u8; 10] + Send + Sync>,
    pub(crate) node: NodeId,
    pub(crate) options: CoordinatorOptions,
    pub(crate) metrics: Metrics,
    pub(crate) surroundings: RwLock<Arc<Surroundings>>,
}

/// Which coordinators and volumes are alive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Surroundings {
    node: String,
    replicas: Vec<String>,
    volumes: Vec<Candidate>,
    generation: u64,
}

impl Surroundings {
    /// `replicas` need not contain this node: whether its own registration is visible yet does not matter.
    pub(crate) fn new(node: &NodeId, replicas: Vec<String>, volumes: Vec<Candidate>) -> Self {
        Self {
            node: node.to_string(),
            replicas,
            volumes,
            generation: 1,
        }
    }

    /// In the form in which a [`Context`] holds them.
    pub(crate) fn shared(self) -> RwLock<Arc<Self>> {
        RwLock::new(Arc::new(self))
    }

    pub(crate) fn is_live(&self, volume: VolumeId) -> bool {
        self.volumes
            .iter()
            .any(|candidate| candidate.volume == volume)
    }

    pub(crate) fn volumes(&self) -> &[Candidate] {
        &self.volumes
    }

    /// Rises whenever a replica or volume comes or goes.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether this coordinator does the work of the sink. Two may believe so for a moment; the transactions sort it out.
    pub(crate) fn owns(&self, sink: &SinkKey) -> bool {
        if self.replicas.iter().all(|replica| *replica == self.node) {
            return true;
        }
        let others = self.replicas.iter().map(String::as_str);
        let all = others
            .filter(|replica| *replica != self.node)
            .chain([self.node.as_str()]);
        placement::owner(&sink.to_string(), all) == Some(self.node.as_str())
    }
}

impl Context {
    pub(crate) fn surroundings(&self) -> Arc<Surroundings> {
        Arc::clone(&self.surroundings.read())
    }

    /// The sinks of a source that this coordinator works for.
    pub(crate) fn own_sinks<'a>(
        &self,
        topology: &'a Topology,
        around: &Surroundings,
        source: &SourceKey,
    ) -> Vec<(SinkKey, Picture<'a>)> {
        let Some(node) = topology.sources.get(source) else {
            return Vec::new();
        };
        let sinks = node.sinks.iter().map(|(sink, sink_node)| {
            let key = SinkKey {
                source: source.clone(),
                sink: sink.clone(),
            };
            (key, Picture::new(node, sink_node))
        });
        sinks.filter(|(key, _)| around.owns(key)).collect()
    }

    /// Acts on all steps, several at a time, and waits until the mirror shows the result. `act` answers the revision of its
    /// transaction. Conflicts mean that somebody was faster and are no errors; any other error is returned after the rest
    /// was tried. Returns how many steps were done.
    pub(crate) async fn act_on_all<S, F>(
        &self,
        steps: Vec<S>,
        cancel: &CancellationToken,
        act: impl Fn(S) -> F,
    ) -> Result<usize, StateError>
    where
        F: Future<Output = Result<i64, StateError>>,
    {
        let (mut changed, mut revision, mut failure) = (0, None, None);
        let acting = stream::iter(steps)
            .take_while(|_| std::future::ready(!cancel.is_cancelled()))
            .map(act)
            .buffer_unordered(CONCURRENT_STEPS);
        let mut results = std::pin::pin!(acting);
        while let Some(result) = results.next().await {
            match result {
                Ok(at) => {
                    changed += 1;
                    revision = revision.max(Some(at));
                }
                Err(error) if is_overtaken(&error) => debug!(%error, "somebody else was faster"),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(revision) = revision {
            self.await_mirror(revision).await;
        }
        failure.map_or(Ok(changed), Err)
    }

    /// Waits until the mirror shows a revision, but not for ever.
    pub(crate) async fn await_mirror(&self, revision: i64) {
        if tokio::time::timeout(MIRROR_PATIENCE, self.mirror.reached(revision))
            .await
            .is_err()
        {
            debug!(revision, "the mirror is behind");
        }
    }

    /// Reads who is alive. Returns whether anything changed.
    pub(crate) async fn look_around(&self) -> Result<bool, StateError> {
        let replicas = self.store.nodes(COMPONENT).await?;
        let replicas: BTreeMap<_, _> = replicas.into_iter().collect();
        let replicas = replicas.into_keys().map(|node| node.to_string()).collect();
        let volumes = self.store.volumes().await?;
        let candidate =
            |(volume, registration): (VolumeId, stream_state::Registration)| Candidate {
                volume,
                kind: registration.kind,
            };
        let volumes = volumes.into_iter().map(candidate).collect();
        let mut current = self.surroundings.write();
        let mut new = Surroundings::new(&self.node, replicas, volumes);
        new.generation = current.generation;
        if **current == new {
            return Ok(false);
        }
        new.generation += 1;
        debug!(
            replicas = new.replicas.len(),
            volumes = new.volumes.len(),
            "surroundings changed"
        );
        *current = Arc::new(new);
        Ok(true)
    }

    /// Keeps [`Self::surroundings`] up to date until cancelled.
    pub(crate) async fn keep_looking_around(
        self: Arc<Self>,
        activators: Vec<Activator>,
        cancel: CancellationToken,
    ) -> Result<(), TaskError> {
        let mut failing = false;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(SURROUNDINGS_PERIOD) => {}
            }
            match self.look_around().await {
                Ok(changed) => {
                    if failing {
                        info!("live volumes and coordinators can be read again");
                    }
                    failing = false;
                    if changed {
                        activators.iter().for_each(Activator::activate);
                    }
                }
                Err(error) if !failing => {
                    failing = true;
                    warn!(%error, "cannot read which volumes and coordinators are alive");
                }
                Err(error) => debug!(%error, "still cannot read who is alive"),
            }
        }
    }
}

/// Whether the error only says that the picture was old.
pub(crate) fn is_overtaken(error: &StateError) -> bool {
    matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn every_sink_has_exactly_one_owner() {
        let nodes: Vec<NodeId> = ["a", "b", "c"]
            .iter()
            .map(|node| node.parse().expect("valid node"))
            .collect();
        let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        let views: Vec<_> = nodes
            .iter()
            .map(|node| Surroundings::new(node, names.clone(), Vec::new()))
            .collect();
        for number in 0..50 {
            let sink = fixture::sink_key(&format!("sink-{number}"));
            assert_eq!(views.iter().filter(|view| view.owns(&sink)).count(), 1);
        }
    }

    #[test]
    fn a_coordinator_that_sees_no_registration_works_for_itself() {
        let node: NodeId = "a".parse().expect("valid node");
        let alone = Surroundings::new(&node, Vec::new(), Vec::new());
        assert!(alone.owns(&fixture::sink_key("raw")));
        let unseen = Surroundings::new(&node, vec!["b".to_owned()], Vec::new());
        let owned = (0..50).filter(|n| unseen.owns(&fixture::sink_key(&format!("sink-{n}"))));
        assert!((5..45).contains(&owned.count()));
    }
}
