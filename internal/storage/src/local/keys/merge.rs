//! Fewer, longer runs: a key that is looked for is asked of every run.
//!
//! The newest runs are merged as soon as there are [`FAN_IN`] of them that together stay below the limit, so a key is written about
//! twice in its life. Longer runs are left alone: what is forgotten is forgotten by whole runs.

use std::io;
use std::path::Path;
use std::sync::Arc;

use stream_model::VolumeId;

use super::super::disk::Disk;
use super::run::{Cursor, Run, Writer};

const FAN_IN: usize = 8;

/// What a merge made.
pub(super) struct Merged {
    pub run: Run,
    /// Runs of which a block was passed over.
    pub damaged: Vec<Arc<Run>>,
}

/// The position of the first run to be merged, with all behind it; none when there is nothing to do.
pub(super) fn due(runs: &[Arc<Run>], limit: u64) -> Option<usize> {
    let mut sum = 0;
    let fitting = runs.iter().rev().take_while(|run| {
        sum += run.count;
        sum <= limit
    });
    let count = fitting.count();
    (count >= FAN_IN).then(|| runs.len() - count)
}

/// Merges runs, the oldest first; of a key that is in several the newest counts.
pub(super) fn merge(
    disk: &dyn Disk,
    dir: &Path,
    volume: VolumeId,
    number: u64,
    runs: &[Arc<Run>],
) -> io::Result<Merged> {
    let sum = runs.iter().map(|run| run.count).sum();
    let scope = runs.iter().map(|run| run.scope).reduce(super::Scope::join);
    let scope = scope.expect("several runs are merged");
    let mut writer = Writer::new(disk, dir, volume, number, sum)?;
    let mut cursors = Vec::with_capacity(runs.len());
    for run in runs {
        cursors.push(Cursor::new(run)?);
    }
    while let Some(key) = cursors
        .iter()
        .filter_map(|cursor| Some(cursor.front?.key))
        .min()
    {
        let mut newest = None;
        for cursor in &mut cursors {
            if let Some(claim) = cursor.front.filter(|claim| claim.key == key) {
                newest = Some(claim);
                cursor.advance()?;
            }
        }
        if let Some(claim) = newest {
            writer.push(claim)?;
        }
    }
    let lost = runs
        .iter()
        .zip(&cursors)
        .filter(|(_, cursor)| cursor.damaged > 0);
    let damaged = lost.map(|(run, _)| Arc::clone(run)).collect();
    let run = writer.finish(scope)?;
    Ok(Merged { run, damaged })
}
