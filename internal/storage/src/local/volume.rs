//! A volume: one directory, opened by one process, that keeps rows until they are safe in staging.
//!
//! [`Volume`] is a handle; clones share the volume. Two threads do the work (see the module above). The handle itself never
//! waits for the disk, except in [`Volume::open`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use stream_model::hours::LaterHours;
use stream_model::level::{Compression, Durability};
use stream_model::statistics::Figures;
use stream_model::trigger::{Reason, UploadTrigger};
use stream_model::{Clock, ErrorKind, SessionId, SinkKey, SliceId, Timestamp, VolumeId};
use tokio::sync::{Notify, oneshot, watch};

use super::ballast::{self, Ballast};
use super::commit::Committer;
use super::disk::{self, Disk, DiskLock};
use super::flush::{FlushSignal, Flusher};
use super::identity;
use super::index::{self, Index};
use super::journal::Journal;
use super::keys::{self, Keys};
use super::metrics::{Metrics, VolumeMetrics};
use super::queue::{Op, Queue};
use super::recovery::{self, Damage, Recovered, Recovery};
use super::segment::{Pool, Segment};
use super::space::{Limits, Space};
use super::suspension::Suspension;
use super::worker::{CommitWorker, FlushWorker};
use crate::crash::{self, Point};
use crate::wire::{Answer, Batch, ConnectError, Connection, KeyGate, Opened, Pending};

/// How to open a volume.
#[derive(Clone)]
pub struct Options {
    /// The directory. Created when missing.
    pub dir: PathBuf,
    /// Length of a journal segment. Longer: fewer switches (each costs two syncs), more disk used when idle. 32 MiB.
    pub segment_bytes: u64,
    /// Batches are refused while journal segments in use exceed this. Bounds recovery time. 1 GiB.
    pub max_journal_bytes: u64,
    /// A checkpoint is made when journal segments in use exceed this. 256 MiB.
    pub checkpoint_bytes: u64,
    /// Bytes of batches that may wait for a commit group; more are refused. 64 MiB.
    pub queue_bytes: usize,
    /// Batches are refused while the file system has less free space, so that sealing, uploading and the state store have
    /// room. 256 MiB.
    pub reserve_bytes: u64,
    /// Batches are refused while journal segments in use and slices together occupy as much. None: no limit but the disk's.
    pub max_bytes: Option<u64>,
    /// Batches with rows of a sink are refused while its slices occupy as much. None: no limit but the volume's.
    pub max_sink_bytes: Option<u64>,
    /// Idempotency keys that are remembered at most, and at least as long as none is older than `key_window`. 10 million. More:
    /// a longer window under load, 24 B of disk and 1.6 B of memory each.
    pub max_keys: u64,
    /// For how long idempotency keys are remembered. 24 h.
    pub key_window: Duration,
    /// Says whether the volume may decide about idempotency keys. None: always.
    pub key_gate: Option<Arc<dyn KeyGate>>,
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where figures go.
    pub metrics: Metrics,
}

impl Options {
    /// The defaults, for the volume in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf, clock: Arc<dyn Clock>) -> Self {
        Self {
            dir,
            segment_bytes: 32 << 20,
            max_journal_bytes: 1 << 30,
            checkpoint_bytes: 256 << 20,
            queue_bytes: 64 << 20,
            reserve_bytes: 256 << 20,
            max_bytes: None,
            max_sink_bytes: None,
            max_keys: 10_000_000,
            key_window: Duration::from_secs(24 * 60 * 60),
            key_gate: None,
            disk: disk::of_the_machine(),
            clock,
            metrics: Metrics::unregistered(),
        }
    }
}

/// A volume that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "volume {} is in use by another process; stop that process, or give this one a volume of its own",
        path.display()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory cannot be used.
    #[error(
        "volume {} cannot be used: {source}; check that the directory exists on a mounted disk and that this user may write to it",
        path.display()
    )]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The identity is unreadable. It is not made anew, because the rows on the volume are known by it.
    #[error(
        "{} does not hold a volume id (32 hexadecimal digits); restore it from the service's log, where it is written at every start",
        path.display()
    )]
    Identity {
        /// The file.
        path: PathBuf,
    },
}

impl OpenError {
    /// What a caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } => ErrorKind::Conflict,
            Self::Directory { .. } => ErrorKind::Unavailable,
            Self::Identity { .. } => ErrorKind::Corrupt,
        }
    }
}

/// What a volume must know of a slice that it is to take rows for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceSpec {
    /// The slice.
    pub id: SliceId,
    /// How its frames are compressed.
    pub compression: Compression,
    /// What an acknowledgement promises.
    pub durability: Durability,
    /// When it should be rotated.
    pub trigger: UploadTrigger,
}

/// What is in a sealed slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Rows, bytes and times. `bytes` is the exact length of the slice file.
    pub figures: Figures,
    /// Rows that arrived in later hours than the first record, by hour.
    pub later_hours: LaterHours,
    /// SHA-256 of the slice file, 64 hexadecimal digits.
    pub checksum: String,
    /// The highest committed sequence number of each session.
    pub sessions: BTreeMap<SessionId, u64>,
}

/// A slice that reached a limit of its trigger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrossedSlice {
    /// The slice.
    pub slice: SliceId,
    /// The limit.
    pub reason: Reason,
    /// What was in it at that moment.
    pub figures: Figures,
    /// Rows of that that arrived in later hours than the first, by hour.
    pub later_hours: LaterHours,
    /// When it was noticed.
    pub at: Timestamp,
}

/// A slice on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceStatus {
    /// The slice.
    pub id: SliceId,
    /// Where it is in its life.
    pub stage: Stage,
    /// What is in it.
    pub figures: Figures,
}

/// Where a slice is in its life on the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Takes rows, once it was opened in this run.
    Open,
    /// Takes no more rows; the file is being completed.
    Sealing,
    /// The file is complete.
    Sealed,
}

/// How a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether it takes batches.
    pub health: Health,
    /// Free bytes of the file system.
    pub free_bytes: u64,
    /// Bytes of journal segments in use.
    pub journal_bytes: u64,
    /// Bytes of slices that are not released, in their files or on the way there.
    pub slice_bytes: u64,
    /// Bytes of batches that wait.
    pub queue_bytes: usize,
}

/// Whether a volume takes batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Healthy,
    /// It refuses them until there is room again, on the disk, in the journal or below its limit.
    Full,
    /// Its disk failed to write, with the reason. It refuses batches and tries the disk again by itself.
    Suspended(String),
    /// It stopped for good, with the reason. Opening it again recovers it.
    Failed(String),
}

/// An open volume.
#[derive(Clone)]
pub struct Volume(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    threads: Mutex<Option<Threads>>,
    next_connection: AtomicU64,
}

struct Threads {
    commit: JoinHandle<()>,
    flush: JoinHandle<()>,
}

/// Why a volume has no room for batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shortage {
    /// The disk is full, or the share of the journal.
    Disk,
    /// The volume holds as much as it may.
    Volume,
}

type Waiters = HashMap<SliceId, Vec<oneshot::Sender<Content>>>;

/// Stops the volume when a thread of it panics: what waits for the thread must not wait for ever.
pub(super) struct FailOnPanic(pub Arc<Shared>);

impl Drop for FailOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("a thread of the volume panicked".to_owned());
        }
    }
}

/// What the handle and both threads share.
pub(super) struct Shared {
    pub id: VolumeId,
    pub label: String,
    pub dir: PathBuf,
    pub max_journal_bytes: u64,
    pub checkpoint_bytes: u64,
    pub reserve_bytes: u64,
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub metrics: VolumeMetrics,
    pub queue: Queue,
    pub flush: FlushSignal,
    pub pool: Arc<Pool>,
    pub keys: Keys,
    pub key_gate: Option<Arc<dyn KeyGate>>,
    /// Lock order: `index` before `waiters` and before the locks inside `flush`, `queue` and `keys`.
    pub index: Mutex<Index>,
    /// Who waits for the content of a sealed slice; none once nobody will answer any more.
    waiters: Mutex<Option<Waiters>>,
    pub free_bytes: AtomicU64,
    pub suspension: Suspension,
    /// What the volume is like, as was last made known.
    health: watch::Sender<Health>,
    crossed: Mutex<VecDeque<CrossedSlice>>,
    crossed_filled: Notify,
    failed: OnceLock<String>,
    abandoned: AtomicBool,
    /// Held until both threads have ended.
    lock: Mutex<Option<DiskLock>>,
}

impl Shared {
    pub fn slices_dir(&self) -> PathBuf {
        self.dir.join("slices")
    }

    pub fn checkpoint_dir(&self) -> PathBuf {
        self.dir.join("checkpoint")
    }

    pub fn slice_path(&self, slice: SliceId) -> PathBuf {
        recovery::slice_path(&self.slices_dir(), slice)
    }

    /// Why the volume stopped, if it failed or was abandoned.
    pub fn failed(&self) -> Option<&str> {
        if self.abandoned.load(Ordering::Acquire) {
            return Some("the volume was abandoned");
        }
        self.failed.get().map(String::as_str)
    }

    /// What there is not enough of to take batches.
    pub fn shortage(&self, index: &Index) -> Option<Shortage> {
        let no_room = self.free_bytes.load(Ordering::Relaxed) < self.reserve_bytes;
        if no_room || index.usage.exceeds(self.max_journal_bytes) {
            return Some(Shortage::Disk);
        }
        let is_full = index.space.is_full(index.usage.bytes());
        is_full.then_some(Shortage::Volume)
    }

    /// Whether a checkpoint would make room that is wanted. A single segment is never given back.
    pub fn wants_room(&self, index: &Index) -> bool {
        let bytes = index.usage.bytes();
        let is_long = bytes > index.usage.newest_bytes();
        bytes > self.checkpoint_bytes || (is_long && self.shortage(index).is_some())
    }

    /// How the volume is. The index is locked for it.
    pub fn health(&self) -> Health {
        if let Some(reason) = self.failed() {
            return Health::Failed(reason.to_owned());
        }
        if let Some(reason) = self.suspension.reason() {
            return Health::Suspended(reason);
        }
        match self.shortage(&self.index.lock()) {
            Some(_) => Health::Full,
            None => Health::Healthy,
        }
    }

    /// Makes known how the volume is. Returns what it was like before, if that has changed.
    pub fn show_health(&self) -> Option<Health> {
        let health = self.health();
        self.metrics.healthy(health == Health::Healthy);
        let mut before = None;
        self.health.send_if_modified(|known| {
            let changed = *known != health;
            if changed {
                before = Some(std::mem::replace(known, health));
            }
            changed
        });
        before
    }

    /// Takes no batches until the disk works again.
    pub fn suspend(&self, error: &io::Error) {
        let reason = format!("the disk failed to write: {error}");
        if self.suspension.begin(reason) {
            tracing::error!(
                volume = %self.label, error = %error,
                "the disk failed to write; the journal goes on in a new segment once it works again"
            );
        } else {
            tracing::debug!(volume = %self.label, error = %error, "the disk still fails to write");
        }
        self.show_health();
    }

    /// Takes batches again.
    pub fn resume(&self) {
        self.suspension.end();
        tracing::info!(volume = %self.label, "the disk writes again");
        self.show_health();
    }

    /// Stops the volume for good: nothing that waits is answered, so its outcome is unknown to whoever sent it.
    pub fn fail(&self, reason: String) {
        tracing::error!(volume = %self.label, reason = %reason, "the volume failed and takes nothing more");
        // The first reason counts.
        let _ = self.failed.set(reason);
        self.drop_everything();
        self.show_health();
    }

    fn drop_everything(&self) {
        self.queue.fail();
        self.close_waiters();
        self.flush.stop();
    }

    pub fn segment_started(&self, segment: Arc<Segment>) {
        self.index.lock().usage.add(segment);
        self.flush.segment_started();
    }

    /// Notes who waits. When nobody will answer any more the sender is dropped, which tells that.
    pub fn wait_for_content(&self, slice: SliceId, waiter: oneshot::Sender<Content>) {
        if let Some(waiters) = &mut *self.waiters.lock() {
            let waiting = waiters.entry(slice).or_default();
            waiting.retain(|waiter| !waiter.is_closed());
            waiting.push(waiter);
        }
    }

    /// Takes those who wait for the content of a slice.
    pub fn take_waiters(&self, slice: SliceId) -> Vec<oneshot::Sender<Content>> {
        let mut waiters = self.waiters.lock();
        waiters
            .as_mut()
            .and_then(|waiters| waiters.remove(&slice))
            .unwrap_or_default()
    }

    /// Tells all who wait, and all who come, that there will be no answer.
    pub fn close_waiters(&self) {
        let dropped = self.waiters.lock().take();
        drop(dropped);
    }

    /// Looks at a slice that has just grown.
    pub fn committed(&self, index: &mut Index, id: SliceId, now: Timestamp) {
        let Some(slice) = index.slices.get_mut(&id) else {
            return;
        };
        if slice.pending_raw >= super::slice_file::RUN_BYTES {
            self.flush.run(id);
        }
        self.report(slice.newly_crossed(id, now));
    }

    pub fn report(&self, crossed: impl IntoIterator<Item = CrossedSlice>) {
        let mut reports = self.crossed.lock();
        let before = reports.len();
        reports.extend(crossed);
        let grown = reports.len() > before;
        drop(reports);
        if grown {
            self.crossed_filled.notify_one();
        }
    }
}

impl Volume {
    /// Opens the volume in a directory, whatever state an earlier run left it in. Blocks on the disk.
    ///
    /// # Errors
    /// When another process has it, or the directory cannot be used. Damage to what is in it is never an error: see
    /// [`Recovery::damage`].
    pub fn open(options: Options) -> Result<(Self, Recovery), OpenError> {
        let dir = options.dir.clone();
        let (volume, commit, flush, recovery) = Self::open_stepped(options)?;
        volume
            .spawn(commit, flush)
            .map_err(|source| OpenError::Directory { path: dir, source })?;
        Ok((volume, recovery))
    }

    /// Opens the volume without threads: the caller steps the workers, in whatever order, and drops them before the volume
    /// is opened again. Only so can a test repeat exactly what happened.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_stepped(
        options: Options,
    ) -> Result<(Self, CommitWorker, FlushWorker, Recovery), OpenError> {
        let dir = options.dir.clone();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Directory { path, source }
        };
        options.disk.create_dir_all(&dir).map_err(failed(&dir))?;
        let lock = lock(&*options.disk, &dir)?;
        crash::point(Point::VolumeLocked);
        let Identified {
            id,
            created,
            damage,
        } = identify(&options)?;
        crash::point(Point::VolumeIdentified);
        for name in ["journal", "checkpoint", "slices", keys::DIR] {
            let path = dir.join(name);
            options.disk.create_dir_all(&path).map_err(failed(&path))?;
        }
        // What an earlier process created may be named in the cache of the system only.
        options.disk.sync_dir(&dir).map_err(failed(&dir))?;
        let mut recovered = recover(&options, id).map_err(failed(&dir.join("journal")))?;
        recovered.report.created = created;
        recovered.report.damage.extend(damage);
        Self::start(options, id, lock, recovered).map_err(failed(&dir))
    }

    fn start(
        options: Options,
        id: VolumeId,
        lock: DiskLock,
        recovered: Recovered,
    ) -> io::Result<(Self, CommitWorker, FlushWorker, Recovery)> {
        let Recovered {
            mut index,
            newest,
            resume,
            pool,
            keys: found,
            report,
        } = recovered;
        let label = label(&options.dir);
        let keys = keys_of(&options, id, &label, found)?;
        let journal = Journal::start(id, Arc::clone(&pool), resume)?;
        crash::point(Point::JournalResumed);
        index.usage.add(Arc::clone(journal.segment()));
        index.space = Space::new(Limits {
            volume: options.max_bytes,
            sink: options.max_sink_bytes,
        });
        index.space.recount(index.slices.values());
        let metrics = VolumeMetrics::new(label.clone(), options.max_bytes, options.metrics);
        metrics.damaged(report.damage.len());
        let shared = Arc::new(Shared {
            id,
            label,
            max_journal_bytes: options.max_journal_bytes,
            // A journal must not keep all that the volume may occupy.
            checkpoint_bytes: options
                .max_bytes
                .map_or(u64::MAX, |most| most / 4)
                .min(options.checkpoint_bytes),
            reserve_bytes: options.reserve_bytes,
            metrics,
            queue: Queue::new(options.queue_bytes),
            flush: FlushSignal::default(),
            pool,
            keys,
            key_gate: options.key_gate,
            index: Mutex::new(index),
            waiters: Mutex::new(Some(Waiters::new())),
            free_bytes: AtomicU64::new(options.disk.free_bytes(&options.dir)?),
            suspension: Suspension::default(),
            health: watch::Sender::new(Health::Healthy),
            crossed: Mutex::default(),
            crossed_filled: Notify::new(),
            failed: OnceLock::new(),
            abandoned: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
            dir: options.dir,
            disk: options.disk,
            clock: options.clock,
        });
        wake_recovered(&shared);
        let commit = CommitWorker(Committer::new(Arc::clone(&shared), journal));
        let flush = FlushWorker(Flusher::new(Arc::clone(&shared), newest));
        let inner = Inner {
            shared,
            threads: Mutex::new(None),
            next_connection: AtomicU64::new(1),
        };
        Ok((Self(Arc::new(inner)), commit, flush, report))
    }

    /// Gives each worker a thread.
    fn spawn(&self, commit: CommitWorker, flush: FlushWorker) -> io::Result<()> {
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(work)
        };
        let commit = spawn("volume-commit", Box::new(|| commit.0.run()))?;
        let flush = spawn("volume-flush", Box::new(|| flush.0.run())).inspect_err(|_| {
            // The commit thread must not outlive a volume that was never there.
            self.0.shared.drop_everything();
        })?;
        *self.0.threads.lock() = Some(Threads { commit, flush });
        Ok(())
    }

    /// The identity of the volume.
    #[must_use]
    pub fn id(&self) -> VolumeId {
        self.0.shared.id
    }

    /// Whether this is a handle of the same opening as `other`.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.shared.dir
    }

    /// Connects a session. Every connection counts as newer than those before it.
    ///
    /// # Errors
    /// When the volume has stopped.
    pub fn connect(&self, session: SessionId) -> Result<VolumeConnection, ConnectError> {
        if let Some(reason) = self.0.shared.failed() {
            return Err(ConnectError::Closed {
                volume: self.id(),
                reason: reason.to_owned(),
            });
        }
        let connection = self.0.next_connection.fetch_add(1, Ordering::Relaxed);
        self.0.shared.queue.connected(session);
        Ok(VolumeConnection {
            shared: Arc::clone(&self.0.shared),
            session,
            connection,
        })
    }

    /// Takes rows for a slice from now on. A slice that recovery found takes none before it is opened again. Asking twice
    /// is fine.
    pub fn open_slice(&self, spec: SliceSpec) {
        let mut index = self.0.shared.index.lock();
        let compression = spec.compression;
        let slice = index
            .slices
            .entry(spec.id)
            .or_insert_with(|| index::Slice::new(compression));
        if slice.figures.rows == 0 {
            slice.compression = compression;
        }
        slice.spec = Some(spec);
    }

    /// Says whose rows a slice on the volume holds: it counts for that sink's share of the disk from now on. Asking twice is
    /// fine.
    pub fn attribute(&self, slice: SliceId, sink: &SinkKey) {
        let mut index = self.0.shared.index.lock();
        let Index { slices, space, .. } = &mut *index;
        let unknown = slices.get_mut(&slice).filter(|slice| slice.space.is_none());
        if let Some(slice) = unknown {
            let sink = space.of_sink(sink);
            sink.add(slice.occupied());
            slice.space = Some(sink);
        }
    }

    /// Seals a slice: no later append can succeed, and all before it are on the disk. The answer comes when the slice file is
    /// complete. Asking again gives the same answer, also after the volume was opened anew; a slice that never had rows
    /// has an empty content. The answer [`crate::wire::Unknown`] means: ask again.
    pub fn seal(&self, slice: SliceId, successor: Option<SliceId>) -> Pending<Content> {
        let (reply, pending) = Pending::channel();
        self.0.shared.queue.push(Op::Seal {
            slice,
            successor,
            reply,
        });
        pending
    }

    /// Gives up a slice whose rows are safe elsewhere: its file is removed and its part of the journal freed.
    pub fn release(&self, slice: SliceId) {
        self.0.shared.queue.push(Op::Release { slice });
    }

    /// All slices on the volume.
    #[must_use]
    pub fn slices(&self) -> Vec<SliceStatus> {
        let index = self.0.shared.index.lock();
        index
            .slices
            .iter()
            .map(|(id, slice)| status_of(*id, slice))
            .collect()
    }

    /// One slice, if it is on the volume.
    #[must_use]
    pub fn slice(&self, id: SliceId) -> Option<SliceStatus> {
        self.0
            .shared
            .index
            .lock()
            .slices
            .get(&id)
            .map(|slice| status_of(id, slice))
    }

    /// Whether the volume has committed more of some session to a slice than these highest numbers.
    #[must_use]
    pub fn holds_beyond(&self, slice: SliceId, last: &BTreeMap<SessionId, u64>) -> bool {
        let index = self.0.shared.index.lock();
        let sessions = index.slices.get(&slice).map(|slice| &slice.sessions);
        sessions.into_iter().flatten().any(|(session, own)| {
            let last = last.get(session).copied();
            *own > last.unwrap_or(0)
        })
    }

    /// What is on the volume in sum.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let mut sum = Figures::default();
        for slice in self.0.shared.index.lock().slices.values() {
            sum.add(&slice.figures);
        }
        sum
    }

    /// The file of a slice. It is complete once the slice is sealed, and absent for a slice without rows.
    #[must_use]
    pub fn slice_path(&self, slice: SliceId) -> PathBuf {
        self.0.shared.slice_path(slice)
    }

    /// Waits for a slice to reach a limit of its trigger. Each slice is reported once in a run.
    ///
    /// # Cancel safety
    /// A report is not lost when the future is dropped before it is ready.
    pub async fn next_crossed(&self) -> CrossedSlice {
        loop {
            if let Some(crossed) = self.0.shared.crossed.lock().pop_front() {
                return crossed;
            }
            self.0.shared.crossed_filled.notified().await;
        }
    }

    /// How the volume is.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = &self.0.shared;
        let health = shared.health();
        let index = shared.index.lock();
        Status {
            health,
            free_bytes: shared.free_bytes.load(Ordering::Relaxed),
            journal_bytes: index.usage.bytes(),
            slice_bytes: index.space.bytes(),
            queue_bytes: shared.queue.bytes(),
        }
    }

    /// Follows how the volume is. What has failed or works again is known at once, a full disk within a second.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.0.shared.health.subscribe()
    }

    /// Stops the volume in order: takes nothing more, answers what is queued, ends its threads, gives up the directory.
    /// Slices stay as they are.
    pub async fn stop(&self) {
        self.0.shared.queue.stop();
        self.join().await;
    }

    /// Stops the volume as if the process had been killed: nothing that is queued is done or answered. For a writer that has
    /// learned that another one took its place.
    pub async fn abandon(&self) {
        self.0.shared.abandoned.store(true, Ordering::Release);
        self.0.shared.drop_everything();
        self.join().await;
    }

    async fn join(&self) {
        let Some(threads) = self.0.threads.lock().take() else {
            return;
        };
        let shared = Arc::clone(&self.0.shared);
        let joined = tokio::task::spawn_blocking(move || {
            let commit = threads.commit.join();
            // The flush thread ends after the commit thread, so that a seal that was queued still gets its content.
            shared.flush.stop();
            let result = commit.and(threads.flush.join());
            // Handles and connections may live on; another process may have the directory now.
            shared.lock.lock().take();
            result
        });
        if !matches!(joined.await, Ok(Ok(()))) {
            tracing::error!(volume = %self.0.shared.label, "a thread of the volume panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Threads of a volume that nobody stopped must not outlive its last handle.
        if self.threads.lock().is_some() {
            self.shared.abandoned.store(true, Ordering::Release);
            self.shared.drop_everything();
        }
    }
}

/// The keys that were found. The list of them is written before the journal begins, so that a volume that has a journal and none
/// has lost it.
fn keys_of(options: &Options, id: VolumeId, label: &str, found: keys::Opened) -> io::Result<Keys> {
    let limits = keys::Limits {
        max_keys: options.max_keys,
        window: options.key_window,
    };
    let (is_unwritten, is_new) = (found.is_unwritten, found.is_new());
    let dir = keys::dir_of(&options.dir);
    let keys = Keys::new(id, label.to_owned(), dir, limits, found);
    if is_unwritten && let Err(error) = keys.write_down(&*options.disk) {
        if is_new {
            return Err(error);
        }
        // It is written with the next run; until then an opening knows less of what was before.
        tracing::debug!(volume = %label, error = %error, "cannot write the list of keys");
    }
    Ok(keys)
}

fn status_of(id: SliceId, slice: &index::Slice) -> SliceStatus {
    let stage = match slice.stage {
        index::Stage::Open => Stage::Open,
        index::Stage::Sealing { .. } => Stage::Sealing,
        index::Stage::Sealed { .. } => Stage::Sealed,
    };
    SliceStatus {
        id,
        stage,
        figures: slice.figures,
    }
}

/// Lets the flush thread go on with what recovery found.
fn wake_recovered(shared: &Shared) {
    let index = shared.index.lock();
    for (id, slice) in &index.slices {
        if matches!(slice.stage, index::Stage::Sealing { .. }) {
            shared.flush.seal(*id);
        } else if slice.pending_raw >= super::slice_file::RUN_BYTES {
            shared.flush.run(*id);
        }
    }
    drop(index);
    shared.flush.segment_started();
}

/// Reads the volume. On a disk that is full it gives up the room that was kept for running, and tries once more.
fn recover(options: &Options, id: VolumeId) -> io::Result<Recovered> {
    match recovery::recover(options, id) {
        Err(error) if ballast::is_full(&error) => {
            let journal = options.dir.join("journal");
            if !Ballast::find(Arc::clone(&options.disk), journal)?.release()? {
                return Err(error);
            }
            recovery::recover(options, id)
        }
        recovered => recovered,
    }
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<DiskLock, OpenError> {
    let path = dir.join("lock");
    match disk.lock(&path) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(OpenError::Locked {
            path: dir.to_owned(),
        }),
        Err(source) => Err(OpenError::Directory { path, source }),
    }
}

/// Reads the identity of the volume, or makes one for a new volume.
fn identify(options: &Options) -> Result<Identified, OpenError> {
    let path = options.dir.join(identity::FILE);
    let failed = |source| OpenError::Directory {
        path: path.clone(),
        source,
    };
    let write = |id: VolumeId| {
        let text = format!("{id}\n");
        options.disk.replace(&path, text.as_bytes()).map_err(failed)
    };
    let found = identity::find(&*options.disk, &options.dir).map_err(failed)?;
    let (id, created, damage) = match found {
        identity::Found::Known(id, damage) => {
            if damage.is_some() {
                write(id)?;
            }
            (id, false, damage)
        }
        identity::Found::New => {
            let id = VolumeId::new(options.clock.now(), rand::random());
            write(id)?;
            (id, true, None)
        }
        // Kept for whoever wants to go back to that service.
        identity::Found::Foreign(former) => {
            let kept = options.dir.join(identity::FORMER);
            options.disk.replace(&kept, &former).map_err(failed)?;
            let id = VolumeId::new(options.clock.now(), rand::random());
            write(id)?;
            (id, true, None)
        }
        // Rows are known by the identity of their volume: a volume that has some must not get a new one.
        identity::Found::Unreadable => return Err(OpenError::Identity { path }),
    };
    Ok(Identified {
        id,
        created,
        damage,
    })
}

/// Which volume it is.
struct Identified {
    id: VolumeId,
    created: bool,
    /// What was wrong with the file that holds the identity, and is not any more.
    damage: Option<Damage>,
}

/// The last two segments of the path, `type/label`: what people call the volume.
fn label(dir: &Path) -> String {
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let own = name(dir).unwrap_or_default();
    match dir.parent().and_then(name) {
        Some(kind) => format!("{kind}/{own}"),
        None => own,
    }
}

/// A connection of one session.
pub struct VolumeConnection {
    shared: Arc<Shared>,
    session: SessionId,
    connection: u64,
}

impl Drop for VolumeConnection {
    fn drop(&mut self) {
        self.shared.queue.disconnected(self.session);
    }
}

impl Connection for VolumeConnection {
    fn append(&self, batch: Batch) -> Pending<Answer> {
        let (reply, pending) = Pending::channel();
        self.shared
            .queue
            .append(self.session, self.connection, batch, reply);
        pending
    }

    fn open(&self, slices: Vec<SliceId>) -> Pending<BTreeMap<SliceId, Opened>> {
        let (reply, pending) = Pending::channel();
        self.shared
            .queue
            .open(self.session, self.connection, slices, reply);
        pending
    }

    fn key_window_seconds(&self) -> Option<u32> {
        let window = self.shared.keys.window(self.shared.clock.now());
        Some(u32::try_from(window.as_secs()).unwrap_or(u32::MAX))
    }
}
