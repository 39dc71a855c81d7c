//! The ledger: what a sink has received, hour by hour, of slices that are cleaned up.
//!
//! A record counts in the hour in which it arrived ([`crate::hours`]), a slice without any in none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::hours::Hour;
use crate::slice::{Kind, Slice};

/// The day to which everything is added that is older than the days that are kept.
pub const EARLIER: u64 = 0;
/// How many days are kept hour by hour, that of the newest slice included.
pub const KEPT_DAYS: u64 = 31;

/// What became of records. Each is in one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Rows that were sealed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows: u64,
    /// Rows of them that the target has counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub imported: u64,
    /// Rejected records that were sealed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected: u64,
    /// Sealed rows, or rejected records, of volumes that were given up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u64,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "`serde` wants a reference"
)]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Counts {
    /// Adds the others to these.
    pub fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.imported += other.imported;
        self.rejected += other.rejected;
        self.lost += other.lost;
    }

    /// What there is of a slice in an hour when it is cleaned up: that many rows, or rejected records.
    const fn of_removed(kind: Kind, rows: u64) -> Self {
        let (rows, rejected) = match kind {
            Kind::Rows => (rows, 0),
            Kind::Rejects => (0, rows),
        };
        Self {
            rows,
            imported: rows,
            rejected,
            lost: 0,
        }
    }
}

/// A day of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Day {
    /// By the hour of the day.
    pub hours: BTreeMap<u8, Counts>,
}

impl Day {
    /// Adds to an hour.
    pub fn add(&mut self, place: u8, counts: Counts) {
        self.hours.entry(place).or_default().add(counts);
    }

    /// The sum of the day.
    #[must_use]
    pub fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        self.hours.values().for_each(|counts| sum.add(*counts));
        sum
    }
}

/// What slices that are cleaned up add to the hours of their records. The target's own count is kept apart from that of the seals:
/// that both are the same is what the ledger is there to show.
#[must_use]
pub fn of_removed<'a>(slices: impl Iterator<Item = &'a Slice>) -> BTreeMap<Hour, Counts> {
    let mut hours: BTreeMap<Hour, Counts> = BTreeMap::new();
    for slice in slices {
        for (hour, rows) in slice.sealed_by_hour() {
            let counts = Counts::of_removed(slice.kind, rows);
            hours.entry(hour).or_default().add(counts);
        }
        for (hour, lost) in slice.lost_by_hour() {
            hours.entry(hour).or_default().lost += lost;
        }
    }
    hours
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;
    use crate::slice::Event;
    use crate::slice::tests::{closing, seal, slice};

    /// A sealed slice of 4 rows, `later` of which arrived in the hour after that of `first_at`.
    fn sealed(kind: Kind, first_at: Timestamp, later: u64) -> Slice {
        let mut slice = slice(1).apply(Event::Close(closing())).expect("closed");
        slice.kind = kind;
        let mut seal = seal(4);
        seal.figures.first_at = Some(first_at);
        let hour = Hour(Hour::of(first_at).0 + 1);
        seal.later_hours = [(hour, later)].into_iter().collect();
        slice.apply(Event::Seal(seal)).expect("sealed")
    }

    fn rows(rows: u64) -> Counts {
        Counts {
            rows,
            imported: rows,
            ..Counts::default()
        }
    }

    #[test]
    fn a_record_counts_in_the_hour_in_which_it_arrived() {
        let hour = |hour| Hour(hour).begins();
        let slices = [
            sealed(Kind::Rows, hour(0), 0),
            sealed(Kind::Rows, hour(1), 1),
            sealed(Kind::Rejects, hour(1), 3),
            slice(2),
        ];
        let hours = of_removed(slices.iter());
        let second = Counts {
            rejected: 1,
            ..rows(3)
        };
        let third = Counts {
            rejected: 3,
            ..rows(1)
        };
        let expected = [(Hour(0), rows(4)), (Hour(1), second), (Hour(2), third)];
        assert_eq!(hours, BTreeMap::from(expected));
    }

    #[test]
    fn what_is_given_up_stays_in_its_hours() {
        let forget = Event::Forget {
            incarnation: 9,
            at: Hour(8).begins(),
        };
        let sealed = sealed(Kind::Rows, Hour(5).begins(), 1);
        let lost = sealed.apply(forget).expect("given up");
        let hours = of_removed([lost].iter());
        let counts = |lost| Counts {
            lost,
            ..Counts::default()
        };
        let expected = [(Hour(5), counts(3)), (Hour(6), counts(1))];
        assert_eq!(hours, BTreeMap::from(expected));
    }

    #[test]
    fn a_day_is_stored_without_noughts() {
        let mut day = Day::default();
        day.add(
            23,
            Counts {
                rows: 2,
                imported: 2,
                ..Counts::default()
            },
        );
        day.add(
            23,
            Counts {
                rejected: 1,
                ..Counts::default()
            },
        );
        let json = serde_json::to_string(&day).expect("serialises");
        assert_eq!(
            json,
            r#"{"hours":{"23":{"rows":2,"imported":2,"rejected":1}}}"#
        );
        assert_eq!(serde_json::from_str::<Day>(&json).expect("parses"), day);
        assert_eq!(day.sum().rows, 2);
    }
}
