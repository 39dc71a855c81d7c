//! Why a mapping does not compile and why a record cannot be mapped.

use stream_model::ErrorKind;
use stream_model::definition::mapping::{MAX_COLUMNS, MAX_TEMPLATE_LEN};

use crate::mapping::MAX_COLUMN_NAME_LEN;

/// A mapping that cannot be used. Every text says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// There is no column.
    #[error("the mapping has no columns; define 1 to {MAX_COLUMNS}")]
    NoColumns,
    /// There are too many columns.
    #[error("the mapping has {count} columns; define at most {MAX_COLUMNS}")]
    TooManyColumns {
        /// How many.
        count: usize,
    },
    /// A column has no name.
    #[error("column number {position} has no name; give it one")]
    EmptyName {
        /// Counted from 1.
        position: usize,
    },
    /// The name is too long for some target.
    #[error(
        "column {column:?}: the name has {len} bytes; shorten it to at most {MAX_COLUMN_NAME_LEN}"
    )]
    NameTooLong {
        /// The column.
        column: String,
        /// Bytes of the name.
        len: usize,
    },
    /// The name contains a character that no target can store.
    #[error("column {column:?}: the name contains a control character; remove it")]
    NameCharacter {
        /// The column.
        column: String,
    },
    /// Two columns have the same name.
    #[error(
        "column {column:?}: the name is used twice, upper and lower case count as the same; rename one of them"
    )]
    DuplicateName {
        /// The column.
        column: String,
    },
    /// A path is malformed.
    #[error("column {column:?}: path {path:?} is invalid: {reason}")]
    Path {
        /// The column.
        column: String,
        /// The path.
        path: String,
        /// What is wrong and what would be right.
        reason: &'static str,
    },
    /// The template is written in another language.
    #[error("column {column:?}: template language {language:?} is not supported; use \"jsonnet\"")]
    Language {
        /// The column.
        column: String,
        /// The language.
        language: String,
    },
    /// The template is empty or too long.
    #[error("column {column:?}: the template has {len} characters; write 1 to {MAX_TEMPLATE_LEN}")]
    TemplateLength {
        /// The column.
        column: String,
        /// Characters of the template.
        len: usize,
    },
    /// The template is a call with wrong arguments.
    #[error("column {column:?}: the template is invalid: {reason}")]
    Template {
        /// The column.
        column: String,
        /// What is wrong and what would be right.
        reason: &'static str,
    },
    /// Values of that kind never convert to the data type.
    #[error("column {column:?}: its values are never of data type {data_type}; {advice}")]
    DataType {
        /// The column.
        column: String,
        /// The data type.
        data_type: &'static str,
        /// What would be accepted.
        advice: &'static str,
    },
    /// The default does not convert to the data type.
    #[error("column {column:?}: the default is not of data type {data_type}: {expected}")]
    DefaultType {
        /// The column.
        column: String,
        /// The data type.
        data_type: &'static str,
        /// What would be accepted.
        expected: &'static str,
    },
    /// The default is NULL and the column is part of the primary key.
    #[error(
        "column {column:?}: the default is NULL, which a column of the primary key cannot be; set another default or none"
    )]
    NullKeyDefault {
        /// The column.
        column: String,
    },
}

impl CompileError {
    /// What the caller can do about it: correct the definition.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// A record that cannot be mapped. The rows are unchanged.
///
/// The texts go back to the sender. They quote the definition, never the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The path leads nowhere and the column has no default.
    #[error(
        "column {column:?}: the body has no value at path {path:?} and the column has no default"
    )]
    MissingPath {
        /// The column.
        column: String,
        /// The path.
        path: String,
    },
    /// The header was not sent and the template has no default.
    #[error(
        "column {column:?}: the request has no header {header:?} and the template has no default"
    )]
    MissingHeader {
        /// The column.
        column: String,
        /// The header, in canonical spelling.
        header: String,
    },
    /// The column looks into the body, but the content type says neither JSON nor form.
    #[error(
        "column {column:?} takes its value from inside the body; send it as application/json or \
         application/x-www-form-urlencoded"
    )]
    NotStructured {
        /// The first such column.
        column: String,
    },
    /// The body is not what its content type says.
    #[error("the body cannot be read: {message}")]
    MalformedBody {
        /// What is wrong, and where.
        message: String,
    },
    /// The template failed.
    #[error("column {column:?}: the template failed: {message}")]
    Template {
        /// The column.
        column: String,
        /// Where and why, as the evaluator says it.
        message: String,
    },
    /// The template was stopped because it took too long.
    #[error(
        "column {column:?}: the template took longer than {limit_ms} ms for this record and was stopped"
    )]
    TemplateTime {
        /// The column.
        column: String,
        /// The limit, in milliseconds.
        limit_ms: u64,
    },
    /// The evaluator ended under this record, twice.
    #[error(
        "column {column:?}: the template needs more memory for this record than its evaluator may take"
    )]
    TemplateMemory {
        /// The column.
        column: String,
    },
    /// Nobody has evaluated the templates of the mapping for this record. A fault of the service.
    #[error("column {column:?}: the template was not evaluated")]
    NotEvaluated {
        /// The first column with a template.
        column: String,
    },
    /// The value does not convert to the type of the column.
    #[error("column {column:?}: the value is not of data type {data_type}: {expected}")]
    DataType {
        /// The column.
        column: String,
        /// The data type.
        data_type: &'static str,
        /// What would be accepted.
        expected: &'static str,
    },
    /// The value is null and the column is part of the primary key.
    #[error("column {column:?}: the value is null, which a column of the primary key cannot be")]
    NullKey {
        /// The column.
        column: String,
    },
    /// The row exceeds the limit of the rows it is written to.
    #[error("the row is longer than {limit} bytes")]
    RowTooLong {
        /// The limit.
        limit: usize,
    },
}

impl MapError {
    /// The column at fault, when it is a single one.
    #[must_use]
    pub fn column(&self) -> Option<&str> {
        match self {
            Self::MissingPath { column, .. }
            | Self::MissingHeader { column, .. }
            | Self::NotStructured { column }
            | Self::Template { column, .. }
            | Self::TemplateTime { column, .. }
            | Self::TemplateMemory { column }
            | Self::NotEvaluated { column }
            | Self::DataType { column, .. }
            | Self::NullKey { column } => Some(column),
            Self::MalformedBody { .. } | Self::RowTooLong { .. } => None,
        }
    }

    /// What the caller can do about it: send another record.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}
