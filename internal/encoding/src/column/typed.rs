//! Values of a data type: what converts to it, and how it is written.
//!
//! | data type | from JSON | from a text (string, header, default) | written |
//! |---|---|---|---|
//! | `int` | a number that is whole and has 64 bits: `5`, `5.0`, `5e3` | the same | `5000` |
//! | `float` | a number within the range of a double | the same | its digits, without exponent |
//! | `bool` | `true`, `false`, `1`, `0` | the same | `true`, `false` |
//! | `timestamp` | – | RFC 3339 with an offset | UTC, nine digits of fraction |
//! | `json` | anything | valid JSON | canonical |
//!
//! `null` is NULL: an empty value, which no other value is. Nothing else becomes NULL, and nothing is rounded, cut or
//! guessed: such a value is refused. A string of a JSON body is a text, but for `json`, where it is a JSON string.

use std::borrow::Cow;

use stream_model::definition::mapping::DataType;

use super::Failure;
use crate::calendar;
use crate::canonical::{self, Strings};
use crate::csv::Field;
use crate::scan;
use crate::selection::{Found, Selection};

/// How the values of a column are converted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Typed {
    pub data_type: DataType,
    /// Whether NULL is a value.
    pub nullable: bool,
}

/// A value to convert.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given<'a> {
    /// JSON text.
    Json(&'a [u8]),
    /// Text.
    Text(&'a str),
}

/// What converts to a data type, for people.
pub(super) const fn expected(data_type: DataType) -> &'static str {
    match data_type {
        DataType::String => "any text",
        DataType::Int => {
            "a whole number from -9223372036854775808 to 9223372036854775807 is expected"
        }
        DataType::Float => "a number within the range of a double is expected",
        DataType::Bool => "true, false, 1 or 0 is expected",
        DataType::Timestamp => {
            "a time such as 2006-01-02T15:04:05Z or 2006-01-02T15:04:05.123+01:00 is expected (RFC 3339, at most nine \
             digits of fraction)"
        }
        DataType::Json => "valid JSON is expected",
    }
}

impl Typed {
    /// Appends a value.
    pub fn write(self, field: &mut Field<'_>, given: Given<'_>) -> Result<(), Failure> {
        let wrong = Failure::WrongType(self.data_type);
        let given = match given {
            Given::Text(text) if self.data_type == DataType::Json => {
                Given::Json(as_json(text).ok_or(Failure::WrongType(self.data_type))?)
            }
            given => given,
        };
        match given {
            Given::Json(b"null") if self.nullable => return Ok(()),
            Given::Json(b"null") => return Err(Failure::NullKey),
            Given::Json(json) if self.data_type == DataType::Json => {
                return Ok(canonical::write_value(field, json, Strings::Json)?);
            }
            Given::Json(_) | Given::Text(_) => {}
        }
        let text = given.scalar().ok_or(Failure::WrongType(self.data_type))?;
        match self.data_type {
            DataType::String => field.text(text.as_bytes()),
            DataType::Int => {
                let number = int(&text).ok_or(wrong)?;
                field.plain(number.to_string().as_bytes());
            }
            DataType::Float => write_float(field, &text, wrong)?,
            DataType::Bool => field.plain(match &*text {
                "true" | "1" => b"true",
                "false" | "0" => b"false",
                _ => return Err(wrong),
            }),
            // A JSON number is no time: its unit would be guessed.
            DataType::Timestamp => {
                field.plain(&calendar::to_utc(&text).ok_or(wrong)?);
            }
            DataType::Json => {}
        }
        Ok(())
    }
}

impl<'a> Given<'a> {
    /// The text of a value that is not nested.
    fn scalar(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Json([b'{' | b'[', ..]) => None,
            Self::Json([b'"', content @ .., b'"']) => {
                let mut text = String::with_capacity(content.len());
                canonical::unescape(content, &mut text);
                Some(Cow::Owned(text))
            }
            Self::Json(word) => Some(String::from_utf8_lossy(word)),
        }
    }
}

/// A text that is JSON.
fn as_json(text: &str) -> Option<&[u8]> {
    let text = text.trim_matches([' ', '\t', '\n', '\r']).as_bytes();
    let valid = scan::scan(text, &Selection::default(), &mut Found::new());
    valid.ok().map(|()| text)
}

/// A whole number, exactly.
fn int(text: &str) -> Option<i64> {
    if !scan::is_number(text.as_bytes()) {
        return None;
    }
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let digits = canonical::without_exponent(text)?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    if fraction.bytes().any(|digit| digit != b'0') {
        return None;
    }
    whole.parse().ok()
}

fn write_float(field: &mut Field<'_>, text: &str, wrong: Failure) -> Result<(), Failure> {
    let number: f64 = match text.parse() {
        Ok(number) if scan::is_number(text.as_bytes()) => number,
        _ => return Err(wrong),
    };
    if !number.is_finite() {
        return Err(wrong);
    }
    match canonical::without_exponent(text) {
        Some(digits) => field.plain(digits.as_bytes()),
        // Digits that run further than any double.
        None => field.plain(number.to_string().as_bytes()),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
