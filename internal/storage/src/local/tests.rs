//! Tests of a whole volume, on the real disk and on one that fails on purpose.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_model::definition::TableKind;
use stream_model::hours::Hour;
use stream_model::level::{Compression, Durability};
use stream_model::time::ManualClock;
use stream_model::trigger::{Reason, UploadTrigger};
use stream_model::unit::Interval;
use stream_model::{SessionId, SliceId, Timestamp};

use super::checkpoint::{self, Checkpoint};
use super::disk::{Disk, DiskFile, DiskLock, OsDisk};
use super::{Content, Health, OpenError, Options, Recovery, SliceSpec, Stage, Step, Volume};
use crate::wire::{
    Answer, Batch, Claim, Connection, KeyHash, Opened, Part, RefusalReason, Sealed, Unknown,
};

const ZSTD: Compression = Compression::Zstd { level: 1 };
const SESSION: SessionId = SessionId(1);
/// More than the threads of a volume ever take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A disk that does what it is told to fail at: after doing it, as a real disk may.
#[derive(Debug, Default)]
struct FaultyDisk {
    /// Syncs of journal segments report an error, although the bytes are on the disk.
    fail_sync: Arc<AtomicBool>,
    /// No new segment can be made.
    fail_rename: AtomicBool,
    /// The next sync of the journal's directory reports an error, after the rename before it.
    fail_sync_dir: AtomicBool,
    /// What [`Disk::free_bytes`] says.
    free: AtomicU64,
    /// Runs of keys whose names may still be lost with the power.
    unnamed: Mutex<Vec<PathBuf>>,
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn DiskFile>,
    fail_sync: Option<Arc<AtomicBool>>,
}

impl DiskFile for FaultyFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        match &self.fail_sync {
            Some(fail) if fail.swap(false, Ordering::SeqCst) => Err(io::Error::other("injected")),
            _ => Ok(()),
        }
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

impl FaultyDisk {
    fn wrap(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        let journal = path.parent().is_some_and(|dir| dir.ends_with("journal"));
        Box::new(FaultyFile {
            file,
            fail_sync: journal.then(|| Arc::clone(&self.fail_sync)),
        })
    }
}

impl Disk for FaultyDisk {
    fn lock(&self, path: &Path) -> io::Result<Option<DiskLock>> {
        OsDisk.lock(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(path, OsDisk.open(path)?))
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        // A segment that is being prepared; the one that is written to is opened.
        OsDisk.create(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        OsDisk.read(path)
    }
    fn replace(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        // One that is listed and not there would be taken for lost.
        if path.ends_with("keys/manifest") {
            assert_eq!(*self.unnamed.lock(), Vec::<PathBuf>::new());
        }
        OsDisk.replace(path, content)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        if to.parent().is_some_and(|dir| dir.ends_with("keys")) {
            self.unnamed.lock().push(to.to_owned());
        }
        if self.fail_rename.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected"));
        }
        OsDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        OsDisk.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        OsDisk.list(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        OsDisk.sync_dir(path)?;
        self.unnamed
            .lock()
            .retain(|file| file.parent() != Some(path));
        if path.ends_with("journal") && self.fail_sync_dir.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("injected"));
        }
        Ok(())
    }
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        match self.free.load(Ordering::SeqCst) {
            0 => OsDisk.free_bytes(path),
            free => Ok(free),
        }
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    disk: Arc<FaultyDisk>,
    segment_bytes: u64,
    checkpoint_bytes: u64,
}

impl Fixture {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary directory"),
            clock: Arc::new(ManualClock::new(Timestamp::from_millis(1_000_000))),
            disk: Arc::default(),
            segment_bytes: 256 << 10,
            checkpoint_bytes: 64 << 20,
        }
    }

    fn options(&self) -> Options {
        Options {
            segment_bytes: self.segment_bytes,
            checkpoint_bytes: self.checkpoint_bytes,
            disk: Arc::clone(&self.disk) as Arc<dyn Disk>,
            reserve_bytes: 1 << 20,
            ..Options::new(self.dir.path().to_owned(), Arc::clone(&self.clock) as _)
        }
    }

    fn open(&self) -> (Volume, Recovery) {
        Volume::open(self.options()).expect("a volume opens from any state")
    }

    fn undamaged(&self) -> Volume {
        let (volume, recovery) = self.open();
        assert_eq!(recovery.damage, []);
        volume
    }
}

fn slice(n: u8) -> SliceId {
    SliceId::from_bytes([n; 16])
}

fn spec(id: SliceId) -> SliceSpec {
    SliceSpec {
        id,
        compression: ZSTD,
        durability: Durability::Disk,
        trigger: UploadTrigger::default_for(TableKind::Sqlite),
    }
}

fn part(slice: SliceId, seq: u64, rows: &[String]) -> Part {
    let raw: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let mut compressor = zstd::bulk::Compressor::new(1).expect("valid level");
    compressor.include_checksum(true).expect("supported");
    Part {
        slice,
        seq,
        rows: rows.len() as u32,
        raw_bytes: raw.len() as u32,
        first_at: Timestamp::from_millis(1_000_000),
        last_at: Timestamp::from_millis(1_000_000),
        compression: ZSTD,
        frame: Bytes::from(compressor.compress(raw.as_bytes()).expect("compresses")),
    }
}

fn one(id: SliceId, seq: u64, row: &str) -> Batch {
    Batch {
        parts: vec![part(id, seq, &[row.to_owned()])],
        keys: Vec::new(),
    }
}

fn rows_of(volume: &Volume, id: SliceId, content: &Content) -> Vec<String> {
    if content.figures.rows == 0 {
        return Vec::new();
    }
    let bytes = std::fs::read(volume.slice_path(id)).expect("a sealed slice has a file");
    assert_eq!(bytes.len() as u64, content.figures.bytes);
    let mut checksum = super::slice_file::Checksum::default();
    checksum.update(&bytes);
    assert_eq!(checksum.finish(), content.checksum);
    let raw = zstd::decode_all(&bytes[..]).expect("a valid slice");
    let rows: Vec<String> = String::from_utf8(raw)
        .expect("text")
        .lines()
        .map(str::to_owned)
        .collect();
    assert_eq!(rows.len() as u64, content.figures.rows);
    rows
}

async fn sealed_rows(volume: &Volume, id: SliceId) -> Vec<String> {
    let content = volume.seal(id, None).await.expect("sealed");
    rows_of(volume, id, &content)
}

/// Waits for what a volume does by itself.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, wait).await;
    assert!(waited.is_ok(), "within {PATIENCE:?} there was no {what}");
}

/// Waits for a checkpoint that says of a slice that its file has more than so many bytes: that much the next opening expects of it.
async fn checkpointed(volume: &Volume, id: SliceId, bytes: u64) {
    let dir = volume.dir().join("checkpoint");
    let says = |checkpoint: Checkpoint| {
        let mut slices = checkpoint.slices.iter();
        slices.any(|slice| slice.id == id && slice.len > bytes)
    };
    let what = format!("checkpoint with more than {bytes} bytes of slice {id}");
    until(&what, || {
        // One that was listed may be removed before it is read.
        let found = checkpoint::read_all(&OsDisk, &dir, volume.id()).unwrap_or_default();
        found.into_iter().flatten().any(says)
    })
    .await;
}

#[tokio::test]
async fn committed_rows_survive_a_killed_process() {
    let fixture = Fixture::new();
    let (volume, recovery) = fixture.open();
    assert!(recovery.created);
    let id = volume.id();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    for seq in 1..=20 {
        let answer = connection
            .append(one(slice(1), seq, &format!("row {seq}")))
            .await;
        assert_eq!(answer, Ok(Answer::Committed));
    }
    volume.abandon().await;
    let (volume, recovery) = fixture.open();
    assert_eq!((volume.id(), recovery.rows, recovery.slices), (id, 20, 1));
    assert_eq!(recovery.damage, []);
    let expected: Vec<String> = (1..=20).map(|seq| format!("row {seq}")).collect();
    assert_eq!(sealed_rows(&volume, slice(1)).await, expected);
    volume.stop().await;
}

#[tokio::test]
async fn a_repeated_batch_is_committed_once() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let first = volume.connect(SESSION).expect("open");
    assert_eq!(
        first.append(one(slice(1), 1, "a")).await,
        Ok(Answer::Committed)
    );
    let second = volume.connect(SESSION).expect("open");
    let opened = second
        .open(vec![slice(1), slice(2)])
        .await
        .expect("answered");
    let expected = BTreeMap::from([
        (slice(1), Opened::Last(1)),
        (slice(2), Opened::UnknownSlice),
    ]);
    assert_eq!(opened, expected);
    assert_eq!(
        second.append(one(slice(1), 1, "a")).await,
        Ok(Answer::Committed)
    );
    let Ok(Answer::Refused(refusal)) = first.append(one(slice(1), 2, "old")).await else {
        panic!("an older connection must be refused")
    };
    assert_eq!(refusal.reason, RefusalReason::Superseded);
    assert_eq!(sealed_rows(&volume, slice(1)).await, ["a"]);
    volume.stop().await;
}

#[tokio::test]
async fn sequence_numbers_are_dense() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    let Ok(Answer::Refused(refusal)) = connection.append(one(slice(1), 2, "b")).await else {
        panic!("a gap must be refused")
    };
    assert_eq!(refusal.reason, RefusalReason::OutOfOrder);
    assert_eq!(refusal.expected, BTreeMap::from([(slice(1), 1)]));
    volume.stop().await;
}

#[tokio::test]
async fn a_lost_acknowledgement_is_settled_after_the_seal() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    drop(connection.append(one(slice(1), 1, "answer lost")));
    let content = volume.seal(slice(1), Some(slice(2))).await.expect("sealed");
    assert_eq!(content.sessions, BTreeMap::from([(SESSION, 1)]));
    assert!(!volume.holds_beyond(slice(1), &content.sessions));
    assert!(!volume.holds_beyond(slice(2), &BTreeMap::new()));
    for less in [BTreeMap::new(), BTreeMap::from([(SESSION, 0)])] {
        assert!(volume.holds_beyond(slice(1), &less));
    }
    let again = volume.connect(SESSION).expect("open");
    let sealed = Sealed {
        last: 1,
        successor: Some(slice(2)),
    };
    let opened = again.open(vec![slice(1)]).await.expect("answered");
    assert_eq!(opened, BTreeMap::from([(slice(1), Opened::Sealed(sealed))]));
    let late = again.append(one(slice(1), 2, "late")).await;
    assert_eq!(
        late,
        Ok(Answer::Sealed(BTreeMap::from([(slice(1), sealed)])))
    );
    volume.abandon().await;
    let volume = fixture.undamaged();
    let again = volume.connect(SESSION).expect("open");
    let opened = again.open(vec![slice(1)]).await.expect("answered");
    assert_eq!(opened, BTreeMap::from([(slice(1), Opened::Sealed(sealed))]));
    assert_eq!(
        volume.seal(slice(1), Some(slice(2))).await,
        Ok(content.clone())
    );
    assert_eq!(rows_of(&volume, slice(1), &content), ["answer lost"]);
    volume.stop().await;
}

#[tokio::test]
async fn a_batch_with_one_sealed_slice_leaves_nothing_in_the_others() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    (1..=3).for_each(|n| volume.open_slice(spec(slice(n))));
    volume.seal(slice(2), Some(slice(4))).await.expect("sealed");
    let connection = volume.connect(SESSION).expect("open");
    let row = ["x".to_owned()];
    let parts = (1..=3).map(|n| part(slice(n), 1, &row)).collect();
    let answer = connection
        .append(Batch {
            parts,
            keys: Vec::new(),
        })
        .await;
    let sealed = Sealed {
        last: 0,
        successor: Some(slice(4)),
    };
    assert_eq!(
        answer,
        Ok(Answer::Sealed(BTreeMap::from([(slice(2), sealed)])))
    );
    for n in [1, 3] {
        assert_eq!(sealed_rows(&volume, slice(n)).await, [""; 0]);
    }
    volume.stop().await;
}

#[tokio::test]
async fn a_failed_sync_is_refused_and_its_bytes_never_come_back() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    assert_eq!(
        connection.append(one(slice(1), 1, "before")).await,
        Ok(Answer::Committed)
    );
    fixture.disk.fail_sync.store(true, Ordering::SeqCst);
    let Ok(Answer::Refused(refusal)) = connection.append(one(slice(1), 2, "failed")).await else {
        panic!("a failed sync must be refused")
    };
    assert_eq!(refusal.reason, RefusalReason::WriteFailed);
    assert_eq!(refusal.expected, BTreeMap::from([(slice(1), 2)]));
    // The bytes are in the segment, whole and with valid checksums.
    let bytes = std::fs::read(fixture.dir.path().join("journal/0000000000000001.segment"));
    let raw = part(slice(1), 2, &["failed".to_owned()]).frame;
    assert!(
        bytes
            .expect("readable")
            .windows(raw.len())
            .any(|window| window == raw)
    );
    volume.abandon().await;
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    let opened = connection.open(vec![slice(1)]).await.expect("answered");
    assert_eq!(opened, BTreeMap::from([(slice(1), Opened::Last(1))]));
    assert_eq!(
        connection.append(one(slice(1), 2, "retried")).await,
        Ok(Answer::Committed)
    );
    assert_eq!(sealed_rows(&volume, slice(1)).await, ["before", "retried"]);
    volume.stop().await;
}

#[tokio::test]
async fn a_failure_that_cannot_be_made_certain_stops_the_volume_without_an_answer() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    assert_eq!(
        connection.append(one(slice(1), 1, "a")).await,
        Ok(Answer::Committed)
    );
    fixture.disk.fail_sync.store(true, Ordering::SeqCst);
    fixture.disk.fail_rename.store(true, Ordering::SeqCst);
    assert_eq!(connection.append(one(slice(1), 2, "b")).await, Err(Unknown));
    assert!(matches!(volume.status().health, Health::Failed(_)));
    assert!(volume.connect(SESSION).is_err());
    volume.abandon().await;
    drop((volume, connection));
    fixture.disk.fail_rename.store(false, Ordering::SeqCst);
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    let opened = connection.open(vec![slice(1)]).await.expect("answered");
    // The bytes were on the disk, so the batch is there; what counts is that both sides agree.
    assert_eq!(opened, BTreeMap::from([(slice(1), Opened::Last(2))]));
    assert_eq!(sealed_rows(&volume, slice(1)).await, ["a", "b"]);
    volume.stop().await;
}

#[tokio::test]
async fn a_segment_is_not_written_any_more_once_its_successor_may_exist() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    assert_eq!(
        connection.append(one(slice(1), 1, "first")).await,
        Ok(Answer::Committed)
    );
    // Too long for what is left of the segment; the next one gets its name, and then something fails.
    let long = noise(&mut StdRng::seed_from_u64(1), 400_000);
    fixture.disk.fail_sync_dir.store(true, Ordering::SeqCst);
    let Ok(Answer::Refused(refusal)) = connection.append(one(slice(1), 2, &long)).await else {
        panic!("there is no segment for it")
    };
    assert_eq!(refusal.reason, RefusalReason::DiskFull);
    assert_eq!(
        connection.append(one(slice(1), 2, "short")).await,
        Ok(Answer::Committed)
    );
    volume.abandon().await;
    let volume = fixture.undamaged();
    assert_eq!(sealed_rows(&volume, slice(1)).await, ["first", "short"]);
    volume.stop().await;
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    assert!(matches!(
        Volume::open(fixture.options()),
        Err(OpenError::Locked { .. })
    ));
    std::fs::remove_file(fixture.options().dir.join("lock")).expect("removed");
    assert!(
        matches!(
            Volume::open(fixture.options()),
            Err(OpenError::Locked { .. })
        ),
        "also when somebody has tidied up"
    );
    volume.stop().await;
    drop(volume);
    fixture.undamaged().stop().await;
}

#[tokio::test]
async fn a_full_disk_refuses_batches_but_still_seals() {
    let fixture = Fixture::new();
    fixture.disk.free.store(1, Ordering::SeqCst);
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    let Ok(Answer::Refused(refusal)) = connection.append(one(slice(1), 1, "a")).await else {
        panic!("there is no room")
    };
    assert_eq!(refusal.reason, RefusalReason::DiskFull);
    assert_eq!(volume.status().health, Health::Full);
    assert_eq!(sealed_rows(&volume, slice(1)).await, [""; 0]);
    volume.stop().await;
}

#[tokio::test]
async fn released_slices_leave_no_file_and_do_not_come_back() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    assert_eq!(
        connection.append(one(slice(1), 1, "a")).await,
        Ok(Answer::Committed)
    );
    sealed_rows(&volume, slice(1)).await;
    volume.release(slice(1));
    // Anything that is answered later was done later.
    volume.seal(slice(9), None).await.expect("sealed");
    assert_eq!(volume.slice(slice(1)), None);
    volume.stop().await;
    let volume = fixture.undamaged();
    assert_eq!(volume.slice(slice(1)), None);
    assert!(!volume.slice_path(slice(1)).exists());
    volume.stop().await;
}

#[tokio::test]
async fn slices_report_their_triggers_once() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    let by_count = UploadTrigger {
        count: 2,
        ..spec(slice(1)).trigger
    };
    volume.open_slice(SliceSpec {
        trigger: by_count,
        ..spec(slice(1))
    });
    let by_age = UploadTrigger {
        interval: Interval::from_secs(1),
        ..by_count
    };
    volume.open_slice(SliceSpec {
        trigger: by_age,
        ..spec(slice(2))
    });
    let connection = volume.connect(SESSION).expect("open");
    assert_eq!(
        connection.append(one(slice(1), 1, "a")).await,
        Ok(Answer::Committed)
    );
    assert_eq!(
        connection.append(one(slice(2), 1, "a")).await,
        Ok(Answer::Committed)
    );
    let mut later = one(slice(1), 2, "b");
    later.parts[0].first_at = Hour(1).begins();
    later.parts[0].last_at = Hour(1).begins();
    assert_eq!(connection.append(later).await, Ok(Answer::Committed));
    let crossed = volume.next_crossed().await;
    assert_eq!(
        (crossed.slice, crossed.reason, crossed.figures.rows),
        (slice(1), Reason::Count, 2)
    );
    let hours = crossed
        .later_hours
        .by_hour(&crossed.figures, Hour(9).begins());
    assert_eq!(hours, [(Hour(0), 1), (Hour(1), 1)]);
    fixture.clock.advance(Duration::from_secs(2));
    let crossed = volume.next_crossed().await;
    assert_eq!(
        (crossed.slice, crossed.reason),
        (slice(2), Reason::Interval)
    );
    volume.stop().await;
}

#[tokio::test]
async fn a_slice_remembers_a_bounded_number_of_sessions() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    for session in 1..=64 {
        let connection = volume.connect(SessionId(session)).expect("open");
        assert_eq!(
            connection.append(one(slice(1), 1, "a")).await,
            Ok(Answer::Committed)
        );
    }
    let connection = volume.connect(SessionId(65)).expect("open");
    let Ok(Answer::Refused(refusal)) = connection.append(one(slice(1), 1, "b")).await else {
        panic!("the 65th session must be refused")
    };
    assert_eq!(refusal.reason, RefusalReason::TooManySessions(slice(1)));
    assert_eq!(volume.next_crossed().await.reason, Reason::Sessions);
    volume.stop().await;
}

/// Incompressible rows without quotes, so that a few batches fill segments and runs.
fn noise(rng: &mut StdRng, len: usize) -> String {
    (0..len)
        .map(|_| char::from(rng.random_range(b'#'..=b'~')))
        .collect()
}

#[tokio::test]
async fn the_content_of_a_slice_does_not_depend_on_crashes() {
    // Frames that are packed again, and such that stay as they came.
    for (frames, len) in [(150, 4_000), (30, 40_000)] {
        let mut contents = BTreeSet::new();
        for crash_after in [None, Some(3), Some(17), Some(29)] {
            let fixture = Fixture::new();
            let mut volume = fixture.undamaged();
            let mut rng = StdRng::seed_from_u64(5);
            for seq in 1..=frames {
                volume.open_slice(spec(slice(1)));
                let connection = volume.connect(SESSION).expect("open");
                let batch = one(slice(1), seq, &noise(&mut rng, len));
                assert_eq!(connection.append(batch).await, Ok(Answer::Committed));
                if crash_after == Some(seq) {
                    volume.abandon().await;
                    drop((volume, connection));
                    volume = fixture.undamaged();
                }
            }
            let content = volume.seal(slice(1), None).await.expect("sealed");
            rows_of(&volume, slice(1), &content);
            contents.insert(content.checksum);
            volume.stop().await;
        }
        assert_eq!(contents.len(), 1, "{contents:?}");
    }
}

#[tokio::test]
async fn only_small_frames_are_packed_again() {
    // A run has 256 KiB; its frames stay when they have 16 KiB on average.
    for (frames, len, expected) in [(64, 8 << 10, 2), (64, 16 << 10, 64), (1, 100, 1)] {
        let fixture = Fixture::new();
        let volume = fixture.undamaged();
        volume.open_slice(spec(slice(1)));
        let connection = volume.connect(SESSION).expect("open");
        let mut rng = StdRng::seed_from_u64(5);
        for seq in 1..=frames {
            let batch = one(slice(1), seq, &noise(&mut rng, len));
            assert_eq!(connection.append(batch).await, Ok(Answer::Committed));
        }
        let content = volume.seal(slice(1), None).await.expect("sealed");
        assert_eq!(rows_of(&volume, slice(1), &content).len() as u64, frames);
        let file = std::fs::read(volume.slice_path(slice(1))).expect("a file");
        let stretches = super::frames::stretches(&file, ZSTD);
        assert_eq!(stretches.len(), expected, "{frames} frames of {len} bytes");
        volume.stop().await;
    }
}

#[tokio::test]
async fn checkpoints_bound_the_journal_and_a_damaged_one_costs_nothing() {
    let fixture = Fixture {
        checkpoint_bytes: 1 << 20,
        ..Fixture::new()
    };
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    volume.open_slice(spec(slice(2)));
    let mut rng = StdRng::seed_from_u64(6);
    let mut rows = HashMap::from([(1, Vec::new()), (2, Vec::new())]);
    let connection = volume.connect(SESSION).expect("open");
    for seq in 1..=100 {
        let row = noise(&mut rng, 60_000);
        assert_eq!(
            connection.append(one(slice(1), seq, &row)).await,
            Ok(Answer::Committed)
        );
        rows.get_mut(&1).expect("there").push(row);
    }
    assert_eq!(
        connection.append(one(slice(2), 1, "few")).await,
        Ok(Answer::Committed)
    );
    rows.get_mut(&2).expect("there").push("few".to_owned());
    let checkpoints = || {
        OsDisk
            .list(&fixture.dir.path().join("checkpoint"))
            .expect("listed")
    };
    until("end of the journal before 4 of 6 MB", || {
        volume.status().journal_bytes < 4 << 20
    })
    .await;
    volume.abandon().await;
    drop((volume, connection));
    let newest = checkpoints().pop().expect("there is one");
    let mut bytes = std::fs::read(&newest).expect("readable");
    bytes[20] ^= 1;
    std::fs::write(&newest, bytes).expect("written");
    let (volume, recovery) = fixture.open();
    assert_eq!(recovery.damage.len(), 1, "{:?}", recovery.damage);
    assert_eq!(recovery.damage[0].file, newest);
    for (n, rows) in rows {
        assert_eq!(sealed_rows(&volume, slice(n)).await, rows, "slice {n}");
    }
    volume.stop().await;
}

#[tokio::test]
async fn a_slice_file_that_lost_its_end_keeps_its_whole_frames_and_counts_them() {
    let fixture = Fixture {
        checkpoint_bytes: 1 << 20,
        ..Fixture::new()
    };
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    let mut rng = StdRng::seed_from_u64(8);
    let rows: Vec<String> = (0..60).map(|_| noise(&mut rng, 60_000)).collect();
    for (seq, row) in (1..).zip(&rows) {
        assert_eq!(
            connection.append(one(slice(1), seq, row)).await,
            Ok(Answer::Committed)
        );
    }
    checkpointed(&volume, slice(1), 100_000).await;
    volume.abandon().await;
    let file = volume.slice_path(slice(1));
    let len = std::fs::metadata(&file)
        .expect("a checkpoint wrote it")
        .len();
    let cut = std::fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .expect("opens");
    cut.set_len(100_000.min(len / 2)).expect("cut");
    let (volume, recovery) = fixture.open();
    assert_eq!(recovery.damage.len(), 1, "{:?}", recovery.damage);
    let lost = recovery.damage[0].rows.expect("they were counted");
    // The file grows again behind what is left, and must not be taken for whole at the next opening.
    volume.seal(slice(9), None).await.expect("sealed");
    volume.abandon().await;
    let volume = fixture.undamaged();
    let left = sealed_rows(&volume, slice(1)).await;
    assert_eq!(left.len() as u64 + lost, 60);
    assert!(lost > 0 && !left.is_empty());
    // What is left is whole rows, in order.
    let mut remaining = rows.iter();
    assert!(left.iter().all(|row| remaining.any(|r| r == row)));
    volume.stop().await;
}

#[tokio::test]
async fn a_damaged_frame_of_a_slice_file_is_dropped_and_the_others_go_on() {
    let fixture = Fixture {
        checkpoint_bytes: 1 << 20,
        ..Fixture::new()
    };
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    let mut rng = StdRng::seed_from_u64(10);
    for seq in 1..=60 {
        let batch = one(slice(1), seq, &noise(&mut rng, 60_000));
        assert_eq!(connection.append(batch).await, Ok(Answer::Committed));
    }
    checkpointed(&volume, slice(1), 50_000).await;
    volume.abandon().await;
    let file = volume.slice_path(slice(1));
    let mut bytes = std::fs::read(&file).expect("a checkpoint wrote it");
    bytes[50_000] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let volume = fixture.undamaged();
    let left = sealed_rows(&volume, slice(1)).await;
    // Frames of this length stay as they came, with one row each.
    assert_eq!(left.len(), 59);
    // What is written behind the repaired part is taken from the journal again, and only once.
    volume.abandon().await;
    let volume = fixture.undamaged();
    assert_eq!(sealed_rows(&volume, slice(1)).await, left);
    volume.stop().await;
}

#[tokio::test]
async fn a_slice_released_after_its_checkpoint_is_not_missed() {
    let fixture = Fixture {
        checkpoint_bytes: 1 << 20,
        ..Fixture::new()
    };
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    let mut rng = StdRng::seed_from_u64(9);
    for seq in 1..=60 {
        let batch = one(slice(1), seq, &noise(&mut rng, 60_000));
        assert_eq!(connection.append(batch).await, Ok(Answer::Committed));
    }
    assert_eq!(sealed_rows(&volume, slice(1)).await.len(), 60);
    volume.release(slice(1));
    volume
        .seal(slice(9), None)
        .await
        .expect("sealed after the release");
    let file = volume.slice_path(slice(1));
    volume.stop().await;
    // Removing the file is the last step of a release; a crash may come before or after it.
    let _ = std::fs::remove_file(file);
    let volume = fixture.undamaged();
    assert_eq!(volume.slice(slice(1)), None);
    volume.stop().await;
}

#[tokio::test]
async fn a_seal_keeps_its_word_on_sessions_whose_last_entry_is_damaged() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    for seq in 1..=3 {
        assert_eq!(
            connection.append(one(slice(1), seq, "row")).await,
            Ok(Answer::Committed)
        );
    }
    let before = volume.seal(slice(1), None).await.expect("sealed");
    volume.abandon().await;
    let segment = fixture.dir.path().join("journal/0000000000000001.segment");
    let mut bytes = std::fs::read(&segment).expect("readable");
    bytes[3 * 4096 + 70] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let (volume, recovery) = fixture.open();
    assert_eq!(recovery.damage.len(), 1, "{:?}", recovery.damage);
    let after = volume.seal(slice(1), None).await.expect("sealed");
    assert_eq!((after.figures.rows, &after.sessions), (2, &before.sessions));
    assert_eq!(rows_of(&volume, slice(1), &after), ["row", "row"]);
    volume.stop().await;
}

#[tokio::test]
async fn a_flipped_bit_costs_one_entry_and_is_reported() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    for seq in 1..=5 {
        let answer = connection
            .append(one(slice(1), seq, &format!("row {seq}")))
            .await;
        assert_eq!(answer, Ok(Answer::Committed));
    }
    volume.abandon().await;
    drop((volume, connection));
    let segment = fixture.dir.path().join("journal/0000000000000001.segment");
    let mut bytes = std::fs::read(&segment).expect("readable");
    // Each answer was awaited, so every batch is a group on a block of its own; the third is in block 3.
    bytes[3 * 4096 + 70] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let (volume, recovery) = fixture.open();
    assert_eq!(recovery.damage.len(), 1, "{:?}", recovery.damage);
    let damage = &recovery.damage[0];
    assert_eq!(damage.file, segment);
    assert!(
        damage.from <= 3 * 4096 + 70 && damage.to > 3 * 4096 + 70,
        "{damage}"
    );
    let rows = sealed_rows(&volume, slice(1)).await;
    assert_eq!(rows, ["row 1", "row 2", "row 4", "row 5"]);
    volume.stop().await;
}

/// What was a volume of ours has rows that are known by its identity: a damaged one is not taken for somebody else's name.
#[tokio::test]
async fn a_damaged_identity_is_no_name_of_another_service() {
    let fixture = Fixture::new();
    let (volume, _) = fixture.open();
    volume.abandon().await;
    drop(volume);
    let dir = fixture.dir.path();
    std::fs::remove_dir_all(dir.join("journal")).expect("removed");
    std::fs::write(dir.join("volume-id"), "my-volume").expect("written");
    let refused = Volume::open(fixture.options()).map(drop);
    assert!(
        matches!(refused, Err(OpenError::Identity { .. })),
        "{refused:?}"
    );
    assert!(!dir.join("volume-id.former").exists());
}

/// A directory of another service is taken over as long as nothing of ours was in it.
#[tokio::test]
async fn an_empty_volume_of_another_service_gets_an_identity_of_its_own() {
    let fixture = Fixture::new();
    let path = fixture.dir.path().join("volume-id");
    std::fs::write(&path, "my-volume").expect("written");
    let (volume, recovery) = fixture.open();
    let id = volume.id();
    assert!(recovery.damage.is_empty() && recovery.unknown_files.is_empty());
    assert_eq!(
        std::fs::read_to_string(&path).expect("readable").trim(),
        id.to_string()
    );
    let former = std::fs::read_to_string(path.with_extension("former")).expect("kept");
    assert_eq!(former, "my-volume");
    volume.abandon().await;
    drop(volume);
    let (volume, recovery) = fixture.open();
    assert_eq!(volume.id(), id);
    assert!(
        recovery.unknown_files.is_empty(),
        "{:?}",
        recovery.unknown_files
    );
    volume.abandon().await;
}

#[tokio::test]
async fn a_damaged_identity_is_taken_from_the_journal_and_written_again() {
    let fixture = Fixture::new();
    let volume = fixture.undamaged();
    let id = volume.id();
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    let answer = connection.append(one(slice(1), 1, "row 1")).await;
    assert_eq!(answer, Ok(Answer::Committed));
    volume.abandon().await;
    drop((volume, connection));
    let path = fixture.dir.path().join("volume-id");
    let whole = std::fs::read(&path).expect("readable");
    let mut damaged: Vec<Vec<u8>> =
        vec![Vec::new(), whole[..20].to_vec(), b"what is this".to_vec()];
    for bit in (0..whole.len() * 8).step_by(7) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        damaged.push(bytes);
    }
    for bytes in damaged {
        std::fs::write(&path, &bytes).expect("written");
        let (volume, recovery) = fixture.open();
        assert_eq!(volume.id(), id, "{bytes:?}");
        assert_eq!(recovery.slices, 1);
        let named: Vec<_> = recovery.damage.iter().map(|damage| &damage.file).collect();
        // A blank instead of the line end is as good, and so is a capital.
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let is_harmless = text.trim() == id.to_string();
        assert_eq!(
            named,
            if is_harmless { vec![] } else { vec![&path] },
            "{bytes:?}"
        );
        volume.abandon().await;
        drop(volume);
    }
    std::fs::remove_file(&path).expect("removed");
    let (volume, recovery) = fixture.open();
    assert_eq!((volume.id(), recovery.damage.len()), (id, 1));
    assert_eq!(sealed_rows(&volume, slice(1)).await, ["row 1"]);
    volume.stop().await;
    let (volume, recovery) = fixture.open();
    assert!(recovery.damage.is_empty(), "{:?}", recovery.damage);
    volume.stop().await;
}

#[tokio::test]
async fn files_with_names_of_another_form_are_left_alone() {
    let fixture = Fixture::new();
    fixture.undamaged().stop().await;
    let names = [
        "journal/ffffffffffffffff.segment",
        "journal/9.segment",
        "journal/+000000000000009.segment",
        "journal/000000000000000A.segment",
        "checkpoint/ffffffffffffffff.checkpoint",
        "checkpoint/9.checkpoint",
    ];
    for name in names {
        std::fs::write(fixture.dir.path().join(name), b"not ours").expect("written");
    }
    for _ in 0..2 {
        let volume = fixture.undamaged();
        volume.open_slice(spec(slice(1)));
        volume.stop().await;
    }
    for name in names {
        let content = std::fs::read(fixture.dir.path().join(name));
        assert_eq!(content.expect("it is there"), b"not ours", "{name}");
    }
}

/// What the outside knows of a batch that was sent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Committed,
    Refused,
    Unknown,
}

/// A batch that was sent: the slices it has a row for, the row, and the answer to come.
type Sent = (Vec<u8>, String, crate::wire::Pending<Answer>);

/// A volume with three slices, and what the outside knows of them.
struct Life {
    rng: StdRng,
    fixture: Fixture,
    volume: Volume,
    connection: super::VolumeConnection,
    next_seq: HashMap<SliceId, u64>,
    fates: HashMap<SliceId, Vec<(String, Fate)>>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let fixture = Fixture {
            segment_bytes: 64 << 10,
            checkpoint_bytes: 256 << 10,
            ..Fixture::new()
        };
        let volume = fixture.undamaged();
        let connection = volume.connect(SESSION).expect("open");
        (1..=3).for_each(|n| volume.open_slice(spec(slice(n))));
        Self {
            rng: StdRng::seed_from_u64(seed),
            fixture,
            volume,
            connection,
            next_seq: HashMap::new(),
            fates: HashMap::new(),
        }
    }

    /// Sends a few batches, each with a row for some of the slices.
    fn send(&mut self, step: u32) -> Vec<Sent> {
        let mut sent = Vec::new();
        for flight in 0..self.rng.random_range(1..4) {
            let row = format!("{step}.{flight} {}", noise(&mut self.rng, 2_000));
            let slices: Vec<u8> = (1..=3).filter(|_| self.rng.random_bool(0.6)).collect();
            if slices.is_empty() {
                continue;
            }
            let mut next = |n: u8| {
                let seq = self.next_seq.entry(slice(n)).or_insert(1);
                *seq += 1;
                *seq - 1
            };
            let row_of = |n: u8, seq| part(slice(n), seq, std::slice::from_ref(&row));
            let parts = slices.iter().map(|n| row_of(*n, next(*n))).collect();
            sent.push((
                slices,
                row.clone(),
                self.connection.append(Batch {
                    parts,
                    keys: Vec::new(),
                }),
            ));
        }
        sent
    }

    async fn await_answers(&mut self, sent: Vec<Sent>) {
        for (slices, row, pending) in sent {
            let fate = match pending.await {
                Ok(Answer::Committed) => Fate::Committed,
                Ok(Answer::Refused(_) | Answer::Sealed(_) | Answer::KnownKeys(_)) => Fate::Refused,
                Err(Unknown) => Fate::Unknown,
            };
            for n in slices {
                self.fates
                    .entry(slice(n))
                    .or_default()
                    .push((row.clone(), fate));
            }
        }
    }

    fn reopen(&mut self) {
        self.fixture.disk.fail_sync.store(false, Ordering::SeqCst);
        self.volume = self.fixture.undamaged();
        (1..=3).for_each(|n| self.volume.open_slice(spec(slice(n))));
        self.connection = self.volume.connect(SESSION).expect("open");
    }

    /// Asks the volume what became of the batches whose answer was lost.
    async fn settle(&mut self) {
        let opened = self
            .connection
            .open((1..=3).map(slice).collect())
            .await
            .expect("answered");
        for (id, opened) in opened {
            let Opened::Last(last) = opened else {
                panic!("slice {id} is open")
            };
            settle(self.fates.entry(id).or_default(), last);
            self.next_seq.insert(id, last + 1);
        }
    }
}

/// One life of a volume: batches to random slices, failing syncs, kills. The oracle: a committed batch is there once, a
/// refused one never, an unknown one as `Open` says.
async fn live(seed: u64) {
    let mut life = Life::new(seed);
    for step in 0..60 {
        if life.rng.random_bool(0.1) {
            life.fixture.disk.fail_sync.store(true, Ordering::SeqCst);
        }
        let sent = life.send(step);
        let kill = life.rng.random_bool(0.15);
        if kill {
            life.volume.abandon().await;
        }
        life.await_answers(sent).await;
        if kill {
            life.reopen();
        }
        life.settle().await;
    }
    // A seal whose sync fails has to be asked for again; here it is the rows that count.
    life.fixture.disk.fail_sync.store(false, Ordering::SeqCst);
    for n in 1..=3 {
        let fates = life.fates.remove(&slice(n)).unwrap_or_default();
        let committed = fates
            .into_iter()
            .filter(|(_, fate)| *fate == Fate::Committed);
        let expected: Vec<String> = committed.map(|(row, _)| row).collect();
        assert_eq!(
            sealed_rows(&life.volume, slice(n)).await,
            expected,
            "seed {seed} slice {n}"
        );
    }
    assert!(
        life.volume
            .slices()
            .iter()
            .all(|slice| slice.stage == Stage::Sealed)
    );
    life.volume.stop().await;
}

/// Decides unknown batches by the number of batches that are in the slice.
fn settle(fates: &mut [(String, Fate)], last: u64) {
    let committed = fates
        .iter()
        .filter(|(_, fate)| *fate == Fate::Committed)
        .count() as u64;
    let mut more = last - committed;
    for (_, fate) in fates.iter_mut().filter(|(_, fate)| *fate == Fate::Unknown) {
        *fate = if more > 0 {
            Fate::Committed
        } else {
            Fate::Refused
        };
        more = more.saturating_sub(1);
    }
    assert_eq!(more, 0, "more is in the slice than was ever sent");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_batch_is_there_exactly_if_it_was_committed(seed: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(live(seed));
    }
}

#[tokio::test]
async fn runs_of_keys_have_their_names_for_certain_before_they_are_listed() {
    let fixture = Fixture::new();
    let (volume, mut commit, mut flush, _) = Volume::open_stepped(Options {
        max_keys: 1_000,
        ..fixture.options()
    })
    .expect("a new volume");
    volume.open_slice(spec(slice(1)));
    let connection = volume.connect(SESSION).expect("open");
    for seq in 1..=20 {
        let claims = (0..20_u64).map(|number| {
            let mut key = [0; 16];
            key[..8].copy_from_slice(&(20 * seq + number).to_be_bytes());
            Claim {
                key: KeyHash::from_bytes(key),
                body: number,
            }
        });
        drop(connection.append(Batch {
            keys: claims.collect(),
            ..one(slice(1), seq, "row")
        }));
        assert_eq!(commit.step(), Step::Worked);
        flush.step(true);
    }
    let listed = OsDisk.list(&fixture.dir.path().join("keys")).expect("read");
    let runs = listed.iter().filter(|file| !file.ends_with("manifest"));
    let runs = runs.count();
    // The disk has looked at each time; runs were written, and merged.
    assert!((1..10).contains(&runs), "{runs}");
    drop((volume, connection, commit, flush));
}

#[tokio::test]
async fn room_is_made_before_slices_of_an_earlier_run_are_looked_through() {
    let fixture = Fixture {
        checkpoint_bytes: 1 << 20,
        ..Fixture::new()
    };
    let (volume, mut commit, mut flush, _) =
        Volume::open_stepped(fixture.options()).expect("a new volume");
    (1..=4).for_each(|n| volume.open_slice(spec(slice(n))));
    let connection = volume.connect(SESSION).expect("open");
    for n in 1..=3 {
        drop(connection.append(one(slice(n), 1, "a")));
        drop(volume.seal(slice(n), None));
    }
    let mut rng = StdRng::seed_from_u64(1);
    for seq in 1..=32 {
        let row: String = (0..200_000).map(|_| rng.random_range('a'..='z')).collect();
        drop(connection.append(one(slice(4), seq, &row)));
        assert_eq!(commit.step(), Step::Worked);
        // What the others fill is for the next opening to free.
        if seq == 16 {
            assert_eq!(flush.step(true), Step::Worked);
        }
    }
    drop((volume, connection, commit, flush));

    let (volume, commit, mut flush, recovery) = Volume::open_stepped(Options {
        max_journal_bytes: 1 << 20,
        ..fixture.options()
    })
    .expect("a volume opens from any state");
    assert_eq!(recovery.damage, []);
    let sealed = || {
        let slices = volume.slices();
        let sealed = slices.iter().filter(|slice| slice.stage == Stage::Sealed);
        sealed.count()
    };
    assert_eq!((volume.status().health, sealed()), (Health::Full, 0));
    assert_eq!(flush.step(true), Step::Worked);
    assert_eq!((volume.status().health, sealed()), (Health::Healthy, 1));
    while flush.step(false) == Step::Worked {}
    assert_eq!(sealed(), 3);
    drop((commit, flush));
}
