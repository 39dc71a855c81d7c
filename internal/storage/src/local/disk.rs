//! The file operations that a volume needs, as a trait, so that tests can put a failing disk below it.
//!
//! Every method works by path or by offset; nothing here keeps a position. [`OsDisk`] is the real one. Names that are
//! created, renamed or removed are durable after [`Disk::sync_dir`], content after [`DiskFile::sync_data`].

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

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
    /// Locks a file against other processes, creating it when missing. None when another process has it.
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

    /// Bytes that an ordinary user could still write to the file system of `path`.
    ///
    /// # Errors
    /// What the disk says.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// The disk of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

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
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
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

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}
