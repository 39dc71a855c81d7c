//! A sink: a table that receives a row for every record of its source.

use serde::{Deserialize, Serialize};

use super::actor::{Stamp, Version};
use super::mapping::Mapping;
use super::settings::Settings;
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
