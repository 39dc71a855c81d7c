//! What is missing from the journal: holes between entries, what stood behind the last entry of a segment, whole segments.

use std::path::{Path, PathBuf};

use stream_model::{SliceId, VolumeId};

use super::super::checkpoint::Checkpoint;
use super::super::format::{BLOCK, EntryHeader};
use super::super::loss::{self, Hole, Missing};
use super::super::scan::ScannedEntry;
use super::super::segment::{self, Segment};
use super::segments::Found;
use super::{Damage, Recoverer};

/// What stands in a segment behind its last valid entry.
pub(super) struct Tail {
    file: PathBuf,
    segment: u64,
    from: u64,
    /// Up to where the segment is valid.
    to: u64,
    bytes: Vec<u8>,
    /// Whether it is so long that there must have been entries.
    certain: bool,
}

impl Tail {
    fn is_damaged(&self, volume: VolumeId, missing: &Missing, next: Option<&EntryHeader>) -> bool {
        match missing.count() {
            _ if self.certain => true,
            Some(count) => count > 0,
            // The numbers of a group that failed are missing as well.
            None => next.is_some() && loss::remains_at(&self.bytes, volume, self.segment).is_some(),
        }
    }
}

/// The entries of a segment that count.
pub(super) struct Valid<'s> {
    pub entries: &'s [ScannedEntry],
    /// Where the last one ends.
    pub end: u64,
    /// Up to where the segment is valid, by its entries alone.
    pub valid_to: u64,
}

impl Recoverer<'_> {
    pub(super) fn missing_segments(&mut self, found: &Found, next: &Found) {
        let number = found.segment.number;
        self.close_tail(None);
        self.explained = true;
        self.report.damage.push(Damage {
            file: sibling(&found.segment, number + 1),
            from: 0,
            to: 0,
            rows: None,
            what: if next.segment.number == number + 2 {
                "a journal segment is missing"
            } else {
                "journal segments are missing from here on"
            },
        });
    }

    /// A volume that made a checkpoint has a segment: the newest one is never given back.
    pub(super) fn report_no_journal(&mut self, dir: &Path) {
        self.report.damage.push(Damage {
            file: dir.to_owned(),
            from: 0,
            to: 0,
            rows: None,
            what: "the journal is missing, a checkpoint needs it",
        });
    }

    /// A checkpoint knows how many entries there were when it was made.
    pub(super) fn report_cut(&mut self, newest: &Segment, valid_to: u64, checkpoint: &Checkpoint) {
        let is_cut = |last: &EntryHeader| last.entry < checkpoint.last_entry;
        if !self.last_valid.as_ref().is_some_and(is_cut) {
            return;
        }
        self.report.damage.push(Damage {
            file: newest.path.clone(),
            from: valid_to,
            to: valid_to,
            rows: None,
            what: "the end of the journal is missing, a checkpoint knows more entries",
        });
    }

    /// Parts of a session in a slice are numbered. When some are missing before any damage was found, they stood in a segment
    /// that is gone, unless all of the slice is given up.
    pub(super) fn report_incomplete(&mut self, oldest: &Segment) {
        let released = &self.released;
        self.incomplete.retain(|slice| !released.contains(slice));
        if self.incomplete.is_empty() {
            return;
        }
        self.report.damage.push(Damage {
            file: sibling(oldest, (oldest.number - 1).max(1)),
            from: 0,
            to: 0,
            rows: None,
            what: "earlier journal segments are missing, later ones continue them",
        });
    }

    /// Keeps what stands behind the last valid entry of a segment until the next entry is known.
    pub(super) fn keep_tail(
        &mut self,
        segment: &Segment,
        limit: Option<u64>,
        end: u64,
        valid_to: u64,
        bytes: &[u8],
    ) {
        let certain = limit.is_some_and(|limit| limit > valid_to || limit > segment.size);
        if end == BLOCK {
            // Nothing is left of its entries, if it had any: the tail before it ends where nobody knows.
            if !certain {
                return;
            }
            self.close_tail(None);
        }
        let start = usize::try_from(end).unwrap_or(usize::MAX);
        self.tail = Some(Tail {
            file: segment.path.clone(),
            segment: segment.number,
            from: end.min(segment.size),
            to: limit.unwrap_or(segment.size),
            bytes: bytes.get(start..).unwrap_or_default().to_vec(),
            certain,
        });
    }

    /// Reports what is missing behind the last valid entry, now that the next one is known; none when there is none, or when
    /// segments are missing in between.
    pub(super) fn close_tail(&mut self, next: Option<&EntryHeader>) {
        let Some(tail) = self.tail.take() else { return };
        let missing = Missing::behind_last(self.last_valid.as_ref(), next);
        if !tail.is_damaged(self.volume, &missing, next) {
            return;
        }
        let hole = Hole {
            volume: self.volume,
            segment: tail.segment,
            from: tail.from,
            bytes: &tail.bytes,
        };
        let is_there = tail.to <= tail.from + tail.bytes.len() as u64;
        let entries = match missing.count() {
            None if !is_there => None,
            _ => hole.entries(&missing),
        };
        if let Some(entries) = entries {
            self.lost.push((self.report.damage.len(), entries));
        }
        self.damaged(tail.file, tail.from, tail.to);
    }

    /// The entries that count. Reports holes between them.
    pub(super) fn valid<'s>(
        &mut self,
        segment: &Segment,
        bytes: &[u8],
        entries: &'s [ScannedEntry],
        newest: bool,
    ) -> Valid<'s> {
        let last_group = entries.last().map_or(0, |entry| entry.header.group);
        let mut end = BLOCK;
        for (position, entry) in entries.iter().enumerate() {
            if entry.hole_before > 0 {
                let (own, others) = entry.missing;
                let group = entry.header.group;
                // The last group of the newest segment may never have been finished, unless a checkpoint knows it; every other
                // one was.
                let is_last = newest && group == last_group && group > self.last_group;
                let unfinished = is_last && own > 0;
                let hole = self.hole(segment, bytes, entry);
                if !unfinished || others > 0 || hole.has_header_of_other_than(group) {
                    let before = position
                        .checked_sub(1)
                        .map(|before| &entries[before].header);
                    self.report_hole(segment, &hole, entry, before, unfinished);
                }
                if unfinished {
                    tracing::info!(
                        segment = segment.number,
                        offset = entry.offset - entry.hole_before,
                        entries = entries.len() - position,
                        "unfinished commit group discarded"
                    );
                    return Valid {
                        entries: &entries[..position],
                        end,
                        valid_to: entry.offset - entry.hole_before,
                    };
                }
            }
            end = entry.offset + entry.header.stride();
        }
        Valid {
            entries,
            end,
            valid_to: end.next_multiple_of(BLOCK),
        }
    }

    /// The bytes before an entry, where others should have been.
    fn hole<'b>(&self, segment: &Segment, bytes: &'b [u8], entry: &ScannedEntry) -> Hole<'b> {
        let from = entry.offset - entry.hole_before;
        let (start, end) = (usize::try_from(from), usize::try_from(entry.offset));
        let range = start.unwrap_or(usize::MAX)..end.unwrap_or(usize::MAX);
        Hole {
            volume: self.volume,
            segment: segment.number,
            from,
            bytes: bytes.get(range).unwrap_or_default(),
        }
    }

    /// Reports a hole. Entries of the group behind it do not count when that was being written.
    fn report_hole(
        &mut self,
        segment: &Segment,
        hole: &Hole<'_>,
        entry: &ScannedEntry,
        before: Option<&EntryHeader>,
        unfinished: bool,
    ) {
        let mut after = entry.header;
        if unfinished {
            after.entry -= entry.missing.0;
            after.position = 0;
        }
        let missing = match before {
            Some(before) => Missing::within(before, &after),
            None => Missing::before_first(self.last_valid.as_ref(), &after),
        };
        if let Some(entries) = hole.entries(&missing) {
            self.lost.push((self.report.damage.len(), entries));
        }
        self.damaged(segment.path.clone(), hole.from, entry.offset);
    }

    pub(super) fn damaged(&mut self, file: PathBuf, from: u64, to: u64) {
        self.explained = true;
        self.report.damage.push(Damage {
            file,
            from,
            to,
            rows: None,
            what: "damaged journal entries",
        });
    }

    /// Parts of a slice are missing before an entry. What explains that must stay as long as it shows, or the next opening would take
    /// it for something new.
    pub(super) fn parts_missing(&mut self, slice: SliceId, number: u64) {
        self.index.usage.record(self.oldest, slice, number);
        if !self.explained {
            self.incomplete.insert(slice);
        }
    }
}

fn sibling(segment: &Segment, number: u64) -> PathBuf {
    segment::segment_path(segment.path.parent().unwrap_or(Path::new("")), number)
}
