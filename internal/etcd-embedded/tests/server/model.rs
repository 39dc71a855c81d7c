//! Random requests against the server and against a few lines that say what they mean.

use std::collections::BTreeMap;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, Txn, TxnOp,
    TxnOpResponse, WatchOptions,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::conformance::revision;
use crate::harness::{Running, events, next, refusal, spell};

const SEEDS: u64 = 6;
const STEPS: usize = 120;
const KEYS: [&str; 6] = ["a", "ab", "b", "ba", "c", "d"];

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    value: String,
    created: i64,
    modified: i64,
    version: i64,
}

type Snapshot = BTreeMap<String, Pair>;

/// The state at every revision, and every event.
struct Model {
    revision: i64,
    compacted: i64,
    now: Snapshot,
    snapshots: BTreeMap<i64, Snapshot>,
    events: Vec<(i64, String)>,
}

/// A change, and what it says in the history.
#[derive(Debug, Clone)]
enum Write {
    Put(String, String),
    Delete(String, String),
}

impl Model {
    fn new() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            now: Snapshot::new(),
            snapshots: BTreeMap::from([(1, Snapshot::new())]),
            events: Vec::new(),
        }
    }

    fn apply(&mut self, writes: &[Write]) -> i64 {
        let at = self.revision + 1;
        let before = self.events.len();
        for write in writes {
            match write {
                Write::Put(key, value) => self.put(at, key, value),
                Write::Delete(from, to) => self.delete(at, from, to),
            }
        }
        if self.events.len() > before {
            self.revision = at;
            self.snapshots.insert(at, self.now.clone());
        }
        self.revision
    }

    fn put(&mut self, at: i64, key: &str, value: &str) {
        let old = self.now.get(key);
        let pair = Pair {
            value: value.to_owned(),
            created: old.map_or(at, |old| old.created),
            modified: at,
            version: old.map_or(1, |old| old.version + 1),
        };
        self.now.insert(key.to_owned(), pair);
        self.events.push((at, format!("put {key}={value} @{at}")));
    }

    fn delete(&mut self, at: i64, from: &str, to: &str) {
        for key in self.keys(&self.now, from, to) {
            self.now.remove(&key);
            self.events.push((at, format!("delete {key} @{at}")));
        }
    }

    fn keys(&self, snapshot: &Snapshot, from: &str, to: &str) -> Vec<String> {
        let in_range = |key: &&String| key.as_str() >= from && key.as_str() < to;
        snapshot.keys().filter(in_range).cloned().collect()
    }

    fn range(&self, from: &str, to: &str, at: i64) -> Vec<(String, Pair)> {
        let snapshot = &self.snapshots[&at];
        self.keys(snapshot, from, to)
            .into_iter()
            .map(|key| (key.clone(), snapshot[&key].clone()))
            .collect()
    }
}

fn pairs(found: &[KeyValue]) -> Vec<(String, Pair)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    found
        .iter()
        .map(|pair| {
            let read = Pair {
                value: text(pair.value()),
                created: pair.create_revision(),
                modified: pair.mod_revision(),
                version: pair.version(),
            };
            (text(pair.key()), read)
        })
        .collect()
}

/// One client that does the same to both.
struct Run {
    random: StdRng,
    model: Model,
    client: Client,
}

impl Run {
    fn key(&mut self) -> String {
        KEYS[self.random.random_range(0..KEYS.len())].to_owned()
    }

    fn value(&mut self) -> String {
        self.random.random_range(0..1_000).to_string()
    }

    fn span(&mut self) -> (String, String) {
        (self.key(), format!("{}z", self.key()))
    }

    async fn step(&mut self) {
        match self.random.random_range(0..100) {
            0..30 => self.put().await,
            30..42 => self.delete().await,
            42..65 => self.txn().await,
            65..96 => self.range().await,
            _ => self.compact().await,
        }
    }

    async fn put(&mut self) {
        let (key, value) = (self.key(), self.value());
        let before = self.model.now.get(&key).cloned();
        let options = PutOptions::new().with_prev_key();
        let put = self.client.put(key.clone(), value.clone(), Some(options));
        let put = put.await.expect("put");
        let expected = self.model.apply(&[Write::Put(key, value)]);
        assert_eq!(revision!(put), expected);
        let previous = put.prev_key().map(|pair| pair.value().to_vec());
        assert_eq!(previous, before.map(|pair| pair.value.into_bytes()));
    }

    async fn delete(&mut self) {
        let (from, to) = self.span();
        let before = self.model.range(&from, &to, self.model.revision);
        let options = DeleteOptions::new().with_range(to.clone()).with_prev_key();
        let deleted = self.client.delete(from.clone(), Some(options)).await;
        let deleted = deleted.expect("delete");
        let expected = self.model.apply(&[Write::Delete(from, to)]);
        assert_eq!(revision!(deleted), expected);
        assert_eq!(pairs(deleted.prev_kvs()), before);
    }

    /// Compares one key, then puts one, deletes another and counts.
    async fn txn(&mut self) {
        let (compared, version) = (self.key(), self.random.random_range(0..4));
        let held = self.model.now.get(&compared).map_or(0, |pair| pair.version) > version;
        let (key, value) = (self.key(), self.value());
        let other = loop {
            let other = self.key();
            if other != key {
                break other;
            }
        };
        let all = GetOptions::new().with_range("z").with_count_only();
        let txn = Txn::new()
            .when([Compare::version(compared, CompareOp::Greater, version)])
            .and_then([
                TxnOp::put(key.clone(), value.clone(), None),
                TxnOp::delete(other.clone(), None),
                TxnOp::get("a", Some(all.clone())),
            ])
            .or_else([TxnOp::get("a", Some(all))]);
        let done = self.client.txn(txn).await.expect("txn");
        assert_eq!(done.succeeded(), held);
        let only_other = Write::Delete(other.clone(), format!("{other}\0"));
        let writes = [Write::Put(key, value), only_other];
        let expected = self.model.apply(if held { &writes } else { &[] });
        assert_eq!(revision!(done), expected);
        let responses = done.op_responses();
        let Some(TxnOpResponse::Get(got)) = responses.last() else {
            panic!("{responses:?}");
        };
        assert_eq!(got.count(), self.model.now.len() as i64);
    }

    async fn range(&mut self) {
        let (from, to) = self.span();
        let newest = self.model.revision;
        let at = self.random.random_range(1..=newest);
        let limit = self.random.random_range(1..5);
        let options = GetOptions::new()
            .with_range(to.clone())
            .with_revision(at)
            .with_limit(limit);
        let got = self.client.get(from.clone(), Some(options)).await;
        if at < self.model.compacted {
            assert!(refusal(got).1.contains("compacted"));
            return;
        }
        let got = got.expect("get");
        let mut expected = self.model.range(&from, &to, at);
        assert_eq!(revision!(got), newest);
        assert_eq!(got.count(), expected.len() as i64);
        assert_eq!(got.more(), expected.len() as i64 > limit);
        expected.truncate(limit as usize);
        assert_eq!(pairs(got.kvs()), expected);
    }

    async fn compact(&mut self) {
        let at = self.random.random_range(1..=self.model.revision);
        let compacted = self.client.compact(at, None).await;
        if at <= self.model.compacted {
            assert!(refusal(compacted).1.contains("compacted"));
        } else {
            compacted.expect("compact");
            self.model.compacted = at;
        }
    }

    /// The history from the oldest revision that can be watched.
    async fn compare_history(&mut self) {
        let from = self.model.compacted.max(1);
        let of_model = self.model.events.iter().filter(|(at, _)| *at >= from);
        let expected: Vec<_> = of_model.map(|(_, event)| event.clone()).collect();
        let options = WatchOptions::new()
            .with_all_keys()
            .with_start_revision(from);
        let mut stream = self.client.watch("", Some(options)).await.expect("watch");
        assert!(next(&mut stream).await.created());
        let found = spell(&events(&mut stream, expected.len()).await);
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn random_requests_do_what_the_model_does() {
    for seed in 0..SEEDS {
        eprintln!("seed {seed}");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut running = Running::start(dir.path()).await;
        let mut run = Run {
            random: StdRng::seed_from_u64(seed),
            model: Model::new(),
            client: running.client().await,
        };
        for step in 0..STEPS {
            run.step().await;
            if step % 40 == 39 {
                run.compare_history().await;
                running.stop().await;
                running = Running::start(dir.path()).await;
                run.client = running.client().await;
                run.compare_history().await;
            }
        }
        running.stop().await;
    }
}
