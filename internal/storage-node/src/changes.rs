//! Which slices of a volume may have changed since the last look, so that a round costs what changed and not what exists.

use std::sync::Arc;
use std::time::Duration;

use stream_model::slice::Slice;
use stream_model::{Timestamp, VolumeId};
use stream_state::{Topology, Versioned};

/// How often everything is looked at, to repair whatever was missed.
const FULL_LOOK: Duration = Duration::from_secs(60);

/// What one look remembers for the next.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    revision: i64,
    full_at: Option<Timestamp>,
}

impl Changes {
    /// The slices of the volume that may have changed, at least; all of them now and then.
    pub(crate) fn slices(
        &mut self,
        topology: &Topology,
        volume: VolumeId,
        now: Timestamp,
    ) -> Vec<Arc<Versioned<Slice>>> {
        let slices = if self.full_at.is_none_or(|at| at <= now) {
            self.full_at = Some(now + FULL_LOOK);
            topology.slices_of_volume(volume).cloned().collect()
        } else {
            let sources = topology.changed_since(self.revision);
            let sinks = sources
                .filter_map(|key| topology.sources.get(key))
                .flat_map(|s| s.sinks.values());
            let slices = sinks.flat_map(|sink| sink.slices.values());
            slices
                .filter(|slice| slice.value.volume == volume)
                .cloned()
                .collect()
        };
        self.revision = topology.revision;
        slices
    }

    /// The next look is at everything.
    pub(crate) fn restart(&mut self) {
        self.full_at = None;
    }
}
