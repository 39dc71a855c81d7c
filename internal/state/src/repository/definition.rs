//! What sources and sinks have in common: versions, soft deletion, and the limit of live siblings.

use serde::Serialize;
use serde::de::DeserializeOwned;
use stream_model::definition::{MAX_CHILDREN, Sink, Source, Version};

use crate::error::StateError;
use crate::keyspace::Key;
use crate::store::{Store, Versioned, Written};
use crate::txn::Txn;

/// How often an update is tried when others change the same definition.
pub(crate) const UPDATE_TRIES: u32 = 10;
/// How often a creation is tried. More often, because creations of different siblings also get in each other's way; each
/// conflict means that another one went through.
pub(crate) const CREATE_TRIES: u32 = 32;
/// So many versions of a definition are kept.
pub(crate) const KEPT_VERSIONS: u64 = 1000;

/// A source or a sink.
pub(crate) trait Definition: Serialize + DeserializeOwned + Clone + PartialEq {
    const PLURAL: &'static str;
    fn key(&self) -> Key;
    fn version_key(&self, number: u64) -> Key;
    fn version(&self) -> &Version;
    fn version_mut(&mut self) -> &mut Version;
    fn is_live(&self) -> bool;
    /// Whether it is being purged.
    fn is_purging(&self) -> bool;
}

impl Definition for Source {
    const PLURAL: &'static str = "sources";

    fn key(&self) -> Key {
        Key::Source(self.key.clone())
    }

    fn version_key(&self, number: u64) -> Key {
        Key::SourceVersion(self.key.clone(), number)
    }

    fn version(&self) -> &Version {
        &self.version
    }

    fn version_mut(&mut self) -> &mut Version {
        &mut self.version
    }

    fn is_live(&self) -> bool {
        self.deleted.is_none()
    }

    fn is_purging(&self) -> bool {
        self.purging.is_some()
    }
}

impl Definition for Sink {
    const PLURAL: &'static str = "sinks";

    fn key(&self) -> Key {
        Key::Sink(self.key.clone())
    }

    fn version_key(&self, number: u64) -> Key {
        Key::SinkVersion(self.key.clone(), number)
    }

    fn version(&self) -> &Version {
        &self.version
    }

    fn version_mut(&mut self) -> &mut Version {
        &mut self.version
    }

    fn is_live(&self) -> bool {
        self.deleted.is_none()
    }

    fn is_purging(&self) -> bool {
        self.purging.is_some()
    }
}

/// The definitions beside one, as of one revision.
pub(crate) struct Siblings<T> {
    /// The one itself.
    pub(crate) own: Option<Versioned<T>>,
    /// How many others are live.
    pub(crate) live: usize,
    /// When that was so.
    pub(crate) revision: i64,
}

impl<T> Siblings<T> {
    /// Refuses one more than the limit.
    pub(crate) fn check_room(
        &self,
        parent: String,
        children: &'static str,
    ) -> Result<(), StateError> {
        if self.live >= MAX_CHILDREN {
            return Err(StateError::LimitReached {
                parent,
                children,
                limit: MAX_CHILDREN,
            });
        }
        Ok(())
    }
}

impl Store {
    /// Reads a definition and counts its live siblings under `prefix`. An unreadable sibling counts as live.
    pub(crate) async fn siblings<T: Definition>(
        &self,
        prefix: &str,
        own: &Key,
    ) -> Result<Siblings<T>, StateError> {
        let listed = self.scan(prefix).await?;
        let own = own.to_string();
        let mut siblings = Siblings {
            own: None,
            live: 0,
            revision: listed.revision,
        };
        for entry in &listed.entries {
            if entry.key == own {
                siblings.own = Some(entry.decode()?);
            } else if entry
                .decode::<T>()
                .map_or(true, |other| other.value.is_live())
            {
                siblings.live += 1;
            }
        }
        Ok(siblings)
    }
}

/// What is stored for a new definition: over a deleted one its version numbers go on, so that a mapping version never
/// means two things.
pub(crate) fn continue_versions<T: Definition>(mut new: T, old: Option<&T>) -> T {
    if let Some(old) = old {
        new.version_mut().number = old.version().number + 1;
    }
    new
}

/// Checks a change of a definition.
pub(crate) fn check_change<T: Definition>(old: &T, new: &T) -> Result<(), StateError> {
    if old.key() != new.key() {
        return Err(StateError::violation(
            old.key(),
            "a definition keeps its identifier",
        ));
    }
    if old.is_purging() && (!new.is_purging() || new.is_live()) {
        return Err(StateError::violation(
            old.key(),
            "what is being purged does not come back",
        ));
    }
    if new.version().number < old.version().number {
        return Err(StateError::violation(
            old.key(),
            "version numbers never go back",
        ));
    }
    Ok(())
}

/// Adds the write of a definition, and of its version when that is a new one.
pub(crate) fn put_definition<'a, T: Definition>(
    txn: Txn<'a>,
    old: Option<&T>,
    written: &Written<T>,
) -> Txn<'a> {
    let new = &written.value;
    let number = new.version().number;
    let txn = txn.write(&new.key(), written);
    if old.is_some_and(|old| old.version().number == number) {
        return txn;
    }
    let txn = txn.write(&new.version_key(number), written);
    match number.checked_sub(KEPT_VERSIONS) {
        Some(forgotten) if forgotten > 0 => txn.delete(&new.version_key(forgotten)),
        _ => txn,
    }
}
