//! What all handlers share.

use std::sync::Arc;
use std::time::Duration;

use stream_model::definition::settings::Catalogue;
use stream_model::definition::{Sink, Source, TableKind};
use stream_model::level::{Defaults, Levels};
use stream_model::{Clock, SinkKey, SourceKey, opening};
use stream_state::{Mirror, Store, Versioned};
use stream_target::Targets;
use tracing::warn;

use crate::destination::Destinations;
use crate::documentation::Documentation;
use crate::dry_run::RecordLimits;
use crate::error::{ApiError, not_found};
use crate::task::Runner;
use crate::templates::TemplateCheck;
use crate::traces::Traces;

/// How long a task waits until this process sees its own change. Longer, and the mirror has lost etcd, which it reports.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// What all handlers share.
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) mirror: Mirror,
    pub(crate) targets: Targets,
    /// Only with a Storage API.
    pub(crate) destinations: Option<Destinations>,
    pub(crate) defaults: Defaults,
    pub(crate) urls: Urls,
    pub(crate) documentation: Documentation,
    pub(crate) templates: TemplateCheck,
    pub(crate) record_limits: RecordLimits,
    pub(crate) traces: Traces,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) runner: Runner,
}

/// Where things are found, without a slash at the end.
#[derive(Debug, Clone)]
pub(crate) struct Urls {
    /// The API itself.
    pub(crate) api: String,
    /// The HTTP source.
    pub(crate) source: String,
}

impl Urls {
    /// The API's URL of a source.
    pub(crate) fn of_source(&self, key: &SourceKey) -> String {
        format!(
            "{}/v1/branches/{}/sources/{}",
            self.api, key.branch.branch, key.source
        )
    }

    /// The API's URL of a sink.
    pub(crate) fn of_sink(&self, key: &SinkKey) -> String {
        format!("{}/sinks/{}", self.of_source(&key.source), key.sink)
    }

    /// The API's URL of a task.
    pub(crate) fn of_task(&self, id: &str) -> String {
        format!("{}/v1/tasks/{id}", self.api)
    }
}

impl Context {
    /// The source, if it lives.
    pub(crate) async fn source(&self, key: &SourceKey) -> Result<Source, ApiError> {
        let source = self.store.source(key).await?.map(|source| source.value);
        let live = source.filter(|source| source.deleted.is_none());
        live.ok_or_else(|| not_found::source(key.source.as_str()))
    }

    /// The sink and its source, if both live.
    pub(crate) async fn sink(&self, key: &SinkKey) -> Result<(Source, Sink), ApiError> {
        let source = self.source(&key.source).await?;
        let sink = self.store.sink(key).await?.map(|sink| sink.value);
        let live = sink.filter(|sink| sink.deleted.is_none());
        let sink = live.ok_or_else(|| not_found::sink(key.sink.as_str()))?;
        Ok((source, sink))
    }

    /// The kind of a table that does not say it: one of the project where there are projects, else the first one that this
    /// installation has.
    pub(crate) fn default_kind(&self) -> TableKind {
        match self.catalogue() {
            Catalogue::Keboola => TableKind::Keboola,
            Catalogue::Own => self.targets.kinds().next().unwrap_or(TableKind::Sqlite),
        }
    }

    /// Which settings are shown.
    pub(crate) fn catalogue(&self) -> Catalogue {
        match self.targets.takes(TableKind::Keboola) {
            true => Catalogue::Keboola,
            false => Catalogue::Own,
        }
    }

    /// The levels of a sink that neither it nor its source has changed. A source, which has no table, shows those of the
    /// default kind.
    pub(crate) fn default_levels(&self, kind: Option<TableKind>) -> Levels {
        self.defaults
            .for_table(kind.unwrap_or_else(|| self.default_kind()))
    }

    /// The levels of a sink.
    pub(crate) fn levels(&self, source: &Source, sink: &Sink) -> Levels {
        opening::levels(source, sink, &self.defaults)
    }

    /// Waits until the mirror of this process shows a change, so that whoever saw the task finish can rely on it here.
    pub(crate) async fn seen<T>(&self, changed: &Versioned<T>) {
        self.reached(changed.revision).await;
    }

    /// The same for the revision of a change.
    pub(crate) async fn reached(&self, revision: i64) {
        let reached = self.mirror.reached(revision);
        if tokio::time::timeout(SEEN_WITHIN, reached).await.is_err() {
            warn!(revision, "change is stored but not mirrored yet");
        }
    }
}
