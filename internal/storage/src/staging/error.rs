//! What can go wrong with staging.

use std::fmt;
use std::io;
use std::path::PathBuf;

use stream_model::ErrorKind;

use super::content::Mismatch;

/// What an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An object in staging, by its name.
    Object(String),
    /// The local file of a slice.
    SliceFile(PathBuf),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(name) => write!(f, "object {name}"),
            Self::SliceFile(path) => write!(f, "slice file {}", path.display()),
        }
    }
}

/// Why something could not be staged, or not be read from there.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// The URL asks for a kind of store that this version does not have.
    #[error(
        "staging.url has the scheme {scheme:?}: use file:/// and an absolute path; s3, az and gs come in a later version"
    )]
    UnsupportedScheme {
        /// The scheme. The rest of the URL may contain credentials.
        scheme: String,
    },
    /// The URL is not one.
    #[error("staging.url {url:?} is not valid: {reason}")]
    InvalidUrl {
        /// The URL.
        url: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The name cannot be the name of an object.
    #[error("{name:?} is not the name of an object")]
    InvalidName {
        /// The refused name.
        name: String,
    },
    /// There is no such object, or no such slice file.
    #[error("there is no {subject}")]
    NotFound {
        /// What is missing.
        subject: Subject,
    },
    /// The bytes are not those that were sealed.
    #[error("{subject} is damaged: {mismatch}")]
    Corrupt {
        /// What is damaged.
        subject: Subject,
        /// How it was noticed.
        mismatch: Mismatch,
    },
    /// The directory cannot be used for staging.
    #[error("staging directory {} cannot be used: {reason}", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What does not work there.
        reason: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// An object, or the objects under a prefix, could not be reached.
    #[error("cannot {operation} object {name}")]
    Object {
        /// What was attempted.
        operation: &'static str,
        /// The object or prefix.
        name: String,
        /// What the store said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The process is stopping.
    #[error("staging is stopping")]
    Stopped,
}

impl StagingError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::UnsupportedScheme { .. } | Self::InvalidUrl { .. } | Self::InvalidName { .. } => {
                ErrorKind::Invalid
            }
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Unusable { .. } | Self::Io { .. } | Self::Object { .. } => ErrorKind::Unavailable,
            Self::Stopped => ErrorKind::ShuttingDown,
        }
    }
}
