//! The tables that sinks import into: what they look like, and whether an existing one can take the rows.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension};
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
                    "ALTER TABLE {} ADD COLUMN {} TEXT",
                    quoted(&table.table_id),
                    quoted(&column.name)
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
            format!("{} TEXT{constraint}", quoted(&column.name))
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
        let mapped = table
            .mapping
            .columns
            .iter()
            .any(|wanted| wanted.name.eq_ignore_ascii_case(&column.name));
        check_column(column, mapped)?;
    }
    Ok(())
}

fn check_column(column: &Existing, mapped: bool) -> Result<(), String> {
    let name = &column.name;
    match mapped {
        true if column.generated => Err(format!(
            "its column {name:?} is generated and cannot be written"
        )),
        true if !keeps_text(&column.declared_type) => Err(format!(
            "its column {name:?} is declared {}, which would change values such as 007; \
             it must be declared TEXT",
            column.declared_type
        )),
        false if column.demanded && !column.generated => Err(format!(
            "its column {name:?} must not be NULL and has no default, and the sink has no such column"
        )),
        true | false => Ok(()),
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

/// Whether a column of that declared type stores text as it is. SQLite derives an affinity from the words in the
/// declaration, in this order; only text affinity and none leave text alone that looks like a number.
fn keeps_text(declared_type: &str) -> bool {
    let declared = declared_type.to_ascii_uppercase();
    let says = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    !says(&["INT"]) && (says(&["CHAR", "CLOB", "TEXT", "BLOB"]) || declared.is_empty())
}
