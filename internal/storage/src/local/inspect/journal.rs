//! What stands in the journal: a summary of each segment, and all that is wrong with its entries beyond what an opening
//! notices.
//!
//! Entries are found by the scan that recovery uses, and what it left out of the newest segment is left out here.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use stream_model::{SessionId, SliceId, VolumeId};

use super::super::disk::Disk;
use super::super::format::{
    self, BLOCK, ENTRY_HEADER, Kind, RecoveredPart, SealEntry, Seed, SegmentHeader,
};
use super::super::frames;
use super::super::identity::read_header;
use super::super::loss;
use super::super::recovery::Recovered;
use super::super::scan::{ScannedEntry, scan};
use super::super::segment;
use super::{Checked, Damage, Depth, SegmentSummary};

/// Goes through the segments from the oldest on.
pub(super) struct Walk<'a> {
    disk: &'a dyn Disk,
    volume: VolumeId,
    recovered: &'a Recovered,
    depth: Depth,
    /// The newest sequence number of each session in each slice.
    sequences: BTreeMap<(SliceId, SessionId), u64>,
    last_entry: Option<u64>,
    /// Slices that an entry releases.
    pub released: HashSet<SliceId>,
    pub segments: Vec<SegmentSummary>,
    pub findings: Vec<Damage>,
    /// Damaged entries at the ends of segments.
    pub remains: Vec<Damage>,
    pub notes: Vec<Damage>,
    pub checked: Checked,
}

impl<'a> Walk<'a> {
    pub fn new(
        disk: &'a dyn Disk,
        volume: VolumeId,
        recovered: &'a Recovered,
        depth: Depth,
    ) -> Self {
        Self {
            disk,
            volume,
            recovered,
            depth,
            sequences: BTreeMap::new(),
            last_entry: None,
            released: HashSet::new(),
            segments: Vec::new(),
            findings: Vec::new(),
            remains: Vec::new(),
            notes: Vec::new(),
            checked: Checked::default(),
        }
    }

    /// Reads all segments in a directory.
    pub fn run(&mut self, dir: &Path) -> io::Result<()> {
        let mut numbered: Vec<(u64, PathBuf)> = self
            .disk
            .list(dir)?
            .into_iter()
            .filter_map(|path| Some((segment::segment_number(&path)?, path)))
            .collect();
        numbered.sort_unstable();
        let headers: Vec<Option<SegmentHeader>> = numbered
            .iter()
            .map(|(number, path)| self.header(*number, path))
            .collect::<io::Result<_>>()?;
        for (position, (number, path)) in numbered.iter().enumerate() {
            let bytes = self.disk.read(path)?;
            let newest = position + 1 == numbered.len();
            let next = headers.get(position + 1).copied().flatten();
            let vouched = next.filter(|next| next.previous == *number);
            let limit = match vouched {
                Some(next) => next.previous_valid_to,
                None if newest => self.recovered.resume.previous_valid_to,
                None => bytes.len() as u64,
            };
            let summary = SegmentSummary {
                number: *number,
                path: path.clone(),
                size: bytes.len() as u64,
                whole_header: headers[position].is_some(),
                newest,
                valid_to: limit.min(bytes.len() as u64),
                ..SegmentSummary::default()
            };
            self.segment(summary, &bytes);
        }
        Ok(())
    }

    fn header(&self, number: u64, path: &Path) -> io::Result<Option<SegmentHeader>> {
        Ok(read_header(self.disk, path)?
            .filter(|header| header.volume == self.volume && header.number == number))
    }

    fn segment(&mut self, mut summary: SegmentSummary, bytes: &[u8]) {
        self.checked.bytes += summary.size;
        let seed = Seed::new(self.volume, summary.number);
        let valid = usize::try_from(summary.valid_to).unwrap_or(bytes.len());
        let found = scan(&bytes[..valid], seed);
        let (mut sessions, mut group) = (HashSet::new(), None);
        let mut end = BLOCK;
        for entry in &found.entries {
            if group.replace(entry.header.group) != Some(entry.header.group) {
                summary.groups += 1;
            }
            self.entry_number(&summary, entry);
            self.entry(&mut summary, &mut sessions, bytes, entry);
            end = entry.offset + entry.header.stride();
        }
        summary.sessions = sessions.len();
        self.remains(&summary, bytes, end);
        self.segments.push(summary);
    }

    /// Numbers that are missing within a segment are found by recovery. Between segments a write that failed leaves a gap too.
    fn entry_number(&mut self, segment: &SegmentSummary, entry: &ScannedEntry) {
        let number = entry.header.entry;
        let first = segment.entries.is_none();
        if first && self.last_entry.is_some_and(|last| number != last + 1) {
            self.notes.push(Damage {
                file: segment.path.clone(),
                from: entry.offset,
                to: entry.offset,
                rows: None,
                what: "entries are missing before this one: a write failed, or they are damaged",
            });
        }
        self.last_entry = Some(number);
    }

    fn entry(
        &mut self,
        segment: &mut SegmentSummary,
        sessions: &mut HashSet<SessionId>,
        bytes: &[u8],
        entry: &ScannedEntry,
    ) {
        let number = entry.header.entry;
        let first = segment.entries.map_or(number, |(first, _)| first);
        segment.entries = Some((first, number));
        segment.entry_bytes += entry.header.stride();
        self.checked.entries += 1;
        let payload = entry.payload(bytes);
        match entry.header.kind {
            Kind::Batch => {
                segment.batches += 1;
                let Some((session, parts)) = format::decode_batch(payload) else {
                    // Recovery reports it.
                    return;
                };
                sessions.insert(session);
                for part in parts {
                    segment.rows += u64::from(part.rows);
                    self.sequence(segment, entry, session, &part);
                    self.frame(segment, entry, payload, &part);
                }
            }
            Kind::Seal => {
                segment.seals += 1;
                if let Some(seal) = SealEntry::decode(payload) {
                    self.seal(segment, entry, &seal);
                }
            }
            Kind::Release => {
                segment.releases += 1;
                self.released.extend(format::decode_release(payload));
            }
        }
    }

    /// Unpacks a frame.
    fn frame(
        &mut self,
        segment: &SegmentSummary,
        entry: &ScannedEntry,
        payload: &[u8],
        part: &RecoveredPart,
    ) {
        if self.depth == Depth::Structure {
            return;
        }
        self.checked.frames += 1;
        let start = usize::try_from(part.frame_offset).unwrap_or(payload.len());
        let end = start + part.frame_len as usize;
        let unpacked = payload
            .get(start..end)
            .and_then(|frame| frames::unpack(frame, part.compression));
        let expected = frames::Rows {
            rows: part.rows.into(),
            bytes: part.raw_bytes.into(),
        };
        if unpacked == Some(expected) {
            return;
        }
        let from = entry.offset + ENTRY_HEADER as u64 + part.frame_offset;
        self.findings.push(Damage {
            file: segment.path.clone(),
            from,
            to: from + u64::from(part.frame_len),
            rows: Some(part.rows.into()),
            what: if unpacked.is_some() {
                "a frame has other rows than its batch says"
            } else {
                "a frame cannot be unpacked"
            },
        });
    }

    /// Checks that the parts of a session in a slice are numbered without gaps.
    fn sequence(
        &mut self,
        segment: &SegmentSummary,
        entry: &ScannedEntry,
        session: SessionId,
        part: &RecoveredPart,
    ) {
        let key = (part.slice, session);
        let expected = match self.sequences.get(&key) {
            Some(last) => Some(last + 1),
            None => self.first_expected(key, entry.header.entry),
        };
        self.sequences.insert(key, part.seq);
        if expected.is_some_and(|expected| expected != part.seq) {
            self.entry_finding(
                segment,
                entry,
                "sequence numbers of a session do not follow each other",
            );
        }
    }

    /// The sequence number that the first part of a session in the journal must have, where that can be told: entries that
    /// a checkpoint covers may have left the journal, and so may those of a slice that was released later.
    fn first_expected(&self, (slice, session): (SliceId, SessionId), entry: u64) -> Option<u64> {
        self.recovered.index.slices.get(&slice)?;
        let newest = &self.recovered.newest;
        match newest.slices.iter().find(|state| state.id == slice) {
            Some(state) if entry <= state.entry => None,
            Some(state) => Some(state.sessions.get(&session).copied().unwrap_or(0) + 1),
            None => Some(1),
        }
    }

    /// A seal names the newest sequence number of each session.
    fn seal(&mut self, segment: &SegmentSummary, entry: &ScannedEntry, seal: &SealEntry) {
        let covered = self
            .recovered
            .newest
            .slices
            .iter()
            .find(|s| s.id == seal.slice);
        let complete = self.recovered.index.slices.contains_key(&seal.slice);
        let wrong = seal.sessions.iter().any(|(session, last)| {
            let known = self
                .sequences
                .get(&(seal.slice, *session))
                .or_else(|| covered.and_then(|state| state.sessions.get(session)));
            complete && known.copied().unwrap_or(0) != *last
        });
        if wrong {
            self.entry_finding(
                segment,
                entry,
                "a seal names other sequence numbers than the journal has",
            );
        }
    }

    fn entry_finding(
        &mut self,
        segment: &SegmentSummary,
        entry: &ScannedEntry,
        what: &'static str,
    ) {
        self.findings.push(Damage {
            file: segment.path.clone(),
            from: entry.offset,
            to: entry.offset + entry.header.stride(),
            rows: None,
            what,
        });
    }

    /// Looks for what is left of entries behind the last valid one. In the newest segment they were being written when the
    /// process ended, and never acknowledged; else they were damaged later.
    fn remains(&mut self, segment: &SegmentSummary, bytes: &[u8], end: u64) {
        let to = if segment.newest {
            segment.size
        } else {
            segment.valid_to
        };
        for at in [end, end.next_multiple_of(BLOCK)] {
            let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..));
            let Some(rest) = rest.filter(|_| at < to) else {
                continue;
            };
            let Some(len) = loss::remains_at(rest, self.volume, segment.number) else {
                continue;
            };
            let remains = Damage {
                file: segment.path.clone(),
                from: at,
                to: (at + len).min(to),
                rows: None,
                what: if segment.newest {
                    "a commit group that was being written, or was damaged after that"
                } else {
                    "damaged journal entries"
                },
            };
            let reported = self.recovered.report.damage.iter().any(|damage| {
                damage.file == remains.file && damage.from <= at && at < damage.to.max(1)
            });
            match (reported, segment.newest) {
                (true, _) => {}
                (false, true) => self.notes.push(remains),
                (false, false) => self.remains.push(remains),
            }
            return;
        }
    }
}
