//! A sink: a table that receives a row for every record of its source.

use serde::{Deserialize, Serialize};

use super::actor::{Stamp, Version};
use super::mapping::Mapping;
use super::settings::Settings;
use super::sha256_hex;
use crate::key::SinkKey;

/// A sink as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sink {
    /// Which sink.
    pub key: SinkKey,
    /// Display name, 1–40 characters.
    pub name: String,
    /// Description, at most 4096 characters.
    pub description: String,
    /// The target table and the mapping to its columns.
    pub table: Table,
    /// The current version. Its number is the *mapping version* that slices carry.
    pub version: Version,
    /// When and by whom it was first created.
    pub created: Stamp,
    /// Set while the sink is disabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<Switch>,
    /// Set after the sink was deleted. Its buffered rows are still imported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Switch>,
    /// Set while it is being purged: deleted for good, with everything that belongs to it. It is deleted then, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purging: Option<Stamp>,
    /// Settings changed from the defaults.
    #[serde(default)]
    pub settings: Settings,
}

impl Sink {
    /// Whether records are written to it.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.disabled.is_none() && self.deleted.is_none()
    }
}

/// That an entity was disabled or deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Switch {
    /// When and by whom.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// True: it was asked for this entity. False: it came along with its parent, and is revived with it.
    pub directly: bool,
}

/// The target table of a sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// Which kind of target holds the table.
    #[serde(rename = "type")]
    pub kind: TableKind,
    /// Name of the table in the target.
    pub table_id: String,
    /// Columns of the table and where their values come from.
    pub mapping: Mapping,
}

impl Table {
    /// Which table it is of all that there are, when `sink` writes to it.
    #[must_use]
    pub fn place(&self, sink: &SinkKey) -> TablePlace {
        TablePlace::of(self.kind, &self.table_id, sink)
    }
}

/// Which table it is: two sinks write to the same one when their places are equal. Tables of projects are those of a branch, all
/// others those of the installation. Upper and lower case count as the same, as in most databases: elsewhere two tables are
/// taken for one then, which is safe.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TablePlace(String);

impl TablePlace {
    pub(crate) fn of(kind: TableKind, table_id: &str, sink: &SinkKey) -> Self {
        let (name, id) = (kind.as_str(), table_id.to_ascii_lowercase());
        Self(match kind {
            TableKind::Sqlite | TableKind::Postgres => format!("{name}/{id}"),
            TableKind::Keboola => format!("{name}/{}/{id}", sink.source.branch),
        })
    }

    /// A name of 64 hexadecimal digits.
    #[must_use]
    pub fn hash(&self) -> String {
        sha256_hex(&self.0)
    }
}

/// Kinds of targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// A table of the SQLite database at `target.sqlite.path`.
    Sqlite,
    /// A table of the PostgreSQL database at `target.postgres.url`.
    Postgres,
    /// A table of a Keboola project.
    Keboola,
}

impl TableKind {
    /// The name used in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Keboola => "keboola",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(kind: TableKind, table_id: &str, branch: u64) -> TablePlace {
        let key = serde_json::json!({"project": 1, "branch": branch, "source": "a", "sink": "b"});
        let table = Table {
            kind,
            table_id: table_id.to_owned(),
            mapping: Mapping {
                columns: Vec::new(),
            },
        };
        table.place(&serde_json::from_value(key).expect("a key"))
    }

    #[test]
    fn tables_of_projects_are_those_of_a_branch() {
        use TableKind::{Keboola, Postgres, Sqlite};
        assert_eq!(place(Sqlite, "Orders", 1), place(Sqlite, "orders", 2));
        assert_ne!(place(Sqlite, "orders", 1), place(Postgres, "orders", 1));
        assert_eq!(place(Keboola, "in.c-a.b", 1), place(Keboola, "in.c-a.B", 1));
        assert_ne!(place(Keboola, "in.c-a.b", 1), place(Keboola, "in.c-a.b", 2));
        assert_ne!(place(Sqlite, "a", 1).hash(), place(Sqlite, "b", 1).hash());
    }
}
