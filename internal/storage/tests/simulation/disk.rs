//! A disk for volumes, in memory: it fails, fills up and loses its power where the seed says.
//!
//! A [`Machine`] outlives processes; a [`Process`] is the [`Disk`] of one of them. Every operation counts, and the machine
//! ends the process at the one it was told: killed, then the system lives on with everything that was written, or without
//! power. After that every operation of the process fails and does nothing.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_storage::local::disk::{Disk, DiskFile, DiskLock};
use stream_storage::local::durable;

use super::image::{Image, Survival};
use super::turns::{self, Pass};

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The system goes on, with what it has in its cache.
    Killed,
    PowerLost,
}

/// What a disk says that it did and did not. A simulation that does not notice would be worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lie {
    #[default]
    Nothing,
    /// Syncs of files in that directory.
    Content(&'static str),
    /// Syncs of that directory.
    Names(&'static str),
}

impl Lie {
    fn concerns(self, what: &str, path: &Path) -> bool {
        match self {
            Self::Nothing => false,
            Self::Content(dir) => what == "sync" && path.parent().is_some_and(|p| p.ends_with(dir)),
            Self::Names(dir) => what == "sync dir" && path.ends_with(dir),
        }
    }
}

#[derive(Debug)]
struct State {
    image: Image,
    rng: StdRng,
    /// The process that lives.
    process: u64,
    /// Operations until the process ends.
    ends_after: Option<(u64, End)>,
    /// How often an operation fails.
    faults: f64,
    /// Operations that failed, on purpose or because the disk was full.
    failed: u64,
    capacity: u64,
    operations: u64,
    trace: DefaultHasher,
    lie: Lie,
    /// Operations that are to fail, once each: what, and how the path ends.
    to_fail: Vec<(&'static str, &'static str)>,
    /// Operations are printed.
    shown: bool,
}

/// The machine.
#[derive(Debug)]
pub struct Machine(Mutex<State>);

/// What is to happen to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Succeed,
    Fail,
    /// It happens, or not, and nobody will know.
    End(End),
}

fn injected() -> io::Error {
    io::Error::other("injected")
}

fn dead() -> io::Error {
    io::Error::other("the process has ended")
}

impl Machine {
    pub fn new(seed: u64, capacity: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            image: Image::default(),
            rng: StdRng::seed_from_u64(seed),
            process: 0,
            ends_after: None,
            faults: 0.0,
            failed: 0,
            capacity,
            operations: 0,
            trace: DefaultHasher::new(),
            lie: Lie::Nothing,
            to_fail: Vec::new(),
            shown: std::env::var_os("STREAM_TEST_TRACE").is_some(),
        })))
    }

    /// Starts a process. An earlier one, if it still lives, is killed.
    pub fn start(self: &Arc<Self>, ends_after: Option<(u64, End)>, faults: f64) -> Process {
        let mut state = self.0.lock();
        state.process += 1;
        state.ends_after = ends_after;
        state.faults = faults;
        Process {
            machine: Arc::clone(self),
            id: state.process,
        }
    }

    /// Ends the process now.
    pub fn end(&self, end: End) {
        self.0.lock().end(end);
    }

    /// Operations so far, and a checksum of what they were.
    pub fn trace(&self) -> (u64, u64) {
        let state = self.0.lock();
        (state.operations, state.trace.finish())
    }

    /// Operations that failed so far.
    pub fn failed(&self) -> u64 {
        self.0.lock().failed
    }

    pub fn set_lie(&self, lie: Lie) {
        self.0.lock().lie = lie;
    }

    /// Lets the next operation of that name on a path that ends so fail.
    pub fn fail_next(&self, what: &'static str, path: &'static str) {
        self.0.lock().to_fail.push((what, path));
    }

    /// Whether all operations that were to fail have done so.
    pub fn has_failed_all(&self) -> bool {
        self.0.lock().to_fail.is_empty()
    }

    pub fn set_capacity(&self, capacity: u64) {
        self.0.lock().capacity = capacity;
    }

    /// A file as programs see it.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.0.lock();
        let inode = state.image.find(path).ok()?;
        Some(state.image.content(inode).to_vec())
    }

    pub fn sync_names(&self, dir: &Path) {
        self.0.lock().image.sync_dir(dir);
    }

    pub fn remove(&self, path: &Path) {
        let mut state = self.0.lock();
        state.image.remove(path);
        state.image.sync_dir(path.parent().expect("it is in one"));
    }

    pub fn set_content(&self, path: &Path, content: &[u8]) {
        let mut state = self.0.lock();
        let inode = state.image.create(path).expect("there is a directory");
        state.image.set_len(inode, 0);
        state.image.write(inode, content, 0);
        state.image.sync(inode);
        let dir = path.parent().expect("it is in one");
        state.image.sync_dir(dir);
    }

    /// The files in a directory, with their lengths.
    pub fn files(&self, dir: &Path) -> Vec<(PathBuf, u64)> {
        let state = self.0.lock();
        let files = state.image.list(dir).unwrap_or_default();
        let len = |path: &PathBuf| {
            let inode = state.image.find(path).expect("it was listed");
            state.image.content(inode).len() as u64
        };
        files.iter().map(|path| (path.clone(), len(path))).collect()
    }
}

impl State {
    fn end(&mut self, end: End) {
        if self.shown {
            eprintln!("the process ends: {end:?}");
        }
        self.process += 1;
        self.ends_after = None;
        if end == End::PowerLost {
            let survival = Survival::any(&mut self.rng);
            self.image.lose_power(survival, &mut self.rng);
        }
    }

    fn fate(&mut self, process: u64, what: &'static str, path: &Path) -> io::Result<Fate> {
        if process != self.process {
            return Err(dead());
        }
        self.operations += 1;
        (process, what, path).hash(&mut self.trace);
        if let Some((left, end)) = &mut self.ends_after {
            if *left == 0 {
                return Ok(Fate::End(*end));
            }
            *left -= 1;
        }
        let name = path.to_string_lossy();
        let wanted = |(op, end): &(&str, &str)| *op == what && name.ends_with(end);
        if let Some(position) = self.to_fail.iter().position(wanted) {
            self.to_fail.remove(position);
            return Ok(Fate::Fail);
        }
        if self.faults > 0.0 && self.rng.random_bool(self.faults) {
            self.failed += 1;
            return Ok(Fate::Fail);
        }
        Ok(Fate::Succeed)
    }

    fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.image.used())
    }

    fn write(&mut self, inode: usize, bytes: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        let more = end.saturating_sub(self.image.content(inode).len() as u64);
        let room = self.room();
        if more <= room {
            self.image.write(inode, bytes, offset);
            return Ok(());
        }
        let fits = bytes
            .len()
            .saturating_sub(usize::try_from(more - room).expect("files are small"));
        self.image.write(inode, &bytes[..fits], offset);
        self.failed += 1;
        Err(io::ErrorKind::StorageFull.into())
    }
}

/// The disk of one process.
#[derive(Debug, Clone)]
pub struct Process {
    machine: Arc<Machine>,
    id: u64,
}

#[derive(Debug)]
struct SimulatedFile {
    process: Process,
    path: PathBuf,
    inode: usize,
}

impl Process {
    pub fn has_ended(&self) -> bool {
        self.machine.0.lock().process != self.id
    }

    /// One operation: `act` does it. What `half` leaves is what a failure or the end of the process may leave.
    fn operate<T: Default>(
        &self,
        what: &'static str,
        path: &Path,
        act: impl FnOnce(&mut State) -> io::Result<T>,
        half: impl FnOnce(&mut State),
    ) -> io::Result<T> {
        let ends_here =
            || matches!(self.machine.0.lock().ends_after, Some((0, _))) && !self.has_ended();
        turns::pass(Pass::Sometimes);
        if ends_here() {
            // Whatever was answered until now may have arrived.
            turns::pass(Pass::Always);
        }
        let mut state = self.machine.0.lock();
        let fate = state.fate(self.id, what, path)?;
        if state.shown {
            let worker = std::thread::current().id();
            eprintln!("{:?} {what} {} {fate:?}", worker, path.display());
        }
        match fate {
            Fate::Succeed if state.lie.concerns(what, path) => Ok(T::default()),
            Fate::Succeed => act(&mut state),
            Fate::Fail => {
                half(&mut state);
                Err(injected())
            }
            Fate::End(end) => {
                match state.rng.random_range(0..3) {
                    0 => {}
                    1 => half(&mut state),
                    _ => drop(act(&mut state)),
                }
                state.end(end);
                Err(dead())
            }
        }
    }

    fn file(&self, path: &Path, inode: usize) -> SimulatedFile {
        SimulatedFile {
            process: self.clone(),
            path: path.to_owned(),
            inode,
        }
    }
}

impl DiskFile for SimulatedFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let read = |state: &mut State| state.image.read(self.inode, buffer, offset);
        self.process.operate("read", &self.path, read, |_| {})
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.process.operate(
            "write",
            &self.path,
            |state| state.write(self.inode, bytes, offset),
            |state| {
                let part = state.rng.random_range(0..=bytes.len());
                drop(state.write(self.inode, &bytes[..part], offset));
            },
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        let sync = |state: &mut State| {
            state.image.sync(self.inode);
            Ok(())
        };
        self.process.operate("sync", &self.path, sync, |state| {
            state.image.fail_sync(self.inode, &mut state.rng);
        })
    }

    fn size(&self) -> io::Result<u64> {
        let size = |state: &mut State| Ok(state.image.content(self.inode).len() as u64);
        self.process.operate("size", &self.path, size, |_| {})
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let cut = |state: &mut State| {
            state.image.set_len(self.inode, len);
            Ok(())
        };
        self.process.operate("cut", &self.path, cut, |_| {})
    }
}

impl Disk for Process {
    fn lock(&self, _: &Path) -> io::Result<Option<DiskLock>> {
        // There is one process at a time.
        Ok(Some(Box::new(())))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let open = |state: &mut State| state.image.find(path);
        let inode = self.operate("open", path, open, |_| {})?;
        Ok(Box::new(self.file(path, inode)))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let create = |state: &mut State| state.image.create(path);
        let inode = self.operate("create", path, create, |_| {})?;
        Ok(Box::new(self.file(path, inode)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let read = |state: &mut State| {
            let inode = state.image.find(path)?;
            Ok(state.image.content(inode).to_vec())
        };
        self.operate("read", path, read, |_| {})
    }

    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = durable::temporary(path);
        let file = self.create(&temporary)?;
        file.set_len(0)?;
        file.write_all_at(content, 0)?;
        file.sync_data()?;
        self.rename(&temporary, path)?;
        self.sync_dir(path.parent().expect("it is in a directory"))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let rename = |state: &mut State| state.image.rename(from, to);
        self.operate("rename", to, rename, |_| {})
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let remove = |state: &mut State| {
            state.image.remove(path);
            Ok(())
        };
        self.operate("remove", path, remove, |_| {})
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let create = |state: &mut State| {
            state.image.create_dir_all(path);
            Ok(())
        };
        self.operate("mkdir", path, create, |_| {})
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.operate("list", path, |state| state.image.list(path), |_| {})
    }

    /// After a failure the changes stay to be synced: a file system that cannot write its journal stops altogether.
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let sync = |state: &mut State| {
            state.image.sync_dir(path);
            Ok(())
        };
        self.operate("sync dir", path, sync, |state| {
            if state.rng.random_bool(0.5) {
                state.image.sync_dir(path);
            }
        })
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.operate("free", path, |state| Ok(state.room()), |_| {})
    }
}
