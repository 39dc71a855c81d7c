//! Projects of a service elsewhere, and what sinks have there.
//!
//! A destination changes in three steps: [`Store::begin_provisioning`] before anything is made elsewhere,
//! [`Store::install_destination`] or [`Store::retire_destination`] once the sink is what it shall be, and
//! [`Store::end_provisioning`] when nothing is left to be given back. What is replaced moves into the record of the change in
//! the same transaction, so that nothing elsewhere is ever without a record.

use stream_model::SinkKey;
use stream_model::definition::Project;
use stream_model::destination::{Destination, Provisioning};
use stream_model::id::ProjectId;

use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{Store, Versioned, Written};

impl Store {
    /// Reads a project.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn project(&self, id: ProjectId) -> Result<Option<Project>, StateError> {
        let project = self.get(&Key::Project(id)).await?;
        Ok(project.map(|project| project.value))
    }

    /// Records a project, unless somebody was faster. Returns what is recorded.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn record_project(
        &self,
        id: ProjectId,
        project: Project,
    ) -> Result<Project, StateError> {
        let key = Key::Project(id);
        let txn = self.txn().absent(&key).put(&key, &project);
        match txn.commit().await {
            Ok(_) => Ok(project),
            Err(StateError::AlreadyExists { .. }) => {
                let recorded: Versioned<Project> = self.require(&key).await?;
                Ok(recorded.value)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the destination of a sink.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn destination(
        &self,
        sink: &SinkKey,
    ) -> Result<Option<Versioned<Destination>>, StateError> {
        self.get(&Key::Destination(sink.clone())).await
    }

    /// Reads the change of a destination that is under way.
    ///
    /// # Errors
    /// When etcd is away or the value cannot be read.
    pub async fn provisioning(
        &self,
        sink: &SinkKey,
    ) -> Result<Option<Versioned<Provisioning>>, StateError> {
        self.get(&Key::Provisioning(sink.clone())).await
    }

    /// Lists all changes that are under way, or were when a process ended.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn provisionings(
        &self,
    ) -> Result<Vec<(SinkKey, Versioned<Provisioning>)>, StateError> {
        let listed = self.list_readable(prefix::PROVISIONING).await?.into_iter();
        let of_sinks = listed.filter_map(|(key, value)| match key {
            Key::Provisioning(sink) => Some((sink, value)),
            _ => None,
        });
        Ok(of_sinks.collect())
    }

    /// Begins a change.
    ///
    /// # Errors
    /// `AlreadyExists` when one is under way.
    pub async fn begin_provisioning(
        &self,
        sink: &SinkKey,
        new: Provisioning,
    ) -> Result<Versioned<Provisioning>, StateError> {
        let key = Key::Provisioning(sink.clone());
        let txn = self.txn().absent(&key).put(&key, &new);
        txn.commit_as(Written::new(new)).await
    }

    /// Records how far a change is.
    ///
    /// # Errors
    /// `Conflict` when somebody else works on it.
    pub async fn update_provisioning(
        &self,
        sink: &SinkKey,
        old: &Versioned<Provisioning>,
        new: Provisioning,
    ) -> Result<Versioned<Provisioning>, StateError> {
        let key = Key::Provisioning(sink.clone());
        let new = Written::over(old, new);
        let txn = self.txn().unmodified(&key, old.revision).write(&key, &new);
        txn.commit_as(new).await
    }

    /// Makes `new` the destination of a sink. What it had before is to be given back by the same change.
    ///
    /// # Errors
    /// `Conflict` when somebody else works on it.
    pub async fn install_destination(
        &self,
        sink: &SinkKey,
        change: &Versioned<Provisioning>,
        new: Destination,
    ) -> Result<Versioned<Provisioning>, StateError> {
        self.replace_destination(sink, change, Some(new)).await
    }

    /// Leaves a sink without a destination. What it had is to be given back by the change.
    ///
    /// # Errors
    /// `Conflict` when somebody else works on it.
    pub async fn retire_destination(
        &self,
        sink: &SinkKey,
        change: &Versioned<Provisioning>,
    ) -> Result<Versioned<Provisioning>, StateError> {
        self.replace_destination(sink, change, None).await
    }

    async fn replace_destination(
        &self,
        sink: &SinkKey,
        change: &Versioned<Provisioning>,
        new: Option<Destination>,
    ) -> Result<Versioned<Provisioning>, StateError> {
        let (key, own) = (
            Key::Provisioning(sink.clone()),
            Key::Destination(sink.clone()),
        );
        let old = self.destination(sink).await?;
        let revision = old.as_ref().map_or(0, |old| old.revision);
        let old = old.map(|old| old.value);
        // The same already: an earlier try went through although its answer got lost.
        if old == new {
            return Ok(change.clone());
        }
        let mut after = change.value.clone();
        after.replaced = old.or(after.replaced);
        let after = Written::over(change, after);
        let txn = self
            .txn()
            .unmodified(&key, change.revision)
            .unmodified(&own, revision)
            .write(&key, &after);
        let txn = match &new {
            Some(new) => txn.put(&own, new),
            None => txn.delete(&own),
        };
        txn.commit_as(after).await
    }

    /// Ends a change: nothing of it is left to be given back.
    ///
    /// # Errors
    /// `Conflict` when somebody else works on it.
    pub async fn end_provisioning(
        &self,
        sink: &SinkKey,
        change: &Versioned<Provisioning>,
    ) -> Result<(), StateError> {
        let key = Key::Provisioning(sink.clone());
        let txn = self.txn().unmodified(&key, change.revision).delete(&key);
        txn.commit().await.map(|_| ())
    }
}
