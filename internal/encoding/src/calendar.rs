//! Calendar fields of a point in time, UTC.
//!
//! Written by hand because a general formatter costs more than the rest of a small row.

use stream_model::Timestamp;

const DAY_MS: i64 = 86_400_000;

/// A point in time as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Civil {
    pub year: i64,
    /// 1–12.
    pub month: u16,
    /// 1–31.
    pub day: u16,
    pub hour: u16,
    pub minute: u16,
    pub second: u16,
    pub millis: u16,
    /// Days since Sunday, 0–6.
    pub weekday: u16,
    /// 1–366.
    pub day_of_year: u16,
}

impl Civil {
    /// Splits a point in time. Any is fine; years run past 9999 and below 0.
    pub fn new(at: Timestamp) -> Self {
        let (days, millis) = (
            at.as_millis().div_euclid(DAY_MS),
            at.as_millis().rem_euclid(DAY_MS),
        );
        let (year, month, day) = date_of(days);
        let seconds = millis / 1_000;
        Self {
            year,
            month: small(month),
            day: small(day),
            hour: small(seconds / 3_600),
            minute: small(seconds / 60 % 60),
            second: small(seconds % 60),
            millis: small(millis % 1_000),
            // 1970-01-01 was a Thursday.
            weekday: small((days + 4).rem_euclid(7)),
            day_of_year: small(days - days_before_year(year) + 1),
        }
    }

    /// `2006-01-02T15:04:05.000Z`
    pub fn rfc3339(&self) -> [u8; 24] {
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let Ok(year @ 0..=9999) = u16::try_from(self.year) else {
            // Five digits break every reader of this format; no clock shows such a year.
            return *b"9999-12-31T23:59:59.999Z";
        };
        put(&mut text[0..4], year);
        put(&mut text[5..7], self.month);
        put(&mut text[8..10], self.day);
        put(&mut text[11..13], self.hour);
        put(&mut text[14..16], self.minute);
        put(&mut text[17..19], self.second);
        put(&mut text[20..23], self.millis);
        text
    }
}

/// Fills `digits` with `value` in decimal, with leading zeroes.
fn put(digits: &mut [u8], value: u16) {
    let mut rest = value;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).expect("a remainder of 10 fits");
        rest /= 10;
    }
}

fn small(value: i64) -> u16 {
    u16::try_from(value).expect("calendar fields below the year are less than 1000")
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn date_of(days: i64) -> (i64, i64, i64) {
    // Years are counted from March, so that the leap day is the last of its year, in eras of 400 years, which all have
    // the same number of days.
    const ERA_DAYS: i64 = 146_097;
    const DAYS_TO_EPOCH: i64 = 719_468; // from 0000-03-01 to 1970-01-01
    let shifted = days + DAYS_TO_EPOCH;
    let (era, day_of_era) = (shifted.div_euclid(ERA_DAYS), shifted.rem_euclid(ERA_DAYS));
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / (ERA_DAYS - 1);
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // From March on, months of 31, 30, 31, 30, 31 days repeat every 153 days.
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to the first of January.
fn days_before_year(year: i64) -> i64 {
    let before = year - 1;
    365 * (year - 1970) + before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400)
        - (1969 / 4 - 1969 / 100 + 1969 / 400)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(at: Timestamp) -> String {
        String::from_utf8(Civil::new(at).rfc3339().to_vec()).expect("ASCII")
    }

    #[test]
    fn known_days() {
        for (at, weekday, day_of_year) in [
            ("1970-01-01T00:00:00.000Z", 4, 1),
            ("2000-02-29T23:59:59.999Z", 2, 60),
            ("2024-12-31T12:00:00.000Z", 2, 366),
            ("1900-03-01T00:00:00.000Z", 4, 60),
            ("2026-11-21T07:11:00.007Z", 6, 325),
        ] {
            let time: Timestamp = at.parse().expect("valid time");
            assert_eq!(text(time), at);
            let civil = Civil::new(time);
            assert_eq!(
                (civil.weekday, civil.day_of_year),
                (weekday, day_of_year),
                "{at}"
            );
        }
    }

    #[test]
    fn the_ends_of_time_are_written_too() {
        for millis in [i64::MIN, i64::MAX, -62_167_219_200_001] {
            assert_eq!(
                text(Timestamp::from_millis(millis)),
                "9999-12-31T23:59:59.999Z"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn agrees_with_the_text_form_of_the_model(millis in -62_167_219_200_000_i64..253_402_300_800_000) {
            let at = Timestamp::from_millis(millis);
            prop_assert_eq!(text(at), at.to_string());
        }
    }
}
