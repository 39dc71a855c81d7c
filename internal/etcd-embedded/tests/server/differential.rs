//! Random requests against the embedded server and a real etcd: both must answer the same.
//!
//! Needs `STREAM_TEST_ETCD_ENDPOINT` (see [`crate::conformance`]), and is ignored unless asked for. Revisions are compared relative
//! to the beginning of a run, because the etcd may have a past.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, GetOptions, KeyValue, PutOptions,
    ResponseHeader, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, TxnResponse, WatchOptions,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::conformance::{place, real_etcd, revision};
use crate::harness::{Running, next};

const SEEDS: u64 = 20;
const STEPS: usize = 250;
const NAMES: [&str; 5] = ["a", "ab", "b", "c", "d"];
const PLACE: &str = "differential";
const LEASES: [i64; 2] = [0x0d1f_f001, 0x0d1f_f002];
/// Refusals that depend on the state.
const REASONS: [&str; 4] = [
    "etcdserver: key not found",
    "etcdserver: requested lease not found",
    "etcdserver: mvcc: required revision has been compacted",
    "etcdserver: mvcc: required revision is a future revision",
];

/// Draws requests. Two of the same seed draw the same.
struct Source {
    random: StdRng,
    place: String,
}

impl Source {
    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn key(&mut self) -> String {
        let name = NAMES[self.below(NAMES.len())];
        format!("{}{name}", self.place)
    }

    fn end(&mut self) -> String {
        format!("{}zz", self.key())
    }

    fn put(&mut self) -> (String, String, PutOptions) {
        let mut options = PutOptions::new();
        let mut value = self.below(9).to_string();
        if self.chance(30) {
            options = options.with_prev_key();
        }
        if self.chance(10) {
            options = options.with_ignore_value();
            if self.chance(80) {
                value.clear();
            }
        }
        if self.chance(20) {
            options = options.with_lease(LEASES[self.below(2)]);
        } else if self.chance(10) {
            options = options.with_ignore_lease();
        }
        (self.key(), value, options)
    }

    fn get(&mut self, base: i64, now: i64) -> (String, GetOptions) {
        let key = self.key();
        let mut options = GetOptions::new().with_range(self.end());
        if self.chance(30) {
            options = options.with_limit(self.below(3) as i64);
        }
        if self.chance(30) {
            let span = usize::try_from(now - base).unwrap_or(0) + 2;
            options = options.with_revision(base + self.below(span) as i64);
        }
        if self.chance(30) {
            let target = [
                SortTarget::Key,
                SortTarget::Version,
                SortTarget::Create,
                SortTarget::Mod,
                SortTarget::Value,
            ][self.below(5)];
            let order = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend][self.below(3)];
            // Equal values have no defined order.
            if !matches!(target, SortTarget::Value | SortTarget::Version) {
                options = options.with_sort(target, order);
            }
        }
        match self.below(8) {
            0 => options = options.with_count_only(),
            1 => options = options.with_keys_only(),
            2 => options = options.with_min_mod_revision(base + 5),
            3 => options = options.with_max_create_revision(base + 9),
            _ => {}
        }
        (key, options)
    }

    fn delete(&mut self) -> (String, DeleteOptions) {
        let mut options = DeleteOptions::new();
        if self.chance(50) {
            options = options.with_range(self.end());
        }
        if self.chance(50) {
            options = options.with_prev_key();
        }
        (self.key(), options)
    }

    fn compare(&mut self, base: i64) -> Compare {
        let key = self.key();
        let result = [
            CompareOp::Equal,
            CompareOp::Greater,
            CompareOp::Less,
            CompareOp::NotEqual,
        ][self.below(4)];
        let number = self.below(4) as i64;
        let compare = match self.below(5) {
            0 => Compare::version(key, result, number),
            1 => Compare::create_revision(key, result, base + 3 * number),
            2 => Compare::mod_revision(key, result, base + 5 * number),
            3 => Compare::lease(key, result, LEASES[self.below(2)]),
            _ => Compare::value(key, result, number.to_string()),
        };
        if self.chance(30) {
            compare.with_range(self.end())
        } else {
            compare
        }
    }

    fn txn(&mut self, depth: usize, base: i64, now: i64) -> Txn {
        let compares: Vec<_> = (0..self.below(3)).map(|_| self.compare(base)).collect();
        let success = self.operations(depth, base, now);
        let failure = self.operations(depth, base, now);
        Txn::new().when(compares).and_then(success).or_else(failure)
    }

    fn operations(&mut self, depth: usize, base: i64, now: i64) -> Vec<TxnOp> {
        let mut operations = Vec::new();
        for _ in 0..self.below(4) {
            let operation = match self.below(if depth == 0 { 8 } else { 12 }) {
                0..4 => {
                    let (key, value, options) = self.put();
                    TxnOp::put(key, value, Some(options))
                }
                4 | 5 => {
                    let (key, options) = self.delete();
                    TxnOp::delete(key, Some(options))
                }
                6 | 7 => {
                    let (key, options) = self.get(base, now);
                    TxnOp::get(key, Some(options))
                }
                _ => TxnOp::txn(self.txn(depth - 1, base, now)),
            };
            operations.push(operation);
        }
        operations
    }
}

/// One server and where its revisions begin.
struct Side {
    source: Source,
    client: Client,
    base: i64,
    now: i64,
}

impl Side {
    async fn new(mut client: Client, seed: u64) -> Self {
        for lease in LEASES {
            let _ = client.lease_revoke(lease).await;
        }
        let place = place(&mut client, PLACE).await;
        let start = client.put("conformance/start", "", None).await;
        let base = revision!(start.expect("put"));
        Self {
            source: Source {
                random: StdRng::seed_from_u64(seed),
                place,
            },
            client,
            base,
            now: base,
        }
    }

    async fn step(&mut self) -> String {
        let (base, now) = (self.base, self.now);
        match self.source.below(100) {
            0..25 => {
                let (key, value, options) = self.source.put();
                let put = self.client.put(key, value, Some(options)).await;
                self.tell(put, |side, put| {
                    let previous = put.prev_key().map(|pair| side.pair(pair));
                    format!("{} {previous:?}", side.header(put.header()))
                })
            }
            25..35 => {
                let (key, options) = self.source.delete();
                let deleted = self.client.delete(key, Some(options)).await;
                self.tell(deleted, |side, deleted| {
                    let previous = side.pairs(deleted.prev_kvs());
                    format!("{} {previous:?}", side.header(deleted.header()))
                })
            }
            35..55 => {
                let (key, options) = self.source.get(base, now);
                let got = self.client.get(key, Some(options)).await;
                self.tell(got, |side, got| {
                    let pairs = side.pairs(got.kvs());
                    let header = side.header(got.header());
                    format!("{header} {} {} {pairs:?}", got.count(), got.more())
                })
            }
            55..92 => {
                let txn = self.source.txn(2, base, now);
                let done = self.client.txn(txn.clone()).await;
                self.tell(done, |side, done| side.txn(done))
                    + &format!(" {txn:?}").replace(|letter: char| letter.is_ascii_digit(), "")
            }
            92..96 => {
                let lease = LEASES[self.source.below(2)];
                let options = etcd_client::LeaseGrantOptions::new().with_id(lease);
                let granted = self.client.lease_grant(600, Some(options)).await;
                self.tell(granted, |_, granted| format!("{}", granted.ttl()))
            }
            96..98 => {
                let lease = LEASES[self.source.below(2)];
                let revoked = self.client.lease_revoke(lease).await;
                self.tell(revoked, |side, revoked| side.header(revoked.header()))
            }
            _ => {
                let span = usize::try_from(now - base).expect("revisions rise") + 1;
                let at = base + self.source.below(span) as i64;
                let compacted = self.client.compact(at, None).await;
                self.tell(compacted, |_, _| "compacted".to_owned())
            }
        }
    }

    /// An answer without what differs between servers.
    fn tell<T>(
        &mut self,
        answer: Result<T, Error>,
        spell: impl FnOnce(&mut Self, &T) -> String,
    ) -> String {
        match answer {
            Ok(answer) => spell(self, &answer),
            // When there are several reasons, which one is told is up to the server.
            Err(Error::GRpcStatus(status)) if REASONS.contains(&status.message()) => {
                "refused by the state".to_owned()
            }
            Err(Error::GRpcStatus(status)) => {
                format!("{:?} {}", status.code(), status.message())
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn header(&mut self, header: Option<&ResponseHeader>) -> String {
        self.now = header.expect("every answer has a header").revision();
        format!("@{}", self.now - self.base)
    }

    fn pair(&self, pair: &KeyValue) -> String {
        format!(
            "{}={} +{} ~{} v{} l{}",
            pair.key_str().expect("text"),
            pair.value_str().expect("text"),
            self.since_base(pair.create_revision()),
            self.since_base(pair.mod_revision()),
            pair.version(),
            pair.lease()
        )
    }

    /// Zero, which means none, stays zero.
    fn since_base(&self, revision: i64) -> i64 {
        if revision == 0 {
            0
        } else {
            revision - self.base
        }
    }

    fn pairs(&self, pairs: &[KeyValue]) -> Vec<String> {
        pairs.iter().map(|pair| self.pair(pair)).collect()
    }

    fn txn(&mut self, done: &TxnResponse) -> String {
        let header = self.header(done.header());
        format!("{header} {}", self.nested(done))
    }

    fn nested(&self, done: &TxnResponse) -> String {
        let mut told = format!("{}[", done.succeeded());
        for response in done.op_responses() {
            told += &match response {
                TxnOpResponse::Put(put) => {
                    format!("put {:?} ", put.prev_key().map(|pair| self.pair(pair)))
                }
                TxnOpResponse::Get(got) => {
                    let (pairs, count) = (self.pairs(got.kvs()), got.count());
                    format!("get {count} {} {pairs:?} ", got.more())
                }
                TxnOpResponse::Delete(deleted) => {
                    let pairs = self.pairs(deleted.prev_kvs());
                    format!("delete {} {pairs:?} ", deleted.deleted())
                }
                TxnOpResponse::Txn(nested) => self.nested(&nested),
            };
        }
        told + "]"
    }

    /// All events since `from`, up to the newest revision.
    async fn history(&mut self, from: i64) -> Vec<String> {
        let marker = self
            .client
            .put(format!("{}marker", self.source.place), "", None);
        let until = revision!(marker.await.expect("put"));
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(from)
            .with_prev_key();
        let place = self.source.place.clone();
        let mut stream = self
            .client
            .watch(place, Some(options))
            .await
            .expect("watch");
        assert!(next(&mut stream).await.created());
        let mut told = Vec::new();
        loop {
            let response = next(&mut stream).await;
            if response.canceled() {
                told.push(format!(
                    "compacted {}",
                    response.compact_revision() - self.base
                ));
                return told;
            }
            for event in response.events() {
                let pair = event.kv().expect("a key");
                let previous = event.prev_kv().map(|pair| self.pair(pair));
                let kind = event.event_type();
                told.push(format!("{kind:?} {} {previous:?}", self.pair(pair)));
                if pair.mod_revision() == until {
                    return told;
                }
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs a real etcd: make test-etcd"]
async fn both_servers_answer_the_same() {
    let (endpoint, _alone) = real_etcd()
        .await
        .expect("STREAM_TEST_ETCD_ENDPOINT names an etcd");
    for seed in 0..SEEDS {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let running = Running::start(dir.path()).await;
        let real = Client::connect([endpoint.as_str()], None).await;
        let mut real = Side::new(real.expect("a valid endpoint"), seed).await;
        let mut embedded = Side::new(running.client().await, seed).await;
        for step in 0..STEPS {
            let expected = real.step().await;
            let found = embedded.step().await;
            assert_eq!(found, expected, "seed {seed} step {step}");
            if step % 50 == 49 {
                let from = (real.now - real.base - 20).max(0);
                let expected = real.history(real.base + from).await;
                let found = embedded.history(embedded.base + from).await;
                assert_eq!(found, expected, "history at seed {seed} step {step}");
            }
        }
        running.stop().await;
    }
}
