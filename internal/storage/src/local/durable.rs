//! Recipes for changing the file system so that the change survives power loss.
//!
//! Two rules of POSIX file systems stand behind all of them: the content of a file is durable only after a sync of the
//! file, and its *name* only after a sync of the directory that holds it. Every creation, rename and removal whose
//! outcome matters goes through this module, so the rules are followed in one place. Checked on ext4 and xfs, where a
//! rename over an existing name is atomic.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::crash::{self, Point};

/// What became of [`publish`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The name was free and now names the file.
    Created,
    /// The name was taken; the file that had it was left alone.
    Existed,
}

/// Makes the entries of a directory durable: names created, renamed or removed in it before the call.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the directory that holds `path` durable.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Creates a directory with all its missing ancestors, each durable in its parent.
///
/// # Errors
/// When one cannot be created, or a parent cannot be synced.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut current = path;
    while !current.as_os_str().is_empty() && !current.is_dir() {
        missing.push(current.to_owned());
        let Some(parent) = current.parent() else {
            break;
        };
        current = parent;
    }
    for dir in missing.iter().rev() {
        match fs::create_dir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(error) => return Err(error),
        }
        sync_parent(dir)?;
    }
    Ok(())
}

/// The name under which a file is written before it gets its own. Left-over ones are safe to remove.
#[must_use]
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

/// Creates or replaces a file as a whole: after a crash it has either its old content or all of the new one.
///
/// # Errors
/// When any step fails; the old content, if any, is then still in place or the new one is complete.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    crash::point_at(Point::ReplacementWritten, path);
    file.sync_all()?;
    crash::point_at(Point::ReplacementSynced, path);
    drop(file);
    rename(&temporary, path)
}

/// Creates a file that must not exist, complete and durable, readable by everybody the directory admits.
///
/// # Errors
/// `AlreadyExists` when the name is taken, or when any step fails.
pub fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    match publish(&temporary, path)? {
        Published::Created => Ok(()),
        Published::Existed => Err(io::ErrorKind::AlreadyExists.into()),
    }
}

/// Renames a file whose content is already synced; replaces what had the new name.
///
/// # Errors
/// When the rename or the sync of the directory fails.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    crash::point_at(Point::ReplacementRenamed, to);
    sync_parent(to)
}

/// Gives a file whose content is already synced its final name, unless that name is taken; the temporary name is gone
/// afterwards in both cases.
///
/// # Errors
/// When linking, unlinking or the sync of the directory fails.
pub fn publish(temporary: &Path, path: &Path) -> io::Result<Published> {
    let published = match fs::hard_link(temporary, path) {
        Ok(()) => Published::Created,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Published::Existed,
        Err(error) => return Err(error),
    };
    crash::point_at(Point::PublicationLinked, path);
    fs::remove_file(temporary)?;
    crash::point_at(Point::PublicationUnlinked, path);
    sync_parent(path)?;
    Ok(published)
}

/// Removes a file; a missing one is fine. The removal is durable after [`sync_parent`].
///
/// # Errors
/// When it exists and cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens a file for writing at given offsets, creating it when missing. Content and name are durable only after syncs.
///
/// # Errors
/// When it cannot be opened.
pub fn open_for_writing(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_no_temporary_name() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a/b/file");
        create_dir_all(path.parent().expect("it has one")).expect("created");
        replace(&path, b"old").expect("written");
        replace(&path, b"new").expect("replaced");
        assert_eq!(fs::read(&path).expect("readable"), b"new");
        assert!(!temporary(&path).exists());
    }

    #[test]
    fn publishing_never_overwrites() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        write_new(&path, b"first").expect("created");
        let error = write_new(&path, b"second").expect_err("the name is taken");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("readable"), b"first");
        assert!(!temporary(&path).exists());
    }
}
