//! Sizes and durations as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A text that is not a size or a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not {expected}")]
pub struct InvalidUnit {
    /// The refused text.
    pub value: String,
    /// What would have been accepted.
    pub expected: &'static str,
}

/// A number of bytes, written `5MB` or `64MiB`.
///
/// `KB`, `MB`, `GB` and `KiB`, `MiB`, `GiB` both mean powers of 1024, because clients of this interface have always
/// been shown `5MB` for 5 × 1024 × 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

const SIZE_UNITS: &[(&str, u32)] = &[("GB", 30), ("MB", 20), ("KB", 10), ("B", 0)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |shift: &u32| self.0 != 0 && self.0.is_multiple_of(1 << shift);
        let (name, shift) = SIZE_UNITS
            .iter()
            .find(|(_, shift)| exact(shift))
            .copied()
            .unwrap_or(("B", 0));
        write!(f, "{}{name}", self.0 >> shift)
    }
}

impl FromStr for ByteSize {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let refuse = || InvalidUnit {
            value: text.to_owned(),
            expected: "a size such as 512KB, 5MB or 64MiB",
        };
        let text_trimmed = text.trim();
        let digits_end = text_trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text_trimmed.len());
        let (digits, unit) = text_trimmed.split_at(digits_end);
        let number: u64 = digits.parse().map_err(|_| refuse())?;
        let unit = unit.trim().to_ascii_uppercase().replace("IB", "B");
        let unit = if unit.is_empty() {
            "B".to_owned()
        } else {
            unit
        };
        let shift = SIZE_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, shift)| *shift);
        shift
            .and_then(|shift| number.checked_mul(1 << shift))
            .map(Self)
            .ok_or_else(refuse)
    }
}

impl TryFrom<String> for ByteSize {
    type Error = InvalidUnit;

    fn try_from(text: String) -> Result<Self, InvalidUnit> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> String {
        size.to_string()
    }
}

/// A length of time, written `30s`, `1m30s`, `100ms` or `24h`. Precise to the millisecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interval(pub Duration);

impl Interval {
    /// An interval of whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl fmt::Display for Interval {
    /// Writes `1h2m3s` the way existing clients expect it: from the largest unit that is not zero down to seconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis < 1_000 {
            return if millis == 0 {
                f.write_str("0s")
            } else {
                write!(f, "{millis}ms")
            };
        }
        let (seconds, rest) = (millis / 1_000, millis % 1_000);
        let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        if rest == 0 {
            return write!(f, "{seconds}s");
        }
        write!(
            f,
            "{seconds}.{}s",
            format!("{rest:03}").trim_end_matches('0')
        )
    }
}

impl FromStr for Interval {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let refuse = || InvalidUnit {
            value: text.to_owned(),
            expected: "a duration such as 500ms, 30s, 1m30s or 24h",
        };
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(refuse());
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let number_end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            let (number, tail) = rest.split_at(number_end);
            let unit_end = tail
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let seconds_per_unit = match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3_600.0,
                _ => return Err(refuse()),
            };
            let number: f64 = number.parse().map_err(|_| refuse())?;
            let part =
                Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|_| refuse())?;
            total = total.checked_add(part).ok_or_else(refuse)?;
            rest = tail;
        }
        // Fractions such as 0.1 s are not exact in binary; whole milliseconds are what we keep.
        let millis =
            u64::try_from((total.as_nanos() + 500_000) / 1_000_000).map_err(|_| refuse())?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl TryFrom<String> for Interval {
    type Error = InvalidUnit;

    fn try_from(text: String) -> Result<Self, InvalidUnit> {
        text.parse()
    }
}

impl From<Interval> for String {
    fn from(interval: Interval) -> String {
        interval.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_both_spellings() {
        for (text, bytes, shown) in [
            ("5MB", 5 << 20, "5MB"),
            ("64MiB", 64 << 20, "64MB"),
            ("1536KB", 1536 << 10, "1536KB"),
            ("100", 100, "100B"),
            ("1 GiB", 1 << 30, "1GB"),
            ("0B", 0, "0B"),
        ] {
            let size: ByteSize = text.parse().expect(text);
            assert_eq!(size, ByteSize(bytes), "{text}");
            assert_eq!(size.to_string(), shown);
        }
        for text in ["", "MB", "5XB", "-1", "99999999999GB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_in_the_customary_form() {
        for (text, millis, shown) in [
            ("30s", 30_000, "30s"),
            ("1m", 60_000, "1m0s"),
            ("1m30s", 90_000, "1m30s"),
            ("24h", 86_400_000, "24h0m0s"),
            ("100ms", 100, "100ms"),
            ("1.5s", 1_500, "1.5s"),
            ("0s", 0, "0s"),
        ] {
            let interval: Interval = text.parse().expect(text);
            assert_eq!(interval.0.as_millis(), millis, "{text}");
            assert_eq!(interval.to_string(), shown);
            assert_eq!(shown.parse(), Ok(interval));
        }
        for text in ["", "5", "s", "5 apples", "-1s"] {
            assert!(text.parse::<Interval>().is_err(), "{text}");
        }
    }
}
