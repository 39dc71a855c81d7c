//! Room that a volume keeps on its disk for when somebody else has filled it: two files of zeroes beside the journal.
//!
//! | file | given up | for |
//! |---|---|---|
//! | `opening.ballast` | by an opening that finds no room to write the newest segment anew, and when the other file was not enough | that copy, or a segment: the file becomes it |
//! | `running.ballast` | when there is no room for a segment, a slice file or a checkpoint | sealing: what is sealed can be uploaded, which makes room |
//!
//! Bytes that are free now may be gone a moment later, those of a file are not. Both files are made again once there is
//! room; batches never get any of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::Disk;
use super::segment::write_zeroes;

const OPENING: &str = "opening.ballast";
const RUNNING: &str = "running.ballast";
/// Under this name a file is made. An opening removes what is left of it, as every spare segment.
const UNFINISHED: &str = "ballast.spare";

/// Whether an error says that there is no room.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Whether the file is one of the two.
pub(super) fn is_ballast(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name == OPENING || name == RUNNING)
}

/// The two files of one volume.
#[derive(Debug)]
pub(super) struct Ballast {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// What is known of the files. Never locked while the disk works: the two threads that ask would wait for it.
    held: Mutex<Held>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    /// Length of the first file; 0 for none.
    opening: u64,
    /// Length of the second file; 0 for none.
    running: u64,
    /// How often the first file was taken.
    taken: u64,
}

impl Ballast {
    /// What an earlier run has left in the directory of the journal.
    ///
    /// # Errors
    /// What the disk says.
    pub fn find(disk: Arc<dyn Disk>, dir: PathBuf) -> io::Result<Self> {
        let len = |name: &str| match disk.open(&dir.join(name)) {
            Ok(file) => file.size(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        };
        let held = Held {
            opening: len(OPENING)?,
            running: len(RUNNING)?,
            taken: 0,
        };
        Ok(Self {
            disk,
            dir,
            held: Mutex::new(held),
        })
    }

    /// Bytes that are to be made so that both files are as long as they should be, when the longest segment in use is
    /// `longest`.
    pub fn missing(&self, longest: u64) -> u64 {
        let held = *self.held.lock();
        let opening = if held.opening < longest { longest } else { 0 };
        let running = if held.running == 0 { longest / 2 } else { 0 };
        opening + running
    }

    /// Makes what is missing. For the flush thread.
    ///
    /// # Errors
    /// What the disk says.
    pub fn prepare(&self, longest: u64) -> io::Result<()> {
        let held = *self.held.lock();
        if held.opening < longest {
            self.make(OPENING, longest)?;
            let mut now = self.held.lock();
            // Taken meanwhile, it may have been the old file or the new one. Then it is made once more.
            now.opening = if now.taken == held.taken { longest } else { 0 };
        }
        if held.running == 0 {
            self.make(RUNNING, longest / 2)?;
            self.held.lock().running = longest / 2;
        }
        Ok(())
    }

    fn make(&self, name: &str, len: u64) -> io::Result<()> {
        let unfinished = self.dir.join(UNFINISHED);
        write_zeroes(&*self.disk, &unfinished, len)?;
        self.disk.rename(&unfinished, &self.dir.join(name))?;
        self.disk.sync_dir(&self.dir)
    }

    /// Gives the second file up. False: there is none.
    ///
    /// # Errors
    /// What the disk says.
    pub fn release(&self) -> io::Result<bool> {
        let running = std::mem::take(&mut self.held.lock().running);
        if running == 0 {
            return Ok(false);
        }
        let removed = self.disk.remove(&self.dir.join(RUNNING));
        if removed.is_err() {
            self.held.lock().running = running;
        }
        removed.map(|()| true)
    }

    /// Gives the first file up as a segment of zeroes with the name `path`. False: there is none of that length. The next
    /// opening then finds a segment without batches, which it needs no room for.
    ///
    /// # Errors
    /// What the disk says.
    pub fn take(&self, path: &Path, len: u64) -> io::Result<bool> {
        let taken = take_for_opening(&*self.disk, path, len)?;
        if taken {
            let mut held = self.held.lock();
            held.opening = 0;
            held.taken += 1;
        }
        Ok(taken)
    }

    /// Bytes of both files.
    pub fn bytes(&self) -> u64 {
        let held = *self.held.lock();
        held.opening + held.running
    }
}

/// Turns the first file into one that `len` bytes can be written to whatever else is on the disk, with the name `path`. False:
/// there is none of that length.
///
/// # Errors
/// What the disk says.
pub(super) fn take_for_opening(disk: &dyn Disk, path: &Path, len: u64) -> io::Result<bool> {
    let ballast = path.with_file_name(OPENING);
    match disk.open(&ballast) {
        Ok(file) if file.size()? >= len => {
            disk.rename(&ballast, path)?;
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::disk::OsDisk;

    fn ballast(dir: &Path) -> Ballast {
        Ballast::find(Arc::new(OsDisk), dir.to_owned()).expect("readable")
    }

    #[test]
    fn both_files_are_made_once_and_found_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = ballast(dir.path());
        assert_eq!(first.missing(8192), 12_288);
        first.prepare(8192).expect("made");
        assert_eq!((first.missing(8192), first.bytes()), (0, 12_288));
        let second = ballast(dir.path());
        assert_eq!(second.missing(8192), 0);
        assert!(second.release().expect("removed"));
        assert!(!second.release().expect("gone"));
        assert_eq!(second.missing(8192), 4096);
        // A longer segment needs more.
        assert_eq!(second.missing(16_384), 16_384 + 8192);
    }

    #[test]
    fn the_first_file_becomes_the_copy_that_it_is_long_enough_for() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        ballast(dir.path()).prepare(8192).expect("made");
        let copy = dir.path().join("copy");
        assert!(!take_for_opening(&OsDisk, &copy, 8193).expect("readable"));
        assert!(take_for_opening(&OsDisk, &copy, 8192).expect("renamed"));
        assert_eq!(std::fs::metadata(&copy).expect("there").len(), 8192);
        assert!(!take_for_opening(&OsDisk, &copy, 1).expect("gone"));
    }
}
