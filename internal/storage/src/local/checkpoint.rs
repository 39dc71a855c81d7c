//! Checkpoints: what slice files hold for certain, so that the journal before it is not needed any more.
//!
//! A checkpoint is a whole small file. The two newest are kept, and a segment is used again only when both do without it:
//! if the newest turns out to be damaged, the one before it and the journal still give everything.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use stream_model::hours::{Hour, LaterHours};
use stream_model::level::Compression;
use stream_model::statistics::Figures;
use stream_model::{SessionId, SliceId, Timestamp, VolumeId};

use super::disk::Disk;
use super::durable;
use super::format::{
    Reader, compression_code, compression_from_code, decode_sessions, decode_successor,
    encode_sessions, encode_successor,
};

const MAGIC: &[u8; 8] = b"STRMCKPT";
const VERSION: u32 = 1;
/// How the hours begin that stand behind the slices.
const HOURS_MAGIC: &[u8; 4] = b"HOUR";
const EXTENSION: &str = "checkpoint";
/// Checkpoints to keep.
pub(super) const KEEP: usize = 2;

/// The state of all slices that have a synced file.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Checkpoint {
    /// Numbers rise by one.
    pub number: u64,
    /// The last entry of the journal when the checkpoint was made: entry numbers go on behind it.
    pub last_entry: u64,
    /// The last commit group, likewise.
    pub last_group: u64,
    /// The slices.
    pub slices: Vec<CheckpointSlice>,
}

/// One slice: its state after `entry`, of which `len` bytes of its file are the result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CheckpointSlice {
    pub id: SliceId,
    pub compression: Compression,
    pub entry: u64,
    pub len: u64,
    pub figures: Figures,
    /// Rows that arrived in later hours than the first.
    pub later_hours: LaterHours,
    pub sessions: BTreeMap<SessionId, u64>,
    /// Set when the slice takes no more rows.
    pub sealed: Option<Option<SliceId>>,
}

impl Checkpoint {
    pub fn encode(&self, volume: VolumeId) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&volume.to_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.last_entry.to_le_bytes());
        out.extend_from_slice(&self.last_group.to_le_bytes());
        out.extend_from_slice(&(self.slices.len() as u64).to_le_bytes());
        for slice in &self.slices {
            slice.encode(&mut out);
        }
        self.encode_hours(&mut out);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Appends the hours of the slices that have rows of several. Behind everything else: a reader that knows none passes over
    /// them.
    fn encode_hours(&self, out: &mut Vec<u8>) {
        let slices = (0_u32..).zip(&self.slices);
        let several = slices.filter(|(_, slice)| !slice.later_hours.is_empty());
        let several: Vec<_> = several.collect();
        if several.is_empty() {
            return;
        }
        let count = |len: usize| u32::try_from(len).expect("so many slices do not fit into memory");
        out.extend_from_slice(HOURS_MAGIC);
        out.extend_from_slice(&count(several.len()).to_le_bytes());
        for (position, slice) in several {
            let hours = slice.later_hours.entries();
            out.extend_from_slice(&position.to_le_bytes());
            out.extend_from_slice(&count(hours.len()).to_le_bytes());
            for (hour, rows) in hours {
                out.extend_from_slice(&hour.0.to_le_bytes());
                out.extend_from_slice(&rows.to_le_bytes());
            }
        }
    }

    /// The checkpoint, or none when the bytes are damaged or of another volume.
    pub fn decode(bytes: &[u8], volume: VolumeId) -> Option<Self> {
        let (content, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if crc32c::crc32c(content).to_le_bytes() != crc {
            return None;
        }
        let mut input = Reader(content);
        let known = input.take(8)? == MAGIC
            && input.u32()? == VERSION
            && input.array()? == volume.to_bytes();
        if !known {
            return None;
        }
        let (number, last_entry) = (input.u64()?, input.u64()?);
        let (last_group, count) = (input.u64()?, input.u64()?);
        let mut slices = Vec::new();
        for _ in 0..count {
            slices.push(CheckpointSlice::decode(&mut input)?);
        }
        decode_hours(&mut input, &mut slices)?;
        Some(Self {
            number,
            last_entry,
            last_group,
            slices,
        })
    }
}

/// Reads the hours behind the slices, if there are any.
fn decode_hours(input: &mut Reader<'_>, slices: &mut [CheckpointSlice]) -> Option<()> {
    // Something else is of a later version, and none of the slices.
    if !input.0.starts_with(HOURS_MAGIC) {
        return Some(());
    }
    input.take(HOURS_MAGIC.len())?;
    for _ in 0..input.u32()? {
        let position = usize::try_from(input.u32()?).ok()?;
        let slice = slices.get_mut(position)?;
        let count = input.u32()?;
        let hours = (0..count).map(|_| Some((Hour(input.u64()?), input.u64()?)));
        slice.later_hours = hours.collect::<Option<_>>()?;
    }
    Some(())
}

impl CheckpointSlice {
    fn encode(&self, out: &mut Vec<u8>) {
        let (codec, level) = compression_code(self.compression);
        out.extend_from_slice(&self.id.to_bytes());
        out.extend_from_slice(&[codec, level, u8::from(self.sealed.is_some())]);
        encode_successor(self.sealed.flatten(), out);
        let time = |at: Option<Timestamp>| at.map_or(i64::MIN, Timestamp::as_millis).to_le_bytes();
        for number in [
            self.entry,
            self.len,
            self.figures.rows,
            self.figures.raw_bytes,
            self.figures.bytes,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&time(self.figures.first_at));
        out.extend_from_slice(&time(self.figures.last_at));
        encode_sessions(&self.sessions, out);
    }

    fn decode(input: &mut Reader<'_>) -> Option<Self> {
        let id = SliceId::from_bytes(input.array()?);
        let compression = compression_from_code(input.u8()?, input.u8()?)?;
        let sealed = input.u8()? != 0;
        let successor = decode_successor(input)?;
        let (entry, len) = (input.u64()?, input.u64()?);
        let (rows, raw_bytes, bytes) = (input.u64()?, input.u64()?, input.u64()?);
        let mut time = || {
            input
                .i64()
                .map(|at| (at != i64::MIN).then_some(Timestamp::from_millis(at)))
        };
        let figures = Figures {
            rows,
            raw_bytes,
            bytes,
            first_at: time()?,
            last_at: time()?,
        };
        let sessions = decode_sessions(input)?;
        let sealed = sealed.then_some(successor);
        Some(Self {
            id,
            compression,
            entry,
            len,
            figures,
            later_hours: LaterHours::default(),
            sessions,
            sealed,
        })
    }
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{EXTENSION}"))
}

/// Makes a checkpoint durable.
///
/// # Errors
/// What the disk says; the older checkpoints are then still valid.
pub(super) fn write(
    disk: &dyn Disk,
    dir: &Path,
    volume: VolumeId,
    checkpoint: &Checkpoint,
) -> io::Result<()> {
    disk.replace(&path(dir, checkpoint.number), &checkpoint.encode(volume))
}

/// Removes all checkpoints but the newest ones.
///
/// # Errors
/// What the disk says.
pub(super) fn prune(disk: &dyn Disk, dir: &Path, newest: u64) -> io::Result<()> {
    for file in disk.list(dir)? {
        let number = number_of(&file);
        if number.is_some_and(|number| number + KEEP as u64 <= newest) {
            disk.remove(&file)?;
        }
    }
    Ok(())
}

/// The number in the name of a checkpoint, or none when the name is not one.
pub(super) fn number_of(file: &Path) -> Option<u64> {
    if file.extension()? != EXTENSION {
        return None;
    }
    super::segment::number_in(file.file_stem()?.to_str()?)
}

/// Whether the file is what a process has left that ended while it wrote a checkpoint.
pub(super) fn is_unfinished(file: &Path) -> bool {
    let whole = file.with_extension("");
    number_of(&whole).is_some() && durable::temporary(&whole) == file
}

/// The checkpoints found in a directory, newest first; a damaged one as its path and length.
///
/// # Errors
/// What the disk says.
pub(super) fn read_all(
    disk: &dyn Disk,
    dir: &Path,
    volume: VolumeId,
) -> io::Result<Vec<Result<Checkpoint, (PathBuf, u64)>>> {
    let mut numbered: Vec<(u64, PathBuf)> = disk
        .list(dir)?
        .into_iter()
        .filter_map(|file| Some((number_of(&file)?, file)))
        .collect();
    numbered.sort_unstable_by(|a, b| b.cmp(a));
    let mut checkpoints = Vec::new();
    for (_, file) in numbered {
        let bytes = disk.read(&file)?;
        let len = bytes.len() as u64;
        checkpoints.push(Checkpoint::decode(&bytes, volume).ok_or((file, len)));
    }
    Ok(checkpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> VolumeId {
        VolumeId::from_bytes([3; 16])
    }

    fn slice(id: u8, later_hours: LaterHours) -> CheckpointSlice {
        CheckpointSlice {
            id: SliceId::from_bytes([id; 16]),
            compression: Compression::Zstd { level: 3 },
            entry: 90,
            len: 1000,
            figures: Figures {
                rows: 5,
                raw_bytes: 50,
                bytes: 20,
                first_at: Some(Timestamp::from_millis(-1)),
                last_at: None,
            },
            later_hours,
            sessions: BTreeMap::from([(SessionId(4), 5)]),
            sealed: Some(Some(SliceId::from_bytes([2; 16]))),
        }
    }

    fn checkpoint(slices: Vec<CheckpointSlice>) -> Checkpoint {
        Checkpoint {
            number: 7,
            last_entry: 99,
            last_group: 98,
            slices,
        }
    }

    fn hours() -> LaterHours {
        [(Hour(1), 2), (Hour(490_000), 1)].into_iter().collect()
    }

    #[test]
    fn round_trips_and_detects_every_flipped_bit_and_cut() {
        let (one, several) = (slice(1, LaterHours::default()), slice(5, hours()));
        for slices in [vec![one.clone()], vec![one.clone(), several, one]] {
            let checkpoint = checkpoint(slices);
            let bytes = checkpoint.encode(volume());
            assert_eq!(Checkpoint::decode(&bytes, volume()), Some(checkpoint));
            let other = VolumeId::from_bytes([4; 16]);
            assert_eq!(Checkpoint::decode(&bytes, other), None);
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 4;
                assert_eq!(Checkpoint::decode(&damaged, volume()), None);
                assert_eq!(Checkpoint::decode(&bytes[..at], volume()), None);
            }
        }
    }

    /// The content without its checksum, which a test can change.
    fn content(slices: Vec<CheckpointSlice>) -> Vec<u8> {
        let mut bytes = checkpoint(slices).encode(volume());
        bytes.truncate(bytes.len() - 4);
        bytes
    }

    fn decoded(content: &[u8]) -> Option<Checkpoint> {
        let crc = crc32c::crc32c(content).to_le_bytes();
        Checkpoint::decode(&[content, &crc[..]].concat(), volume())
    }

    #[test]
    fn hours_stand_behind_what_a_version_without_them_has_written() {
        let plain = content(vec![slice(1, LaterHours::default())]);
        let with_hours = content(vec![slice(1, hours())]);
        assert_eq!(with_hours[..plain.len()], plain);
        assert_eq!(with_hours.len(), plain.len() + 4 + 4 + 8 + 2 * 16);
        let read = decoded(&plain).expect("whole");
        assert_eq!(read.slices[0].later_hours, LaterHours::default());
        for cut in plain.len() + 4..with_hours.len() {
            assert_eq!(decoded(&with_hours[..cut]), None, "{cut}");
        }
        // Of no slice that is there.
        let mut elsewhere = with_hours.clone();
        elsewhere[plain.len() + 8] = 1;
        assert_eq!(decoded(&elsewhere), None);
        // What a later version may put there.
        let later = [&with_hours[..], b"LATR"].concat();
        assert_eq!(decoded(&later), decoded(&with_hours));
        assert_eq!(decoded(&[&plain[..], b"LATR"].concat()), decoded(&plain));
    }
}
