//! All lanes of the process: one per source and volume, never two at a time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stream_model::{SessionId, SourceKey, VolumeId};
use stream_node::lifecycle::BoxFuture;
use stream_storage::wire::Transport;

use crate::batch::Spares;
use crate::lane::{Lane, Owner, Surroundings};
use crate::link::Link;

/// How tasks of lanes are started.
pub(crate) type Spawn = Box<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// The lanes and the connections that they share.
pub(crate) struct Lanes {
    session: SessionId,
    transport: Arc<dyn Transport>,
    timeout: Duration,
    spawn: Spawn,
    spares: Spares,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    lanes: HashMap<SourceKey, BTreeMap<VolumeId, Lane>>,
    /// Lanes that have been told to end.
    retiring: Vec<(SourceKey, VolumeId)>,
    /// One per volume that was ever used: a volume is not forgotten often enough to matter.
    links: HashMap<VolumeId, Arc<Link>>,
}

impl Lanes {
    /// No lanes yet. Batches are answered at most `timeout` after their first record.
    pub fn new(
        session: SessionId,
        transport: Arc<dyn Transport>,
        timeout: Duration,
        spawn: Spawn,
    ) -> Self {
        Self {
            session,
            transport,
            timeout,
            spawn,
            spares: Spares::default(),
            known: Mutex::default(),
        }
    }

    /// The lane of a source on a volume; a new one if there is none. During the stop a new one takes nothing.
    pub fn get(&self, source: &SourceKey, volume: VolumeId, around: &Surroundings) -> Lane {
        let mut known = self.known.lock();
        if let Some(lane) = known.lanes.get(source).and_then(|lanes| lanes.get(&volume))
            && lane.revive()
        {
            return lane.clone();
        }
        if around.stop.is_cancelled() {
            // Nothing more is started; what is appended comes back as from any lane that has ended.
            return Lane::ended(self.timeout);
        }
        let link = known.links.entry(volume).or_insert_with(|| {
            Arc::new(Link::new(volume, self.session, Arc::clone(&self.transport)))
        });
        let link = Arc::clone(link);
        let lane = Lane::new(self.timeout, self.spares.clone());
        known
            .lanes
            .entry(source.clone())
            .or_default()
            .insert(volume, lane.clone());
        drop(known);
        let owner = Owner::new(lane.clone(), source.clone(), link, around.clone());
        (self.spawn)(Box::pin(owner.run()));
        lane
    }

    /// Lets the lanes of a source end that are not among these volumes, and forgets those that have ended.
    pub fn keep_only(&self, source: &SourceKey, volumes: &[VolumeId]) {
        let mut known = self.known.lock();
        let Known {
            lanes, retiring, ..
        } = &mut *known;
        for (volume, lane) in lanes.get(source).into_iter().flatten() {
            if !volumes.contains(volume) && lane.retire() {
                retiring.push((source.clone(), *volume));
            }
        }
        retiring.retain(|(source, volume)| {
            let Some(of_source) = lanes.get_mut(source) else {
                return false;
            };
            if of_source.get(volume).is_some_and(Lane::has_ended) {
                of_source.remove(volume);
            }
            let is_left = of_source.contains_key(volume);
            if of_source.is_empty() {
                lanes.remove(source);
            }
            is_left
        });
    }
}
