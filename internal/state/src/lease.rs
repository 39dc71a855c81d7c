//! The lease of a process, and the registrations that live as long as it.
//!
//! Registrations are remembered. When the lease is lost, because the process was paused or etcd was away for longer than
//! its time to live, a new one is granted and all of them are written again.
//!
//! The lease is for routing, not for safety: whoever may write what is decided by incarnations and comparisons. A process
//! whose lease has lapsed goes on with what it holds.
//!
//! [`Lease::is_live`] turns false a quarter of the time to live before etcd lets the lease end, whatever the clocks of others
//! say, so that whoever relies on it stops before somebody else begins.
//!
//! The registration of a volume is written by its newest incarnation only (`holder`).
//!
//! Each entry has a wanted and a stored value, with the revision at which etcd stored it; writers go on until both are the
//! same. A write whose answer got lost may reach etcd later than a newer one; then the older value is shown until the next
//! change. Registrations are for routing, and are compared by nobody.

mod holder;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use parking_lot::Mutex;
use serde::Serialize;
use stream_model::ErrorKind;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Contact;
use crate::codec;
use crate::crash::{self, Point};
use crate::error::StateError;
use crate::keyspace::Key;
use crate::metrics::Operation;
use crate::store::Store;

pub(crate) use holder::Holder;

/// The lease of a process. Clones are the same lease.
#[derive(Clone)]
pub struct Lease {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    held: Mutex<Held>,
    /// There is something to discard.
    work: Notify,
    /// Held while registrations are written: two writers would both write what is not stored yet.
    settling: tokio::sync::Mutex<()>,
}

struct Held {
    /// The lease in etcd. Another one after the first was lost.
    id: i64,
    ttl: Duration,
    /// Until when etcd certainly keeps it: counted from before the question, not from the answer.
    granted_until: Instant,
    phase: Phase,
    entries: BTreeMap<String, Entry>,
    /// Keys to be removed as long as they have exactly this value.
    discarded: BTreeMap<(String, Vec<u8>), Discard>,
}

/// Whether a key that is to be removed is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Certainty {
    IsThere,
    /// The answer to its writing got lost: a member that was frozen may still write it.
    MayAppear,
}

/// How a removal goes on.
#[derive(Debug, Clone, Copy)]
struct Discard {
    /// Looked for at least until then, unless it was removed before.
    until: Instant,
    /// Not looked for before that again.
    after: Instant,
}

/// How long a request may stay under way inside etcd, with much to spare: its own limit is 7 s.
const LATE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live,
    Revoked,
}

type Value = Option<Arc<[u8]>>;

/// One registration. `None` as a value: there is none.
struct Entry {
    wanted: Value,
    /// What etcd has, as far as is known.
    stored: Option<Stored>,
    /// Whose volume it is about.
    holder: Option<Holder>,
}

/// What is to be written.
struct Due {
    value: Value,
    lease: i64,
    holder: Option<Holder>,
}

struct Stored {
    lease: i64,
    revision: i64,
    value: Value,
}

impl Entry {
    fn is_settled(&self, lease: i64) -> bool {
        self.stored
            .as_ref()
            .is_some_and(|stored| stored.lease == lease && stored.value == self.wanted)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.shared.held.lock();
        f.debug_struct("Lease")
            .field("id", &format_args!("{:x}", held.id))
            .field("ttl", &held.ttl)
            .field("entries", &held.entries.keys())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Grants a lease that lives for `ttl` (whole seconds, at least one) after it was kept alive last.
    ///
    /// # Errors
    /// When etcd is away.
    pub async fn grant_lease(&self, ttl: Duration) -> Result<Lease, StateError> {
        let asked = Instant::now();
        let (id, granted) = grant(self, ttl).await?;
        Ok(Lease {
            shared: Arc::new(Shared {
                store: self.clone(),
                held: Mutex::new(Held {
                    id,
                    ttl: granted,
                    granted_until: asked + granted,
                    phase: Phase::Live,
                    entries: BTreeMap::new(),
                    discarded: BTreeMap::new(),
                }),
                work: Notify::new(),
                settling: tokio::sync::Mutex::default(),
            }),
        })
    }
}

async fn grant(store: &Store, ttl: Duration) -> Result<(i64, Duration), StateError> {
    let seconds = i64::try_from(ttl.as_millis().div_ceil(1000))
        .unwrap_or(i64::MAX)
        .max(1);
    let mut client = store.lease_client();
    let answer = store
        .ask(Operation::Lease, client.grant(seconds, None))
        .await?;
    // etcd may grant more than was asked for.
    let granted = u64::try_from(answer.ttl()).unwrap_or(1).max(1);
    Ok((answer.id(), Duration::from_secs(granted)))
}

impl Lease {
    /// The identifier in etcd. Changes when a lost lease is replaced.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.shared.held.lock().id
    }

    /// Whether the lease certainly lives for a while yet: what depends on it may begin.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let held = self.shared.held.lock();
        held.phase == Phase::Live && Instant::now() + held.ttl / 4 < held.granted_until
    }

    /// The revision at which a registration was written, when it certainly stands still: under the present lease, which lives
    /// for a while yet. None otherwise, also while it is being written.
    #[must_use]
    pub fn registered_since(&self, key: &Key) -> Option<i64> {
        let held = self.shared.held.lock();
        let is_live =
            held.phase == Phase::Live && Instant::now() + held.ttl / 4 < held.granted_until;
        let entry = held.entries.get(&key.to_string());
        let entry = entry.filter(|entry| is_live && entry.is_settled(held.id))?;
        entry.stored.as_ref().map(|stored| stored.revision)
    }

    /// Removes a key if it still has that value. Noted when that fails, and done with the next keep-alive.
    pub(crate) async fn discard(
        &self,
        key: &str,
        value: &[u8],
        certainty: Certainty,
    ) -> Result<(), StateError> {
        self.note_discard(key, value, certainty);
        self.discard_all().await
    }

    fn note_discard(&self, key: &str, value: &[u8], certainty: Certainty) {
        let now = Instant::now();
        let until = match certainty {
            Certainty::IsThere => now,
            Certainty::MayAppear => now + LATE,
        };
        let mut held = self.shared.held.lock();
        if held.phase == Phase::Live {
            let entry = (key.to_owned(), value.to_vec());
            held.discarded.insert(entry, Discard { until, after: now });
        }
    }

    /// Does the same in the background.
    pub(crate) fn discard_later(&self, key: &str, value: &[u8], certainty: Certainty) {
        self.note_discard(key, value, certainty);
        self.shared.work.notify_one();
    }

    fn ask<T>(
        &self,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> impl Future<Output = Result<T, StateError>> {
        self.shared.store.ask(Operation::Lease, request)
    }

    async fn discard_all(&self) -> Result<(), StateError> {
        while let Some((entry, discard)) = self.next_discard() {
            let full = self.shared.store.full(&entry.0);
            crash::point(Point::Writing, std::iter::once(entry.0.as_str()));
            let is_same = Compare::value(full.as_str(), CompareOp::Equal, entry.1.clone());
            let request = Txn::new()
                .when([is_same])
                .and_then([TxnOp::delete(full, None)]);
            let mut kv = self.shared.store.kv();
            let answer = self.ask(kv.txn(request)).await;
            crash::point(Point::Written, std::iter::once(entry.0.as_str()));
            let is_over = match answer {
                Ok(answer) => answer.succeeded() || Instant::now() >= discard.until,
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
                // Refused for good: the key goes with the lease.
                Err(_) => true,
            };
            let mut held = self.shared.held.lock();
            if is_over {
                held.discarded.remove(&entry);
            } else if let Some(discard) = held.discarded.get_mut(&entry) {
                // With one of the next keep-alives.
                discard.after = Instant::now() + Duration::from_secs(1);
            }
        }
        Ok(())
    }

    fn next_discard(&self) -> Option<((String, Vec<u8>), Discard)> {
        let held = self.shared.held.lock();
        let now = Instant::now();
        let mut due = held.discarded.iter().filter(|(_, d)| d.after <= now);
        due.next().map(|(entry, discard)| (entry.clone(), *discard))
    }

    /// Keeps the lease alive until cancelled. It outlives every failure: when etcd is away it tries again, when the lease is
    /// lost it gets a new one and writes all registrations again.
    ///
    /// Does not revoke the lease when cancelled: see [`Self::revoke`].
    ///
    /// # Errors
    /// None at present; the result is that of a task.
    pub async fn keep_alive(self, cancel: CancellationToken) -> Result<(), StateError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Ok(()),
            never = self.keep_for_ever() => match never {},
        }
    }

    /// Gives the lease back: all registrations vanish at once instead of after the time to live.
    ///
    /// # Errors
    /// When etcd is away; the registrations vanish all the same when the lease expires.
    pub async fn revoke(&self) -> Result<(), StateError> {
        let id = {
            let mut held = self.shared.held.lock();
            held.phase = Phase::Revoked;
            held.entries.clear();
            held.discarded.clear();
            held.id
        };
        let mut client = self.shared.store.lease_client();
        match self.ask(client.revoke(id)).await {
            Ok(_) | Err(StateError::LeaseLost) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes a registration, now and whenever the lease was lost. Does nothing when it is stored already.
    pub(crate) async fn put<T: Serialize>(&self, key: &Key, value: &T) -> Result<(), StateError> {
        self.want(key, Some(codec::encode(value).into()), None)
            .await
    }

    /// The same about a volume: not written, now or later, once somebody else has opened it.
    pub(crate) async fn put_as_holder<T: Serialize>(
        &self,
        key: &Key,
        value: &T,
        holder: Holder,
    ) -> Result<(), StateError> {
        let wanted = Some(codec::encode(value).into());
        self.want(key, wanted, Some(holder)).await
    }

    /// Removes a registration.
    pub(crate) async fn remove(&self, key: &Key) -> Result<(), StateError> {
        self.want(key, None, None).await
    }

    async fn want(
        &self,
        key: &Key,
        wanted: Value,
        holder: Option<Holder>,
    ) -> Result<(), StateError> {
        let key = key.to_string();
        {
            let mut held = self.shared.held.lock();
            if held.phase == Phase::Revoked {
                return Err(StateError::LeaseLost);
            }
            match held.entries.get_mut(&key) {
                Some(entry) => (entry.wanted, entry.holder) = (wanted, holder),
                None => {
                    let entry = Entry {
                        wanted,
                        stored: None,
                        holder,
                    };
                    held.entries.insert(key.clone(), entry);
                }
            }
        }
        self.settle(&key).await
    }

    /// Writes what is wanted until that is what etcd has.
    async fn settle(&self, key: &str) -> Result<(), StateError> {
        let _alone = self.shared.settling.lock().await;
        while let Some(due) = self.unsettled(key) {
            match self.write(key, &due).await {
                Ok(revision) => self.note(key, due.lease, revision, due.value),
                // Replaced while this was on its way.
                Err(StateError::LeaseLost) if self.id() != due.lease => {}
                Err(error @ StateError::StaleIncarnation { .. }) => {
                    // Whatever stands there is the other writer's.
                    self.shared.held.lock().entries.remove(key);
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn settle_all(&self) -> Result<(), StateError> {
        let keys: Vec<String> = self.shared.held.lock().entries.keys().cloned().collect();
        for key in keys {
            match self.settle(&key).await {
                Err(StateError::StaleIncarnation { volume, .. }) => {
                    tracing::debug!(%volume, "not registered again, another writer has the volume");
                }
                settled => settled?,
            }
        }
        Ok(())
    }

    /// The wanted value and the lease to write it under, when etcd does not have it yet. Forgets removed entries.
    fn unsettled(&self, key: &str) -> Option<Due> {
        let mut held = self.shared.held.lock();
        let lease = held.id;
        let entry = held.entries.get(key)?;
        if !entry.is_settled(lease) {
            return Some(Due {
                value: entry.wanted.clone(),
                lease,
                holder: entry.holder,
            });
        }
        if entry.wanted.is_none() {
            held.entries.remove(key);
        }
        None
    }

    async fn write(&self, key: &str, due: &Due) -> Result<i64, StateError> {
        let (store, lease) = (&self.shared.store, due.lease);
        if let (Some(value), Some(holder)) = (&due.value, due.holder) {
            return self.write_as_holder(key, value, lease, holder).await;
        }
        let full = store.full(key);
        let mut kv = store.kv();
        let header = match &due.value {
            Some(value) => {
                let options = PutOptions::new().with_lease(lease);
                let request = kv.put(full, value.to_vec(), Some(options));
                self.ask(request).await?.take_header()
            }
            None => {
                // Somebody else may have registered under this key meanwhile.
                let is_ours = Compare::lease(full.as_str(), CompareOp::Equal, lease);
                let request = Txn::new()
                    .when([is_ours])
                    .and_then([TxnOp::delete(full, None)]);
                self.ask(kv.txn(request)).await?.take_header()
            }
        };
        Ok(header.map_or(0, |header| header.revision()))
    }

    /// Notes what was written. Of two writes that crossed, the one with the higher revision is what etcd has.
    fn note(&self, key: &str, lease: i64, revision: i64, value: Value) {
        let mut held = self.shared.held.lock();
        let Some(entry) = held.entries.get_mut(key) else {
            return;
        };
        let newer = entry
            .stored
            .as_ref()
            .is_none_or(|stored| stored.lease != lease || stored.revision <= revision);
        if newer {
            entry.stored = Some(Stored {
                lease,
                revision,
                value,
            });
        }
    }

    async fn keep_for_ever(&self) -> Infallible {
        let mut contact = Contact::new("lease");
        loop {
            let Err(mut error) = self.keep(&mut contact).await;
            if self.shared.held.lock().phase == Phase::Revoked {
                std::future::pending::<()>().await;
            }
            if matches!(error, StateError::LeaseLost) {
                match self.replace().await {
                    Ok(()) => continue,
                    Err(failed) => error = failed,
                }
            }
            contact.failed(&error).await;
        }
    }

    /// Keeps the present lease alive until that fails.
    async fn keep(&self, contact: &mut Contact) -> Result<Infallible, StateError> {
        let (id, ttl) = {
            let held = self.shared.held.lock();
            (held.id, held.ttl)
        };
        let mut client = self.shared.store.lease_client();
        let (mut keeper, mut answers) = self.ask(client.keep_alive(id)).await?;
        loop {
            // Writes that failed before are made up for here.
            self.settle_all().await?;
            self.discard_all().await?;
            contact.works();
            self.wait_and_discard(ttl / 3).await?;
            let asked = Instant::now();
            self.ask(keeper.keep_alive()).await?;
            let answer = tokio::time::timeout(ttl / 4, self.ask(answers.message()));
            let answer = answer
                .await
                .map_err(|_| StateError::unavailable("no answer to a keep-alive"))?;
            match answer? {
                Some(answer) if answer.ttl() > 0 => self.prolonged(id, asked),
                Some(_) => return Err(StateError::LeaseLost),
                None => return Err(StateError::unavailable("the keep-alive stream ended")),
            }
        }
    }

    /// Waits for the next keep-alive, and discards meanwhile what is to be discarded.
    async fn wait_and_discard(&self, pause: Duration) -> Result<(), StateError> {
        let end = Instant::now() + pause;
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(end) => return Ok(()),
                () = self.shared.work.notified() => self.discard_all().await?,
            }
        }
    }

    fn prolonged(&self, id: i64, asked: Instant) {
        let mut held = self.shared.held.lock();
        if held.id == id {
            held.granted_until = asked + held.ttl;
        }
    }

    /// Gets a new lease in place of the lost one. The entries are unsettled by that.
    async fn replace(&self) -> Result<(), StateError> {
        let ttl = self.shared.held.lock().ttl;
        let asked = Instant::now();
        let (id, ttl) = grant(&self.shared.store, ttl).await?;
        let mut held = self.shared.held.lock();
        self.shared.store.metrics().leases_lost.inc();
        tracing::warn!(
            registrations = held.entries.len(),
            "lease lost, registering again"
        );
        held.id = id;
        held.ttl = ttl;
        held.granted_until = asked + ttl;
        Ok(())
    }
}
