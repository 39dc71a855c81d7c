//! The versions of all keys, and the history of changes.
//!
//! Invariants: `history` is ordered by revision and holds every change with revision ≥ `compacted`; the versions of a
//! key are in the order of their revisions and hold every change of the key that is in the history plus, when it is
//! older, the one that was live at `compacted`. A key without versions is not in the map.
//!
//! The store does not know which revisions are durable: whoever reads names the newest revision it may see.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use etcd_client::proto::PbKeyValue;

use super::KeyRange;

/// Bytes of keys and values that the history may hold, whatever the number of revisions.
const HISTORY_BYTES: usize = 64 << 20;
/// What a change costs beside its key and value, roughly.
const CHANGE_OVERHEAD: usize = 160;
/// etcd's revision before the first change.
const FIRST_REVISION: i64 = 1;
/// etcd's compaction revision before the first compaction.
const NEVER_COMPACTED: i64 = -1;

/// One key set or deleted at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) revision: i64,
    /// Order within the revision, from 0.
    pub(crate) position: u32,
    pub(crate) key: Arc<[u8]>,
    /// What the key holds since then; `None` when it was deleted.
    pub(crate) after: Option<Live>,
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) create_revision: i64,
    pub(crate) version: i64,
    /// 0 when the key is bound to no lease.
    pub(crate) lease: i64,
    pub(crate) value: Vec<u8>,
}

/// Identifies a change on disk: revision and position.
pub(crate) type RowId = (i64, u32);

/// A piece of history for one watcher.
pub(crate) struct Events {
    /// The changes, whole revisions only.
    pub(crate) changes: Vec<Arc<Change>>,
    /// The first revision that was not looked at.
    pub(crate) next: i64,
}

/// All versions of all keys since the last compaction.
#[derive(Debug)]
pub(crate) struct Store {
    keys: BTreeMap<Arc<[u8]>, Vec<Arc<Change>>>,
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    /// What all versions occupy, those before the history included.
    bytes: usize,
    live_keys: usize,
    revision: i64,
    compacted: i64,
}

/// How much there is of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) live_keys: usize,
    pub(crate) history_changes: usize,
    pub(crate) history_bytes: usize,
    pub(crate) bytes: usize,
}

impl Change {
    /// The change as clients see it; of a deleted key there is only the name and the revision.
    pub(crate) fn to_key_value(&self) -> PbKeyValue {
        let mut pair = self.to_key();
        if let Some(live) = &self.after {
            pair.value.clone_from(&live.value);
        }
        pair
    }

    /// The same without the value.
    pub(crate) fn to_key(&self) -> PbKeyValue {
        let live = self.after.as_ref();
        PbKeyValue {
            key: self.key.to_vec(),
            create_revision: live.map_or(0, |live| live.create_revision),
            mod_revision: self.revision,
            version: live.map_or(0, |live| live.version),
            value: Vec::new(),
            lease: live.map_or(0, |live| live.lease),
        }
    }

    /// Roughly what the change occupies in memory.
    pub(crate) fn size(&self) -> usize {
        let value = self.after.as_ref().map_or(0, |live| live.value.len());
        CHANGE_OVERHEAD + self.key.len() + value
    }
}

impl Default for Store {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            bytes: 0,
            live_keys: 0,
            revision: FIRST_REVISION,
            compacted: NEVER_COMPACTED,
        }
    }
}

impl Store {
    /// Rebuilds the store from what the disk holds, in the order of the revisions.
    pub(crate) fn load(changes: Vec<Change>, compacted: Option<i64>) -> Self {
        let mut store = Self {
            compacted: compacted.unwrap_or(NEVER_COMPACTED),
            ..Self::default()
        };
        for change in changes {
            store.revision = store.revision.max(change.revision);
            let change = Arc::new(change);
            if change.revision >= store.compacted {
                store.remember(Arc::clone(&change));
            }
            store.append(change);
        }
        store
    }

    /// The newest revision, durable or not.
    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// The oldest revision that can be read.
    pub(crate) fn compacted(&self) -> i64 {
        self.compacted
    }

    /// What `key` holds at `view`.
    pub(crate) fn get(&self, key: &[u8], view: i64) -> Option<&Arc<Change>> {
        self.keys
            .get(key)
            .and_then(|versions| live_at(versions, view))
    }

    /// All keys of the range that are live at `view`, in the order of the keys.
    pub(crate) fn live_in<'a>(
        &'a self,
        range: &'a KeyRange,
        view: i64,
    ) -> impl Iterator<Item = &'a Arc<Change>> + 'a {
        range
            .bounds()
            .into_iter()
            .flat_map(|bounds| self.keys.range::<[u8], _>(bounds))
            .filter_map(move |(_, versions)| live_at(versions, view))
    }

    /// Records one change of the revision that follows `base`, where `base` was the newest revision when the
    /// transaction began.
    pub(crate) fn record(&mut self, base: i64, key: &[u8], after: Option<Live>) -> Arc<Change> {
        let revision = base + 1;
        debug_assert!(self.revision == base || self.revision == revision);
        self.revision = revision;
        let position = match self.history.back() {
            Some(last) if last.revision == revision => last.position + 1,
            _ => 0,
        };
        let key = match self.keys.get_key_value(key) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(key),
        };
        let change = Arc::new(Change {
            revision,
            position,
            key,
            after,
        });
        self.remember(Arc::clone(&change));
        self.append(Arc::clone(&change));
        change
    }

    pub(crate) fn extent(&self) -> Extent {
        Extent {
            live_keys: self.live_keys,
            history_changes: self.history.len(),
            history_bytes: self.history_bytes,
            bytes: self.bytes,
        }
    }

    /// Every version of every key up to `view`, in no order.
    pub(crate) fn versions(&self, view: i64) -> impl Iterator<Item = &Arc<Change>> {
        self.keys
            .values()
            .flatten()
            .filter(move |change| change.revision <= view)
    }

    /// The changes after `revision`, oldest first.
    pub(crate) fn since(&self, revision: i64) -> impl Iterator<Item = &Arc<Change>> {
        let first = self
            .history
            .partition_point(|change| change.revision <= revision);
        self.history.range(first..)
    }

    /// The changes of `range` from revision `from` up to `to` that pass `wanted`, as many whole revisions as fit in
    /// `budget` bytes (at least one). `None` when the history before `from` is already compacted.
    pub(crate) fn events(
        &self,
        range: &KeyRange,
        from: i64,
        to: i64,
        budget: usize,
        wanted: impl Fn(&Change) -> bool,
    ) -> Option<Events> {
        if from < self.compacted {
            return None;
        }
        let mut changes: Vec<Arc<Change>> = Vec::new();
        let mut bytes = 0;
        for change in self.since(from - 1) {
            if change.revision > to {
                break;
            }
            if !range.contains(&change.key) || !wanted(change) {
                continue;
            }
            let starts_revision = changes
                .last()
                .is_some_and(|last| last.revision != change.revision);
            if starts_revision && bytes + change.size() > budget {
                let next = change.revision;
                return Some(Events { changes, next });
            }
            bytes += change.size();
            changes.push(Arc::clone(change));
        }
        Some(Events {
            changes,
            next: to + 1,
        })
    }

    /// What the key held before `change`, as far as the history still tells.
    pub(crate) fn before(&self, change: &Change) -> Option<&Arc<Change>> {
        let view = change.revision - 1;
        if view < self.compacted {
            return None;
        }
        self.get(&change.key, view)
    }

    /// The revision to compact to, so that the history stays within `keep` revisions and the bytes allowed. Tolerates
    /// an eighth more, so that compaction is worth its price.
    pub(crate) fn excess(&self, keep: u64) -> Option<i64> {
        let keep = i64::try_from(keep).unwrap_or(i64::MAX);
        let held = self.revision - self.compacted.max(FIRST_REVISION);
        let by_count = (held > keep.saturating_add(keep / 8)).then(|| self.revision - keep);
        by_count
            .max(self.excess_bytes())
            .filter(|target| *target > self.compacted)
    }

    fn excess_bytes(&self) -> Option<i64> {
        if self.history_bytes <= HISTORY_BYTES {
            return None;
        }
        let mut left = self.history_bytes;
        for change in &self.history {
            if left <= HISTORY_BYTES / 2 {
                return Some(change.revision);
            }
            left -= change.size();
        }
        Some(self.revision)
    }

    /// The changes that nobody can see once everything before `target` is compacted.
    pub(crate) fn superseded(&self, target: i64) -> Vec<RowId> {
        self.touched_until(target)
            .iter()
            .filter_map(|key| self.keys.get(key))
            .flat_map(|versions| &versions[..obsolete(versions, target)])
            .map(|change| (change.revision, change.position))
            .collect()
    }

    /// Forgets everything that [`Self::superseded`] names for `target`.
    pub(crate) fn compact(&mut self, target: i64) {
        for key in self.touched_until(target) {
            let Some(versions) = self.keys.get_mut(&key) else {
                continue;
            };
            for change in versions.drain(..obsolete(versions, target)) {
                self.bytes -= change.size();
            }
            if versions.is_empty() {
                self.keys.remove(&key);
            }
        }
        while let Some(change) = self.history.pop_front_if(|oldest| oldest.revision < target) {
            self.history_bytes -= change.size();
        }
        self.compacted = target;
    }

    fn touched_until(&self, target: i64) -> BTreeSet<Arc<[u8]>> {
        self.history
            .iter()
            .take_while(|change| change.revision <= target)
            .map(|change| Arc::clone(&change.key))
            .collect()
    }

    fn append(&mut self, change: Arc<Change>) {
        self.bytes += change.size();
        let is_live = change.after.is_some();
        let versions = self.keys.entry(Arc::clone(&change.key)).or_default();
        let was_live = versions.last().is_some_and(|last| last.after.is_some());
        versions.push(change);
        match (was_live, is_live) {
            (false, true) => self.live_keys += 1,
            (true, false) => self.live_keys -= 1,
            (true, true) | (false, false) => {}
        }
    }

    fn remember(&mut self, change: Arc<Change>) {
        self.history_bytes += change.size();
        self.history.push_back(change);
    }
}

/// The version that is live at `view`.
fn live_at(versions: &[Arc<Change>], view: i64) -> Option<&Arc<Change>> {
    // Nearly every read asks for the newest version.
    let visible = match versions.last() {
        Some(newest) if newest.revision <= view => versions.len(),
        _ => versions.partition_point(|change| change.revision <= view),
    };
    let change = &versions[visible.checked_sub(1)?];
    change.after.is_some().then_some(change)
}

/// How many of the oldest versions are invisible after a compaction to `target`. A deletion at `target` itself stays,
/// for the watches that start there.
fn obsolete(versions: &[Arc<Change>], target: i64) -> usize {
    let until = versions.partition_point(|change| change.revision <= target);
    match until.checked_sub(1) {
        None => 0,
        Some(newest) => {
            let change = &versions[newest];
            if change.after.is_some() || change.revision == target {
                newest
            } else {
                until
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all() -> KeyRange {
        KeyRange::From(Vec::new())
    }

    fn put(store: &mut Store, base: i64, key: u8) {
        let live = Live {
            create_revision: base + 1,
            version: 1,
            lease: 0,
            value: vec![key],
        };
        store.record(base, &[key], Some(live));
    }

    /// One transaction per entry: which keys are put (`true`) or deleted.
    fn build(transactions: &[Vec<(u8, bool)>]) -> Store {
        let mut store = Store::default();
        for transaction in transactions {
            let base = store.revision();
            let mut seen = BTreeSet::new();
            for (key, is_put) in transaction {
                if !seen.insert(*key) {
                    continue;
                }
                if *is_put {
                    put(&mut store, base, *key);
                } else if store.get(&[*key], i64::MAX).is_some() {
                    store.record(base, &[*key], None);
                }
            }
        }
        store
    }

    fn rows(store: &Store) -> BTreeSet<RowId> {
        store
            .keys
            .values()
            .flatten()
            .map(|change| (change.revision, change.position))
            .collect()
    }

    fn contents(store: &Store, view: i64) -> Vec<Arc<Change>> {
        store.live_in(&all(), view).cloned().collect()
    }

    fn transactions() -> impl Strategy<Value = Vec<Vec<(u8, bool)>>> {
        prop::collection::vec(
            prop::collection::vec((0u8..6, prop::bool::weighted(0.7)), 0..4),
            0..40,
        )
    }

    #[test]
    fn the_same_key_keeps_every_version_until_compaction() {
        let mut store = Store::default();
        for _ in 0..3 {
            let base = store.revision();
            put(&mut store, base, b'a');
        }
        assert_eq!(store.revision(), 4);
        assert_eq!(store.get(b"a", 2).expect("set at 2").revision, 2);
        assert!(store.get(b"a", 1).is_none());
        assert_eq!(store.superseded(4), vec![(2, 0), (3, 0)]);
        store.compact(4);
        assert_eq!(rows(&store), BTreeSet::from([(4, 0)]));
    }

    #[test]
    fn a_deletion_at_the_compaction_is_still_an_event() {
        let mut store = build(&[vec![(1, true)], vec![(1, false)], vec![(2, true)]]);
        store.compact(3);
        let events = store
            .events(&all(), 3, 4, usize::MAX, |_| true)
            .expect("3 is not compacted");
        assert_eq!(events.changes.len(), 2);
        assert!(events.changes[0].after.is_none());
        store.compact(4);
        assert_eq!(rows(&store), BTreeSet::from([(4, 0)]));
        assert!(store.events(&all(), 3, 4, usize::MAX, |_| true).is_none());
    }

    #[test]
    fn history_beyond_the_number_of_revisions_is_excess() {
        let mut store = Store::default();
        for _ in 0..9 {
            let base = store.revision();
            put(&mut store, base, b'a');
        }
        assert_eq!(store.excess(8), None);
        let base = store.revision();
        put(&mut store, base, b'a');
        assert_eq!(store.excess(8), Some(store.revision() - 8));
    }

    #[test]
    fn history_beyond_its_bytes_is_excess() {
        let mut store = Store::default();
        for _ in 0..70 {
            let base = store.revision();
            let live = Live {
                create_revision: 1,
                version: 1,
                lease: 0,
                value: vec![0; 1 << 20],
            };
            store.record(base, b"a", Some(live));
        }
        let target = store.excess(u64::MAX).expect("70 MiB");
        store.compact(target);
        assert!(store.history_bytes <= HISTORY_BYTES / 2 + (1 << 21));
        assert_eq!(store.excess(u64::MAX), None);
    }

    #[test]
    fn a_piece_of_history_ends_between_revisions() {
        let store = build(&[vec![(1, true), (2, true), (3, true)], vec![(1, true)]]);
        let first = store
            .events(&all(), 2, 3, 1, |_| true)
            .expect("nothing is compacted");
        assert_eq!((first.changes.len(), first.next), (3, 3));
        let second = store
            .events(&all(), first.next, 3, 1, |_| true)
            .expect("nothing is compacted");
        assert_eq!((second.changes.len(), second.next), (1, 4));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn compaction_changes_nothing_that_can_still_be_seen(
            transactions in transactions(),
            at in any::<prop::sample::Index>(),
        ) {
            let mut store = build(&transactions);
            let target = 1 + i64::try_from(at.index(usize::try_from(store.revision()).expect("positive"))).expect("small");
            let before: Vec<_> = (target..=store.revision()).map(|view| contents(&store, view)).collect();
            let events: Vec<_> = store.since(target - 1).cloned().collect();
            let mut expected = rows(&store);
            for row in store.superseded(target) {
                prop_assert!(expected.remove(&row));
            }
            store.compact(target);
            let after: Vec<_> = (target..=store.revision()).map(|view| contents(&store, view)).collect();
            prop_assert_eq!(before, after);
            prop_assert_eq!(events, store.since(target - 1).cloned().collect::<Vec<_>>());
            prop_assert_eq!(expected, rows(&store));
            let extent = store.extent();
            prop_assert_eq!(extent.live_keys, store.live_in(&all(), i64::MAX).count());
            prop_assert_eq!(extent.bytes, store.versions(i64::MAX).map(|change| change.size()).sum::<usize>());
            prop_assert_eq!(extent.history_bytes, store.history.iter().map(|change| change.size()).sum::<usize>());
        }

        #[test]
        fn loading_the_rows_gives_the_same_store(transactions in transactions(), keep in 1u64..20) {
            let mut store = build(&transactions);
            let target = store.excess(keep);
            if let Some(target) = target {
                store.compact(target);
            }
            let mut changes: Vec<Change> = store.keys.values().flatten().map(|change| Change::clone(change)).collect();
            changes.sort_by_key(|change| (change.revision, change.position));
            let loaded = Store::load(changes, target);
            prop_assert_eq!(loaded.revision(), store.revision());
            prop_assert_eq!(&loaded.keys, &store.keys);
            prop_assert_eq!(&loaded.history, &store.history);
            prop_assert_eq!(loaded.extent(), store.extent());
        }
    }
}
