//! How many rows stood in bytes of the journal that are no valid entries any more.
//!
//! Each batch says of each of its parts how many rows it has. A checksum that fails says that something in the entry is
//! wrong, rarely that this is: when the lengths of the parts add up to an entry that fits, the counts are believed.

use std::ops::RangeInclusive;

use super::super::format::{self, ALIGN, BLOCK, ENTRY_HEADER, RecoveredPart, Seed};
use super::super::recovery::Damage;
use super::super::scan::scan;

/// The most parts a batch has.
const MAX_PARTS: usize = 1000;

/// The parts of the batches that stood in `from..to`, where `count` entries are missing (none: that is not known); none when
/// not all of it can be explained. `is_old` tells a header that an earlier use of the segment has left.
pub(super) fn parts_in(
    bytes: &[u8],
    from: u64,
    to: u64,
    count: Option<u64>,
    is_old: impl Fn(&[u8]) -> bool,
) -> Option<Vec<RecoveredPart>> {
    let mut at = usize::try_from(from).ok()?;
    let end = usize::try_from(to).ok().filter(|end| *end <= bytes.len())?;
    let (mut parts, mut found) = (Vec::new(), 0);
    while at < end && count != Some(found) {
        let rest = &bytes[at..end];
        if let Some((len, batch)) = batch_at(rest).filter(|_| !is_old(rest)) {
            parts.extend(batch);
            found += 1;
            at += len;
            continue;
        }
        // Behind the last entry of a group stands nothing up to the next block, or what an earlier use has left.
        let next = (at + 1).next_multiple_of(BLOCK as usize);
        let is_rest = found > 0 && !at.is_multiple_of(BLOCK as usize) || is_old(rest);
        let is_empty = bytes[at..next.min(end)].iter().all(|byte| *byte == 0);
        if !(is_rest && (is_empty || is_old(rest) || count.is_some())) {
            return None;
        }
        at = next;
    }
    count.is_none_or(|count| count == found).then_some(parts)
}

/// The numbers that damaged entries may have had, by those of the valid ones around them.
pub(super) fn entries_between(bytes: &[u8], damage: &Damage, seed: Seed) -> RangeInclusive<u64> {
    let (mut first, mut last) = (1, u64::MAX);
    for entry in scan(bytes, seed).entries {
        if entry.offset < damage.from {
            first = entry.header.entry + 1;
        } else if entry.offset >= damage.to {
            last = entry.header.entry.saturating_sub(1);
            break;
        }
    }
    first..=last
}

/// The batch at the start of the bytes and how far it is to the next entry. The header of the entry is not looked at.
fn batch_at(bytes: &[u8]) -> Option<(usize, Vec<RecoveredPart>)> {
    let payload = bytes.get(ENTRY_HEADER..)?;
    let (_, parts) = format::decode_batch(payload)?;
    let last = parts.last()?;
    let plausible = parts.len() <= MAX_PARTS
        && parts
            .iter()
            .all(|part| part.seq > 0 && part.rows > 0 && part.rows <= part.raw_bytes);
    if !plausible {
        return None;
    }
    let len = usize::try_from(last.frame_offset).ok()? + last.frame_len as usize;
    Some(((ENTRY_HEADER + len).next_multiple_of(ALIGN), parts))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use stream_model::level::Compression;
    use stream_model::{SessionId, SliceId, Timestamp, VolumeId};

    use super::*;
    use crate::local::format::{GroupBuffer, Kind, Seed};
    use crate::wire::Part;

    fn group(batches: &[&[u32]]) -> Vec<u8> {
        let mut buffer = GroupBuffer::default();
        let seed = Seed::new(VolumeId::from_bytes([1; 16]), 1);
        for (entry, rows) in batches.iter().enumerate() {
            let part = |rows: &u32| Part {
                slice: SliceId::from_bytes([7; 16]),
                seq: 1,
                rows: *rows,
                raw_bytes: 1000,
                first_at: Timestamp::from_millis(0),
                last_at: Timestamp::from_millis(0),
                compression: Compression::None,
                frame: Bytes::from_static(&[b'x'; 90]),
            };
            let parts: Vec<Part> = rows.iter().map(part).collect();
            buffer.push(seed, Kind::Batch, entry as u64, 1, |out| {
                format::encode_batch(SessionId(3), &parts, out);
            });
        }
        let mut bytes = buffer.bytes().to_vec();
        bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        bytes
    }

    fn rows(bytes: &[u8]) -> Option<u32> {
        let parts = parts_in(bytes, 0, bytes.len() as u64, None, |_| false)?;
        Some(parts.iter().map(|part| part.rows).sum())
    }

    #[test]
    fn rows_of_damaged_entries_are_known_by_their_parts() {
        let mut bytes = group(&[&[3, 4], &[5]]);
        let second = group(&[&[70]]);
        bytes.extend_from_slice(&second);
        assert_eq!(rows(&bytes), Some(82));
        // Header and frame are damaged, the counts are not.
        bytes[9] ^= 1;
        bytes[ENTRY_HEADER + 12 + 56 + 20] ^= 1;
        assert_eq!(rows(&bytes), Some(82));
        // The length of the first frame is.
        bytes[ENTRY_HEADER + 12 + 53] ^= 1;
        assert_eq!(rows(&bytes), None);
        assert_eq!(rows(&[0; 4096]), None);
        let behind = bytes.len() as u64 + 1;
        assert_eq!(parts_in(&bytes, 0, behind, None, |_| false), None);
    }

    #[test]
    fn what_stands_behind_the_missing_entries_is_not_counted() {
        let mut bytes = group(&[&[3, 4], &[5]]);
        let behind = group(&[&[70]]);
        let at = bytes.len() - 512;
        bytes[at..].copy_from_slice(&behind[..512]);
        let count = |count| {
            let parts = parts_in(&bytes, 0, bytes.len() as u64, count, |_| false)?;
            Some(parts.iter().map(|part| part.rows).sum::<u32>())
        };
        assert_eq!(count(Some(2)), Some(12));
        assert_eq!(count(Some(9)), None);
        assert_eq!(count(None), None);
    }
}
