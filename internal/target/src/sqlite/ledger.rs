//! The ledger: which files the database contains.
//!
//! A row is written in the transaction that imports the file, first, so that a second import of it stops before its
//! first row. Rows are kept for at least [`KEPT`]: no caller repeats an import that late.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};
use stream_model::{FileId, Timestamp};

use super::failure;
use crate::{ImportFile, Imported, TargetError};

/// How long the ledger remembers a file.
pub(super) const KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);
/// How often old rows are removed.
pub(super) const PRUNE_INTERVAL: Duration = Duration::from_secs(24 * 3_600);
/// The most rows removed in one import, so that none is held up for long.
const PRUNE_LIMIT: u32 = 10_000;

/// Creates the ledger of a new database.
pub(super) fn create(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS _stream_imports (
            file_id TEXT PRIMARY KEY,
            sink TEXT NOT NULL,
            table_id TEXT NOT NULL,
            rows INTEGER NOT NULL,
            imported_at TEXT NOT NULL
        ) WITHOUT ROWID",
    )
}

/// Enters the file, or answers what is known of it because it was entered before.
pub(super) fn claim(
    db: &Connection,
    file: &ImportFile,
    at: Timestamp,
) -> Result<Option<Imported>, TargetError> {
    let entered = db
        .execute(
            "INSERT INTO _stream_imports (file_id, sink, table_id, rows, imported_at)
             VALUES (?1, ?2, ?3, 0, ?4) ON CONFLICT DO NOTHING",
            (
                file.id.to_string(),
                file.sink.to_string(),
                &file.table.table_id,
                at.to_string(),
            ),
        )
        .map_err(failure::of("write the import ledger"))?;
    if entered == 1 {
        Ok(None)
    } else {
        find(db, file.id)
    }
}

/// Completes the entry of a file with the number of its rows.
pub(super) fn complete(db: &Connection, file: FileId, rows: u64) -> Result<(), TargetError> {
    let rows = i64::try_from(rows).expect("rows are counted one by one");
    db.execute(
        "UPDATE _stream_imports SET rows = ?2 WHERE file_id = ?1",
        (file.to_string(), rows),
    )
    .map_err(failure::of("write the import ledger"))?;
    Ok(())
}

/// Looks a file up.
pub(super) fn find(db: &Connection, file: FileId) -> Result<Option<Imported>, TargetError> {
    let found = db
        .query_row(
            "SELECT CAST(rows AS INTEGER), CAST(imported_at AS TEXT) FROM _stream_imports
             WHERE file_id = ?1",
            [file.to_string()],
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)),
        )
        .optional()
        .map_err(failure::of("read the import ledger"))?;
    let Some((rows, at)) = found else {
        return Ok(None);
    };
    let damaged = || TargetError::Corrupt {
        what: format!("the entry of file {file} in the import ledger is damaged"),
        source: None,
    };
    Ok(Some(Imported {
        rows: u64::try_from(rows).map_err(|_| damaged())?,
        at: at.parse().map_err(|_| damaged())?,
        already: true,
    }))
}

/// Removes entries that are older than [`KEPT`]. Answers whether none are left.
///
/// A file's id begins with the time it was opened, which is before it was imported. The condition on the id thus takes
/// nothing away, but bounds the search to the oldest part of the table, which has no index by time of import.
pub(super) fn prune(db: &Connection, now: Timestamp) -> Result<bool, TargetError> {
    let kept_ms = i64::try_from(KEPT.as_millis()).expect("90 days are few milliseconds");
    let cutoff = Timestamp::from_millis(now.as_millis().saturating_sub(kept_ms));
    let removed = db
        .execute(
            "DELETE FROM _stream_imports WHERE file_id IN (
                SELECT file_id FROM _stream_imports
                WHERE file_id < ?1 AND imported_at < ?2 LIMIT ?3)",
            (
                FileId::new(cutoff, [0; 10]).to_string(),
                cutoff.to_string(),
                PRUNE_LIMIT,
            ),
        )
        .map_err(failure::of("prune the import ledger"))?;
    Ok(removed < PRUNE_LIMIT as usize)
}
