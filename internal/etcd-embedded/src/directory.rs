//! The data directory: created for this user only, held by one process at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::disk::OpenError;

const LOCK_FILE: &str = "etcd.lock";

/// Proof that this process alone uses the directory; dropping it lets another process in.
#[derive(Debug)]
#[must_use]
pub(crate) struct DirectoryLock {
    _file: File,
}

/// Creates the directory when it is missing, and takes it.
pub(crate) fn take(dir: &Path) -> Result<(PathBuf, DirectoryLock), OpenError> {
    let failed = |source| OpenError::Directory {
        path: dir.to_owned(),
        source,
    };
    create(dir).map_err(failed)?;
    let dir = dir.canonicalize().map_err(failed)?;
    let file = open_lock_file(&dir).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok((dir, DirectoryLock { _file: file })),
        Err(TryLockError::WouldBlock) => Err(OpenError::AlreadyOpen { path: dir }),
        Err(TryLockError::Error(source)) => Err(OpenError::Directory { path: dir, source }),
    }
}

/// Creates what is missing of the path, so that it survives a power loss: what is acknowledged later depends on it.
fn create(dir: &Path) -> io::Result<()> {
    let dir = std::path::absolute(dir)?;
    let missing: Vec<&Path> = dir.ancestors().take_while(|path| !path.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        sync(parent)?;
    }
    Ok(())
}

fn open_lock_file(dir: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(LOCK_FILE))
}

/// Makes the creation or renaming of a file in the directory survive a power loss.
pub(crate) fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
