//! The ledger: what a sink has received, hour by hour, of slices that are cleaned up.
//!
//! A slice counts in the hour of its first record. Slices are short, so that is the hour of all its records but those of the last
//! seconds before a full hour; of rejected records, whose slices take them for up to an hour, it may be the hour before.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::slice::{Kind, Slice};
use crate::time::Timestamp;

const HOUR_MS: i64 = 3_600_000;
const HOURS_OF_A_DAY: u64 = 24;

/// The day to which everything is added that is older than the days that are kept.
pub const EARLIER: u64 = 0;
/// How many days are kept hour by hour, that of the newest slice included.
pub const KEPT_DAYS: u64 = 31;

/// An hour, counted from 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hour(pub u64);

impl Hour {
    /// The hour of a moment.
    #[must_use]
    pub fn of(at: Timestamp) -> Self {
        Self(u64::try_from(at.as_millis().div_euclid(HOUR_MS)).unwrap_or(0))
    }

    /// When it begins.
    #[must_use]
    pub fn begins(self) -> Timestamp {
        let hours = i64::try_from(self.0).unwrap_or(i64::MAX);
        Timestamp::from_millis(hours.saturating_mul(HOUR_MS))
    }

    /// Its day, and its place in it.
    #[must_use]
    pub fn in_day(self) -> (u64, u8) {
        let hour = self.0 % HOURS_OF_A_DAY;
        (
            self.0 / HOURS_OF_A_DAY,
            u8::try_from(hour).expect("a day has 24 hours"),
        )
    }

    /// The hour at this place of a day.
    #[must_use]
    pub const fn at(day: u64, place: u8) -> Self {
        Self(
            day.saturating_mul(HOURS_OF_A_DAY)
                .saturating_add(place as u64),
        )
    }

    /// The hour in which a slice counts.
    #[must_use]
    pub fn of_slice(slice: &Slice) -> Self {
        let first_at = slice.seal().and_then(|seal| seal.figures.first_at);
        Self::of(first_at.unwrap_or(slice.opened_at))
    }
}

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

    /// What a slice that is being cleaned up has held.
    #[must_use]
    pub fn of_removed(slice: &Slice) -> Self {
        let rows = slice.seal().map_or(0, |seal| seal.figures.rows);
        let lost = slice.forgotten.as_ref().and_then(|it| it.rows).unwrap_or(0);
        match slice.kind {
            Kind::Rows => Self {
                rows,
                imported: rows,
                rejected: 0,
                lost,
            },
            Kind::Rejects => Self {
                rows: 0,
                imported: 0,
                rejected: rows,
                lost,
            },
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

/// What a file that is cleaned up adds to the hours of its slices. The target's own count is kept apart from that of the seals:
/// that both are the same is what the ledger is there to show.
#[must_use]
pub fn of_removed<'a>(slices: impl Iterator<Item = &'a Slice>) -> BTreeMap<Hour, Counts> {
    let mut hours: BTreeMap<Hour, Counts> = BTreeMap::new();
    for slice in slices {
        let counts = Counts::of_removed(slice);
        if counts != Counts::default() {
            hours.entry(Hour::of_slice(slice)).or_default().add(counts);
        }
    }
    hours
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slice::Event;
    use crate::slice::tests::{closing, seal, slice};

    #[test]
    fn an_hour_is_a_place_in_a_day() {
        let at: Timestamp = "2026-01-02T03:59:59.999Z".parse().expect("a time");
        let hour = Hour::of(at);
        assert_eq!(hour.begins().to_string(), "2026-01-02T03:00:00.000Z");
        let (day, place) = hour.in_day();
        assert_eq!((place, Hour::at(day, place)), (3, hour));
        assert_eq!(Hour::of(Timestamp::from_millis(-1)), Hour(0));
    }

    #[test]
    fn a_slice_counts_in_the_hour_of_its_first_record() {
        let sealed = |kind, first_at| {
            let mut slice = slice(1).apply(Event::Close(closing())).expect("closed");
            slice.kind = kind;
            let mut seal = seal(4);
            seal.figures.first_at = Some(Timestamp::from_millis(first_at));
            slice.apply(Event::Seal(seal)).expect("sealed")
        };
        let slices = [
            sealed(Kind::Rows, 5),
            sealed(Kind::Rows, HOUR_MS),
            sealed(Kind::Rejects, HOUR_MS + 7),
            slice(2),
        ];
        let hours = of_removed(slices.iter());
        let rows = |rows| Counts {
            rows,
            imported: rows,
            ..Counts::default()
        };
        let second = Counts {
            rejected: 4,
            ..rows(4)
        };
        assert_eq!(
            hours,
            BTreeMap::from([(Hour(0), rows(4)), (Hour(1), second)])
        );
        let forget = Event::Forget {
            incarnation: 9,
            at: Timestamp::from_millis(9),
        };
        let lost = slices[0].clone().apply(forget).expect("given up");
        let counts = Counts::of_removed(&lost);
        assert_eq!((counts.rows, counts.lost), (0, 4));
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
