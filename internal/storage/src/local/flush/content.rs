//! The content of sealed slices: completes their files, and drops what was damaged in them since an earlier run wrote it.

use std::io;
use std::path::Path;

use stream_model::SliceId;
use stream_model::level::Compression;
use stream_model::statistics::Figures;

use super::super::checkpoint::{self, CheckpointSlice};
use super::super::index::Stage;
use super::super::slice_file::Checksum;
use super::super::sound::sound;
use super::super::volume::Content;
use super::Flusher;
use crate::crash::{self, Point};

impl Flusher {
    /// Completes the file of a sealed slice and tells its content to whoever waits.
    pub(super) fn finish(&mut self, id: SliceId) -> io::Result<()> {
        let Some(mut state) = self.flush_all(id)? else {
            return Ok(());
        };
        if state.len > 0 && !self.checksums.contains_key(&id) {
            self.drop_damaged(&mut state)?;
        }
        crash::point(Point::SliceCompleted);
        let checksum = self.checksum(id, state.len)?;
        crash::point(Point::ContentComputed);
        let content = Content {
            figures: Figures {
                bytes: state.len,
                ..state.figures
            },
            later_hours: state.later_hours,
            checksum,
            sessions: state.sessions,
        };
        {
            let mut index = self.shared.index.lock();
            let Some(slice) = index.slices.get_mut(&id) else {
                return Ok(());
            };
            if let Stage::Sealing { successor } = slice.stage {
                slice.stage = Stage::Sealed {
                    successor,
                    content: content.clone(),
                };
            }
        }
        for waiter in self.shared.take_waiters(id) {
            // Who asked may have gone; the content can be asked for again.
            let _ = waiter.send(content.clone());
        }
        Ok(())
    }

    /// Looks through the part of a file that an earlier run has written, before its content is vouched for: damaged frames
    /// are dropped, so that the rest can be imported.
    ///
    /// In an order that a crash may cut anywhere: first the file has the sound frames of that part only, which the next
    /// opening takes for a file that lost its end; then a checkpoint says so; then what this run wrote follows again, which
    /// the next opening would take from the journal.
    fn drop_damaged(&mut self, state: &mut CheckpointSlice) -> io::Result<()> {
        let Some(known) = self.checkpointed.get(&state.id).cloned() else {
            return Ok(());
        };
        // Plain text carries no checksum.
        if state.compression == Compression::None {
            return Ok(());
        }
        let path = self.shared.slice_path(state.id);
        let bytes = self.shared.disk.read(&path)?;
        let (old, new) = (usize::try_from(known.len), usize::try_from(state.len));
        let parts = old
            .ok()
            .zip(new.ok())
            .and_then(|(old, new)| bytes.get(..new)?.split_at_checked(old));
        let Some((old, new)) = parts else {
            return Err(io::Error::other(
                "the slice file is shorter than what was written to it",
            ));
        };
        let sound = sound(old, state.compression);
        if sound.start() == known.len && sound.rows == known.figures.rows {
            return Ok(());
        }
        let lost = known.figures.rows.saturating_sub(sound.rows);
        if sound.start() == known.len {
            tracing::error!(
                volume = %self.shared.label, slice = %state.id, file = %path.display(), lost,
                "a slice file has other rows than its checkpoint says, they go on"
            );
        } else {
            tracing::error!(
                volume = %self.shared.label, slice = %state.id, file = %path.display(), lost,
                "damaged frames were dropped from a slice file, the other rows go on"
            );
        }
        let rest = sound.bytes(old);
        let before = (&known.figures, &known.later_hours);
        state.later_hours.lose(before, lost);
        let mut kept = CheckpointSlice {
            len: rest.len() as u64,
            figures: Figures {
                rows: sound.rows,
                raw_bytes: sound.raw_bytes,
                ..known.figures
            },
            ..known.clone()
        };
        kept.later_hours.lose(before, lost);
        // From here on the file and the index disagree until all is done: after a failure only a new opening helps.
        self.repair(&path, &rest, new, kept).inspect_err(|error| {
            self.shared
                .fail(format!("cannot repair {}: {error}", path.display()));
        })?;
        state.len = (rest.len() + new.len()) as u64;
        // There may also be more than was known: nothing in a file tells whose frames it holds.
        let (figures, known) = (&mut state.figures, known.figures);
        figures.rows = figures.rows.saturating_sub(known.rows) + sound.rows;
        figures.raw_bytes = figures.raw_bytes.saturating_sub(known.raw_bytes) + sound.raw_bytes;
        if let Some(slice) = self.shared.index.lock().slices.get_mut(&state.id) {
            slice.file_len = state.len;
            slice.figures = state.figures;
            slice.later_hours = state.later_hours.clone();
        }
        Ok(())
    }

    fn repair(
        &mut self,
        path: &Path,
        rest: &[u8],
        new: &[u8],
        kept: CheckpointSlice,
    ) -> io::Result<()> {
        self.shared.disk.replace(path, rest)?;
        self.checkpointed.insert(kept.id, kept);
        // Both that are kept: an older one would take what follows for what was dropped.
        for _ in 0..checkpoint::KEEP {
            self.write_checkpoint()?;
        }
        self.shared
            .disk
            .open(path)?
            .write_all_at(new, rest.len() as u64)
    }

    fn checksum(&mut self, id: SliceId, len: u64) -> io::Result<String> {
        let file = match self.shared.disk.open(&self.shared.slice_path(id)) {
            Err(error) if len == 0 && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Checksum::default().finish());
            }
            opened => opened?,
        };
        // An earlier run may have left a longer file behind: a rebuild, or a slice whose entries a loss of power took.
        if file.size()? != len {
            file.set_len(len)?;
        }
        match self.checksums.get(&id) {
            Some(checksum) => Ok(checksum.clone().finish()),
            None => Ok(Checksum::of_file(&*file, len)?.finish()),
        }
    }
}
