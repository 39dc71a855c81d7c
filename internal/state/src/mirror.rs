//! A picture of everything under `entity/` in memory, fed by one list and one watch.
//!
//! A reader sees the state of one revision as a whole: the events of a watch answer, which never splits a revision, are
//! applied under one lock. While etcd is away the picture stays as it was and grows stale, which [`Mirror::staleness`]
//! tells. The task that feeds it is [`MirrorTask::run`]; the component spawns it.
//!
//! The revision of the picture is that of the last change it contains. Progress notes of etcd only prove that it is alive:
//! some releases send them before events that are older than them, so they never move the revision.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchOptions, WatchResponse, WatchStream};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::backoff::Contact;
use crate::change::Change;
use crate::error::StateError;
use crate::keyspace::{Key, end_of, prefix};
use crate::metrics::Operation;
use crate::store::{Listed, RawEntry, Store};
use crate::topology::Topology;

/// How often etcd is asked for a sign of life.
pub(crate) const PROBE: Duration = Duration::from_secs(2);
/// A watch from which nothing was heard for so long is given up and made again.
pub(crate) const SILENCE: Duration = Duration::from_secs(6);
/// Pause between a new list and the watch that follows it.
const AFTER_LIST: Duration = Duration::from_millis(100);
/// The number by which etcd says that an event is a deletion.
const DELETED: i32 = 1;

/// A handle to the picture. Clones show the same one.
#[derive(Clone, Debug)]
pub struct Mirror {
    shared: Arc<Shared>,
}

/// What feeds a [`Mirror`].
#[derive(Debug)]
#[must_use = "the mirror grows stale unless this runs"]
pub struct MirrorTask {
    store: Store,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    topology: RwLock<Topology>,
    /// The revision of the picture, published after it is in place.
    revision: watch::Sender<i64>,
    /// When etcd was heard last.
    heard: Mutex<Instant>,
}

impl Mirror {
    /// Reads everything once and returns the filled mirror, with the task that keeps it so.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn start(store: &Store) -> Result<(Self, MirrorTask), StateError> {
        let listed = store.scan(prefix::ENTITIES).await?;
        let shared = Arc::new(Shared {
            topology: RwLock::default(),
            revision: watch::Sender::new(0),
            heard: Mutex::new(Instant::now()),
        });
        let task = MirrorTask {
            store: store.clone(),
            shared: Arc::clone(&shared),
        };
        task.replace_by(&listed)?;
        Ok((Self { shared }, task))
    }

    /// Looks at the picture. Keep it short: the task that applies changes waits for it. Must not be nested.
    pub fn read<R>(&self, look: impl FnOnce(&Topology) -> R) -> R {
        look(&self.shared.topology.read())
    }

    /// The revision of the picture, each time it has changed.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<i64> {
        self.shared.revision.subscribe()
    }

    /// The revision of the picture.
    #[must_use]
    pub fn revision(&self) -> i64 {
        *self.shared.revision.borrow()
    }

    /// How long ago etcd was heard last. A few seconds are normal.
    #[must_use]
    pub fn staleness(&self) -> Duration {
        self.shared.heard.lock().elapsed()
    }

    /// Waits until the picture contains the change with this revision, as returned by a verb on a definition, file or
    /// slice. Revisions of anything else may never be reached while no entity changes.
    ///
    /// # Cancel safety
    /// Safe. Waits for ever while etcd is away: callers that cannot, set a deadline.
    pub async fn reached(&self, revision: i64) {
        let mut revisions = self.subscribe();
        // The sender lives in the mirror itself, so it is never closed meanwhile.
        let _ = revisions.wait_for(|reached| *reached >= revision).await;
    }
}

/// Why a watch ended.
enum Interruption {
    /// It has to begin with a new list.
    Gap,
    Failed(StateError),
}

impl From<StateError> for Interruption {
    fn from(error: StateError) -> Self {
        Self::Failed(error)
    }
}

impl MirrorTask {
    /// Follows the changes until cancelled. Outlives every failure of etcd.
    ///
    /// # Errors
    /// `WentBack` when etcd was replaced by an older or another one: what was read before is worthless then.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), StateError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(()),
            error = self.follow_for_ever() => Err(error),
        }
    }

    async fn follow_for_ever(&self) -> StateError {
        let mut contact = Contact::new("mirror");
        loop {
            let Err(interruption) = self.follow(&mut contact).await;
            let error = match interruption {
                Interruption::Failed(error) => error,
                Interruption::Gap => match self.relist().await {
                    Ok(()) => {
                        // A member that lags behind would send us here again at once.
                        tokio::time::sleep(AFTER_LIST).await;
                        continue;
                    }
                    Err(error) => error,
                },
            };
            if matches!(error, StateError::WentBack { .. }) {
                return error;
            }
            contact.failed(&error).await;
        }
    }

    /// One watch, from the change after the last one seen until it ends.
    async fn follow(&self, contact: &mut Contact) -> Result<Infallible, Interruption> {
        let seen = *self.shared.revision.borrow();
        let mut watch = self.watch_from(seen + 1).await?;
        let mut probe = tokio::time::interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                biased;
                answer = watch.message() => {
                    let answer = answer.map_err(|error| StateError::from_etcd(&error))?;
                    let Some(answer) = answer else {
                        return Err(StateError::unavailable("the watch ended").into());
                    };
                    self.take(&answer, seen)?;
                    heard = Instant::now();
                    *self.shared.heard.lock() = heard;
                    contact.works();
                }
                _ = probe.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err(StateError::unavailable("the watch fell silent").into());
                    }
                    self.store
                        .ask(Operation::Watch, watch.request_progress())
                        .await?;
                }
            }
        }
    }

    async fn watch_from(&self, revision: i64) -> Result<WatchStream, StateError> {
        let options = WatchOptions::new()
            .with_range(self.store.full(&end_of(prefix::ENTITIES)))
            .with_start_revision(revision);
        let mut client = self.store.watch_client();
        let all = self.store.full(prefix::ENTITIES);
        let opening = client.watch(all, Some(options));
        self.store.ask(Operation::Watch, opening).await
    }

    /// Takes one answer of a watch that began after revision `began`.
    fn take(&self, answer: &WatchResponse, began: i64) -> Result<(), Interruption> {
        if answer.canceled() {
            if answer.compact_revision() > 0 {
                return Err(Interruption::Gap);
            }
            let reason = format!("the watch was cancelled: {}", answer.cancel_reason());
            return Err(StateError::unavailable(reason).into());
        }
        let header = answer.header().map(etcd_client::ResponseHeader::revision);
        // A member that lags behind, or another etcd than before. The list tells.
        if answer.created() && header.is_some_and(|revision| revision < began) {
            return Err(Interruption::Gap);
        }
        self.apply_events(answer);
        Ok(())
    }

    fn apply_events(&self, answer: &WatchResponse) {
        // Read before the lock is taken. The fields themselves: the library's accessor panics on unknown event types.
        let changes: Vec<(i64, Option<Change>)> = answer
            .0
            .events
            .iter()
            .filter_map(|event| {
                let kv = event.kv.as_ref()?;
                let entry = RawEntry {
                    key: self.store.relative(&kv.key),
                    value: kv.value.clone(),
                    revision: kv.mod_revision,
                };
                let change = if event.r#type == DELETED {
                    self.deletion(&entry)
                } else {
                    self.change(&entry)
                };
                Some((entry.revision, change))
            })
            .collect();
        let Some(newest) = changes.iter().map(|(revision, _)| *revision).max() else {
            return;
        };
        {
            let mut topology = self.shared.topology.write();
            for (revision, change) in changes {
                if let Some(change) = change {
                    topology.apply(change, revision);
                }
            }
            topology.revision = topology.revision.max(newest);
        }
        self.publish();
    }

    /// Reads everything anew and applies the difference at once.
    async fn relist(&self) -> Result<(), StateError> {
        let listed = self.store.scan(prefix::ENTITIES).await?;
        let seen = *self.shared.revision.borrow();
        self.replace_by(&listed)?;
        self.store.metrics().relists.inc();
        tracing::info!(
            seen,
            revision = listed.revision,
            entries = listed.entries.len(),
            "mirror listed the state anew"
        );
        *self.shared.heard.lock() = Instant::now();
        Ok(())
    }

    fn replace_by(&self, listed: &Listed) -> Result<(), StateError> {
        let changes: Vec<Change> = listed
            .entries
            .iter()
            .filter_map(|entry| self.change(entry))
            .collect();
        {
            let mut topology = self.shared.topology.write();
            if listed.revision < topology.revision {
                return Err(StateError::WentBack {
                    seen: topology.revision,
                    found: listed.revision,
                });
            }
            let mut gone = topology.keys();
            for entry in &listed.entries {
                if let Ok(key) = entry.key.parse() {
                    gone.remove(&key);
                }
            }
            for change in changes {
                topology.apply(change, listed.revision);
            }
            for key in gone {
                if let Ok(Some(deletion)) = Change::read(&key, None, listed.revision) {
                    topology.apply(deletion, listed.revision);
                }
            }
            topology.revision = listed.revision;
        }
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        let revision = self.shared.topology.read().revision;
        self.shared.revision.send_replace(revision);
    }

    fn deletion(&self, entry: &RawEntry) -> Option<Change> {
        let key: Key = entry.key.parse().ok()?;
        Change::read(&key, None, entry.revision).ok().flatten()
    }

    fn change(&self, entry: &RawEntry) -> Option<Change> {
        let key: Key = match entry.key.parse() {
            Ok(key) => key,
            Err(unknown) => {
                self.store.report(entry, &unknown);
                return None;
            }
        };
        match Change::read(&key, Some(&entry.value), entry.revision) {
            Ok(change) => change,
            Err(error) => {
                self.store.report(entry, &error);
                Change::unreadable(&key)
            }
        }
    }
}
