//! The ledger as shown.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::file::{File, State};
use stream_model::ledger::{Counts, Hour};
use stream_model::slice::{Kind, Slice};
use stream_model::statistics::Crossed;
use stream_model::{FileId, SinkKey, SliceId, SourceKey, Timestamp};
use stream_state::Ledger;

use super::shape;
use crate::handler::ledger::Hours;

/// Where the records of an hour are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Balance {
    /// Rows that were sealed or reported, and rejected records.
    received: u64,
    rejected: u64,
    /// On a volume.
    buffered: u64,
    /// In staging.
    staged: u64,
    /// As the target has counted them.
    imported: u64,
    /// On volumes that were given up.
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
    /// Received, and nowhere: less than nothing when there are more than were received.
    #[serde(skip_serializing_if = "is_even")]
    missing: i64,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "`serde` wants a reference"
)]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "`serde` wants a reference"
)]
const fn is_even(difference: &i64) -> bool {
    *difference == 0
}

impl Balance {
    /// So many records that are all there.
    fn at(place: Place, rows: u64) -> Self {
        let mut balance = Self {
            received: rows,
            ..Self::default()
        };
        let part = match place {
            Place::Rejected => &mut balance.rejected,
            Place::Buffered => &mut balance.buffered,
            Place::Staged => &mut balance.staged,
            Place::Imported => &mut balance.imported,
            Place::Lost => &mut balance.lost,
        };
        *part = rows;
        balance
    }

    fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.rejected += other.rejected;
        self.buffered += other.buffered;
        self.staged += other.staged;
        self.imported += other.imported;
        self.lost += other.lost;
    }

    /// The same with what does not add up.
    fn balanced(mut self) -> Self {
        let parts = [
            self.rejected,
            self.buffered,
            self.staged,
            self.imported,
            self.lost,
        ];
        let parts: i128 = parts.into_iter().map(i128::from).sum();
        self.missing = i64::try_from(i128::from(self.received) - parts).unwrap_or(i64::MAX);
        self
    }
}

impl From<Counts> for Balance {
    fn from(counts: Counts) -> Self {
        Self {
            received: counts.rows + counts.rejected + counts.lost,
            rejected: counts.rejected,
            imported: counts.imported,
            lost: counts.lost,
            ..Self::default()
        }
    }
}

/// What became of everything that a sink has received.
#[derive(Debug, Default)]
pub(crate) struct Account {
    hours: BTreeMap<Hour, Balance>,
    /// Of before the hours that are kept.
    earlier: Balance,
    /// Slices that take records, of which nothing is reported.
    open: u64,
}

impl Account {
    /// Each record counts in one hour and in one place. `reported` is of slices that are not sealed.
    pub(crate) fn new(ledger: &Ledger, reported: &BTreeMap<SliceId, Crossed>) -> Self {
        let mut account = Self {
            earlier: ledger.earlier.into(),
            ..Self::default()
        };
        for (hour, counts) in &ledger.hours {
            account.add(*hour, &(*counts).into());
        }
        let files: BTreeMap<FileId, &File> =
            ledger.files.iter().map(|file| (file.id, file)).collect();
        let mut sealed: BTreeMap<FileId, BTreeMap<Hour, u64>> = BTreeMap::new();
        for slice in &ledger.slices {
            let Some(hours) = by_hour(slice, reported.get(&slice.id)) else {
                account.open += 1;
                continue;
            };
            let place = Place::of(slice, files.get(&slice.file).copied());
            if slice.seal().is_some() && slice.kind.is_rows() {
                let file = sealed.entry(slice.file).or_default();
                for (hour, rows) in &hours {
                    *file.entry(*hour).or_default() += rows;
                }
            }
            for (hour, rows) in hours {
                account.add(hour, &Balance::at(place, rows));
            }
            for (hour, rows) in slice.lost_by_hour() {
                account.add(hour, &Balance::at(Place::Lost, rows));
            }
        }
        account.count_by_target(&files, &sealed);
        account
    }

    fn add(&mut self, hour: Hour, balance: &Balance) {
        self.hours.entry(hour).or_default().add(balance);
    }

    /// The target has counted the rows of a file itself: what it has more than was sealed is in the file's first hour, what it has
    /// less is missing in the first hours.
    fn count_by_target(
        &mut self,
        files: &BTreeMap<FileId, &File>,
        sealed: &BTreeMap<FileId, BTreeMap<Hour, u64>>,
    ) {
        for (file, hours) in sealed
            .iter()
            .filter_map(|(id, it)| Some((files.get(id)?, it)))
        {
            let State::Imported { rows, .. } = &file.state else {
                continue;
            };
            let sealed: u64 = hours.values().sum();
            let first = hours.keys().next().copied();
            let first = first.unwrap_or(Hour::of(file.opened_at));
            self.hours.entry(first).or_default().imported += rows.saturating_sub(sealed);
            let mut less = sealed.saturating_sub(*rows);
            for (hour, rows) in hours {
                let gone = less.min(*rows);
                less -= gone;
                self.hours.entry(*hour).or_default().imported -= gone;
            }
        }
    }

    fn total(&self) -> Balance {
        let mut total = self.earlier;
        self.hours.values().for_each(|hour| total.add(hour));
        total.balanced()
    }
}

/// The records of a slice by the hour in which they arrived; none when nothing is known of them yet.
fn by_hour(slice: &Slice, reported: Option<&Crossed>) -> Option<Vec<(Hour, u64)>> {
    if slice.seal().is_some() {
        return Some(slice.sealed_by_hour());
    }
    let crossed = reported?;
    let later = &crossed.later_hours;
    Some(later.by_hour(&crossed.figures, slice.opened_at))
}

/// Where records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Rejected,
    Buffered,
    Staged,
    Imported,
    Lost,
}

impl Place {
    /// Where those of a slice are that were not given up.
    fn of(slice: &Slice, file: Option<&File>) -> Self {
        let imported = file.is_some_and(|file| matches!(file.state, State::Imported { .. }));
        match (slice.kind, imported, slice.is_uploaded()) {
            (Kind::Rejects, ..) => Self::Rejected,
            (Kind::Rows, true, _) => Self::Imported,
            (Kind::Rows, false, true) => Self::Staged,
            (Kind::Rows, false, false) => Self::Buffered,
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
struct HourView {
    #[schemars(with = "shape::Timestamp")]
    hour: Timestamp,
    #[serde(flatten)]
    balance: Balance,
}

/// The ledger of a sink.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LedgerView {
    source_id: String,
    sink_id: String,
    /// Hours in which something was received.
    hours: Vec<HourView>,
    /// Of the whole life of the sink.
    total: Balance,
    /// Whether every record is somewhere.
    adds_up: bool,
    /// Slices that take records, of which nothing is known yet.
    open_slices: u64,
}

impl LedgerView {
    pub(crate) fn new(key: &SinkKey, hours: Hours, account: &Account) -> Self {
        let total = account.total();
        let shown = account.hours.range(hours.first..=hours.last);
        let shown = shown.filter(|(_, balance)| balance.received > 0);
        Self {
            source_id: key.source.source.to_string(),
            sink_id: key.sink.to_string(),
            hours: shown
                .map(|(hour, balance)| HourView {
                    hour: hour.begins(),
                    balance: balance.balanced(),
                })
                .collect(),
            total,
            adds_up: total.missing == 0,
            open_slices: account.open,
        }
    }
}

/// The ledgers of all sinks of a source.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SourceLedgerView {
    source_id: String,
    /// Of all sinks: a record counts once for each.
    total: Balance,
    adds_up: bool,
    sinks: Vec<LedgerView>,
}

impl SourceLedgerView {
    pub(crate) fn new(key: &SourceKey, hours: Hours, accounts: &[(SinkKey, Account)]) -> Self {
        let mut total = Balance::default();
        for (_, account) in accounts {
            total.add(&account.total());
        }
        let sinks = accounts.iter();
        let sinks: Vec<_> = sinks
            .map(|(sink, account)| LedgerView::new(sink, hours, account))
            .collect();
        Self {
            source_id: key.source.to_string(),
            total: total.balanced(),
            adds_up: sinks.iter().all(|sink| sink.adds_up),
            sinks,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use stream_model::hours::LaterHours;
    use stream_model::statistics::Figures;
    use stream_model::trigger::Reason;

    use super::*;

    const AT: &str = "2026-01-01T10:30:00.000Z";
    const LATER: &str = "2026-01-01T11:00:00.000Z";

    fn key() -> SinkKey {
        let key = json!({"project": 1, "branch": 1, "source": "orders", "sink": "raw"});
        serde_json::from_value(key).expect("a key")
    }

    fn slice(id: u8, file: u8, state: &Value) -> Slice {
        let slice = json!({
            "id": SliceId::from_bytes([id; 16]), "sink": key(), "file": FileId::from_bytes([file; 16]),
            "volume": "00".repeat(16), "mappingVersion": 1, "compression": {"type": "none"},
            "durability": "disk", "openedAt": AT, "state": state,
            "trigger": {"count": 1, "size": "1MB", "interval": "1s", "minInterval": "1s"},
        });
        serde_json::from_value(slice).expect("the stored form")
    }

    fn sealed(name: &str, rows: u64, first_at: &str) -> Value {
        sealed_with(name, rows, first_at, 0)
    }

    /// With so many rows in the hour of `LATER`.
    fn sealed_with(name: &str, rows: u64, first_at: &str, later: u64) -> Value {
        json!({
            "name": name, "at": AT, "object": "x", "closing": {"at": AT, "reason": "count"},
            "seal": {
                "at": AT, "incarnation": 1, "checksum": "", "sessions": {}, "laterHours": {LATER: later},
                "figures": {"rows": rows, "rawBytes": rows, "bytes": rows, "firstAt": first_at, "lastAt": first_at},
            },
        })
    }

    fn file(id: u8, state: &Value) -> File {
        let file = json!({
            "id": FileId::from_bytes([id; 16]), "sink": key(), "mappingVersion": 1, "volumes": [],
            "table": {"type": "sqlite", "tableId": "t", "mapping": {"columns": []}},
            "trigger": {"count": 1, "size": "1MB", "interval": "1s", "minInterval": "1s", "slicesCount": 1},
            "openedAt": AT, "state": state,
        });
        serde_json::from_value(file).expect("the stored form")
    }

    fn ledger(imported: u64) -> Ledger {
        let state = json!({"name": "imported", "closingAt": AT, "importingAt": AT, "at": AT, "rows": imported});
        let mut rejects = slice(6, 0, &sealed("uploaded", 7, LATER));
        (rejects.kind, rejects.file) = (Kind::Rejects, FileId::none());
        let mut lost = slice(7, 1, &sealed("uploaded", 0, AT));
        lost.forgotten = Some(stream_model::slice::Forgotten {
            at: AT.parse().expect("a time"),
            rows: Some(9),
            first_at: Some(AT.parse().expect("a time")),
            later_hours: later(4),
        });
        let removed = Counts {
            rows: 100,
            imported: 100,
            rejected: 11,
            lost: 0,
        };
        Ledger {
            hours: BTreeMap::from([(Hour::of(AT.parse().expect("a time")), removed)]),
            earlier: Counts {
                rows: 1_000,
                imported: 1_000,
                ..Counts::default()
            },
            slices: vec![
                slice(1, 1, &json!({"name": "writing"})),
                slice(2, 1, &json!({"name": "writing"})),
                slice(3, 1, &sealed("uploading", 2, AT)),
                slice(4, 1, &sealed_with("uploaded", 3, AT, 1)),
                slice(5, 2, &sealed("uploaded", 4, LATER)),
                rejects,
                lost,
            ],
            files: vec![file(1, &json!({"name": "writing"})), file(2, &state)],
        }
    }

    /// So many rows in the hour of `LATER`.
    fn later(rows: u64) -> LaterHours {
        let hour = Hour::of(LATER.parse().expect("a time"));
        [(hour, rows)].into_iter().collect()
    }

    /// Of slice 2, which has reached a limit.
    fn crossed() -> Crossed {
        let at = AT.parse().expect("a time");
        let figures = Figures {
            rows: 3,
            first_at: Some(at),
            ..Figures::default()
        };
        let slice = slice(2, 1, &json!({"name": "writing"}));
        Crossed {
            sink: slice.sink,
            slice: slice.id,
            volume: slice.volume,
            reason: Reason::Interval,
            figures,
            later_hours: later(2),
            at,
        }
    }

    fn view(ledger: &Ledger) -> Value {
        let reported = BTreeMap::from([(SliceId::from_bytes([2; 16]), crossed())]);
        let hours = Hours {
            first: Hour(0),
            last: Hour(u64::MAX),
        };
        let account = Account::new(ledger, &reported);
        serde_json::to_value(LedgerView::new(&key(), hours, &account)).expect("serialises")
    }

    #[test]
    fn every_record_is_in_one_place_and_one_hour() {
        assert_eq!(
            view(&ledger(4)),
            json!({
                "sourceId": "orders", "sinkId": "raw",
                "hours": [
                    {
                        "hour": "2026-01-01T10:00:00.000Z", "received": 121, "rejected": 11, "buffered": 3,
                        "staged": 2, "imported": 100, "lost": 5,
                    },
                    {
                        "hour": LATER, "received": 18, "rejected": 7, "buffered": 2, "staged": 1, "imported": 4,
                        "lost": 4,
                    },
                ],
                "total": {
                    "received": 1_139, "rejected": 18, "buffered": 5, "staged": 3, "imported": 1_104, "lost": 9,
                },
                "addsUp": true, "openSlices": 1,
            })
        );
    }

    /// A file whose rows arrived in two hours, of which the target counts fewer than are in the first.
    #[test]
    fn what_the_target_has_less_of_is_missing_in_the_first_hours() {
        let mut ledger = ledger(1);
        ledger.slices[4] = slice(5, 2, &sealed_with("uploaded", 8, AT, 5));
        let view = view(&ledger);
        let missing = |of: &Value| of["missing"].clone();
        assert_eq!(missing(&view["total"]), 7);
        assert_eq!(missing(&view["hours"][0]), 3);
        assert_eq!(missing(&view["hours"][1]), 4);
    }

    #[test]
    fn what_the_target_counts_otherwise_does_not_add_up() {
        for (imported, missing) in [(3, 1), (6, -2)] {
            let view = view(&ledger(imported));
            assert_eq!(view["addsUp"], false);
            assert_eq!(view["total"]["missing"], missing);
            assert_eq!(view["hours"][1]["missing"], missing);
            assert_eq!(view["hours"][0].get("missing"), None);
        }
    }
}
