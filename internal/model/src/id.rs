//! Identifiers. Each is its own type, so that a slice cannot be passed where a file is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::time::Timestamp;

/// An identifier that does not have the required form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {value:?} is not valid: {rule}")]
pub struct InvalidId {
    /// What the identifier names, for example `source id`.
    pub kind: &'static str,
    /// The refused text.
    pub value: String,
    /// The rule it breaks, as a sentence fragment.
    pub rule: &'static str,
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.parse().map(Self).map_err(|_| InvalidId {
                    kind: $kind,
                    value: text.to_owned(),
                    rule: "it must be a whole number from 0 to 18446744073709551615",
                })
            }
        }
    };
}

number_id!(
    /// A project: the unit of tenancy. Standalone installations have only project 1.
    ProjectId,
    "project id"
);
number_id!(
    /// A branch of a project. Standalone installations have only branch 1, also called `default`.
    BranchId,
    "branch id"
);

macro_rules! name_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text of the identifier.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                check_name($kind, &text)?;
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.to_owned().try_into()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

name_id!(
    /// A source within its branch: 1–48 characters out of `a-z`, `A-Z`, `0-9`, `-` and `_`.
    SourceId,
    "source id"
);
name_id!(
    /// A sink within its source: the same form as [`SourceId`].
    SinkId,
    "sink id"
);

/// The longest accepted source or sink identifier, in characters.
pub const MAX_NAME_ID_LEN: usize = 48;

fn check_name(kind: &'static str, text: &str) -> Result<(), InvalidId> {
    let refuse = |rule| {
        Err(InvalidId {
            kind,
            value: text.to_owned(),
            rule,
        })
    };
    if text.is_empty() || text.len() > MAX_NAME_ID_LEN {
        return refuse("it must have 1 to 48 characters");
    }
    // A slash would end a segment of an etcd key and of a URL path, so the set is a short list of safe characters.
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    {
        return refuse("it may contain only letters without accents, digits, '-' and '_'");
    }
    Ok(())
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// Makes an identifier that sorts by `at`, then by `random`.
            #[must_use]
            pub fn new(at: Timestamp, random: [u8; 10]) -> Self {
                let millis = u64::try_from(at.as_millis()).unwrap_or(0);
                Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
            }

            /// The 16 bytes used in binary formats.
            #[must_use]
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// Reads the 16 bytes used in binary formats. Any 16 bytes are an identifier.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.simple().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0.simple())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId {
                    kind: $kind,
                    value: text.to_owned(),
                    rule: "it must have 32 hexadecimal digits",
                })
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    };
}

uuid_id!(
    /// A volume: one directory on one disk. Generated when the directory is first opened and kept in its `volume-id`.
    VolumeId,
    "volume id"
);
uuid_id!(
    /// A file: the set of slices that is imported in one transaction. Sorts by the time it was opened.
    FileId,
    "file id"
);

impl FileId {
    /// The file of a slice that is never imported: none.
    #[must_use]
    pub fn none() -> Self {
        Self(Uuid::nil())
    }
}

uuid_id!(
    /// A slice: an append-only sequence of frames on one volume. Sorts by the time it was opened.
    SliceId,
    "slice id"
);

/// A run of one http-source process. Random, so that two processes, or one before and after a restart, never share it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

impl FromStr for SessionId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| InvalidId {
                kind: "session id",
                value: text.to_owned(),
                rule: "it must have 16 hexadecimal digits",
            })
    }
}

impl TryFrom<String> for SessionId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> String {
        id.to_string()
    }
}

/// A node: one machine or pod, named by its operator (`nodeID`). 1–253 characters, no `/`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// The text of the identifier.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        let valid = (1..=253).contains(&text.len()) && !text.contains(['/', '\0']);
        if !valid {
            return Err(InvalidId {
                kind: "node id",
                value: text,
                rule: "it must have 1 to 253 characters and no '/'",
            });
        }
        Ok(Self(text))
    }
}

impl FromStr for NodeId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.to_owned().try_into()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> String {
        id.0
    }
}

/// Derives a source or sink identifier from a display name: camel case is split, accents are stripped, whatever is not
/// alphanumeric becomes `-`, and the result is lower case and at most 48 characters long.
///
/// # Errors
/// When nothing usable is left, for example for a name of only punctuation.
pub fn derive_name_id(kind: &'static str, name: &str) -> Result<String, InvalidId> {
    let mut id = String::new();
    let mut previous: Option<char> = None;
    for c in name.chars().flat_map(strip_accent) {
        if c.is_ascii_alphanumeric() {
            let starts_word = c.is_ascii_uppercase()
                && previous.is_some_and(|p| p.is_ascii_lowercase() || p.is_ascii_digit());
            if starts_word && !id.ends_with('-') {
                id.push('-');
            }
            id.push(c.to_ascii_lowercase());
        } else if !id.is_empty() && !id.ends_with('-') {
            id.push('-');
        }
        previous = Some(c);
    }
    id.truncate(MAX_NAME_ID_LEN);
    let id = id.trim_end_matches('-').to_owned();
    if id.is_empty() {
        return Err(InvalidId {
            kind,
            value: name.to_owned(),
            rule: "no identifier can be derived from this name; give one explicitly",
        });
    }
    Ok(id)
}

/// Latin letters with the common accents, reduced to their base letter; everything else as it is.
fn strip_accent(c: char) -> impl Iterator<Item = char> {
    const TABLE: &[(&str, &str)] = &[
        ("àáâãäåāăą", "a"),
        ("ÀÁÂÃÄÅĀĂĄ", "A"),
        ("çćĉċč", "c"),
        ("ÇĆĈĊČ", "C"),
        ("ďđ", "d"),
        ("ĎĐ", "D"),
        ("èéêëēĕėęě", "e"),
        ("ÈÉÊËĒĔĖĘĚ", "E"),
        ("ĝğġģ", "g"),
        ("ĜĞĠĢ", "G"),
        ("ĥħ", "h"),
        ("ĤĦ", "H"),
        ("ìíîïĩīĭįı", "i"),
        ("ÌÍÎÏĨĪĬĮİ", "I"),
        ("ĵ", "j"),
        ("Ĵ", "J"),
        ("ķ", "k"),
        ("Ķ", "K"),
        ("ĺļľł", "l"),
        ("ĹĻĽŁ", "L"),
        ("ñńņň", "n"),
        ("ÑŃŅŇ", "N"),
        ("òóôõöøōŏő", "o"),
        ("ÒÓÔÕÖØŌŎŐ", "O"),
        ("ŕŗř", "r"),
        ("ŔŖŘ", "R"),
        ("śŝşšș", "s"),
        ("ŚŜŞŠȘ", "S"),
        ("ţťŧț", "t"),
        ("ŢŤŦȚ", "T"),
        ("ùúûüũūŭůűų", "u"),
        ("ÙÚÛÜŨŪŬŮŰŲ", "U"),
        ("ŵ", "w"),
        ("Ŵ", "W"),
        ("ýÿŷ", "y"),
        ("ÝŸŶ", "Y"),
        ("źżž", "z"),
        ("ŹŻŽ", "Z"),
        ("ß", "ss"),
        ("æ", "ae"),
        ("œ", "oe"),
    ];
    let base = TABLE
        .iter()
        .find(|(accented, _)| accented.contains(c))
        .map(|(_, base)| *base);
    let original = if base.is_none() { Some(c) } else { None };
    base.unwrap_or("").chars().chain(original)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derives_identifier_from_display_name() {
        for (name, id) in [
            ("My Source", "my-source"),
            ("myWebhookSource", "my-webhook-source"),
            ("Příliš žluťoučký kůň", "prilis-zlutoucky-kun"),
            ("  --Orders!!2024--  ", "orders-2024"),
            ("HTTPServer", "httpserver"),
        ] {
            assert_eq!(derive_name_id("source id", name).expect(name), id);
        }
        assert!(derive_name_id("source id", "!!!").is_err());
        assert_eq!(
            derive_name_id("source id", &"a".repeat(60))
                .expect("long")
                .len(),
            48
        );
    }

    #[test]
    fn refuses_identifiers_that_would_break_a_key_or_a_path() {
        for text in ["", "a/b", "a b", "é", &"a".repeat(49), "..", "a\0"] {
            assert!(text.parse::<SourceId>().is_err(), "{text:?}");
        }
        assert!("my_source-1".parse::<SourceId>().is_ok());
    }

    #[test]
    fn slice_ids_sort_by_time_and_survive_text() {
        let early = SliceId::new(Timestamp::from_millis(1_000), [255; 10]);
        let late = SliceId::new(Timestamp::from_millis(1_001), [0; 10]);
        assert!(early < late);
        assert!(early.to_string() < late.to_string());
        assert_eq!(early.to_string().parse::<SliceId>(), Ok(early));
        assert_eq!(SliceId::from_bytes(late.to_bytes()), late);
    }

    #[test]
    fn session_keeps_leading_zeroes() {
        assert_eq!(SessionId(1).to_string(), "0000000000000001");
        assert_eq!("0000000000000001".parse::<SessionId>(), Ok(SessionId(1)));
    }
}
