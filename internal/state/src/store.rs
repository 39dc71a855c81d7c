//! The handle to the state: reading, listing, and the deadline of every request.
//!
//! The verbs that change something are in `repository`.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions, KvClient, LeaseClient, WatchClient};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::error::{StateError, is_compacted};
use crate::keyspace::{Key, end_of};
use crate::txn::Txn;

/// How long any request may take before it counts as failed.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Keys per page of a list.
const PAGE: i64 = 500;
/// How often a list begins anew because the revision it reads at was compacted meanwhile.
const LIST_TRIES: u32 = 5;
/// The longest answer that is read: a page of sinks with long templates has tens of megabytes, the library's default is 4.
const MAX_ANSWER: usize = 512 << 20;
/// The format of the key space.
const SCHEMA: u64 = 1;
/// So many unreadable values are remembered as reported.
const MAX_REPORTED: usize = 1024;

/// A value together with the revision of its last change.
///
/// The revision is the etcd revision of the transaction that wrote it: verbs compare it, and [`crate::Mirror::reached`]
/// waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// etcd's `mod_revision` of the key.
    pub revision: i64,
}

/// The state of the service. Clones share one connection.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    kv: KvClient,
    watch: WatchClient,
    lease: LeaseClient,
    /// `<namespace>/`
    prefix: String,
    /// Unreadable values that were logged, by key and revision, so that each is logged once.
    reported: Mutex<HashSet<(String, i64)>>,
}

/// A key and its value as stored.
#[derive(Debug, Clone)]
pub(crate) struct RawEntry {
    /// Without the namespace.
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    pub(crate) revision: i64,
}

impl RawEntry {
    pub(crate) fn decode<T: DeserializeOwned>(&self) -> Result<Versioned<T>, StateError> {
        Ok(Versioned {
            value: codec::decode(&self.key, &self.value)?,
            revision: self.revision,
        })
    }
}

/// All entries under a prefix at one revision.
pub(crate) struct Listed {
    pub(crate) entries: Vec<RawEntry>,
    pub(crate) revision: i64,
}

#[derive(Serialize, Deserialize)]
struct Schema {
    version: u64,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("prefix", &self.inner.prefix)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the state under `<namespace>/` and checks that this version of the service can read it.
    ///
    /// # Errors
    /// When etcd does not answer, the namespace is empty, or a newer version of the service has written the state.
    pub async fn open(client: Client, namespace: &str) -> Result<Self, StateError> {
        let namespace = namespace.trim_matches('/');
        if namespace.is_empty() || namespace.contains('\0') {
            return Err(StateError::InvalidName {
                what: "the etcd namespace",
                name: namespace.to_owned(),
                rule: "it must have at least one character that is not '/'",
            });
        }
        let store = Self {
            inner: Arc::new(Inner {
                kv: client.kv_client().max_decoding_message_size(MAX_ANSWER),
                watch: client.watch_client().max_decoding_message_size(MAX_ANSWER),
                lease: client.lease_client(),
                prefix: format!("{namespace}/"),
                reported: Mutex::default(),
            }),
        };
        store.check_schema().await?;
        Ok(store)
    }

    async fn check_schema(&self) -> Result<(), StateError> {
        let key = Key::Schema;
        if self.get_raw(&key).await?.is_none() {
            let created = self
                .txn()
                .absent(&key)
                .put_raw(&key, encode_schema())
                .commit()
                .await;
            match created {
                // Another process was first: its schema is checked below.
                Ok(_) | Err(StateError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(entry) = self.get_raw(&key).await? else {
            return Err(StateError::not_found(key));
        };
        let schema: Schema =
            serde_json::from_slice(&entry.value).map_err(|_| StateError::Corrupt {
                key: key.to_string(),
                reason: "it is not an object with a version".to_owned(),
            })?;
        if schema.version > SCHEMA {
            return Err(StateError::NewerFormat {
                key: key.to_string(),
                found: schema.version,
                supported: SCHEMA,
            });
        }
        Ok(())
    }

    /// The full key in etcd.
    pub(crate) fn full(&self, relative: &str) -> String {
        format!("{}{relative}", self.inner.prefix)
    }

    /// The key without the namespace. Bytes that are no text become one that is no key.
    pub(crate) fn relative(&self, full: &[u8]) -> String {
        let text = String::from_utf8_lossy(full);
        text.strip_prefix(&self.inner.prefix)
            .unwrap_or(&text)
            .to_owned()
    }

    pub(crate) fn kv(&self) -> KvClient {
        self.inner.kv.clone()
    }

    pub(crate) fn watch_client(&self) -> WatchClient {
        self.inner.watch.clone()
    }

    pub(crate) fn lease_client(&self) -> LeaseClient {
        self.inner.lease.clone()
    }

    pub(crate) const fn txn(&self) -> Txn<'_> {
        Txn::new(self)
    }

    pub(crate) async fn get_raw(&self, key: &Key) -> Result<Option<RawEntry>, StateError> {
        let mut kv = self.kv();
        let full = self.full(&key.to_string());
        let mut answer = bounded(kv.get(full, None)).await?;
        Ok(answer
            .take_kvs()
            .into_iter()
            .next()
            .map(|kv| self.raw_entry(kv)))
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        key: &Key,
    ) -> Result<Option<Versioned<T>>, StateError> {
        self.get_raw(key)
            .await?
            .map(|entry| entry.decode())
            .transpose()
    }

    /// Reads a value that must be there.
    pub(crate) async fn require<T: DeserializeOwned>(
        &self,
        key: &Key,
    ) -> Result<Versioned<T>, StateError> {
        self.get(key)
            .await?
            .ok_or_else(|| StateError::not_found(key))
    }

    /// Lists everything under `prefix`, in key order, as of one revision.
    pub(crate) async fn scan(&self, prefix: &str) -> Result<Listed, StateError> {
        for _ in 0..LIST_TRIES {
            if let Some(listed) = self.scan_once(prefix).await? {
                return Ok(listed);
            }
        }
        Err(StateError::unavailable(
            "the list is compacted faster than it can be read",
        ))
    }

    /// One try of [`Self::scan`]; none when its revision was compacted before the last page.
    async fn scan_once(&self, prefix: &str) -> Result<Option<Listed>, StateError> {
        let end = self.full(&end_of(prefix));
        let mut next = self.full(prefix).into_bytes();
        let mut entries = Vec::new();
        let mut revision = 0;
        loop {
            let options = GetOptions::new()
                .with_range(end.as_str())
                .with_limit(PAGE)
                .with_revision(revision);
            let mut kv = self.kv();
            let page = async {
                match kv.get(next, Some(options)).await {
                    Err(error) if is_compacted(&error) => Ok(None),
                    other => other.map(Some),
                }
            };
            let Some(mut page) = bounded(page).await? else {
                return Ok(None);
            };
            if revision == 0 {
                revision = page
                    .header()
                    .map_or(0, etcd_client::ResponseHeader::revision);
            }
            let more = page.more();
            let kvs = page.take_kvs();
            let last = kvs.last().map(|kv| kv.key().to_vec());
            entries.extend(kvs.into_iter().map(|kv| self.raw_entry(kv)));
            match last {
                Some(mut key) if more => {
                    key.push(0);
                    next = key;
                }
                _ => return Ok(Some(Listed { entries, revision })),
            }
        }
    }

    fn raw_entry(&self, kv: etcd_client::KeyValue) -> RawEntry {
        let revision = kv.mod_revision();
        let (key, value) = kv.into_key_value();
        RawEntry {
            key: self.relative(&key),
            value,
            revision,
        }
    }

    /// Lists values for people and for routing: an unreadable one is logged and left out, the others are of use all the
    /// same. Where completeness decides about data, [`Self::scan`] is used.
    pub(crate) async fn list_readable<T: DeserializeOwned>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(Key, Versioned<T>)>, StateError> {
        let listed = self.scan(prefix).await?;
        let mut values = Vec::with_capacity(listed.entries.len());
        for entry in &listed.entries {
            match (entry.key.parse::<Key>(), entry.decode()) {
                (Ok(key), Ok(value)) => values.push((key, value)),
                (Err(unknown), _) => self.report(entry, &unknown),
                (_, Err(error)) => self.report(entry, &error),
            }
        }
        Ok(values)
    }

    /// Logs an entry that cannot be read, once per revision of it.
    pub(crate) fn report(&self, entry: &RawEntry, error: &dyn fmt::Display) {
        let mut reported = self.inner.reported.lock();
        if reported.len() >= MAX_REPORTED {
            reported.clear();
        }
        if reported.insert((entry.key.clone(), entry.revision)) {
            tracing::error!(key = %entry.key, revision = entry.revision, %error, "unreadable state skipped");
        }
    }
}

fn encode_schema() -> Vec<u8> {
    serde_json::to_vec(&Schema { version: SCHEMA }).expect("a number always serialises")
}

/// Waits for an answer, but not for ever.
///
/// The request is boxed: the client's futures have 20 KiB each, and would otherwise be part of every future of a caller.
pub(crate) fn bounded<T>(
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> impl Future<Output = Result<T, StateError>> {
    let request = Box::pin(request);
    async move {
        match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(StateError::from_etcd(&error)),
            Err(_) => Err(StateError::unavailable(format!(
                "no answer within {} s",
                REQUEST_TIMEOUT.as_secs()
            ))),
        }
    }
}
