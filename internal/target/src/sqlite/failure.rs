//! What an error of SQLite means for the service.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::TargetError;

/// An error while the database is opened.
pub(super) fn open(path: &Path, error: rusqlite::Error) -> TargetError {
    let reason = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            return TargetError::Corrupt {
                what: format!("{} is not an intact SQLite database", path.display()),
                source: Some(error.into()),
            };
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program has locked it"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "the file or its directory cannot be written"
        }
        Some(ErrorCode::CannotOpen) => "it must be a file, or be possible to create",
        Some(ErrorCode::DiskFull) => "the disk is full",
        _ => "it does not answer as expected",
    };
    TargetError::Open {
        path: path.to_owned(),
        reason,
        source: Some(error.into()),
    }
}

/// An error of an operation on the database as a whole.
pub(super) fn of(operation: &'static str) -> impl Fn(rusqlite::Error) -> TargetError {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => TargetError::Corrupt {
            what: format!("cannot {operation}: the database is damaged"),
            source: Some(error.into()),
        },
        _ => TargetError::Unavailable {
            operation,
            source: error.into(),
        },
    }
}

/// An error of a statement that writes to a table that people may have changed. What SQLite says names tables and
/// columns, never values.
pub(super) fn of_table(
    operation: &'static str,
    table: &str,
) -> impl Fn(rusqlite::Error) -> TargetError {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig) => {
            TargetError::Refused {
                table: table.to_owned(),
                source: error.into(),
            }
        }
        _ => of(operation)(error),
    }
}
