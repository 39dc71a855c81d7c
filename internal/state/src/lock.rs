//! Locks between processes, and the fencing tokens that make them safe.
//!
//! A lock is a key that one process has created under its lease. When the process dies the key goes with the lease, and
//! somebody else can have the lock. A process that was paused may then still believe that it holds it: no clock can rule that
//! out. So holding a lock only *saves* work that would be done twice. What keeps two holders apart is the token: the revision
//! that created the key. [`Store::guarded_by`] gives a store whose every transaction compares it, and fails with
//! [`StateError::LockLost`] once the key is gone or is somebody else's.
//!
//! Owner: whoever took it; [`Lock::release`] gives it back, and so does dropping it, a little later. A lock whose taking had
//! an unknown outcome is given back the same way. The values here are never read by the mirror.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{GetOptions, PutOptions, WatchOptions};
use serde::{Deserialize, Serialize};
use stream_model::ErrorKind;

use crate::backoff::Contact;
use crate::codec;
use crate::error::StateError;
use crate::keyspace::Key;
use crate::lease::{Certainty, Lease};
use crate::metrics::Operation;
use crate::store::Store;
use crate::txn::Txn;

/// The token before it is known.
const UNKNOWN: i64 = 0;
/// A waiter looks again after so long, whatever it has heard.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What a lock's key holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Holder {
    /// Who holds it, for people.
    pub(crate) by: String,
    /// Distinguishes this taking from every other.
    pub(crate) taking: String,
}

/// A lock that is held, as far as this process can tell.
#[must_use = "dropping it gives the lock back"]
pub struct Lock {
    lease: Lease,
    lease_id: i64,
    guard: Guard,
    /// What its key holds; empty once it is being given back.
    value: Vec<u8>,
}

/// What a transaction compares to be sure of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guard {
    pub(crate) key: String,
    /// The revision that created the key.
    pub(crate) token: i64,
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("key", &self.guard.key)
            .field("token", &self.guard.token)
            .finish_non_exhaustive()
    }
}

impl Lock {
    /// The fencing token: rises with each taking of the same lock.
    #[must_use]
    pub const fn token(&self) -> i64 {
        self.guard.token
    }

    /// Whether it can still be ours. False early enough that nobody else has it before: see [`Lease::is_live`].
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.lease.id() == self.lease_id && self.lease.is_live()
    }

    /// Whether the key is there. When the answer to the taking got lost, it may still appear.
    const fn certainty(&self) -> Certainty {
        match self.guard.token {
            UNKNOWN => Certainty::MayAppear,
            _ => Certainty::IsThere,
        }
    }

    /// Gives the lock back now.
    ///
    /// # Errors
    /// When etcd is away; it is given back all the same once it is there again, or the lease ends.
    pub async fn release(mut self) -> Result<(), StateError> {
        // Noted by the lease until it is done: dropping has nothing left to do.
        let value = std::mem::take(&mut self.value);
        let certainty = self.certainty();
        self.lease.discard(&self.guard.key, &value, certainty).await
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.value.is_empty() {
            let certainty = self.certainty();
            self.lease
                .discard_later(&self.guard.key, &self.value, certainty);
        }
    }
}

impl Store {
    /// Takes a lock if nobody has it. `name` may contain slashes; `by` says who takes it, for people.
    ///
    /// # Errors
    /// `InvalidName`; `LeaseLost` when the lease has ended or is about to; `Unavailable` when etcd is away: the lock is given
    /// back if it was taken.
    pub async fn try_lock(
        &self,
        lease: &Lease,
        name: &str,
        by: &str,
    ) -> Result<Option<Lock>, StateError> {
        check_name(name)?;
        if !lease.is_live() {
            return Err(StateError::LeaseLost);
        }
        let key = Key::Lock(name.to_owned());
        let lease_id = lease.id();
        let holder = Holder {
            by: by.to_owned(),
            taking: format!("{:016x}", rand::random::<u64>()),
        };
        let value = codec::encode(&holder);
        let options = PutOptions::new().with_lease(lease_id);
        let txn = self
            .txn()
            .absent(&key)
            .put_with(&key, value.clone(), options);
        // Before the question: when its answer is not waited for, dropping this gives back what may have been taken.
        let mut lock = Lock {
            lease: lease.clone(),
            lease_id,
            guard: Guard {
                key: key.to_string(),
                token: UNKNOWN,
            },
            value,
        };
        match txn.commit().await {
            Ok(token) => {
                lock.guard.token = token;
                Ok(Some(lock))
            }
            Err(error) => {
                if error.kind() != ErrorKind::Unavailable {
                    // Certainly not taken.
                    lock.value.clear();
                }
                match error {
                    StateError::AlreadyExists { .. } => Ok(None),
                    error => Err(error),
                }
            }
        }
    }

    /// Takes a lock, waiting for it as long as somebody else has it or etcd is away.
    ///
    /// # Errors
    /// `InvalidName`; `AccessDenied` and what else waiting cannot help against.
    ///
    /// # Cancel safety
    /// Safe: a lock that was about to be taken is given back.
    pub async fn lock(&self, lease: &Lease, name: &str, by: &str) -> Result<Lock, StateError> {
        let mut contact = Contact::new("lock");
        loop {
            let error = match self.try_lock(lease, name, by).await {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) => match self.until_released(name).await {
                    Ok(()) => {
                        contact.works();
                        continue;
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if error.kind() != ErrorKind::Unavailable {
                return Err(error);
            }
            contact.failed(&error).await;
        }
    }

    /// Waits until the lock may be free.
    async fn until_released(&self, name: &str) -> Result<(), StateError> {
        let full = self.full(&Key::Lock(name.to_owned()).to_string());
        let mut kv = self.kv();
        let keys_only = GetOptions::new().with_keys_only();
        let answer = self
            .ask(Operation::Read, kv.get(full.clone(), Some(keys_only)))
            .await?;
        if answer.kvs().is_empty() {
            return Ok(());
        }
        let seen = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        let mut client = self.watch_client();
        let options = WatchOptions::new().with_start_revision(seen + 1);
        let mut watch = self
            .ask(Operation::Watch, client.watch(full, Some(options)))
            .await?;
        let heard = async {
            // The key is only ever created and removed: any event is its removal.
            while let Ok(Some(answer)) = watch.message().await {
                if !answer.0.events.is_empty() || answer.canceled() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LOOK_AGAIN, heard).await;
        Ok(())
    }

    /// The same store, but whatever it writes fails with [`StateError::LockLost`] once the lock is not ours any more.
    #[must_use]
    pub fn guarded_by(&self, lock: &Lock) -> Self {
        let mut guards = self.guards().to_vec();
        guards.push(lock.guard.clone());
        self.with_guards(guards)
    }
}

fn check_name(name: &str) -> Result<(), StateError> {
    let valid = name.len() <= 512
        && !name.contains('\0')
        && name.split('/').all(|segment| !segment.is_empty());
    if valid {
        return Ok(());
    }
    Err(StateError::InvalidName {
        what: "the name of a lock",
        name: name.to_owned(),
        rule: "it must have 1 to 512 bytes and no empty segment",
    })
}

/// Adds the comparisons of a guarded store.
pub(crate) fn compare<'a>(mut txn: Txn<'a>, guards: &[Guard]) -> Txn<'a> {
    for guard in guards {
        txn = txn.created_at(guard.key.clone(), guard.token);
    }
    txn
}

pub(crate) type Guards = Arc<[Guard]>;
