//! Reading the change of one key: what it is about, and whether its value can be trusted.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use stream_model::definition::{Sink, Source};
use stream_model::file::File;
use stream_model::idempotency::Assigned;
use stream_model::purge::Purged;
use stream_model::slice::Slice;
use stream_model::statistics::{Cleared, Crossed, Figures};
use stream_model::{FileId, SinkId, SinkKey, SliceId, SourceKey};

use crate::error::StateError;
use crate::keyspace::Key;
use crate::repository::file::Current;
use crate::store::Versioned;

/// A change of one key.
#[derive(Debug)]
pub(crate) struct Change {
    /// The source that the key belongs to.
    pub(crate) source: SourceKey,
    pub(crate) key: Key,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    Entity(Entity),
    Unreadable,
}

/// The new value of a key; none when it was deleted.
#[derive(Debug)]
pub(crate) enum Entity {
    Source(Option<Arc<Versioned<Source>>>),
    Assignment(Option<Arc<Assigned>>),
    OfSink(SinkId, SinkEntity),
}

#[derive(Debug)]
pub(crate) enum SinkEntity {
    Sink(Option<Arc<Versioned<Sink>>>),
    Current(Option<FileId>),
    File(FileId, Option<Arc<Versioned<File>>>),
    Slice(SliceId, Option<Arc<Versioned<Slice>>>),
    Crossed(SliceId, Option<Arc<Versioned<Crossed>>>),
    Removed(Option<Figures>),
    RejectsCrossed(SliceId, Option<Arc<Versioned<Crossed>>>),
    RejectsRemoved(Option<Figures>),
    Cleared(Option<Cleared>),
    Purged(SliceId, Option<Arc<Versioned<Purged>>>),
}

impl Change {
    /// Reads a change; `value` is none when the key was deleted. None for a key that is no entity.
    ///
    /// # Errors
    /// When the value cannot be read, or does not belong under this key. [`Self::unreadable`] stands for it then.
    pub(crate) fn read(
        key: &Key,
        value: Option<&[u8]>,
        revision: i64,
    ) -> Result<Option<Self>, StateError> {
        let Some(source) = source_of(key) else {
            return Ok(None);
        };
        let entity = read_entity(&Reader {
            key,
            value,
            revision,
        })?;
        Ok(entity.map(|entity| Self {
            source: source.clone(),
            key: key.clone(),
            content: Content::Entity(entity),
        }))
    }

    /// The change of a key to something that cannot be read.
    pub(crate) fn unreadable(key: &Key) -> Option<Self> {
        Some(Self {
            source: source_of(key)?.clone(),
            key: key.clone(),
            content: Content::Unreadable,
        })
    }
}

const fn source_of(key: &Key) -> Option<&SourceKey> {
    match key {
        Key::Source(source) | Key::Assignment(source) => Some(source),
        Key::Sink(sink)
        | Key::Current(sink)
        | Key::Removed(sink)
        | Key::Cleared(sink)
        | Key::Purged(sink, _)
        | Key::RejectsRemoved(sink)
        | Key::RejectsCrossed(sink, _)
        | Key::File(sink, _)
        | Key::Slice(sink, _)
        | Key::Crossed(sink, _) => Some(&sink.source),
        Key::Schema
        | Key::SourceVersion(..)
        | Key::SinkVersion(..)
        | Key::LedgerDay(..)
        | Key::Incarnation(_)
        | Key::Registration(_)
        | Key::Figures(_)
        | Key::Forgotten(_)
        | Key::Node { .. }
        | Key::Task(_)
        | Key::Lock(_)
        | Key::Dropping(_)
        | Key::Token(_)
        | Key::Project(_)
        | Key::Destination(_)
        | Key::Provisioning(_) => None,
    }
}

struct Reader<'a> {
    key: &'a Key,
    value: Option<&'a [u8]>,
    revision: i64,
}

impl Reader<'_> {
    /// Reads the value, and checks that it is about what its key says.
    fn read<T: Serialize + DeserializeOwned>(
        &self,
        belongs: impl Fn(&T) -> bool,
    ) -> Result<Option<Arc<Versioned<T>>>, StateError> {
        let Some(bytes) = self.value else {
            return Ok(None);
        };
        let key = self.key.to_string();
        let stored: Versioned<T> = Versioned::decode(&key, bytes, self.revision)?;
        if !belongs(&stored.value) {
            return Err(StateError::Corrupt {
                key,
                reason: "it is about something else than its key".to_owned(),
            });
        }
        Ok(Some(Arc::new(stored)))
    }
}

fn read_entity(reader: &Reader<'_>) -> Result<Option<Entity>, StateError> {
    let of_sink = |sink: &SinkKey, entity| Some(Entity::OfSink(sink.sink.clone(), entity));
    Ok(match reader.key {
        Key::Source(key) => Some(Entity::Source(
            reader.read(|source: &Source| source.key == *key)?,
        )),
        Key::Assignment(_) => {
            let assigned = reader.read(|_: &Assigned| true)?;
            let assigned = assigned.map(|stored| Arc::new(stored.value.clone()));
            Some(Entity::Assignment(assigned))
        }
        Key::Sink(key) => {
            let sink = reader.read(|sink: &Sink| sink.key == *key)?;
            of_sink(key, SinkEntity::Sink(sink))
        }
        Key::Current(key) => {
            let current = reader.read(|_: &Current| true)?;
            of_sink(key, SinkEntity::Current(current.map(|c| c.value.file)))
        }
        Key::Removed(key) => {
            let removed = reader.read(|_: &Figures| true)?;
            of_sink(key, SinkEntity::Removed(removed.map(|r| r.value)))
        }
        Key::Cleared(key) => {
            let cleared = reader.read(|_: &Cleared| true)?;
            of_sink(key, SinkEntity::Cleared(cleared.map(|c| c.value)))
        }
        Key::Purged(key, id) => {
            let own = |it: &Purged| it.slice.id == *id && it.slice.sink == *key;
            of_sink(key, SinkEntity::Purged(*id, reader.read(own)?))
        }
        Key::RejectsRemoved(key) => {
            let removed = reader.read(|_: &Figures| true)?;
            of_sink(key, SinkEntity::RejectsRemoved(removed.map(|r| r.value)))
        }
        Key::RejectsCrossed(key, id) => {
            let crossed =
                reader.read(|crossed: &Crossed| crossed.slice == *id && crossed.sink == *key)?;
            of_sink(key, SinkEntity::RejectsCrossed(*id, crossed))
        }
        Key::File(key, id) => {
            let file = reader.read(|file: &File| file.id == *id && file.sink == *key)?;
            of_sink(key, SinkEntity::File(*id, file))
        }
        Key::Slice(key, id) => {
            let slice = reader.read(|slice: &Slice| slice.id == *id && slice.sink == *key)?;
            of_sink(key, SinkEntity::Slice(*id, slice))
        }
        Key::Crossed(key, id) => {
            let crossed =
                reader.read(|crossed: &Crossed| crossed.slice == *id && crossed.sink == *key)?;
            of_sink(key, SinkEntity::Crossed(*id, crossed))
        }
        _ => None,
    })
}
