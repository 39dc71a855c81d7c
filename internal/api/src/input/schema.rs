//! The schemas of what clients send. They stand beside the readers because those read field by field, see `fields`; a test
//! holds both against each other.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};
use stream_model::definition::mapping::{DataType, MAX_COLUMNS, MAX_TEMPLATE_LEN};
use stream_model::definition::{MAX_DESCRIPTION_LEN, MAX_NAME_LEN, TableKind};
use stream_model::id::MAX_NAME_ID_LEN;
use stream_target::MAX_TABLE_ID_LEN;

use super::settings::{Changes, MAX_CHANGES};
use super::sink::{COLUMN_TYPES, KINDS, NewSink, SIGNALS, SinkChange};
use super::source::{NewSource, SourceChange};

/// The longest name of a column, in bytes.
const MAX_COLUMN_NAME: usize = 63;

macro_rules! schema {
    ($type:ty, $name:literal, $make:expr) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $make
            }
        }
    };
}

schema!(
    NewSource,
    "NewSource",
    json_schema!({
        "type": "object",
        "description": "A source to be created.",
        "properties": {
            "type": {"type": "string", "enum": ["http"]},
            "name": name(false),
            "sourceId": identifier(),
            "description": description(),
        },
        "required": ["type", "name"],
        "additionalProperties": false,
    })
);

schema!(
    SourceChange,
    "SourceChange",
    json_schema!({
        "type": "object",
        "description": "What is to be changed of a source; what is left out stays.",
        "properties": {
            "type": {"type": ["string", "null"], "enum": ["http", null]},
            "name": name(true),
            "description": description(),
            "changeDescription": change_description(),
        },
        "additionalProperties": false,
    })
);

schema!(
    NewSink,
    "NewSink",
    json_schema!({
        "type": "object",
        "description": "A sink to be created.",
        "properties": {
            "type": {"type": "string", "enum": ["table"]},
            "name": name(false),
            "sinkId": identifier(),
            "description": description(),
            "allowedSignals": signals(),
            "table": table(&["tableId", "mapping"], false),
        },
        "required": ["type", "name", "table"],
        "additionalProperties": false,
    })
);

schema!(
    SinkChange,
    "SinkChange",
    json_schema!({
        "type": "object",
        "description": "What is to be changed of a sink; what is left out stays.",
        "properties": {
            "type": {"type": ["string", "null"], "enum": ["table", null]},
            "name": name(true),
            "description": description(),
            "changeDescription": change_description(),
            "allowedSignals": signals(),
            "table": table(&[], true),
        },
        "additionalProperties": false,
    })
);

schema!(
    Changes,
    "SettingsChange",
    json_schema!({
        "type": "object",
        "description": "Settings to be changed.",
        "properties": {
            "changeDescription": change_description(),
            "settings": {
                "type": ["array", "null"],
                "maxItems": MAX_CHANGES,
                "items": {
                    "type": "object",
                    "properties": {
                        "key": {"type": "string", "minLength": 1},
                        "value": {"description": "As the setting's `validation` says; `null` resets it."},
                    },
                    "required": ["key", "value"],
                    "additionalProperties": false,
                },
            },
        },
        "additionalProperties": false,
    })
);

/// The type of a field; one that may be left out may also be `null`.
fn kind(name: &str, optional: bool) -> Value {
    if optional {
        json!([name, "null"])
    } else {
        json!(name)
    }
}

fn name(optional: bool) -> Value {
    json!({
        "type": kind("string", optional), "minLength": 1, "maxLength": MAX_NAME_LEN,
        "description": "For people.",
    })
}

fn identifier() -> Value {
    json!({
        "type": ["string", "null"], "minLength": 1, "maxLength": MAX_NAME_ID_LEN,
        "description": "Made of the name when left out; brought into the form `a-z0-9-`.",
    })
}

fn description() -> Value {
    json!({"type": ["string", "null"], "maxLength": MAX_DESCRIPTION_LEN})
}

fn change_description() -> Value {
    json!({
        "type": ["string", "null"], "maxLength": MAX_DESCRIPTION_LEN,
        "description": "What the new version says of the change.",
    })
}

fn signals() -> Value {
    json!({
        "type": ["array", "null"], "items": {"type": "string", "enum": SIGNALS},
        "description": "Of no effect for HTTP sources.",
    })
}

fn table(required: &[&str], optional: bool) -> Value {
    let mut kinds: Vec<Value> = KINDS.map(|kind| TableKind::as_str(kind).into()).into();
    kinds.push(Value::Null);
    json!({
        "type": kind("object", optional),
        "properties": {
            "type": {
                "type": ["string", "null"], "enum": kinds,
                "description": "The kind of the target; when left out the first one of the installation.",
            },
            "tableId": {
                "type": kind("string", optional), "minLength": 1, "maxLength": MAX_TABLE_ID_LEN,
                "description": "The name of the table in its target.",
            },
            "mapping": {
                "type": kind("object", optional),
                "properties": {
                    "columns": {
                        "type": "array", "minItems": 1, "maxItems": MAX_COLUMNS,
                        "items": {"oneOf": COLUMN_TYPES.map(column)},
                    },
                },
                "required": ["columns"],
                "additionalProperties": false,
            },
        },
        "required": required,
        "additionalProperties": false,
    })
}

/// A column whose value comes from there.
fn column(from: &str) -> Value {
    let mut data_types: Vec<Value> = DataType::ALL.map(|it| it.as_str().into()).into();
    data_types.push(Value::Null);
    let flag = |meaning: &str| json!({"type": ["boolean", "null"], "description": meaning});
    let mut properties = json!({
        "type": {"type": "string", "const": from},
        "name": {"type": "string", "minLength": 1, "maxLength": MAX_COLUMN_NAME},
        "primaryKey": flag("Part of the primary key: the import replaces the row with the same key."),
        "dataType": {"type": ["string", "null"], "enum": data_types},
    });
    let mut required = vec!["type", "name"];
    match from {
        "path" => {
            required.push("path");
            properties["path"] = json!({"type": "string", "description": "For example `a.b[0]`; empty: the whole body."});
            properties["defaultValue"] = json!({
                "type": ["string", "null"],
                "description": "Stands in for a value that is not there.",
            });
        }
        "template" => {
            required.push("template");
            properties["template"] = json!({
                "type": "object",
                "properties": {
                    "language": {"type": "string", "enum": ["jsonnet"]},
                    "content": {"type": "string", "minLength": 1, "maxLength": MAX_TEMPLATE_LEN},
                },
                "required": ["language", "content"],
                "additionalProperties": false,
            });
        }
        _ => {}
    }
    if ["path", "template"].contains(&from) {
        properties["rawString"] = flag("Texts are written without quotes and escapes.");
    }
    json!({
        "type": "object", "title": from, "properties": properties, "required": required,
        "additionalProperties": false,
    })
}
