//! The write side of the journal: commit groups into segments, one sync each, and what happens when that fails.
//!
//! Owned by the commit thread. Positions: everything below `offset` in the current segment is durable, except groups that
//! were written without a sync because none of their slices asked for one.

use std::io;
use std::sync::Arc;

use stream_model::VolumeId;

use super::ballast::Ballast;
use super::disk::Disk;
use super::format::{BLOCK, Seed};
use super::segment::{Need, Pool, Segment};
use crate::crash::{self, Point};

/// Whether a group must be durable before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// Yes.
    Data,
    /// No: the next sync covers it.
    None,
}

/// A group that was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// Recovery will not bring it back: the next segment durably says so.
    #[error("the group was discarded: {0}")]
    Discarded(#[source] io::Error),
    /// It may or may not come back. The volume must stop without answering.
    #[error(
        "cannot make it certain that a failed group stays discarded: {retire} (after: {cause})"
    )]
    Uncertain {
        /// What failed first.
        cause: io::Error,
        /// What failed when the segment was to be retired.
        retire: io::Error,
    },
}

/// The journal of one volume.
#[derive(Debug)]
pub(super) struct Journal {
    volume: VolumeId,
    pool: Arc<Pool>,
    segment: Arc<Segment>,
    /// Where the next group goes. A multiple of [`BLOCK`].
    offset: u64,
    /// Up to where the segment is synced. Behind it are only groups that did not ask for it.
    synced: u64,
    /// The next segment may exist already and vouch for this one up to `offset`: nothing may be written here any more.
    left: bool,
    next_entry: u64,
    next_group: u64,
}

/// Where the journal goes on after recovery.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resume {
    /// The newest segment that was found; 0 for none.
    pub previous: u64,
    /// Up to where it is valid.
    pub previous_valid_to: u64,
    /// Number of the next entry.
    pub next_entry: u64,
    /// Number of the next group.
    pub next_group: u64,
}

impl Journal {
    /// Goes on in a new segment. A recovered segment is never appended to: its tail may hold a torn group.
    ///
    /// # Errors
    /// When the segment cannot be made.
    pub fn start(volume: VolumeId, pool: Arc<Pool>, resume: Resume) -> io::Result<Self> {
        let header = Pool::next_header(volume, resume.previous, resume.previous_valid_to);
        let segment = Arc::new(pool.make(&header, 0, Need::Upkeep)?);
        Ok(Self {
            volume,
            pool,
            segment,
            offset: BLOCK,
            synced: BLOCK,
            left: false,
            next_entry: resume.next_entry,
            next_group: resume.next_group,
        })
    }

    /// The segment that the next group is written to, once [`Self::make_room`] has returned.
    pub const fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Seed of the entry checksums in that segment.
    pub fn seed(&self) -> Seed {
        Seed::new(self.volume, self.segment.number)
    }

    /// Where in that segment the next group starts.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The number of the next group.
    pub fn next_group(&mut self) -> u64 {
        self.next_group += 1;
        self.next_group - 1
    }

    /// The number of the next entry.
    pub fn next_entry(&mut self) -> u64 {
        self.next_entry += 1;
        self.next_entry - 1
    }

    /// Makes sure that the current segment has room for a group of that many bytes, by going on to the next one.
    /// Returns the new segment if it did.
    ///
    /// # Errors
    /// When the next segment cannot be made. Nothing of the group is written then, and it is safe to try again.
    pub fn make_room(&mut self, bytes: u64, need: Need) -> io::Result<Option<Arc<Segment>>> {
        if !self.left && self.offset + bytes <= self.segment.size {
            return Ok(None);
        }
        self.next_segment(bytes, need).map(Some)
    }

    fn next_segment(&mut self, bytes: u64, need: Need) -> io::Result<Arc<Segment>> {
        // Groups that were written without a sync are vouched for by the header of the next segment. When they cannot be
        // synced they may be lost, as their class allows; the sync is not tried again.
        if self.offset > self.synced
            && !self.left
            && let Err(error) = self.segment.file.sync_data()
        {
            tracing::warn!(error = %error, "records of a weaker durability class may be lost");
        }
        self.left = true;
        crash::point(Point::SegmentFull);
        let header = Pool::next_header(self.volume, self.segment.number, self.offset);
        let segment = self.pool.make(&header, bytes, need)?;
        self.enter(segment);
        Ok(Arc::clone(&self.segment))
    }

    fn enter(&mut self, segment: Segment) {
        self.segment = Arc::new(segment);
        self.offset = BLOCK;
        self.synced = BLOCK;
        self.left = false;
    }

    /// Writes a group that fits and makes it durable as asked.
    ///
    /// # Errors
    /// See [`WriteError`]. After `Discarded` the journal has gone on to the next segment; after `Uncertain` it must not be
    /// used any more.
    pub fn write(&mut self, group: &[u8], sync: Sync) -> Result<(), WriteError> {
        let written = self
            .segment
            .file
            .write_all_at(group, self.offset)
            .inspect(|()| crash::point(Point::GroupWritten))
            .and_then(|()| match sync {
                Sync::Data => self.segment.file.sync_data(),
                Sync::None => Ok(()),
            });
        match written {
            Ok(()) => {
                crash::point(Point::GroupSynced);
                self.offset = (self.offset + group.len() as u64).next_multiple_of(BLOCK);
                if sync == Sync::Data {
                    self.synced = self.offset;
                }
                Ok(())
            }
            Err(cause) => Err(self.retire(cause)),
        }
    }

    /// Tries whether the disk works, by writing zeroes to where the next group goes and syncing them. That is what stands there
    /// in a new segment. [`Self::make_room`] has made room for a block.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn probe(&mut self) -> Result<(), WriteError> {
        let file = &self.segment.file;
        let zeroes = [0; BLOCK as usize];
        match file
            .write_all_at(&zeroes, self.offset)
            .and_then(|()| file.sync_data())
        {
            Ok(()) => {
                self.synced = self.offset;
                Ok(())
            }
            Err(cause) => Err(self.retire(cause)),
        }
    }

    /// Leaves the current segment after a failure. It is not synced again: what a sync says after a failed one is
    /// worthless, because the system may have dropped the pages it could not write.
    /// See Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
    fn retire(&mut self, cause: io::Error) -> WriteError {
        crash::point(Point::GroupFailed);
        let header = Pool::next_header(self.volume, self.segment.number, self.offset);
        match self.pool.make(&header, 0, Need::Upkeep) {
            Ok(segment) => {
                self.enter(segment);
                crash::point(Point::GroupDiscarded);
                WriteError::Discarded(cause)
            }
            Err(retire) => WriteError::Uncertain { cause, retire },
        }
    }
}

/// A pool for the journal in `dir`.
pub(super) fn pool(
    disk: Arc<dyn Disk>,
    dir: std::path::PathBuf,
    segment_bytes: u64,
    ballast: Ballast,
) -> Arc<Pool> {
    Arc::new(Pool::new(disk, dir, segment_bytes, ballast))
}
