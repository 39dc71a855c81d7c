//! What is in the slices and in their files.
//!
//! A checkpoint vouches for the start of a file. What stands behind that is written again from the journal at the next
//! opening, so it is not looked at.

use std::io;
use std::path::Path;

use super::super::checkpoint::{Checkpoint, CheckpointSlice};
use super::super::disk::Disk;
use super::super::frames;
use super::super::index::{self, Index, Stage};
use super::super::recovery::slice_path;
use super::{Checked, Damage, SliceStage, SliceSummary};

/// All slices, by their ids.
pub(super) fn summaries(
    disk: &dyn Disk,
    dir: &Path,
    index: &Index,
    newest: &Checkpoint,
) -> io::Result<Vec<SliceSummary>> {
    let mut summaries = Vec::new();
    for (id, slice) in &index.slices {
        let checkpointed = newest.slices.iter().find(|state| state.id == *id);
        summaries.push(SliceSummary {
            id: *id,
            compression: slice.compression,
            stage: stage_of(slice),
            figures: slice.figures,
            sessions: slice.sessions.clone(),
            file_len: len_of(disk, &slice_path(dir, *id))?,
            vouched_len: checkpointed.map_or(0, |state| state.len),
            journal_frames: slice.pending.len(),
            journal_bytes: slice.pending.iter().map(|frame| u64::from(frame.len)).sum(),
        });
    }
    summaries.sort_unstable_by_key(|summary| summary.id);
    Ok(summaries)
}

fn stage_of(slice: &index::Slice) -> SliceStage {
    match slice.stage {
        Stage::Open => SliceStage::Open,
        Stage::Sealing { successor } | Stage::Sealed { successor, .. } => {
            SliceStage::Sealed { successor }
        }
    }
}

fn len_of(disk: &dyn Disk, path: &Path) -> io::Result<Option<u64>> {
    match disk.open(path) {
        Ok(file) => file.size().map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Unpacks the files of all slices as far as the checkpoint vouches for them. Needs as much memory as the largest has bytes.
pub(super) fn check(
    disk: &dyn Disk,
    dir: &Path,
    index: &Index,
    newest: &Checkpoint,
    checked: &mut Checked,
) -> io::Result<Vec<Damage>> {
    let mut findings = Vec::new();
    for state in &newest.slices {
        if state.len == 0 || !index.slices.contains_key(&state.id) {
            continue;
        }
        let path = slice_path(dir, state.id);
        let bytes = match disk.read(&path) {
            Ok(bytes) => bytes,
            // A file that lost its end is found by recovery, with what is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let vouched = usize::try_from(state.len).unwrap_or(usize::MAX);
        let bytes = &bytes[..vouched.min(bytes.len())];
        checked.slice_files += 1;
        checked.bytes += bytes.len() as u64;
        findings.extend(check_file(&path, bytes, state, checked));
    }
    Ok(findings)
}

fn check_file(
    path: &Path,
    bytes: &[u8],
    state: &CheckpointSlice,
    checked: &mut Checked,
) -> Vec<Damage> {
    let mut found = frames::Rows::default();
    let mut findings = Vec::new();
    for stretch in frames::stretches(bytes, state.compression) {
        let Some(rows) = stretch.content else {
            findings.push(Damage {
                file: path.to_owned(),
                from: stretch.range.start as u64,
                to: stretch.range.end as u64,
                rows: None,
                what: "damaged frames of a slice file",
            });
            continue;
        };
        checked.frames += 1;
        found.rows += rows.rows;
        found.bytes += rows.bytes;
    }
    let missing = state.figures.rows.checked_sub(found.rows);
    let complete = missing == Some(0) && found.bytes == state.figures.raw_bytes;
    match &mut findings[..] {
        [] if complete => {}
        // What is missing stood there.
        [damage] => damage.rows = missing,
        _ => findings.push(Damage {
            file: path.to_owned(),
            from: 0,
            to: bytes.len() as u64,
            rows: missing,
            what: "a slice file has other rows than its checkpoint says",
        }),
    }
    findings
}
