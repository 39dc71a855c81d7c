//! One column of a mapping: compiling it, and writing its value.

use std::io::{self, Write as _};
use std::net::IpAddr;

use stream_model::definition::mapping::{Column, ColumnKind, MAX_TEMPLATE_LEN};

use crate::calendar::Civil;
use crate::canonical::{self, Strings};
use crate::csv::{Field, Overflow};
use crate::error::{CompileError, MapError};
use crate::path;
use crate::record::{Headers, Record};
use crate::selection::{Found, Selection};
use crate::strftime::Strftime;
use crate::template::{self, Literal, Template, TemplateError};

/// One column, ready to run.
#[derive(Debug)]
pub(crate) struct CompiledColumn {
    pub name: Box<str>,
    value: Value,
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
}

impl<'a> Input<'a> {
    /// The value at a node of the selection.
    fn value(&self, node: usize) -> Option<&'a [u8]> {
        self.found.value(self.selection.slot(node)?, self.body)
    }
}

/// Why a column has no value.
pub(crate) enum Failure {
    TooLong,
    Missing,
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
            _ => MapError::RowTooLong { limit },
        }
    }
}

impl CompiledColumn {
    /// Checks a column and prepares it. What it takes from inside the body is added to `selection`.
    pub fn compile(column: &Column, selection: &mut Selection) -> Result<Self, CompileError> {
        let value = compile_value(column, selection)?;
        Ok(Self {
            name: column.name.as_str().into(),
            value,
        })
    }

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
        }
        Ok(())
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
fn header_lines(headers: &Headers) -> String {
    let mut lines = String::new();
    for (name, value) in headers.iter() {
        for part in [name, ": ", value, "\n"] {
            lines.push_str(part);
        }
    }
    lines
}

fn compile_value(column: &Column, selection: &mut Selection) -> Result<Value, CompileError> {
    Ok(match &column.kind {
        ColumnKind::Uuid => Value::Uuid,
        ColumnKind::Datetime => Value::Datetime,
        ColumnKind::Ip => Value::Ip(Strings::Raw),
        ColumnKind::Body => Value::Body(Strings::Raw),
        ColumnKind::Headers => Value::Headers,
        ColumnKind::Path {
            path,
            default_value,
            raw_string,
        } => {
            let steps = path::parse(path).map_err(|reason| CompileError::Path {
                column: column.name.clone(),
                path: path.clone(),
                reason,
            })?;
            let strings = strings(*raw_string);
            let missing = match default_value {
                None => Missing::Reject,
                Some(text) => {
                    let mut json = String::new();
                    canonical::push_json_string(&mut json, text);
                    default_text(&json, strings)
                }
            };
            Value::Lookup {
                node: selection.add(&steps),
                path: path.as_str().into(),
                missing,
                strings,
            }
        }
        ColumnKind::Template {
            template,
            raw_string,
        } => {
            let parsed = parse_template(&column.name, template)?;
            template_value(parsed, strings(*raw_string), selection)
        }
    })
}

fn strings(raw_string: bool) -> Strings {
    if raw_string {
        Strings::Raw
    } else {
        Strings::Json
    }
}

/// A default given as JSON, the way a value from the body would be written.
fn default_text(json: &str, strings: Strings) -> Missing {
    let mut out = Vec::new();
    let mut field = Field::open(&mut out, usize::MAX);
    let written = canonical::write_value(&mut field, json.as_bytes(), strings);
    written
        .and_then(|()| field.close())
        .expect("there is no limit");
    let quoted = String::from_utf8(out).expect("text stays text");
    // The column adds the CSV quotes again.
    Missing::Default(quoted[1..quoted.len() - 1].replace("\"\"", "\"").into())
}

fn parse_template(
    column: &str,
    template: &stream_model::definition::mapping::Template,
) -> Result<Template, CompileError> {
    let column = column.to_owned();
    if template.language != "jsonnet" {
        return Err(CompileError::Language {
            column,
            language: template.language.clone(),
        });
    }
    let len = template.content.chars().count();
    if !(1..=MAX_TEMPLATE_LEN).contains(&len) {
        return Err(CompileError::TemplateLength { column, len });
    }
    template::parse(&template.content).map_err(|error| match error {
        TemplateError::Unsupported => CompileError::UnsupportedTemplate { column },
        TemplateError::UnknownFunction(function) => {
            CompileError::UnknownFunction { column, function }
        }
        TemplateError::Invalid(reason) => CompileError::Template { column, reason },
        TemplateError::Path { path, reason } => CompileError::Path {
            column,
            path,
            reason,
        },
    })
}

fn template_value(template: Template, strings: Strings, selection: &mut Selection) -> Value {
    let missing = |default: Option<Literal>| match default {
        None => Missing::Reject,
        Some(Literal(json)) => default_text(&json, strings),
    };
    match template {
        Template::Body {
            path,
            steps,
            default,
        } => Value::Lookup {
            node: selection.add(&steps),
            path: path.into(),
            missing: missing(default),
            strings,
        },
        Template::BodyStr => Value::Body(strings),
        Template::Headers => Value::Headers,
        Template::Header { name, default } => Value::Header {
            name,
            missing: missing(default),
            strings,
        },
        Template::HeaderStr => Value::HeaderLines(strings),
        Template::Ip => Value::Ip(strings),
        Template::Now(format) => Value::Now(format, strings),
    }
}
