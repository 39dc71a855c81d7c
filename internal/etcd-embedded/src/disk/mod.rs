//! What is on disk: one redb file with the changes since the last compaction and a few facts about the server.
//!
//! Table `changes`: (revision, position) → row (see [`row`]). Table `meta`: name → number; `format` is the version
//! of this layout, `compacted` the revision of the last compaction, `cluster` and `member` the identity, `boots` the
//! number of openings. The newest revision is the one of the last row, which compaction never removes.
//!
//! The file is created under another name and renamed when it is complete, so a crash during the creation leaves
//! nothing that looks like a damaged store.
//!
//! redb writes a changed page to a free place and frees the old one with a later commit, and it grows the file ahead. So the
//! file has a bound but is larger than its rows: measured (values of 5 kB) at most 3.2 times as large, however long the same
//! keys are overwritten. The rows are the live keys plus the history, and that is cut at [`crate::Options::keep_revisions`]
//! and 64 MiB. To shrink, the file must be defragmented. Compaction by time, which etcd offers, would bound nothing that is
//! not bounded already.
//!
//! Commits are redb's default: one sync, checksums over everything. The whole file is verified whenever it is opened,
//! by redb itself after an unclean stop: measured 2 ms for 1 MB, 23 ms for 17 MB, 127 ms for 135 MB, and compaction
//! bounds the file. "Quick repair" would save two thirds of that after a crash, and make every commit 70 % slower (a
//! second sync).

mod error;
mod room;
mod row;
#[cfg(test)]
pub(crate) mod simulated;

pub use error::OpenError;

use std::cell::Cell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use redb::{
    Builder, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    TableDefinition,
};

use self::room::Room;
use crate::directory::{self, DirectoryLock};
use crate::mvcc::{Change, RowId};

const FILE: &str = "etcd.redb";
const UNFINISHED_FILE: &str = "etcd.redb.new";
const FORMAT: i64 = 1;
/// Everything is in memory already, so the cache only serves the inner pages of the trees while writing.
const CACHE_BYTES: usize = 16 << 20;

const META: TableDefinition<&str, i64> = TableDefinition::new("meta");
const CHANGES: TableDefinition<(i64, u32), &[u8]> = TableDefinition::new("changes");

const KEY_FORMAT: &str = "format";
const KEY_COMPACTED: &str = "compacted";
const KEY_CLUSTER: &str = "cluster";
const KEY_MEMBER: &str = "member";
const KEY_BOOTS: &str = "boots";

/// Who the server says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cluster: u64,
    pub(crate) member: u64,
    /// How often the directory was opened, this time included.
    pub(crate) boots: u64,
}

/// Everything the file holds.
#[derive(Debug)]
pub(crate) struct Contents {
    /// As of the previous boot.
    pub(crate) identity: Identity,
    pub(crate) compacted: Option<i64>,
    pub(crate) changes: Vec<Change>,
}

/// What one commit makes durable.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) changes: Vec<Arc<Change>>,
    pub(crate) compaction: Option<Compaction>,
    pub(crate) boots: Option<u64>,
}

/// Rows that nobody can see any more.
#[derive(Debug)]
pub(crate) struct Compaction {
    pub(crate) target: i64,
    pub(crate) superseded: Vec<RowId>,
}

/// The open file. The directory is held until it is closed.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Taken when it is closed.
    database: Option<Database>,
    path: PathBuf,
    /// None for a disk that is only simulated.
    room: Option<Room>,
    // Dropped after the database: nobody else may open the file before redb has closed it.
    _directory: DirectoryLock,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.compaction.is_none() && self.boots.is_none()
    }
}

impl Disk {
    /// Opens the file in `dir`, creating it when missing, and reads everything.
    pub(crate) fn open(dir: &Path, lock: DirectoryLock) -> Result<(Self, Contents), OpenError> {
        let path = dir.join(FILE);
        let exists = path.try_exists().map_err(|source| OpenError::Directory {
            path: dir.to_owned(),
            source,
        })?;
        if !exists {
            create(dir, &path)?;
        }
        let mut room = Room::find(dir, &path);
        let (database, contents) = open_and_read(&path, |builder| builder.open(&path))?;
        // An unclean stop leaves the file longer than it is after the repair.
        room.look();
        let disk = Self {
            database: Some(database),
            path,
            room: Some(room),
            _directory: lock,
        };
        Ok((disk, contents))
    }

    /// Makes the batch durable: all of it or, after an error, possibly none of it. After an error nothing more can be
    /// written.
    pub(crate) fn commit(&self, batch: &Batch) -> Result<(), redb::Error> {
        let database = self
            .database
            .as_ref()
            .expect("the database is open until it is dropped");
        let transaction = database.begin_write()?;
        {
            let mut changes = transaction.open_table(CHANGES)?;
            for change in &batch.changes {
                let bytes = row::encode(change);
                changes.insert((change.revision, change.position), bytes.as_slice())?;
            }
            if let Some(compaction) = &batch.compaction {
                for id in &compaction.superseded {
                    changes.remove(id)?;
                }
                let mut meta = transaction.open_table(META)?;
                meta.insert(KEY_COMPACTED, compaction.target)?;
            }
        }
        if let Some(boots) = batch.boots {
            let mut meta = transaction.open_table(META)?;
            meta.insert(KEY_BOOTS, boots.cast_signed())?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Moves what is in use to the front of the file and cuts off the rest. As with a commit, nothing more can be written
    /// after an error.
    pub(crate) fn defragment(&mut self) -> Result<(), redb::Error> {
        let database = self
            .database
            .as_mut()
            .expect("the database is open until it is dropped");
        database.compact()?;
        Ok(())
    }

    /// What the file occupies; 0 when the system does not tell.
    pub(crate) fn bytes(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Keeps or gives up room on the disk, as there is. Before a commit.
    pub(crate) fn look_for_room(&mut self) {
        if let Some(room) = &mut self.room {
            room.look();
        }
    }

    /// Bytes that are kept beside the file for a full disk.
    pub(crate) fn ballast_bytes(&self) -> u64 {
        self.room.as_ref().map_or(0, Room::bytes)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let database = self.database.take();
        // Closing writes once more. Everything acknowledged is durable before that, so a failure loses nothing.
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::error!(file = %self.path.display(), "state store could not be closed");
        }
    }
}

/// A checksum of the rows of these changes, in their order.
pub(crate) fn checksum<'a>(changes: impl Iterator<Item = &'a Change>) -> u32 {
    changes.fold(0, |sum, change| {
        crc32c::crc32c_append(sum, &row::encode(change))
    })
}

/// Runs `open`, which reads a file that may be damaged. redb checks what it reads, but not so thoroughly that no damage
/// can make it panic.
pub(crate) fn guard<T>(
    dir: &Path,
    open: impl FnOnce() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| {
        Err(OpenError::Damaged {
            path: dir.join(FILE),
            reason: "the database cannot be read".to_owned(),
        })
    })
}

fn create(dir: &Path, path: &Path) -> Result<(), OpenError> {
    let unfinished = dir.join(UNFINISHED_FILE);
    let failed = |source| OpenError::Directory {
        path: dir.to_owned(),
        source,
    };
    if unfinished.exists() {
        fs::remove_file(&unfinished).map_err(failed)?;
    }
    let database = builder().create(&unfinished);
    database
        .map_err(redb::Error::from)
        .and_then(|database| write_empty(&database))
        .map_err(|error| OpenError::storage(&unfinished, error))?;
    fs::rename(&unfinished, path).map_err(failed)?;
    directory::sync(dir).map_err(failed)
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

fn write_empty(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        transaction.open_table(CHANGES)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert(KEY_FORMAT, FORMAT)?;
        meta.insert(KEY_CLUSTER, rand::random::<i64>())?;
        meta.insert(KEY_MEMBER, rand::random::<i64>())?;
        meta.insert(KEY_BOOTS, 0)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Opens the file by `open`, verifies all of it, and reads it.
fn open_and_read(
    path: &Path,
    open: impl FnOnce(&mut Builder) -> Result<Database, redb::DatabaseError>,
) -> Result<(Database, Contents), OpenError> {
    let failed = |error: redb::DatabaseError| OpenError::storage(path, error);
    let verified = Rc::new(Cell::new(false));
    let repairing = Rc::clone(&verified);
    let mut builder = builder();
    builder.set_repair_callback(move |_| repairing.set(true));
    let mut database = open(&mut builder).map_err(failed)?;
    if verified.get() {
        tracing::info!("state store was not closed cleanly and has been checked");
    } else if !database.check_integrity().map_err(failed)? {
        tracing::error!(file = %path.display(), "state store was damaged and has been repaired");
    }
    let contents = read(&database, path)?;
    Ok((database, contents))
}

fn read(database: &Database, path: &Path) -> Result<Contents, OpenError> {
    let transaction = database
        .begin_read()
        .map_err(|error| OpenError::storage(path, error))?;
    let meta = Meta::read(&transaction, path)?;
    let format = meta.required(KEY_FORMAT)?;
    if format != FORMAT {
        return Err(OpenError::UnknownFormat {
            path: path.to_owned(),
            found: format,
            supported: FORMAT,
        });
    }
    Ok(Contents {
        identity: Identity {
            cluster: meta.required(KEY_CLUSTER)?.cast_unsigned(),
            member: meta.required(KEY_MEMBER)?.cast_unsigned(),
            boots: meta.required(KEY_BOOTS)?.cast_unsigned(),
        },
        compacted: meta.number(KEY_COMPACTED)?,
        changes: read_changes(&transaction, path)?,
    })
}

fn read_changes(transaction: &ReadTransaction, path: &Path) -> Result<Vec<Change>, OpenError> {
    let failed = |error: redb::StorageError| OpenError::storage(path, error);
    let table = transaction
        .open_table(CHANGES)
        .map_err(|error| OpenError::storage(path, error))?;
    let mut changes = Vec::new();
    for entry in table.iter().map_err(failed)? {
        let (id, bytes) = entry.map_err(failed)?;
        let (revision, position) = id.value();
        let change = row::decode((revision, position), bytes.value());
        changes.push(change.map_err(|reason| OpenError::Damaged {
            path: path.to_owned(),
            reason: format!("revision {revision}.{position}: {reason}"),
        })?);
    }
    Ok(changes)
}

/// The facts about the server.
struct Meta<'a> {
    table: ReadOnlyTable<&'static str, i64>,
    path: &'a Path,
}

impl<'a> Meta<'a> {
    fn read(transaction: &ReadTransaction, path: &'a Path) -> Result<Self, OpenError> {
        let table = transaction
            .open_table(META)
            .map_err(|error| OpenError::storage(path, error))?;
        Ok(Self { table, path })
    }

    fn number(&self, key: &str) -> Result<Option<i64>, OpenError> {
        let found = self.table.get(key);
        found
            .map(|found| found.map(|number| number.value()))
            .map_err(|error| OpenError::storage(self.path, error))
    }

    fn required(&self, key: &str) -> Result<i64, OpenError> {
        self.number(key)?.ok_or_else(|| OpenError::Damaged {
            path: self.path.to_owned(),
            reason: format!("`{key}` is missing"),
        })
    }
}
