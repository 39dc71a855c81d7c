//! What the columns of a sink must hold for a record, computed from the record's own structure.

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use crate::table::Row;
use crate::webhook::{Record, Step, quoted};

/// How a string is written into a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strings {
    /// The text itself: `rawString` is true.
    Raw,
    /// As JSON, with its quotes.
    Json,
}

/// Where the value of a column comes from.
#[derive(Debug, Clone)]
enum Origin {
    Uuid,
    Datetime,
    Ip(Strings),
    Body,
    Headers,
    Value {
        steps: &'static [Step],
        default: Option<String>,
        strings: Strings,
    },
    Header {
        name: &'static str,
        default: Option<String>,
        strings: Strings,
    },
}

/// A column: how it is defined through the API, and what it must hold.
#[derive(Debug, Clone)]
pub struct Column {
    name: &'static str,
    definition: Value,
    origin: Origin,
}

impl Column {
    /// A column of one of the types without settings: `uuid`, `datetime`, `ip`, `body`, `headers`.
    ///
    /// # Panics
    /// When there is no such type.
    #[must_use]
    pub fn plain(kind: &'static str) -> Self {
        let origin = match kind {
            "uuid" => Origin::Uuid,
            "datetime" => Origin::Datetime,
            "ip" => Origin::Ip(Strings::Raw),
            "body" => Origin::Body,
            "headers" => Origin::Headers,
            other => panic!("{other} is no type of a column without settings"),
        };
        Self {
            name: kind,
            definition: json!({"name": kind, "type": kind}),
            origin,
        }
    }

    /// A path column. `path` and `steps` say the same in two languages.
    #[must_use]
    pub fn path(
        name: &'static str,
        path: &str,
        steps: &'static [Step],
        default: Option<&str>,
        strings: Strings,
    ) -> Self {
        let mut definition = json!({"name": name, "type": "path", "path": path, "rawString": strings == Strings::Raw});
        if let Some(text) = default {
            definition["defaultValue"] = text.into();
        }
        let default = default.map(|text| strings.of(text));
        Self {
            name,
            definition,
            origin: Origin::Value {
                steps,
                default,
                strings,
            },
        }
    }

    /// A template column that takes a value of the body. `default` is what the column holds when there is none.
    #[must_use]
    pub fn body_template(
        name: &'static str,
        template: &str,
        steps: &'static [Step],
        default: Option<&str>,
        strings: Strings,
    ) -> Self {
        let default = default.map(str::to_owned);
        Self::template(
            name,
            template,
            strings,
            Origin::Value {
                steps,
                default,
                strings,
            },
        )
    }

    /// A template column that takes a header. `default` is what the column holds when there is none.
    #[must_use]
    pub fn header_template(
        name: &'static str,
        template: &str,
        header: &'static str,
        default: Option<&str>,
        strings: Strings,
    ) -> Self {
        let default = default.map(str::to_owned);
        Self::template(
            name,
            template,
            strings,
            Origin::Header {
                name: header,
                default,
                strings,
            },
        )
    }

    /// A template column with the address of the client.
    #[must_use]
    pub fn ip_template(name: &'static str, strings: Strings) -> Self {
        Self::template(name, "Ip()", strings, Origin::Ip(strings))
    }

    fn template(name: &'static str, content: &str, strings: Strings, origin: Origin) -> Self {
        let template = json!({"language": "jsonnet", "content": content});
        let raw = strings == Strings::Raw;
        let definition =
            json!({"name": name, "type": "template", "template": template, "rawString": raw});
        Self {
            name,
            definition,
            origin,
        }
    }

    /// The column as a part of the primary key.
    #[must_use]
    pub fn primary_key(mut self) -> Self {
        self.definition["primaryKey"] = true.into();
        self
    }

    /// Its definition for the API.
    #[must_use]
    pub const fn definition(&self) -> &Value {
        &self.definition
    }

    /// What it must hold, when that is known beforehand.
    #[must_use]
    pub fn expected(&self, record: &Record) -> Option<String> {
        match &self.origin {
            Origin::Uuid | Origin::Datetime => None,
            Origin::Ip(strings) => Some(strings.of("127.0.0.1")),
            Origin::Body => Some(String::from_utf8_lossy(&record.body).into_owned()),
            Origin::Headers => Some(headers(record)),
            Origin::Value {
                steps,
                default,
                strings,
            } => match record.at(steps) {
                Some(crate::webhook::Json::Text(text)) => Some(strings.of(text)),
                Some(value) => Some(value.written()),
                None => default.clone(),
            },
            Origin::Header {
                name,
                default,
                strings,
            } => record
                .header(name)
                .map(|value| strings.of(value))
                .or_else(|| default.clone()),
        }
    }

    fn check(&self, record: &Record, row: &Row) -> anyhow::Result<()> {
        let value = row.value(self.name)?;
        match (&self.origin, self.expected(record)) {
            (Origin::Uuid, _) => ensure!(is_uuid_v7(value), "{value:?} is no UUID of version 7"),
            (Origin::Datetime, _) => ensure!(is_time(value), "{value:?} is no time"),
            (_, Some(expected)) => ensure!(
                value == expected,
                "column {} is {:?} and must be {:?}",
                self.name,
                shortened(value),
                shortened(&expected)
            ),
            (_, None) => bail!(
                "column {} has no value for this record: it must be refused",
                self.name
            ),
        }
        Ok(())
    }
}

impl Strings {
    fn of(self, text: &str) -> String {
        match self {
            Self::Raw => text.to_owned(),
            Self::Json => quoted(text),
        }
    }
}

/// Compares a row with what it must be for a record.
///
/// # Errors
/// The first difference.
pub fn check(columns: &[Column], record: &Record, row: &Row) -> anyhow::Result<()> {
    ensure!(
        row.columns() == columns.len(),
        "the table has {} columns",
        row.columns()
    );
    columns
        .iter()
        .try_for_each(|column| column.check(record, row))
}

fn headers(record: &Record) -> String {
    let members: Vec<String> = record
        .headers
        .iter()
        .map(|(name, value)| format!("{}:{}", quoted(name), quoted(value)))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// `0199c0de-0000-7abc-8def-0123456789ab`
fn is_uuid_v7(text: &str) -> bool {
    has_pattern(text, "xxxxxxxx-xxxx-7xxx-vxxx-xxxxxxxxxxxx")
}

/// `2026-01-02T03:04:05.678Z`
fn is_time(text: &str) -> bool {
    has_pattern(text, "dddd-dd-ddTdd:dd:dd.dddZ")
}

fn has_pattern(text: &str, pattern: &str) -> bool {
    let fits = |(c, p): (char, char)| match p {
        'x' => c.is_ascii_digit() || ('a'..='f').contains(&c),
        'v' => matches!(c, '8' | '9' | 'a' | 'b'),
        'd' => c.is_ascii_digit(),
        other => c == other,
    };
    text.len() == pattern.len() && text.chars().zip(pattern.chars()).all(fits)
}

fn shortened(text: &str) -> String {
    const MOST: usize = 600;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_tell_ids_and_times_from_other_texts() {
        assert!(is_uuid_v7("0199c0de-0000-7abc-8def-0123456789ab"));
        assert!(!is_uuid_v7("0199c0de-0000-4abc-8def-0123456789ab"));
        assert!(is_time("2026-01-02T03:04:05.678Z"));
        assert!(!is_time("2026-01-02T03:04:05Z"));
        assert!(!is_time("2026-01-02T03:04:05.67é"));
    }

    #[test]
    fn headers_are_an_object_sorted_by_name() {
        let record = Record::new(1, 42, 3);
        let parsed: serde_json::Value =
            serde_json::from_str(&headers(&record)).expect("it is JSON");
        let names: Vec<_> = parsed
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect();
        assert!(names.is_sorted(), "{names:?}");
        assert_eq!(parsed["X-Record-Id"], "42");
    }
}
