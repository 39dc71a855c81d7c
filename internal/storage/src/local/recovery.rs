//! Opening a volume from whatever state its files are in.
//!
//! 1. The newest checkpoint that is whole says which slices have how much of a synced file.
//! 2. Every journal segment is read from the oldest on; its valid entries are taken into the index in order.
//! 3. Slice files are cut to what the checkpoint vouches for. Everything behind it is in the journal, and the flush thread
//!    writes it again, so the volume takes batches before that is done.
//!
//! What stands behind the place up to which a segment is valid is ignored: those groups were refused, or never answered.
//! For all segments but the newest, that place is in the header of the segment after it. For the newest it is where the
//! last whole run of entries ends; entries missing from the last group mean that it was being written when the process ended.
//! Any other hole is damage: it is reported and passed over, and what stands behind it is kept.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stream_model::{SliceId, VolumeId};

use super::checkpoint::{self, Checkpoint};
use super::disk::{Disk, DiskFile};
use super::format::{self, BLOCK, ENTRY_HEADER, Kind, SealEntry, Seed, SegmentHeader};
use super::index::{Committed, Frame, Index, Slice, Stage};
use super::journal::{self, Resume};
use super::scan::{ScannedEntry, scan};
use super::segment::{self, Pool, Segment};
use super::sound::sound;
use super::volume::Options;

/// What opening a volume found.
#[derive(Debug, Default)]
pub struct Recovery {
    /// The volume was made just now.
    pub created: bool,
    /// Slices on the volume.
    pub slices: usize,
    /// Rows in them.
    pub rows: u64,
    /// What was lost.
    pub damage: Vec<Damage>,
    /// Files in the volume's directories that it does not know. They are left alone.
    pub unknown_files: Vec<PathBuf>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Bytes that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: PathBuf,
    /// The first damaged byte.
    pub from: u64,
    /// The byte behind the last damaged one.
    pub to: u64,
    /// Rows known to be lost with it.
    pub rows: Option<u64>,
    /// What was expected there.
    pub what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} bytes {}..{}: {}",
            self.file.display(),
            self.from,
            self.to,
            self.what
        )?;
        match self.rows {
            Some(rows) => write!(f, ", {rows} rows lost"),
            None => Ok(()),
        }
    }
}

/// What the volume starts with.
pub(super) struct Recovered {
    pub index: Index,
    pub newest: Checkpoint,
    pub resume: Resume,
    pub pool: Arc<Pool>,
    pub report: Recovery,
}

/// Name of a slice file.
pub(super) fn slice_path(dir: &Path, slice: SliceId) -> PathBuf {
    dir.join(format!("{slice}.slice"))
}

fn slice_of(path: &Path) -> Option<SliceId> {
    if path.extension()? != "slice" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

/// A segment that was found.
struct Found {
    segment: Arc<Segment>,
    header: Option<SegmentHeader>,
}

struct Recoverer<'a> {
    disk: &'a dyn Disk,
    volume: VolumeId,
    index: Index,
    report: Recovery,
    released: HashSet<SliceId>,
    last_entry: u64,
    last_group: u64,
}

/// Reads a volume.
///
/// # Errors
/// What the disk says when it cannot be read at all. Damaged content is reported instead.
pub(super) fn recover(options: &Options, volume: VolumeId) -> io::Result<Recovered> {
    let started = Instant::now();
    let disk = &*options.disk;
    let mut recoverer = Recoverer {
        disk,
        volume,
        index: Index::default(),
        report: Recovery::default(),
        released: HashSet::new(),
        last_entry: 0,
        last_group: 0,
    };
    let slices_dir = options.dir.join("slices");
    let checkpoint_dir = options.dir.join("checkpoint");
    let mut newest = recoverer.load_checkpoint(&checkpoint_dir)?;
    let journal_dir = options.dir.join("journal");
    let (segments, spares) = recoverer.find_segments(&journal_dir)?;
    let (previous, previous_valid_to) = recoverer.read_segments(&segments)?;
    let corrected = recoverer.check_slice_files(&mut newest, &slices_dir)?;
    recoverer.tidy_slice_files(&slices_dir)?;
    if corrected {
        // Both that are kept: an older one would take what grows behind the cut for what was lost.
        for _ in 0..checkpoint::KEEP {
            newest.number += 1;
            checkpoint::write(disk, &checkpoint_dir, volume, &newest)?;
        }
        checkpoint::prune(disk, &checkpoint_dir, newest.number)?;
    }
    recoverer.index.position = (recoverer.last_entry, recoverer.last_group);
    let mut report = recoverer.report;
    report.slices = recoverer.index.slices.len();
    report.rows = recoverer
        .index
        .slices
        .values()
        .map(|slice| slice.figures.rows)
        .sum();
    report.elapsed = started.elapsed();
    let resume = Resume {
        previous,
        previous_valid_to,
        next_entry: recoverer.last_entry + 1,
        next_group: recoverer.last_group + 1,
    };
    let disk = Arc::clone(&options.disk);
    let pool = journal::pool(disk, journal_dir, options.segment_bytes, spares);
    Ok(Recovered {
        index: recoverer.index,
        newest,
        resume,
        pool,
        report,
    })
}

impl Recoverer<'_> {
    /// Takes in the newest whole checkpoint.
    fn load_checkpoint(&mut self, dir: &Path) -> io::Result<Checkpoint> {
        let mut whole = Vec::new();
        for found in checkpoint::read_all(self.disk, dir, self.volume)? {
            match found {
                Ok(checkpoint) => whole.push(checkpoint),
                // The journal still has what the checkpoint before this one did not cover.
                Err((file, to)) => self.report.damage.push(Damage {
                    file,
                    from: 0,
                    to,
                    rows: Some(0),
                    what: "a damaged checkpoint, an older one is used",
                }),
            }
        }
        let before: BTreeMap<SliceId, u64> = whole
            .get(1)
            .map(|c| c.slices.iter().map(|s| (s.id, s.entry)).collect())
            .unwrap_or_default();
        self.index.listed = whole
            .iter()
            .flat_map(|c| c.slices.iter().map(|s| s.id))
            .collect();
        let Some(newest) = whole.into_iter().next() else {
            return Ok(Checkpoint::default());
        };
        self.last_entry = newest.last_entry;
        self.last_group = newest.last_group;
        for state in &newest.slices {
            let mut slice = Slice::new(state.compression);
            slice.sessions = state.sessions.clone();
            slice.figures = state.figures;
            slice.file_len = state.len;
            slice.last_entry = state.entry;
            slice.flushed_entry = state.entry;
            slice.synced_entry = state.entry;
            slice.synced_entry_before = before.get(&state.id).copied().unwrap_or(0);
            if let Some(successor) = state.sealed {
                slice.stage = Stage::Sealing { successor };
            }
            self.index.slices.insert(state.id, slice);
        }
        Ok(newest)
    }

    /// Compares the files of slices with what the checkpoint says of them. A file that lost its end keeps its whole frames.
    /// After the journal was read: a file is missing for good reason when the journal says that its slice was released.
    ///
    /// Returns whether the checkpoint had to be corrected: it must be written anew then, because the files grow again, and what it
    /// said of them would look right at the next opening.
    fn check_slice_files(&mut self, checkpoint: &mut Checkpoint, dir: &Path) -> io::Result<bool> {
        let mut corrected = false;
        for state in &mut checkpoint.slices {
            let Some(slice) = self.index.slices.get_mut(&state.id) else {
                continue;
            };
            let path = slice_path(dir, state.id);
            let len = match self.disk.open(&path) {
                Ok(file) => file.size()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error),
            };
            if len >= state.len {
                continue;
            }
            let bytes = if len == 0 {
                Vec::new()
            } else {
                self.disk.read(&path)?
            };
            // Only the start is kept: what follows is written behind it again.
            let mut kept = sound(&bytes, state.len, slice.compression).unwrap_or_default();
            let kept_len = kept.start();
            if kept.ranges.len() > 1 {
                let start = &bytes[..usize::try_from(kept_len).unwrap_or(0)];
                kept = sound(start, kept_len, slice.compression).unwrap_or_default();
            }
            let rows = state.figures.rows.saturating_sub(kept.rows);
            let raw_bytes = state.figures.raw_bytes.saturating_sub(kept.raw_bytes);
            slice.file_len = kept_len;
            slice.figures.rows = slice.figures.rows.saturating_sub(rows);
            slice.figures.raw_bytes = slice.figures.raw_bytes.saturating_sub(raw_bytes);
            slice.synced_entry_before = 0;
            self.report.damage.push(Damage {
                file: path,
                from: kept_len,
                to: state.len,
                rows: Some(rows),
                what: "the end of a slice file is missing",
            });
            state.len = kept_len;
            state.figures.rows = kept.rows;
            state.figures.raw_bytes = kept.raw_bytes;
            corrected = true;
        }
        Ok(corrected)
    }

    fn find_segments(&mut self, dir: &Path) -> io::Result<(Vec<Found>, Vec<PathBuf>)> {
        // What an earlier process has named may have its name in the cache of the system only. A later segment must not survive
        // without it.
        self.disk.sync_dir(dir)?;
        let (mut segments, mut spares) = (Vec::new(), Vec::new());
        for path in self.disk.list(dir)? {
            if segment::is_spare(&path) {
                // A spare may be half written, and may have any length: it is cheaper to make one than to check.
                self.disk.remove(&path)?;
                continue;
            }
            let Some(number) = segment::segment_number(&path) else {
                self.report.unknown_files.push(path);
                continue;
            };
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
            segments.push(Found {
                segment: Arc::new(Segment {
                    number,
                    path,
                    file,
                    size,
                }),
                header,
            });
        }
        segments.sort_unstable_by_key(|found| found.segment.number);
        spares.clear();
        Ok((segments, spares))
    }

    /// Reads all segments. Returns the number of the newest and up to where it is valid.
    fn read_segments(&mut self, segments: &[Found]) -> io::Result<(u64, u64)> {
        let (mut newest, mut valid_to) = (0, 0);
        for (position, found) in segments.iter().enumerate() {
            let number = found.segment.number;
            let next = segments.get(position + 1);
            let limit = next
                .and_then(|next| next.header)
                .filter(|header| header.previous == number)
                .map(|header| header.previous_valid_to);
            if let Some(next) = next.filter(|next| next.segment.number != number + 1) {
                self.report.damage.push(Damage {
                    file: segment::segment_path(
                        found.segment.path.parent().unwrap_or(Path::new("")),
                        number + 1,
                    ),
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
            newest = number;
            valid_to = self.read_segment(&found.segment, limit, next.is_none())?;
        }
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
        let (entries, end) = self.valid(segment, &scan.entries, newest);
        let segment = if newest && !entries.is_empty() {
            bytes.resize(usize::try_from(end).unwrap_or(usize::MAX), 0);
            self.make_durable(segment, &bytes)?
        } else {
            Arc::clone(segment)
        };
        self.index.usage.add(Arc::clone(&segment));
        for entry in entries {
            self.take(&segment, &bytes, entry);
        }
        let Some(limit) = limit else { return Ok(end) };
        if limit.min(segment.size) > end {
            self.damaged(&segment, end, len);
        }
        if limit > segment.size {
            self.damaged(&segment, segment.size, limit);
        }
        Ok(limit)
    }

    /// The entries that count, and the block behind them. Reports holes between them.
    fn valid<'s>(
        &mut self,
        segment: &Segment,
        entries: &'s [ScannedEntry],
        newest: bool,
    ) -> (&'s [ScannedEntry], u64) {
        let last_group = entries.last().map_or(0, |entry| entry.header.group);
        let mut end = BLOCK;
        for (position, entry) in entries.iter().enumerate() {
            if entry.hole_before > 0 {
                let hole = entry.offset - entry.hole_before;
                let (own, others) = entry.missing;
                // The last group of the newest segment may never have been finished; every other one was.
                let unfinished = newest && entry.header.group == last_group && own > 0;
                if !unfinished || others > 0 {
                    self.damaged(segment, hole, entry.offset);
                }
                if unfinished {
                    tracing::info!(
                        segment = segment.number,
                        offset = hole,
                        entries = entries.len() - position,
                        "unfinished commit group discarded"
                    );
                    return (&entries[..position], hole);
                }
            }
            end = entry.offset + entry.header.stride();
        }
        (entries, end.next_multiple_of(BLOCK))
    }

    /// Writes the newest segment anew. What is read from it may be in the cache of the system only: the process was killed before
    /// its sync, or the sync failed. Then the system may have given up the pages without forgetting what is in them, and a
    /// sync now would say nothing. Clients are told soon that it was written, so it is made certain first. Not in place: a
    /// write that tears destroys what is there.
    fn make_durable(&self, segment: &Segment, bytes: &[u8]) -> io::Result<Arc<Segment>> {
        let dir = segment.path.parent().unwrap_or(Path::new(""));
        let copy = segment::spare_path(dir, segment.number);
        let file = self.disk.create(&copy)?;
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()?;
        self.disk.rename(&copy, &segment.path)?;
        self.disk.sync_dir(dir)?;
        Ok(Arc::new(Segment {
            number: segment.number,
            path: segment.path.clone(),
            file,
            size: bytes.len() as u64,
        }))
    }

    fn damaged(&mut self, segment: &Segment, from: u64, to: u64) {
        self.report.damage.push(Damage {
            file: segment.path.clone(),
            from,
            to,
            rows: None,
            what: "damaged journal entries",
        });
    }

    fn take(&mut self, segment: &Arc<Segment>, bytes: &[u8], entry: &ScannedEntry) {
        self.last_entry = self.last_entry.max(entry.header.entry);
        self.last_group = self.last_group.max(entry.header.group);
        let payload_offset = entry.offset + ENTRY_HEADER as u64;
        let payload = entry.payload(bytes);
        let understood = match entry.header.kind {
            Kind::Batch => self.take_batch(segment, payload, payload_offset, entry.header.entry),
            Kind::Seal => SealEntry::decode(payload).map(|seal| {
                let number = entry.header.entry;
                let known = self
                    .index
                    .slices
                    .get(&seal.slice)
                    .map(|slice| slice.flushed_entry);
                if known.is_none_or(|flushed| number > flushed) {
                    self.index.seal(&seal, segment.number, number);
                } else {
                    self.index.usage.record(segment.number, seal.slice, number);
                }
            }),
            Kind::Release => format::decode_release(payload).map(|slice| {
                self.index.release(slice, segment.number);
                self.released.insert(slice);
            }),
        };
        if understood.is_none() {
            self.damaged(segment, entry.offset, entry.offset + entry.header.stride());
        }
    }

    fn take_batch(
        &mut self,
        segment: &Arc<Segment>,
        payload: &[u8],
        payload_offset: u64,
        number: u64,
    ) -> Option<()> {
        let (session, parts) = format::decode_batch(payload)?;
        for part in parts {
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

    /// Removes the files of released slices and cuts the others to what is vouched for.
    fn tidy_slice_files(&mut self, dir: &Path) -> io::Result<()> {
        for path in self.disk.list(dir)? {
            let known = slice_of(&path).map(|id| (id, self.index.slices.get(&id)));
            match known {
                Some((_, Some(slice))) => {
                    let file = self.disk.open(&path)?;
                    if file.size()? > slice.file_len {
                        file.set_len(slice.file_len)?;
                    }
                }
                Some((id, None)) if self.released.contains(&id) => self.disk.remove(&path)?,
                Some((_, None)) | None => self.report.unknown_files.push(path),
            }
        }
        // Also what was gone already may be gone in the cache of the system only.
        if !self.released.is_empty() {
            self.disk.sync_dir(dir)?;
        }
        self.index.leaving.clear();
        Ok(())
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
