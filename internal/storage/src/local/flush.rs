//! The flush thread: committed frames to slice files, the content of sealed slices, checkpoints, room in the journal.
//!
//! It is the only writer of slice files. Nothing it does is needed for an acknowledgement, and all of it can be done again
//! from the journal, so its own failures are tried again and never lose anything.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use stream_model::level::Compression;
use stream_model::statistics::Figures;
use stream_model::{SliceId, Timestamp};

use super::checkpoint::{self, Checkpoint, CheckpointSlice};
use super::index::{Frame, Slice, Stage};
use super::slice_file::{Checksum, Packer, complete_run};
use super::sound::sound;
use super::volume::{Content, FailOnPanic, Shared};
use super::worker::Step;

/// Free space, ages and gauges are looked at this often.
const TICK: Duration = Duration::from_secs(1);

/// What the flush thread is asked to do. Requests for the same slice fall together.
#[derive(Debug, Default)]
struct Work {
    /// Slices with a complete run of frames.
    runs: BTreeSet<SliceId>,
    /// Sealed slices whose content is wanted.
    seals: BTreeSet<SliceId>,
    /// Slices whose file is to be removed.
    released: BTreeSet<SliceId>,
    /// A segment was taken from the pool.
    segment_started: bool,
    stopping: bool,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.runs.is_empty()
            && self.seals.is_empty()
            && self.released.is_empty()
            && !self.segment_started
            && !self.stopping
    }
}

/// The way to wake the flush thread.
#[derive(Debug, Default)]
pub(super) struct FlushSignal {
    work: Mutex<Work>,
    filled: Condvar,
}

impl FlushSignal {
    pub fn run(&self, slice: SliceId) {
        self.add(|work| work.runs.insert(slice));
    }

    pub fn seal(&self, slice: SliceId) {
        self.add(|work| work.seals.insert(slice));
    }

    pub fn release(&self, slice: SliceId) {
        self.add(|work| work.released.insert(slice));
    }

    pub fn segment_started(&self) {
        self.add(|work| std::mem::replace(&mut work.segment_started, true));
    }

    pub fn stop(&self) {
        self.add(|work| std::mem::replace(&mut work.stopping, true));
    }

    /// Whether the thread is being waited for. What it has not done yet is done after the next opening.
    fn is_stopping(&self) -> bool {
        self.work.lock().stopping
    }

    fn add(&self, change: impl FnOnce(&mut Work) -> bool) {
        change(&mut self.work.lock());
        self.filled.notify_one();
    }

    fn wait(&self, until: Instant) -> Work {
        let mut work = self.work.lock();
        self.filled
            .wait_while_until(&mut work, |work| work.is_empty(), until);
        std::mem::take(&mut work)
    }

    fn take(&self) -> Work {
        std::mem::take(&mut self.work.lock())
    }
}

/// The state of a slice at the moment its pending frames were taken.
struct Taken {
    frames: Vec<Frame>,
    snapshot: CheckpointSlice,
}

/// The flush thread of one volume.
pub(super) struct Flusher {
    shared: Arc<Shared>,
    packer: Packer,
    /// Running checksums of slice files that were written from their start in this run.
    checksums: HashMap<SliceId, Checksum>,
    /// What the newest checkpoint says of each slice. In the order of ids: the same run writes the same bytes.
    checkpointed: BTreeMap<SliceId, CheckpointSlice>,
    /// Slices that the newest checkpoint names.
    named_before: HashSet<SliceId>,
    next_checkpoint: u64,
    /// A segment was started since the last time that the journal was short enough.
    checkpoint_wanted: bool,
    /// What failed and is tried again at the next tick.
    again: Work,
    failing: bool,
}

impl Flusher {
    pub fn new(shared: Arc<Shared>, newest: Checkpoint) -> Self {
        Self {
            shared,
            packer: Packer::default(),
            checksums: HashMap::new(),
            next_checkpoint: newest.number + 1,
            named_before: newest.slices.iter().map(|slice| slice.id).collect(),
            checkpointed: newest
                .slices
                .into_iter()
                .map(|slice| (slice.id, slice))
                .collect(),
            checkpoint_wanted: true,
            again: Work::default(),
            failing: false,
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self) {
        let _guard = FailOnPanic(Arc::clone(&self.shared));
        let mut next_tick = Instant::now();
        loop {
            let until = next_tick.min(self.next_crossing());
            let work = self.shared.flush.wait(until);
            let now = Instant::now();
            let ticked = now >= next_tick;
            if ticked {
                next_tick = now + TICK;
            }
            if self.round(work, ticked) == Step::Ended {
                return;
            }
        }
    }

    /// Does what waits, if anything does; with `ticked` also what is done from time to time.
    pub fn step(&mut self, ticked: bool) -> Step {
        let work = self.shared.flush.take();
        if work.is_empty() && !ticked {
            return Step::Idle;
        }
        self.round(work, ticked)
    }

    fn round(&mut self, mut work: Work, ticked: bool) -> Step {
        if self.shared.failed().is_some() {
            return Step::Ended;
        }
        if ticked {
            work.runs.append(&mut self.again.runs);
            work.seals.append(&mut self.again.seals);
            work.released.append(&mut self.again.released);
            self.shared.observe();
        }
        let stopping = work.stopping;
        self.work(work, ticked);
        if stopping {
            // Who still waits for a content may ask again after the next opening.
            self.shared.close_waiters();
            return Step::Ended;
        }
        self.report_crossings();
        Step::Worked
    }

    fn work(&mut self, work: Work, ticked: bool) {
        for id in work.seals {
            if let Err(error) = self.finish(id) {
                self.failed("cannot complete a slice file", &error);
                self.again.seals.insert(id);
            }
        }
        if work.stopping {
            return;
        }
        if let Err(error) = self.remove_files(&work.released) {
            self.failed("cannot remove a slice file", &error);
            self.again.released.extend(work.released);
        }
        for id in work.runs {
            if let Err(error) = self.flush_runs(id) {
                self.failed("cannot write a slice file", &error);
                self.again.runs.insert(id);
            }
        }
        if work.segment_started {
            self.checkpoint_wanted = true;
            self.prepare_segment();
        }
        if self.checkpoint_wanted && (work.segment_started || ticked) {
            self.checkpoint_if_due();
        }
        self.free_segments();
        let nothing_again = self.again.runs.is_empty() && self.again.seals.is_empty();
        if self.failing && ticked && nothing_again && self.again.released.is_empty() {
            self.failing = false;
            tracing::info!(volume = %self.shared.label, "the disk takes slice files again");
        }
    }

    /// Removes the files of released slices. Until that is durable the journal must say that they were released, or nobody
    /// would know the files when they come back.
    fn remove_files(&mut self, released: &BTreeSet<SliceId>) -> io::Result<()> {
        if released.is_empty() {
            return Ok(());
        }
        for id in released {
            self.checksums.remove(id);
            self.checkpointed.remove(id);
            self.shared.disk.remove(&self.shared.slice_path(*id))?;
        }
        self.shared.disk.sync_dir(&self.shared.slices_dir())?;
        let mut index = self.shared.index.lock();
        released.iter().for_each(|id| {
            index.leaving.remove(id);
        });
        Ok(())
    }

    /// Logs when it starts to fail. What failed is tried again at the next tick.
    fn failed(&mut self, what: &'static str, error: &io::Error) {
        if !self.failing {
            tracing::warn!(volume = %self.shared.label, error = %error, "{what}");
        }
        self.failing = true;
    }

    fn prepare_segment(&mut self) {
        let room = self.shared.reserve_bytes + self.shared.pool.segment_bytes();
        if self.shared.free_bytes.load(Ordering::Relaxed) < room {
            // The commit thread makes its own when it needs one; a spare must not take the last room.
            return;
        }
        if let Err(error) = self.shared.pool.prepare() {
            self.failed("cannot prepare a journal segment", &error);
        }
    }

    /// Writes all complete runs of a slice's pending frames.
    fn flush_runs(&mut self, id: SliceId) -> io::Result<()> {
        while !self.shared.flush.is_stopping() && self.shared.failed().is_none() {
            let run: Vec<Frame> = {
                let index = self.shared.index.lock();
                let Some(slice) = index.slices.get(&id) else {
                    return Ok(());
                };
                let Some(count) = complete_run(slice.pending.iter()) else {
                    return Ok(());
                };
                slice.pending.iter().take(count).cloned().collect()
            };
            self.write_run(id, &run)?;
        }
        Ok(())
    }

    /// Writes one run to the end of the slice file and takes it off the pending frames.
    fn write_run(&mut self, id: SliceId, run: &[Frame]) -> io::Result<()> {
        let Some(last) = run.last() else {
            return Ok(());
        };
        let (compression, offset) = {
            let index = self.shared.index.lock();
            let Some(slice) = index.slices.get(&id) else {
                return Ok(());
            };
            (slice.compression, slice.file_len)
        };
        let bytes = self.packer.pack(compression, run)?;
        let file = self.shared.disk.create(&self.shared.slice_path(id))?;
        file.write_all_at(&bytes, offset)?;
        self.shared.metrics.slice_written(bytes.len());
        if offset == 0 {
            self.checksums.insert(id, Checksum::default());
        }
        if let Some(checksum) = self.checksums.get_mut(&id) {
            checksum.update(&bytes);
        }
        let mut index = self.shared.index.lock();
        if let Some(slice) = index.slices.get_mut(&id) {
            slice.pending.drain(..run.len());
            slice.pending_raw -= run.iter().map(|frame| u64::from(frame.raw)).sum::<u64>();
            slice.file_len = offset + bytes.len() as u64;
            slice.flushed_entry = last.entry;
        }
        Ok(())
    }

    /// Writes everything a slice has: complete runs, then the rest. Returns the state that the file then represents.
    fn flush_all(&mut self, id: SliceId) -> io::Result<Option<CheckpointSlice>> {
        let Some(taken) = self.take(id) else {
            return Ok(None);
        };
        let mut rest = &taken.frames[..];
        while !rest.is_empty() {
            let (run, tail) = rest.split_at(complete_run(rest.iter()).unwrap_or(rest.len()));
            self.write_run(id, run)?;
            rest = tail;
        }
        let mut index = self.shared.index.lock();
        let Some(slice) = index.slices.get_mut(&id) else {
            return Ok(None);
        };
        slice.flushed_entry = taken.snapshot.entry;
        Ok(Some(CheckpointSlice {
            len: slice.file_len,
            ..taken.snapshot
        }))
    }

    fn take(&self, id: SliceId) -> Option<Taken> {
        let index = self.shared.index.lock();
        let slice = index.slices.get(&id)?;
        let snapshot = CheckpointSlice {
            id,
            compression: slice.compression,
            entry: slice.last_entry,
            len: slice.file_len,
            figures: slice.figures,
            sessions: slice.sessions.clone(),
            sealed: match &slice.stage {
                Stage::Open => None,
                Stage::Sealing { successor } | Stage::Sealed { successor, .. } => Some(*successor),
            },
        };
        Some(Taken {
            frames: slice.pending.iter().cloned().collect(),
            snapshot,
        })
    }

    /// Completes the file of a sealed slice and tells its content to whoever waits.
    fn finish(&mut self, id: SliceId) -> io::Result<()> {
        let Some(mut state) = self.flush_all(id)? else {
            return Ok(());
        };
        if state.len > 0 && !self.checksums.contains_key(&id) {
            self.drop_damaged(&mut state)?;
        }
        let checksum = self.checksum(id, state.len)?;
        let content = Content {
            figures: Figures {
                bytes: state.len,
                ..state.figures
            },
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
        // Only frames of zstd carry a checksum that can be looked at here.
        if !matches!(state.compression, Compression::Zstd { .. }) {
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
        let Some(sound) = sound(old, known.len, state.compression) else {
            return Ok(());
        };
        if sound.start() == known.len && sound.rows == known.figures.rows {
            return Ok(());
        }
        let lost = known.figures.rows.saturating_sub(sound.rows);
        let lost_raw = known.figures.raw_bytes.saturating_sub(sound.raw_bytes);
        tracing::error!(
            volume = %self.shared.label, slice = %state.id, file = %path.display(), lost,
            "damaged frames were dropped from a slice file, the other rows go on"
        );
        let rest: Vec<u8> = sound
            .ranges
            .iter()
            .flat_map(|range| &old[range.clone()])
            .copied()
            .collect();
        let kept = CheckpointSlice {
            len: rest.len() as u64,
            figures: Figures {
                rows: sound.rows,
                raw_bytes: sound.raw_bytes,
                ..known.figures
            },
            ..known
        };
        // From here on the file and the index disagree until all is done: after a failure only a new opening helps.
        self.repair(&path, &rest, new, kept).inspect_err(|error| {
            self.shared
                .fail(format!("cannot repair {}: {error}", path.display()));
        })?;
        state.len = (rest.len() + new.len()) as u64;
        state.figures.rows = state.figures.rows.saturating_sub(lost);
        state.figures.raw_bytes = state.figures.raw_bytes.saturating_sub(lost_raw);
        if let Some(slice) = self.shared.index.lock().slices.get_mut(&state.id) {
            slice.file_len = state.len;
            slice.figures = state.figures;
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
        if len == 0 {
            return Ok(Checksum::default().finish());
        }
        let file = self.shared.disk.open(&self.shared.slice_path(id))?;
        // A rebuild may have left a longer file of an earlier run behind.
        if file.size()? != len {
            file.set_len(len)?;
        }
        match self.checksums.get(&id) {
            Some(checksum) => Ok(checksum.clone().finish()),
            None => Ok(Checksum::of_file(&*file, len)?.finish()),
        }
    }

    /// Makes room in a long journal. One checkpoint frees what the one before it had covered, so it may take two.
    fn checkpoint_if_due(&mut self) {
        for _ in 0..2 {
            let bytes = self.shared.index.lock().usage.bytes();
            if bytes <= self.shared.checkpoint_bytes || self.shared.failed().is_some() {
                break;
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
                Ok(Some(state)) => {
                    if state.len > 0 {
                        self.sync_slice_file(id)?;
                    }
                    self.checkpointed.insert(id, state);
                }
                Ok(None) => {}
                // It keeps its part of the journal; the others need not.
                Err(error) => self.failed("cannot write a slice file", &error),
            }
        }
        let slices_dir = self.shared.slices_dir();
        self.shared.disk.sync_dir(&slices_dir)?;
        self.write_checkpoint()?;
        tracing::info!(
            volume = %self.shared.label, slices = self.checkpointed.len(),
            elapsed_ms = started.elapsed().as_millis(), "checkpoint made"
        );
        Ok(())
    }

    /// Syncs a slice file. After a failure nothing can be said of the file any more: the volume stops, and the next opening
    /// rebuilds the file from the journal, of which nothing was given up yet.
    fn sync_slice_file(&self, id: SliceId) -> io::Result<()> {
        let file = self.shared.disk.open(&self.shared.slice_path(id))?;
        file.sync_data().inspect_err(|error| {
            self.shared
                .fail(format!("cannot sync the file of slice {id}: {error}"));
        })
    }

    fn write_checkpoint(&mut self) -> io::Result<()> {
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
        checkpoint::prune(&*shared.disk, &shared.checkpoint_dir(), number)
    }

    /// Gives back segments that nobody needs, in their order. After a failure the rest waits: an older segment without its
    /// successor could bring back what was refused.
    fn free_segments(&mut self) {
        loop {
            let free = self.shared.index.lock().oldest_free_segment();
            let Some(segment) = free else { return };
            if let Err(error) = self.shared.pool.take_back(&segment) {
                self.failed("cannot give back a journal segment", &error);
                return;
            }
            self.shared.index.lock().usage.remove(segment.number);
        }
    }

    /// When the next open slice reaches its age limit.
    fn next_crossing(&self) -> Instant {
        let now = self.shared.clock.now();
        let due = |slice: &Slice| -> Option<Timestamp> {
            let spec = slice.spec.as_ref().filter(|_| !slice.reported)?;
            (slice.stage == Stage::Open).then_some(())?;
            Some(slice.figures.first_at? + spec.trigger.interval.0)
        };
        let index = self.shared.index.lock();
        let next = index.slices.values().filter_map(due).min();
        Instant::now() + next.map_or(TICK, |at| at.since(now).min(TICK))
    }

    fn report_crossings(&self) {
        let now = self.shared.clock.now();
        let mut index = self.shared.index.lock();
        let crossed: Vec<_> = index
            .slices
            .iter_mut()
            .filter_map(|(id, slice)| slice.newly_crossed(*id, now))
            .collect();
        drop(index);
        self.shared.report(crossed);
    }
}

impl Shared {
    /// Takes a look at the file system and shows it.
    fn observe(&self) {
        match self.disk.free_bytes(&self.dir) {
            Ok(free) => self.free_bytes.store(free, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(volume = %self.label, error = %error, "cannot read the free space")
            }
        }
        let index = self.index.lock();
        let journal_bytes = index.usage.bytes();
        let slices = index.slices.len();
        let full = self.is_full(&index.usage);
        drop(index);
        let free_bytes = self.free_bytes.load(Ordering::Relaxed);
        self.metrics
            .observe(journal_bytes, slices, free_bytes, self.queue.bytes());
        self.metrics.healthy(self.failed().is_none() && !full);
    }
}
