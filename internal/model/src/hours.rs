//! In which hours rows arrived.
//!
//! Most slices live for seconds, so all their rows arrived in one hour, which their figures tell: that of the first record. Only
//! what arrived in later hours is kept apart. So the hours add up to the rows whatever else happens, a slice of one hour needs
//! no memory for them, and what an older version has written without hours reads as before: all rows in the hour of the first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::statistics::Figures;
use crate::time::Timestamp;

const HOUR_MS: i64 = 3_600_000;
const HOURS_OF_A_DAY: u64 = 24;

/// The most hours of a slice that are kept apart, that of its first record included. A slice has more only after some days without
/// a coordinator, which would rotate it; then its oldest hours count as one.
pub const MAX_HOURS: usize = 72;

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
}

/// Rows that arrived in later hours than the first record, by hour. The others arrived in the hour of that one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "BTreeMap<Timestamp, u64>", from = "BTreeMap<Timestamp, u64>")]
pub struct LaterHours(Vec<(Hour, u64)>);

impl LaterHours {
    /// Whether all rows arrived in one hour.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rows of later hours, the oldest hour first.
    #[must_use]
    pub fn entries(&self) -> &[(Hour, u64)] {
        &self.0
    }

    /// Takes in rows that arrived in the hour of `at`. `before` is what there was before them.
    pub fn add(&mut self, before: &Figures, at: Timestamp, rows: u64) {
        let Some(first_at) = before.first_at else {
            return;
        };
        let (first, hour) = (Hour::of(first_at), Hour::of(at));
        if hour == first {
            return;
        }
        if hour > first {
            self.put(hour, rows);
        } else {
            // They are the first ones now.
            self.put(first, before.rows.saturating_sub(self.rows()));
        }
        if self.0.len() >= MAX_HOURS {
            // What is not in here counts with the first.
            self.0.remove(0);
        }
    }

    fn put(&mut self, hour: Hour, rows: u64) {
        if rows == 0 {
            return;
        }
        match self.0.binary_search_by_key(&hour, |(hour, _)| *hour) {
            Ok(place) => self.0[place].1 = self.0[place].1.saturating_add(rows),
            Err(place) => self.0.insert(place, (hour, rows)),
        }
    }

    /// Notes that rows are gone from a part of these, of which `part` are the figures and hours. Nothing tells which ones: those
    /// that arrived last are taken for the ones.
    pub fn lose(&mut self, part: (&Figures, &Self), lost: u64) {
        let (figures, later) = part;
        let mut left = lost;
        let hours = later.by_hour(figures, Timestamp::from_millis(0));
        for (hour, rows) in hours.into_iter().rev() {
            let gone = rows.min(left);
            left -= gone;
            // Those of the first hour are not in here.
            if let Ok(place) = self.0.binary_search_by_key(&hour, |(hour, _)| *hour) {
                self.0[place].1 = self.0[place].1.saturating_sub(gone);
            }
        }
        self.0.retain(|(_, rows)| *rows > 0);
    }

    /// All rows of `figures` by the hour in which they arrived, the oldest first. Where no time of a record is known, that is the
    /// hour of `otherwise`.
    #[must_use]
    pub fn by_hour(&self, figures: &Figures, otherwise: Timestamp) -> Vec<(Hour, u64)> {
        let first = Hour::of(figures.first_at.unwrap_or(otherwise));
        // Never more than there are, whatever was stored.
        let mut left = figures.rows.min(self.rows());
        let mut hours = Vec::with_capacity(1 + self.0.len());
        hours.push((first, figures.rows - left));
        for (hour, rows) in &self.0 {
            let rows = left.min(*rows);
            left -= rows;
            hours.push((*hour, rows));
        }
        hours.retain(|(_, rows)| *rows > 0);
        hours
    }

    /// How many rows arrived in later hours.
    fn rows(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, (_, rows)| sum.saturating_add(*rows))
    }
}

impl FromIterator<(Hour, u64)> for LaterHours {
    fn from_iter<T: IntoIterator<Item = (Hour, u64)>>(hours: T) -> Self {
        let mut later = Self::default();
        for (hour, rows) in hours {
            later.put(hour, rows);
        }
        later
    }
}

impl From<BTreeMap<Timestamp, u64>> for LaterHours {
    fn from(hours: BTreeMap<Timestamp, u64>) -> Self {
        hours
            .into_iter()
            .map(|(at, rows)| (Hour::of(at), rows))
            .collect()
    }
}

impl From<LaterHours> for BTreeMap<Timestamp, u64> {
    fn from(later: LaterHours) -> Self {
        let hours = later.0.into_iter();
        hours.map(|(hour, rows)| (hour.begins(), rows)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(hour: u64, millis: i64) -> Timestamp {
        Timestamp::from_millis(Hour(hour).begins().as_millis() + millis)
    }

    fn figures(at: Timestamp, rows: u64) -> Figures {
        Figures {
            rows,
            first_at: Some(at),
            last_at: Some(at),
            ..Figures::default()
        }
    }

    /// What a slice does with each part.
    fn add(known: &mut (Figures, LaterHours), at: Timestamp, rows: u64) {
        known.1.add(&known.0, at, rows);
        known.0.add(&figures(at, rows));
    }

    fn by_hour(known: &(Figures, LaterHours)) -> Vec<(Hour, u64)> {
        known.1.by_hour(&known.0, at(0, 0))
    }

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
    fn rows_of_one_hour_need_no_memory() {
        let mut known = Default::default();
        for millis in [0, 5, HOUR_MS - 1] {
            add(&mut known, at(9, millis), 2);
        }
        assert_eq!(known.1.0.capacity(), 0);
        assert_eq!(by_hour(&known), [(Hour(9), 6)]);
        assert!(by_hour(&Default::default()).is_empty());
    }

    #[test]
    fn rows_count_in_the_hour_in_which_they_arrived_in_whatever_order_they_come() {
        let mut known = Default::default();
        for (hour, rows) in [(9, 1), (11, 2), (10, 4), (9, 8), (8, 16), (11, 32), (7, 64)] {
            add(&mut known, at(hour, 7), rows);
        }
        let expected = [(7, 64), (8, 16), (9, 9), (10, 4), (11, 34)];
        assert_eq!(by_hour(&known), expected.map(|(h, n)| (Hour(h), n)));
    }

    #[test]
    fn beyond_so_many_hours_the_oldest_count_as_one() {
        let mut known = Default::default();
        let most = MAX_HOURS as u64;
        for hour in 0..most + 3 {
            add(&mut known, at(100 + hour, 0), 1);
        }
        let hours = by_hour(&known);
        assert_eq!(hours.len(), MAX_HOURS);
        assert_eq!(hours[..2], [(Hour(100), 4), (Hour(104), 1)]);
        // An older one still is the first, and what was first is the oldest of the others.
        add(&mut known, at(1, 0), 1);
        assert_eq!(by_hour(&known)[..2], [(Hour(1), 5), (Hour(104), 1)]);
        assert_eq!(by_hour(&known).len(), MAX_HOURS);
    }

    #[test]
    fn the_last_rows_of_a_part_are_taken_for_those_that_are_gone() {
        let (mut part, mut all) = Default::default();
        for (hour, rows) in [(9, 4), (10, 2), (11, 1)] {
            add(&mut part, at(hour, 0), rows);
            add(&mut all, at(hour, 0), rows);
        }
        // Behind the part: more of its last hour, a new one, and one before all of it.
        for (hour, rows) in [(11, 5), (12, 3), (8, 1)] {
            add(&mut all, at(hour, 0), rows);
        }
        for (lost, expected) in [
            (0, [1, 4, 2, 6, 3]),
            (2, [1, 4, 1, 5, 3]),
            (5, [1, 2, 0, 5, 3]),
            (7, [1, 0, 0, 5, 3]),
        ] {
            let (mut figures, mut later) = all.clone();
            later.lose((&part.0, &part.1), lost);
            figures.rows -= lost;
            let expected = (8..).map(Hour).zip(expected).filter(|(_, rows)| *rows > 0);
            assert_eq!(by_hour(&(figures, later)), expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_stored_can_be_read_by_people_and_never_counts_more_than_there_is() {
        let mut known = Default::default();
        for (hour, rows) in [(9, 1), (10, 2), (12, 3)] {
            add(&mut known, at(hour, 7), rows);
        }
        let json = serde_json::to_string(&known.1).expect("serialises");
        let text = r#"{"1970-01-01T10:00:00.000Z":2,"1970-01-01T12:00:00.000Z":3}"#;
        assert_eq!(json, text);
        let read: LaterHours = serde_json::from_str(text).expect("parses");
        assert_eq!(read, known.1);
        let fewer = Figures { rows: 4, ..known.0 };
        let clipped = [(Hour(10), 2), (Hour(12), 2)];
        assert_eq!(read.by_hour(&fewer, at(0, 0)), clipped);
        let huge = format!(
            r#"{{"1970-01-01T10:00:00.000Z":{0},"1970-01-01T11:00:00.000Z":{0}}}"#,
            u64::MAX
        );
        let huge: LaterHours = serde_json::from_str(&huge).expect("parses");
        assert_eq!(huge.by_hour(&fewer, at(0, 0)), [(Hour(10), 4)]);
    }

    proptest! {
        /// The same hours as from counting each part, where there are not too many, and as many rows as there are in any case.
        #[test]
        fn hours_add_up_to_the_rows(
            parts in prop::collection::vec((0..100_u64, 1..9_u64), 0..150),
        ) {
            let (mut known, mut counted) = (Default::default(), BTreeMap::new());
            for (hour, rows) in parts {
                add(&mut known, at(hour, 1), rows);
                *counted.entry(Hour(hour)).or_insert(0) += rows;
                let hours = by_hour(&known);
                prop_assert!(hours.len() <= MAX_HOURS);
                let sum: u64 = hours.iter().map(|(_, rows)| rows).sum();
                prop_assert_eq!(sum, known.0.rows);
                if counted.len() <= MAX_HOURS {
                    let counted: Vec<_> = counted.clone().into_iter().collect();
                    prop_assert_eq!(hours, counted);
                }
            }
        }

        /// What is lost is gone from the part, and nothing else.
        #[test]
        fn what_is_lost_of_a_part_is_not_taken_from_the_rest(
            parts in prop::collection::vec((0..9_u64, 1..9_u64), 1..20),
            rest in prop::collection::vec((0..9_u64, 1..9_u64), 0..20),
            lost in 0..50_u64,
        ) {
            let (mut part, mut all): ((Figures, LaterHours), (Figures, LaterHours)) = Default::default();
            for (hour, rows) in parts {
                add(&mut part, at(hour, 0), rows);
                add(&mut all, at(hour, 0), rows);
            }
            let mut left: BTreeMap<Hour, u64> = BTreeMap::new();
            for (hour, rows) in rest {
                add(&mut all, at(hour, 0), rows);
                *left.entry(Hour(hour)).or_insert(0) += rows;
            }
            let lost = lost.min(part.0.rows);
            all.1.lose((&part.0, &part.1), lost);
            let own = part.1.clone();
            part.1.lose((&part.0, &own), lost);
            all.0.rows -= lost;
            part.0.rows -= lost;
            for (hour, rows) in by_hour(&part) {
                *left.entry(hour).or_insert(0) += rows;
            }
            prop_assert_eq!(by_hour(&all), left.into_iter().collect::<Vec<_>>());
        }
    }
}
