//! One column of a mapping: writing its value. Compiling it is in `compile`, converting values to data types in `typed`.

mod compile;
mod typed;

use std::io::{self, Write as _};
use std::net::IpAddr;

use stream_model::definition::mapping::DataType;

pub(crate) use self::compile::Shared;
use self::typed::{Given, Typed};
use crate::calendar::Civil;
use crate::canonical::{self, Strings};
use crate::csv::{Field, Overflow};
use crate::error::MapError;
use crate::jsonnet::TemplateValues;
use crate::record::{Headers, Record};
use crate::selection::{Found, Selection};
use crate::strftime::Strftime;

/// One column, ready to run.
#[derive(Debug)]
pub(crate) struct CompiledColumn {
    pub name: Box<str>,
    value: Value,
    /// How values become those of a data type; none: they stay texts.
    typed: Option<Typed>,
}

/// Where a value comes from.
#[derive(Debug)]
enum Value {
    Uuid,
    Datetime,
    Ip(Strings),
    Body(Strings),
    Headers,
    HeaderLines(Strings),
    Header {
        name: Box<str>,
        missing: Missing,
        strings: Strings,
    },
    Now(Strftime, Strings),
    Lookup {
        /// The place of the path in the selection of the mapping.
        node: usize,
        path: Box<str>,
        missing: Missing,
        strings: Strings,
    },
    Template {
        /// The place of the template among those of the mapping.
        position: usize,
        strings: Strings,
    },
}

/// What to do about a value that is not there.
#[derive(Debug)]
enum Missing {
    Reject,
    /// The text of the default, as it stands in the column.
    Default(Box<str>),
}

/// What the values of one row are taken from.
pub(crate) struct Input<'a> {
    pub record: &'a Record,
    /// The JSON text in which `found` are positions.
    pub body: &'a [u8],
    pub selection: &'a Selection,
    pub found: &'a Found,
    /// What the templates of the mapping made of the record; none when nobody has evaluated them.
    pub templates: Option<&'a TemplateValues>,
}

impl<'a> Input<'a> {
    /// The value at a node of the selection.
    fn value(&self, node: usize) -> Option<&'a [u8]> {
        self.found.value(self.selection.slot(node)?, self.body)
    }

    /// The JSON that a template made of the record.
    fn template(&self, position: usize) -> Result<&'a [u8], Failure> {
        let value = self.templates.and_then(|values| values.get(position));
        value.ok_or(Failure::NotEvaluated)
    }
}

/// Why a column has no value.
pub(crate) enum Failure {
    TooLong,
    Missing,
    NotEvaluated,
    /// It is not of the data type.
    WrongType(DataType),
    /// It is NULL in a column of the primary key.
    NullKey,
}

impl From<Overflow> for Failure {
    fn from(_: Overflow) -> Self {
        Self::TooLong
    }
}

impl Failure {
    /// The error for the sender. `limit` is that of the rows.
    pub fn at(self, column: &CompiledColumn, limit: usize) -> MapError {
        let name = || column.name.to_string();
        match (self, &column.value) {
            (Self::Missing, Value::Lookup { path, .. }) => MapError::MissingPath {
                column: name(),
                path: path.to_string(),
            },
            (Self::Missing, Value::Header { name: header, .. }) => MapError::MissingHeader {
                column: name(),
                header: header.to_string(),
            },
            (Self::NotEvaluated, _) => MapError::NotEvaluated { column: name() },
            (Self::WrongType(data_type), _) => MapError::DataType {
                column: name(),
                data_type: data_type.as_str(),
                expected: typed::expected(data_type),
            },
            (Self::NullKey, _) => MapError::NullKey { column: name() },
            (Self::TooLong | Self::Missing, _) => MapError::RowTooLong { limit },
        }
    }
}

impl CompiledColumn {
    /// Whether it takes something from inside the body.
    pub fn reads_body_values(&self) -> bool {
        matches!(self.value, Value::Lookup { .. })
    }

    /// Whether it takes something from the headers.
    pub fn reads_headers(&self) -> bool {
        matches!(
            self.value,
            Value::Headers | Value::HeaderLines(_) | Value::Header { .. }
        )
    }

    /// Appends the value for a record.
    pub fn write(
        &self,
        input: &Input<'_>,
        field: &mut Field<'_>,
        ids: &mut dyn FnMut() -> [u8; 10],
    ) -> Result<(), Failure> {
        match &self.typed {
            None => self.write_text(input, field, ids),
            Some(typed) => self.write_typed(input, *typed, field),
        }
    }

    fn write_text(
        &self,
        input: &Input<'_>,
        field: &mut Field<'_>,
        ids: &mut dyn FnMut() -> [u8; 10],
    ) -> Result<(), Failure> {
        let record = input.record;
        match &self.value {
            Value::Uuid => write_uuid(field, record, ids()),
            Value::Datetime => field.plain(&Civil::new(record.received_at).rfc3339()),
            Value::Ip(strings) => write_ip(field, record.client_ip, *strings),
            Value::Body(strings) => {
                canonical::write_text(field, &String::from_utf8_lossy(&record.body), *strings);
            }
            Value::Headers => write_headers(field, &record.headers),
            Value::HeaderLines(strings) => {
                canonical::write_text(field, &header_lines(&record.headers), *strings);
            }
            Value::Header {
                name,
                missing,
                strings,
            } => match record.headers.get(name) {
                Some(value) => canonical::write_text(field, value, *strings),
                None => missing.write(field)?,
            },
            Value::Now(format, strings) => {
                canonical::write_text(field, &format.format(record.received_at), *strings);
            }
            Value::Lookup {
                node,
                missing,
                strings,
                ..
            } => match input.value(*node) {
                Some(value) => canonical::write_value(field, value, *strings)?,
                None => missing.write(field)?,
            },
            Value::Template { position, strings } => {
                let value = input.template(*position)?;
                canonical::write_value(field, value, *strings)?;
            }
        }
        Ok(())
    }

    fn write_typed(
        &self,
        input: &Input<'_>,
        typed: Typed,
        field: &mut Field<'_>,
    ) -> Result<(), Failure> {
        let record = input.record;
        match &self.value {
            Value::Datetime => {
                let text = Civil::new(record.received_at).rfc3339();
                typed.write(field, Given::Text(&String::from_utf8_lossy(&text)))
            }
            Value::Body(_) => {
                typed.write(field, Given::Text(&String::from_utf8_lossy(&record.body)))
            }
            Value::HeaderLines(_) => {
                typed.write(field, Given::Text(&header_lines(&record.headers)))
            }
            Value::Header { name, missing, .. } => match record.headers.get(name) {
                Some(value) => typed.write(field, Given::Text(value)),
                None => missing.write(field),
            },
            Value::Now(format, _) => {
                typed.write(field, Given::Text(&format.format(record.received_at)))
            }
            Value::Lookup { node, missing, .. } => match input.value(*node) {
                Some(value) => typed.write(field, Given::Json(value)),
                None => missing.write(field),
            },
            Value::Template { position, .. } => {
                typed.write(field, Given::Json(input.template(*position)?))
            }
            Value::Headers => {
                // JSON already, and of no other type.
                write_headers(field, &record.headers);
                Ok(())
            }
            // Refused when the column was compiled.
            Value::Uuid | Value::Ip(_) => Err(Failure::WrongType(typed.data_type)),
        }
    }
}

impl Missing {
    fn write(&self, field: &mut Field<'_>) -> Result<(), Failure> {
        match self {
            Self::Reject => Err(Failure::Missing),
            Self::Default(text) => {
                field.text(text.as_bytes());
                Ok(())
            }
        }
    }
}

fn write_uuid(field: &mut Field<'_>, record: &Record, random: [u8; 10]) {
    let millis = u64::try_from(record.received_at.as_millis()).unwrap_or(0);
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    field.plain(id.hyphenated().encode_lower(&mut text).as_bytes());
}

/// The longest text form of an address.
const MAX_IP_LEN: usize = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();

fn write_ip(field: &mut Field<'_>, ip: IpAddr, strings: Strings) {
    // A socket that serves both families shows IPv4 clients as ::ffff:1.2.3.4.
    let mut text = io::Cursor::new([0; MAX_IP_LEN]);
    write!(text, "{}", ip.to_canonical()).expect("an address is not longer");
    let len = usize::try_from(text.position()).unwrap_or(0);
    let text = &text.get_ref()[..len];
    match strings {
        Strings::Raw => field.plain(text),
        Strings::Json => {
            field.quote();
            field.plain(text);
            field.quote();
        }
    }
}

fn write_headers(field: &mut Field<'_>, headers: &Headers) {
    field.byte(b'{');
    for (position, (name, value)) in headers.iter().enumerate() {
        if position > 0 {
            field.byte(b',');
        }
        canonical::write_text(field, name, Strings::Json);
        field.byte(b':');
        canonical::write_text(field, value, Strings::Json);
    }
    field.byte(b'}');
}

/// `Name: value`, each with its line end.
pub(crate) fn header_lines(headers: &Headers) -> String {
    let mut lines = String::new();
    for (name, value) in headers.iter() {
        for part in [name, ": ", value, "\n"] {
            lines.push_str(part);
        }
    }
    lines
}
