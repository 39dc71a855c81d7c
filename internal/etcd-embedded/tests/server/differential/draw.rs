//! Random requests. The same seed draws the same, relative to the revision at which the round begins.

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp,
    WatchFilterType,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Few, so that requests meet. No more than six: etcd's sort is not stable, but leaves the order of so few keys alone.
const KEYS: [&[u8]; 6] = [b"\0", b"a", b"a\0", b"a\xff", b"b", b"\xff\xff"];
/// Ends of ranges beside the keys: no end, no range, all between two keys, and some that end before they begin.
const ENDS: [&[u8]; 4] = [b"\0", b"", b"a\x01", b"c"];
const VALUES: [&[u8]; 6] = [b"", b"\0", b"1", b"2", b"\xff\xff", b"a longer one"];
pub(super) const LEASES: [i64; 3] = [0x0d1f_f001, 0x0d1f_f002, i64::MAX];
/// Long enough that no lease expires during a run.
const LONG: i64 = 100_000;

/// One request, to be sent to both servers.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Put(Vec<u8>, Vec<u8>, PutOptions),
    Delete(Vec<u8>, DeleteOptions),
    Get(Vec<u8>, GetOptions),
    Txn(Txn),
    Compact(i64),
    Grant { id: i64, ttl: i64 },
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive { id: i64, keys: Keys },
    ListLeases,
}

/// Whether the keys of a lease are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    Listed,
    Omitted,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    Ask(Request),
    /// A watch is opened.
    Open(Watched),
    /// The oldest watch is closed.
    Close,
}

/// What a watch asks for.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    pub(super) key: Vec<u8>,
    pub(super) end: Vec<u8>,
    /// 0: from now on.
    pub(super) start: i64,
    pub(super) filter: Option<WatchFilterType>,
    pub(super) previous: bool,
    pub(super) fragment: bool,
}

/// Draws requests.
pub(super) struct Source {
    random: StdRng,
    /// The revision at which the round began, and the newest one.
    pub(super) base: i64,
    pub(super) now: i64,
    /// The revision of the last compaction.
    pub(super) compacted: i64,
}

impl Source {
    pub(super) fn new(seed: u64, base: i64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            base,
            now: base,
            compacted: base,
        }
    }

    pub(super) fn step(&mut self) -> Step {
        let request = match self.below(1_000) {
            0..270 => {
                let (key, value, options) = self.put();
                Request::Put(key, value, options)
            }
            270..350 => {
                let (key, options) = self.delete();
                Request::Delete(key, options)
            }
            350..560 => {
                let (key, options) = self.get();
                Request::Get(key, options)
            }
            560..870 => Request::Txn(self.txn(2)),
            870..900 => Request::Grant {
                id: self.lease(),
                ttl: [LONG, 2 * LONG, 9_000_000_000, 9_000_000_001][self.below(4)],
            },
            900..915 => Request::Revoke(self.lease()),
            915..930 => Request::KeepAlive(self.lease()),
            930..955 => Request::TimeToLive {
                id: self.lease(),
                keys: [Keys::Listed, Keys::Omitted][self.below(2)],
            },
            955..965 => Request::ListLeases,
            965..980 => Request::Compact(self.revision()),
            980..990 => return Step::Open(self.watched()),
            _ => return Step::Close,
        };
        Step::Ask(request)
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn key(&mut self) -> Vec<u8> {
        // Sometimes none at all, which is refused.
        match self.below(100) {
            0 => Vec::new(),
            draw => KEYS[draw % KEYS.len()].to_vec(),
        }
    }

    fn end(&mut self) -> Vec<u8> {
        let ends = KEYS.len() + ENDS.len();
        match self.below(ends) {
            key if key < KEYS.len() => KEYS[key].to_vec(),
            other => ENDS[other - KEYS.len()].to_vec(),
        }
    }

    fn lease(&mut self) -> i64 {
        LEASES[self.below(LEASES.len())]
    }

    /// A revision from shortly before the round to shortly after now.
    fn revision(&mut self) -> i64 {
        let span = usize::try_from(self.now - self.base).expect("revisions rise") + 5;
        // Old ones are likely to be compacted, and refused: favour the new ones.
        let back = if self.chance(80) { span.min(30) } else { span };
        self.now + 2 - i64::try_from(self.below(back)).expect("small")
    }

    fn put(&mut self) -> (Vec<u8>, Vec<u8>, PutOptions) {
        let mut options = PutOptions::new();
        let mut value = VALUES[self.below(VALUES.len())].to_vec();
        if self.chance(30) {
            options = options.with_prev_key();
        }
        if self.chance(10) {
            options = options.with_ignore_value();
            if self.chance(80) {
                value.clear();
            }
        }
        if self.chance(30) {
            options = options.with_lease(self.lease());
        }
        if self.chance(10) {
            options = options.with_ignore_lease();
        }
        (self.key(), value, options)
    }

    fn get(&mut self) -> (Vec<u8>, GetOptions) {
        let mut options = GetOptions::new();
        if self.chance(80) {
            options = options.with_range(self.end());
        }
        if self.chance(40) {
            options = options.with_limit(self.below(5) as i64 - 1);
        }
        if self.chance(30) {
            options = options.with_revision(self.revision());
        }
        if self.chance(50) {
            let target = [
                SortTarget::Key,
                SortTarget::Version,
                SortTarget::Create,
                SortTarget::Mod,
                SortTarget::Value,
            ][self.below(5)];
            let order = [SortOrder::None, SortOrder::Ascend, SortOrder::Descend][self.below(3)];
            options = options.with_sort(target, order);
        }
        if self.chance(10) {
            options = options.with_count_only();
        }
        if self.chance(15) {
            options = options.with_keys_only();
        }
        if self.chance(5) {
            options = options.with_serializable();
        }
        let key = self.key();
        (key, self.filtered(options))
    }

    fn filtered(&mut self, mut options: GetOptions) -> GetOptions {
        if self.chance(10) {
            options = options.with_min_mod_revision(self.revision());
        }
        if self.chance(10) {
            options = options.with_max_mod_revision(self.revision());
        }
        if self.chance(10) {
            options = options.with_min_create_revision(self.revision());
        }
        if self.chance(10) {
            options = options.with_max_create_revision(self.revision());
        }
        options
    }

    fn delete(&mut self) -> (Vec<u8>, DeleteOptions) {
        let mut options = DeleteOptions::new();
        if self.chance(50) {
            options = options.with_range(self.end());
        }
        if self.chance(50) {
            options = options.with_prev_key();
        }
        (self.key(), options)
    }

    fn compare(&mut self) -> Compare {
        let key = self.key();
        let result = [
            CompareOp::Equal,
            CompareOp::Greater,
            CompareOp::Less,
            CompareOp::NotEqual,
        ][self.below(4)];
        let compare = match self.below(5) {
            0 => Compare::version(key, result, self.below(4) as i64),
            1 => Compare::create_revision(key, result, self.revision()),
            2 => Compare::mod_revision(key, result, self.revision()),
            3 => Compare::lease(key, result, self.lease()),
            _ => Compare::value(key, result, VALUES[self.below(VALUES.len())]),
        };
        if self.chance(30) {
            compare.with_range(self.end())
        } else {
            compare
        }
    }

    fn txn(&mut self, depth: usize) -> Txn {
        let compares: Vec<_> = (0..self.below(3)).map(|_| self.compare()).collect();
        let success = self.operations(depth);
        let failure = self.operations(depth);
        Txn::new().when(compares).and_then(success).or_else(failure)
    }

    fn operations(&mut self, depth: usize) -> Vec<TxnOp> {
        let mut operations = Vec::new();
        for _ in 0..self.below(4) {
            let operation = match self.below(if depth == 0 { 8 } else { 11 }) {
                0..4 => {
                    let (key, value, options) = self.put();
                    TxnOp::put(key, value, Some(options))
                }
                4 | 5 => self.nested_delete(),
                6 | 7 => {
                    let (key, options) = self.get();
                    TxnOp::get(key, Some(options))
                }
                _ => TxnOp::txn(self.txn(depth - 1)),
            };
            operations.push(operation);
        }
        operations
    }

    /// A delete inside a transaction. etcd overlooks that a range without an end, or one that ends before it begins, meets
    /// a put in the same transaction or not; the embedded server does not. So such ranges are not drawn here.
    fn nested_delete(&mut self) -> TxnOp {
        let mut options = DeleteOptions::new();
        let (key, end) = (self.key(), self.end());
        if end > key {
            options = options.with_range(end);
        }
        if self.chance(50) {
            options = options.with_prev_key();
        }
        TxnOp::delete(key, Some(options))
    }

    /// Not the revision of the last compaction: etcd 3.4 forgets a deletion in it, later versions and the embedded server
    /// do not.
    fn start(&mut self) -> i64 {
        if self.chance(30) {
            return 0;
        }
        let start = self.revision();
        if start == self.compacted {
            start + 1
        } else {
            start
        }
    }

    fn watched(&mut self) -> Watched {
        Watched {
            key: self.key(),
            end: self.end(),
            start: self.start(),
            filter: [
                None,
                None,
                Some(WatchFilterType::NoPut),
                Some(WatchFilterType::NoDelete),
            ][self.below(4)],
            previous: self.chance(50),
            fragment: self.chance(30),
        }
    }
}
