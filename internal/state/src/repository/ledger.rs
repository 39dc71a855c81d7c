//! The ledger of a sink: written by the transactions that remove its slices, read together with those that are left.

use std::collections::BTreeMap;

use stream_model::SinkKey;
use stream_model::file::File;
use stream_model::ledger::{Counts, Day, EARLIER, Hour, KEPT_DAYS};
use stream_model::slice::Slice;
use stream_model::statistics::Figures;

use crate::error::StateError;
use crate::keyspace::{Key, prefix};
use crate::store::{Listed, RawEntry, Store, Versioned, Written};
use crate::txn::Txn;

/// How many days too old are folded by one transaction.
const FOLDED_AT_ONCE: usize = 8;
/// How often the ledger is read again because slices were removed meanwhile.
const READ_TRIES: u32 = 10;

/// Everything that a sink has received, as of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// What was cleaned up, by hour.
    pub hours: BTreeMap<Hour, Counts>,
    /// What was cleaned up so long ago that its hour is forgotten, or by a version that kept no ledger.
    pub earlier: Counts,
    /// The slices that were not cleaned up.
    pub slices: Vec<Slice>,
    /// Their files.
    pub files: Vec<File>,
}

impl Store {
    /// Reads the ledger of a sink together with its slices and files, so that each record is in it once.
    ///
    /// Slices are removed by transactions that write the ledger: when that is the same before and after, nothing has gone
    /// from the one to the other.
    ///
    /// # Errors
    /// When etcd is away, a value cannot be read, or slices are removed all the time.
    pub async fn ledger(&self, sink: &SinkKey) -> Result<Ledger, StateError> {
        let days = prefix::ledger(sink);
        let mut before = self.scan(&days).await?;
        for _ in 0..READ_TRIES {
            let removed: Option<Versioned<Figures>> = self.get(&Key::Removed(sink.clone())).await?;
            let rejects: Option<Versioned<Figures>> =
                self.get(&Key::RejectsRemoved(sink.clone())).await?;
            let slices = self.scan(&prefix::slices(sink)).await?;
            let files = self.scan(&prefix::files(sink)).await?;
            let after = self.scan(&days).await?;
            if is_same(&before, &after) {
                let sums = [removed, rejects].map(|sum| sum.map_or(0, |sum| sum.value.rows));
                return read(&after, sums, &slices, &files);
            }
            before = after;
        }
        Err(StateError::unavailable(
            "slices are removed faster than the ledger can be read",
        ))
    }

    /// Adds what was removed to the ledger, and folds days that are too old, in the transaction that removes it.
    pub(crate) async fn add_to_ledger<'a>(
        &'a self,
        mut txn: Txn<'a>,
        sink: &SinkKey,
        removed: &BTreeMap<Hour, Counts>,
    ) -> Result<Txn<'a>, StateError> {
        let Some((newest, _)) = removed.keys().next_back().map(|hour| hour.in_day()) else {
            return Ok(txn);
        };
        let mut days = by_day(removed, oldest_kept(newest));
        let mut stored: BTreeMap<u64, Versioned<Day>> = BTreeMap::new();
        for day in days.keys() {
            let key = Key::LedgerDay(sink.clone(), *day);
            stored.extend(self.get(&key).await?.map(|found| (*day, found)));
        }
        // Once a day: it takes reading all of them.
        if !stored.contains_key(&newest) {
            stored = decoded_days(&self.scan(&prefix::ledger(sink)).await?.entries)?;
            txn = fold(txn, sink, newest, &mut stored, &mut days);
        }
        for (day, more) in days {
            let old = stored.remove(&day);
            let old = old.unwrap_or_else(|| Versioned::new(Day::default(), 0));
            let mut new = old.value.clone();
            for (place, counts) in more.hours {
                new.add(place, counts);
            }
            let key = Key::LedgerDay(sink.clone(), day);
            txn = txn
                .unmodified(&key, old.revision)
                .write(&key, &Written::over(&old, new));
        }
        Ok(txn)
    }
}

/// The oldest day that is kept by hour beside the newest one.
fn oldest_kept(newest: u64) -> u64 {
    newest.saturating_sub(KEPT_DAYS - 1).max(EARLIER + 1)
}

/// What is removed, by day. A slice that was open for weeks has hours that are too old at once: so there are never more days than
/// fit into the transaction.
fn by_day(removed: &BTreeMap<Hour, Counts>, oldest: u64) -> BTreeMap<u64, Day> {
    let mut days: BTreeMap<u64, Day> = BTreeMap::new();
    for (hour, counts) in removed {
        let (day, place) = match hour.in_day() {
            (day, _) if day < oldest => (EARLIER, 0),
            kept => kept,
        };
        days.entry(day).or_default().add(place, *counts);
    }
    days
}

/// Adds days that are too old to the sum of all that is earlier.
fn fold<'a>(
    mut txn: Txn<'a>,
    sink: &SinkKey,
    newest: u64,
    stored: &mut BTreeMap<u64, Versioned<Day>>,
    days: &mut BTreeMap<u64, Day>,
) -> Txn<'a> {
    let old = stored
        .range(EARLIER + 1..oldest_kept(newest))
        .map(|(day, _)| *day);
    let old = old.filter(|day| !days.contains_key(day));
    let old: Vec<u64> = old.take(FOLDED_AT_ONCE).collect();
    for day in old {
        let Some(folded) = stored.remove(&day) else {
            continue;
        };
        days.entry(EARLIER).or_default().add(0, folded.value.sum());
        let key = Key::LedgerDay(sink.clone(), day);
        txn = txn.unmodified(&key, folded.revision).delete(&key);
    }
    txn
}

fn is_same(before: &Listed, after: &Listed) -> bool {
    let of = |listed: &Listed| -> Vec<(String, i64)> {
        let entries = listed.entries.iter();
        entries
            .map(|entry| (entry.key.clone(), entry.revision))
            .collect()
    };
    of(before) == of(after)
}

fn decoded_days(entries: &[RawEntry]) -> Result<BTreeMap<u64, Versioned<Day>>, StateError> {
    let mut days = BTreeMap::new();
    for entry in entries {
        if let Ok(Key::LedgerDay(_, day)) = entry.key.parse() {
            days.insert(day, entry.decode()?);
        }
    }
    Ok(days)
}

/// Puts together what was read. What the sums have beyond the ledger was removed before there was one.
fn read(
    days: &Listed,
    [rows, rejected]: [u64; 2],
    slices: &Listed,
    files: &Listed,
) -> Result<Ledger, StateError> {
    let mut ledger = Ledger::default();
    let mut sum = Counts::default();
    for (day, stored) in decoded_days(&days.entries)? {
        sum.add(stored.value.sum());
        if day == EARLIER {
            ledger.earlier.add(stored.value.sum());
            continue;
        }
        for (place, counts) in stored.value.hours {
            ledger.hours.insert(Hour::at(day, place), counts);
        }
    }
    ledger.earlier.add(Counts {
        rows: rows.saturating_sub(sum.rows),
        imported: rows.saturating_sub(sum.rows),
        rejected: rejected.saturating_sub(sum.rejected),
        lost: 0,
    });
    for entry in &slices.entries {
        ledger.slices.push(entry.decode::<Slice>()?.value);
    }
    for entry in &files.entries {
        ledger.files.push(entry.decode::<File>()?.value);
    }
    Ok(ledger)
}
