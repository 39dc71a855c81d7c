//! What can go wrong between rows and a table.

use std::error::Error;
use std::path::PathBuf;

use stream_model::ErrorKind;

/// An error of whatever library a target is built on.
pub(crate) type Source = Box<dyn Error + Send + Sync>;

/// That the producer of rows failed. The cause is the producer's own error, to be downcast by whoever supplied the rows.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RowsError(pub Box<dyn Error + Send + Sync>);

/// Why a table could not be prepared, or a file not be imported.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The definition of the table is not acceptable, or does not fit the table that exists.
    #[error("table {table:?} cannot be used: {reason}")]
    InvalidTable {
        /// Name of the table.
        table: String,
        /// What is wrong and what would be accepted.
        reason: String,
    },
    /// The target does not accept a row, for example because of a constraint that a person added to the table.
    #[error("table {table:?} does not accept the rows")]
    Refused {
        /// Name of the table.
        table: String,
        /// What the target said.
        #[source]
        source: Source,
    },
    /// The database cannot be opened.
    #[error("cannot open the database {}: {reason}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// What is in the way.
        reason: &'static str,
        /// What the target said.
        #[source]
        source: Option<Source>,
    },
    /// The target cannot do it now.
    #[error("cannot {operation}")]
    Unavailable {
        /// What was attempted.
        operation: &'static str,
        /// What the target said.
        #[source]
        source: Source,
    },
    /// Stored bytes, or the rows themselves, are not what they should be.
    #[error("{what}")]
    Corrupt {
        /// What is damaged.
        what: String,
        /// What the target said, if it found the damage.
        #[source]
        source: Option<Source>,
    },
    /// The rows ended with an error instead of the last row.
    #[error("cannot read the rows of the file")]
    Rows(#[source] RowsError),
    /// The process is stopping, or the caller gave up.
    #[error("the import was stopped before its last row")]
    Stopped,
}

impl TargetError {
    /// What the caller can do about it. [`TargetError::Rows`] answers `Unavailable`, because most producers read over a
    /// network; the producer's own error inside knows better.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidTable { .. } | Self::Refused { .. } => ErrorKind::Invalid,
            Self::Open { .. } | Self::Unavailable { .. } | Self::Rows(_) => ErrorKind::Unavailable,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Stopped => ErrorKind::ShuttingDown,
        }
    }
}
