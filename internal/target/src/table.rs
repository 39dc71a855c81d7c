//! Which table definitions any target can hold.

use std::collections::HashSet;

use stream_model::definition::Table;
use stream_model::definition::mapping::MAX_COLUMNS;

use crate::TargetError;

/// The longest accepted name of a table, in characters.
pub const MAX_TABLE_ID_LEN: usize = 200;
/// The longest accepted name of a column, in characters.
pub const MAX_COLUMN_NAME_LEN: usize = 200;

/// Prefixes of table names that belong to the service and to SQLite.
const RESERVED_PREFIXES: [&str; 2] = ["_stream_", "sqlite_"];

/// Checks a table definition as far as it can be checked without looking at the target.
///
/// # Errors
/// `Invalid`, with a sentence that names the rule.
pub fn validate_table(table: &Table) -> Result<(), TargetError> {
    let refuse = |reason: String| TargetError::InvalidTable {
        table: table.table_id.chars().take(MAX_TABLE_ID_LEN).collect(),
        reason,
    };
    check_table_id(&table.table_id).map_err(refuse)?;
    let columns = &table.mapping.columns;
    if columns.is_empty() || columns.len() > MAX_COLUMNS {
        return Err(refuse(format!(
            "it must have 1 to {MAX_COLUMNS} columns, not {}",
            columns.len()
        )));
    }
    let mut seen = HashSet::new();
    for column in columns {
        check_column_name(&column.name).map_err(refuse)?;
        // SQL databases fold the case of names, SQLite that of ASCII letters even when the name is quoted.
        if !seen.insert(column.name.to_ascii_lowercase()) {
            return Err(refuse(format!(
                "column {:?} occurs twice; upper and lower case count as the same",
                column.name
            )));
        }
    }
    Ok(())
}

fn check_table_id(table_id: &str) -> Result<(), String> {
    if table_id.is_empty() || table_id.chars().count() > MAX_TABLE_ID_LEN {
        return Err(format!(
            "its name must have 1 to {MAX_TABLE_ID_LEN} characters"
        ));
    }
    if table_id.contains('\0') {
        return Err("its name must not contain a NUL character".to_owned());
    }
    let folded = table_id.to_ascii_lowercase();
    match RESERVED_PREFIXES
        .iter()
        .find(|prefix| folded.starts_with(**prefix))
    {
        Some(prefix) => Err(format!("names that begin with {prefix:?} are reserved")),
        None => Ok(()),
    }
}

fn check_column_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.chars().count() > MAX_COLUMN_NAME_LEN {
        return Err(format!(
            "the name of a column must have 1 to {MAX_COLUMN_NAME_LEN} characters"
        ));
    }
    if name.contains('\0') {
        return Err("the name of a column must not contain a NUL character".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::table;

    fn refusal(table_id: &str, columns: &[&str]) -> Option<String> {
        validate_table(&table(table_id, columns))
            .err()
            .map(|error| {
                assert_eq!(error.kind(), stream_model::ErrorKind::Invalid);
                error.to_string()
            })
    }

    #[test]
    fn accepts_any_name_that_can_be_quoted() {
        for table_id in [
            "orders",
            "in.c-my-bucket.my-table",
            "a \"b\" c",
            "表",
            "select",
            "_stream",
        ] {
            assert_eq!(
                refusal(table_id, &["id", "a\"b", "é", "É"]),
                None,
                "{table_id}"
            );
        }
        assert_eq!(refusal(&"é".repeat(200), &["id"]), None);
    }

    #[test]
    fn refuses_names_and_columns_that_no_target_can_hold() {
        let many: Vec<String> = (0..101).map(|i| format!("c{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let long = "x".repeat(201);
        for (table_id, columns, rule) in [
            ("", &["id"][..], "1 to 200 characters"),
            (&long, &["id"], "1 to 200 characters"),
            ("a\0b", &["id"], "NUL"),
            ("_stream_imports", &["id"], "reserved"),
            ("_Stream_x", &["id"], "reserved"),
            ("SQLITE_master", &["id"], "reserved"),
            ("t", &[], "1 to 100 columns, not 0"),
            ("t", &many, "1 to 100 columns, not 101"),
            ("t", &["id", ""], "name of a column"),
            ("t", &["id", &long], "name of a column"),
            ("t", &["a\0"], "NUL"),
            ("t", &["id", "ID"], "\"ID\" occurs twice"),
        ] {
            let sentence = refusal(table_id, columns).unwrap_or_default();
            assert!(
                sentence.contains(rule),
                "{table_id:?} {columns:?}: {sentence}"
            );
        }
    }
}
