//! A sink to be created: its table and the mapping to its columns.

use serde_json::Value;
use stream_encoding::CompiledMapping;
use stream_model::SinkId;
use stream_model::definition::mapping::{DataType, MAX_COLUMNS, MAX_TEMPLATE_LEN, Template};
use stream_model::definition::{Column, ColumnKind, Mapping, Table, TableKind};
use stream_target::{Targets, keboola, validate_table};

use super::{Texts, description, identifier, name};
use crate::error::{ApiError, sentence};
use crate::fields::{Fields, not_one_of, quoted_list};

pub(super) const COLUMN_TYPES: [&str; 7] = [
    "uuid", "datetime", "ip", "body", "headers", "path", "template",
];
pub(super) const SIGNALS: [&str; 3] = ["logs", "metrics", "traces"];
pub(super) const KINDS: [TableKind; 3] =
    [TableKind::Sqlite, TableKind::Postgres, TableKind::Keboola];

/// A sink to be created. Its mapping compiles and its target exists.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NewSink {
    pub(crate) id: SinkId,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) table: Table,
}

impl NewSink {
    pub(crate) fn read(
        body: &[u8],
        targets: &Targets,
        default_kind: TableKind,
    ) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body)?;
        let kind = fields.text("type", 0..=usize::MAX)?;
        if kind != "table" {
            return Err(not_one_of("body.type", &kind, ["table"].into_iter()));
        }
        let name = name(&mut fields)?;
        let given = fields.optional("sinkId");
        let id = identifier("body.sinkId", given, "sink id", &name)?;
        let description = description(&mut fields)?;
        signals(&mut fields)?;
        let table = table(fields.object("table")?, default_kind)?;
        fields.finish()?;
        check(&table, targets)?;
        Ok(Self {
            id,
            name,
            description,
            table,
        })
    }
}

/// A change of a sink.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SinkChange {
    pub(crate) texts: Texts,
    pub(crate) table: TableChange,
}

/// A change of a table: only what is there is changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TableChange {
    kind: Option<TableKind>,
    table_id: Option<String>,
    mapping: Option<Mapping>,
}

impl SinkChange {
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let mut fields = Fields::of_body(body)?;
        if let Some(kind) = fields.optional_text("type", 0..=usize::MAX)?
            && kind != "table"
        {
            return Err(not_one_of("body.type", &kind, ["table"].into_iter()));
        }
        let texts = Texts::read(&mut fields)?;
        signals(&mut fields)?;
        let path = fields.path("table");
        let table = match fields.optional("table") {
            None => TableChange::default(),
            Some(table) => TableChange::read(Fields::of_value(path, table)?)?,
        };
        fields.finish()?;
        Ok(Self { texts, table })
    }
}

impl TableChange {
    fn read(mut fields: Fields) -> Result<Self, ApiError> {
        let path = fields.path("mapping");
        let change = Self {
            kind: table_kind(&mut fields)?,
            table_id: fields.optional_text("tableId", 1..=stream_target::MAX_TABLE_ID_LEN)?,
            mapping: match fields.optional("mapping") {
                None => None,
                Some(it) => Some(mapping(Fields::of_value(path, it)?)?),
            },
        };
        fields.finish()?;
        Ok(change)
    }

    /// Whether the mapping becomes another one.
    pub(crate) fn has_mapping(&self) -> bool {
        self.mapping.is_some()
    }

    /// The table after the change.
    pub(crate) fn over(&self, table: &Table) -> Table {
        Table {
            kind: self.kind.unwrap_or(table.kind),
            table_id: self.table_id.as_ref().unwrap_or(&table.table_id).clone(),
            mapping: self.mapping.as_ref().unwrap_or(&table.mapping).clone(),
        }
    }
}

/// Signals only exist for OTLP sources. For the others they are checked, and of no effect.
fn signals(fields: &mut Fields) -> Result<(), ApiError> {
    let Some(signals) = fields.optional("allowedSignals") else {
        return Ok(());
    };
    let signals: Vec<String> = serde_json::from_value(signals).map_err(|_| {
        ApiError::bad_request("\"body.allowedSignals\" must be a list of signal names.")
    })?;
    match signals
        .iter()
        .find(|signal| !SIGNALS.contains(&signal.as_str()))
    {
        Some(unknown) => Err(not_one_of(
            "body.allowedSignals",
            unknown,
            SIGNALS.into_iter(),
        )),
        None => Ok(()),
    }
}

fn table(mut fields: Fields, default_kind: TableKind) -> Result<Table, ApiError> {
    let kind = table_kind(&mut fields)?.unwrap_or(default_kind);
    let table_id = fields.text("tableId", 1..=stream_target::MAX_TABLE_ID_LEN)?;
    let mapping = mapping(fields.object("mapping")?)?;
    fields.finish()?;
    Ok(Table {
        kind,
        table_id,
        mapping,
    })
}

fn table_kind(fields: &mut Fields) -> Result<Option<TableKind>, ApiError> {
    let path = fields.path("type");
    let Some(name) = fields.optional_text("type", 0..=usize::MAX)? else {
        return Ok(None);
    };
    let kind = KINDS.into_iter().find(|kind| kind.as_str() == name);
    let names = KINDS.iter().map(|kind| kind.as_str());
    kind.map(Some)
        .ok_or_else(|| not_one_of(&path, &name, names))
}

fn mapping(mut fields: Fields) -> Result<Mapping, ApiError> {
    let path = fields.path("columns");
    let items = fields.list("columns", 1..=MAX_COLUMNS)?;
    fields.finish()?;
    let items = items.into_iter().enumerate();
    let columns = items.map(|(index, item)| column(format!("{path}[{index}]"), item));
    let columns = columns.collect::<Result<_, _>>()?;
    Ok(Mapping { columns })
}

fn column(path: String, item: Value) -> Result<Column, ApiError> {
    let mut fields = Fields::of_value(path, item)?;
    let name = fields.text("name", 1..=usize::MAX)?;
    let kind = fields.text("type", 0..=usize::MAX)?;
    let kind = match kind.as_str() {
        "uuid" => ColumnKind::Uuid,
        "datetime" => ColumnKind::Datetime,
        "ip" => ColumnKind::Ip,
        "body" => ColumnKind::Body,
        "headers" => ColumnKind::Headers,
        "path" => ColumnKind::Path {
            path: fields.text("path", 0..=usize::MAX)?,
            default_value: fields.optional_text("defaultValue", 0..=usize::MAX)?,
            raw_string: fields.flag("rawString")?,
        },
        "template" => ColumnKind::Template {
            template: template(fields.object("template")?)?,
            raw_string: fields.flag("rawString")?,
        },
        other => {
            return Err(not_one_of(
                &fields.path("type"),
                other,
                COLUMN_TYPES.into_iter(),
            ));
        }
    };
    let primary_key = fields.flag("primaryKey")?;
    let data_type = data_type(&mut fields)?;
    fields.finish()?;
    Ok(Column {
        kind,
        name,
        primary_key,
        data_type,
    })
}

fn data_type(fields: &mut Fields) -> Result<DataType, ApiError> {
    let path = fields.path("dataType");
    let Some(name) = fields.optional_text("dataType", 0..=usize::MAX)? else {
        return Ok(DataType::String);
    };
    let known = DataType::ALL
        .into_iter()
        .find(|data_type| data_type.as_str() == name);
    let names = DataType::ALL.iter().map(|data_type| data_type.as_str());
    known.ok_or_else(|| not_one_of(&path, &name, names))
}

fn template(mut fields: Fields) -> Result<Template, ApiError> {
    let language = fields.text("language", 0..=usize::MAX)?;
    if language != "jsonnet" {
        return Err(not_one_of(
            &fields.path("language"),
            &language,
            ["jsonnet"].into_iter(),
        ));
    }
    let content = fields.text("content", 1..=MAX_TEMPLATE_LEN)?;
    fields.finish()?;
    Ok(Template { language, content })
}

/// Checks what can be checked without looking at the target.
pub(crate) fn check(table: &Table, targets: &Targets) -> Result<(), ApiError> {
    if !targets.takes(table.kind) {
        let available = quoted_list(targets.kinds().map(TableKind::as_str));
        let kind = table.kind.as_str();
        let advice = if available.is_empty() {
            "no target is configured".to_owned()
        } else {
            format!("use one of {available}")
        };
        return Err(ApiError::bad_request(format!(
            "Tables of type {kind:?} are not available in this installation; {advice}."
        )));
    }
    if table.kind == TableKind::Keboola {
        let checked = keboola::validate(table);
        checked.map_err(|error| ApiError::bad_request(sentence(&error)))?;
    }
    CompiledMapping::compile(&table.mapping)
        .map_err(|error| ApiError::bad_request(sentence(&error)))?;
    validate_table(table).map_err(|error| ApiError::bad_request(sentence(&error)))
}
