//! Room that the store keeps on its disk for when somebody else has filled it: what makes room again, such as the upload of a
//! slice, is recorded here first.
//!
//! | room | where | for |
//! |---|---|---|
//! | 32 MiB of blocks | behind the end of the database file, where only the database gets at them | commits: they are used as the file grows |
//! | 32 MiB | the file `ballast` | everything else on that disk, tables and staging for instance: given up when less than 16 MiB are free |
//!
//! Both are made again once 128 MiB are free. A file system that cannot keep blocks has neither; the store then needs free
//! space like everybody else.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use crate::directory;

const FILE: &str = "ballast";
/// Length of the file, and of what is kept behind the end of the database.
const BALLAST_BYTES: u64 = 32 << 20;
/// The file is given up when less is free.
const LEAST_FREE: u64 = 16 << 20;
/// Nothing is kept from others unless as much is free.
const ENOUGH_FREE: u64 = 128 << 20;
/// How much of the blocks behind the end may be used up before they are filled up.
const SLACK: u64 = 8 << 20;

/// The room of one store.
#[derive(Debug)]
pub(crate) struct Room {
    dir: PathBuf,
    database: PathBuf,
    held: bool,
    /// The file system keeps no blocks.
    unsupported: bool,
    /// The last attempt failed, which was said.
    failing: bool,
}

impl Room {
    /// What an earlier run has left. On a full disk it gives the file up at once: opening the database may need it.
    pub(crate) fn find(dir: &Path, database: &Path) -> Self {
        let mut room = Self {
            dir: dir.to_owned(),
            database: database.to_owned(),
            held: dir.join(FILE).exists(),
            unsupported: false,
            failing: false,
        };
        room.look();
        room
    }

    /// Bytes of the file.
    pub(crate) const fn bytes(&self) -> u64 {
        if self.held { BALLAST_BYTES } else { 0 }
    }

    /// Looks at what is free and does what it asks for. Done before each commit; it costs one call of the system then.
    pub(crate) fn look(&mut self) {
        let Ok(stat) = statvfs(&self.dir) else {
            return;
        };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < LEAST_FREE && self.held {
            self.give_up(free);
        } else if free >= ENOUGH_FREE && !self.unsupported {
            self.make();
        }
    }

    fn give_up(&mut self, free: u64) {
        match fs::remove_file(self.dir.join(FILE)) {
            Ok(()) => {
                self.held = false;
                tracing::warn!(
                    free_bytes = free,
                    "the disk of the state store is full, its ballast is given up"
                );
            }
            Err(error) => tracing::warn!(%error, "ballast of the state store cannot be removed"),
        }
    }

    fn make(&mut self) {
        let made = self.extend_database().and_then(|()| self.make_file());
        match made {
            Ok(()) => self.failing = false,
            Err(error) if is_unsupported(&error) => self.unsupported = true,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::info!(%error, "no room can be kept for the state store");
            }
            Err(_) => {}
        }
    }

    /// Fills up the blocks behind the end of the database. Its length stays.
    fn extend_database(&self) -> io::Result<()> {
        let metadata = match fs::metadata(&self.database) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let wanted = metadata.len() + BALLAST_BYTES;
        if metadata.blocks().saturating_mul(512) + SLACK >= wanted {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).open(&self.database)?;
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, wanted)?;
        Ok(())
    }

    fn make_file(&mut self) -> io::Result<()> {
        if self.held {
            return Ok(());
        }
        let path = self.dir.join(FILE);
        let file = File::create(&path)?;
        if let Err(error) = fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES) {
            // Half of it would only take room from others.
            let _ = fs::remove_file(&path);
            return Err(error.into());
        }
        file.sync_all()?;
        directory::sync(&self.dir)?;
        self.held = true;
        Ok(())
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    let codes = [Errno::OPNOTSUPP, Errno::NOSYS].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_kept_behind_the_end_of_the_database_and_in_a_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let database = dir.path().join("etcd.redb");
        fs::write(&database, b"rows").expect("writable");
        let mut room = Room::find(dir.path(), &database);
        if room.unsupported {
            return;
        }
        let metadata = fs::metadata(&database).expect("there");
        assert_eq!(metadata.len(), 4);
        assert!(metadata.blocks() * 512 >= BALLAST_BYTES);
        let ballast = fs::metadata(dir.path().join(FILE)).expect("there");
        assert_eq!(
            (ballast.len(), room.bytes()),
            (BALLAST_BYTES, BALLAST_BYTES)
        );
        assert!(ballast.blocks() * 512 >= BALLAST_BYTES);
        room.give_up(0);
        assert!(!dir.path().join(FILE).exists() && room.bytes() == 0);
        // There is room, so it is kept again.
        room.look();
        assert_eq!(room.bytes(), BALLAST_BYTES);
    }
}
