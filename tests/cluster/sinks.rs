//! The three sinks of the tests: one with all kinds of simple columns, one with templates, one that is updated by key.

use serde_json::Value;
use stream_tests::client::{Api, Source};
use stream_tests::expectation::{Column, Strings};
use stream_tests::webhook::Step::{Item, Key};
use stream_tests::webhook::{CONNECTION, NOTE, RECORD_ID};

/// Table of the sink with the simple columns.
pub const EVENTS: &str = "events";
/// Table of the sink with the templates.
pub const TEMPLATES: &str = "templates";
/// Table of the sink with a primary key.
pub const LATEST: &str = "latest";

/// The SQL expression for the record id of a row of [`EVENTS`].
pub const EVENTS_ID: &str = "json_extract(headers, '$.\"X-Record-Id\"')";
/// The column with the record id of a row of [`TEMPLATES`] and [`LATEST`].
pub const ID: &str = "record";

/// Columns of [`EVENTS`].
pub fn events() -> Vec<Column> {
    let plain = ["uuid", "datetime", "ip", "body", "headers"];
    let mut columns: Vec<Column> = plain.into_iter().map(Column::plain).collect();
    columns.extend([
        Column::path("kind", "type", &[Key("type")], Some("none"), Strings::Raw),
        Column::path(
            "kind json",
            "type",
            &[Key("type")],
            Some("a \"default\""),
            Strings::Json,
        ),
        Column::path(
            "actor",
            "actor.name",
            &[Key("actor"), Key("name")],
            Some(""),
            Strings::Raw,
        ),
        Column::path(
            "actor \"json\"",
            "actor.name",
            &[Key("actor"), Key("name")],
            Some(""),
            Strings::Json,
        ),
        Column::path(
            "tag",
            "tags[1]",
            &[Key("tags"), Item(1)],
            Some("-"),
            Strings::Raw,
        ),
        Column::path(
            "amount",
            "data.object.amount",
            &[Key("data"), Key("object"), Key("amount")],
            Some("0"),
            Strings::Json,
        ),
        Column::path(
            "unit",
            "data.object.lines[0].price.unit",
            &[
                Key("data"),
                Key("object"),
                Key("lines"),
                Item(0),
                Key("price"),
                Key("unit"),
            ],
            Some("no\nlines, \"none\""),
            Strings::Raw,
        ),
        Column::path(
            "repository",
            "repository",
            &[Key("repository")],
            Some("{}"),
            Strings::Raw,
        ),
        Column::path("first", "[0]", &[Item(0)], Some("no array"), Strings::Raw),
        Column::path(
            "text",
            "event.blocks[0].elements[1].text",
            &[
                Key("event"),
                Key("blocks"),
                Item(0),
                Key("elements"),
                Item(1),
                Key("text"),
            ],
            Some("příliš"),
            Strings::Json,
        ),
    ]);
    columns
}

/// Columns of [`TEMPLATES`].
pub fn templates() -> Vec<Column> {
    vec![
        Column::header_template(ID, "Header('X-Record-Id')", RECORD_ID, None, Strings::Raw),
        Column::body_template("all", "Body()", &[], None, Strings::Json),
        Column::body_template(
            "kind",
            "Body('type', 'none')",
            &[Key("type")],
            Some("none"),
            Strings::Raw,
        ),
        Column::body_template(
            "actor",
            "Body('actor', null)",
            &[Key("actor")],
            Some("null"),
            Strings::Json,
        ),
        Column::body_template(
            "name",
            "Body('actor.name', 'no\"body')",
            &[Key("actor"), Key("name")],
            Some("\"no\\\"body\""),
            Strings::Json,
        ),
        Column::body_template(
            "tag",
            "Body('tags[0]', 7)",
            &[Key("tags"), Item(0)],
            Some("7"),
            Strings::Raw,
        ),
        Column::header_template(
            "note",
            "Header('X-Note', 'none')",
            NOTE,
            Some("none"),
            Strings::Raw,
        ),
        Column::header_template(
            "note json",
            "Header('x-note', null)",
            NOTE,
            Some("null"),
            Strings::Json,
        ),
        Column::ip_template("ip", Strings::Raw),
        Column::ip_template("ip json", Strings::Json),
    ]
}

/// Columns of [`LATEST`]. Each connection sends its records one after the other, so the last one with an id wins.
pub fn latest() -> Vec<Column> {
    vec![
        Column::header_template(
            "connection",
            "Header('X-Connection')",
            CONNECTION,
            None,
            Strings::Raw,
        )
        .primary_key(),
        Column::path("id", "id", &[Key("id")], Some("none"), Strings::Raw).primary_key(),
        Column::header_template(ID, "Header('X-Record-Id')", RECORD_ID, None, Strings::Raw),
        Column::path("kind", "type", &[Key("type")], Some("none"), Strings::Raw),
        Column::path(
            "amount",
            "data.object.amount",
            &[Key("data"), Key("object"), Key("amount")],
            Some("0"),
            Strings::Raw,
        ),
    ]
}

/// Creates a source with the three sinks.
pub async fn create(api: &Api, source: &str) -> anyhow::Result<Source> {
    let source = api.create_source(source).await?;
    for (id, columns) in [
        (EVENTS, events()),
        (TEMPLATES, templates()),
        (LATEST, latest()),
    ] {
        let definitions: Vec<Value> = columns
            .iter()
            .map(|column| column.definition().clone())
            .collect();
        api.create_sink(&source, id, &definitions).await?;
    }
    Ok(source)
}
