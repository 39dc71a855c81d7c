//! Removes rejected records that were kept for their time: first the object, then the record of the slice, whose figures are
//! added to those of the sink that are not kept any more. So their number is never forgotten.
//!
//! A flood of rejects makes objects faster than time removes them, and every process with a mirror holds a record of each:
//! beyond a number per sink the oldest go before their time. That is counted for itself and said in the log.

use std::sync::Arc;
use std::time::Duration;

use stream_model::Timestamp;
use stream_model::slice::{Slice, State};
use stream_state::{Topology, Versioned};
use stream_storage::crash::{self, Point};
use tracing::{debug, warn};

use super::{ABSENT_VOLUME_PATIENCE, Cleanup, CleanupError, SEEN_BY_ALL};
use crate::context::Surroundings;
use crate::picture::Picture;

/// How long rejected records are kept, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectsKept {
    /// How long an object stays after it was uploaded. Default 30 days. Raising it costs staging space, and about 1 KiB of
    /// memory per object in every process.
    pub retention: Duration,
    /// The most objects of a sink, the newest ones. Default 1000. Raising it costs the same.
    pub objects_per_sink: usize,
}

impl Default for RejectsKept {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(30 * 24 * 3600),
            objects_per_sink: 1000,
        }
    }
}

/// Why a slice of rejected records goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It has no records.
    Empty,
    /// Its time is over.
    Age,
    /// There are too many newer ones.
    Number,
}

impl Why {
    /// The label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Age => "age",
            Self::Number => "number",
        }
    }
}

/// A slice of rejected records that goes.
#[derive(Debug, Clone)]
pub(crate) struct Gone {
    pub(crate) slice: Arc<Versioned<Slice>>,
    pub(crate) why: Why,
}

/// The slices of rejected records of one sink that go now.
pub(crate) fn expired(
    picture: &Picture<'_>,
    around: &Surroundings,
    kept: &RejectsKept,
    now: Timestamp,
) -> Vec<Gone> {
    let (mut gone, mut newer) = (Vec::new(), 0);
    for slice in picture.rejects().rev() {
        let State::Uploaded { at, object, .. } = &slice.value.state else {
            continue;
        };
        let age = now.since(*at);
        let why = match object {
            None => Why::Empty,
            Some(_) if age >= kept.retention => Why::Age,
            Some(_) => {
                newer += 1;
                if newer <= kept.objects_per_sink {
                    continue;
                }
                Why::Number
            }
        };
        // The writer, which releases its copy, and sources, which ask for the fate of a batch, must have seen the record.
        let is_seen = around.is_live(slice.value.volume) || age >= ABSENT_VOLUME_PATIENCE;
        if is_seen && age >= SEEN_BY_ALL {
            let slice = Arc::clone(slice);
            gone.push(Gone { slice, why });
        }
    }
    gone
}

impl Cleanup {
    /// What is to go.
    pub(super) fn list_rejects(
        &self,
        topology: &Topology,
        around: &Surroundings,
        now: Timestamp,
    ) -> Vec<Gone> {
        let kept = &self.context.options.cleanup.rejects;
        let sinks = topology
            .sources
            .keys()
            .flat_map(|source| self.context.own_sinks(topology, around, source));
        let gone = sinks.flat_map(|(_, picture)| expired(&picture, around, kept, now));
        gone.collect()
    }

    pub(super) async fn remove_rejects(&self, gone: &Gone) -> Result<(), CleanupError> {
        let (slice, why) = (&gone.slice, gone.why);
        if let Some(object) = slice.value.object() {
            self.context.staging.delete(object).await?;
            crash::point(Point::ObjectDeleted);
        }
        self.context.store.remove_rejects(slice).await?;
        let records = slice.value.seal().map_or(0, |seal| seal.figures.rows);
        let (sink, id) = (&slice.value.sink, slice.value.id);
        self.context.metrics.rejects_removed(why.as_str(), records);
        if why == Why::Number {
            warn!(%sink, slice = %id, records, "rejected records removed before their time, there are too many newer ones");
        } else {
            debug!(%sink, slice = %id, records, ?why, "rejected records removed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
