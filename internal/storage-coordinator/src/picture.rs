//! What the reconcilers see of one sink: its definition, its files, its slices, and what is known of its rows.
//!
//! Everything is read from one revision of the mirror. It may be old by the time it is acted on; the transactions compare
//! what was read, so an old picture leads to a conflict and never to a wrong write.

use std::sync::Arc;

use stream_model::definition::{Sink, Source};
use stream_model::file::{self, File};
use stream_model::purge::Purged;
use stream_model::slice::{self, Slice};
use stream_model::statistics::{Crossed, Figures};
use stream_model::{FileId, SliceId, VolumeId};
use stream_state::{SinkNode, SourceNode, Versioned};

/// One sink at one revision.
#[derive(Clone, Copy)]
pub(crate) struct Picture<'a> {
    source: &'a SourceNode,
    sink: &'a SinkNode,
}

/// A source and one of its sinks.
pub(crate) type Definitions<'a> = (&'a Arc<Versioned<Source>>, &'a Arc<Versioned<Sink>>);

/// What is known of the rows of a file that is being written. The rows of a slice that is neither sealed nor reported by
/// its writer are not in it: figures lag, they never lead. Nor are those of a slice that was moved here because it was late,
/// as long as it is late: the file would be due for rows that it would have to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Known {
    /// Sum over the slices.
    pub(crate) figures: Figures,
    /// Slices that hold rows.
    pub(crate) slices: u64,
}

impl<'a> Picture<'a> {
    pub(crate) const fn new(source: &'a SourceNode, sink: &'a SinkNode) -> Self {
        Self { source, sink }
    }

    /// The definitions, when both exist. Those of deleted entities do.
    pub(crate) fn definitions(&self) -> Option<Definitions<'a>> {
        Some((self.source.source.as_ref()?, self.sink.sink.as_ref()?))
    }

    /// Whether the sink takes rows: it and its source exist, and neither is disabled or deleted.
    pub(crate) fn takes_rows(&self) -> bool {
        self.definitions()
            .is_some_and(|(source, sink)| source.value.is_enabled() && sink.value.is_enabled())
    }

    /// Whether the sink is being purged.
    pub(crate) fn is_purging(&self) -> bool {
        let sink = self.sink.sink.as_ref();
        sink.is_some_and(|sink| sink.value.purging.is_some())
    }

    /// Notes of slices of purged sinks.
    pub(crate) fn purged(&self) -> impl Iterator<Item = &'a Arc<Versioned<Purged>>> + use<'a> {
        self.sink.purged.values()
    }

    /// The volumes that were chosen for the source, once they were.
    pub(crate) fn assignment(&self) -> Option<&'a [VolumeId]> {
        self.source
            .assignment
            .as_ref()
            .map(|assigned| assigned.volumes.as_slice())
    }

    /// The file that takes rows.
    pub(crate) fn current(&self) -> Option<&'a Arc<Versioned<File>>> {
        let file = self.sink.files.get(&self.sink.current?)?;
        matches!(file.value.state, file::State::Writing).then_some(file)
    }

    /// All files, oldest first: their ids begin with the time of opening.
    pub(crate) fn files(
        &self,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<Versioned<File>>> + use<'a> {
        self.sink.files.values()
    }

    /// The slices of a file, oldest first.
    pub(crate) fn slices(
        &self,
        file: FileId,
    ) -> impl Iterator<Item = &'a Arc<Versioned<Slice>>> + use<'a> {
        self.sink
            .slices
            .values()
            .filter(move |slice| slice.value.file == file)
    }

    /// Slices that take rows and were reported to have reached a limit, with the report.
    pub(crate) fn crossed(
        &self,
    ) -> impl Iterator<Item = (&'a Arc<Versioned<Slice>>, &'a Crossed)> + use<'a> {
        let slices = &self.sink.slices;
        self.sink.crossed.iter().filter_map(|(id, crossed)| {
            let slice = slices.get(id)?;
            matches!(slice.value.state, slice::State::Writing).then_some((slice, &crossed.value))
        })
    }

    /// The slices of rejected records, oldest first. They belong to no file.
    pub(crate) fn rejects(
        &self,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<Versioned<Slice>>> + use<'a> {
        self.sink.rejects()
    }

    /// The report that a slice of rejected records has reached a limit.
    pub(crate) fn rejects_crossed(&self, slice: SliceId) -> Option<&'a Crossed> {
        let crossed = self.sink.rejects_crossed.get(&slice)?;
        Some(&crossed.value)
    }

    /// What is known of the rows of a file.
    pub(crate) fn known(&self, file: &File) -> Known {
        let mut known = Known::default();
        let moved_and_late =
            |slice: &Slice| slice.opened_at < file.opened_at && !slice.is_uploaded();
        for slice in self
            .slices(file.id)
            .filter(|slice| !moved_and_late(&slice.value))
        {
            let sealed = slice.value.seal().map(|seal| &seal.figures);
            let reported = || {
                self.sink
                    .crossed
                    .get(&slice.value.id)
                    .map(|c| &c.value.figures)
            };
            match sealed.or_else(reported) {
                Some(figures) if figures.rows > 0 => {
                    known.figures.add(figures);
                    known.slices += 1;
                }
                Some(_) => {}
                // Closed, not sealed yet: it was closed because it has rows.
                None if slice.value.closing().is_some() => known.slices += 1,
                None => {}
            }
        }
        known
    }
}
