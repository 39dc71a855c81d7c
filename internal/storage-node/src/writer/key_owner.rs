//! Who decides about idempotency keys when a volume is away.
//!
//! Sources in the mode `available` let the other volumes of the source take the shards over of one that is away. Nobody can ask that
//! one, so it has to know by itself when it may not decide any more:
//!
//! 1. Each volume of such a source says in the state that it *yields*, and waits for nobody with that.
//! 2. From the moment it asks to be written down there it decides about keys of the source only while its registration certainly stands:
//!    its lease lives for a while yet, and it has looked since what others had taken over before ([`Fence`]).
//! 3. Others take over only from a volume that yields and has not been registered for [`KeyOwner::away_after`], in a transaction that
//!    compares both. So whoever is registered again knows of it before it decides about anything.
//!
//! A volume that does not yield decides without a lease, for etcd may be away for hours; its shards are never taken over.
//!
//! What is left is a group that the volume had judged before its lease ran out and whose rows reach the disk later than the shards
//! are taken over. `away_after` on top of the lease is for that.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stream_model::idempotency::{Assigned, KeyMode, Yields};
use stream_model::{Clock, SliceId, SourceKey, Timestamp, VolumeId};
use stream_node::CancellationToken;
use stream_state::keyspace::Key;
use stream_state::{Lease, Mirror, SourceNode, StateError, Store, Topology};
use stream_storage::wire::{Claim, KeyGate};
use tracing::{debug, info};

use super::metrics::Metrics;

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// Says for all volumes of the process whether they may decide about keys.
pub(crate) struct Fence {
    mirror: Mirror,
    lease: Lease,
    /// Volumes that have asked to yield in a source, and are not certain to do so no more.
    asked: Mutex<HashSet<(VolumeId, SourceKey)>>,
    /// The registrations, by their revision, since which it was seen that the mirror knows what was taken over before. While such a
    /// registration stands nothing more is.
    confirmed: Mutex<HashMap<(VolumeId, SourceKey), i64>>,
}

impl Fence {
    pub(crate) fn new(mirror: Mirror, lease: Lease) -> Self {
        Self {
            mirror,
            lease,
            asked: Mutex::default(),
            confirmed: Mutex::default(),
        }
    }

    fn has_asked(&self, volume: VolumeId, source: &SourceKey) -> bool {
        let asked = self.asked.lock();
        !asked.is_empty() && asked.contains(&(volume, source.clone()))
    }

    fn is_confirmed(&self, volume: VolumeId, source: &SourceKey) -> bool {
        let registered = self.lease.registered_since(&Key::Registration(volume));
        let confirmed = self.confirmed.lock();
        registered.is_some_and(|since| confirmed.get(&(volume, source.clone())) == Some(&since))
    }
}

impl KeyGate for Fence {
    fn may_decide(&self, volume: VolumeId, slice: SliceId, claims: &[Claim]) -> bool {
        self.mirror.read(|topology| {
            let Some(slice) = topology.slice(slice) else {
                return false;
            };
            let source = &slice.value.sink.source;
            let Some(node) = topology.sources.get(source) else {
                return false;
            };
            // Without volumes of its own the source is from before they were written down.
            let Some(assigned) = &node.assignment else {
                return true;
            };
            let may_be_away = mode(node) == KeyMode::Available
                || assigned.yields(volume)
                || self.has_asked(volume, source);
            let owns = |claim: &Claim| {
                let owner = assigned.owner(source, claim.key.shard());
                owner.is_some_and(|owner| owner.volume == volume)
            };
            claims.iter().all(owns) && (!may_be_away || self.is_confirmed(volume, source))
        })
    }
}

fn mode(node: &SourceNode) -> KeyMode {
    let source = node.source.as_ref();
    source.map_or(KeyMode::Strict, |source| source.value.settings.key_mode())
}

/// Looks after the keys of one open volume.
pub(crate) struct KeyOwner {
    pub(crate) volume: VolumeId,
    pub(crate) fence: Arc<Fence>,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    /// How long another volume has no registration before its shards are taken over.
    pub(crate) away_after: Duration,
    /// Volumes without a registration, each with the time at which that was first seen.
    pub(crate) away: Mutex<BTreeMap<VolumeId, Timestamp>>,
}

/// A source of the volume that is, or was, in the mode `available`.
struct Duty {
    source: SourceKey,
    mode: KeyMode,
    assigned: Arc<Assigned>,
}

impl KeyOwner {
    /// Looks until cancelled.
    pub(crate) async fn run(&self, cancel: &CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
            if let Err(error) = self.round().await {
                // The mirror says that the state is away.
                debug!(volume = %self.volume, %error, "cannot look after the owners of keys");
            }
        }
    }

    /// One look.
    pub(crate) async fn round(&self) -> Result<(), StateError> {
        let duties = self.fence.mirror.read(|topology| self.list(topology));
        for duty in &duties {
            let looked = async {
                self.yield_in(duty).await?;
                self.confirm(duty).await
            };
            match looked.await {
                // The source has been deleted for good.
                Err(StateError::NotFound { .. }) => {}
                looked => looked?,
            }
        }
        let stands_in = |duty: &&Duty| {
            let is_one_of_several = duty.assigned.volumes.len() > 1;
            duty.mode == KeyMode::Available && is_one_of_several
        };
        let duties: Vec<&Duty> = duties.iter().filter(stands_in).collect();
        if duties.is_empty() {
            self.away.lock().clear();
            return Ok(());
        }
        let registered = self.store.volumes().await?;
        let registered: BTreeSet<VolumeId> = registered.into_iter().map(|(id, _)| id).collect();
        let away = self.note_away(&duties, &registered);
        for duty in duties {
            self.take_over(duty, &away, &registered).await?;
        }
        Ok(())
    }

    fn list(&self, topology: &Topology) -> Vec<Duty> {
        let duty = |(source, node): (&SourceKey, &SourceNode)| {
            let assigned = node.assignment.as_ref()?;
            let mode = mode(node);
            let concerns = mode == KeyMode::Available || assigned.yields(self.volume);
            (concerns && assigned.volumes.contains(&self.volume)).then(|| Duty {
                source: source.clone(),
                mode,
                assigned: Arc::clone(assigned),
            })
        };
        topology.sources.iter().filter_map(duty).collect()
    }

    /// Says in the state whether others may decide in the place of this volume.
    async fn yield_in(&self, duty: &Duty) -> Result<(), StateError> {
        let yields = match duty.mode {
            KeyMode::Available => Yields::WhileAway,
            KeyMode::Strict => Yields::Never,
        };
        let does = duty.assigned.yields(self.volume);
        if does == (yields == Yields::WhileAway) {
            return Ok(());
        }
        let (volume, source) = (self.volume, &duty.source);
        if yields == Yields::WhileAway {
            // Before the question: it may be carried out although its answer gets lost.
            self.fence.asked.lock().insert((volume, source.clone()));
        }
        self.store.set_yielding(source, volume, yields).await?;
        if yields == Yields::Never {
            self.fence.asked.lock().remove(&(volume, source.clone()));
        }
        debug!(%volume, %source, ?yields, "keys of the volume while it is away");
        Ok(())
    }

    /// Makes sure that the mirror knows what others had taken over before this volume was registered. It shows no revision but of what
    /// it mirrors, so what it has is compared with what is stored.
    async fn confirm(&self, duty: &Duty) -> Result<(), StateError> {
        let (fence, of) = (&self.fence, (self.volume, duty.source.clone()));
        let registered = fence
            .lease
            .registered_since(&Key::Registration(self.volume));
        let Some(since) = registered.filter(|_| duty.assigned.yields(self.volume)) else {
            return Ok(());
        };
        if fence.confirmed.lock().get(&of) == Some(&since) {
            return Ok(());
        }
        let stored = self.store.assigned(&duty.source).await?;
        if stored.value == *duty.assigned {
            fence.confirmed.lock().insert(of, since);
        }
        Ok(())
    }

    /// The volumes that have been away for so long that others take over.
    fn note_away(&self, duties: &[&Duty], registered: &BTreeSet<VolumeId>) -> BTreeSet<VolumeId> {
        let now = self.clock.now();
        let volumes = duties.iter().flat_map(|duty| &duty.assigned.volumes);
        let missing: BTreeSet<VolumeId> = volumes
            .filter(|volume| !registered.contains(volume))
            .copied()
            .collect();
        let mut away = self.away.lock();
        away.retain(|volume, _| missing.contains(volume));
        for volume in missing {
            away.entry(volume).or_insert(now);
        }
        let is_over = |since: &Timestamp| now.since(*since) >= self.away_after;
        let over = away.iter().filter(|(_, since)| is_over(since));
        over.map(|(volume, _)| *volume).collect()
    }

    /// Takes over what volumes that are away have of a source. All volumes that are there do the same; one of them is first.
    async fn take_over(
        &self,
        duty: &Duty,
        away: &BTreeSet<VolumeId>,
        registered: &BTreeSet<VolumeId>,
    ) -> Result<(), StateError> {
        let (source, assigned) = (&duty.source, &duty.assigned);
        let is_there = |volume: &&VolumeId| registered.contains(volume);
        let others: Vec<VolumeId> = assigned.volumes.iter().filter(is_there).copied().collect();
        for from in away.iter().filter(|volume| assigned.yields(**volume)) {
            let now = self.clock.now();
            let Some(new) = assigned.taken_over(source, *from, &others, now) else {
                continue;
            };
            match self
                .store
                .take_keys_over(source, assigned, *from, new)
                .await
            {
                Ok(_) => {
                    self.metrics.key_takeovers.inc();
                    info!(%source, %from, "idempotency keys of a volume that is away are decided about by the others from now on");
                }
                // Another one was faster, or it is back, or the source is gone.
                Err(
                    StateError::Conflict { .. }
                    | StateError::AlreadyExists { .. }
                    | StateError::NotFound { .. },
                ) => {}
                Err(error) => return Err(error),
            }
            // What is left is seen with the next look.
            return Ok(());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
