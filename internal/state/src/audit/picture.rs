//! All entries, read and sorted by what they belong to.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;
use stream_model::definition::{Project, Sink, Source, Token};
use stream_model::destination::{Destination, Provisioning};
use stream_model::file::File;
use stream_model::idempotency::Assigned;
use stream_model::ledger::Day;
use stream_model::purge::{Dropping, Purged};
use stream_model::slice::Slice;
use stream_model::statistics::{Cleared, Crossed, Figures, VolumeFigures};
use stream_model::{FileId, NodeId, ProjectId, SinkId, SinkKey, SliceId, SourceKey, VolumeId};

use super::{Entry, Finding, bounds, rule};
use crate::error::StateError;
use crate::keyspace::Key;
use crate::lock::Holder;
use crate::repository::file::Current;
use crate::repository::forget::Tombstone;
use crate::repository::node::NodeRegistration;
use crate::repository::task::Task;
use crate::repository::token::is_hash;
use crate::repository::volume::{Incarnation, Registration};
use crate::store::{Versioned, read_schema};

/// The state at one revision. Holds what can be read; [`Self::has`] also knows what cannot.
#[derive(Default)]
pub(super) struct Picture {
    pub(super) sources: BTreeMap<SourceKey, OfSource>,
    pub(super) volumes: BTreeMap<VolumeId, OfVolume>,
    pub(super) nodes: BTreeMap<(String, NodeId), NodeRegistration>,
    pub(super) tasks: BTreeMap<String, Task>,
    /// By hash.
    pub(super) tokens: BTreeMap<String, Token>,
    /// By the hash of the table's place.
    pub(super) dropping: BTreeMap<String, Dropping>,
    /// By name.
    pub(super) locks: BTreeMap<String, Holder>,
    pub(super) projects: BTreeMap<ProjectId, Project>,
    pub(super) destinations: BTreeMap<SinkKey, Destination>,
    pub(super) provisionings: BTreeMap<SinkKey, Provisioning>,
    /// Every known key, readable or not.
    keys: BTreeSet<Key>,
    /// Those whose values cannot be read.
    unreadable: BTreeSet<Key>,
}

/// A source and what belongs to it.
#[derive(Default)]
pub(super) struct OfSource {
    pub(super) source: Option<Source>,
    pub(super) versions: BTreeMap<u64, Source>,
    pub(super) assignment: Option<Vec<VolumeId>>,
    pub(super) sinks: BTreeMap<SinkId, OfSink>,
}

/// A sink and what belongs to it.
#[derive(Default)]
pub(super) struct OfSink {
    pub(super) sink: Option<Sink>,
    pub(super) versions: BTreeMap<u64, Sink>,
    pub(super) current: Option<FileId>,
    pub(super) files: BTreeMap<FileId, Versioned<File>>,
    pub(super) slices: BTreeMap<SliceId, Slice>,
    pub(super) crossed: BTreeMap<SliceId, Crossed>,
    pub(super) removed: Option<Figures>,
    pub(super) rejects_crossed: BTreeMap<SliceId, Crossed>,
    pub(super) rejects_removed: Option<Figures>,
    pub(super) cleared: Option<Cleared>,
    pub(super) purged: BTreeMap<SliceId, Purged>,
}

/// What is known of a volume.
#[derive(Default)]
pub(super) struct OfVolume {
    pub(super) incarnation: Option<Incarnation>,
    pub(super) registration: Option<Registration>,
    pub(super) figures: Option<VolumeFigures>,
    pub(super) tombstone: Option<Tombstone>,
}

impl OfSource {
    /// Whether only notes of purged sinks are left.
    pub(super) fn is_purged(&self) -> bool {
        self.source.is_none()
            && self.versions.is_empty()
            && self.assignment.is_none()
            && self.sinks.values().all(OfSink::is_purged)
    }
}

impl OfSink {
    /// Whether only notes of purged slices are left.
    pub(super) fn is_purged(&self) -> bool {
        self.sink.is_none()
            && self.versions.is_empty()
            && self.current.is_none()
            && (self.files.is_empty() && self.slices.is_empty())
            && (self.crossed.is_empty() && self.rejects_crossed.is_empty())
            && self.removed.is_none()
            && (self.rejects_removed.is_none() && self.cleared.is_none())
    }

    /// Whether it is on its way out of the state, so that what belongs together need not be there as a whole.
    pub(super) fn is_purging(&self) -> bool {
        self.sink
            .as_ref()
            .is_some_and(|sink| sink.purging.is_some())
    }

    /// The slices of a file, the oldest first.
    pub(super) fn slices_of(&self, file: FileId) -> impl Iterator<Item = &Slice> {
        self.slices.values().filter(move |slice| slice.file == file)
    }
}

impl Picture {
    /// Reads all entries, and reports those that cannot be read.
    pub(super) fn read(entries: &[Entry]) -> (Self, Vec<Finding>) {
        let (mut picture, mut findings) = (Self::default(), Vec::new());
        for entry in entries {
            let Some(key) = known(&entry.key) else {
                findings.push(rule::KNOWN_KEY.broken(&entry.key, "it is none of them"));
                continue;
            };
            findings.extend(bounds::check_bytes(&key, entry));
            if let Err(finding) = picture.take(&key, entry) {
                findings.push(finding);
                picture.unreadable.insert(key.clone());
            }
            picture.keys.insert(key);
        }
        if !entries.is_empty() && !picture.has(&Key::Schema) {
            findings.push(rule::SCHEMA.broken(Key::Schema, "it is missing"));
        }
        (picture, findings)
    }

    /// Whether the key exists, readable or not.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.keys.contains(key)
    }

    /// Whether the value of one of the keys that `of` chooses exists and cannot be read.
    pub(super) fn is_unreadable(&self, of: impl Fn(&Key) -> bool) -> bool {
        self.unreadable.iter().any(of)
    }

    /// All sinks, also those of which only something that belongs to them exists.
    pub(super) fn sinks(&self) -> impl Iterator<Item = (SinkKey, &OfSource, &OfSink)> {
        self.sources.iter().flat_map(|(key, source)| {
            source.sinks.iter().map(move |(id, sink)| {
                let key = SinkKey {
                    source: key.clone(),
                    sink: id.clone(),
                };
                (key, source, sink)
            })
        })
    }

    fn of_source(&mut self, key: &SourceKey) -> &mut OfSource {
        self.sources.entry(key.clone()).or_default()
    }

    fn of_sink(&mut self, key: &SinkKey) -> &mut OfSink {
        let source = self.of_source(&key.source);
        source.sinks.entry(key.sink.clone()).or_default()
    }

    fn take(&mut self, key: &Key, entry: &Entry) -> Result<(), Finding> {
        match key {
            Key::Schema => read_schema(&entry.value).map_err(|error| unreadable(entry, error))?,
            Key::Source(id) => {
                let source: Source = read(entry, |source: &Source| source.key == *id)?;
                self.of_source(id).source = Some(source);
            }
            Key::SourceVersion(id, number) => {
                let of = |it: &Source| it.key == *id && it.version.number == *number;
                let source = read(entry, of)?;
                self.of_source(id).versions.insert(*number, source);
            }
            Key::Assignment(id) => {
                let stored: Assigned = read(entry, |_| true)?;
                self.of_source(id).assignment = Some(stored.volumes);
            }
            Key::Sink(_)
            | Key::SinkVersion(..)
            | Key::Current(_)
            | Key::Removed(_)
            | Key::Cleared(_)
            | Key::Purged(..)
            | Key::RejectsRemoved(_)
            | Key::RejectsCrossed(..)
            | Key::File(..)
            | Key::Slice(..)
            | Key::Crossed(..) => self.take_of_sink(key, entry)?,
            Key::Incarnation(_)
            | Key::Registration(_)
            | Key::Figures(_)
            | Key::Forgotten(_)
            | Key::Node { .. }
            | Key::Task(_)
            | Key::Lock(_)
            | Key::LedgerDay(..)
            | Key::Dropping(_)
            | Key::Token(_)
            | Key::Project(_) => self.take_other(key, entry)?,
            Key::Destination(id) => {
                let destination = read(entry, |_| true)?;
                self.destinations.insert(id.clone(), destination);
            }
            Key::Provisioning(id) => {
                let provisioning = read(entry, |_| true)?;
                self.provisionings.insert(id.clone(), provisioning);
            }
        }
        Ok(())
    }

    fn take_of_sink(&mut self, key: &Key, entry: &Entry) -> Result<(), Finding> {
        match key {
            Key::Sink(id) => {
                let sink: Sink = read(entry, |sink: &Sink| sink.key == *id)?;
                self.of_sink(id).sink = Some(sink);
            }
            Key::SinkVersion(id, number) => {
                let of = |it: &Sink| it.key == *id && it.version.number == *number;
                let sink = read(entry, of)?;
                self.of_sink(id).versions.insert(*number, sink);
            }
            Key::Current(id) => {
                let current: Current = read(entry, |_| true)?;
                self.of_sink(id).current = Some(current.file);
            }
            Key::Removed(id) => self.of_sink(id).removed = Some(read(entry, |_| true)?),
            Key::Cleared(id) => self.of_sink(id).cleared = Some(read(entry, |_| true)?),
            Key::Purged(sink, id) => {
                let of = |it: &Purged| it.slice.id == *id && it.slice.sink == *sink;
                let purged = read(entry, of)?;
                self.of_sink(sink).purged.insert(*id, purged);
            }
            Key::RejectsRemoved(id) => {
                self.of_sink(id).rejects_removed = Some(read(entry, |_| true)?);
            }
            Key::RejectsCrossed(sink, id) => {
                let of = |crossed: &Crossed| crossed.slice == *id && crossed.sink == *sink;
                let crossed = read(entry, of)?;
                self.of_sink(sink).rejects_crossed.insert(*id, crossed);
            }
            Key::File(sink, id) => {
                let value = read(entry, |file: &File| file.id == *id && file.sink == *sink)?;
                let revision = entry.revision;
                let file = Versioned::new(value, revision);
                self.of_sink(sink).files.insert(*id, file);
            }
            Key::Slice(sink, id) => {
                let of = |slice: &Slice| slice.id == *id && slice.sink == *sink;
                let slice = read(entry, of)?;
                self.of_sink(sink).slices.insert(*id, slice);
            }
            Key::Crossed(sink, id) => {
                let of = |crossed: &Crossed| crossed.slice == *id && crossed.sink == *sink;
                let crossed = read(entry, of)?;
                self.of_sink(sink).crossed.insert(*id, crossed);
            }
            _ => {}
        }
        Ok(())
    }

    fn take_other(&mut self, key: &Key, entry: &Entry) -> Result<(), Finding> {
        match key {
            Key::Incarnation(id) => {
                let incarnation = read(entry, |_| true)?;
                self.volumes.entry(*id).or_default().incarnation = Some(incarnation);
            }
            Key::Registration(id) => {
                let registration = read(entry, |_| true)?;
                self.volumes.entry(*id).or_default().registration = Some(registration);
            }
            Key::Figures(id) => {
                let figures = read(entry, |_| true)?;
                self.volumes.entry(*id).or_default().figures = Some(figures);
            }
            Key::Forgotten(id) => {
                let tombstone = read(entry, |_| true)?;
                self.volumes.entry(*id).or_default().tombstone = Some(tombstone);
            }
            Key::Node { component, node } => {
                let key = (component.clone(), node.clone());
                self.nodes.insert(key, read(entry, |_| true)?);
            }
            Key::Task(id) => {
                let task = read(entry, |task: &Task| task.id == *id)?;
                self.tasks.insert(id.clone(), task);
            }
            // Sums of what is not there any more: there is nothing to compare them with.
            Key::LedgerDay(..) => drop(read(entry, |_: &Day| true)?),
            Key::Dropping(table) => {
                let of = |it: &Dropping| it.place().hash() == *table;
                self.dropping.insert(table.clone(), read(entry, of)?);
            }
            Key::Token(hash) => {
                self.tokens.insert(hash.clone(), read(entry, |_| true)?);
            }
            Key::Project(id) => {
                self.projects.insert(*id, read(entry, |_| true)?);
            }
            Key::Lock(name) => {
                self.locks.insert(name.clone(), read(entry, |_| true)?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The key, if it is one of this version. A token is stored under its hash and under nothing else.
pub(super) fn known(text: &str) -> Option<Key> {
    let key: Key = text.parse().ok()?;
    match &key {
        Key::Token(hash) if !is_hash(hash) => None,
        _ => Some(key),
    }
}

fn read<T>(entry: &Entry, is_own: impl Fn(&T) -> bool) -> Result<T, Finding>
where
    T: Serialize + DeserializeOwned,
{
    let stored = Versioned::<T>::decode(&entry.key, &entry.value, entry.revision);
    let value = stored.map_err(|error| unreadable(entry, error))?.value;
    if !is_own(&value) {
        return Err(rule::OWN_VALUE.broken(&entry.key, "it is about something else"));
    }
    Ok(value)
}

fn unreadable(entry: &Entry, error: StateError) -> Finding {
    match error {
        StateError::NewerFormat {
            found, supported, ..
        } => {
            let detail = format!("it has format {found}, this version reads up to {supported}");
            rule::FORMAT.broken(&entry.key, detail)
        }
        StateError::Corrupt { reason, .. } => rule::READABLE.broken(&entry.key, reason),
        other => rule::READABLE.broken(&entry.key, other.to_string()),
    }
}
