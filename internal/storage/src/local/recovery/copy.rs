//! The newest segment, written anew so that what is read from it is durable.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::super::ballast;
use super::super::disk::DiskFile;
use super::super::segment::{self, Segment};
use super::Recoverer;
use crate::crash::{self, Point};

impl Recoverer<'_> {
    /// Writes the newest segment anew. What is read from it may be in the cache of the system only: the process was killed before
    /// its sync, or the sync failed. Then the system may have given up the pages without forgetting what is in them, and a
    /// sync now would say nothing. Clients are told soon that it was written, so it is made certain first. Not in place: a
    /// write that tears destroys what is there.
    pub(super) fn make_durable(&self, segment: &Segment, bytes: &[u8]) -> io::Result<Arc<Segment>> {
        let dir = segment.path.parent().unwrap_or(Path::new(""));
        let copy = segment::spare_path(dir, segment.number);
        let file = match self.write_whole(&copy, bytes) {
            Err(error) if ballast::is_full(&error) => {
                self.make_room(segment, &copy, bytes.len() as u64)?;
                self.write_whole(&copy, bytes)?
            }
            written => written?,
        };
        crash::point(Point::CopySynced);
        self.disk.rename(&copy, &segment.path)?;
        crash::point(Point::CopyRenamed);
        self.disk.sync_dir(dir)?;
        Ok(Arc::new(Segment {
            number: segment.number,
            path: segment.path.clone(),
            file,
            size: bytes.len() as u64,
        }))
    }

    fn write_whole(&self, path: &Path, bytes: &[u8]) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.create(path)?;
        file.write_all_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.sync_data()?;
        Ok(file)
    }

    /// Finds room for the copy of a segment on a full disk: what the segment has behind its valid part, which nobody will ever
    /// read, or where that is too short the file that is kept for it.
    fn make_room(&self, segment: &Segment, copy: &Path, len: u64) -> io::Result<()> {
        self.disk.remove(copy)?;
        tracing::warn!(
            segment = segment.number,
            bytes = len,
            "the disk is full, the volume opens with the room it has kept"
        );
        let behind = segment.size.saturating_sub(len);
        if behind < len && ballast::take_for_opening(self.disk, copy, len)? {
            return Ok(());
        }
        segment.file.set_len(len)
    }
}
