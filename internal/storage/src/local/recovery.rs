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
//!
//! Entries are numbered, and so are the parts of a session in a slice: what is missing is noticed also where no damaged bytes
//! are left to tell.

mod copy;
mod holes;
mod report;
mod segments;
mod slice_files;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use stream_model::{SliceId, Timestamp, VolumeId};

use self::holes::Tail;
pub use self::report::{Damage, Recovery};
pub use self::slice_files::slice_file_path;
pub(super) use self::slice_files::slice_path;
use super::ballast::Ballast;
use super::checkpoint::{self, Checkpoint};
use super::disk::Disk;
use super::durable;
use super::format::EntryHeader;
use super::identity;
use super::index::{Index, Slice, Stage};
use super::journal::{self, Resume};
use super::keys;
use super::loss::{self, LostEntry};
use super::segment::Pool;
use super::volume::Options;
use crate::crash::{self, Point};

/// What the volume starts with.
pub(super) struct Recovered {
    pub index: Index,
    pub newest: Checkpoint,
    pub resume: Resume,
    pub pool: Arc<Pool>,
    pub keys: keys::Opened,
    pub report: Recovery,
}

struct Recoverer<'a> {
    disk: &'a dyn Disk,
    volume: VolumeId,
    index: Index,
    report: Recovery,
    keys: keys::Opened,
    released: HashSet<SliceId>,
    /// What stood in damaged bytes of the journal, by positions in `report.damage`.
    lost: Vec<(usize, Vec<LostEntry>)>,
    /// Number of the oldest segment.
    oldest: u64,
    /// The last valid entry of the segments that were read.
    last_valid: Option<EntryHeader>,
    /// What stands behind it, until the next entry tells whether something is missing there.
    tail: Option<Tail>,
    /// Whether damage that was found so far explains missing parts.
    explained: bool,
    /// Slices of which parts are missing that nothing explains.
    incomplete: HashSet<SliceId>,
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
    let mut recoverer = Recoverer::new(disk, volume);
    let slices_dir = options.dir.join("slices");
    let checkpoint_dir = options.dir.join("checkpoint");
    recoverer.look_around(&options.dir)?;
    let mut newest = recoverer.load_checkpoint(&checkpoint_dir)?;
    crash::point(Point::CheckpointRead);
    let (now, keys_dir) = (options.clock.now(), keys::dir_of(&options.dir));
    recoverer.keys = keys::Opened::read(disk, &keys_dir, volume, now)?;
    let journal_dir = options.dir.join("journal");
    let segments = recoverer.find_segments(&journal_dir)?;
    crash::point(Point::SegmentsFound);
    if segments.is_empty() && newest.number > 0 {
        recoverer.report_no_journal(&journal_dir);
    }
    let is_new = segments.is_empty() && newest.number == 0;
    let (previous, previous_valid_to) = recoverer.read_segments(&segments, &newest)?;
    recoverer.count_lost_rows(newest.last_entry);
    crash::point(Point::JournalReplayed);
    let corrected = recoverer.check_slice_files(&mut newest, &slices_dir)?;
    crash::point(Point::SlicesChecked);
    recoverer.tidy_slice_files(&slices_dir)?;
    crash::point(Point::SlicesTidied);
    if corrected {
        // Both that are kept: an older one would take what grows behind the cut for what was lost.
        for _ in 0..checkpoint::KEEP {
            newest.number += 1;
            checkpoint::write(disk, &checkpoint_dir, volume, &newest)?;
        }
        checkpoint::prune(disk, &checkpoint_dir, newest.number)?;
    }
    recoverer.close_keys(is_new, now);
    let resume = Resume {
        previous,
        previous_valid_to,
        next_entry: recoverer.last_entry + 1,
        next_group: recoverer.last_group + 1,
    };
    let disk = Arc::clone(&options.disk);
    let ballast = Ballast::find(Arc::clone(&disk), journal_dir.clone())?;
    let pool = journal::pool(disk, journal_dir, options.segment_bytes, ballast);
    let keys = std::mem::take(&mut recoverer.keys);
    let (index, mut report) = recoverer.finish();
    report.elapsed = started.elapsed();
    Ok(Recovered {
        index,
        newest,
        resume,
        pool,
        keys,
        report,
    })
}

impl<'a> Recoverer<'a> {
    fn new(disk: &'a dyn Disk, volume: VolumeId) -> Self {
        Self {
            disk,
            volume,
            index: Index::default(),
            report: Recovery::default(),
            keys: keys::Opened::default(),
            released: HashSet::new(),
            lost: Vec::new(),
            oldest: 0,
            last_valid: None,
            tail: None,
            explained: false,
            incomplete: HashSet::new(),
            last_entry: 0,
            last_group: 0,
        }
    }

    fn finish(mut self) -> (Index, Recovery) {
        self.index.position = (self.last_entry, self.last_group);
        let slices = self.index.slices.values();
        self.report.rows = slices.map(|slice| slice.figures.rows).sum();
        self.report.slices = self.index.slices.len();
        self.report.unknown_files.sort_unstable();
        (self.index, self.report)
    }

    /// Says since when keys are remembered, and goes on behind what their runs know.
    fn close_keys(&mut self, is_new: bool, now: Timestamp) {
        let keys = &mut self.keys;
        if is_new && keys.damage.is_empty() && keys.position() == (0, 0) {
            keys.forget_floor();
        }
        if !self.report.damage.is_empty() {
            // Rows may be safe whose keys are not.
            keys.raise_floor(now);
        }
        self.report.damage.append(&mut keys.damage);
        self.report.unknown_files.append(&mut keys.unknown_files);
        let (entry, group) = keys.position();
        self.last_entry = self.last_entry.max(entry);
        self.last_group = self.last_group.max(group);
        self.index.usage.cover_keys(keys.covered());
    }

    /// Names the files beside those of the volume.
    fn look_around(&mut self, dir: &Path) -> io::Result<()> {
        let known = [identity::FILE, identity::LOCK, identity::FORMER].map(|name| dir.join(name));
        for path in self.disk.list(dir)? {
            if path == durable::temporary(&known[0]) {
                // A process ended while it wrote the file.
                self.disk.remove(&path)?;
            } else if !known.contains(&path) {
                self.report.unknown_files.push(path);
            }
        }
        Ok(())
    }

    /// Takes in the newest whole checkpoint.
    fn load_checkpoint(&mut self, dir: &Path) -> io::Result<Checkpoint> {
        self.look_at_checkpoints(dir)?;
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
            slice.later_hours = state.later_hours.clone();
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

    /// Names files that are no checkpoints, and removes those that a process left which ended while it wrote one.
    fn look_at_checkpoints(&mut self, dir: &Path) -> io::Result<()> {
        for path in self.disk.list(dir)? {
            if checkpoint::is_unfinished(&path) {
                self.disk.remove(&path)?;
            } else if checkpoint::number_of(&path).is_none() {
                self.report.unknown_files.push(path);
            }
        }
        Ok(())
    }

    /// Says of damage to the journal how many rows it cost: those that are neither in a slice file nor released. Known only when
    /// all of the journal was read.
    fn count_lost_rows(&mut self, last_checkpointed: u64) {
        for (position, entries) in self.lost.drain(..) {
            let rows = loss::rows(&entries, &self.index, &self.released, last_checkpointed);
            self.report.damage[position].rows = rows;
        }
    }
}
