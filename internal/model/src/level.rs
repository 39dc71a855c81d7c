//! What governs a sink's data on each of its three levels: local disk, staging, target.
//!
//! The defaults come from the configuration; source and sink settings change some of them (`definition::settings`). The
//! result is fixed when a file or slice is opened and stored in it, so that a change never reinterprets old data.

use serde::{Deserialize, Serialize};

use crate::definition::TableKind;
use crate::idempotency::KeyMode;
use crate::rate::RateLimit;
use crate::trigger::{ImportTrigger, UploadTrigger};

/// The effective levels of one sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    /// Local disk.
    pub local: Local,
    /// Object storage.
    pub upload: UploadTrigger,
    /// The table.
    pub import: ImportTrigger,
    /// What the source may take in a second. Sinks have no limit of their own.
    pub rate: RateLimit,
    /// The path of the idempotency key in each record; empty when keys come with requests. Decided by the source alone.
    pub key_path: String,
    /// What becomes of keys whose volume is away. Decided by the source alone.
    pub key_mode: KeyMode,
}

/// How rows are kept on local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// How slices are compressed.
    pub compression: Compression,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// On how many volumes, and of which types.
    pub assignment: Assignment,
}

/// Compression of slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "type")]
pub enum Compression {
    /// Plain CSV.
    None,
    /// Concatenated gzip members.
    Gzip {
        /// 1 (fast) to 9 (small).
        level: u8,
    },
    /// Concatenated zstd frames.
    Zstd {
        /// 1 (fast) to 19 (small).
        level: u8,
    },
}

impl Compression {
    /// The suffix of object names.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::None => "csv",
            Self::Gzip { .. } => "csv.gz",
            Self::Zstd { .. } => "csv.zst",
        }
    }
}

/// What an acknowledgement promises, from strongest to weakest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Durability {
    /// The record is on the disk. Survives power loss. Answered 200.
    Disk,
    /// The record is in the operating system. Survives a crash of the process. Answered 202.
    Cache,
    /// The record is in the memory of the process. Answered 202.
    Memory,
}

impl Durability {
    /// The name used in answers and settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Cache => "cache",
            Self::Memory => "memory",
        }
    }
}

/// On which volumes a source is placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// How many volumes, 1–100. Fewer are used when fewer exist.
    pub count: u32,
    /// Volume types in order of preference.
    pub preferred_types: Vec<String>,
}

/// The configured defaults, before source and sink settings.
///
/// Triggers that are not configured depend on the kind of table: a SQL table shows rows within seconds, a Keboola table
/// is loaded once a minute because each load costs a job there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Local disk.
    pub local: Local,
    /// Upload triggers that were configured explicitly.
    pub upload: ConfiguredUpload,
    /// Import triggers that were configured explicitly.
    pub import: ConfiguredImport,
    /// When slices of rejected records are rotated. Not changed by settings of sources and sinks.
    pub rejects: UploadTrigger,
    /// What a source may take in a second.
    pub rate: RateLimit,
}

/// Upload triggers as configured; `None` means the default of the table kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfiguredUpload {
    /// Rows in the slice.
    pub count: Option<u64>,
    /// Compressed bytes in the slice.
    pub size: Option<crate::unit::ByteSize>,
    /// Age since the first record.
    pub interval: Option<crate::unit::Interval>,
    /// Least time between two rotations of a slice.
    pub min_interval: Option<crate::unit::Interval>,
}

/// Import triggers as configured; `None` means the default of the table kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfiguredImport {
    /// Rows in the file.
    pub count: Option<u64>,
    /// Compressed bytes in the file.
    pub size: Option<crate::unit::ByteSize>,
    /// Age since the first record.
    pub interval: Option<crate::unit::Interval>,
    /// Least time between two rotations of a file.
    pub min_interval: Option<crate::unit::Interval>,
    /// Slices in the file.
    pub slices_count: Option<u64>,
}

impl Defaults {
    /// The levels of a sink with a table of `kind` and no settings of its own.
    #[must_use]
    pub fn for_table(&self, kind: TableKind) -> Levels {
        let upload = UploadTrigger::default_for(kind);
        let import = ImportTrigger::default_for(kind);
        let compression = match (kind, self.local.compression) {
            // A Keboola table loads gzip only.
            (TableKind::Keboola, Compression::Zstd { .. }) => Compression::Gzip { level: 1 },
            (_, compression) => compression,
        };
        Levels {
            local: Local {
                compression,
                ..self.local.clone()
            },
            upload: UploadTrigger {
                count: self.upload.count.unwrap_or(upload.count),
                size: self.upload.size.unwrap_or(upload.size),
                interval: self.upload.interval.unwrap_or(upload.interval),
                min_interval: self.upload.min_interval.unwrap_or(upload.min_interval),
            },
            import: ImportTrigger {
                count: self.import.count.unwrap_or(import.count),
                size: self.import.size.unwrap_or(import.size),
                interval: self.import.interval.unwrap_or(import.interval),
                min_interval: self.import.min_interval.unwrap_or(import.min_interval),
                slices_count: self.import.slices_count.unwrap_or(import.slices_count),
            },
            rate: self.rate,
            key_path: String::new(),
            key_mode: KeyMode::default(),
        }
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            local: Local {
                compression: Compression::Zstd { level: 1 },
                durability: Durability::Disk,
                assignment: Assignment {
                    count: 1,
                    preferred_types: vec!["default".to_owned()],
                },
            },
            upload: ConfiguredUpload::default(),
            import: ConfiguredImport::default(),
            rejects: crate::rejects::default_trigger(),
            rate: RateLimit::default(),
        }
    }
}
