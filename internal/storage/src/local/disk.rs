//! The file operations that a volume needs, as a trait, so that tests can put a failing disk below it.
//!
//! Every method works by path or by offset; nothing here keeps a position. [`OsDisk`] is the real one. Names that are
//! created, renamed or removed are durable after [`Disk::sync_dir`], content after [`DiskFile::sync_data`].

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::durable;

/// An open file.
pub trait DiskFile: Send + Sync + Debug {
    /// Fills the buffer from `offset`. A file that ends sooner is an error.
    ///
    /// # Errors
    /// `UnexpectedEof`, or what the disk says.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all bytes at `offset`.
    ///
    /// # Errors
    /// What the disk says; any part of the bytes may then have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written so far durable, with the length of the file.
    ///
    /// # Errors
    /// What the disk says. After an error nothing is known of any write since the last success, and a later success says
    /// nothing about them: the operating system may have dropped the pages.
    fn sync_data(&self) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    /// What the disk says.
    fn size(&self) -> io::Result<u64>;

    /// Cuts or extends the file.
    ///
    /// # Errors
    /// What the disk says.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// A lock that a process holds on a file until it drops this.
pub type DiskLock = Box<dyn Send>;

/// A file system.
pub trait Disk: Send + Sync + Debug {
    /// Locks a file against other processes, creating it when missing, and the directory that it is in. None when another
    /// process has either.
    ///
    /// # Errors
    /// What the disk says.
    fn lock(&self, path: &Path) -> io::Result<Option<DiskLock>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, or what the disk says.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading and writing, creating it when missing.
    ///
    /// # Errors
    /// What the disk says.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Reads a whole small file.
    ///
    /// # Errors
    /// `NotFound`, or what the disk says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Creates or replaces a whole small file, durably: afterwards, and after any crash, it has the old or the new content.
    ///
    /// # Errors
    /// What the disk says.
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Renames a file.
    ///
    /// # Errors
    /// What the disk says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; a missing one is fine.
    ///
    /// # Errors
    /// What the disk says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory and its missing ancestors, durably.
    ///
    /// # Errors
    /// What the disk says.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The files in a directory.
    ///
    /// # Errors
    /// What the disk says.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;

    /// Makes names in a directory durable.
    ///
    /// # Errors
    /// What the disk says.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the content of existing files durable, as [`DiskFile::sync_data`] does. Here one after the other; a disk that
    /// can do several at a time says so by another implementation.
    ///
    /// # Errors
    /// A file that could not be synced, or else opened. Of the others nothing is known then.
    fn sync_files(&self, paths: &[PathBuf]) -> Result<(), SyncError> {
        sync_one_by_one(self, paths)
    }

    /// Bytes that an ordinary user could still write to the file system of `path`.
    ///
    /// # Errors
    /// What the disk says.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// Why [`Disk::sync_files`] did not sync all of them.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// One could not be opened. That puts nothing in doubt.
    #[error(transparent)]
    Open(io::Error),
    /// A sync failed: nothing is known of the file any more, see [`DiskFile::sync_data`].
    #[error("cannot sync {}", path.display())]
    Sync {
        /// The file.
        path: PathBuf,
        /// What the disk says.
        #[source]
        source: io::Error,
    },
}

fn sync_one_by_one<D: Disk + ?Sized>(disk: &D, paths: &[PathBuf]) -> Result<(), SyncError> {
    paths.iter().try_for_each(|path| {
        let file = disk.open(path).map_err(SyncError::Open)?;
        file.sync_data().map_err(|source| {
            let path = path.clone();
            SyncError::Sync { path, source }
        })
    })
}

/// Files that [`OsDisk`] syncs at a time. A file system commits its own journal once for all that wait, so that many small
/// files take a tenth of the time; with more of them at a time the journal of the volume would wait behind them.
const SYNCS_AT_A_TIME: usize = 8;

/// The disk of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

/// The disk that a service has: [`OsDisk`], or in tests that want it the same with faults.
#[must_use]
pub fn of_the_machine() -> Arc<dyn Disk> {
    #[cfg(feature = "failpoints")]
    return Arc::new(crate::crash::FailingDisk);
    #[cfg(not(feature = "failpoints"))]
    Arc::new(OsDisk)
}

impl DiskFile for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }
}

impl Disk for OsDisk {
    fn lock(&self, path: &Path) -> io::Result<Option<DiskLock>> {
        let file = durable::open_for_writing(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Somebody may remove the file while it is locked, and whoever comes next would make and lock another one.
        let dir = File::open(path.parent().unwrap_or(path))?;
        match dir.try_lock() {
            Ok(()) => Ok(Some(Box::new((file, dir)))),
            Err(TryLockError::WouldBlock) => Ok(None),
            // Some network file systems lock no directories.
            Err(TryLockError::Error(_)) => Ok(Some(Box::new(file))),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(
            OpenOptions::new().read(true).write(true).open(path)?,
        ))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(durable::open_for_writing(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        durable::replace(path, content)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        durable::remove(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        durable::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                files.push(entry.path());
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        durable::sync_dir(path)
    }

    fn sync_files(&self, paths: &[PathBuf]) -> Result<(), SyncError> {
        let share = paths.len().div_ceil(SYNCS_AT_A_TIME).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = paths
                .chunks(share)
                .map(|paths| {
                    let thread = std::thread::Builder::new().name("volume-sync".to_owned());
                    (
                        paths,
                        thread.spawn_scoped(scope, || sync_one_by_one(self, paths)),
                    )
                })
                .collect();
            let mut result = Ok(());
            for (paths, thread) in threads {
                let own = match thread {
                    Ok(thread) => thread
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    // No more threads are to be had.
                    Err(_) => sync_one_by_one(self, paths),
                };
                if result.is_ok() || matches!(own, Err(SyncError::Sync { .. })) {
                    result = own;
                }
            }
            result
        })
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_files_are_synced_and_a_missing_one_is_told() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut paths: Vec<_> = (0..50)
            .map(|number| dir.path().join(number.to_string()))
            .collect();
        for path in &paths {
            fs::write(path, b"rows").expect("written");
        }
        OsDisk.sync_files(&paths).expect("all are there");
        OsDisk.sync_files(&[]).expect("nothing to do");
        for missing in [0, 17, 50] {
            paths.insert(missing, dir.path().join("missing"));
            let failed = OsDisk.sync_files(&paths);
            assert!(
                matches!(&failed, Err(SyncError::Open(error)) if error.kind() == io::ErrorKind::NotFound),
                "{failed:?}"
            );
            paths.remove(missing);
        }
    }
}
