//! What the Storage API, or the way to it, answers instead of what was asked for.

use stream_model::ErrorKind;

/// Why a call did not do what it should. Never holds a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageApiError {
    /// The Storage API refuses.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// It cannot be reached, or does not answer as it should. What was asked for may have happened.
    #[error("cannot {operation}, the Storage API is not available: {reason}")]
    Unavailable {
        /// What was attempted.
        operation: &'static str,
        /// What was in the way.
        reason: String,
    },
    /// Its answer has another form than it should.
    #[error("cannot {operation}, the answer of the Storage API cannot be read: {reason}")]
    Unreadable {
        /// What was attempted.
        operation: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// An error answer in the Storage API's own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// 400 to 499.
    pub status: u16,
    /// Its name, for example `storage.tokenInvalid`.
    pub name: String,
    /// A sentence for people.
    pub message: String,
    /// Finds the case in the logs of the Storage API.
    pub exception_id: Option<String>,
}

impl StorageApiError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(refusal) => match refusal.status {
                404 => ErrorKind::NotFound,
                409 => ErrorKind::Conflict,
                _ => ErrorKind::Invalid,
            },
            Self::Unavailable { .. } => ErrorKind::Unavailable,
            Self::Unreadable { .. } => ErrorKind::Corrupt,
        }
    }

    /// Whether it says that what was asked for is not there.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(Refusal { status: 404, .. }))
    }

    /// Whether it says that what was to be made is there already.
    pub(super) fn is_already_there(&self) -> bool {
        match self {
            Self::Refused(refusal) => {
                refusal.name.ends_with("alreadyExists") || refusal.name.ends_with("AlreadyExists")
            }
            _ => false,
        }
    }
}
