//! The journal at an opening: finds the segments, and takes their entries into the index.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::ballast;
use super::super::checkpoint::Checkpoint;
use super::super::disk::DiskFile;
use super::super::format::{
    self, BLOCK, ENTRY_HEADER, EntryHeader, Kind, SealEntry, Seed, SegmentHeader,
};
use super::super::index::{Committed, Frame};
use super::super::scan::{ScannedEntry, scan};
use super::super::segment::{self, Segment};
use super::holes::Valid;
use super::{Damage, Recoverer};
use crate::crash::{self, Point};

/// A segment that was found.
pub(super) struct Found {
    pub segment: Arc<Segment>,
    header: Option<SegmentHeader>,
}

impl Recoverer<'_> {
    pub(super) fn find_segments(&mut self, dir: &Path) -> io::Result<Vec<Found>> {
        // What an earlier process has named may have its name in the cache of the system only. A later segment must not survive
        // without it.
        self.disk.sync_dir(dir)?;
        let mut segments = Vec::new();
        for path in self.disk.list(dir)? {
            if segment::is_spare(&path) {
                // A spare may be half written, and may have any length: it is cheaper to make one than to check.
                self.disk.remove(&path)?;
                continue;
            }
            if ballast::is_ballast(&path) {
                continue;
            }
            match segment::segment_number(&path) {
                Some(number) => segments.push(self.found(path, number)?),
                None => self.report.unknown_files.push(path),
            }
        }
        segments.sort_unstable_by_key(|found| found.segment.number);
        Ok(segments)
    }

    fn found(&mut self, path: PathBuf, number: u64) -> io::Result<Found> {
        let file = self.disk.open(&path)?;
        let size = file.size()?;
        let header = SegmentHeader::decode(&read_block(&*file, size)?)
            .filter(|header| header.volume == self.volume && header.number == number);
        if header.is_none() {
            self.report.damage.push(Damage {
                file: path.clone(),
                from: 0,
                to: BLOCK.min(size),
                rows: Some(0),
                what: "a damaged segment header",
            });
        }
        let segment = Arc::new(Segment {
            number,
            path,
            file,
            size,
        });
        Ok(Found { segment, header })
    }

    /// Reads all segments. Returns the number of the newest and up to where it is valid.
    pub(super) fn read_segments(
        &mut self,
        segments: &[Found],
        checkpoint: &Checkpoint,
    ) -> io::Result<(u64, u64)> {
        let (mut newest, mut valid_to) = (0, 0);
        self.oldest = segments.first().map_or(0, |found| found.segment.number);
        for (position, found) in segments.iter().enumerate() {
            let number = found.segment.number;
            let next = segments.get(position + 1);
            let limit = next
                .and_then(|next| next.header)
                .filter(|header| header.previous == number)
                .map(|header| header.previous_valid_to);
            newest = number;
            valid_to = self.read_segment(&found.segment, limit, next.is_none())?;
            if let Some(next) = next.filter(|next| next.segment.number != number + 1) {
                self.missing_segments(found, next);
            }
        }
        let (Some(oldest), Some(last)) = (segments.first(), segments.last()) else {
            return Ok((newest, valid_to));
        };
        self.report_cut(&last.segment, valid_to, checkpoint);
        self.report_incomplete(&oldest.segment);
        Ok((newest, valid_to))
    }

    /// Takes the valid entries of one segment into the index. Returns up to where it is valid.
    fn read_segment(
        &mut self,
        segment: &Arc<Segment>,
        limit: Option<u64>,
        newest: bool,
    ) -> io::Result<u64> {
        let len = limit.unwrap_or(segment.size).min(segment.size);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        segment.file.read_exact_at(&mut bytes, 0)?;
        let scan = scan(&bytes, Seed::new(self.volume, segment.number));
        if let Some(first) = scan.entries.first() {
            self.close_tail(Some(&first.header));
        }
        let Valid {
            entries,
            end,
            valid_to,
        } = self.valid(segment, &bytes, &scan.entries, newest);
        // Also when there is nothing in it: on a full disk its length may be all the room that there is.
        let segment = if newest && (!entries.is_empty() || segment.size > BLOCK) {
            // What an entry that was never finished has left in the last block would look like damage later.
            bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
            bytes.resize(usize::try_from(valid_to).unwrap_or(usize::MAX), 0);
            self.make_durable(segment, &bytes)?
        } else {
            Arc::clone(segment)
        };
        self.index.usage.add(Arc::clone(&segment));
        for entry in entries {
            self.take(&segment, &bytes, entry);
        }
        if let Some(last) = entries.last() {
            self.last_valid = Some(last.header);
        }
        if newest {
            self.close_tail(None);
            return Ok(valid_to.min(segment.size));
        }
        self.keep_tail(&segment, limit, end, valid_to, &bytes);
        Ok(limit.unwrap_or(valid_to))
    }

    fn take(&mut self, segment: &Arc<Segment>, bytes: &[u8], entry: &ScannedEntry) {
        crash::point(Point::EntryReplayed);
        self.last_entry = self.last_entry.max(entry.header.entry);
        self.last_group = self.last_group.max(entry.header.group);
        let payload_offset = entry.offset + ENTRY_HEADER as u64;
        let payload = entry.payload(bytes);
        let understood = match entry.header.kind {
            Kind::Batch => self.take_batch(segment, payload, payload_offset, entry.header),
            Kind::Seal => SealEntry::decode(payload)
                .map(|seal| self.take_seal(segment, &seal, entry.header.entry)),
            Kind::Release => format::decode_release(payload).map(|slice| {
                self.index.release(slice, segment.number);
                self.released.insert(slice);
            }),
        };
        if understood.is_none() {
            let to = entry.offset + entry.header.stride();
            self.damaged(segment.path.clone(), entry.offset, to);
        }
    }

    fn take_seal(&mut self, segment: &Segment, seal: &SealEntry, number: u64) {
        let known = self.index.slices.get(&seal.slice);
        if known.is_some_and(|slice| number <= slice.flushed_entry) {
            let usage = &mut self.index.usage;
            return usage.record(segment.number, seal.slice, number);
        }
        let is_missing = |(session, last): (_, &u64)| {
            let known = known.map_or(0, |slice| slice.last(session));
            known < *last
        };
        let mut sessions = seal.sessions.iter().map(|(session, last)| (*session, last));
        if sessions.any(is_missing) {
            self.parts_missing(seal.slice, number);
        }
        self.index.seal(seal, segment.number, number);
    }

    fn take_batch(
        &mut self,
        segment: &Arc<Segment>,
        payload: &[u8],
        payload_offset: u64,
        header: EntryHeader,
    ) -> Option<()> {
        let number = header.entry;
        let (session, parts) = format::decode_batch(payload)?;
        if let Some(keys) = format::decode_rest(payload, &parts)? {
            self.index.usage.record_keys(segment.number, number);
            self.keys.replay(number, header.group, &keys);
        }
        for part in parts {
            let known = self.index.slices.get(&part.slice);
            let is_covered = known.is_some_and(|slice| number <= slice.flushed_entry);
            let last = known.map_or(0, |slice| slice.last(session));
            if !is_covered && part.seq > last + 1 {
                self.parts_missing(part.slice, number);
            }
            self.index.commit(Committed {
                slice: part.slice,
                session,
                seq: part.seq,
                rows: part.rows,
                first_at: part.first_at,
                last_at: part.last_at,
                compression: part.compression,
                frame: Frame {
                    entry: number,
                    segment: Arc::clone(segment),
                    offset: payload_offset + part.frame_offset,
                    len: part.frame_len,
                    raw: part.raw_bytes,
                },
            });
        }
        Some(())
    }
}

/// The first block of a segment. That the disk cannot read it now says nothing of what is in it: taken for damage, a group that
/// was refused could come back, because the header says where the segment before this one ends.
fn read_block(file: &dyn DiskFile, size: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(BLOCK.min(size)).expect("a block is small");
    let mut block = vec![0; len];
    file.read_exact_at(&mut block, 0)?;
    Ok(block)
}
