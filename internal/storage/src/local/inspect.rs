//! Looking at a volume without opening it: what is on it, and whether all of it is sound.
//!
//! Nothing is written, created or removed, whatever is found. The recovery of the volume is run on a disk that is only read,
//! so what is shown is what the next opening finds; [`verify`] then unpacks every frame and checks every number, also those
//! that an opening believes.
//!
//! Both hold the volume's lock together with others that only look, so that no process opens it meanwhile. A volume that is
//! in use can be inspected, and figures may be moving; it cannot be verified, because what is being written looks damaged.

mod identity;
mod inspection;
mod journal;
mod read_only;
mod report;
mod slices;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stream_model::time::ManualClock;
use stream_model::{ErrorKind, SliceId, VolumeId};

pub use self::inspection::{
    Checked, CheckpointSummary, Inspection, SegmentSummary, SliceStage, SliceSummary, Usage,
    Verification,
};
use self::read_only::ReadOnlyDisk;
use super::ballast;
use super::checkpoint::{self, Checkpoint};
use super::disk::{Disk, DiskLock};
use super::durable;
use super::format::Seed;
use super::identity::{FILE, LOCK};
use super::keys::{self, is_known_file};
use super::loss::{self, Hole, Missing};
use super::recovery::{self, Damage, Recovered};
use super::scan::scan;
use super::segment;
use super::volume::Options;

const JOURNAL: &str = "journal";
const CHECKPOINT: &str = "checkpoint";
const SLICES: &str = "slices";
/// An opening that runs meanwhile moves files under the eyes of the inspection.
const ATTEMPTS: u32 = 5;

/// A directory that cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no volume.
    #[error("{} holds no volume: there is neither a volume-id nor a journal", path.display())]
    NotAVolume {
        /// The directory.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error(
        "volume {} is in use by another process; stop that process, what is being written cannot be verified",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// No file tells the identity of the volume, without which no checksum can be computed.
    #[error(
        "{} does not hold a volume id (32 hexadecimal digits) and no journal segment tells it; restore it from the \
         service's log, where it is written at every start",
        path.display()
    )]
    Identity {
        /// The file that should hold it.
        path: PathBuf,
    },
    /// The directory or a file in it cannot be read.
    #[error("volume {} cannot be read", path.display())]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl InspectError {
    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotAVolume { .. } => ErrorKind::NotFound,
            Self::InUse { .. } => ErrorKind::Conflict,
            Self::Identity { .. } => ErrorKind::Corrupt,
            Self::Unreadable { .. } => ErrorKind::Unavailable,
        }
    }
}

/// How closely the journal is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Checksums of entries.
    Structure,
    /// Frames as well.
    Frames,
}

/// Whether the directory is a volume: it has an identity or a journal.
#[must_use]
pub fn is_volume(dir: &Path) -> bool {
    dir.join(FILE).is_file() || dir.join(JOURNAL).is_dir()
}

/// Tells what is on the volume in a directory.
///
/// # Errors
/// See [`InspectError`]; never because of damaged content.
pub fn inspect(dir: &Path) -> Result<Inspection, InspectError> {
    let (usage, _lock) = lock(dir)?;
    let mut attempt = 1;
    loop {
        match Look::new(dir).and_then(|look| look.inspection(usage)) {
            Err(InspectError::Unreadable { .. }) if usage == Usage::InUse && attempt < ATTEMPTS => {
                attempt += 1;
            }
            result => return result,
        }
    }
}

/// Checks everything on the volume in a directory. Needs as much memory as the largest file has bytes, twice.
///
/// # Errors
/// See [`InspectError`]; never because of damaged content.
pub fn verify(dir: &Path) -> Result<Verification, InspectError> {
    let (usage, _lock) = lock(dir)?;
    if usage == Usage::InUse {
        return Err(InspectError::InUse {
            path: dir.to_owned(),
        });
    }
    Look::new(dir)?.verification(usage)
}

/// Takes the lock of the volume. A copy of a volume may be without the file, and nobody has it open then.
fn lock(dir: &Path) -> Result<(Usage, Option<DiskLock>), InspectError> {
    if !is_volume(dir) {
        return Err(InspectError::NotAVolume {
            path: dir.to_owned(),
        });
    }
    let lock = ReadOnlyDisk
        .lock(&dir.join(LOCK))
        .map_err(unreadable(dir))?;
    let usage = match lock {
        Some(_) => Usage::Free,
        None => Usage::InUse,
    };
    Ok((usage, lock))
}

fn unreadable(dir: &Path) -> impl FnOnce(io::Error) -> InspectError {
    let path = dir.to_owned();
    move |source| InspectError::Unreadable { path, source }
}

/// A volume that is being looked at.
struct Look {
    dir: PathBuf,
    id: VolumeId,
    /// Set when the identity had to be taken from the journal.
    wrong_identity: Option<Damage>,
    recovered: Recovered,
}

impl Look {
    fn new(dir: &Path) -> Result<Self, InspectError> {
        let (id, wrong_identity) = identity::identity(dir)?;
        // A recovery writes down no time.
        let options = Options {
            disk: Arc::new(ReadOnlyDisk),
            ..Options::new(dir.to_owned(), Arc::new(ManualClock::default()))
        };
        let recovered = recovery::recover(&options, id).map_err(unreadable(dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            id,
            wrong_identity,
            recovered,
        })
    }

    fn inspection(&self, usage: Usage) -> Result<Inspection, InspectError> {
        let mut walk =
            journal::Walk::new(&ReadOnlyDisk, self.id, &self.recovered, Depth::Structure);
        walk.run(&self.dir.join(JOURNAL))
            .map_err(unreadable(&self.dir))?;
        self.summary(usage, walk.segments)
            .map_err(unreadable(&self.dir))
    }

    fn verification(&self, usage: Usage) -> Result<Verification, InspectError> {
        let failed = || unreadable(&self.dir);
        let mut walk = journal::Walk::new(&ReadOnlyDisk, self.id, &self.recovered, Depth::Frames);
        walk.run(&self.dir.join(JOURNAL)).map_err(failed())?;
        let mut checked = walk.checked;
        let index = &self.recovered.index;
        let files = slices::check(
            &ReadOnlyDisk,
            &self.dir.join(SLICES),
            index,
            &self.recovered.newest,
            &mut checked,
        )
        .map_err(failed())?;
        let inspection = self.summary(usage, walk.segments).map_err(failed())?;
        let (mut remains, mut notes) = (walk.remains, walk.notes);
        for damage in remains.iter_mut().chain(&mut notes) {
            self.count_rows(damage, &walk.released).map_err(failed())?;
        }
        let mut findings = inspection.damage.clone();
        findings.extend(remains);
        findings.extend(walk.findings);
        findings.extend(files);
        Ok(Verification {
            inspection,
            findings,
            notes,
            checked,
        })
    }

    /// Counts the rows that are lost with bytes of the journal which an opening does not report: those that no slice file has.
    fn count_rows(&self, damage: &mut Damage, released: &HashSet<SliceId>) -> io::Result<()> {
        let Some(number) = segment::segment_number(&damage.file) else {
            return Ok(());
        };
        let bytes = ReadOnlyDisk.read(&damage.file)?;
        let (from, to) = (usize::try_from(damage.from), usize::try_from(damage.to));
        let range = from.unwrap_or(usize::MAX)..to.unwrap_or(usize::MAX);
        let hole = Hole {
            volume: self.id,
            segment: number,
            from: damage.from,
            bytes: bytes.get(range).unwrap_or_default(),
        };
        let found = scan(&bytes, Seed::new(self.id, number)).entries;
        let last = found.iter().rfind(|entry| entry.offset < damage.from);
        let missing = Missing::behind_last(last.map(|last| &last.header), None);
        if hole.bytes.is_empty() {
            return Ok(());
        }
        let Recovered { index, newest, .. } = &self.recovered;
        damage.rows = hole
            .entries(&missing)
            .and_then(|lost| loss::rows(&lost, index, released, newest.last_entry));
        Ok(())
    }

    fn summary(&self, usage: Usage, segments: Vec<SegmentSummary>) -> io::Result<Inspection> {
        let Recovered { index, newest, .. } = &self.recovered;
        let slices_dir = self.dir.join(SLICES);
        let mut damage: Vec<Damage> = self.wrong_identity.iter().cloned().collect();
        damage.extend(self.recovered.report.damage.iter().cloned());
        Ok(Inspection {
            dir: self.dir.clone(),
            id: self.id,
            usage,
            segments,
            checkpoints: checkpoints(&self.dir.join(CHECKPOINT), self.id)?,
            slices: slices::summaries(&ReadOnlyDisk, &slices_dir, index, newest)?,
            unknown_files: self.unknown_files()?,
            damage,
        })
    }

    /// What recovery names, and what it does not look at: other files and directories beside those of the volume.
    fn unknown_files(&self) -> io::Result<Vec<PathBuf>> {
        let mut unknown: BTreeSet<PathBuf> = self
            .recovered
            .report
            .unknown_files
            .iter()
            .cloned()
            .collect();
        for name in [".", JOURNAL, CHECKPOINT, SLICES, keys::DIR] {
            let dir = if name == "." {
                self.dir.clone()
            } else {
                self.dir.join(name)
            };
            for entry in entries(&dir)? {
                if !is_known(name, &entry)? {
                    unknown.insert(entry.path());
                }
            }
        }
        Ok(unknown.into_iter().collect())
    }
}

fn entries(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.collect(),
    }
}

fn is_known(dir: &str, entry: &fs::DirEntry) -> io::Result<bool> {
    let (path, is_file) = (entry.path(), entry.file_type()?.is_file());
    Ok(match dir {
        JOURNAL => {
            is_file
                && (segment::segment_number(&path).is_some()
                    || segment::is_spare(&path)
                    || ballast::is_ballast(&path))
        }
        // What a process that ended has left of one is removed by the next opening.
        CHECKPOINT => {
            is_file && (checkpoint::number_of(&path).is_some() || checkpoint::is_unfinished(&path))
        }
        keys::DIR => is_file && is_known_file(&path),
        // Recovery knows which slices are.
        SLICES => is_file,
        _ => {
            let name = entry.file_name();
            let is_one_of = |names: &[&str]| names.iter().any(|known| name == *known);
            match is_file {
                true => {
                    is_one_of(&[FILE, LOCK])
                        || path == durable::temporary(&path.with_file_name(FILE))
                }
                false => is_one_of(&[JOURNAL, CHECKPOINT, SLICES, keys::DIR]),
            }
        }
    })
}

fn checkpoints(dir: &Path, volume: VolumeId) -> io::Result<Vec<CheckpointSummary>> {
    let found = checkpoint::read_all(&ReadOnlyDisk, dir, volume)?;
    let whole = found.iter().filter_map(|found| found.as_ref().ok());
    let summary = |whole: &Checkpoint| CheckpointSummary {
        number: whole.number,
        slices: whole.slices.len(),
        last_entry: whole.last_entry,
        last_group: whole.last_group,
    };
    Ok(whole.map(summary).collect())
}
