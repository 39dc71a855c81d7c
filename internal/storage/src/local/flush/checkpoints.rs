//! Checkpoints, and the room in the journal that they make.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use stream_model::SliceId;

use super::super::checkpoint::{self, Checkpoint, CheckpointSlice};
use super::super::disk::SyncError;
use super::super::segment::{FEW_SPARES, MANY_SPARES};
use super::Flusher;
use crate::crash::{self, Point};

impl Flusher {
    /// Makes room in a long journal. One checkpoint frees what the one before it had covered, so it may take two.
    pub(super) fn checkpoint_if_due(&mut self) {
        for _ in 0..2 {
            let wanted = self.shared.wants_room(&self.shared.index.lock());
            if !wanted || self.shared.failed().is_some() {
                break;
            }
            // A failure keeps the segments that have keys; the others need not wait.
            if let Err(error) = self.spill_keys() {
                self.failed("cannot write idempotency keys", &error);
            }
            if let Err(error) = self.checkpoint() {
                // Still wanted: at the limit of the journal no segment is started that would remind of it.
                self.failed("cannot make a checkpoint", &error);
                return;
            }
            self.free_segments();
        }
        self.checkpoint_wanted = false;
    }

    fn checkpoint(&mut self) -> io::Result<()> {
        let started = Instant::now();
        let wanted = self.shared.index.lock().usage.slices_of_older();
        let mut written = Vec::new();
        for id in wanted {
            let synced = self.checkpointed.get(&id).map_or(0, |slice| slice.entry);
            let current = self
                .shared
                .index
                .lock()
                .slices
                .get(&id)
                .map(|slice| slice.last_entry);
            if current.is_none_or(|last| last == synced) {
                continue;
            }
            match self.flush_all(id) {
                Ok(state) => written.extend(state),
                // It keeps its part of the journal; the others need not.
                Err(error) => self.failed("cannot write a slice file", &error),
            }
        }
        self.sync_slice_files(&written)?;
        let states = written.into_iter().map(|state| (state.id, state));
        self.checkpointed.extend(states);
        let slices_dir = self.shared.slices_dir();
        self.shared.disk.sync_dir(&slices_dir)?;
        crash::point(Point::SlicesSynced);
        self.write_checkpoint()?;
        tracing::info!(
            volume = %self.shared.label, slices = self.checkpointed.len(),
            elapsed_ms = started.elapsed().as_millis(), "checkpoint made"
        );
        Ok(())
    }

    /// Syncs slice files. After a failure nothing can be said of the file any more: the volume stops, and the next opening
    /// rebuilds the file from the journal, of which nothing was given up yet.
    fn sync_slice_files(&self, written: &[CheckpointSlice]) -> io::Result<()> {
        let paths: Vec<_> = written
            .iter()
            .filter(|state| state.len > 0)
            .map(|state| self.shared.slice_path(state.id))
            .collect();
        match self.shared.disk.sync_files(&paths) {
            Ok(()) => {
                crash::point(Point::SliceSynced);
                Ok(())
            }
            Err(SyncError::Open(error)) => Err(error),
            Err(SyncError::Sync { path, source }) => {
                self.shared
                    .fail(format!("cannot sync {}: {source}", path.display()));
                Err(source)
            }
        }
    }

    pub(super) fn write_checkpoint(&mut self) -> io::Result<()> {
        let shared = &self.shared;
        let number = self.next_checkpoint;
        let ((last_entry, last_group), named) = {
            let mut index = shared.index.lock();
            self.checkpointed
                .retain(|id, _| index.slices.contains_key(id));
            let named: HashSet<SliceId> = self.checkpointed.keys().copied().collect();
            // From before the checkpoint exists until after the oldest one is gone, all of them count.
            index.listed.extend(named.iter().copied());
            (index.position, named)
        };
        let slices = self.checkpointed.values().cloned().collect();
        let checkpoint = Checkpoint {
            number,
            last_entry,
            last_group,
            slices,
        };
        checkpoint::write(
            &*shared.disk,
            &shared.checkpoint_dir(),
            shared.id,
            &checkpoint,
        )?;
        crash::point(Point::CheckpointWritten);
        self.next_checkpoint += 1;
        let mut index = shared.index.lock();
        index.listed = named.union(&self.named_before).copied().collect();
        self.named_before = named;
        for (id, state) in &self.checkpointed {
            if let Some(slice) = index.slices.get_mut(id) {
                slice.synced_entry_before = slice.synced_entry;
                slice.synced_entry = state.entry;
            }
        }
        drop(index);
        checkpoint::prune(&*shared.disk, &shared.checkpoint_dir(), number)?;
        crash::point(Point::CheckpointPruned);
        Ok(())
    }

    /// How many spare segments to keep. What one checkpoint has freed lasts until the next, so that no zeroes have to be written,
    /// and takes no more room than the journal has had before. Only a few where the disk is nearly full.
    pub(super) fn spares(&self) -> usize {
        let shared = &self.shared;
        let until_next = shared.checkpoint_bytes / shared.pool.segment_bytes();
        let room = shared.reserve_bytes.saturating_add(shared.checkpoint_bytes);
        if shared.free_bytes.load(Ordering::Relaxed) < room {
            return FEW_SPARES;
        }
        let until_next = usize::try_from(until_next).unwrap_or(MANY_SPARES);
        until_next.clamp(FEW_SPARES, MANY_SPARES)
    }

    /// Gives back segments that nobody needs, in their order. After a failure the rest waits: an older segment without its
    /// successor could bring back what was refused.
    pub(super) fn free_segments(&mut self) {
        loop {
            let free = self.shared.index.lock().oldest_free_segment();
            let Some(segment) = free else { return };
            if let Err(error) = self.shared.pool.take_back(&segment, self.spares()) {
                self.failed("cannot give back a journal segment", &error);
                return;
            }
            self.shared.index.lock().usage.remove(segment.number);
        }
    }
}
