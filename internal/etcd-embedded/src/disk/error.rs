//! Why a data directory cannot be opened.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The server cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be created, read or written.
    #[error("cannot use the data directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another process holds the directory.
    #[error("another process uses the data directory {}", path.display())]
    AlreadyOpen {
        /// The directory.
        path: PathBuf,
    },
    /// A socket cannot be bound.
    #[error("cannot listen on {address}")]
    Listen {
        /// What was to be bound.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file was written by a version of this program that stores things differently.
    #[error("{} has format {found}, this version reads format {supported}", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// The format of the file.
        found: i64,
        /// The only format this version knows.
        supported: i64,
    },
    /// The file does not hold what was written to it.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file cannot be read or written.
    #[error("cannot open {}", path.display())]
    Storage {
        /// The file.
        path: PathBuf,
        /// What the database says.
        #[source]
        source: Box<redb::Error>,
    },
}

impl OpenError {
    /// Sorts out what an error of the database means for whoever opens it.
    pub(crate) fn storage(path: &Path, error: impl Into<redb::Error>) -> Self {
        let path = path.to_owned();
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::AlreadyOpen {
                path: path.parent().map(Path::to_owned).unwrap_or(path),
            },
            redb::Error::Io(error) if is_damage(&error) => Self::Damaged {
                path,
                reason: error.to_string(),
            },
            redb::Error::Corrupted(reason) => Self::Damaged { path, reason },
            error @ (redb::Error::RepairAborted
            | redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableDoesNotExist(_)) => Self::Damaged {
                path,
                reason: error.to_string(),
            },
            error => Self::Storage {
                path,
                source: Box::new(error),
            },
        }
    }

    pub(crate) fn listen_tcp(address: SocketAddr, source: io::Error) -> Self {
        Self::Listen {
            address: address.to_string(),
            source,
        }
    }

    pub(crate) fn listen_unix(path: &Path, source: io::Error) -> Self {
        Self::Listen {
            address: path.display().to_string(),
            source,
        }
    }
}

/// redb reports a file that is no database, or too short, as an error of the input.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}
