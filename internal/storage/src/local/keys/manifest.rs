//! The manifest: which runs count, and since when keys are remembered without a gap.
//!
//! A small file that is replaced as a whole. A run that is not named in it is what a spill or a merge left that was cut off; one that is
//! named and not there is lost, and the manifest still tells how new its keys were.

use std::io;
use std::path::{Path, PathBuf};

use stream_model::{Timestamp, VolumeId};

use super::super::disk::Disk;
use super::super::format::Reader;
use super::run::{Run, Scope};

const MAGIC: &[u8; 8] = b"STRMKMAN";
const VERSION: u32 = 1;
/// Its name.
pub(in super::super) const FILE: &str = "manifest";

/// The runs of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Manifest {
    /// Keys that were taken before may be forgotten; none when all are remembered.
    pub floor: Option<Timestamp>,
    /// The number of the next run.
    pub next_run: u64,
    /// Number and scope of each run, the oldest first.
    pub runs: Vec<(u64, Scope)>,
}

/// What was found in the place of the manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Whole(Manifest),
    Damaged { len: u64 },
    Missing,
}

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

impl Manifest {
    /// The manifest of these runs.
    pub fn of<'a>(
        runs: impl Iterator<Item = &'a Run>,
        floor: Option<Timestamp>,
        next_run: u64,
    ) -> Self {
        Self {
            floor,
            next_run,
            runs: runs.map(|run| (run.number, run.scope)).collect(),
        }
    }

    /// Makes it durable in place of the one before.
    ///
    /// # Errors
    /// What the disk says; the one before may still count.
    pub fn write(&self, disk: &dyn Disk, dir: &Path, volume: VolumeId) -> io::Result<()> {
        disk.replace(&path(dir), &self.encode(volume))
    }

    /// Reads it.
    ///
    /// # Errors
    /// What the disk says.
    pub fn read(disk: &dyn Disk, dir: &Path, volume: VolumeId) -> io::Result<Found> {
        let bytes = match disk.read(&path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            read => read?,
        };
        let len = bytes.len() as u64;
        Ok(Self::decode(&bytes, volume).map_or(Found::Damaged { len }, Found::Whole))
    }

    fn encode(&self, volume: VolumeId) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&volume.to_bytes());
        let floor = self.floor.map_or(i64::MIN, Timestamp::as_millis);
        out.extend_from_slice(&floor.to_le_bytes());
        out.extend_from_slice(&self.next_run.to_le_bytes());
        out.extend_from_slice(&(self.runs.len() as u64).to_le_bytes());
        for (number, scope) in &self.runs {
            out.extend_from_slice(&number.to_le_bytes());
            scope.encode(&mut out);
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], volume: VolumeId) -> Option<Self> {
        let (content, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if crc32c::crc32c(content).to_le_bytes() != crc {
            return None;
        }
        let mut input = Reader(content);
        let is_it = input.take(8)? == MAGIC
            && input.u32()? == VERSION
            && input.array()? == volume.to_bytes();
        if !is_it {
            return None;
        }
        let floor = input.i64()?;
        let (next_run, count) = (input.u64()?, input.u64()?);
        let mut runs = Vec::new();
        for _ in 0..count {
            runs.push((input.u64()?, Scope::decode(&mut input)?));
        }
        Some(Self {
            floor: (floor != i64::MIN).then_some(Timestamp::from_millis(floor)),
            next_run,
            runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_detects_every_flipped_bit_and_cut() {
        let volume = VolumeId::from_bytes([3; 16]);
        let scope = |entry| Scope {
            from_entry: entry,
            to_entry: entry + 5,
            to_group: entry + 3,
            oldest_at: Timestamp::from_millis(7),
            newest_at: Timestamp::from_millis(8),
        };
        let manifest = Manifest {
            floor: Some(Timestamp::from_millis(-4)),
            next_run: 9,
            runs: vec![(1, scope(1)), (8, scope(100))],
        };
        let bytes = manifest.encode(volume);
        assert_eq!(Manifest::decode(&bytes, volume), Some(manifest));
        assert_eq!(
            Manifest::decode(&bytes, VolumeId::from_bytes([4; 16])),
            None
        );
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(Manifest::decode(&damaged, volume), None);
            assert_eq!(Manifest::decode(&bytes[..at], volume), None);
        }
        let empty = Manifest::default();
        let read = Manifest::decode(&empty.encode(volume), volume);
        assert_eq!(read, Some(empty));
    }
}
