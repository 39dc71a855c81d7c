//! The machine's disk with a fault before each call.

use std::io;
use std::path::{Path, PathBuf};

use super::Fault;
use super::armed::fault;
use crate::local::disk::{Disk, DiskFile, DiskLock, OsDisk, SyncError};

/// The disk of the machine, which fails where it is told to.
#[derive(Debug)]
pub(crate) struct FailingDisk;

#[derive(Debug)]
struct FailingFile {
    path: PathBuf,
    file: Box<dyn DiskFile>,
}

impl FailingFile {
    fn boxed(path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let path = path.to_owned();
        Box::new(Self { path, file })
    }
}

impl DiskFile for FailingFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        fault(Fault::Read, &self.path)?;
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        fault(Fault::Write, &self.path)?;
        self.file.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        fault(Fault::Sync, &self.path)?;
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        fault(Fault::SetLen, &self.path)?;
        self.file.set_len(len)
    }
}

impl Disk for FailingDisk {
    fn lock(&self, path: &Path) -> io::Result<Option<DiskLock>> {
        OsDisk.lock(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        fault(Fault::Open, path)?;
        Ok(FailingFile::boxed(path, OsDisk.open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        fault(Fault::Create, path)?;
        Ok(FailingFile::boxed(path, OsDisk.create(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fault(Fault::Read, path)?;
        OsDisk.read(path)
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        fault(Fault::Replace, path)?;
        OsDisk.replace(path, content)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fault(Fault::Rename, from)?;
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fault(Fault::Remove, path)?;
        OsDisk.remove(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fault(Fault::CreateDir, path)?;
        OsDisk.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        fault(Fault::List, path)?;
        OsDisk.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fault(Fault::SyncDir, path)?;
        OsDisk.sync_dir(path)
    }

    fn sync_files(&self, paths: &[PathBuf]) -> Result<(), SyncError> {
        for path in paths {
            fault(Fault::Open, path).map_err(SyncError::Open)?;
            fault(Fault::Sync, path).map_err(|source| {
                let path = path.clone();
                SyncError::Sync { path, source }
            })?;
        }
        OsDisk.sync_files(paths)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        OsDisk.free_bytes(path)
    }
}
