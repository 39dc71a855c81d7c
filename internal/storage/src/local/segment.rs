//! Journal segments: the files, the pool of spare ones, and which slices still need which segment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use stream_model::{SliceId, VolumeId};

use super::ballast::{Ballast, is_full};
use super::disk::{Disk, DiskFile};
use super::format::{BLOCK, SegmentHeader};
use crate::crash::{self, Point};

/// Extension of segments in use.
pub(super) const SEGMENT: &str = "segment";
/// Extension of segments that wait to be used again.
const SPARE: &str = "spare";
/// Spare segments that are kept at least. One is taken while the next is made.
pub(super) const FEW_SPARES: usize = 2;
/// Spare segments that are kept at most.
pub(super) const MANY_SPARES: usize = 8;
/// The least room for entries in a segment that is made on a full disk: hundreds of seals.
const LEAST_ROOM: u64 = 64 << 10;

/// What a segment is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Batches: they are refused when there is no room.
    Batches,
    /// Opening the volume, seals, releases, going on after a failure. On a full disk the segment is a short one.
    Upkeep,
}

/// An open segment. Frames that are not in a slice file yet hold on to it.
#[derive(Debug)]
pub(super) struct Segment {
    pub number: u64,
    pub path: PathBuf,
    pub file: Box<dyn DiskFile>,
    pub size: u64,
}

/// Name of a segment in use.
pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{SEGMENT}"))
}

/// Name of a segment that is not in use yet, or not any more.
pub(super) fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{SPARE}"))
}

/// The number in the name of a segment, or none when the name is not one.
pub(super) fn segment_number(path: &Path) -> Option<u64> {
    if path.extension()? != SEGMENT {
        return None;
    }
    number_in(path.file_stem()?.to_str()?)
}

/// A number as it is written into names: 16 lower-case hexadecimal digits, and no more than can be counted on from. Anything
/// else is the name of somebody else's file.
pub(super) fn number_in(stem: &str) -> Option<u64> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if stem.len() != 16 || !stem.bytes().all(is_digit) {
        return None;
    }
    let number = u64::from_str_radix(stem, 16).ok()?;
    (number <= u64::MAX / 2).then_some(number)
}

/// Whether the file is a spare segment.
pub(super) fn is_spare(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == SPARE)
}

/// Makes segments and takes back those that nobody needs.
///
/// A segment is written full of zeroes before its first use: a sync of a block that exists only moves data, a sync of a
/// new one also changes the file system's own structures, which takes half as long again.
#[derive(Debug)]
pub(super) struct Pool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    spares: Mutex<Vec<PathBuf>>,
    pub ballast: Ballast,
    /// Numbers the names of prepared segments. A name is never used twice: the segment that had it may have been taken a
    /// moment ago and still carry it.
    prepared: AtomicU64,
}

impl Pool {
    /// A pool without spares.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, segment_bytes: u64, ballast: Ballast) -> Self {
        Self {
            disk,
            dir,
            segment_bytes,
            spares: Mutex::default(),
            ballast,
            prepared: AtomicU64::new(0),
        }
    }

    /// Length of an ordinary segment.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    /// A durable segment that begins with `header` and has room for `payload` bytes behind it.
    ///
    /// # Errors
    /// What the disk says. The segment may then exist in part; trying again with the same number replaces it.
    pub fn make(&self, header: &SegmentHeader, payload: u64, need: Need) -> io::Result<Segment> {
        let size = self
            .segment_bytes
            .max(BLOCK + payload.next_multiple_of(BLOCK));
        let spare = if size == self.segment_bytes {
            self.spares.lock().pop()
        } else {
            None
        };
        let temporary = match spare {
            Some(spare) => spare,
            None => self.write_anew(header.number, size, payload, need)?,
        };
        let file = self.disk.open(&temporary)?;
        file.write_all_at(&header.encode(), 0)?;
        file.sync_data()?;
        crash::point(Point::SegmentHeaded);
        let path = segment_path(&self.dir, header.number);
        self.disk.rename(&temporary, &path)?;
        crash::point(Point::SegmentRenamed);
        self.disk.sync_dir(&self.dir)?;
        crash::point(Point::SegmentNamed);
        let size = file.size()?;
        Ok(Segment {
            number: header.number,
            path,
            file,
            size,
        })
    }

    /// Makes a spare segment when there is none, so that [`Self::make`] does not have to.
    ///
    /// # Errors
    /// What the disk says.
    pub fn prepare(&self) -> io::Result<()> {
        if !self.spares.lock().is_empty() {
            return Ok(());
        }
        let number = self.prepared.fetch_add(1, Ordering::Relaxed);
        let name = format!("prepared-{number:016x}.{SPARE}");
        let path = self.dir.join(name);
        write_zeroes(&*self.disk, &path, self.segment_bytes)?;
        crash::point(Point::SegmentPrepared);
        self.spares.lock().push(path);
        Ok(())
    }

    /// A file of zeroes for a segment. When there is no room for `size` bytes, upkeep gets as many as there are, at least
    /// what `payload` takes; for that the ballast is given up.
    fn write_anew(&self, number: u64, size: u64, payload: u64, need: Need) -> io::Result<PathBuf> {
        let path = spare_path(&self.dir, number);
        let least = (BLOCK + payload.max(LEAST_ROOM))
            .next_multiple_of(BLOCK)
            .min(size);
        let mut wanted = size;
        loop {
            match write_zeroes(&*self.disk, &path, wanted) {
                Ok(()) => return Ok(path),
                Err(error) if need == Need::Batches || !is_full(&error) => return Err(error),
                Err(_) if wanted > least => {
                    wanted = (wanted / 2).next_multiple_of(BLOCK).max(least);
                }
                Err(_) if self.ballast.release()? => wanted = size,
                Err(_) if self.ballast.take(&path, least)? => return Ok(path),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes back a segment: it becomes a spare, or is removed when there are `enough`.
    ///
    /// # Errors
    /// What the disk says. The segment is then found again at the next opening.
    pub fn take_back(&self, segment: &Segment, enough: usize) -> io::Result<()> {
        // Only the flush thread adds spares, so there cannot be too many; the lock is not held while the disk works, because
        // the commit thread may want a spare just then.
        let is_enough = self.spares.lock().len() >= enough;
        if segment.size != self.segment_bytes || is_enough {
            self.disk.remove(&segment.path)?;
            crash::point(Point::SegmentRemoved);
            return self.disk.sync_dir(&self.dir);
        }
        let spare = spare_path(&self.dir, segment.number);
        match self.disk.rename(&segment.path, &spare) {
            // It was renamed before, and the sync of the directory failed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        crash::point(Point::SegmentGivenBack);
        self.disk.sync_dir(&self.dir)?;
        crash::point(Point::SegmentSpared);
        // Only now: the file gets another header soon, and must not come back under its old name with it.
        self.spares.lock().push(spare);
        Ok(())
    }

    /// Removes spares until there are no more than `enough`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn trim(&self, enough: usize) -> io::Result<()> {
        loop {
            let spare = {
                let mut spares = self.spares.lock();
                if spares.len() <= enough {
                    return Ok(());
                }
                spares.remove(0)
            };
            self.disk.remove(&spare)?;
        }
    }

    /// The header of the segment that follows `previous`.
    pub fn next_header(volume: VolumeId, previous: u64, previous_valid_to: u64) -> SegmentHeader {
        SegmentHeader {
            volume,
            number: previous + 1,
            previous,
            previous_valid_to,
        }
    }
}

/// Writes a file full of zeroes and makes it durable, but not its name. After a failure there is none.
///
/// # Errors
/// What the disk says.
pub(super) fn write_zeroes(disk: &dyn Disk, path: &Path, size: u64) -> io::Result<()> {
    try_write_zeroes(disk, path, size).inspect_err(|_| {
        // Half a segment must not take the room that others need, least of all on a full disk.
        let _ = disk.remove(path);
    })
}

fn try_write_zeroes(disk: &dyn Disk, path: &Path, size: u64) -> io::Result<()> {
    const CHUNK: u64 = 1 << 20;
    let file = disk.create(path)?;
    file.set_len(0)?;
    let zeroes = vec![0; CHUNK as usize];
    let mut offset = 0;
    while offset < size {
        let count = CHUNK.min(size - offset);
        file.write_all_at(&zeroes[..count as usize], offset)?;
        offset += count;
    }
    crash::point(Point::SegmentZeroed);
    file.sync_data()
}

/// Which slices have entries in which segments.
///
/// Segments are given back strictly from the oldest on. A segment's header says up to where the one before it is valid, so
/// an older segment without its successor could bring back a group that was refused.
#[derive(Debug, Default)]
pub(super) struct Usage {
    segments: BTreeMap<u64, SegmentUse>,
    /// The last entry whose keys are safe without the journal, as are those of all before it.
    keys_covered: u64,
}

#[derive(Debug)]
struct SegmentUse {
    segment: Arc<Segment>,
    /// The last entry of each slice in the segment.
    entries: HashMap<SliceId, u64>,
    /// Slices whose release is recorded in the segment.
    releases: Vec<SliceId>,
    /// The last entry with keys in the segment; 0 for none.
    keyed: u64,
}

impl Usage {
    pub fn add(&mut self, segment: Arc<Segment>) {
        let unused = SegmentUse {
            segment,
            entries: HashMap::new(),
            releases: Vec::new(),
            keyed: 0,
        };
        self.segments.insert(unused.segment.number, unused);
    }

    pub fn record(&mut self, segment: u64, slice: SliceId, entry: u64) {
        if let Some(usage) = self.segments.get_mut(&segment) {
            usage.entries.insert(slice, entry);
        }
    }

    pub fn record_release(&mut self, segment: u64, slice: SliceId) {
        if let Some(usage) = self.segments.get_mut(&segment) {
            usage.releases.push(slice);
        }
    }

    /// Notes an entry with keys.
    pub fn record_keys(&mut self, segment: u64, entry: u64) {
        if let Some(usage) = self.segments.get_mut(&segment) {
            usage.keyed = usage.keyed.max(entry);
        }
    }

    /// Notes that the keys of all entries up to this one are durable elsewhere.
    pub fn cover_keys(&mut self, entry: u64) {
        self.keys_covered = self.keys_covered.max(entry);
    }

    /// Bytes of all segments in use.
    pub fn bytes(&self) -> u64 {
        self.segments.values().map(|usage| usage.segment.size).sum()
    }

    /// Bytes of the newest of them.
    pub fn newest_bytes(&self) -> u64 {
        let newest = self.segments.last_key_value();
        newest.map_or(0, |(_, usage)| usage.segment.size)
    }

    /// Length of the longest of them.
    pub fn longest(&self) -> u64 {
        let lengths = self.segments.values().map(|usage| usage.segment.size);
        lengths.max().unwrap_or(0)
    }

    /// Whether they are more than `bytes`. A single segment, of whatever length, is not: it is the newest, which is never given
    /// back, so waiting for it to go would be waiting for ever.
    pub fn exceeds(&self, bytes: u64) -> bool {
        self.segments.len() > 1 && self.bytes() > bytes
    }

    /// The slices with entries in any segment but the newest, in a fixed order: the same run does the same with the disk.
    pub fn slices_of_older(&self) -> BTreeSet<SliceId> {
        let count = self.segments.len().saturating_sub(1);
        self.segments
            .values()
            .take(count)
            .flat_map(|usage| usage.entries.keys().copied())
            .collect()
    }

    /// The oldest segment, if nobody needs it; never the newest. `covered(slice, entry)` says whether the rows of that entry
    /// are safe without the journal; `listed(slice)` whether a retained checkpoint names the slice, or its file may
    /// still be there: it would come back at the next opening if its release were forgotten.
    pub fn oldest_free(
        &self,
        covered: impl Fn(SliceId, u64) -> bool,
        listed: impl Fn(SliceId) -> bool,
    ) -> Option<Arc<Segment>> {
        if self.segments.len() < 2 {
            return None;
        }
        let (_, usage) = self.segments.first_key_value()?;
        let needed = usage
            .entries
            .iter()
            .any(|(slice, entry)| !covered(*slice, *entry))
            || usage.releases.iter().any(|slice| listed(*slice))
            || usage.keyed > self.keys_covered;
        (!needed).then(|| Arc::clone(&usage.segment))
    }

    /// Forgets a segment that was given back.
    pub fn remove(&mut self, segment: u64) {
        self.segments.remove(&segment);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::disk::OsDisk;

    fn slice(n: u8) -> SliceId {
        SliceId::from_bytes([n; 16])
    }

    fn pool(dir: &Path) -> Pool {
        let disk = Arc::new(OsDisk);
        let ballast = Ballast::find(Arc::clone(&disk) as _, dir.to_owned()).expect("readable");
        Pool::new(disk, dir.to_owned(), 2 * BLOCK, ballast)
    }

    fn usage(dir: &Path, segments: u64) -> Usage {
        let pool = pool(dir);
        let mut usage = Usage::default();
        for previous in 0..segments {
            let header = Pool::next_header(VolumeId::from_bytes([1; 16]), previous, 0);
            usage.add(Arc::new(
                pool.make(&header, 0, Need::Batches).expect("made"),
            ));
        }
        usage
    }

    /// Takes out all that are free.
    fn take_free(
        usage: &mut Usage,
        covered: impl Fn(SliceId, u64) -> bool + Copy,
        listed: impl Fn(SliceId) -> bool + Copy,
    ) -> Vec<u64> {
        let mut free = Vec::new();
        while let Some(segment) = usage.oldest_free(covered, listed) {
            usage.remove(segment.number);
            free.push(segment.number);
        }
        free
    }

    #[test]
    fn a_segment_with_keys_stays_until_they_are_safe_elsewhere() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut usage = usage(dir.path(), 4);
        usage.record_keys(1, 5);
        usage.record_keys(2, 9);
        assert_eq!(take_free(&mut usage, |_, _| true, |_| false), [0; 0]);
        usage.cover_keys(8);
        assert_eq!(take_free(&mut usage, |_, _| true, |_| false), [1]);
        usage.cover_keys(3);
        usage.cover_keys(9);
        assert_eq!(take_free(&mut usage, |_, _| true, |_| false), [2, 3]);
    }

    #[test]
    fn segments_are_freed_in_order_when_all_their_slices_are_covered() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut usage = usage(dir.path(), 4);
        usage.record(1, slice(1), 5);
        usage.record(2, slice(1), 7);
        assert_eq!(take_free(&mut usage, |_, entry| entry <= 5, |_| false), [1]);
        // Segment 3 is empty, but 2 comes first.
        assert_eq!(
            take_free(&mut usage, |_, entry| entry <= 5, |_| false),
            [0; 0]
        );
        assert_eq!(take_free(&mut usage, |_, _| true, |_| false), [2, 3]);
        assert_eq!(
            take_free(&mut usage, |_, _| true, |_| false),
            [0; 0],
            "the newest stays"
        );
    }

    #[test]
    fn a_release_stays_while_a_checkpoint_would_bring_the_slice_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut usage = usage(dir.path(), 2);
        usage.record_release(1, slice(1));
        assert_eq!(
            take_free(&mut usage, |_, _| true, |s| s == slice(1)),
            [0; 0]
        );
        assert_eq!(take_free(&mut usage, |_, _| true, |_| false), [1]);
    }

    #[test]
    fn taken_back_segments_are_used_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pool = pool(dir.path());
        let volume = VolumeId::from_bytes([1; 16]);
        let first = pool
            .make(&Pool::next_header(volume, 0, 0), 0, Need::Batches)
            .expect("made");
        first
            .file
            .write_all_at(b"old entries", BLOCK)
            .expect("written");
        pool.take_back(&first, FEW_SPARES).expect("taken back");
        assert!(!first.path.exists());
        let second = pool
            .make(&Pool::next_header(volume, 1, 77), 0, Need::Batches)
            .expect("made");
        assert_eq!(segment_number(&second.path), Some(2));
        let mut block = vec![0; BLOCK as usize];
        second.file.read_exact_at(&mut block, 0).expect("read");
        let header = SegmentHeader::decode(&block).expect("valid");
        assert_eq!(
            (header.number, header.previous, header.previous_valid_to),
            (2, 1, 77)
        );
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn as_many_spares_are_kept_as_are_wanted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pool = pool(dir.path());
        let segments: Vec<_> = (0..4)
            .map(|previous| {
                let header = Pool::next_header(VolumeId::from_bytes([1; 16]), previous, 0);
                pool.make(&header, 0, Need::Batches).expect("made")
            })
            .collect();
        for segment in &segments {
            pool.take_back(segment, 3).expect("taken back");
        }
        let files = || std::fs::read_dir(dir.path()).expect("listed").count();
        assert_eq!((pool.spares.lock().len(), files()), (3, 3));
        pool.trim(1).expect("removed");
        assert_eq!((pool.spares.lock().len(), files()), (1, 1));
    }

    #[test]
    fn a_prepared_segment_never_has_the_name_of_one_that_was_taken() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pool = pool(dir.path());
        pool.prepare().expect("prepared");
        let taken = pool.spares.lock().pop().expect("there is one");
        // The one that was taken is being given its header under its old name.
        pool.prepare().expect("prepared");
        assert_ne!(pool.spares.lock().last(), Some(&taken));
    }

    #[test]
    fn a_batch_larger_than_a_segment_gets_one_of_its_own_size() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pool = pool(dir.path());
        let header = Pool::next_header(VolumeId::from_bytes([1; 16]), 0, 0);
        let segment = pool.make(&header, 10 * BLOCK, Need::Batches).expect("made");
        assert_eq!(segment.size, 11 * BLOCK);
        pool.take_back(&segment, FEW_SPARES).expect("taken back");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0);
    }
}
