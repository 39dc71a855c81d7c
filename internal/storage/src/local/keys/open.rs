//! The keys at an opening of the volume: the runs that are whole, and the keys in the journal that are in none.
//!
//! Nothing is written here but the removal of what a spill or a merge left behind that was cut off.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stream_model::{Timestamp, VolumeId};

use super::super::disk::Disk;
use super::super::durable;
use super::super::format::KeySection;
use super::super::recovery::Damage;
use super::Memory;
use super::manifest::{self, Found, Manifest};
use super::run::{self, Run, Scope};

/// What an opening has found.
#[derive(Debug, Default)]
pub(in super::super) struct Opened {
    pub(super) runs: Vec<Arc<Run>>,
    /// Keys of the journal that are in no run.
    pub(super) memory: Memory,
    pub(super) floor: Option<Timestamp>,
    pub(super) next_run: u64,
    /// What is lost.
    pub damage: Vec<Damage>,
    pub unknown_files: Vec<PathBuf>,
    /// There is no manifest that can be read.
    pub is_unwritten: bool,
    /// A run is lost whose keys the journal may still have.
    has_gap: bool,
}

/// Whether a file in the directory of the keys is one that an opening knows what to do with.
pub(in super::super) fn is_known_file(path: &Path) -> bool {
    let name = path.parent().map(manifest::path);
    let is_manifest = name.is_some_and(|name| path == name || path == durable::temporary(&name));
    is_manifest || run::number_of(path).is_some()
}

impl Opened {
    /// Looks at the files. `now` is the time of the opening, from which on keys are remembered if it is not known what was before.
    ///
    /// # Errors
    /// What the disk says when it cannot be read at all. Damaged files are reported instead.
    pub fn read(disk: &dyn Disk, dir: &Path, volume: VolumeId, now: Timestamp) -> io::Result<Self> {
        // What an earlier process has named may have its name in the cache of the system only. Segments are given back because the
        // manifest names a run: it must not be forgotten after them.
        disk.sync_dir(dir)?;
        let mut opened = Self::default();
        let files = opened.look_around(disk, dir)?;
        match Manifest::read(disk, dir, volume)? {
            Found::Whole(manifest) => opened.take_manifest(disk, dir, volume, &manifest)?,
            Found::Damaged { len } => {
                opened.damaged(manifest::path(dir), len, "a damaged list of keys");
                opened.take_all(disk, dir, volume, &files)?;
                opened.restart(now);
            }
            Found::Missing => {
                opened.take_all(disk, dir, volume, &files)?;
                opened.restart(now);
            }
        }
        let named: Vec<PathBuf> = opened.runs.iter().map(|run| run.path.clone()).collect();
        for file in files {
            if !named.contains(&file) {
                disk.remove(&file)?;
            }
        }
        Ok(opened)
    }

    /// The files of runs. Unfinished ones are removed.
    fn look_around(&mut self, disk: &dyn Disk, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut runs = Vec::new();
        for file in disk.list(dir)? {
            if !is_known_file(&file) {
                self.unknown_files.push(file);
            } else if file.extension().is_some_and(|extension| extension == "tmp") {
                disk.remove(&file)?;
            } else if let Some(number) = run::number_of(&file) {
                // No number is used twice, also not that of a run that was cut off.
                self.next_run = self.next_run.max(number + 1);
                runs.push(file);
            }
        }
        Ok(runs)
    }

    fn take_manifest(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        volume: VolumeId,
        manifest: &Manifest,
    ) -> io::Result<()> {
        self.floor = manifest.floor;
        self.next_run = self.next_run.max(manifest.next_run);
        for (number, scope) in &manifest.runs {
            let run = match Run::open(disk, dir, volume, *number) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                opened => opened?,
            };
            match run {
                Some(run) => self.runs.push(Arc::new(run)),
                None => self.lose(dir, *number, scope),
            }
        }
        Ok(())
    }

    /// Without the manifest every run counts that is whole: those that were merged say the same twice.
    fn take_all(
        &mut self,
        disk: &dyn Disk,
        dir: &Path,
        volume: VolumeId,
        files: &[PathBuf],
    ) -> io::Result<()> {
        for number in files.iter().filter_map(|file| run::number_of(file)) {
            match Run::open(disk, dir, volume, number)? {
                Some(run) => self.runs.push(Arc::new(run)),
                None => self.damaged(run::path(dir, number), 0, "a damaged run of keys"),
            }
        }
        self.runs.sort_by_key(|run| run.scope.to_entry);
        Ok(())
    }

    fn lose(&mut self, dir: &Path, number: u64, scope: &Scope) {
        let lost = Timestamp::from_millis(scope.newest_at.as_millis().saturating_add(1));
        self.floor = self.floor.max(Some(lost));
        self.damaged(
            run::path(dir, number),
            0,
            "a run of keys is missing or damaged",
        );
    }

    fn damaged(&mut self, file: PathBuf, to: u64, what: &'static str) {
        self.has_gap = true;
        self.damage.push(Damage {
            file,
            from: 0,
            to,
            rows: Some(0),
            what,
        });
    }

    fn restart(&mut self, now: Timestamp) {
        self.is_unwritten = true;
        self.raise_floor(now);
    }

    /// Nothing is promised for what was before.
    pub fn raise_floor(&mut self, at: Timestamp) {
        self.floor = self.floor.max(Some(at));
    }

    /// On a new volume nothing was before.
    pub fn forget_floor(&mut self) {
        self.floor = None;
    }

    /// Whether all keys are known that were ever taken.
    pub fn is_new(&self) -> bool {
        self.floor.is_none()
    }

    /// Takes in the keys of an entry of the journal.
    pub fn replay(&mut self, entry: u64, group: u64, section: &KeySection) {
        if !self.runs.iter().any(|run| run.scope.covers(entry)) {
            self.memory.insert(entry, group, section);
        }
    }

    /// The last entry and group that a run knows: the journal goes on behind them.
    pub fn position(&self) -> (u64, u64) {
        let scopes = || self.runs.iter().map(|run| run.scope);
        (
            scopes().map(|scope| scope.to_entry).max().unwrap_or(0),
            scopes().map(|scope| scope.to_group).max().unwrap_or(0),
        )
    }

    /// The last entry up to which the journal is not needed for its keys.
    pub fn covered(&self) -> u64 {
        match self.has_gap {
            true => 0,
            false => self.position().0,
        }
    }
}
