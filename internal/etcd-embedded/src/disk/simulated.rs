//! A disk that fails, and forgets what was not synced.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;
use redb::StorageBackend;

use super::{Contents, Disk, OpenError, builder, open_and_read, write_empty};
use crate::directory;

/// A power loss tears writes at these boundaries.
const SECTOR: usize = 512;

/// What happens once the disk was used often enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing succeeds any more.
    PowerLoss,
    /// Syncs fail, and nobody knows what of the writes before them is stored.
    Sync,
    Write,
    /// The file does not grow any more.
    Full,
}

const FAULTS: [Fault; 4] = [Fault::PowerLoss, Fault::Sync, Fault::Write, Fault::Full];

impl Fault {
    pub(crate) fn draw(random: &mut StdRng) -> Self {
        FAULTS[random.random_range(0..FAULTS.len())]
    }
}

/// A disk. Its clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Platter(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What is read.
    current: Vec<u8>,
    /// What is there after a power loss, whatever happens.
    synced: Vec<u8>,
    /// What was done since the last sync.
    unsynced: Vec<Change>,
    fault: Fault,
    /// Changes and syncs until the fault.
    healthy_for: u64,
    faulty: bool,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Write(at, data) => {
                // What lies beyond the end is lost with the growth before it.
                let end = bytes.len().min(at + data.len());
                if *at < end {
                    bytes[*at..end].copy_from_slice(&data[..end - at]);
                }
            }
        }
    }

    /// The change in pieces that are stored or not, each on its own.
    fn torn(self) -> Vec<Self> {
        let Self::Write(mut at, data) = self else {
            return vec![self];
        };
        let mut pieces = Vec::new();
        let mut rest = data.as_slice();
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
            pieces.push(Self::Write(at, piece.to_vec()));
            at += piece.len();
            rest = tail;
        }
        pieces
    }
}

impl Platter {
    /// An empty store on a disk that works.
    pub(crate) fn new() -> Self {
        let platter = Self::of(Vec::new());
        let database = builder()
            .create_with_backend(platter.clone())
            .expect("the disk works");
        write_empty(&database).expect("the disk works");
        drop(database);
        platter
    }

    fn of(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State {
            current: bytes.clone(),
            synced: bytes,
            unsynced: Vec::new(),
            fault: Fault::PowerLoss,
            healthy_for: u64::MAX,
            faulty: false,
        })))
    }

    /// The disk fails after it was used so often.
    pub(crate) fn fail_after(&self, uses: u64, fault: Fault) {
        let mut state = self.0.lock();
        state.healthy_for = uses;
        state.fault = fault;
    }

    /// Whether the disk began to fail.
    pub(crate) fn is_faulty(&self) -> bool {
        self.0.lock().faulty
    }

    /// The disk as it is after a power loss: of what was not synced all, nothing, or any part is there. It works again.
    pub(crate) fn after_power_loss(&self, random: &mut StdRng) -> Self {
        let state = self.0.lock();
        let mut bytes = state.synced.clone();
        let likelihood = [0.0, 0.1, 0.5, 0.9, 1.0][random.random_range(0..5)];
        for change in state.unsynced.iter().cloned().flat_map(Change::torn) {
            if random.random_bool(likelihood) {
                change.apply(&mut bytes);
            }
        }
        Self::of(bytes)
    }

    /// Opens the store on it; `dir` is only locked.
    pub(crate) fn open(&self, dir: &Path) -> Result<(Disk, Contents), OpenError> {
        let (path, lock) = directory::take(dir)?;
        let open = |builder: &mut redb::Builder| builder.create_with_backend(self.clone());
        let (database, contents) = open_and_read(&path, open)?;
        let disk = Disk {
            database: Some(database),
            path,
            room: None,
            _directory: lock,
        };
        Ok((disk, contents))
    }
}

impl State {
    /// Counts one use; an error when the disk fails, as far as `fails` says so for the fault.
    fn used(&mut self, fails: impl FnOnce(Fault) -> bool) -> io::Result<()> {
        if self.healthy_for > 0 {
            self.healthy_for -= 1;
            return Ok(());
        }
        if !fails(self.fault) {
            return Ok(());
        }
        self.faulty = true;
        Err(match self.fault {
            Fault::Full => ErrorKind::StorageFull.into(),
            Fault::PowerLoss | Fault::Sync | Fault::Write => io::Error::other("the disk fails"),
        })
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }
}

fn position(number: u64) -> usize {
    usize::try_from(number).expect("it is small")
}

impl StorageBackend for Platter {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock();
        if state.faulty && state.fault == Fault::PowerLoss {
            return Err(io::Error::other("the disk fails"));
        }
        let at = position(offset);
        let found = state.current.get(at..at + out.len());
        out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock();
        let grows = position(len) > state.current.len();
        state.used(|fault| match fault {
            Fault::PowerLoss => true,
            Fault::Full => grows,
            Fault::Sync | Fault::Write => false,
        })?;
        state.change(Change::Length(position(len)));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        state.used(|fault| matches!(fault, Fault::PowerLoss | Fault::Sync))?;
        state.synced = state.current.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock();
        state.used(|fault| matches!(fault, Fault::PowerLoss | Fault::Write))?;
        state.change(Change::Write(position(offset), data.to_vec()));
        Ok(())
    }
}
