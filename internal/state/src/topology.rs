//! The picture of all definitions, files and slices, and how a change of one key changes it.
//!
//! Pure: what comes from etcd and when is up to [`crate::mirror`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use stream_model::definition::{Sink, Source};
use stream_model::file::File;
use stream_model::idempotency::Assigned;
use stream_model::purge::Purged;
use stream_model::slice::Slice;
use stream_model::statistics::{Cleared, Crossed, Figures};
use stream_model::{FileId, SinkId, SinkKey, SliceId, SourceKey, VolumeId};

use crate::change::{Change, Content, Entity, SinkEntity};
use crate::keyspace::Key;
use crate::store::Versioned;

/// Everything under `entity/` at one revision.
#[derive(Debug, Default)]
pub struct Topology {
    /// All sources, deleted ones too.
    pub sources: BTreeMap<SourceKey, SourceNode>,
    /// The revision that this is the picture of.
    pub revision: i64,
    slices: HashMap<SliceId, Arc<Versioned<Slice>>>,
    by_volume: HashMap<VolumeId, BTreeSet<SliceId>>,
    purged: HashMap<SliceId, Arc<Versioned<Purged>>>,
    /// When each source changed last, both ways round. One entry per source, however often it changes.
    changed_at: HashMap<SourceKey, i64>,
    changes: BTreeMap<i64, BTreeSet<SourceKey>>,
}

/// A source and what belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceNode {
    /// The source.
    pub source: Option<Arc<Versioned<Source>>>,
    /// Its volumes, and which of them decides about which of its keys.
    pub assignment: Option<Arc<Assigned>>,
    /// Its sinks.
    pub sinks: BTreeMap<SinkId, SinkNode>,
    /// Keys whose values cannot be read. What was readable before is still shown. Whoever needs a complete picture, as to
    /// say that *every* sink holds a record, must not act while there are any.
    pub unreadable: BTreeSet<Key>,
}

/// A sink and what belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkNode {
    /// The sink.
    pub sink: Option<Arc<Versioned<Sink>>>,
    /// The one writing file.
    pub current: Option<FileId>,
    /// All files that were not cleaned up yet.
    pub files: BTreeMap<FileId, Arc<Versioned<File>>>,
    /// All slices that were not cleaned up yet.
    pub slices: BTreeMap<SliceId, Arc<Versioned<Slice>>>,
    /// Writing slices that have reached a limit.
    pub crossed: BTreeMap<SliceId, Arc<Versioned<Crossed>>>,
    /// Sum of the slices that were cleaned up after their import.
    pub removed: Option<Figures>,
    /// Writing slices of rejected records that have reached a limit.
    pub rejects_crossed: BTreeMap<SliceId, Arc<Versioned<Crossed>>>,
    /// Sum of the rejected records that are not kept any more.
    pub rejects_removed: Option<Figures>,
    /// What was known when the statistics were cleared.
    pub cleared: Option<Cleared>,
    /// Slices of purged sinks of this name.
    pub purged: BTreeMap<SliceId, Arc<Versioned<Purged>>>,
}

impl Topology {
    /// Finds a slice by its identifier alone.
    #[must_use]
    pub fn slice(&self, id: SliceId) -> Option<&Arc<Versioned<Slice>>> {
        self.slices.get(&id)
    }

    /// Finds the note of a slice of a purged sink by its identifier alone.
    #[must_use]
    pub fn purged(&self, id: SliceId) -> Option<&Arc<Versioned<Purged>>> {
        self.purged.get(&id)
    }

    /// How many slices there are.
    pub(crate) fn count_slices(&self) -> usize {
        self.slices.len()
    }

    /// How many values cannot be read.
    pub(crate) fn count_unreadable(&self) -> usize {
        self.sources
            .values()
            .map(|source| source.unreadable.len())
            .sum()
    }

    /// All slices on a volume, the oldest first.
    pub fn slices_of_volume(
        &self,
        volume: VolumeId,
    ) -> impl Iterator<Item = &Arc<Versioned<Slice>>> {
        self.by_volume
            .get(&volume)
            .into_iter()
            .flatten()
            .filter_map(|id| self.slices.get(id))
    }

    /// The sources in which anything was changed after that revision, those that changed first first.
    pub fn changed_since(&self, revision: i64) -> impl Iterator<Item = &SourceKey> {
        self.changes
            .range((Bound::Excluded(revision), Bound::Unbounded))
            .flat_map(|(_, sources)| sources)
    }

    /// The node of a sink.
    #[must_use]
    pub fn sink(&self, key: &SinkKey) -> Option<&SinkNode> {
        self.sources.get(&key.source)?.sinks.get(&key.sink)
    }

    /// Applies a change that happened, or was noticed, at `revision`. Does not move [`Self::revision`]: the caller does
    /// when all of that revision is applied.
    pub(crate) fn apply(&mut self, change: Change, revision: i64) {
        let Change {
            source,
            key,
            content,
        } = change;
        let node = self.sources.entry(source.clone()).or_default();
        let changed = match content {
            Content::Unreadable => node.unreadable.insert(key),
            Content::Entity(entity) => {
                let was_unreadable = node.unreadable.remove(&key);
                if let Entity::OfSink(_, SinkEntity::Purged(id, new)) = &entity {
                    match new {
                        Some(new) => self.purged.insert(*id, Arc::clone(new)),
                        None => self.purged.remove(id),
                    };
                }
                let outcome = node.set(entity);
                self.index(&outcome);
                outcome.is_change || was_unreadable
            }
        };
        if self.sources.get(&source).is_some_and(SourceNode::is_empty) {
            self.sources.remove(&source);
        }
        if changed {
            self.note(source, revision);
        }
    }

    fn index(&mut self, outcome: &Outcome) {
        if let Some(old) = &outcome.old_slice {
            self.slices.remove(&old.value.id);
            if let Some(ids) = self.by_volume.get_mut(&old.value.volume) {
                ids.remove(&old.value.id);
                if ids.is_empty() {
                    self.by_volume.remove(&old.value.volume);
                }
            }
        }
        if let Some(new) = &outcome.new_slice {
            self.slices.insert(new.value.id, Arc::clone(new));
            self.by_volume
                .entry(new.value.volume)
                .or_default()
                .insert(new.value.id);
        }
    }

    fn note(&mut self, source: SourceKey, revision: i64) {
        if let Some(before) = self.changed_at.insert(source.clone(), revision)
            && let Some(sources) = self.changes.get_mut(&before)
        {
            sources.remove(&source);
            if sources.is_empty() {
                self.changes.remove(&before);
            }
        }
        self.changes.entry(revision).or_default().insert(source);
    }

    /// Every key that this is made of.
    pub(crate) fn keys(&self) -> BTreeSet<Key> {
        self.sources
            .iter()
            .flat_map(|(key, node)| node.keys(key))
            .collect()
    }
}

impl SourceNode {
    fn is_empty(&self) -> bool {
        self.source.is_none()
            && self.assignment.is_none()
            && self.sinks.is_empty()
            && self.unreadable.is_empty()
    }

    fn set(&mut self, entity: Entity) -> Outcome {
        match entity {
            Entity::Source(new) => Outcome::of(replace(&mut self.source, new)),
            Entity::Assignment(new) => Outcome::of(replace(&mut self.assignment, new)),
            Entity::OfSink(sink, entity) => {
                let node = self.sinks.entry(sink.clone()).or_default();
                let outcome = node.set(entity);
                if *node == SinkNode::default() {
                    self.sinks.remove(&sink);
                }
                outcome
            }
        }
    }

    fn keys(&self, source: &SourceKey) -> Vec<Key> {
        let mut keys: Vec<Key> = self.unreadable.iter().cloned().collect();
        if self.source.is_some() {
            keys.push(Key::Source(source.clone()));
        }
        if self.assignment.is_some() {
            keys.push(Key::Assignment(source.clone()));
        }
        for (sink, node) in &self.sinks {
            let sink = SinkKey {
                source: source.clone(),
                sink: sink.clone(),
            };
            node.add_keys(&sink, &mut keys);
        }
        keys
    }
}

impl SinkNode {
    /// The slices of rejected records, oldest first.
    pub fn rejects(&self) -> impl DoubleEndedIterator<Item = &Arc<Versioned<Slice>>> {
        let slices = self.slices.values();
        slices.filter(|slice| !slice.value.kind.is_rows())
    }

    fn set(&mut self, entity: SinkEntity) -> Outcome {
        match entity {
            SinkEntity::Sink(new) => Outcome::of(replace(&mut self.sink, new)),
            SinkEntity::Current(new) => Outcome::of(replace(&mut self.current, new)),
            SinkEntity::Removed(new) => Outcome::of(replace(&mut self.removed, new)),
            SinkEntity::Cleared(new) => Outcome::of(replace(&mut self.cleared, new)),
            SinkEntity::Purged(id, new) => Outcome::of(replace_in(&mut self.purged, id, new)),
            SinkEntity::RejectsRemoved(new) => Outcome::of(replace(&mut self.rejects_removed, new)),
            SinkEntity::RejectsCrossed(id, new) => {
                Outcome::of(replace_in(&mut self.rejects_crossed, id, new))
            }
            SinkEntity::File(id, new) => Outcome::of(replace_in(&mut self.files, id, new)),
            SinkEntity::Crossed(id, new) => Outcome::of(replace_in(&mut self.crossed, id, new)),
            SinkEntity::Slice(id, new) => {
                let old_slice = self.slices.get(&id).cloned();
                let is_change = replace_in(&mut self.slices, id, new);
                Outcome {
                    is_change,
                    old_slice,
                    new_slice: self.slices.get(&id).cloned(),
                }
            }
        }
    }

    fn add_keys(&self, sink: &SinkKey, keys: &mut Vec<Key>) {
        if self.sink.is_some() {
            keys.push(Key::Sink(sink.clone()));
        }
        if self.current.is_some() {
            keys.push(Key::Current(sink.clone()));
        }
        if self.removed.is_some() {
            keys.push(Key::Removed(sink.clone()));
        }
        if self.rejects_removed.is_some() {
            keys.push(Key::RejectsRemoved(sink.clone()));
        }
        if self.cleared.is_some() {
            keys.push(Key::Cleared(sink.clone()));
        }
        keys.extend(self.purged.keys().map(|id| Key::Purged(sink.clone(), *id)));
        let crossed = self.rejects_crossed.keys();
        keys.extend(crossed.map(|id| Key::RejectsCrossed(sink.clone(), *id)));
        keys.extend(self.files.keys().map(|id| Key::File(sink.clone(), *id)));
        keys.extend(self.slices.keys().map(|id| Key::Slice(sink.clone(), *id)));
        keys.extend(
            self.crossed
                .keys()
                .map(|id| Key::Crossed(sink.clone(), *id)),
        );
    }
}

/// What a change did.
struct Outcome {
    is_change: bool,
    old_slice: Option<Arc<Versioned<Slice>>>,
    new_slice: Option<Arc<Versioned<Slice>>>,
}

impl Outcome {
    const fn of(is_change: bool) -> Self {
        Self {
            is_change,
            old_slice: None,
            new_slice: None,
        }
    }
}

fn replace<T: PartialEq>(place: &mut Option<T>, new: Option<T>) -> bool {
    let is_change = *place != new;
    *place = new;
    is_change
}

fn replace_in<K: Ord, T: PartialEq>(places: &mut BTreeMap<K, T>, key: K, new: Option<T>) -> bool {
    let is_change = places.get(&key) != new.as_ref();
    match new {
        Some(new) => places.insert(key, new),
        None => places.remove(&key),
    };
    is_change
}

#[cfg(test)]
mod tests {
    use super::*;
    use stream_model::{BranchId, BranchKey, ProjectId};

    fn source_key(name: &str) -> SourceKey {
        SourceKey {
            branch: BranchKey {
                project: ProjectId(1),
                branch: BranchId(1),
            },
            source: name.parse().expect("valid"),
        }
    }

    fn sink_key(source: &str) -> SinkKey {
        SinkKey {
            source: source_key(source),
            sink: "s".parse().expect("valid"),
        }
    }

    fn slice_json(source: &str, id: SliceId, volume: u8) -> Vec<u8> {
        let value = serde_json::json!({
            "v": 1, "id": id, "sink": sink_key(source), "file": FileId::from_bytes([1; 16]),
            "volume": VolumeId::from_bytes([volume; 16]), "mappingVersion": 1,
            "compression": {"type": "none"}, "durability": "disk",
            "trigger": stream_model::trigger::UploadTrigger::default_for(
                stream_model::definition::TableKind::Sqlite),
            "openedAt": "2026-01-01T00:00:00.000Z", "state": {"name": "writing"},
        });
        serde_json::to_vec(&value).expect("serialises")
    }

    fn put(topology: &mut Topology, key: &Key, value: &[u8], revision: i64) {
        let change = Change::read(key, Some(value), revision)
            .expect("readable")
            .expect("an entity");
        topology.apply(change, revision);
    }

    fn delete(topology: &mut Topology, key: &Key, revision: i64) {
        let change = Change::read(key, None, revision)
            .expect("readable")
            .expect("an entity");
        topology.apply(change, revision);
    }

    #[test]
    fn slices_are_found_by_identifier_and_volume_until_they_are_removed() {
        let mut topology = Topology::default();
        let (first, second) = (SliceId::from_bytes([1; 16]), SliceId::from_bytes([2; 16]));
        let volume = VolumeId::from_bytes([7; 16]);
        for (id, revision) in [(second, 5), (first, 6)] {
            let key = Key::Slice(sink_key("a"), id);
            put(&mut topology, &key, &slice_json("a", id, 7), revision);
        }
        let on_volume = |topology: &Topology| -> Vec<SliceId> {
            topology
                .slices_of_volume(volume)
                .map(|slice| slice.value.id)
                .collect()
        };
        assert_eq!(on_volume(&topology), [first, second]);
        assert_eq!(topology.slice(first).map(|slice| slice.revision), Some(6));

        delete(&mut topology, &Key::Slice(sink_key("a"), first), 7);
        assert_eq!(on_volume(&topology), [second]);
        assert!(topology.slice(first).is_none());

        delete(&mut topology, &Key::Slice(sink_key("a"), second), 8);
        assert!(topology.sources.is_empty(), "empty nodes are removed");
        assert!(topology.by_volume.is_empty() && topology.slices.is_empty());
    }

    #[test]
    fn changed_sources_are_listed_once_however_often_they_change() {
        let mut topology = Topology::default();
        let key = |source: &str| Key::Assignment(source_key(source));
        let volumes = |n: u8| {
            let volume = VolumeId::from_bytes([n; 16]);
            serde_json::to_vec(&serde_json::json!({"v": 1, "volumes": [volume]})).expect("JSON")
        };
        put(&mut topology, &key("a"), &volumes(0), 1);
        put(&mut topology, &key("b"), &volumes(0), 2);
        for revision in 3..50 {
            let n = u8::try_from(revision).expect("small");
            put(&mut topology, &key("a"), &volumes(n), revision);
        }
        let since = |revision| -> Vec<&str> {
            topology
                .changed_since(revision)
                .map(|source| source.source.as_str())
                .collect()
        };
        assert_eq!(since(0), ["b", "a"]);
        assert_eq!(since(2), ["a"]);
        assert_eq!(since(48), ["a"]);
        assert!(since(49).is_empty());
        assert_eq!(topology.changes.len(), 2);
    }

    #[test]
    fn an_unreadable_value_is_shown_as_such_and_keeps_what_was_readable() {
        let mut topology = Topology::default();
        let id = SliceId::from_bytes([1; 16]);
        let key = Key::Slice(sink_key("a"), id);
        put(&mut topology, &key, &slice_json("a", id, 7), 5);
        for damaged in [&b"{"[..], &slice_json("b", id, 7), br#"{"v":2}"#] {
            assert!(Change::read(&key, Some(damaged), 6).is_err());
        }
        topology.apply(Change::unreadable(&key).expect("an entity"), 6);
        let node = topology.sources.get(&source_key("a")).expect("is there");
        assert!(node.unreadable.contains(&key));
        assert!(topology.slice(id).is_some());
        assert_eq!(topology.changed_since(5).count(), 1);
        assert!(topology.keys().contains(&key));

        put(&mut topology, &key, &slice_json("a", id, 7), 7);
        let node = topology.sources.get(&source_key("a")).expect("is there");
        assert!(node.unreadable.is_empty());
        topology.apply(Change::unreadable(&key).expect("an entity"), 8);
        delete(&mut topology, &key, 9);
        assert!(topology.sources.is_empty());
    }

    #[test]
    fn writing_the_same_again_is_no_change() {
        let mut topology = Topology::default();
        let key = Key::Current(sink_key("a"));
        let value = br#"{"v":1,"file":"01010101010101010101010101010101"}"#;
        put(&mut topology, &key, value, 1);
        put(&mut topology, &key, value, 2);
        assert_eq!(topology.changed_since(1).count(), 0);
    }

    #[test]
    fn keys_outside_the_entities_are_not_part_of_it() {
        for key in [
            Key::Schema,
            Key::Task("a/b".to_owned()),
            Key::Token("x".to_owned()),
        ] {
            assert!(
                Change::read(&key, Some(b"junk"), 1)
                    .expect("not read")
                    .is_none()
            );
            assert!(Change::unreadable(&key).is_none());
        }
    }
}
