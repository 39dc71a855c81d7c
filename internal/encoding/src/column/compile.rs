//! Compiling a column: everything that can be checked without a record.

use stream_model::definition::mapping::{self, Column, ColumnKind, DataType, MAX_TEMPLATE_LEN};

use super::typed::{self, Given, Typed};
use super::{CompiledColumn, Failure, Missing, Value};
use crate::canonical::{self, Strings};
use crate::csv::Field;
use crate::error::CompileError;
use crate::path;
use crate::selection::Selection;
use crate::template::{self, Literal, Template, TemplateError};

/// What the columns of a mapping have in common: it is added to while they are compiled.
#[derive(Default)]
pub(crate) struct Shared<'a> {
    /// What they take from inside the body.
    pub selection: Selection,
    /// Names of columns, and their templates that need the interpreter.
    pub templates: Vec<(&'a str, &'a str)>,
}

impl CompiledColumn {
    /// Checks a column and prepares it. What it needs is added to `shared`.
    pub fn compile<'a>(column: &'a Column, shared: &mut Shared<'a>) -> Result<Self, CompileError> {
        let typed = (!column.data_type.is_string()).then_some(Typed {
            data_type: column.data_type,
            nullable: !column.primary_key,
        });
        let compiler = Compiler { column, typed };
        let (value, raw_string) = match &column.kind {
            ColumnKind::Uuid => (Value::Uuid, false),
            ColumnKind::Datetime => (Value::Datetime, false),
            ColumnKind::Ip => (Value::Ip(Strings::Raw), false),
            ColumnKind::Body => (Value::Body(Strings::Raw), false),
            ColumnKind::Headers => (Value::Headers, false),
            ColumnKind::Path {
                path,
                default_value,
                raw_string,
            } => {
                let default = default_value.as_deref();
                (
                    compiler.path(path, default, *raw_string, shared)?,
                    *raw_string,
                )
            }
            ColumnKind::Template {
                template,
                raw_string,
            } => (
                compiler.template(template, *raw_string, shared)?,
                *raw_string,
            ),
        };
        compiler.check_type(&value, raw_string)?;
        Ok(Self {
            name: column.name.as_str().into(),
            value,
            typed,
        })
    }
}

/// Compiles one column.
struct Compiler<'c> {
    column: &'c Column,
    typed: Option<Typed>,
}

impl<'c> Compiler<'c> {
    fn name(&self) -> String {
        self.column.name.clone()
    }

    /// Checks whether such values can be of the data type.
    fn check_type(&self, value: &Value, raw_string: bool) -> Result<(), CompileError> {
        let Some(Typed { data_type, .. }) = self.typed else {
            return Ok(());
        };
        let advice = match (value, data_type) {
            (Value::Uuid | Value::Ip(_), _) => "leave out the data type",
            (Value::Headers, data_type) if data_type != DataType::Json => "use json or string",
            (Value::Datetime, data_type) if data_type != DataType::Timestamp => {
                "use timestamp or string"
            }
            (_, DataType::Json) if raw_string => "leave out rawString, or use string",
            _ => return Ok(()),
        };
        Err(CompileError::DataType {
            column: self.name(),
            data_type: data_type.as_str(),
            advice,
        })
    }

    fn path(
        &self,
        path: &str,
        default: Option<&str>,
        raw_string: bool,
        shared: &mut Shared<'_>,
    ) -> Result<Value, CompileError> {
        let steps = path::parse(path).map_err(|reason| CompileError::Path {
            column: self.name(),
            path: path.to_owned(),
            reason,
        })?;
        let strings = strings(raw_string);
        let missing = match (default, self.typed) {
            (None, _) => Missing::Reject,
            // Nothing else says that a value may be missing.
            (Some(""), Some(typed)) => self.typed_default(typed, Given::Json(b"null"))?,
            (Some(text), Some(typed)) => self.typed_default(typed, Given::Text(text))?,
            (Some(text), None) => {
                let mut json = String::new();
                canonical::push_json_string(&mut json, text);
                default_text(&json, strings)
            }
        };
        Ok(Value::Lookup {
            node: shared.selection.add(&steps),
            path: path.into(),
            missing,
            strings,
        })
    }

    fn template(
        &self,
        template: &'c mapping::Template,
        raw_string: bool,
        shared: &mut Shared<'c>,
    ) -> Result<Value, CompileError> {
        let strings = strings(raw_string);
        if let Some(native) = self.parse(template)? {
            return self.native(native, strings, &mut shared.selection);
        }
        let named = (self.column.name.as_str(), template.content.as_str());
        shared.templates.push(named);
        Ok(Value::Template {
            position: shared.templates.len() - 1,
            strings,
        })
    }

    /// None: it is for the interpreter.
    fn parse(&self, template: &mapping::Template) -> Result<Option<Template>, CompileError> {
        let column = self.name();
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
        match template::parse(&template.content) {
            Ok(native) => Ok(Some(native)),
            Err(TemplateError::Unsupported) => Ok(None),
            Err(TemplateError::Invalid(reason)) => Err(CompileError::Template { column, reason }),
            Err(TemplateError::Path { path, reason }) => Err(CompileError::Path {
                column,
                path,
                reason,
            }),
        }
    }

    fn native(
        &self,
        template: Template,
        strings: Strings,
        selection: &mut Selection,
    ) -> Result<Value, CompileError> {
        let missing = |default: Option<Literal>| match (default, self.typed) {
            (None, _) => Ok(Missing::Reject),
            (Some(Literal(json)), None) => Ok(default_text(&json, strings)),
            (Some(Literal(json)), Some(typed)) => {
                self.typed_default(typed, Given::Json(json.as_bytes()))
            }
        };
        Ok(match template {
            Template::Body {
                path,
                steps,
                default,
            } => Value::Lookup {
                node: selection.add(&steps),
                path: path.into(),
                missing: missing(default)?,
                strings,
            },
            Template::BodyStr => Value::Body(strings),
            Template::Headers => Value::Headers,
            Template::Header { name, default } => Value::Header {
                name,
                missing: missing(default)?,
                strings,
            },
            Template::HeaderStr => Value::HeaderLines(strings),
            Template::Ip => Value::Ip(strings),
            Template::Now(format) => Value::Now(format, strings),
        })
    }

    /// A default, converted.
    fn typed_default(&self, typed: Typed, default: Given<'_>) -> Result<Missing, CompileError> {
        let written = written(|field| typed.write(field, default));
        written.map_err(|failure| match failure {
            Failure::NullKey => CompileError::NullKeyDefault {
                column: self.name(),
            },
            _ => CompileError::DefaultType {
                column: self.name(),
                data_type: typed.data_type.as_str(),
                expected: typed::expected(typed.data_type),
            },
        })
    }
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
    let written = written(|field| {
        canonical::write_value(field, json.as_bytes(), strings).map_err(Failure::from)
    });
    written.unwrap_or_else(|_| unreachable!("there is no limit"))
}

/// What `write` writes, as a default.
fn written(write: impl FnOnce(&mut Field<'_>) -> Result<(), Failure>) -> Result<Missing, Failure> {
    let mut out = Vec::new();
    let mut field = Field::open(&mut out, usize::MAX);
    write(&mut field)?;
    field.close()?;
    let quoted = String::from_utf8(out).expect("text stays text");
    // The column adds the CSV quotes again.
    let text = quoted[1..quoted.len() - 1].replace("\"\"", "\"");
    Ok(Missing::Default(text.into()))
}
