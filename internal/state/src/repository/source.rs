//! Sources, and a source together with all its sinks.

use stream_model::definition::sink::Switch;
use stream_model::definition::{MAX_CHILDREN, Sink, Source};
use stream_model::{BranchKey, SourceKey};

use super::definition::{
    CREATE_TRIES, Definition, UPDATE_TRIES, check_change, continue_versions, put_definition,
};
use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{RawEntry, Store, Versioned, Written};
use crate::txn::{Tries, Txn};

/// A source and all its sinks, deleted ones too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceTree {
    /// The source.
    pub source: Versioned<Source>,
    /// Its sinks, sorted by identifier.
    pub sinks: Vec<Versioned<Sink>>,
}

impl Store {
    /// Reads a source, also a deleted one.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn source(&self, key: &SourceKey) -> Result<Option<Versioned<Source>>, StateError> {
        self.get(&Key::Source(key.clone())).await
    }

    /// Lists the sources of a branch by identifier, deleted ones too.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn sources(&self, branch: &BranchKey) -> Result<Vec<Versioned<Source>>, StateError> {
        let sources = self.list_readable(&prefix::sources(branch)).await?;
        Ok(sources.into_iter().map(|(_, source)| source).collect())
    }

    /// Reads a version of a source.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn source_version(
        &self,
        key: &SourceKey,
        number: u64,
    ) -> Result<Option<Source>, StateError> {
        let version = self.get(&Key::SourceVersion(key.clone(), number)).await?;
        Ok(version.map(|version| version.value))
    }

    /// Lists the kept versions of a source, the oldest first.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn source_versions(&self, key: &SourceKey) -> Result<Vec<Source>, StateError> {
        let versions = self.list_readable(&prefix::source_versions(key)).await?;
        Ok(versions
            .into_iter()
            .map(|(_, version)| version.value)
            .collect())
    }

    /// Creates a source. Over a deleted one with the same key the version numbers go on.
    ///
    /// # Errors
    /// `AlreadyExists` when it lives or is being purged, `LimitReached` when the branch has enough live sources.
    pub async fn create_source(&self, source: Source) -> Result<Versioned<Source>, StateError> {
        let key = Definition::key(&source);
        let range = prefix::sources(&source.key.branch);
        let mut tries = Tries::new(CREATE_TRIES);
        loop {
            let siblings = self.siblings::<Source>(&range, &key).await?;
            let old = siblings.own.as_ref().map(|own| &own.value);
            if old.is_some_and(|old| old.is_live() || old.is_purging()) {
                return Err(StateError::already_exists(key));
            }
            let parent = format!("branch {}", source.key.branch);
            siblings.check_room(parent, Source::PLURAL)?;
            let new = Written::new(continue_versions(source.clone(), old));
            let txn = self.txn().none_written(range.clone(), siblings.revision);
            match put_definition(txn, old, &new).commit_as(new).await {
                Ok(created) => return Ok(created),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// Changes a source: reads it, asks `change` for the new value, writes that if nobody else was faster, else again.
    /// `change` also gets a deleted source, and may revive it.
    ///
    /// # Errors
    /// `NotFound`; what `change` returns; `LimitReached` when a revived source is one too many; `Conflict` when others were
    /// faster each time.
    pub async fn update_source<E>(
        &self,
        key: &SourceKey,
        change: impl Fn(Source) -> Result<Source, E> + Send + Sync,
    ) -> Result<Versioned<Source>, E>
    where
        E: From<StateError> + Send,
    {
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            let old: Versioned<Source> = self.require(&Key::Source(key.clone())).await?;
            let new = change(old.value.clone())?;
            if new == old.value {
                return Ok(old);
            }
            let new = Written::over(&old, new);
            let txn = self.source_change(self.txn(), &old, &new).await?;
            match txn.commit_as(new).await {
                Ok(updated) => return Ok(updated),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// Adds the checked change of a source to a transaction.
    async fn source_change<'a>(
        &self,
        txn: Txn<'a>,
        old: &Versioned<Source>,
        written: &Written<Source>,
    ) -> Result<Txn<'a>, StateError> {
        let new = &written.value;
        check_change(&old.value, new)?;
        let key = Definition::key(new);
        let mut txn = txn.unmodified(&key, old.revision);
        if new.is_live() && !old.value.is_live() {
            let range = prefix::sources(&new.key.branch);
            let siblings = self.siblings::<Source>(&range, &key).await?;
            siblings.check_room(format!("branch {}", new.key.branch), Source::PLURAL)?;
            txn = txn.none_written(range, siblings.revision);
        }
        Ok(put_definition(txn, Some(&old.value), written))
    }

    /// Changes a source and its sinks in one transaction, as when deleting, disabling or reviving all of them. `change`
    /// gets all sinks in the order of their identifiers, deleted ones too, and returns the same ones.
    ///
    /// # Errors
    /// As [`Self::update_source`]; also when sinks are added, left out or reordered, or a live sink is left in a deleted
    /// source.
    pub async fn update_source_tree<E>(
        &self,
        key: &SourceKey,
        change: impl Fn(Source, Vec<Sink>) -> Result<(Source, Vec<Sink>), E> + Send + Sync,
    ) -> Result<SourceTree, E>
    where
        E: From<StateError> + Send,
    {
        let mut tries = Tries::new(UPDATE_TRIES);
        loop {
            let (tree, read_at) = self.source_tree(key).await?;
            let sinks = tree.sinks.iter().map(|sink| sink.value.clone()).collect();
            let (source, sinks) = change(tree.source.value.clone(), sinks)?;
            match self.commit_tree(&tree, read_at, source, sinks).await {
                Ok(changed) => return Ok(changed),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// Reads a source and all its sinks, and the revision at which no other sinks existed.
    async fn source_tree(&self, key: &SourceKey) -> Result<(SourceTree, i64), StateError> {
        let source = self.require(&Key::Source(key.clone())).await?;
        let listed = self.scan(&prefix::sinks(key)).await?;
        let sinks = listed
            .entries
            .iter()
            .map(RawEntry::decode)
            .collect::<Result<_, _>>()?;
        Ok((SourceTree { source, sinks }, listed.revision))
    }

    async fn commit_tree(
        &self,
        old: &SourceTree,
        read_at: i64,
        source: Source,
        sinks: Vec<Sink>,
    ) -> Result<SourceTree, StateError> {
        check_tree(old, &source, &sinks)?;
        let range = prefix::sinks(&source.key);
        let source = Written::over(&old.source, source);
        let mut txn = self
            .source_change(self.txn(), &old.source, &source)
            .await?
            .none_written(range, read_at);
        let changed: Vec<Option<Written<Sink>>> = (old.sinks.iter().zip(sinks))
            .map(|(old, new)| (old.value != new).then(|| Written::over(old, new)))
            .collect();
        for (old, new) in old.sinks.iter().zip(&changed) {
            if let Some(new) = new {
                txn = put_definition(txn, Some(&old.value), new);
            }
        }
        let revision = txn.commit().await?;
        let sinks = (old.sinks.iter().zip(changed))
            .map(|(old, new)| new.map_or_else(|| old.clone(), |new| new.at(revision)))
            .collect();
        Ok(SourceTree {
            source: source.at(revision),
            sinks,
        })
    }

    /// Deletes a source, and with it its live sinks, in one transaction. Their keys stay, marked as deleted.
    ///
    /// # Errors
    /// `NotFound` when it does not live.
    pub async fn delete_source(
        &self,
        key: &SourceKey,
        switch: Switch,
    ) -> Result<SourceTree, StateError> {
        self.update_source_tree(key, |mut source, mut sinks| {
            if source.deleted.is_some() {
                return Err(StateError::not_found(Key::Source(key.clone())));
            }
            source.deleted = Some(switch.clone());
            for sink in sinks.iter_mut().filter(|sink| sink.deleted.is_none()) {
                sink.deleted = Some(Switch {
                    directly: false,
                    ..switch.clone()
                });
            }
            Ok((source, sinks))
        })
        .await
    }
}

fn check_tree(old: &SourceTree, source: &Source, sinks: &[Sink]) -> Result<(), StateError> {
    let key = Definition::key(source);
    let same = old.sinks.len() == sinks.len()
        && old
            .sinks
            .iter()
            .zip(sinks)
            .all(|(old, new)| old.value.key == new.key);
    if !same {
        return Err(StateError::violation(
            key,
            "a change of a source and its sinks keeps the set of sinks",
        ));
    }
    for (old, new) in old.sinks.iter().zip(sinks) {
        check_change(&old.value, new)?;
    }
    let live = sinks.iter().filter(|sink| sink.is_live()).count();
    if live > 0 && !source.is_live() {
        return Err(StateError::violation(
            key,
            "a deleted source has no live sinks",
        ));
    }
    let before = old.sinks.iter().filter(|sink| sink.value.is_live()).count();
    if live > before.max(MAX_CHILDREN) {
        return Err(StateError::LimitReached {
            parent: format!("source {}", source.key),
            children: Sink::PLURAL,
            limit: MAX_CHILDREN,
        });
    }
    Ok(())
}
