//! What a file system holds: what programs see, what is on the medium, and the changes in between that nobody has synced.
//!
//! The rules are those of POSIX, not of one kind of file system: without a sync any subset of the changes may survive a loss
//! of power. Content survives by sectors of 512 B, each in any version it had since the last sync; lengths and names likewise;
//! only a rename is atomic. Zeroes are read where a length survived and the content did not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::StdRng;

pub const SECTOR: usize = 512;

/// What a loss of power leaves of the changes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    Nothing,
    Everything,
    /// Each one or not.
    Some,
}

impl Survival {
    pub fn any(rng: &mut StdRng) -> Self {
        match rng.random_range(0..5) {
            0 => Self::Nothing,
            1 => Self::Everything,
            _ => Self::Some,
        }
    }

    /// Which of `count` successive states survives; 0 is the one that was synced.
    fn pick(self, count: usize, rng: &mut StdRng) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Everything => count - 1,
            Self::Some => rng.random_range(0..count),
        }
    }
}

/// The content of one file.
#[derive(Debug, Clone, Default)]
struct Inode {
    /// What programs read.
    seen: Vec<u8>,
    /// What is on the medium.
    stored: Vec<u8>,
    /// What each sector held since the last sync, oldest first.
    versions: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Lengths since the last sync, oldest first.
    lengths: Vec<usize>,
}

impl Inode {
    fn sector(&self, sector: usize) -> Vec<u8> {
        let start = (sector * SECTOR).min(self.seen.len());
        let end = ((sector + 1) * SECTOR).min(self.seen.len());
        let mut bytes = self.seen[start..end].to_vec();
        bytes.resize(SECTOR, 0);
        bytes
    }

    fn note_sectors(&mut self, from: usize, to: usize) {
        for sector in from / SECTOR..to.div_ceil(SECTOR) {
            let bytes = self.sector(sector);
            self.versions.entry(sector).or_default().push(bytes);
        }
    }

    fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if bytes.is_empty() {
            return;
        }
        if end > self.seen.len() {
            self.seen.resize(end, 0);
            self.lengths.push(end);
        }
        self.seen[offset..end].copy_from_slice(bytes);
        self.note_sectors(offset, end);
    }

    fn set_len(&mut self, len: usize) {
        let before = self.seen.len();
        self.seen.resize(len, 0);
        self.lengths.push(len);
        if len < before {
            // What is cut off is zero when the file grows again.
            self.note_sectors(len, before);
        }
    }

    fn store(&mut self, sector: usize, bytes: &[u8]) {
        let start = sector * SECTOR;
        if self.stored.len() < start + SECTOR {
            self.stored.resize(start + SECTOR, 0);
        }
        self.stored[start..start + SECTOR].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        let len = self.lengths.last().copied().unwrap_or(self.stored.len());
        self.lengths.clear();
        for (sector, mut versions) in std::mem::take(&mut self.versions) {
            let newest = versions.pop().expect("a sector is noted with its content");
            self.store(sector, &newest);
        }
        self.stored.resize(len, 0);
    }

    /// A sync that fails: of each sector it is open whether it was written, stays to be written, or was given up while
    /// programs go on reading the new content.
    fn fail_sync(&mut self, rng: &mut StdRng) {
        let len = self.stored.len();
        let given_up = rng.random_range(0..3);
        for (sector, mut versions) in std::mem::take(&mut self.versions) {
            let fate = if given_up == 2 {
                2
            } else {
                rng.random_range(0..3)
            };
            match fate {
                0 => {
                    let newest = versions.pop().expect("a sector is noted with its content");
                    self.store(sector, &newest);
                }
                1 => {
                    self.versions.insert(sector, versions);
                }
                _ => {}
            }
        }
        self.stored.resize(len, 0);
    }

    fn lose_power(&mut self, survival: Survival, rng: &mut StdRng) {
        let lengths = std::mem::take(&mut self.lengths);
        let len = match survival.pick(lengths.len() + 1, rng) {
            0 => self.stored.len(),
            position => lengths[position - 1],
        };
        for (sector, versions) in std::mem::take(&mut self.versions) {
            if let Some(position) = survival.pick(versions.len() + 1, rng).checked_sub(1) {
                self.store(sector, &versions[position]);
            }
        }
        self.stored.resize(len, 0);
        self.seen.clone_from(&self.stored);
    }
}

/// A change of a directory.
#[derive(Debug, Clone)]
enum NameChange {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf, usize),
    Remove(PathBuf, usize),
}

impl NameChange {
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Create(path, _) | Self::Rename(_, path, _) | Self::Remove(path, _) => {
                path.parent()
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Create(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Rename(from, to, inode) => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
            Self::Remove(path, inode) => {
                if names.get(path) == Some(inode) {
                    names.remove(path);
                }
            }
        }
    }
}

/// A file system.
#[derive(Debug, Default)]
pub struct Image {
    inodes: Vec<Inode>,
    seen: BTreeMap<PathBuf, usize>,
    stored: BTreeMap<PathBuf, usize>,
    changes: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
}

impl Image {
    pub fn find(&self, path: &Path) -> io::Result<usize> {
        let found = self.seen.get(path).copied();
        found.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub fn create(&mut self, path: &Path) -> io::Result<usize> {
        if let Ok(inode) = self.find(path) {
            return Ok(inode);
        }
        if !path.parent().is_some_and(|dir| self.dirs.contains(dir)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.inodes.push(Inode::default());
        let inode = self.inodes.len() - 1;
        self.change(NameChange::Create(path.to_owned(), inode));
        Ok(inode)
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self.find(from)?;
        self.change(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    pub fn remove(&mut self, path: &Path) {
        if let Ok(inode) = self.find(path) {
            self.change(NameChange::Remove(path.to_owned(), inode));
        }
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.seen);
        self.changes.push(change);
    }

    pub fn create_dir_all(&mut self, path: &Path) {
        self.dirs
            .extend(path.ancestors().map(std::path::Path::to_owned));
    }

    pub fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        if !self.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let files = self.seen.keys().filter(|path| path.parent() == Some(dir));
        Ok(files.cloned().collect())
    }

    pub fn sync_dir(&mut self, dir: &Path) {
        let (synced, others) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|change| change.dir() == Some(dir));
        self.changes = others;
        let synced: Vec<NameChange> = synced;
        for change in synced {
            change.apply(&mut self.stored);
        }
    }

    pub fn read(&self, inode: usize, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).expect("files are small");
        let bytes = self.inodes[inode].seen.get(start..start + buffer.len());
        let bytes = bytes.ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    pub fn content(&self, inode: usize) -> &[u8] {
        &self.inodes[inode].seen
    }

    pub fn write(&mut self, inode: usize, bytes: &[u8], offset: u64) {
        let offset = usize::try_from(offset).expect("files are small");
        self.inodes[inode].write(bytes, offset);
    }

    pub fn set_len(&mut self, inode: usize, len: u64) {
        let len = usize::try_from(len).expect("files are small");
        self.inodes[inode].set_len(len);
    }

    pub fn sync(&mut self, inode: usize) {
        self.inodes[inode].sync();
    }

    pub fn fail_sync(&mut self, inode: usize, rng: &mut StdRng) {
        self.inodes[inode].fail_sync(rng);
    }

    /// Bytes of all files that have a name.
    pub fn used(&self) -> u64 {
        let files: BTreeSet<usize> = self.seen.values().copied().collect();
        files
            .iter()
            .map(|inode| self.inodes[*inode].seen.len() as u64)
            .sum()
    }

    /// Forgets what was not synced, except for what happens to survive.
    pub fn lose_power(&mut self, survival: Survival, rng: &mut StdRng) {
        for change in std::mem::take(&mut self.changes) {
            if survival.pick(2, rng) == 1 {
                change.apply(&mut self.stored);
            }
        }
        let named: BTreeSet<usize> = self.stored.values().copied().collect();
        for (number, inode) in self.inodes.iter_mut().enumerate() {
            if named.contains(&number) {
                inode.lose_power(survival, rng);
            } else {
                *inode = Inode::default();
            }
        }
        self.seen = self.stored.clone();
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn image() -> (Image, PathBuf, usize) {
        let mut image = Image::default();
        image.create_dir_all(Path::new("/d"));
        let path = PathBuf::from("/d/f");
        let inode = image.create(&path).expect("there is a directory");
        (image, path, inode)
    }

    #[test]
    fn only_what_was_synced_is_certain_to_survive() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut image, path, inode) = image();
        image.write(inode, b"old", 0);
        image.sync(inode);
        image.sync_dir(Path::new("/d"));
        image.write(inode, b"newer", 0);
        image.lose_power(Survival::Nothing, &mut rng);
        assert_eq!(image.content(image.find(&path).expect("named")), b"old");
    }

    #[test]
    fn a_name_needs_a_sync_of_its_directory() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut image, path, inode) = image();
        image.write(inode, b"content", 0);
        image.sync(inode);
        image.lose_power(Survival::Nothing, &mut rng);
        assert!(image.find(&path).is_err());
    }

    #[test]
    fn writes_tear_by_sectors_and_lengths_survive_on_their_own() {
        let (mut torn, mut holes) = (0, 0);
        for seed in 0..100 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut image, path, inode) = image();
            image.sync_dir(Path::new("/d"));
            image.write(inode, &[1; 2 * SECTOR], 0);
            image.lose_power(Survival::Some, &mut rng);
            let content = image.content(image.find(&path).expect("named"));
            torn += usize::from(content.contains(&0) && content.contains(&1));
            holes += usize::from(!content.is_empty() && !content.contains(&1));
        }
        assert!(torn > 10 && holes > 5, "{torn} torn, {holes} holes");
    }

    #[test]
    fn what_a_failed_sync_gave_up_is_read_until_power_is_lost() {
        let mut given_up = 0;
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut image, path, inode) = image();
            image.sync_dir(Path::new("/d"));
            image.set_len(inode, SECTOR as u64);
            image.sync(inode);
            image.write(inode, &[1; SECTOR], 0);
            image.fail_sync(inode, &mut rng);
            assert_eq!(image.content(inode), [1; SECTOR]);
            image.sync(inode);
            image.lose_power(Survival::Everything, &mut rng);
            let inode = image.find(&path).expect("named");
            given_up += usize::from(image.content(inode) == [0; SECTOR]);
        }
        assert!(given_up > 10, "{given_up}");
    }
}
