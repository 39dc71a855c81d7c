//! JSON as serde_json reads it, kept so that nothing is lost: duplicate members, the digits of numbers.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The most arrays and objects that may be open at once.
pub const MAX_DEPTH: usize = 128;
/// Exponents beyond this stay as they were sent.
const MAX_EXPONENT: i64 = 400;

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    /// `null`, `true` or `false`.
    Word(String),
    /// A number, as it was sent.
    Number(String),
    /// A string.
    Text(String),
    /// An array.
    Array(Vec<Json>),
    /// An object, with all its members.
    Object(Vec<(String, Json)>),
}

/// A step from a value into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A member.
    Key(String),
    /// An item.
    Index(u32),
}

/// Reads a text. None when it is not JSON, nested too deeply, or has half a surrogate pair.
pub fn parse(text: &[u8]) -> Option<Json> {
    let raw: &RawValue = serde_json::from_slice(text).ok()?;
    read(raw.get(), MAX_DEPTH)
}

fn read(raw: &str, depth: usize) -> Option<Json> {
    Some(match raw.as_bytes().first()? {
        b'{' => {
            let depth = depth.checked_sub(1)?;
            let Members(members) = serde_json::from_str(raw).ok()?;
            let member =
                |(name, value): (String, &RawValue)| Some((name, read(value.get(), depth)?));
            Json::Object(members.into_iter().map(member).collect::<Option<_>>()?)
        }
        b'[' => {
            let depth = depth.checked_sub(1)?;
            let items: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
            Json::Array(
                items
                    .iter()
                    .map(|item| read(item.get(), depth))
                    .collect::<Option<_>>()?,
            )
        }
        b'"' => Json::Text(serde_json::from_str(raw).ok()?),
        b'-' | b'0'..=b'9' => Json::Number(raw.to_owned()),
        _ => Json::Word(raw.to_owned()),
    })
}

/// All members of an object in their order, with those of the same name.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

impl Json {
    /// The value at the end of some steps. Of several members with one name the last counts.
    pub fn at(&self, steps: &[Step]) -> Option<&Self> {
        let mut value = self;
        for step in steps {
            value = match (step, value) {
                (Step::Key(key), Self::Object(members)) => members
                    .iter()
                    .rev()
                    .find(|(name, _)| name == key)
                    .map(|(_, value)| value)?,
                (Step::Index(index), Self::Array(items)) => {
                    items.get(usize::try_from(*index).ok()?)?
                }
                _ => return None,
            };
        }
        Some(value)
    }

    /// The compact text: few escapes, no exponents.
    pub fn canonical(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Number(number) => without_exponent(number),
            Self::Text(text) => quoted(text),
            Self::Array(items) => {
                let items: Vec<_> = items.iter().map(Self::canonical).collect();
                format!("[{}]", items.join(","))
            }
            Self::Object(members) => {
                let member = |(name, value): &(String, Self)| {
                    format!("{}:{}", quoted(name), value.canonical())
                };
                let members: Vec<_> = members.iter().map(member).collect();
                format!("{{{}}}", members.join(","))
            }
        }
    }

    /// The same, but a text is itself.
    pub fn raw(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            other => other.canonical(),
        }
    }
}

/// A text as JSON.
pub fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text has a JSON form")
}

/// Moves the point instead of having an exponent, if it is not too far.
fn without_exponent(number: &str) -> String {
    let Some((mantissa, exponent)) = number.split_once(['e', 'E']) else {
        return number.to_owned();
    };
    let Some(exponent) = exponent
        .parse::<i64>()
        .ok()
        .filter(|e| e.abs() <= MAX_EXPONENT)
    else {
        return number.to_owned();
    };
    let (sign, mantissa) = mantissa
        .strip_prefix('-')
        .map_or(("", mantissa), |rest| ("-", rest));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digit = |at: i64| {
        // Digit number `at` of the mantissa, counted from its first; beyond both ends there are zeros.
        let digits = integer.bytes().chain(fraction.bytes());
        usize::try_from(at)
            .ok()
            .and_then(|at| digits.clone().nth(at))
            .map_or('0', char::from)
    };
    let len = i64::try_from(integer.len() + fraction.len()).expect("short");
    let point = i64::try_from(integer.len()).expect("short") + exponent;
    let before: String = (0.min(point)..point).map(digit).collect();
    let after: String = (point..len).map(digit).collect();
    let before = before.trim_start_matches('0');
    let before = if before.is_empty() { "0" } else { before };
    let separator = if after.is_empty() { "" } else { "." };
    format!("{sign}{before}{separator}{after}")
}
