//! Tables of an SQLite database: the target that needs no server.
//!
//! The service is the only regular writer of the database file, but any SQLite client may read it at any time (the
//! journal is a write-ahead log, so readers neither wait nor see half a file), and may even write: both wait for each
//! other for [`BUSY_TIMEOUT`].
//!
//! Two connections. The *writer* is behind an asynchronous mutex that is held for a whole import, because SQLite has one
//! write transaction at a time anyway and waiting there costs no thread. The *reader* answers what the ledger or the
//! schema say without waiting for an import. Both are used on blocking threads only.
//!
//! Durability: `synchronous=FULL` makes every commit sync the log. SQLite syncs the directory when it syncs a log or
//! journal that it has just created (`UNIXFILE_DIRSYNC` in its `os_unix.c`), but never for the database file itself;
//! [`SqliteTarget::open`] therefore syncs the directory once, so that a new database cannot lose its name.
//!
//! Refused: tables whose columns would change the text that is written to them, file systems without shared memory
//! (network file systems) because a write-ahead log cannot work there.

mod failure;
mod ledger;
mod schema;
mod writer;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use rusqlite::{Connection, OpenFlags};
use stream_model::definition::{Table, TableKind};
use stream_model::{Clock, FileId};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinError;

use self::writer::{Fed, Writer};
use crate::{ImportFile, Imported, Removal, RowStream, Target, TargetError, validate_table};

/// How long a write waits for another program that writes the same database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Blocks between the stream and the writing thread: filled by [`feed`], drained by [`Writer::import`]. Two keep both
/// sides busy; each holds at most 1 MiB.
const BLOCKS_IN_FLIGHT: usize = 2;

/// A large import leaves a log as large; beyond this size it is cut back after the next checkpoint.
const LOG_SIZE_LIMIT: u32 = 64 << 20;

/// The most memory that the writing connection uses for pages, in KiB. Keys in random order touch pages all over the
/// index; with SQLite's own 2 MiB such an import writes each of them many times.
const PAGE_CACHE_KIB: i32 = 16 << 10;

/// The tables of one SQLite database.
pub struct SqliteTarget {
    writer: Arc<Mutex<Writer>>,
    reader: Arc<Mutex<Connection>>,
    clock: Arc<dyn Clock>,
}

impl SqliteTarget {
    /// Opens the database, creating it when there is none. Blocks; meant for the start of the process.
    ///
    /// # Errors
    /// When the file cannot be created or written, is locked by another program, or is not an SQLite database.
    pub fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        Self::open_with(path, clock, BUSY_TIMEOUT)
    }

    fn open_with(
        path: &Path,
        clock: Arc<dyn Clock>,
        busy_timeout: Duration,
    ) -> Result<Self, TargetError> {
        let writer = open_writer(path, busy_timeout)?;
        sync_directory(path)?;
        let reader = open_reader(path, busy_timeout).map_err(|e| failure::open(path, e))?;
        Ok(Self {
            writer: Arc::new(Mutex::new(Writer::new(writer))),
            reader: Arc::new(Mutex::new(reader)),
            clock,
        })
    }

    /// Runs `question` on the reading connection.
    async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, TargetError> + Send + 'static,
    ) -> Result<T, TargetError> {
        let reader = Arc::clone(&self.reader).lock_owned().await;
        joined(tokio::task::spawn_blocking(move || question(&reader)).await)
    }
}

impl std::fmt::Debug for SqliteTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteTarget").finish_non_exhaustive()
    }
}

#[async_trait]
impl Target for SqliteTarget {
    fn kind(&self) -> TableKind {
        TableKind::Sqlite
    }

    async fn prepare(&self, table: &Table) -> Result<(), TargetError> {
        validate_table(table)?;
        // A table that is as wanted is the usual case and needs no turn at writing, which may be an import away.
        let wanted = table.clone();
        if self.read(move |db| schema::matches(db, &wanted)).await? {
            return Ok(());
        }
        let wanted = table.clone();
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        joined(tokio::task::spawn_blocking(move || writer.prepare(&wanted)).await)
    }

    async fn import(&self, file: &ImportFile, rows: RowStream) -> Result<Imported, TargetError> {
        validate_table(&file.table)?;
        // Asked without a turn at writing; asked again, and decided, inside the transaction.
        if let Some(imported) = self.status(file.id).await? {
            return Ok(imported);
        }
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let (sender, mut receiver) = mpsc::channel(BLOCKS_IN_FLIGHT);
        let (file, clock) = (file.clone(), Arc::clone(&self.clock));
        let writing = tokio::task::spawn_blocking(move || {
            writer.import(&file, &mut receiver, clock.as_ref())
        });
        let fed = feed(rows, sender).await;
        match (joined(writing.await), fed) {
            // Whatever happened to the rows, a file that was imported before is imported.
            (Ok(imported), _) => Ok(imported),
            (Err(_), Err(failed)) => Err(failed),
            (Err(failed), Ok(())) => Err(failed),
        }
    }

    async fn status(&self, file: FileId) -> Result<Option<Imported>, TargetError> {
        self.read(move |db| ledger::find(db, file)).await
    }

    async fn remove(&self, removal: &Removal) -> Result<BTreeSet<FileId>, TargetError> {
        validate_table(&removal.table)?;
        let (removal, clock) = (removal.clone(), Arc::clone(&self.clock));
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let removing = tokio::task::spawn_blocking(move || writer.remove(&removal, clock.as_ref()));
        joined(removing.await)
    }
}

/// Hands the rows to the writing thread. The mark at the end tells it to commit: without the mark, be it for an error of
/// the stream or because this future was dropped, it rolls back.
async fn feed(mut rows: RowStream, sender: mpsc::Sender<Fed>) -> Result<(), TargetError> {
    loop {
        let block = tokio::select! {
            biased;
            // The writing thread has ended early; its result says why.
            () = sender.closed() => return Ok(()),
            block = rows.next() => block,
        };
        let fed = match block {
            Some(block) => Fed::Block(block.map_err(TargetError::Rows)?),
            None => Fed::End,
        };
        let ends = matches!(fed, Fed::End);
        if sender.send(fed).await.is_err() || ends {
            return Ok(());
        }
    }
}

/// The result of a blocking call. Its panic goes on in the caller; being cancelled means that the runtime is stopping.
fn joined<T>(result: Result<Result<T, TargetError>, JoinError>) -> Result<T, TargetError> {
    match result.map_err(JoinError::try_into_panic) {
        Ok(result) => result,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_cancelled)) => Err(TargetError::Stopped),
    }
}

fn open_writer(path: &Path, busy_timeout: Duration) -> Result<Connection, TargetError> {
    let refuse = |reason| TargetError::Open {
        path: path.to_owned(),
        reason,
        source: None,
    };
    if !directory_of(path).is_dir() {
        return Err(refuse("its directory does not exist"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error| failure::open(path, error);
    let db = Connection::open_with_flags(path, flags).map_err(failed)?;
    // SQLite opens a file that it may not write for reading, and would fail only at the first import.
    if db.is_readonly("main").map_err(failed)? {
        return Err(refuse("the file cannot be written"));
    }
    db.busy_timeout(busy_timeout).map_err(failed)?;
    let mode: String = db
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(failed)?;
    if mode != "wal" {
        return Err(refuse("its file system does not support a write-ahead log"));
    }
    db.pragma_update(None, "synchronous", "full")
        .map_err(failed)?;
    // Negative numbers are KiB, positive ones pages.
    db.pragma_update(None, "cache_size", -PAGE_CACHE_KIB)
        .map_err(failed)?;
    db.pragma_update_and_check(None, "journal_size_limit", LOG_SIZE_LIMIT, |_| Ok(()))
        .map_err(failed)?;
    ledger::create(&db).map_err(failed)?;
    Ok(db)
}

fn open_reader(path: &Path, busy_timeout: Duration) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(busy_timeout)?;
    Ok(db)
}

fn sync_directory(path: &Path) -> Result<(), TargetError> {
    File::open(directory_of(path))
        .and_then(|directory| directory.sync_all())
        .map_err(|error| TargetError::Open {
            path: path.to_owned(),
            reason: "its directory cannot be synced",
            source: Some(error.into()),
        })
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests;
