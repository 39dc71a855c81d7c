//! How many rows stood in bytes of the journal that are no valid entries any more.
//!
//! Each batch says of each of its parts how many rows it has, and so does each frame. A checksum that fails says that something
//! in the entry is wrong, rarely that this is: what the lengths confirm is believed, what contradicts itself is not.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use stream_model::level::Compression;
use stream_model::{SliceId, VolumeId};

use super::format::{self, ALIGN, BLOCK, ENTRY_HEADER, EntryHeader, Kind, RecoveredPart, Seed};
use super::frames;
use super::index::Index;

/// How an entry begins.
const ENTRY_MAGIC: &[u8] = b"ENTR";
/// The most parts a batch has.
const MAX_PARTS: usize = 1000;
/// A segment may have been used that many times before what it held is not recognised any more.
const EARLIER_USES: u64 = 1024;

/// What is known of the numbers of missing entries, by the valid ones around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// Exactly these. The range may be empty.
    Exactly(RangeInclusive<u64>),
    /// Some of these.
    Among(RangeInclusive<u64>),
}

impl Missing {
    /// Between two entries of one segment: every number was written.
    pub fn within(before: &EntryHeader, after: &EntryHeader) -> Self {
        Self::Exactly(before.entry + 1..=after.entry.saturating_sub(1))
    }

    /// Before the first entry that is left of a segment. `last` is the last one of the segments before it.
    ///
    /// Between segments the numbers of groups that failed are missing for good reason, but then so are the groups.
    pub fn before_first(last: Option<&EntryHeader>, first: &EntryHeader) -> Self {
        let end = first.entry.saturating_sub(1);
        let from = last.map_or(1, |last| last.entry + 1);
        match last {
            Some(last) if first.group <= last.group + 1 => {
                let own = first.entry.saturating_sub(first.position.into());
                Self::Exactly(from.max(own)..=end)
            }
            _ => Self::Among(from..=end),
        }
    }

    /// Behind the last entry that is left of a segment. `next` is the first one of the segments behind it.
    pub fn behind_last(last: Option<&EntryHeader>, next: Option<&EntryHeader>) -> Self {
        let from = last.map_or(1, |last| last.entry + 1);
        let Some(next) = next else {
            return Self::Among(from..=u64::MAX);
        };
        let end = next.entry.saturating_sub(u64::from(next.position) + 1);
        match last {
            Some(last) if next.group <= last.group + 1 => Self::Exactly(from..=end),
            _ => Self::Among(from..=end),
        }
    }

    /// All of those that are possible.
    pub const fn range(&self) -> &RangeInclusive<u64> {
        match self {
            Self::Exactly(range) | Self::Among(range) => range,
        }
    }

    /// How many; none when that is not known.
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Exactly(_) => Some(self.most()),
            Self::Among(_) => None,
        }
    }

    /// How many at most.
    fn most(&self) -> u64 {
        let range = self.range();
        range.end().saturating_add(1).saturating_sub(*range.start())
    }
}

/// An entry that is lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LostEntry {
    /// The numbers that it may have had.
    numbers: RangeInclusive<u64>,
    parts: Vec<LostPart>,
}

/// A part of a batch that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LostPart {
    slice: SliceId,
    /// None when its batch and its frame contradict each other.
    rows: Option<u64>,
}

/// Bytes of a segment that hold no valid entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hole<'a> {
    pub volume: VolumeId,
    /// Number of the segment.
    pub segment: u64,
    /// Where in the segment it begins.
    pub from: u64,
    pub bytes: &'a [u8],
}

impl Hole<'_> {
    /// Whether the header of an entry of another group is left here.
    pub fn has_header_of_other_than(&self, group: u64) -> bool {
        let seed = self.seed();
        let mut places = (0..self.bytes.len()).step_by(ALIGN);
        places.any(|at| {
            let header = EntryHeader::decode(&self.bytes[at..], seed);
            header.is_some_and(|header| header.group != group)
        })
    }

    /// The entries that stood here; none when not all of the bytes can be explained.
    pub fn entries(&self, missing: &Missing) -> Option<Vec<LostEntry>> {
        let (mut found, mut at) = (Vec::new(), 0);
        let mut all_explained = true;
        while at < self.bytes.len() && (found.len() as u64) < missing.most() {
            let rest = &self.bytes[at..];
            let is_old = is_of_earlier_use(rest, self.volume, self.segment);
            if !is_old && let Some((len, parts)) = entry_at(rest, self.seed()) {
                found.push(parts);
                at += len;
                continue;
            }
            // Behind the last entry of a group stands nothing up to the next block, or what an earlier use has left. Whether it
            // was all of the group is known only by the number of entries.
            let place = usize::try_from(self.from).ok()? + at;
            let next = (place + 1).next_multiple_of(BLOCK as usize) - (place - at);
            let is_rest = !found.is_empty() && !place.is_multiple_of(BLOCK as usize);
            let is_empty = rest.iter().take(next - at).all(|byte| *byte == 0);
            all_explained &= is_old || is_rest && is_empty;
            at = next;
        }
        let are_all = found.len() as u64 == missing.most();
        let is_enough = are_all || all_explained && missing.count().is_none();
        is_enough.then(|| numbered(found, missing, are_all))
    }

    fn seed(&self) -> Seed {
        Seed::new(self.volume, self.segment)
    }
}

/// Gives the entries that were found their numbers.
fn numbered(found: Vec<Vec<LostPart>>, missing: &Missing, are_all: bool) -> Vec<LostEntry> {
    let entries = found.into_iter().enumerate().map(|(position, parts)| {
        let number = missing.range().start() + position as u64;
        let numbers = match are_all {
            true => number..=number,
            false => missing.range().clone(),
        };
        LostEntry { numbers, parts }
    });
    entries.collect()
}

/// The rows in lost entries that no slice file has either; none when that cannot be told. `last_entry` is that of the newest
/// checkpoint: it covers no later one.
pub(super) fn rows(
    lost: &[LostEntry],
    index: &Index,
    released: &HashSet<SliceId>,
    last_entry: u64,
) -> Option<u64> {
    let mut sum = 0;
    for entry in lost {
        for part in &entry.parts {
            if released.contains(&part.slice) {
                continue;
            }
            let slice = index.slices.get(&part.slice);
            let covered = slice.map(|slice| slice.flushed_entry);
            if covered.is_some_and(|covered| *entry.numbers.end() <= covered) {
                continue;
            }
            // Of a slice that nothing else tells of, the id may be what is damaged.
            if *entry.numbers.start() <= covered.unwrap_or(last_entry) {
                return None;
            }
            sum += part.rows?;
        }
    }
    Some(sum)
}

/// Whether an entry header is valid for a segment that was written before the one with that number.
pub(super) fn is_of_earlier_use(bytes: &[u8], volume: VolumeId, number: u64) -> bool {
    (number.saturating_sub(EARLIER_USES)..number)
        .any(|number| EntryHeader::decode(bytes, Seed::new(volume, number)).is_some())
}

/// Whether an entry seems to begin here that is neither valid nor left from an earlier use of the segment, and how far it is to the
/// next one, as far as that can be told.
pub(super) fn remains_at(bytes: &[u8], volume: VolumeId, number: u64) -> Option<u64> {
    let seed = Seed::new(volume, number);
    let header = EntryHeader::decode(bytes, seed).or_else(|| with_magic(bytes, seed));
    match header {
        Some(header) => Some(header.stride()),
        None if !bytes.starts_with(ENTRY_MAGIC) => None,
        None => (!is_of_earlier_use(bytes, volume, number)).then_some(ENTRY_HEADER as u64),
    }
}

/// The entry header of which only the magic is damaged.
fn with_magic(bytes: &[u8], seed: Seed) -> Option<EntryHeader> {
    let mut header = bytes.get(..ENTRY_HEADER)?.to_vec();
    header[..ENTRY_MAGIC.len()].copy_from_slice(ENTRY_MAGIC);
    EntryHeader::decode(&header, seed)
}

/// The damaged entry at the start of the bytes: how far it is to the next one, and the parts of its batch, if it was one.
fn entry_at(bytes: &[u8], seed: Seed) -> Option<(usize, Vec<LostPart>)> {
    let payload = bytes.get(ENTRY_HEADER..)?;
    let field = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (len, crc) = (field(8)? as usize, field(12)?);
    let stride = |len: usize| (ENTRY_HEADER + len).next_multiple_of(ALIGN);
    let whole = payload
        .get(..len)
        .filter(|payload| !payload.is_empty() && crc32c::crc32c(payload) == crc);
    if let Some(payload) = whole {
        // Only the header is damaged. What is no batch has no rows.
        let batch = batch_at(payload).filter(|(used, _)| *used == len);
        let parts = batch.map(|(_, parts)| parts).unwrap_or_default();
        return Some((stride(len), parts.iter().map(as_told).collect()));
    }
    if let Some(header) = EntryHeader::decode(bytes, seed) {
        if header.kind != Kind::Batch {
            return Some((stride(len), Vec::new()));
        }
        let payload = payload.get(..len)?;
        let (_, parts) = batch_at(payload).filter(|(used, _)| *used == len)?;
        let parts = parts.iter().map(|part| as_found(payload, part));
        return Some((stride(len), parts.collect()));
    }
    // Nothing tells the length: only what looks right in every way is taken for a batch.
    let (used, parts) = batch_at(payload)?;
    if !parts.iter().all(|part| part.seq > 0 && is_possible(part)) {
        return None;
    }
    let parts = parts.iter().map(|part| as_found(payload, part));
    Some((stride(used), parts.collect()))
}

/// The batch at the start of the bytes, and its length.
fn batch_at(payload: &[u8]) -> Option<(usize, Vec<RecoveredPart>)> {
    let (_, parts) = format::decode_batch(payload)?;
    let last = parts.last()?;
    let end = usize::try_from(last.frame_offset).ok()? + last.frame_len as usize;
    let keys = payload.get(end..).and_then(format::decode_keys);
    let len = end + keys.map_or(0, |(_, len)| len);
    (parts.len() <= MAX_PARTS).then_some((len, parts))
}

/// Whether the number of rows is possible.
const fn is_possible(part: &RecoveredPart) -> bool {
    part.rows > 0 && part.rows <= part.raw_bytes
}

fn as_told(part: &RecoveredPart) -> LostPart {
    LostPart {
        slice: part.slice,
        rows: Some(part.rows.into()),
    }
}

/// A part in a damaged payload: the frame is asked too, if it is not what is damaged.
fn as_found(payload: &[u8], part: &RecoveredPart) -> LostPart {
    let told = as_told(part);
    let start = usize::try_from(part.frame_offset).unwrap_or(usize::MAX);
    let frame = payload.get(start..start.saturating_add(part.frame_len as usize));
    let unpacked = frame.and_then(|frame| frames::unpack(frame, part.compression));
    let rows = match (unpacked, part.compression) {
        (None, _) => told.rows.filter(|_| is_possible(part)),
        // Plain text has no checksum that would say which of the two is right.
        (Some(unpacked), Compression::None) => told.rows.filter(|rows| *rows == unpacked.rows),
        (Some(unpacked), _) => Some(unpacked.rows),
    };
    LostPart { rows, ..told }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use stream_model::{SessionId, Timestamp};

    use super::*;
    use crate::local::format::GroupBuffer;
    use crate::local::index::Slice;
    use crate::wire::Part;

    const LAST: u64 = 9;

    fn volume() -> VolumeId {
        VolumeId::from_bytes([1; 16])
    }

    fn slice(number: u8) -> SliceId {
        SliceId::from_bytes([number; 16])
    }

    fn frame(rows: u32) -> Bytes {
        let rows: String = (0..rows).map(|row| format!("\"row {row}\"\n")).collect();
        let mut packer = zstd::bulk::Compressor::new(1).expect("valid");
        packer.include_checksum(true).expect("supported");
        packer.compress(rows.as_bytes()).expect("packed").into()
    }

    /// A group of batches: the rows of each part. Parts belong to slices 1, 2, …
    fn group(batches: &[&[u32]]) -> Vec<u8> {
        let mut buffer = GroupBuffer::default();
        let seed = Seed::new(volume(), 7);
        for (entry, rows) in batches.iter().enumerate() {
            let part = |(position, rows): (usize, &u32)| Part {
                slice: slice(1 + position as u8),
                seq: 1,
                rows: *rows,
                raw_bytes: 1000,
                first_at: Timestamp::from_millis(0),
                last_at: Timestamp::from_millis(0),
                compression: Compression::Zstd { level: 1 },
                frame: frame(*rows),
            };
            let parts: Vec<Part> = rows.iter().enumerate().map(part).collect();
            let number = LAST + 1 + entry as u64;
            buffer.push(seed, Kind::Batch, number, 1, |out| {
                format::encode_batch(SessionId(3), &parts, out);
            });
        }
        let mut bytes = buffer.bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        bytes
    }

    fn hole(bytes: &[u8]) -> Hole<'_> {
        Hole {
            volume: volume(),
            segment: 7,
            from: BLOCK,
            bytes,
        }
    }

    fn rows_of(bytes: &[u8], missing: &Missing) -> Option<u64> {
        let lost = hole(bytes).entries(missing)?;
        rows(&lost, &Index::default(), &HashSet::new(), LAST)
    }

    fn all(bytes: &[u8]) -> Option<u64> {
        rows_of(bytes, &Missing::Among(LAST + 1..=u64::MAX))
    }

    fn exactly(bytes: &[u8], count: u64) -> Option<u64> {
        rows_of(bytes, &Missing::Exactly(LAST + 1..=LAST + count))
    }

    #[test]
    fn rows_of_damaged_entries_are_known_by_their_parts() {
        let mut bytes = group(&[&[3, 4], &[5]]);
        bytes.extend_from_slice(&group(&[&[70]]));
        assert_eq!(all(&bytes), Some(82));
        // A frame is damaged, the counts are not.
        bytes[ENTRY_HEADER + 12 + 56 + 20] ^= 1;
        assert_eq!(all(&bytes), Some(82));
        // The header as well.
        bytes[9] ^= 1;
        assert_eq!(all(&bytes), Some(82));
        // The length of the first frame is.
        bytes[ENTRY_HEADER + 12 + 53] ^= 1;
        assert_eq!(all(&bytes), None);
        assert_eq!(all(&[0; 4096]), None);
    }

    #[test]
    fn no_flipped_bit_makes_the_count_wrong() {
        let bytes = group(&[&[3, 4], &[5]]);
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0);
        let mut unknown = 0;
        for bit in 0..8 * end {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let counted = exactly(&damaged, 2);
            assert!(
                counted.is_none() || counted == Some(12),
                "bit {bit}: {counted:?}"
            );
            unknown += usize::from(counted.is_none());
        }
        assert!(unknown < 8 * end / 8, "{unknown} of {}", 8 * end);
    }

    #[test]
    fn what_stands_behind_the_missing_entries_is_not_counted() {
        let mut bytes = group(&[&[3, 4], &[5]]);
        let behind = group(&[&[70]]);
        let at = bytes.len() - 512;
        bytes[at..].copy_from_slice(&behind[..512]);
        assert_eq!(exactly(&bytes, 2), Some(12));
        assert_eq!(exactly(&bytes, 9), None);
        assert_eq!(all(&bytes), None);
    }

    #[test]
    fn only_rows_that_nothing_else_has_are_lost() {
        let bytes = group(&[&[3, 4], &[50, 60]]);
        let lost = hole(&bytes).entries(&Missing::Exactly(10..=11));
        let lost = lost.expect("nothing is damaged");
        let mut index = Index::default();
        let mut covered = Slice::new(Compression::None);
        covered.flushed_entry = 10;
        index.slices.insert(slice(1), covered);
        let released = HashSet::from([slice(2)]);
        assert_eq!(rows(&lost, &index, &released, LAST), Some(50));
        assert_eq!(rows(&lost, &index, &HashSet::new(), LAST), Some(114));
        // Whether a checkpoint covers what nothing else tells of is not known.
        assert_eq!(rows(&lost, &index, &HashSet::new(), 10), None);
    }

    #[test]
    fn numbers_between_segments_are_exact_only_when_no_group_is_missing() {
        let header = |entry, group, position| EntryHeader {
            kind: Kind::Batch,
            payload_len: 0,
            payload_crc: 0,
            entry,
            group,
            position,
        };
        let (last, next) = (header(4, 2, 0), header(7, 3, 1));
        assert_eq!(Missing::within(&last, &next), Missing::Exactly(5..=6));
        assert_eq!(
            Missing::before_first(Some(&last), &next),
            Missing::Exactly(6..=6)
        );
        assert_eq!(
            Missing::behind_last(Some(&last), Some(&next)),
            Missing::Exactly(5..=5)
        );
        let later = header(7, 4, 1);
        assert_eq!(
            Missing::before_first(Some(&last), &later),
            Missing::Among(5..=6)
        );
        assert_eq!(
            Missing::behind_last(Some(&last), Some(&later)),
            Missing::Among(5..=5)
        );
        assert_eq!(Missing::before_first(None, &next), Missing::Among(1..=6));
        assert_eq!(
            Missing::behind_last(Some(&last), None),
            Missing::Among(5..=u64::MAX)
        );
        let successor = header(5, 3, 0);
        let none = Missing::behind_last(Some(&last), Some(&successor));
        assert_eq!(none.count(), Some(0));
    }
}
