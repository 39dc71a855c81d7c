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

/// `2006-01-02T15:04:05.000000000Z`
pub(crate) const UTC_LEN: usize = 30;

/// Brings a time of RFC 3339 to UTC with nine digits of fraction. None: it is no such time, has more digits, or its year is
/// not one of four digits in UTC. A leap second is no time here: few readers know it.
pub(crate) fn to_utc(text: &str) -> Option<[u8; UTC_LEN]> {
    let text = text.as_bytes();
    let (date_time, rest) = text.split_at_checked(19)?;
    let number = |from: usize, to: usize| digits(date_time.get(from..to)?);
    let separated = |at: usize, separators: &[u8]| {
        date_time
            .get(at)
            .is_some_and(|byte| separators.contains(byte))
    };
    let shape = [
        (4, &b"-"[..]),
        (7, b"-"),
        (10, b"Tt"),
        (13, b":"),
        (16, b":"),
    ];
    if !shape
        .iter()
        .all(|(at, separators)| separated(*at, separators))
    {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let days = days_of_date(year, month, day)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanos, zone) = fraction(rest)?;
    let minutes = hour * 60 + minute - offset_minutes(zone)?;
    let millis = days * DAY_MS + (minutes * 60 + second) * 1_000;
    let utc = Civil::new(Timestamp::from_millis(millis));
    if !(0..=9999).contains(&utc.year) {
        return None;
    }
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    out[..19].copy_from_slice(&utc.rfc3339()[..19]);
    out[20..29].copy_from_slice(&nanos);
    Some(out)
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + i64::from(byte - b'0'))
    })
}

/// Nine digits of a fraction that may be missing or shorter, and what follows.
fn fraction(text: &[u8]) -> Option<([u8; 9], &[u8])> {
    let mut nanos = [b'0'; 9];
    let Some(text) = text.strip_prefix(b".") else {
        return Some((nanos, text));
    };
    let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (given, rest) = text.split_at(len);
    if given.is_empty() {
        return None;
    }
    nanos.get_mut(..len)?.copy_from_slice(given);
    Some((nanos, rest))
}

/// Minutes east of UTC: `Z` or `+01:00`.
fn offset_minutes(zone: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match zone {
        [b'Z' | b'z'] => return Some(0),
        [b'+', hours @ .., b':', _, _] => (1, hours, &zone[zone.len() - 2..]),
        [b'-', hours @ .., b':', _, _] => (-1, hours, &zone[zone.len() - 2..]),
        _ => return None,
    };
    let valid = hours.len() == 2;
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (valid && hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

/// Days from 1970-01-01 to a date; none when there is no such date.
fn days_of_date(year: i64, month: i64, day: i64) -> Option<i64> {
    let first = days_before_year(year);
    // The day that many days after the first of January has to be that date: there are few, so looking is enough.
    let about = first + (month - 1) * 30 + day - 1;
    let mut near = about - 3..=about + 6;
    near.find(|days| date_of(*days) == (year, month, day))
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
