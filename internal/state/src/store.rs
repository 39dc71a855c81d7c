//! The handle to the state: reading, listing, and the deadline of every request.
//!
//! The verbs that change something are in `repository`.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions, KvClient, LeaseClient, WatchClient};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use stream_model::VolumeId;

use crate::codec::{self, Rest};
use crate::error::{StateError, is_compacted};
use crate::keyspace::{Key, end_of};
use crate::lock::{self, Guard, Guards};
use crate::metrics::{Metrics, Operation};
use crate::repository::volume::Incarnation;
use crate::txn::Txn;

/// How long a request may take before it counts as failed. What a leader had not passed on when it died is lost, and etcd
/// says so after 7 s only; a cluster that is well answers in milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// The same of a page of a list, which may have many megabytes.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
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
///
/// Fields that this version of the service does not know stay beside the value, and are written again with whatever is
/// written over it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// etcd's `mod_revision` of the key.
    pub revision: i64,
    rest: Rest,
}

impl<T> Versioned<T> {
    /// A value without anything unknown.
    pub fn new(value: T, revision: i64) -> Self {
        let rest = Rest::default();
        Self {
            value,
            revision,
            rest,
        }
    }

    /// Another value at the same revision.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Versioned<U> {
        Versioned {
            value: change(self.value),
            revision: self.revision,
            rest: self.rest,
        }
    }
}

impl<T: Serialize + DeserializeOwned> Versioned<T> {
    pub(crate) fn decode(key: &str, bytes: &[u8], revision: i64) -> Result<Self, StateError> {
        let (value, rest) = codec::decode_all(key, bytes)?;
        Ok(Self {
            value,
            revision,
            rest,
        })
    }
}

/// A value as it is going to be stored.
#[derive(Debug)]
pub(crate) struct Written<T> {
    pub(crate) value: T,
    pub(crate) bytes: Vec<u8>,
    rest: Rest,
}

impl<T: Serialize> Written<T> {
    /// Under a key that has no value yet, or one that has nothing to do with this one.
    pub(crate) fn new(value: T) -> Self {
        Self {
            bytes: codec::encode(&value),
            value,
            rest: Rest::default(),
        }
    }

    /// In place of a value that was read.
    pub(crate) fn over(old: &Versioned<T>, value: T) -> Self {
        let (bytes, rest) = codec::encode_over(&value, &old.rest);
        Self { value, bytes, rest }
    }

    /// What is stored once it is written.
    pub(crate) fn at(self, revision: i64) -> Versioned<T> {
        Versioned {
            value: self.value,
            revision,
            rest: self.rest,
        }
    }
}

/// The state of the service. Clones share one connection.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    /// Locks that every transaction depends on.
    guards: Guards,
}

struct Inner {
    kv: KvClient,
    watch: WatchClient,
    lease: LeaseClient,
    /// `<namespace>/`
    prefix: String,
    /// Unreadable values that were logged, by key and revision, so that each is logged once.
    reported: Mutex<HashSet<(String, i64)>>,
    metrics: Metrics,
    /// What is known of the incarnations that this process holds: the revisions of their keys are compared by every change of
    /// a slice, and hardly ever change.
    incarnations: Mutex<HashMap<VolumeId, Versioned<Incarnation>>>,
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
    pub(crate) fn decode<T: Serialize + DeserializeOwned>(
        &self,
    ) -> Result<Versioned<T>, StateError> {
        Versioned::decode(&self.key, &self.value, self.revision)
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
        Self::open_with(client, namespace, Metrics::default()).await
    }

    /// The same, with metrics that somebody reads.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_with(
        client: Client,
        namespace: &str,
        metrics: Metrics,
    ) -> Result<Self, StateError> {
        let store = Self::handle(client, namespace, metrics)?;
        store.check_schema().await?;
        Ok(store)
    }

    /// Opens the state under `<namespace>/` to look at it: nothing is written, not even into an empty namespace.
    ///
    /// # Errors
    /// When etcd does not answer, the namespace is empty, or a newer version of the service has written the state. A schema
    /// that is missing or cannot be read is none: the audit reports it.
    pub async fn open_existing(client: Client, namespace: &str) -> Result<Self, StateError> {
        let store = Self::handle(client, namespace, Metrics::default())?;
        let entry = store.get_raw(&Key::Schema).await?;
        match entry.map(|entry| read_schema(&entry.value)) {
            Some(Err(error @ StateError::NewerFormat { .. })) => Err(error),
            _ => Ok(store),
        }
    }

    fn handle(client: Client, namespace: &str, metrics: Metrics) -> Result<Self, StateError> {
        let namespace = namespace.trim_matches('/');
        if namespace.is_empty() || namespace.contains('\0') {
            return Err(StateError::InvalidName {
                what: "the etcd namespace",
                name: namespace.to_owned(),
                rule: "it must have at least one character that is not '/'",
            });
        }
        Ok(Self {
            inner: Arc::new(Inner {
                kv: client.kv_client().max_decoding_message_size(MAX_ANSWER),
                watch: client.watch_client().max_decoding_message_size(MAX_ANSWER),
                lease: client.lease_client(),
                prefix: format!("{namespace}/"),
                reported: Mutex::default(),
                metrics,
                incarnations: Mutex::default(),
            }),
            guards: Guards::default(),
        })
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
        read_schema(&entry.value)
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

    pub(crate) fn txn(&self) -> Txn<'_> {
        lock::compare(Txn::new(self), &self.guards)
    }

    pub(crate) fn guards(&self) -> &[Guard] {
        &self.guards
    }

    pub(crate) fn with_guards(&self, guards: Vec<Guard>) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            guards: guards.into(),
        }
    }

    pub(crate) fn incarnations(&self) -> &Mutex<HashMap<VolumeId, Versioned<Incarnation>>> {
        &self.inner.incarnations
    }

    /// Waits for an answer, but not for ever, and notes how long it took.
    pub(crate) fn ask<T>(
        &self,
        operation: Operation,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> impl Future<Output = Result<T, StateError>> {
        let patience = match operation {
            Operation::List => LIST_TIMEOUT,
            Operation::Read | Operation::Write | Operation::Lease | Operation::Watch => {
                REQUEST_TIMEOUT
            }
        };
        let (asked, request) = (Instant::now(), bounded(patience, request));
        async move {
            let answer = request.await;
            self.metrics().answered(operation, asked, &answer);
            answer
        }
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub(crate) async fn get_raw(&self, key: &Key) -> Result<Option<RawEntry>, StateError> {
        let mut kv = self.kv();
        let full = self.full(&key.to_string());
        let mut answer = self.ask(Operation::Read, kv.get(full, None)).await?;
        Ok(answer
            .take_kvs()
            .into_iter()
            .next()
            .map(|kv| self.raw_entry(kv)))
    }

    pub(crate) async fn get<T: Serialize + DeserializeOwned>(
        &self,
        key: &Key,
    ) -> Result<Option<Versioned<T>>, StateError> {
        self.get_raw(key)
            .await?
            .map(|entry| entry.decode())
            .transpose()
    }

    /// Reads a value that must be there.
    pub(crate) async fn require<T: Serialize + DeserializeOwned>(
        &self,
        key: &Key,
    ) -> Result<Versioned<T>, StateError> {
        self.get(key)
            .await?
            .ok_or_else(|| StateError::not_found(key))
    }

    /// Lists everything under `prefix`, in key order, as of one revision.
    pub(crate) async fn scan(&self, prefix: &str) -> Result<Listed, StateError> {
        self.scan_range(&self.full(prefix), &self.full(&end_of(prefix)))
            .await
    }

    /// Lists everything of the namespace, in key order, as of one revision.
    pub(crate) async fn scan_all(&self) -> Result<Listed, StateError> {
        let all = &self.inner.prefix;
        self.scan_range(all, &end_of(all)).await
    }

    async fn scan_range(&self, begin: &str, end: &str) -> Result<Listed, StateError> {
        for _ in 0..LIST_TRIES {
            if let Some(listed) = self.scan_once(begin, end).await? {
                return Ok(listed);
            }
        }
        Err(StateError::unavailable(
            "the list is compacted faster than it can be read",
        ))
    }

    /// One try of [`Self::scan_range`]; none when its revision was compacted before the last page.
    async fn scan_once(&self, begin: &str, end: &str) -> Result<Option<Listed>, StateError> {
        let mut next = begin.as_bytes().to_vec();
        let mut entries = Vec::new();
        let mut revision = 0;
        loop {
            let options = GetOptions::new()
                .with_range(end)
                .with_limit(PAGE)
                .with_revision(revision);
            let mut kv = self.kv();
            let page = async {
                match kv.get(next, Some(options)).await {
                    Err(error) if is_compacted(&error) => Ok(None),
                    other => other.map(Some),
                }
            };
            let Some(mut page) = self.ask(Operation::List, page).await? else {
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
    pub(crate) async fn list_readable<T: Serialize + DeserializeOwned>(
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

/// Checks that this version of the service can read the state with this schema.
pub(crate) fn read_schema(value: &[u8]) -> Result<(), StateError> {
    let key = Key::Schema.to_string();
    let schema: Schema = serde_json::from_slice(value).map_err(|_| StateError::Corrupt {
        key: key.clone(),
        reason: "it is not an object with a version".to_owned(),
    })?;
    if schema.version > SCHEMA {
        return Err(StateError::NewerFormat {
            key,
            found: schema.version,
            supported: SCHEMA,
        });
    }
    Ok(())
}

fn encode_schema() -> Vec<u8> {
    serde_json::to_vec(&Schema { version: SCHEMA }).expect("a number always serialises")
}

/// Waits for an answer, but not for ever.
///
/// The request is boxed: the client's futures have 20 KiB each, and would otherwise be part of every future of a caller.
fn bounded<T>(
    patience: Duration,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> impl Future<Output = Result<T, StateError>> {
    let request = Box::pin(request);
    async move {
        match tokio::time::timeout(patience, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(StateError::from_etcd(&error)),
            Err(_) => Err(StateError::unavailable(format!(
                "no answer within {} s",
                patience.as_secs()
            ))),
        }
    }
}
