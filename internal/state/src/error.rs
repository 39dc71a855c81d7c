//! What can go wrong with the state, and what a caller can do about it.

use std::error::Error as _;

use stream_model::{ErrorKind, VolumeId, file, invariant, slice};

/// A failed operation on the state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// etcd did not answer, or cannot serve requests now. A transaction may have been applied all the same.
    #[error("the state store is not available: {reason}")]
    Unavailable {
        /// What the transport or the server said.
        reason: String,
    },
    /// The user name, the password or the permissions are not accepted.
    #[error("the state store refuses access: {reason}")]
    AccessDenied {
        /// What the server said.
        reason: String,
    },
    /// etcd understood the request and will never accept it.
    #[error("the state store refuses the request: {reason}")]
    Refused {
        /// What the server said.
        reason: String,
    },
    /// Something that the caller read is not the newest any more.
    #[error("{key} was changed or removed in the meantime")]
    Conflict {
        /// The changed key, without the namespace.
        key: String,
    },
    /// Something with this identifier lives already.
    #[error("{key} exists already")]
    AlreadyExists {
        /// The key, without the namespace.
        key: String,
    },
    /// A table is being dropped with the sink that it belonged to.
    #[error(
        "table {table:?} is being dropped with a sink that is purged, try again when it is gone"
    )]
    TableLeaves {
        /// Name of the table.
        table: String,
    },
    /// Nothing with this identifier lives.
    #[error("{key} does not exist")]
    NotFound {
        /// The key, without the namespace.
        key: String,
    },
    /// One more would be too many.
    #[error("{parent} already has {limit} {children}, which is the limit")]
    LimitReached {
        /// Where, for example `branch 1/1`.
        parent: String,
        /// Of what, for example `sources`.
        children: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// The slice's state does not allow the change.
    #[error(transparent)]
    Slice(#[from] slice::IllegalTransition),
    /// The file's state does not allow the change.
    #[error(transparent)]
    File(#[from] file::IllegalTransition),
    /// The change would break a rule.
    #[error(transparent)]
    Violation(#[from] invariant::Violation),
    /// The volume has been opened again since; its present holder decides.
    #[error(
        "volume {volume} was opened again: this process holds incarnation {ours}, the newest is {newest}"
    )]
    StaleIncarnation {
        /// The volume.
        volume: VolumeId,
        /// The caller's incarnation.
        ours: u64,
        /// The stored incarnation; 0 when there is none.
        newest: u64,
    },
    /// The volume was given up for lost.
    #[error("volume {volume} was forgotten at {at}: what is on it is not taken any more")]
    Forgotten {
        /// The volume.
        volume: VolumeId,
        /// When.
        at: stream_model::Timestamp,
    },
    /// A name cannot be part of a key.
    #[error("{name:?} cannot be used as {what}: {rule}")]
    InvalidName {
        /// What it should name.
        what: &'static str,
        /// The refused name.
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The change needs more operations than one transaction may have.
    #[error("the change needs {operations} operations in one transaction, the limit is {limit}")]
    TooLarge {
        /// How many it needs.
        operations: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A stored value cannot be read.
    #[error("the value of {key} cannot be read: {reason}")]
    Corrupt {
        /// The key, without the namespace.
        key: String,
        /// What is wrong with it, without showing any of it.
        reason: String,
    },
    /// A stored value was written by a newer version of the service.
    #[error(
        "{key} has format {found}, this version of the service reads up to {supported}: upgrade this process"
    )]
    NewerFormat {
        /// The key, without the namespace.
        key: String,
        /// The stored format.
        found: u64,
        /// The newest format that this version can read.
        supported: u64,
    },
    /// etcd has an older revision than was seen before: it was replaced, or restored from a backup.
    #[error(
        "the state store went back from revision {seen} to {found}: it was replaced or restored while this process ran, restart the process"
    )]
    WentBack {
        /// The newest revision that was seen.
        seen: i64,
        /// The revision that etcd has now.
        found: i64,
    },
    /// A lock on which the change depends is not held any more.
    #[error("{key} is not held any more: this process was away for longer than its lease")]
    LockLost {
        /// The key of the lock, without the namespace.
        key: String,
    },
    /// The lease is gone; registrations are written again as soon as a new one is granted.
    #[error(
        "the lease of this process has expired: its registrations are about to be written again"
    )]
    LeaseLost,
}

impl StateError {
    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } | Self::LeaseLost => ErrorKind::Unavailable,
            Self::Conflict { .. }
            | Self::AlreadyExists { .. }
            | Self::TableLeaves { .. }
            | Self::LockLost { .. }
            | Self::StaleIncarnation { .. } => ErrorKind::Conflict,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::AccessDenied { .. }
            | Self::Refused { .. }
            | Self::LimitReached { .. }
            | Self::Forgotten { .. }
            | Self::Slice(_)
            | Self::File(_)
            | Self::Violation(_)
            | Self::InvalidName { .. }
            | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::Corrupt { .. } | Self::NewerFormat { .. } | Self::WentBack { .. } => {
                ErrorKind::Corrupt
            }
        }
    }

    pub(crate) fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable {
            reason: reason.into(),
        }
    }

    pub(crate) fn conflict(key: impl ToString) -> Self {
        Self::Conflict {
            key: key.to_string(),
        }
    }

    pub(crate) fn not_found(key: impl ToString) -> Self {
        Self::NotFound {
            key: key.to_string(),
        }
    }

    pub(crate) fn already_exists(key: impl ToString) -> Self {
        Self::AlreadyExists {
            key: key.to_string(),
        }
    }

    pub(crate) fn table_leaves(table: impl ToString) -> Self {
        Self::TableLeaves {
            table: table.to_string(),
        }
    }

    pub(crate) fn violation(entity: impl ToString, rule: &'static str) -> Self {
        Self::Violation(invariant::Violation {
            entity: entity.to_string(),
            rule,
        })
    }

    /// Says why a connection failed.
    pub(crate) fn from_transport(error: &tonic::transport::Error) -> String {
        with_sources("the connection failed", error.source())
    }

    /// Translates an error of the client library.
    pub(crate) fn from_etcd(error: &etcd_client::Error) -> Self {
        use etcd_client::Error as E;
        use tonic::Code;

        match error {
            E::GRpcStatus(status) => {
                let reason = with_sources(status.message(), status.source());
                match status.code() {
                    Code::Unauthenticated | Code::PermissionDenied => Self::AccessDenied { reason },
                    Code::InvalidArgument
                        if reason.contains("authentication failed")
                            || reason.contains("user name is empty") =>
                    {
                        Self::AccessDenied { reason }
                    }
                    Code::NotFound if reason.contains("lease not found") => Self::LeaseLost,
                    Code::InvalidArgument
                    | Code::FailedPrecondition
                    | Code::NotFound
                    | Code::OutOfRange
                    | Code::AlreadyExists
                    | Code::Unimplemented => Self::Refused { reason },
                    Code::Ok
                    | Code::Cancelled
                    | Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::ResourceExhausted
                    | Code::Aborted
                    | Code::Internal
                    | Code::Unavailable
                    | Code::DataLoss => Self::unavailable(reason),
                }
            }
            // The same variant also stands for a broken stream.
            E::LeaseKeepAliveError(reason) if reason.contains("lease not found") => Self::LeaseLost,
            E::InvalidArgs(reason) => Self::Refused {
                reason: reason.clone(),
            },
            E::InvalidUri(_) | E::InvalidMetadataValue(_) | E::EndpointsNotManaged => {
                Self::Refused {
                    reason: error.to_string(),
                }
            }
            E::TransportError(transport) => Self::unavailable(Self::from_transport(transport)),
            E::IoError(_)
            | E::WatchError(_)
            | E::LeaseKeepAliveError(_)
            | E::Utf8Error(_)
            | E::ElectError(_)
            | E::EndpointError(_)
            | E::Internal(_) => Self::unavailable(error.to_string()),
        }
    }
}

/// A message and the messages behind it, each once.
fn with_sources(message: &str, source: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = message.to_owned();
    let mut next = source;
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = error.source();
    }
    text
}

/// Whether etcd answered that the wanted revision is no longer kept.
pub(crate) fn is_compacted(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.code() == tonic::Code::OutOfRange && status.message().contains("compacted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: tonic::Code, message: &str) -> StateError {
        StateError::from_etcd(&etcd_client::Error::GRpcStatus(tonic::Status::new(
            code, message,
        )))
    }

    #[test]
    fn server_answers_become_what_the_caller_can_do() {
        use tonic::Code;
        for (code, message, kind) in [
            (
                Code::Unavailable,
                "etcdserver: no leader",
                ErrorKind::Unavailable,
            ),
            (Code::Unknown, "transport error", ErrorKind::Unavailable),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                ErrorKind::Unavailable,
            ),
            (
                Code::NotFound,
                "etcdserver: requested lease not found",
                ErrorKind::Unavailable,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                ErrorKind::Invalid,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: request is too large",
                ErrorKind::Invalid,
            ),
        ] {
            assert_eq!(status(code, message).kind(), kind, "{message}");
        }
    }

    #[test]
    fn only_the_compaction_answer_counts_as_compacted() {
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        let future = "etcdserver: mvcc: required revision is a future revision";
        let error = |message| {
            etcd_client::Error::GRpcStatus(tonic::Status::new(tonic::Code::OutOfRange, message))
        };
        assert!(is_compacted(&error(compacted)));
        assert!(!is_compacted(&error(future)));
    }
}
