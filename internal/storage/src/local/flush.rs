//! The flush thread: committed frames to slice files, the content of sealed slices, checkpoints, room in the journal.
//!
//! It is the only writer of slice files. Nothing it does is needed for an acknowledgement, and all of it can be done again
//! from the journal, so its own failures are tried again and never lose anything.

mod checkpoints;
mod content;
mod keys;
mod signal;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stream_model::{SliceId, Timestamp};

pub(super) use self::signal::FlushSignal;
use self::signal::Work;
use super::ballast::is_full;
use super::checkpoint::{Checkpoint, CheckpointSlice};
use super::index::{Frame, Stage};
use super::queue::Op;
use super::slice_file::{Checksum, Packer, complete_run};
use super::volume::{FailOnPanic, Shared};
use super::worker::Step;
use crate::crash::{self, Point};

/// Free space, ages and gauges are looked at this often.
const TICK: Duration = Duration::from_secs(1);

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
    /// Sealed slices whose file an earlier run began. To look through such a file takes as long as to read and unpack it, so
    /// that is done for one at a time, after everything that others wait for.
    unchecked: BTreeSet<SliceId>,
    /// When the first open slice reaches its age limit, of those that had rows at the last look.
    next_due: Option<Timestamp>,
    /// What failed and is tried again at the next tick.
    again: Work,
    failing: bool,
    /// Keys could not be written the last time.
    keys_failing: bool,
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
            unchecked: BTreeSet::new(),
            next_due: None,
            again: Work::default(),
            failing: false,
            keys_failing: false,
        }
    }

    /// Works until it is told to stop.
    pub fn run(mut self) {
        let _guard = FailOnPanic(Arc::clone(&self.shared));
        let mut next_tick = Instant::now();
        loop {
            let until = next_tick.min(self.next_own_work());
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
        if work.is_empty() && self.unchecked.is_empty() && !ticked {
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
            self.tick();
        }
        let stopping = work.stopping;
        self.work(work, ticked);
        if stopping {
            // Who still waits for a content may ask again after the next opening.
            self.shared.close_waiters();
            return Step::Ended;
        }
        if ticked || self.is_due() {
            self.report_crossings();
        }
        Step::Worked
    }

    /// Done every second, before anything else.
    fn tick(&mut self) {
        if self.shared.observe() {
            // Segments whose rows are safe in slice files are room.
            self.checkpoint_wanted = true;
        }
        if let Err(error) = self.shared.pool.trim(self.spares()) {
            self.failed("cannot remove a spare journal segment", &error);
        }
        if self.shared.suspension.tick() {
            self.shared.queue.push(Op::Probe);
        }
    }

    fn work(&mut self, work: Work, ticked: bool) {
        for id in work.seals {
            if self.began_earlier(id) {
                self.unchecked.insert(id);
            } else {
                self.try_finish(id);
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
        self.look_after_keys(ticked);
        if self.checkpoint_wanted && (work.segment_started || ticked) {
            self.checkpoint_if_due();
        }
        self.free_segments();
        if let Some(id) = self.unchecked.pop_first() {
            self.try_finish(id);
        }
        if ticked {
            self.prepare_ballast();
        }
        let nothing_again =
            !self.keys_failing && self.again.runs.is_empty() && self.again.seals.is_empty();
        if self.failing && ticked && nothing_again && self.again.released.is_empty() {
            self.failing = false;
            tracing::info!(volume = %self.shared.label, "the disk takes slice files again");
        }
    }

    fn try_finish(&mut self, id: SliceId) {
        if let Err(error) = self.finish(id) {
            self.failed("cannot complete a slice file", &error);
            self.again.seals.insert(id);
        }
    }

    /// Whether an earlier run has written to the file of the slice, so that its content has to be read.
    fn began_earlier(&self, id: SliceId) -> bool {
        let index = self.shared.index.lock();
        let slice = index.slices.get(&id);
        slice.is_some_and(|slice| slice.file_len > 0) && !self.checksums.contains_key(&id)
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
        crash::point(Point::SliceFileRemoved);
        self.shared.disk.sync_dir(&self.shared.slices_dir())?;
        crash::point(Point::SliceRemovalSynced);
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
        if is_full(error) && self.shared.pool.ballast.release().unwrap_or(false) {
            // What is sealed can be uploaded, and that makes room.
            tracing::info!(volume = %self.shared.label, "the room that was kept for sealing is given up");
        }
    }

    /// Makes anew what was given up, once there is room.
    fn prepare_ballast(&mut self) {
        let longest = self.shared.index.lock().usage.longest();
        let longest = longest.max(self.shared.pool.segment_bytes());
        let ballast = &self.shared.pool.ballast;
        let room = self.shared.reserve_bytes + ballast.missing(longest);
        if self.shared.free_bytes.load(Ordering::Relaxed) < room {
            return;
        }
        if let Err(error) = ballast.prepare(longest) {
            self.failed("cannot keep room for a full disk", &error);
        }
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
        if self.shared.flush.was_spare_taken() {
            // Long work may lie ahead. Without a spare the commit thread has to write one, and all clients wait for that.
            self.prepare_segment();
        }
        let (compression, offset) = {
            let index = self.shared.index.lock();
            let Some(slice) = index.slices.get(&id) else {
                return Ok(());
            };
            (slice.compression, slice.file_len)
        };
        let bytes = self.packer.pack(compression, run)?;
        let file = self.shared.disk.create(&self.shared.slice_path(id))?;
        crash::point(Point::RunPacked);
        file.write_all_at(bytes, offset)?;
        crash::point(Point::RunWritten);
        self.shared.metrics.slice_written(bytes.len());
        if offset == 0 {
            self.checksums.insert(id, Checksum::default());
        }
        if let Some(checksum) = self.checksums.get_mut(&id) {
            checksum.update(bytes);
        }
        let mut index = self.shared.index.lock();
        if let Some(slice) = index.slices.get_mut(&id) {
            slice.pending.drain(..run.len());
            slice.pending_raw -= run.iter().map(|frame| u64::from(frame.raw)).sum::<u64>();
            slice.pending_len -= run.iter().map(|frame| u64::from(frame.len)).sum::<u64>();
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
            later_hours: slice.later_hours.clone(),
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

    /// When there is something to do that nobody asks for.
    fn next_own_work(&self) -> Instant {
        let now = Instant::now();
        if !self.unchecked.is_empty() {
            return now;
        }
        let wait = |at: Timestamp| at.since(self.shared.clock.now()).min(TICK);
        now + self.next_due.map_or(TICK, wait)
    }

    fn is_due(&self) -> bool {
        self.next_due
            .is_some_and(|at| at <= self.shared.clock.now())
    }

    /// Reports slices that have reached their age limit. It looks at every slice, so it is done at each tick and when one is
    /// due, and not more often: what gets its first row after a look is due after the next, for no limit is below a second.
    fn report_crossings(&mut self) {
        let now = self.shared.clock.now();
        let (mut crossed, mut next_due) = (Vec::new(), None::<Timestamp>);
        let mut index = self.shared.index.lock();
        for (id, slice) in &mut index.slices {
            crossed.extend(slice.newly_crossed(*id, now));
            if let Some(at) = slice.due().filter(|at| *at > now) {
                next_due = Some(next_due.map_or(at, |next| next.min(at)));
            }
        }
        drop(index);
        self.next_due = next_due;
        self.shared.report(crossed);
    }
}
