//! Which sources a round of a reconciler has to look at, so that a round costs what changed and not what exists.
//!
//! A source is on the agenda when anything of it changed since the last round, when something of it falls due, and every
//! now and then together with all others: the full look repairs whatever was missed, whyever it was missed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stream_model::{SourceKey, Timestamp};
use stream_state::Topology;

/// How often a round looks at everything.
const FULL_LOOK: Duration = Duration::from_secs(60);

/// What one reconciler remembers between its rounds.
#[derive(Default)]
pub(crate) struct Agenda {
    /// Everything up to this revision was looked at.
    revision: i64,
    /// When the next full look is due; none: at once.
    full_at: Option<Timestamp>,
    /// What the surroundings were when it looked last.
    surroundings: u64,
    due: BTreeMap<SourceKey, Timestamp>,
    /// What the last round had no room for.
    waiting: BTreeSet<SourceKey>,
}

impl Agenda {
    /// The sources to look at now. Those that were due are taken off.
    pub(crate) fn open(
        &mut self,
        topology: &Topology,
        surroundings: u64,
        now: Timestamp,
    ) -> BTreeSet<SourceKey> {
        let full = self.full_at.is_none_or(|at| at <= now) || self.surroundings != surroundings;
        let due: Vec<_> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &due {
            self.due.remove(key);
        }
        let sources = if full {
            self.full_at = Some(now + FULL_LOOK);
            self.surroundings = surroundings;
            self.due.clear();
            self.waiting.clear();
            topology.sources.keys().cloned().collect()
        } else {
            let waiting = std::mem::take(&mut self.waiting);
            topology
                .changed_since(self.revision)
                .cloned()
                .chain(due)
                .chain(waiting)
                .collect()
        };
        self.revision = topology.revision;
        sources
    }

    /// Notes that something of the source falls due.
    pub(crate) fn note(&mut self, source: &SourceKey, at: Timestamp) {
        let due = self.due.entry(source.clone()).or_insert(at);
        *due = at.min(*due);
    }

    /// Notes that there was no room for the source: the next round looks at it, whenever that is.
    pub(crate) fn wait(&mut self, source: &SourceKey) {
        self.waiting.insert(source.clone());
    }

    /// Forgets what was looked at: the next round looks at everything.
    pub(crate) fn restart(&mut self) {
        self.full_at = None;
    }

    /// How long until something falls due.
    pub(crate) fn next(&self, now: Timestamp) -> Option<Duration> {
        self.due.values().min().map(|at| at.since(now))
    }
}
