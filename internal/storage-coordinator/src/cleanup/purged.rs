//! Removes what slices of purged sinks have left: first the object, then the note.

use std::sync::Arc;

use stream_model::Timestamp;
use stream_model::purge::Purged;
use stream_model::slice::{Kind, Slice};
use stream_state::{Topology, Versioned};
use stream_storage::crash::{self, Point};
use stream_storage::staging::Staging;
use tracing::debug;

use super::{ABSENT_VOLUME_PATIENCE, Cleanup, CleanupError, SEEN_BY_ALL};
use crate::context::Surroundings;
use crate::picture::Picture;

/// The notes of one sink that nobody needs any more: the writer has released the slice, and sources have seen what became of
/// it. Until then an upload may be under way, too.
pub(crate) fn seen<'a>(
    picture: &Picture<'a>,
    around: &Surroundings,
    now: Timestamp,
) -> Vec<Arc<Versioned<Purged>>> {
    let is_seen = |note: &&Arc<Versioned<Purged>>| {
        let age = now.since(note.value.at);
        let live = around.is_live(note.value.slice.volume);
        age >= SEEN_BY_ALL && (live || age >= ABSENT_VOLUME_PATIENCE)
    };
    picture.purged().filter(is_seen).cloned().collect()
}

/// The name of its object: the one that was recorded, or the one that an upload under way would have made.
fn object(slice: &Slice) -> Option<String> {
    let seal = slice.seal().filter(|seal| seal.figures.rows > 0)?;
    let name = match slice.kind {
        Kind::Rows => Staging::object_name,
        Kind::Rejects => Staging::rejects_name,
    };
    let recorded = slice.object().map(str::to_owned);
    let made = || name(&slice.sink, slice.id, &seal.checksum, slice.compression);
    Some(recorded.unwrap_or_else(made))
}

impl Cleanup {
    /// What is to go.
    pub(super) fn list_purged(
        &self,
        topology: &Topology,
        around: &Surroundings,
        now: Timestamp,
    ) -> Vec<Arc<Versioned<Purged>>> {
        let sinks = topology
            .sources
            .keys()
            .flat_map(|source| self.context.own_sinks(topology, around, source));
        let seen = sinks.flat_map(|(_, picture)| seen(&picture, around, now));
        seen.collect()
    }

    pub(super) async fn remove_purged(&self, note: &Versioned<Purged>) -> Result<(), CleanupError> {
        let slice = &note.value.slice;
        if let Some(object) = object(slice) {
            self.context.staging.delete(&object).await?;
            crash::point(Point::ObjectDeleted);
        }
        self.context.store.remove_purged(note).await?;
        debug!(sink = %slice.sink, slice = %slice.id, "remains of a purged slice removed");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
