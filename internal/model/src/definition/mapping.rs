//! How a record becomes a row: the columns of a table and where each value comes from.
//!
//! This is the definition as users write it. Compiling it (parsing paths and templates, checking them) belongs to the
//! `encoding` crate.

use serde::{Deserialize, Serialize};

/// The most columns of one sink.
pub const MAX_COLUMNS: usize = 100;
/// The most characters of a template.
pub const MAX_TEMPLATE_LEN: usize = 4096;

/// The columns of a table, in table order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// 1 to [`MAX_COLUMNS`] columns.
    pub columns: Vec<Column>,
}

impl Mapping {
    /// The names of the columns that form the primary key, in table order. Empty: the table has none, rows are appended.
    pub fn primary_key(&self) -> impl Iterator<Item = &str> {
        self.columns
            .iter()
            .filter(|column| column.primary_key)
            .map(|column| column.name.as_str())
    }
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Column {
    /// Where the value comes from.
    #[serde(flatten)]
    pub kind: ColumnKind,
    /// Name of the column in the target table.
    pub name: String,
    /// Part of the primary key: the import replaces the row with the same key instead of adding one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub primary_key: bool,
    /// Type of the column in the target table.
    #[serde(default, skip_serializing_if = "DataType::is_string")]
    pub data_type: DataType,
}

/// Type of a column in the target table. All but `String` can be NULL, which is an empty value in the CSV.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataType {
    /// Text, as the column yields it. Never NULL.
    #[default]
    String,
    /// A whole number of 64 bits with sign.
    Int,
    /// A decimal number. Targets may keep it as a double.
    Float,
    /// `true` or `false`.
    Bool,
    /// A point in time: RFC 3339 in UTC with nine digits of fraction, so that texts sort as times do.
    Timestamp,
    /// A JSON text.
    Json,
}

impl DataType {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::String,
        Self::Int,
        Self::Float,
        Self::Bool,
        Self::Timestamp,
        Self::Json,
    ];

    /// The name used in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::Timestamp => "timestamp",
            Self::Json => "json",
        }
    }

    /// Whether values are texts of any kind.
    #[must_use]
    pub const fn is_string(&self) -> bool {
        matches!(self, Self::String)
    }
}

/// Where the value of a column comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum ColumnKind {
    /// A new UUID version 7 for every row.
    Uuid,
    /// The time of arrival, UTC with milliseconds.
    Datetime,
    /// The address of the client.
    Ip,
    /// The body of the request as it came.
    Body,
    /// The request headers as a JSON object.
    Headers,
    /// A part of the parsed body.
    #[serde(rename_all = "camelCase")]
    Path {
        /// For example `customer.emails[0]`. Empty: the whole body.
        path: String,
        /// Used when the path leads nowhere. Absent: such a record is rejected.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        default_value: Option<String>,
        /// Strings are written without their JSON quotes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        raw_string: bool,
    },
    /// The result of a template.
    #[serde(rename_all = "camelCase")]
    Template {
        /// The template.
        template: Template,
        /// Strings are written without their JSON quotes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        raw_string: bool,
    },
}

/// A template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// The language; only `jsonnet`.
    pub language: String,
    /// The text, 1 to [`MAX_TEMPLATE_LEN`] characters.
    pub content: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_form_is_the_one_clients_send() {
        let json = r#"{"columns":[{"type":"uuid","name":"id"},{"type":"path","path":"a.b","defaultValue":"","rawString":true,"name":"b","primaryKey":true,"dataType":"int"},{"type":"template","template":{"language":"jsonnet","content":"Body()"},"name":"t"}]}"#;
        let mapping: Mapping = serde_json::from_str(json).expect("valid mapping");
        assert_eq!(mapping.primary_key().collect::<Vec<_>>(), ["b"]);
        assert_eq!(mapping.columns[1].data_type, DataType::Int);
        assert_eq!(serde_json::to_string(&mapping).expect("serialises"), json);
    }

    #[test]
    fn data_types_are_named_as_in_json() {
        for data_type in DataType::ALL {
            let json = serde_json::to_value(data_type).expect("serialises");
            assert_eq!(json, data_type.as_str());
        }
    }
}
