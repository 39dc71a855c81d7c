//! Where the records of a source go at this moment: a snapshot that never changes, replaced as a whole by a newer one.

use std::sync::Arc;

use stream_encoding::CompiledMapping;
use stream_encoding::jsonnet::Templates;
use stream_model::definition::Mapping;
use stream_model::level::{Compression, Durability};
use stream_model::{Secret, SessionId, SinkId, SliceId, SourceKey, VolumeId};
use tokio::sync::watch;

use crate::key::KeyRouting;
use crate::lane::Lane;

/// How records of a source become rows: its enabled sinks, each with the mapping of its current file.
///
/// Shared by all batches that were mapped by it. A rotation of slices or files keeps the plan; a batch that was mapped
/// by another plan than the present one is mapped again before it is bound.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Sorted by sink.
    pub sinks: Vec<PlannedSink>,
    /// The source, as rows of rejected records name it.
    pub source: Box<str>,
    needs_headers: bool,
    has_templates: bool,
}

/// One sink of a plan.
#[derive(Debug, Clone)]
pub(crate) struct PlannedSink {
    /// The sink.
    pub sink: SinkId,
    /// Version of the definition that `mapping` was compiled from.
    pub mapping_version: u64,
    /// The mapping.
    pub mapping: Arc<CompiledMapping>,
    /// What it was compiled from: after a purge another sink has the same name and versions.
    pub columns: Arc<Mapping>,
}

impl Plan {
    /// A plan for these sinks, sorted.
    pub fn new(sinks: Vec<PlannedSink>) -> Self {
        let needs_headers = sinks.iter().any(|sink| sink.mapping.needs_headers());
        let has_templates = sinks.iter().any(|sink| sink.mapping.templates().is_some());
        Self {
            sinks,
            source: Box::default(),
            needs_headers,
            has_templates,
        }
    }

    /// The same, for this source.
    #[must_use]
    pub fn of(mut self, source: &SourceKey) -> Self {
        self.source = source.to_string().into();
        self
    }

    /// Whether rows made by `other` are rows of this plan.
    pub fn makes_same_rows_as(&self, other: &Self) -> bool {
        let same = |(a, b): (&PlannedSink, &PlannedSink)| {
            a.sink == b.sink
                && a.mapping_version == b.mapping_version
                && (Arc::ptr_eq(&a.columns, &b.columns) || a.columns == b.columns)
        };
        self.sinks.len() == other.sinks.len() && self.sinks.iter().zip(&other.sinks).all(same)
    }

    /// Whether any mapping has templates that are evaluated elsewhere.
    pub fn has_templates(&self) -> bool {
        self.has_templates
    }

    /// These templates, those of each mapping together.
    pub fn templates(&self) -> impl Iterator<Item = &Arc<Templates>> {
        self.sinks
            .iter()
            .filter_map(|sink| sink.mapping.templates())
    }

    /// Whether any mapping reads the request headers.
    pub fn needs_headers(&self) -> bool {
        self.needs_headers
    }
}

/// Where the records of a source go.
#[derive(Debug)]
pub(crate) struct Route {
    /// The source.
    pub source: SourceKey,
    /// The secret of its URL.
    pub secret: Secret<String>,
    /// Whether records can be written now.
    pub state: State,
}

/// Whether the records of a source can be written.
#[derive(Debug)]
pub(crate) enum State {
    /// The source is disabled.
    Disabled,
    /// The source has no enabled sink.
    NoEnabledSink,
    /// A sink has no slice that takes rows: it was just created, or the news of the next slice is on the way.
    NoSlice,
    /// A sink, or its mapping, cannot be used by this version.
    Broken,
    /// Every enabled sink has a slice on every volume listed here.
    Ready(Ready),
}

/// How and where to write.
#[derive(Debug)]
pub(crate) struct Ready {
    /// How records become rows.
    pub plan: Arc<Plan>,
    /// Never empty.
    pub volumes: Vec<VolumeRoute>,
    /// What is done about idempotency keys.
    pub keys: Arc<KeyRouting>,
}

/// The slices of a source on one volume.
#[derive(Debug, Clone)]
pub(crate) struct VolumeRoute {
    /// The volume.
    pub volume: VolumeId,
    /// The lane that writes there.
    pub lane: Lane,
    /// For each sink of the plan, in its order, the slice that takes rows.
    pub targets: Arc<[Target]>,
    /// The same for the slices that take what the sinks reject; none where there is no such slice yet.
    pub rejects: Arc<[Option<Target>]>,
}

impl VolumeRoute {
    /// What an acknowledgement promises: the weakest class among the sinks.
    pub fn weakest(&self) -> Durability {
        let classes = self.targets.iter().map(|target| target.durability);
        classes.max().unwrap_or(Durability::Disk)
    }

    /// What an acknowledgement has to wait for: the strongest class among the sinks.
    pub fn strongest(&self) -> Durability {
        let classes = self.targets.iter().map(|target| target.durability);
        classes.min().unwrap_or(Durability::Disk)
    }
}

/// A slice that takes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// The slice.
    pub slice: SliceId,
    /// How its frames are compressed.
    pub compression: Compression,
    /// What an acknowledgement of its rows promises.
    pub durability: Durability,
}

/// What the state store says about a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It takes rows, or may still be committing some.
    Live,
    /// It was sealed; the highest sequence number of the session in it, 0 for none.
    Sealed {
        /// That number.
        last: u64,
    },
    /// There is no record of it any more.
    Gone,
}

/// What lanes need to know about the rest of the service. Answers come from memory.
pub(crate) trait Directory: Send + Sync {
    /// The present route of a source; none when there is no such source.
    fn route(&self, source: &SourceKey) -> Option<Arc<Route>>;

    /// What became of a slice.
    fn fate(&self, slice: SliceId, session: SessionId) -> Fate;

    /// Changes whenever an answer of the other two may have changed. Holds the revision that they answer from.
    fn news(&self) -> watch::Receiver<i64>;

    /// The newest revision that this process has heard of. The answers follow it within a moment.
    fn heard(&self) -> i64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{body_sink, path_sink};

    #[test]
    fn rows_are_the_same_when_sinks_versions_and_columns_are() {
        let own = || Plan::new(vec![body_sink("a", 1), path_sink("b", 2, "x")]);
        assert!(own().makes_same_rows_as(&own()));
        let others = [
            vec![],
            vec![body_sink("a", 1)],
            vec![body_sink("a", 1), path_sink("b", 2, "x"), body_sink("c", 1)],
            vec![body_sink("other", 1), path_sink("b", 2, "x")],
            vec![body_sink("a", 2), path_sink("b", 2, "x")],
            // After a purge another sink has the name, and its versions begin anew.
            vec![path_sink("a", 1, "x"), path_sink("b", 2, "x")],
            vec![body_sink("a", 1), path_sink("b", 2, "y")],
        ];
        for sinks in others {
            let other = Plan::new(sinks);
            assert!(!own().makes_same_rows_as(&other), "{other:?}");
            assert!(!other.makes_same_rows_as(&own()), "{other:?}");
        }
    }
}
