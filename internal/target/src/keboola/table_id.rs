//! Names of tables in a project: `in.c-shop.orders`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use stream_model::definition::Table;

use super::project::ProjectTable;
use crate::TargetError;

/// The longest name of a bucket or table.
const MAX_NAME_LEN: usize = 96;

/// The name of a table, with that of its bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableId {
    /// `in` or `out`.
    stage: String,
    /// As in identifiers: with `c-` where it has that.
    bucket: String,
    table: String,
}

/// A text that is no name of a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be STAGE.BUCKET.TABLE, for example in.c-shop.orders: a stage in or out, and names of letters, digits, - and _"
)]
pub struct InvalidTableId;

impl FromStr for TableId {
    type Err = InvalidTableId;

    fn from_str(text: &str) -> Result<Self, InvalidTableId> {
        let parts: Vec<&str> = text.split('.').collect();
        let [stage @ ("in" | "out"), bucket, table] = parts[..] else {
            return Err(InvalidTableId);
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let is_name =
            |name: &str| (1..=MAX_NAME_LEN).contains(&name.len()) && name.chars().all(allowed);
        if !is_name(bucket.strip_prefix("c-").unwrap_or(bucket)) || !is_name(table) {
            return Err(InvalidTableId);
        }
        Ok(Self {
            stage: stage.to_owned(),
            bucket: bucket.to_owned(),
            table: table.to_owned(),
        })
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.bucket_id(), self.table)
    }
}

impl TableId {
    /// The identifier of the bucket.
    #[must_use]
    pub fn bucket_id(&self) -> String {
        format!("{}.{}", self.stage, self.bucket)
    }

    pub(super) fn stage(&self) -> &str {
        &self.stage
    }

    /// The name under which the bucket is made, if one like it can be made at all: the Storage API puts `c-` before it.
    pub(super) fn new_bucket(&self) -> Option<&str> {
        self.bucket.strip_prefix("c-")
    }

    pub(super) fn table(&self) -> &str {
        &self.table
    }
}

/// Checks a table of a project as far as that can be done without asking.
///
/// # Errors
/// `Invalid`, with a sentence that names the rule.
pub fn validate(table: &Table) -> Result<TableId, TargetError> {
    let refuse = |reason: String| TargetError::InvalidTable {
        table: table.table_id.clone(),
        reason,
    };
    let id: TableId = table
        .table_id
        .parse()
        .map_err(|error: InvalidTableId| refuse(error.to_string()))?;
    let mut columns = table.mapping.columns.iter();
    match columns.find(|column| !column.data_type.is_string()) {
        Some(typed) => Err(refuse(format!(
            "column {:?} has a data type, but all columns of tables of type \"keboola\" are texts; remove \"dataType\"",
            typed.name
        ))),
        None => Ok(id),
    }
}

/// Checks that a table that is there can take the rows: an import names all its columns and no others.
///
/// # Errors
/// `Invalid`, with the columns that are in the way.
pub fn check_fit(table: &Table, found: &ProjectTable) -> Result<(), TargetError> {
    let refuse = |reason: String| TargetError::InvalidTable {
        table: table.table_id.clone(),
        reason,
    };
    let columns = table.mapping.columns.iter();
    let wanted: BTreeSet<&str> = columns.map(|column| column.name.as_str()).collect();
    let has: BTreeSet<&str> = found.columns.iter().map(String::as_str).collect();
    let listed = |names: &mut dyn Iterator<Item = &&str>| {
        let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
        names.join(", ")
    };
    let missing = listed(&mut wanted.difference(&has));
    let extra = listed(&mut has.difference(&wanted));
    if !missing.is_empty() {
        return Err(refuse(format!(
            "the table exists and has no column {missing}; add it in the project, or use another table"
        )));
    }
    if !extra.is_empty() {
        return Err(refuse(format!(
            "the table exists and has column {extra}, which the mapping does not have; add it to the mapping, or use another table"
        )));
    }
    let wanted: BTreeSet<&str> = table.mapping.primary_key().collect();
    let has: BTreeSet<&str> = found.primary_key.iter().map(String::as_str).collect();
    if wanted != has {
        let (wanted, has) = (listed(&mut wanted.iter()), listed(&mut has.iter()));
        return Err(refuse(format!(
            "the table exists with the primary key [{has}], the mapping has [{wanted}]; make them the same, or use another table"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_stage_a_bucket_and_a_table() {
        let id: TableId = "in.c-my-bucket.my_table".parse().expect("a name");
        assert_eq!(id.to_string(), "in.c-my-bucket.my_table");
        assert_eq!(id.bucket_id(), "in.c-my-bucket");
        assert_eq!(
            (id.new_bucket(), id.table()),
            (Some("my-bucket"), "my_table")
        );
        let old: TableId = "out.main.t".parse().expect("a name");
        assert_eq!(old.new_bucket(), None, "cannot be made");
    }

    #[test]
    fn a_table_fits_when_it_has_the_same_columns_and_key() {
        let wanted = crate::conformance::table("in.c-a.b", &["id", "body"]);
        let refusal = |columns: &[&str], key: &[&str]| {
            let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let found = ProjectTable {
                columns: texts(columns),
                primary_key: texts(key),
                rows_count: None,
            };
            check_fit(&wanted, &found)
                .err()
                .map(|error| error.to_string())
        };
        assert_eq!(refusal(&["body", "id"], &[]), None, "in any order");
        for (columns, key, part) in [
            (&["id"][..], &[][..], "no column \"body\""),
            (&["id", "body", "at"], &[], "has column \"at\""),
            (&["id", "body"], &["id"], "primary key [\"id\"]"),
            (&["id", "Body"], &[], "no column \"body\""),
        ] {
            let refusal = refusal(columns, key).unwrap_or_default();
            assert!(refusal.contains(part), "{refusal}");
        }
    }

    #[test]
    fn other_texts_are_no_names() {
        let long = format!("in.c-a.{}", "t".repeat(97));
        for text in [
            "",
            "table",
            "in.c-a",
            "in.c-a.b.c",
            "sys.c-a.b",
            "in.c-.b",
            "in.c-a.",
            "in.c-a.b/c",
            "in.c-é.b",
            &long,
        ] {
            assert_eq!(text.parse::<TableId>(), Err(InvalidTableId), "{text:?}");
        }
    }
}
