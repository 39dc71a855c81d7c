//! From a record to a row.
//!
//! A mapping is compiled once per version of its sink and shared by all threads. Compiling checks everything that can
//! be checked without a record, so that mapping a record can fail for reasons of the record only.
//!
//! What a column yields, where the definition leaves it open:
//!
//! * A value from inside the body is written as JSON in canonical form (see [`crate::canonical`]). With `rawString` a
//!   value that is a string is written as its text; all others, `null` included, stay JSON.
//! * The default of a path column is a string: written as JSON, or as its text with `rawString`. It stands in for a
//!   value that is not there. A `null` that is there is a value.
//! * The literal default of a template is treated like a value from the body.
//! * With a data type the value is converted, or the record refused; `null` is NULL, an empty value (see
//!   [`stream_model::definition::mapping::DataType`]).
//! * A body that cannot have an inside (neither JSON nor a form), or that is not what its content type says, is refused
//!   even when every column has a default: a default is for an optional member, not for a broken sender.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use stream_model::definition::mapping::{Column, MAX_COLUMNS, Mapping};

use crate::column::{CompiledColumn, Failure, Input, Shared};
use crate::csv::Field;
use crate::error::{CompileError, MapError};
use crate::form;
use crate::jsonnet::{TemplateValues, Templates};
use crate::record::{ContentType, Record};
use crate::row::Rows;
use crate::scan;
use crate::selection::{Found, Selection};

/// The most bytes of a column name: what PostgreSQL keeps of one. The other targets take more.
pub const MAX_COLUMN_NAME_LEN: usize = 63;

/// The columns of a sink, ready to run.
#[derive(Debug)]
pub struct CompiledMapping {
    columns: Box<[CompiledColumn]>,
    /// What the columns take from inside the body.
    selection: Selection,
    /// The first column that takes something from inside the body.
    first_lookup: Option<usize>,
    needs_headers: bool,
    /// What needs the interpreter.
    templates: Option<Arc<Templates>>,
}

impl CompiledMapping {
    /// Checks a mapping and prepares it.
    ///
    /// Column names: 1 to [`MAX_COLUMN_NAME_LEN`] bytes without control characters; no two may be equal, regardless of
    /// the case of ASCII letters, because SQLite and others fold it.
    ///
    /// # Errors
    /// The first mistake, with its column and what to do about it.
    pub fn compile(mapping: &Mapping) -> Result<Self, CompileError> {
        match mapping.columns.len() {
            0 => return Err(CompileError::NoColumns),
            count if count > MAX_COLUMNS => return Err(CompileError::TooManyColumns { count }),
            _ => {}
        }
        check_names(&mapping.columns)?;
        let mut shared = Shared::default();
        let columns: Box<[CompiledColumn]> = (mapping.columns.iter())
            .map(|column| CompiledColumn::compile(column, &mut shared))
            .collect::<Result<_, _>>()?;
        let Shared {
            mut selection,
            templates,
        } = shared;
        selection.finish();
        // A function can be called by no other name, so a text without it does not call it.
        let call_header = templates
            .iter()
            .any(|(_, content)| content.contains("Header"));
        Ok(Self {
            first_lookup: columns.iter().position(CompiledColumn::reads_body_values),
            needs_headers: call_header || columns.iter().any(CompiledColumn::reads_headers),
            columns,
            selection,
            templates: Templates::new(templates),
        })
    }

    /// The templates that need the interpreter; none: the mapping is done without.
    #[must_use]
    pub fn templates(&self) -> Option<&Arc<Templates>> {
        self.templates.as_ref()
    }

    /// Number of columns.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Whether any column reads the headers. If not, [`Record::headers`] may as well be empty.
    #[must_use]
    pub fn needs_headers(&self) -> bool {
        self.needs_headers
    }

    /// Appends the row of a record to `rows`. `ids` yields the random bytes of each UUID column. For mappings without
    /// [`Self::templates`].
    ///
    /// A body that is JSON by its content type is checked only if some column looks into it; a `body` column takes it
    /// as it is. Everywhere, bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// When the record has not what a column asks for. `rows` is unchanged then.
    pub fn map(
        &self,
        record: &Record,
        rows: &mut Rows,
        ids: &mut dyn FnMut() -> [u8; 10],
    ) -> Result<(), MapError> {
        self.map_with(record, None, rows, ids)
    }

    /// The same with what [`Self::templates`] made of the record.
    ///
    /// # Errors
    /// As [`Self::map`]; [`MapError::NotEvaluated`] when the values are missing.
    pub fn map_with(
        &self,
        record: &Record,
        templates: Option<&TemplateValues>,
        rows: &mut Rows,
        ids: &mut dyn FnMut() -> [u8; 10],
    ) -> Result<(), MapError> {
        let mut found = Found::new();
        let body = self.look_into(record, &mut found)?;
        let mark = rows.mark();
        let input = Input {
            record,
            body: &body,
            selection: &self.selection,
            found: &found,
            templates,
        };
        let result = self.write_row(&input, rows, ids);
        match result {
            Ok(()) => rows.finish_row(),
            Err(_) => rows.truncate(mark),
        }
        result
    }

    /// Finds what the columns want from inside the body. Returns the JSON text in which it was found.
    fn look_into<'a>(
        &self,
        record: &'a Record,
        found: &mut Found,
    ) -> Result<Cow<'a, [u8]>, MapError> {
        let Some(first) = self.first_lookup else {
            return Ok(Cow::Borrowed(&[]));
        };
        let json = match record.content_type {
            ContentType::Json => Cow::Borrowed(&record.body[..]),
            ContentType::Form => {
                let json = form::to_json(&record.body).map_err(malformed)?;
                Cow::Owned(json.into_bytes())
            }
            ContentType::Other => {
                let column = self.columns[first].name.to_string();
                return Err(MapError::NotStructured { column });
            }
        };
        scan::scan(&json, &self.selection, found).map_err(malformed)?;
        Ok(json)
    }

    fn write_row(
        &self,
        input: &Input<'_>,
        rows: &mut Rows,
        ids: &mut dyn FnMut() -> [u8; 10],
    ) -> Result<(), MapError> {
        let row_limit = rows.row_limit();
        let limit = rows.len() + row_limit;
        let out = rows.buffer();
        for (position, column) in self.columns.iter().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            let mut field = Field::open(out, limit);
            column
                .write(input, &mut field, ids)
                .and_then(|()| field.close().map_err(Failure::from))
                .map_err(|failure| failure.at(column, row_limit))?;
        }
        out.push(b'\n');
        if out.len() > limit {
            return Err(MapError::RowTooLong { limit: row_limit });
        }
        Ok(())
    }
}

fn malformed(reason: impl std::fmt::Display) -> MapError {
    MapError::MalformedBody {
        message: reason.to_string(),
    }
}

fn check_names(columns: &[Column]) -> Result<(), CompileError> {
    let mut seen = HashSet::with_capacity(columns.len());
    for (position, Column { name, .. }) in columns.iter().enumerate() {
        let column = || name.clone();
        if name.is_empty() {
            return Err(CompileError::EmptyName {
                position: position + 1,
            });
        }
        if name.len() > MAX_COLUMN_NAME_LEN {
            return Err(CompileError::NameTooLong {
                column: column(),
                len: name.len(),
            });
        }
        if name.chars().any(char::is_control) {
            return Err(CompileError::NameCharacter { column: column() });
        }
        if !seen.insert(name.to_ascii_lowercase()) {
            return Err(CompileError::DuplicateName { column: column() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
