//! Formats of the template function `Now`, in the notation of C's strftime.
//!
//! All times are UTC. Directives that depend on a locale, or that no one writes into a table, are refused when the
//! mapping is compiled, so that formatting cannot fail.

use std::fmt::Write as _;

use stream_model::Timestamp;

use crate::calendar::Civil;

/// Used by `Now()`.
pub(crate) const DEFAULT: &str = "%Y-%m-%dT%H:%M:%S.%fZ";

/// Why a format is refused, with what to write instead.
pub(crate) const UNKNOWN_DIRECTIVE: &str = "the format of Now has an unknown directive; use %Y %y %m %d %j %H %I %M \
     %S %f (microseconds) %p %s (seconds since 1970) %F %T %a %A %b %B %z %Z and %% for a percent sign";

const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A parsed format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Strftime(Box<[Piece]>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Directive(char),
}

impl Strftime {
    /// Parses a format; `None` when it has an unknown directive.
    pub fn parse(format: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut rest = format;
        while let Some((text, tail)) = rest.split_once('%') {
            if !text.is_empty() {
                pieces.push(Piece::Text(text.into()));
            }
            let directive = tail.chars().next()?;
            // One formatting of any time says whether it is known: there is a single list of directives.
            write(directive, Timestamp::from_millis(0), &mut String::new())?;
            pieces.push(Piece::Directive(directive));
            rest = &tail[directive.len_utf8()..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Some(Self(pieces.into()))
    }

    /// Formats a time.
    pub fn format(&self, at: Timestamp) -> String {
        let mut out = String::with_capacity(32);
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Directive(directive) => {
                    write(*directive, at, &mut out).expect("checked when the format was parsed");
                }
            }
        }
        out
    }
}

/// Appends one directive; `None` when it is unknown.
fn write(directive: char, at: Timestamp, out: &mut String) -> Option<()> {
    let civil = Civil::new(at);
    let weekday = WEEKDAYS[usize::from(civil.weekday) % 7];
    let month = MONTHS[usize::from(civil.month.saturating_sub(1)) % 12];
    let written = match directive {
        'Y' => write!(out, "{:04}", civil.year),
        'y' => write!(out, "{:02}", civil.year.rem_euclid(100)),
        'm' => write!(out, "{:02}", civil.month),
        'd' => write!(out, "{:02}", civil.day),
        'j' => write!(out, "{:03}", civil.day_of_year),
        'H' => write!(out, "{:02}", civil.hour),
        'I' => write!(out, "{:02}", (civil.hour + 11) % 12 + 1),
        'M' => write!(out, "{:02}", civil.minute),
        'S' => write!(out, "{:02}", civil.second),
        'f' => write!(out, "{:03}000", civil.millis),
        'p' => out.write_str(if civil.hour < 12 { "AM" } else { "PM" }),
        's' => write!(out, "{}", at.as_millis().div_euclid(1_000)),
        'F' => write!(out, "{:04}-{:02}-{:02}", civil.year, civil.month, civil.day),
        'T' => write!(
            out,
            "{:02}:{:02}:{:02}",
            civil.hour, civil.minute, civil.second
        ),
        'a' => out.write_str(&weekday[..3]),
        'A' => out.write_str(weekday),
        'b' => out.write_str(&month[..3]),
        'B' => out.write_str(month),
        'z' => out.write_str("+0000"),
        'Z' => out.write_str("UTC"),
        '%' => out.write_char('%'),
        _ => return None,
    };
    written.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_c_does() {
        let at: Timestamp = "2006-01-02T15:04:05.007Z".parse().expect("valid time");
        for (format, text) in [
            (DEFAULT, "2006-01-02T15:04:05.007000Z"),
            ("%Y-%m-%d", "2006-01-02"),
            ("%F %T", "2006-01-02 15:04:05"),
            ("%a %A %b %B %d %j %y", "Mon Monday Jan January 02 002 06"),
            ("%I:%M %p %z %Z %s", "03:04 PM +0000 UTC 1136214245"),
            ("100%% é", "100% é"),
            ("", ""),
        ] {
            assert_eq!(Strftime::parse(format).expect(format).format(at), text);
        }
        let midnight = Timestamp::from_millis(0);
        assert_eq!(
            Strftime::parse("%I %p").expect("known").format(midnight),
            "12 AM"
        );
    }

    #[test]
    fn refuses_unknown_directives() {
        for format in ["%", "a%", "%Q", "%é", "%-d"] {
            assert_eq!(Strftime::parse(format), None, "{format}");
        }
    }
}
