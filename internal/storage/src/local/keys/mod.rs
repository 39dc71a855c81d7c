//! Which idempotency keys a volume remembers.
//!
//! ```text
//! commit thread ─▶ unsynced ─▶ recent ──freeze──▶ frozen ──flush thread──▶ run, run, … (files, merged, forgotten)
//! ```
//!
//! Keys are written to the journal with the rows that they belong to, in the same entry. In memory they first are where a loss of
//! power may still take their rows (`unsynced`: only groups that nobody wanted synced), then in `recent`. When there are many, or
//! the journal needs its room, the flush thread writes them as a sorted, immutable [`run`]; runs are merged and, from the oldest on,
//! forgotten. Recovery reads the ends of the runs, and takes from the journal the keys that no run has.
//!
//! Invariants:
//!
//! - A key is remembered if and only if its rows are committed, and at least for the *window*: from [`Keys::window`] ago until now.
//! - A segment of the journal is given back only when the keys in it are durable in a run (`segment::Usage::cover_keys`).
//! - No key whose rows a crash may still undo is in a run: a client would be told that its record is there.
//! - What is lost, or forgotten because there are too many, shortens the window and is told; it never keeps a volume closed.
//!
//! Memory: 1.6 B per key in runs, 29 B and less per key that is in none, of which there are at most 200 000 and those that come
//! while as many are being written. With ten million keys that is about 35 MiB.
//!
//! Only the commit thread adds keys, only the flush thread writes runs, so what a look-up misses between the two is added by its
//! own caller. It refuses to know what a key or a body is: both are hashes.

mod bloom;
mod manifest;
mod merge;
mod open;
mod run;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use stream_model::{Timestamp, VolumeId};

use self::manifest::Manifest;
pub(super) use self::open::{Opened, is_known_file};
use self::run::{ReadError, Run, Scope, Writer};
use super::disk::Disk;
use super::durable;
use super::format::KeySection;
use crate::wire::{Claim, KeyHash, KnownKey};

/// The directory in the volume.
pub(super) const DIR: &str = "keys";
/// Keys that are written to a run together, at most.
const MAX_SPILL: u64 = 200_000;
/// While so many times as many keys wait for the flush thread, no more are taken.
const BEHIND: usize = 4;
/// The same, when only few make a run.
const LEAST_BEHIND: usize = 4096;

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// How many keys at most; at least so many, as long as none is older than `window`.
    pub max_keys: u64,
    /// For how long.
    pub window: Duration,
}

impl Limits {
    /// Keys that make a run.
    fn spill(&self) -> u64 {
        (self.max_keys / 50).clamp(1, MAX_SPILL)
    }

    /// No run is merged beyond this: whole runs are forgotten.
    fn merged(&self) -> u64 {
        self.max_keys / 5
    }
}

/// Keys in memory.
#[derive(Debug, Default)]
pub(super) struct Memory {
    keys: HashMap<KeyHash, u64>,
    /// None while there are none.
    scope: Option<Scope>,
}

impl Memory {
    fn insert(&mut self, entry: u64, group: u64, section: &KeySection) {
        let scope = Scope {
            from_entry: entry,
            to_entry: entry,
            to_group: group,
            oldest_at: section.at,
            newest_at: section.at,
        };
        self.scope = Some(self.scope.map_or(scope, |all| all.join(scope)));
        let claims = section.claims.iter();
        self.keys
            .extend(claims.map(|claim| (claim.key, claim.body)));
    }

    fn absorb(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.scope = match (self.scope, other.scope) {
            (Some(own), Some(other)) => Some(own.join(other)),
            (own, other) => own.or(other),
        };
    }

    fn sorted(&self) -> Vec<Claim> {
        let keys = self.keys.iter();
        let mut claims: Vec<Claim> = keys
            .map(|(key, body)| Claim {
                key: *key,
                body: *body,
            })
            .collect();
        claims.sort_unstable_by_key(|claim| claim.key);
        claims
    }
}

#[derive(Debug, Default)]
struct State {
    unsynced: Memory,
    recent: Memory,
    /// What is being written, with the number of its run.
    frozen: Option<(u64, Arc<Memory>)>,
    /// The number of the run that a merge makes or failed to make.
    merging: Option<u64>,
    /// The oldest first.
    runs: Vec<Arc<Run>>,
    next_run: u64,
}

/// The keys of one volume.
#[derive(Debug)]
pub(super) struct Keys {
    volume: VolumeId,
    label: String,
    dir: PathBuf,
    limits: Limits,
    state: Mutex<State>,
    /// Milliseconds: keys that were taken before may be forgotten. `i64::MIN`: none is.
    floor: AtomicI64,
    /// The last look-up found a run that the disk does not read.
    unreadable: AtomicBool,
}

/// Keys of which nothing can be said.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    /// The disk does not read them.
    #[error("cannot read idempotency keys")]
    Unreadable(#[source] io::Error),
    /// Another volume decides about them.
    #[error("idempotency keys are not decided about here")]
    Elsewhere,
    /// So many wait to be written that no more are taken.
    #[error("too many idempotency keys wait to be written")]
    Behind,
}

impl Keys {
    /// The keys that an opening has found in `dir`.
    pub fn new(
        volume: VolumeId,
        label: String,
        dir: PathBuf,
        limits: Limits,
        found: Opened,
    ) -> Self {
        let floor = found.floor.map_or(i64::MIN, Timestamp::as_millis);
        Self {
            volume,
            label,
            dir,
            limits,
            floor: AtomicI64::new(floor),
            unreadable: AtomicBool::new(false),
            state: Mutex::new(State {
                recent: found.memory,
                runs: found.runs,
                next_run: found.next_run,
                ..State::default()
            }),
        }
    }

    /// The claims of a batch whose keys are remembered.
    ///
    /// # Errors
    /// When a run cannot be read. Nothing is known of the batch then.
    pub fn look_up(&self, claims: &[Claim]) -> Result<Vec<KnownKey>, LookupError> {
        let mut known: Vec<Option<u64>> = Vec::with_capacity(claims.len());
        let runs = {
            let state = self.state.lock();
            let memories = [
                Some(&state.unsynced),
                Some(&state.recent),
                state.frozen.as_ref().map(|(_, frozen)| &**frozen),
            ];
            known.extend(claims.iter().map(|claim| {
                let mut memories = memories.iter().flatten();
                memories.find_map(|memory| memory.keys.get(&claim.key).copied())
            }));
            state.runs.clone()
        };
        for (claim, known) in claims.iter().zip(&mut known) {
            if known.is_none() {
                *known = self.find_in(&runs, claim.key)?;
            }
        }
        self.unreadable.store(false, Ordering::Relaxed);
        let positions = (0..).zip(known);
        Ok(positions
            .filter_map(|(position, body)| {
                Some(KnownKey {
                    position,
                    body: body?,
                })
            })
            .collect())
    }

    fn find_in(&self, runs: &[Arc<Run>], key: KeyHash) -> Result<Option<u64>, LookupError> {
        for run in runs.iter().rev() {
            match run.find(key) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(ReadError::Io(error)) => return Err(self.unreadable(run, error)),
                Err(ReadError::Damaged) => self.lost_block(run),
            }
        }
        Ok(None)
    }

    /// Logs when it begins.
    fn unreadable(&self, run: &Run, error: io::Error) -> LookupError {
        if !self.unreadable.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                volume = %self.label, file = %run.path.display(), error = %error,
                "cannot read idempotency keys; records whose keys may be there are refused"
            );
        }
        LookupError::Unreadable(error)
    }

    /// Some keys of a run are lost: nothing is promised any more for as long ago as it reaches.
    fn lost_block(&self, run: &Run) {
        self.raise_floor(run.scope.newest_at);
        if run.note_damage() {
            tracing::error!(
                volume = %self.label, file = %run.path.display(), newest_at = %run.scope.newest_at,
                "idempotency keys are damaged; repetitions of records up to that time may be taken again"
            );
        }
    }

    /// Whether so many keys wait to be written that no more should come.
    pub fn is_behind(&self) -> bool {
        let state = self.state.lock();
        let frozen = state
            .frozen
            .as_ref()
            .map_or(0, |(_, frozen)| frozen.keys.len());
        let limit = usize::try_from(self.limits.spill())
            .unwrap_or(usize::MAX)
            .saturating_mul(BEHIND);
        frozen + state.recent.keys.len() + state.unsynced.keys.len() > limit.max(LEAST_BEHIND)
    }

    /// Remembers the keys of a committed entry. Its rows may still be lost with the power.
    pub fn commit(&self, entry: u64, group: u64, section: &KeySection) {
        self.state.lock().unsynced.insert(entry, group, section);
    }

    /// Notes that the journal is durable so far.
    pub fn synced(&self) {
        let mut state = self.state.lock();
        if state.unsynced.scope.is_some() {
            let synced = std::mem::take(&mut state.unsynced);
            match state.recent.scope {
                None => state.recent = synced,
                Some(_) => state.recent.absorb(synced),
            }
        }
    }

    /// Whether there are so many keys in memory that they should be written. What failed waits for the next `ticked`.
    pub fn wants_spill(&self, ticked: bool) -> bool {
        let state = self.state.lock();
        match state.frozen {
            Some(_) => ticked,
            None => state.recent.keys.len() as u64 >= self.limits.spill(),
        }
    }

    /// Writes the keys in memory to a run, if there are any. Answers the last entry of which no keys are in memory only, once they
    /// are durable. By the flush thread only.
    ///
    /// # Errors
    /// What the disk says. They are still remembered, and the next call writes them, to a run of the same number: whether the
    /// manifest names that already is not known.
    pub fn spill(&self, disk: &dyn Disk) -> io::Result<Option<u64>> {
        let Some((number, frozen, scope)) = self.freeze() else {
            return Ok(None);
        };
        let run = self
            .write_run(disk, number, &frozen.sorted(), scope)
            .inspect_err(|_| self.give_back(disk, number))?;
        let mut runs = self.state.lock().runs.clone();
        runs.push(Arc::new(run));
        self.write_manifest(disk, &runs)?;
        let mut state = self.state.lock();
        state.runs = runs;
        state.frozen = None;
        let last = state.runs.iter().map(|run| run.scope.to_entry).max();
        Ok(last)
    }

    /// What is to be written, with the number of its run.
    fn freeze(&self) -> Option<(u64, Arc<Memory>, Scope)> {
        let mut state = self.state.lock();
        if state.frozen.is_none() && state.recent.scope.is_some() {
            let recent = std::mem::take(&mut state.recent);
            state.frozen = Some((state.next_run, Arc::new(recent)));
            state.next_run += 1;
        }
        let (number, frozen) = state.frozen.clone()?;
        let scope = frozen.scope?;
        Some((number, frozen, scope))
    }

    fn write_run(
        &self,
        disk: &dyn Disk,
        number: u64,
        claims: &[Claim],
        scope: Scope,
    ) -> io::Result<Run> {
        let mut writer = Writer::new(disk, &self.dir, self.volume, number, claims.len() as u64)?;
        claims.iter().try_for_each(|claim| writer.push(*claim))?;
        writer.finish(scope)
    }

    /// Removes what is left of a run that was not finished: it may be what fills the disk.
    fn give_back(&self, disk: &dyn Disk, number: u64) {
        // An opening removes it as well.
        let _ = disk.remove(&durable::temporary(&run::path(&self.dir, number)));
    }

    /// Merges the newest runs when there are enough of them, and forgets the oldest when there are too many keys or they are too
    /// old. By the flush thread only.
    ///
    /// # Errors
    /// What the disk says. Nothing is forgotten then.
    pub fn tidy(&self, disk: &dyn Disk, now: Timestamp) -> io::Result<()> {
        let runs = self.state.lock().runs.clone();
        let kept = self.forget(&runs, now);
        let (kept, lost) = match merge::due(&kept, self.limits.merged()) {
            None if kept.len() == runs.len() => return Ok(()),
            None => (kept, Vec::new()),
            Some(first) => {
                let number = self.number_of_merge();
                let merged = merge::merge(disk, &self.dir, self.volume, number, &kept[first..])
                    .inspect_err(|_| self.give_back(disk, number))?;
                let mut left = kept[..first].to_vec();
                left.push(Arc::new(merged.run));
                (left, merged.damaged)
            }
        };
        lost.iter().for_each(|run| self.lost_block(run));
        let is_kept = |run: &Arc<Run>| kept.iter().any(|kept| kept.number == run.number);
        self.write_manifest(disk, &kept)?;
        {
            let mut state = self.state.lock();
            state.runs.clone_from(&kept);
            state.merging = None;
        }
        for run in runs.iter().filter(|run| !is_kept(run)) {
            // What stays behind is removed at the next opening.
            disk.remove(&run.path)?;
        }
        Ok(())
    }

    /// The same as before after a failure, as in [`Self::spill`].
    fn number_of_merge(&self) -> u64 {
        let mut state = self.state.lock();
        if let Some(number) = state.merging {
            return number;
        }
        let number = state.next_run;
        state.next_run += 1;
        state.merging = Some(number);
        number
    }

    /// The runs without those that are too old, or too many. Too many: the window is shorter from now on, and that is written with
    /// the next manifest, before a file is removed.
    fn forget(&self, runs: &[Arc<Run>], now: Timestamp) -> Vec<Arc<Run>> {
        let mut sum: u64 = runs.iter().map(|run| run.count).sum();
        let mut kept = runs;
        while let [oldest, rest @ ..] = kept {
            let is_old = now.since(oldest.scope.newest_at) > self.limits.window;
            let is_too_many = sum - oldest.count >= self.limits.max_keys;
            if !is_old && !is_too_many {
                break;
            }
            if !is_old {
                self.raise_floor(oldest.scope.newest_at);
            }
            sum -= oldest.count;
            kept = rest;
        }
        kept.to_vec()
    }

    /// Writes the manifest as it is, for an opening that found none.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write_down(&self, disk: &dyn Disk) -> io::Result<()> {
        let runs = self.state.lock().runs.clone();
        self.write_manifest(disk, &runs)
    }

    fn write_manifest(&self, disk: &dyn Disk, runs: &[Arc<Run>]) -> io::Result<()> {
        let next = self.state.lock().next_run;
        let manifest = Manifest::of(runs.iter().map(Arc::as_ref), self.floor(), next);
        manifest.write(disk, &self.dir, self.volume)
    }

    fn floor(&self) -> Option<Timestamp> {
        let floor = self.floor.load(Ordering::Relaxed);
        (floor != i64::MIN).then_some(Timestamp::from_millis(floor))
    }

    fn raise_floor(&self, newest_lost: Timestamp) {
        self.floor
            .fetch_max(newest_lost.as_millis().saturating_add(1), Ordering::Relaxed);
    }

    /// For how long at least all keys are remembered.
    pub fn window(&self, now: Timestamp) -> Duration {
        self.floor().map_or(self.limits.window, |floor| {
            now.since(floor).min(self.limits.window)
        })
    }

    /// How many keys are remembered.
    pub fn count(&self) -> u64 {
        let state = self.state.lock();
        let memory = state.unsynced.keys.len() + state.recent.keys.len();
        let frozen = state
            .frozen
            .as_ref()
            .map_or(0, |(_, frozen)| frozen.keys.len());
        let runs: u64 = state.runs.iter().map(|run| run.count).sum();
        runs + (memory + frozen) as u64
    }
}

/// The directory of the keys of a volume.
pub(super) fn dir_of(volume: &Path) -> PathBuf {
    volume.join(DIR)
}
