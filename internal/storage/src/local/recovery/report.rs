//! What opening a volume found.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What opening a volume found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// The volume was made just now.
    pub created: bool,
    /// Slices on the volume.
    pub slices: usize,
    /// Rows in them.
    pub rows: u64,
    /// What was lost.
    pub damage: Vec<Damage>,
    /// Files in the volume's directories that it does not know. They are left alone.
    pub unknown_files: Vec<PathBuf>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Bytes that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// The first damaged byte.
    pub from: u64,
    /// The byte behind the last damaged one.
    pub to: u64,
    /// Rows that are lost with it; none when that cannot be told.
    pub rows: Option<u64>,
    /// What was expected there.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes {}..{}: {}, ",
            self.file.display(),
            self.from,
            self.to,
            self.what
        )?;
        match self.rows {
            Some(rows) => write!(f, "{rows} rows lost"),
            None => f.write_str("unknown how many rows are lost"),
        }
    }
}
