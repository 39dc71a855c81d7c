//! The tables that sinks import into: what they look like, and whether an existing one can take the rows.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension};
use stream_model::definition::mapping::DataType;
use stream_model::definition::{Column, Table};

use super::failure;
use crate::TargetError;

/// How the database differs from a definition that it can follow.
enum Difference<'a> {
    /// There is no such table.
    Missing,
    /// The table is there but lacks these columns. None lacking: nothing is to be done.
    Lacks(Vec<&'a Column>),
}

/// A column as it exists.
struct Existing {
    name: String,
    declared_type: String,
    primary_key: bool,
    generated: bool,
    /// An insert that does not name the column fails.
    demanded: bool,
}

/// Whether the table is there and takes the rows as it is.
///
/// # Errors
/// When it can never take them.
pub(super) fn matches(db: &Connection, table: &Table) -> Result<bool, TargetError> {
    match difference(db, table)? {
        Difference::Missing => Ok(false),
        Difference::Lacks(columns) => Ok(columns.is_empty()),
    }
}

/// Makes the table take the rows. Belongs into a write transaction.
pub(super) fn apply(db: &Connection, table: &Table) -> Result<(), TargetError> {
    let failed = failure::of_table("change the table", &table.table_id);
    match difference(db, table)? {
        Difference::Missing => {
            db.execute(&create_statement(table), ()).map_err(failed)?;
            tracing::info!(table = table.table_id, "created a table");
        }
        Difference::Lacks(columns) => {
            for column in columns {
                let statement = format!(
                    "ALTER TABLE {} ADD COLUMN {} {}",
                    quoted(&table.table_id),
                    quoted(&column.name),
                    declared(column.data_type)
                );
                db.execute(&statement, ()).map_err(&failed)?;
                tracing::info!(
                    table = table.table_id,
                    column = column.name,
                    "added a column"
                );
            }
        }
    }
    Ok(())
}

/// Drops the table, if it is there. Belongs into a write transaction.
pub(super) fn drop(db: &Connection, table: &Table) -> Result<(), TargetError> {
    let statement = format!("DROP TABLE IF EXISTS {}", quoted(&table.table_id));
    let failed = failure::of_table("drop the table", &table.table_id);
    db.execute(&statement, ()).map_err(failed)?;
    tracing::info!(table = table.table_id, "dropped a table");
    Ok(())
}

/// The statement that adds one row, or replaces the row with the same key.
pub(super) fn insert_statement(table: &Table) -> String {
    let columns = &table.mapping.columns;
    let list = |columns: &mut dyn Iterator<Item = String>| columns.collect::<Vec<_>>().join(", ");
    let mut statement = format!(
        "INSERT INTO {} ({}) VALUES ({})",
        quoted(&table.table_id),
        list(&mut columns.iter().map(|column| quoted(&column.name))),
        list(&mut (1..=columns.len()).map(|position| format!("?{position}"))),
    );
    let key = list(&mut table.mapping.primary_key().map(quoted));
    if key.is_empty() {
        return statement;
    }
    let updates = list(
        &mut columns
            .iter()
            .filter(|column| !column.primary_key)
            .map(|column| {
                let name = quoted(&column.name);
                format!("{name} = excluded.{name}")
            }),
    );
    statement.push_str(&match updates.as_str() {
        "" => format!(" ON CONFLICT ({key}) DO NOTHING"),
        updates => format!(" ON CONFLICT ({key}) DO UPDATE SET {updates}"),
    });
    statement
}

/// Quotes a name. Inside quotes only the quote itself has a meaning, so any name can be used.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn create_statement(table: &Table) -> String {
    let mut parts: Vec<String> = table
        .mapping
        .columns
        .iter()
        .map(|column| {
            // SQLite alone allows NULL in a primary key, unless told otherwise.
            let constraint = if column.primary_key { " NOT NULL" } else { "" };
            let declared = declared(column.data_type);
            format!("{} {declared}{constraint}", quoted(&column.name))
        })
        .collect();
    let key: Vec<String> = table.mapping.primary_key().map(quoted).collect();
    if !key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", key.join(", ")));
    }
    format!(
        "CREATE TABLE {} ({})",
        quoted(&table.table_id),
        parts.join(", ")
    )
}

fn difference<'a>(db: &Connection, table: &'a Table) -> Result<Difference<'a>, TargetError> {
    let refuse = |reason| TargetError::InvalidTable {
        table: table.table_id.clone(),
        reason,
    };
    let failed = failure::of("read the schema of the database");
    match object_kind(db, &table.table_id)
        .map_err(&failed)?
        .as_deref()
    {
        None => return Ok(Difference::Missing),
        Some("table") => {}
        Some(other) => return Err(refuse(format!("the database has {other} of that name"))),
    }
    let existing = columns_of(db, &table.table_id).map_err(&failed)?;
    check_existing(table, &existing).map_err(refuse)?;
    let lacking = table.mapping.columns.iter().filter(|column| {
        !existing
            .iter()
            .any(|existing| existing.name.eq_ignore_ascii_case(&column.name))
    });
    Ok(Difference::Lacks(lacking.collect()))
}

/// What already has the name, in SQLite's one space of names, with its article.
fn object_kind(db: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    let kind: Option<String> = db
        .query_row(
            "SELECT type FROM sqlite_master WHERE name = ?1 COLLATE NOCASE
             AND type IN ('table', 'view', 'index')",
            [name],
            |row| row.get(0),
        )
        .optional()?;
    Ok(kind.map(|kind| match kind.as_str() {
        "view" => "a view".to_owned(),
        "index" => "an index".to_owned(),
        _ => kind,
    }))
}

fn columns_of(db: &Connection, table_id: &str) -> rusqlite::Result<Vec<Existing>> {
    let mut statement = db.prepare(
        "SELECT name, type, pk > 0, hidden > 0, \"notnull\" <> 0 AND dflt_value IS NULL
         FROM pragma_table_xinfo(?1)",
    )?;
    let columns = statement.query_map([table_id], |row| {
        Ok(Existing {
            name: row.get(0)?,
            declared_type: row.get(1)?,
            primary_key: row.get(2)?,
            generated: row.get(3)?,
            demanded: row.get(4)?,
        })
    })?;
    columns.collect()
}

fn check_existing(table: &Table, existing: &[Existing]) -> Result<(), String> {
    let has: BTreeSet<String> = existing
        .iter()
        .filter(|column| column.primary_key)
        .map(|column| column.name.to_ascii_lowercase())
        .collect();
    let wants: BTreeSet<String> = table
        .mapping
        .primary_key()
        .map(str::to_ascii_lowercase)
        .collect();
    if has != wants {
        return Err(format!(
            "it exists with {} and the sink asks for {}",
            described_key(&has),
            described_key(&wants)
        ));
    }
    for column in existing {
        let mut columns = table.mapping.columns.iter();
        let wanted = columns.find(|wanted| wanted.name.eq_ignore_ascii_case(&column.name));
        check_column(column, wanted)?;
    }
    Ok(())
}

fn check_column(column: &Existing, wanted: Option<&Column>) -> Result<(), String> {
    let name = &column.name;
    match wanted {
        Some(_) if column.generated => Err(format!(
            "its column {name:?} is generated and cannot be written"
        )),
        Some(wanted) if !keeps(&column.declared_type, wanted.data_type) => Err(format!(
            "its column {name:?} is declared {}, which would change {} values such as {}; \
             it must be declared {}",
            column.declared_type,
            wanted.data_type.as_str(),
            endangered(wanted.data_type),
            declared(wanted.data_type)
        )),
        Some(_) => Ok(()),
        None if column.demanded && !column.generated => Err(format!(
            "its column {name:?} must not be NULL and has no default, and the sink has no such column"
        )),
        None => Ok(()),
    }
}

/// How a column of a data type is declared in a new table. Times and JSON stay texts: SQLite has functions for both.
const fn declared(data_type: DataType) -> &'static str {
    match data_type {
        DataType::String | DataType::Timestamp | DataType::Json => "TEXT",
        DataType::Int => "INTEGER",
        DataType::Float => "REAL",
        DataType::Bool => "BOOLEAN",
    }
}

/// A value that a wrong declaration changes.
const fn endangered(data_type: DataType) -> &'static str {
    match data_type {
        DataType::String | DataType::Json => "007",
        DataType::Timestamp => "2006-01-02T15:04:05.000000000Z",
        DataType::Int => "7",
        DataType::Float => "0.5",
        DataType::Bool => "true",
    }
}

fn described_key(key: &BTreeSet<String>) -> String {
    if key.is_empty() {
        return "no primary key".to_owned();
    }
    format!(
        "the primary key ({})",
        key.iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ")
    )
}

/// What SQLite does to the values of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Affinity {
    /// Numbers become texts.
    Text,
    /// Nothing.
    None,
    /// Texts that look like numbers become numbers; a number without fraction becomes an integer.
    Numeric,
    /// Numbers become floating-point numbers.
    Real,
}

/// SQLite derives it from the words in the declaration, in this order.
fn affinity(declared_type: &str) -> Affinity {
    let declared = declared_type.to_ascii_uppercase();
    let says = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    if says(&["INT"]) {
        Affinity::Numeric
    } else if says(&["CHAR", "CLOB", "TEXT"]) {
        Affinity::Text
    } else if says(&["BLOB"]) || declared.is_empty() {
        Affinity::None
    } else if says(&["REAL", "FLOA", "DOUB"]) {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}

/// Whether a column of that declared type stores values of the data type as they are.
fn keeps(declared_type: &str, data_type: DataType) -> bool {
    use Affinity::{None, Numeric, Real, Text};
    let affinity = affinity(declared_type);
    match data_type {
        DataType::String | DataType::Timestamp | DataType::Json => matches!(affinity, Text | None),
        DataType::Int | DataType::Bool => matches!(affinity, Numeric | None),
        DataType::Float => matches!(affinity, Real | Numeric | None),
    }
}
