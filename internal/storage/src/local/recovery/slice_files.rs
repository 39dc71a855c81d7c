//! The files of slices at an opening: what is left of those that lost something, and what does not belong there.

use std::io;
use std::path::{Path, PathBuf};

use stream_model::SliceId;

use super::super::checkpoint::{Checkpoint, CheckpointSlice};
use super::super::durable;
use super::super::index::Slice;
use super::super::sound::{Sound, sound};
use super::{Damage, Recoverer};

/// Name of a slice file.
pub(in super::super) fn slice_path(dir: &Path, slice: SliceId) -> PathBuf {
    dir.join(format!("{slice}.slice"))
}

/// The file of a slice of the volume in this directory. It is complete once the slice is sealed and the volume's newest opening
/// has recovered.
#[must_use]
pub fn slice_file_path(volume_dir: &Path, slice: SliceId) -> PathBuf {
    slice_path(&volume_dir.join("slices"), slice)
}

fn slice_of(path: &Path) -> Option<SliceId> {
    if path.extension()? != "slice" {
        return None;
    }
    path.file_stem()?.to_str()?.parse().ok()
}

impl Recoverer<'_> {
    /// Compares the files of slices with what the checkpoint says of them. A file that lost its end keeps its whole frames.
    /// After the journal was read: a file is missing for good reason when the journal says that its slice was released.
    ///
    /// Returns whether the checkpoint had to be corrected: it must be written anew then, because the files grow again, and what it
    /// said of them would look right at the next opening.
    pub(super) fn check_slice_files(
        &mut self,
        checkpoint: &mut Checkpoint,
        dir: &Path,
    ) -> io::Result<bool> {
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
            let kept = sound(&bytes, state.compression);
            let rest = kept.bytes(&bytes);
            if kept.start() < rest.len() as u64 {
                // Shorter than the checkpoint says as well, so the next opening does the same should this one be cut off.
                self.disk.replace(&path, &rest)?;
            }
            self.report.damage.push(Damage {
                file: path,
                from: kept.start(),
                to: state.len,
                rows: Some(state.figures.rows.saturating_sub(kept.rows)),
                what: "the end of a slice file is missing",
            });
            correct(slice, state, &kept, rest.len() as u64);
            corrected = true;
        }
        Ok(corrected)
    }

    /// Removes the files of released slices and cuts the others to what is vouched for.
    pub(super) fn tidy_slice_files(&mut self, dir: &Path) -> io::Result<()> {
        let unfinished: Vec<PathBuf> = self
            .index
            .slices
            .keys()
            .map(|id| durable::temporary(&slice_path(dir, *id)))
            .collect();
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
                // A process ended while it repaired the file.
                None if unfinished.contains(&path) => self.disk.remove(&path)?,
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

/// Writes down what is left of a file. What the journal adds to the slice stays as it is.
fn correct(slice: &mut Slice, state: &mut CheckpointSlice, kept: &Sound, len: u64) {
    let (figures, old) = (&mut slice.figures, state.figures);
    let (lost, hours) = (
        old.rows.saturating_sub(kept.rows),
        state.later_hours.clone(),
    );
    slice.later_hours.lose((&old, &hours), lost);
    state.later_hours.lose((&old, &hours), lost);
    figures.rows = figures.rows.saturating_sub(old.rows) + kept.rows;
    figures.raw_bytes = figures.raw_bytes.saturating_sub(old.raw_bytes) + kept.raw_bytes;
    slice.file_len = len;
    slice.synced_entry_before = 0;
    state.len = len;
    state.figures.rows = kept.rows;
    state.figures.raw_bytes = kept.raw_bytes;
}
