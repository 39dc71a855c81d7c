//! Finds the entries in the bytes of a journal segment, whatever state the bytes are in.

use super::format::{self, BLOCK, ENTRY_HEADER, EntryHeader, Seed};

/// A valid entry in the bytes of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ScannedEntry {
    pub header: EntryHeader,
    pub offset: u64,
    /// Bytes before it that should have been entries and are not; 0 for none.
    pub hole_before: u64,
    /// Entries missing in the hole: of its own group, and of groups before it (where that is not known, 0).
    pub missing: (u64, u64),
}

impl ScannedEntry {
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let start = self.offset as usize + ENTRY_HEADER;
        bytes
            .get(start..start + self.header.payload_len as usize)
            .unwrap_or_default()
    }
}

#[derive(Debug, Default)]
pub(super) struct Scan {
    pub entries: Vec<ScannedEntry>,
}

/// Finds all valid entries. Entries of a group follow each other; a group starts on a block; anything else is a hole.
pub(super) fn scan(bytes: &[u8], seed: Seed) -> Scan {
    let mut scan = Scan::default();
    let mut expected = BLOCK as usize;
    let mut at = expected;
    let mut previous: Option<EntryHeader> = None;
    while at < bytes.len() {
        let valid = EntryHeader::decode(&bytes[at..], seed).filter(|header| {
            let start = at + ENTRY_HEADER;
            let payload = bytes.get(start..start + header.payload_len as usize);
            let follows =
                previous.is_none_or(|p| header.entry > p.entry && header.group >= p.group);
            follows && payload.is_some_and(|payload| crc32c::crc32c(payload) == header.payload_crc)
        });
        let Some(header) = valid else {
            at += format::ALIGN;
            continue;
        };
        let missing = missing_before(&header, previous.as_ref());
        let complete = match previous {
            Some(_) => missing == (0, 0),
            None => at == BLOCK as usize,
        };
        let hole_before = if complete { 0 } else { (at - expected) as u64 };
        scan.entries.push(ScannedEntry {
            header,
            offset: at as u64,
            hole_before,
            missing,
        });
        at += header.stride() as usize;
        expected = at;
        previous = Some(header);
    }
    scan
}

/// How many entries are missing between two valid ones: of the later one's group, and of groups before it.
fn missing_before(entry: &EntryHeader, previous: Option<&EntryHeader>) -> (u64, u64) {
    let Some(previous) = previous else {
        return (entry.position.into(), 0);
    };
    let all = entry.entry - previous.entry - 1;
    let own = if previous.group == entry.group {
        all
    } else {
        u64::from(entry.position).min(all)
    };
    (own, all - own)
}

#[cfg(test)]
mod tests {
    use stream_model::VolumeId;

    use super::*;
    use crate::local::format::{GroupBuffer, Kind};

    fn seed() -> Seed {
        Seed::new(VolumeId::from_bytes([1; 16]), 1)
    }

    /// A segment of groups with the given numbers of entries.
    fn segment(groups: &[u64]) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = vec![0; BLOCK as usize];
        let mut offsets = Vec::new();
        let mut entry = 0;
        for (group, count) in groups.iter().enumerate() {
            let mut buffer = GroupBuffer::default();
            for _ in 0..*count {
                entry += 1;
                offsets.push((bytes.len() + buffer.bytes().len()) as u64);
                buffer.push(seed(), Kind::Release, entry, group as u64 + 1, |out| {
                    out.extend_from_slice(&[7; 100]);
                });
            }
            bytes.extend_from_slice(buffer.bytes());
            bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), 0);
        }
        bytes.resize(bytes.len() + 4 * BLOCK as usize, 0);
        (bytes, offsets)
    }

    #[test]
    fn finds_every_entry_of_every_group() {
        let (bytes, offsets) = segment(&[3, 1, 40]);
        let found: Vec<u64> = scan(&bytes, seed())
            .entries
            .iter()
            .map(|entry| entry.offset)
            .collect();
        assert_eq!(found, offsets);
        assert!(
            scan(&bytes, seed())
                .entries
                .iter()
                .all(|entry| entry.hole_before == 0)
        );
    }

    #[test]
    fn a_damaged_entry_costs_only_itself() {
        let (bytes, offsets) = segment(&[3, 1, 5]);
        for (position, offset) in offsets.iter().enumerate() {
            for flipped in [0, 9, 20, 61, 70, 163] {
                let mut damaged = bytes.clone();
                damaged[*offset as usize + flipped] ^= 0x10;
                let found = scan(&damaged, seed()).entries;
                assert_eq!(
                    found.len(),
                    offsets.len() - 1,
                    "entry {position} byte {flipped}"
                );
                if let Some(next) = found.get(position) {
                    assert_eq!(
                        next.hole_before,
                        next.offset
                            - if position == 0 {
                                BLOCK
                            } else {
                                found[position - 1].offset + found[position - 1].header.stride()
                            }
                    );
                }
            }
        }
    }

    #[test]
    fn what_an_earlier_use_left_behind_is_not_found() {
        let (old, _) = segment(&[3, 1, 5]);
        let other = Seed::new(VolumeId::from_bytes([1; 16]), 2);
        assert!(scan(&old, other).entries.is_empty());
    }

    #[test]
    fn any_cut_leaves_a_prefix() {
        let (bytes, offsets) = segment(&[2, 3]);
        for cut in 0..bytes.len() {
            let found = scan(&bytes[..cut], seed()).entries;
            let whole = offsets
                .iter()
                .filter(|offset| **offset as usize + 164 <= cut)
                .count();
            assert_eq!(found.len(), whole, "cut at {cut}");
        }
    }
}
