//! Keeps the routes up to date with the mirror of the state store.
//!
//! One task, the only writer of the table. It looks at the sources that have changed since the last revision, so its work
//! grows with the changes and not with the number of sources.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use stream_encoding::CompiledMapping;
use stream_model::definition::Mapping;
use stream_model::definition::source::SourceKind;
use stream_model::file::File;
use stream_model::idempotency::Assigned;
use stream_model::rate::RateLimit;
use stream_model::slice::{self, Slice};
use stream_model::{Secret, SessionId, SinkId, SliceId, SourceKey, VolumeId};
use stream_state::keyspace::Key;
use stream_state::{Mirror, SinkNode, SourceNode, Versioned};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::admission::Account;
use crate::key::{KeyPath, KeyRouting};
use crate::lane::Surroundings;
use crate::lanes::Lanes;
use crate::route::{Directory, Fate, Plan, PlannedSink, Ready, Route, State, Target, VolumeRoute};
use crate::table::Table;

/// The directory of a running process.
pub(crate) struct Routes {
    table: Arc<Table>,
    mirror: Mirror,
    news: watch::Sender<i64>,
}

impl Routes {
    /// Routes that are read from `table`.
    pub fn new(table: Arc<Table>, mirror: Mirror) -> Self {
        Self {
            table,
            mirror,
            news: watch::Sender::new(0),
        }
    }
}

impl Directory for Routes {
    fn route(&self, source: &SourceKey) -> Option<Arc<Route>> {
        self.table.route(source)
    }

    fn fate(&self, slice: SliceId, session: SessionId) -> Fate {
        self.mirror.read(|topology| match topology.slice(slice) {
            Some(slice) => fate(&slice.value, session),
            // What was sealed before the sink was purged was kept until then.
            None => match topology.purged(slice).map(|note| &note.value.slice) {
                Some(slice) if slice.seal().is_some() => fate(slice, session),
                Some(_) | None => Fate::Gone,
            },
        })
    }

    fn news(&self) -> watch::Receiver<i64> {
        self.news.subscribe()
    }

    fn heard(&self) -> i64 {
        self.mirror.revision()
    }
}

fn fate(slice: &Slice, session: SessionId) -> Fate {
    match slice.seal() {
        None => Fate::Live,
        Some(seal) => Fate::Sealed {
            last: seal.sessions.get(&session).copied().unwrap_or(0),
        },
    }
}

/// What turns the mirror into routes.
pub(crate) struct Feed {
    routes: Arc<Routes>,
    lanes: Arc<Lanes>,
    around: Surroundings,
    changes: watch::Receiver<i64>,
    /// The rate of sources that have none of their own.
    rate: RateLimit,
    /// What the sources of each volume hold of the memory for requests. One per volume that was ever used: a volume is not
    /// forgotten often enough to matter.
    accounts: HashMap<VolumeId, Arc<Account>>,
    /// The revision up to which the routes are complete.
    seen: i64,
}

/// What the mirror has about a source, taken out of it so that routes are made without holding it up.
struct Draft {
    secret: Secret<String>,
    rate: RateLimit,
    kind: DraftKind,
}

enum DraftKind {
    Disabled,
    Unreadable,
    Enabled(Vec<SinkDraft>, KeyDraft),
}

/// What is known about the keys of a source.
struct KeyDraft {
    path: Option<String>,
    assigned: Option<Arc<Assigned>>,
}

/// An enabled sink.
struct SinkDraft {
    sink: SinkId,
    file: Option<Arc<Versioned<File>>>,
    /// The slices of the file that take rows, oldest first.
    slices: Vec<Arc<Versioned<Slice>>>,
    /// The slices that take what the sink rejects, oldest first.
    rejects: Vec<Arc<Versioned<Slice>>>,
}

impl Feed {
    /// What fills the table of `routes`. Lanes are started with `around`; sources without a rate of their own get `rate`.
    pub fn new(
        routes: Arc<Routes>,
        lanes: Arc<Lanes>,
        around: Surroundings,
        rate: RateLimit,
    ) -> Self {
        let changes = routes.mirror.subscribe();
        Self {
            routes,
            lanes,
            around,
            changes,
            rate,
            accounts: HashMap::new(),
            seen: 0,
        }
    }

    /// Follows the mirror until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                changed = self.changes.changed() => if changed.is_err() { return },
            }
            self.refresh();
        }
    }

    /// Brings the routes up to date.
    pub fn refresh(&mut self) {
        self.changes.mark_unchanged();
        let (revision, drafts) = self.routes.mirror.read(|topology| {
            let changed = topology.changed_since(self.seen);
            let draft = |node: &SourceNode| draft(node, self.rate);
            let drafts =
                changed.map(|key| (key.clone(), topology.sources.get(key).and_then(draft)));
            (topology.revision, drafts.collect::<Vec<_>>())
        });
        let mut keep = Vec::with_capacity(drafts.len());
        let mut changes = Vec::with_capacity(drafts.len());
        let mut rates = Vec::with_capacity(drafts.len());
        for (key, draft) in drafts {
            rates.push(draft.as_ref().map(|draft| draft.rate));
            let route = draft.map(|draft| self.route(&key, draft));
            keep.push((key.clone(), route.as_ref().map_or_else(Vec::new, volumes)));
            changes.push((key, route));
        }
        self.routes.table.update(changes);
        self.limit(&keep, &rates);
        for (key, volumes) in keep {
            self.lanes.keep_only(&key, &volumes);
        }
        self.seen = revision;
        self.routes.news.send_replace(revision);
    }

    /// Passes on the rates of sources and the accounts of their volumes. A source on several volumes is in no account: of
    /// these one that is slow is passed over.
    fn limit(&mut self, sources: &[(SourceKey, Vec<VolumeId>)], rates: &[Option<RateLimit>]) {
        let limits: Vec<_> = sources
            .iter()
            .zip(rates)
            .filter_map(|((key, volumes), rate)| {
                let mut account = |volume: &VolumeId| {
                    let account = self.accounts.entry(*volume);
                    Arc::clone(account.or_insert_with(|| Account::new(usize::MAX)))
                };
                let account = match volumes.as_slice() {
                    [only] => Some(account(only)),
                    _ => None,
                };
                Some((key, (*rate)?, account))
            })
            .collect();
        self.routes.table.limit(limits.into_iter());
    }

    fn route(&self, key: &SourceKey, draft: Draft) -> Route {
        let state = match draft.kind {
            DraftKind::Disabled => State::Disabled,
            DraftKind::Unreadable => State::Broken,
            DraftKind::Enabled(sinks, keys) => self.state(key, &sinks, keys),
        };
        Route {
            source: key.clone(),
            secret: draft.secret,
            state,
        }
    }

    fn state(&self, key: &SourceKey, sinks: &[SinkDraft], keys: KeyDraft) -> State {
        if sinks.is_empty() {
            return State::NoEnabledSink;
        }
        let previous = self.routes.table.route(key);
        let previous = previous.as_ref().and_then(|route| match &route.state {
            State::Ready(ready) => Some(&ready.plan),
            _ => None,
        });
        let mut planned = Vec::with_capacity(sinks.len());
        for sink in sinks {
            let Some(file) = &sink.file else {
                return State::NoSlice;
            };
            let (version, columns) = (file.value.mapping_version, &file.value.table.mapping);
            let Some(sink) = plan_sink(key, &sink.sink, version, columns, previous) else {
                return State::Broken;
            };
            planned.push(sink);
        }
        let plan = Plan::new(planned).of(key);
        let plan = match previous {
            Some(previous) if previous.makes_same_rows_as(&plan) => Arc::clone(previous),
            _ => Arc::new(plan),
        };
        let volumes: Vec<_> = common_volumes(sinks)
            .into_iter()
            .map(|volume| VolumeRoute {
                volume,
                lane: self.lanes.get(key, volume, &self.around),
                targets: sinks
                    .iter()
                    .filter_map(|sink| target(&sink.slices, volume))
                    .collect(),
                rejects: sinks
                    .iter()
                    .map(|sink| target(&sink.rejects, volume))
                    .collect(),
            })
            .collect();
        if volumes.is_empty() {
            State::NoSlice
        } else {
            let keys = match key_routing(key, keys) {
                Some(keys) => Arc::new(keys),
                None => return State::Broken,
            };
            State::Ready(Ready {
                plan,
                volumes,
                keys,
            })
        }
    }
}

fn volumes(route: &Route) -> Vec<VolumeId> {
    match &route.state {
        State::Ready(ready) => ready.volumes.iter().map(|volume| volume.volume).collect(),
        State::Disabled | State::NoEnabledSink | State::NoSlice | State::Broken => Vec::new(),
    }
}

/// Takes out of the mirror what the route of a source is made of. None when the source is deleted.
fn draft(node: &SourceNode, rate: RateLimit) -> Option<Draft> {
    let source = &node.source.as_ref()?.value;
    if source.deleted.is_some() {
        return None;
    }
    let SourceKind::Http { secret } = &source.kind;
    let kind = if !source.is_enabled() {
        DraftKind::Disabled
    } else if node
        .unreadable
        .iter()
        .any(|key| matches!(key, Key::Sink(_)))
    {
        // A sink that cannot be read may be enabled. Without it a record would be acknowledged that it does not hold.
        DraftKind::Unreadable
    } else {
        let keys = KeyDraft {
            path: source.settings.key_path().map(str::to_owned),
            assigned: node.assignment.clone(),
        };
        DraftKind::Enabled(node.sinks.iter().filter_map(sink_draft).collect(), keys)
    };
    Some(Draft {
        secret: secret.clone(),
        rate: source.settings.rate(rate),
        kind,
    })
}

fn sink_draft((id, node): (&SinkId, &SinkNode)) -> Option<SinkDraft> {
    let sink = node.sink.as_ref().filter(|sink| sink.value.is_enabled())?;
    debug_assert_eq!(&sink.value.key.sink, id, "a sink is stored under its key");
    let file = node
        .current
        .and_then(|current| node.files.get(&current))
        .cloned();
    let slices = file.as_ref().map_or_else(Vec::new, |file| {
        let takes_rows = |slice: &&Arc<Versioned<Slice>>| {
            slice.value.file == file.value.id
                && slice.value.mapping_version == file.value.mapping_version
                && matches!(slice.value.state, slice::State::Writing)
        };
        node.slices.values().filter(takes_rows).cloned().collect()
    });
    let takes_rejects =
        |slice: &&Arc<Versioned<Slice>>| matches!(slice.value.state, slice::State::Writing);
    Some(SinkDraft {
        sink: id.clone(),
        file,
        slices,
        rejects: node.rejects().filter(takes_rejects).cloned().collect(),
    })
}

/// The sink with its compiled mapping; the one of `previous` when the version is the same, and the columns: after a purge versions
/// begin anew.
fn plan_sink(
    source: &SourceKey,
    sink: &SinkId,
    version: u64,
    columns: &Mapping,
    previous: Option<&Arc<Plan>>,
) -> Option<PlannedSink> {
    let known = previous.into_iter().flat_map(|plan| &plan.sinks);
    let mut known = known.filter(|known| {
        known.sink == *sink && known.mapping_version == version && *known.columns == *columns
    });
    if let Some(known) = known.next() {
        return Some(known.clone());
    }
    match CompiledMapping::compile(columns) {
        Ok(mapping) => Some(PlannedSink {
            sink: sink.clone(),
            mapping_version: version,
            mapping: Arc::new(mapping),
            columns: Arc::new(columns.clone()),
        }),
        Err(reason) => {
            error!(%source, %sink, version, %reason, "cannot use the mapping of a sink");
            None
        }
    }
}

/// Where keys are and who remembers them. None when the path cannot be used: without it records would be written twice.
fn key_routing(source: &SourceKey, draft: KeyDraft) -> Option<KeyRouting> {
    let path = match draft.path.map(|path| KeyPath::compile(&path)).transpose() {
        Ok(path) => path,
        Err(reason) => {
            error!(%source, %reason, "cannot use the path of the idempotency keys of a source");
            return None;
        }
    };
    let assigned = draft
        .assigned
        .map_or_else(Assigned::default, |assigned| Assigned::clone(&assigned));
    Some(KeyRouting { path, assigned })
}

/// The volumes on which every sink has a slice.
fn common_volumes(sinks: &[SinkDraft]) -> BTreeSet<VolumeId> {
    let of = |sink: &SinkDraft| {
        sink.slices
            .iter()
            .map(|slice| slice.value.volume)
            .collect::<BTreeSet<_>>()
    };
    sinks
        .iter()
        .map(of)
        .reduce(|a, b| &a & &b)
        .unwrap_or_default()
}

/// The newest of the slices on a volume.
fn target(slices: &[Arc<Versioned<Slice>>], volume: VolumeId) -> Option<Target> {
    let slice = slices
        .iter()
        .rev()
        .find(|slice| slice.value.volume == volume)?;
    Some(Target {
        slice: slice.value.id,
        compression: slice.value.compression,
        durability: slice.value.durability,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{body_sink, path_sink, source};

    /// The sink as it is planned when there was another one before.
    fn planned(wanted: &PlannedSink, before: &PlannedSink) -> PlannedSink {
        let previous = Arc::new(Plan::new(vec![before.clone()]));
        let (sink, version) = (&wanted.sink, wanted.mapping_version);
        let planned = plan_sink(&source(), sink, version, &wanted.columns, Some(&previous));
        planned.expect("the columns can be used")
    }

    #[test]
    fn a_mapping_is_used_again_only_for_the_same_sink_version_and_columns() {
        let before = path_sink("a", 1, "x");
        let same = planned(&path_sink("a", 1, "x"), &before);
        assert!(Arc::ptr_eq(&same.mapping, &before.mapping));
        for wanted in [
            path_sink("b", 1, "x"),
            path_sink("a", 2, "x"),
            path_sink("a", 1, "y"),
            body_sink("a", 1),
        ] {
            let planned = planned(&wanted, &before);
            assert!(!Arc::ptr_eq(&planned.mapping, &before.mapping));
            assert_eq!(
                (planned.sink, planned.mapping_version, planned.columns),
                (wanted.sink, wanted.mapping_version, wanted.columns)
            );
        }
    }
}
