//! The JSON of nouns that belong to other crates, for the description of the API: `#[schemars(with = "shape::Stamp")]`.
//!
//! The model knows nothing of schemas. What is served comes from the model all the same, and the tests hold every answer
//! against these shapes, so neither can change without the other.

#![allow(dead_code, reason = "they are never made, only their schemas are used")]

use std::collections::BTreeMap;

use schemars::JsonSchema;

/// A time: RFC 3339, UTC, milliseconds.
#[derive(JsonSchema)]
#[schemars(
    transparent,
    extend("format" = "date-time", "examples" = ["2026-01-01T00:00:00.000Z"])
)]
pub(crate) struct Timestamp(String);

/// Who did something.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", tag = "type")]
pub(crate) enum Actor {
    /// The service itself.
    System,
    /// The holder of a token.
    #[schemars(rename_all = "camelCase")]
    User {
        /// Identifier of the token, not the token.
        token_id: String,
        /// Description of the token.
        token_desc: String,
        /// Identifier of the person, where it is known.
        #[schemars(skip_serializing_if = "Option::is_none")]
        user_id: Option<String>,
        /// Name of the person, where it is known.
        #[schemars(skip_serializing_if = "Option::is_none")]
        user_name: Option<String>,
    },
}

/// When something was done, and by whom.
#[derive(JsonSchema)]
pub(crate) struct Stamp {
    at: Timestamp,
    by: Actor,
}

/// A version of a source or sink.
#[derive(JsonSchema)]
pub(crate) struct Version {
    /// Counts from 1 without gaps.
    number: u64,
    /// 16 hexadecimal digits over the content: equal content has equal digits.
    #[schemars(regex(pattern = "^[0-9a-f]{16}$"))]
    hash: String,
    /// What changed.
    description: String,
    at: Timestamp,
    by: Actor,
}

/// The table of a sink.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(crate) struct Table {
    /// The kind of the target.
    #[schemars(rename = "type")]
    kind: TableKind,
    /// The name of the table in its target.
    table_id: String,
    mapping: Mapping,
}

/// The kind of a target.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub(crate) enum TableKind {
    Sqlite,
    Postgres,
    Keboola,
}

/// Where the values of the table's columns come from.
#[derive(JsonSchema)]
pub(crate) struct Mapping {
    columns: Vec<Column>,
}

/// A column of a table.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(crate) struct Column {
    #[schemars(flatten)]
    kind: ColumnKind,
    /// The name of the column in the table.
    name: String,
    /// Shown when true: part of the primary key.
    #[schemars(skip_serializing_if = "std::ops::Not::not")]
    primary_key: bool,
    /// Shown unless `string`.
    #[schemars(skip_serializing_if = "Option::is_none")]
    data_type: Option<DataType>,
}

/// Where a value comes from.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", tag = "type")]
pub(crate) enum ColumnKind {
    /// A new UUID of version 7.
    Uuid,
    /// The time of arrival.
    Datetime,
    /// The address of the client.
    Ip,
    /// The body as it came.
    Body,
    /// The headers as a JSON object.
    Headers,
    /// A value inside the body.
    #[schemars(rename_all = "camelCase")]
    Path {
        /// For example `customer.emails[0]`; empty: the whole body.
        path: String,
        /// Stands in for a value that is not there. Without it such a record is rejected.
        #[schemars(skip_serializing_if = "Option::is_none")]
        default_value: Option<String>,
        /// Shown when true: texts are written without quotes.
        #[schemars(skip_serializing_if = "std::ops::Not::not")]
        raw_string: bool,
    },
    /// The result of a template.
    #[schemars(rename_all = "camelCase")]
    Template {
        template: Template,
        /// Shown when true: texts are written without quotes.
        #[schemars(skip_serializing_if = "std::ops::Not::not")]
        raw_string: bool,
    },
}

/// A Jsonnet text that makes a value of a record.
#[derive(JsonSchema)]
pub(crate) struct Template {
    #[schemars(extend("enum" = ["jsonnet"]))]
    language: String,
    content: String,
}

/// What the values of a column are in the table.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub(crate) enum DataType {
    String,
    Int,
    Float,
    Bool,
    Timestamp,
    Json,
}

/// The compression of a slice.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", tag = "type")]
pub(crate) enum Compression {
    /// Plain CSV.
    None,
    /// gzip.
    Gzip {
        /// 1 (fast) to 9 (small).
        level: u8,
    },
    /// zstd.
    Zstd {
        /// 1 (fast) to 19 (small).
        level: u8,
    },
}

/// What a task was about.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(crate) struct Outputs {
    /// Where the changed thing is found.
    #[schemars(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[schemars(skip_serializing_if = "Option::is_none")]
    project_id: Option<u64>,
    #[schemars(skip_serializing_if = "Option::is_none")]
    branch_id: Option<u64>,
    #[schemars(skip_serializing_if = "Option::is_none")]
    source_id: Option<String>,
    #[schemars(skip_serializing_if = "Option::is_none")]
    sink_id: Option<String>,
    /// Rows that a purge has discarded.
    #[schemars(skip_serializing_if = "Option::is_none")]
    discarded_rows: Option<u64>,
    /// Rejected records that a purge has discarded.
    #[schemars(skip_serializing_if = "Option::is_none")]
    discarded_rejects: Option<u64>,
    /// Slices that a purge has discarded without knowing what they hold.
    #[schemars(skip_serializing_if = "Option::is_none")]
    uncounted_slices: Option<u64>,
}

/// A running component.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase")]
pub(crate) struct NodeRegistration {
    /// The version of the service.
    version: String,
    /// When the process started.
    started_at: Timestamp,
    /// Where it can be reached, by the name of the listener; under `host` the name of its machine.
    addresses: BTreeMap<String, String>,
}
