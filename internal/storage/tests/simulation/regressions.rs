//! What the simulation has found, each as a story of its own: the seeds change their meaning with every change of the simulation.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use stream_model::definition::TableKind;
use stream_model::level::{Compression, Durability};
use stream_model::time::ManualClock;
use stream_model::trigger::UploadTrigger;
use stream_model::{SessionId, SliceId, Timestamp};
use stream_storage::local::{
    CommitWorker, FlushWorker, OpenError, Options, Recovery, SliceSpec, Step, Volume,
    VolumeConnection,
};
use stream_storage::wire::{
    Answer, Batch, Connection, Opened, Part, Pending, RefusalReason, Unknown,
};

use super::disk::{End, Machine};
use super::ledger::row;
use super::state::frame;

const VOLUME: &str = "/volumes/default/simulated";
const SESSION: SessionId = SessionId(1);
const SEGMENT: u64 = 16 << 10;

/// A volume that the test steps by itself.
pub struct Open {
    pub volume: Volume,
    pub commit: CommitWorker,
    pub flush: FlushWorker,
    pub recovery: Recovery,
    pub connection: VolumeConnection,
}

pub fn machine(seed: u64) -> Arc<Machine> {
    Machine::new(seed, 1 << 30)
}

fn open(machine: &Arc<Machine>) -> Result<Open, OpenError> {
    open_with(machine, 2 * SEGMENT)
}

fn open_with(machine: &Arc<Machine>, checkpoint_bytes: u64) -> Result<Open, OpenError> {
    open_as(machine, |options| {
        options.checkpoint_bytes = checkpoint_bytes
    })
}

/// Opens the volume with other options.
pub fn open_as(
    machine: &Arc<Machine>,
    change: impl FnOnce(&mut Options),
) -> Result<Open, OpenError> {
    let clock = ManualClock::new(Timestamp::from_millis(1_000_000));
    let mut options = Options {
        segment_bytes: SEGMENT,
        checkpoint_bytes: 2 * SEGMENT,
        max_journal_bytes: 8 * SEGMENT,
        reserve_bytes: 1 << 10,
        disk: Arc::new(machine.start(None, 0.0)),
        ..Options::new(PathBuf::from(VOLUME), Arc::new(clock))
    };
    change(&mut options);
    let (volume, commit, flush, recovery) = Volume::open_stepped(options)?;
    for n in 1..=3 {
        volume.open_slice(spec(slice(n)));
    }
    let connection = volume.connect(SESSION).expect("it is open");
    Ok(Open {
        volume,
        commit,
        flush,
        recovery,
        connection,
    })
}

fn sound(machine: &Arc<Machine>) -> Open {
    let open = open(machine).expect("the disk does what it should");
    assert_eq!(open.recovery.damage, []);
    assert_eq!(open.recovery.unknown_files, Vec::<PathBuf>::new());
    open
}

pub fn slice(n: u8) -> SliceId {
    SliceId::from_bytes([n; 16])
}

fn spec(id: SliceId) -> SliceSpec {
    SliceSpec {
        id,
        compression: Compression::None,
        durability: Durability::Disk,
        trigger: UploadTrigger::default_for(TableKind::Sqlite),
    }
}

pub fn batch(id: SliceId, seq: u64, padding: usize) -> Batch {
    let csv = row(0, 0, 1, &"x".repeat(padding));
    let part = Part {
        slice: id,
        seq,
        rows: 1,
        raw_bytes: u32::try_from(csv.len()).expect("it is short"),
        first_at: Timestamp::from_millis(1_000_000),
        last_at: Timestamp::from_millis(1_000_000),
        compression: Compression::None,
        frame: frame(Compression::None, csv.as_bytes()),
    };
    Batch { parts: vec![part] }
}

impl Open {
    pub fn step<T>(&mut self, mut pending: Pending<T>) -> Result<T, Unknown> {
        for _ in 0..100 {
            self.commit.step();
            self.flush.step(false);
            if let Some(answer) = (&mut pending).now_or_never() {
                return answer;
            }
        }
        panic!("there is no answer")
    }

    pub fn append(&mut self, id: SliceId, seq: u64, padding: usize) -> Result<Answer, Unknown> {
        let pending = self.connection.append(batch(id, seq, padding));
        self.step(pending)
    }

    pub fn last(&mut self, id: SliceId) -> u64 {
        let pending = self.connection.open(vec![id]);
        let opened = self.step(pending).expect("it is answered");
        match opened[&id] {
            Opened::Last(last) => last,
            Opened::Sealed(sealed) => sealed.last,
            Opened::UnknownSlice => panic!("slice {id} was opened"),
        }
    }

    pub fn seal(&mut self, id: SliceId) -> u64 {
        let pending = self.volume.seal(id, None);
        self.step(pending).expect("it is answered").figures.rows
    }

    pub fn settle(&mut self) {
        while self.commit.step() == Step::Worked {}
        for _ in 0..6 {
            self.flush.step(true);
        }
    }
}

#[test]
fn an_identity_whose_name_was_only_in_the_cache_survives_power_loss() {
    for seed in 0..20 {
        let machine = machine(seed);
        machine.fail_next("sync dir", "simulated");
        assert!(open(&machine).is_err() && machine.has_failed_all());
        let mut first = sound(&machine);
        assert_eq!(first.append(slice(1), 1, 10), Ok(Answer::Committed));
        machine.end(End::PowerLost);
        let mut second = sound(&machine);
        assert_eq!(first.volume.id(), second.volume.id());
        assert_eq!(second.last(slice(1)), 1);
    }
}

#[test]
fn a_journal_that_cannot_be_listed_is_no_reason_for_a_new_identity() {
    let machine = machine(1);
    let mut first = sound(&machine);
    assert_eq!(first.append(slice(1), 1, 10), Ok(Answer::Committed));
    let path = Path::new(VOLUME).join("volume-id");
    machine.remove(&path);
    machine.fail_next("list", "journal");
    assert!(matches!(open(&machine), Err(OpenError::Directory { .. })));
    assert!(machine.has_failed_all());
    // Once it can be listed, the journal tells who it is.
    let second = open(&machine).expect("it can be listed now");
    assert_eq!(second.recovery.damage.len(), 1);
    assert_eq!(first.volume.id(), second.volume.id());
    assert!(machine.content(&path).is_some());
}

#[test]
fn a_header_that_cannot_be_read_now_brings_back_nothing_that_was_refused() {
    for seed in 0..20 {
        let machine = machine(seed);
        let mut first = sound(&machine);
        assert_eq!(first.append(slice(1), 1, 10), Ok(Answer::Committed));
        machine.fail_next("sync", ".spare");
        let Ok(Answer::Refused(refusal)) = first.append(slice(1), 2, 10) else {
            panic!("its sync failed")
        };
        assert_eq!(refusal.reason, RefusalReason::WriteFailed);
        machine.end(End::Killed);
        machine.fail_next("read", "0000000000000002.segment");
        let opened = open(&machine);
        assert!(matches!(opened, Err(OpenError::Directory { .. })));
        assert!(machine.has_failed_all());
        assert_eq!(sound(&machine).last(slice(1)), 1);
    }
}

/// The pages of a failed sync may be given up and still be read. After a restart of the process they must not be taken for
/// durable because a new sync succeeds.
#[test]
fn what_a_restarted_process_says_is_written_survives_power_loss() {
    let mut came_back = 0;
    for seed in 0..50 {
        let machine = machine(seed);
        let mut first = sound(&machine);
        assert_eq!(first.append(slice(1), 1, 10), Ok(Answer::Committed));
        machine.fail_next("sync", ".spare");
        machine.fail_next("rename", "0000000000000002.segment");
        assert_eq!(first.append(slice(1), 2, 10), Err(Unknown));
        assert!(machine.has_failed_all());
        machine.end(End::Killed);
        let told = sound(&machine).last(slice(1));
        machine.end(End::PowerLost);
        assert_eq!(sound(&machine).last(slice(1)), told, "seed {seed}");
        came_back += usize::from(told == 2);
    }
    assert!(came_back > 10, "{came_back}");
}

#[test]
fn the_file_of_a_released_slice_does_not_come_back_unknown() {
    for seed in 0..50 {
        let machine = machine(seed);
        let mut first = sound(&machine);
        assert_eq!(first.append(slice(1), 1, 10), Ok(Answer::Committed));
        assert_eq!(first.seal(slice(1)), 1);
        // Its name is durable, as it may become at any time.
        machine.sync_names(&Path::new(VOLUME).join("slices"));
        first.volume.release(slice(1));
        first.settle();
        // The segment with the release is full, and given back.
        assert_eq!(first.append(slice(2), 1, 6_000), Ok(Answer::Committed));
        first.settle();
        let journal = machine.files(&Path::new(VOLUME).join("journal"));
        assert!(
            !journal
                .iter()
                .any(|(path, _)| path.ends_with("0000000000000001.segment"))
        );
        machine.end(End::PowerLost);
        sound(&machine);
    }
}

/// Of a slice with a weak promise a loss of power may leave the file and not the entries of the journal.
#[test]
fn a_file_whose_slice_the_journal_lost_is_named_and_taken_up_by_the_slice_again() {
    let weak = || SliceSpec {
        durability: Durability::Cache,
        ..spec(slice(9))
    };
    let mut named = 0;
    for seed in 0..50 {
        let machine = machine(seed);
        let mut first = sound(&machine);
        first.volume.open_slice(weak());
        let run = usize::try_from(20 * SEGMENT).expect("it is short");
        assert_eq!(first.append(slice(9), 1, run), Ok(Answer::Committed));
        first.flush.step(false);
        let path = first.volume.slice_path(slice(9));
        machine.sync_names(&Path::new(VOLUME).join("slices"));
        machine.end(End::PowerLost);
        let mut second = open(&machine).expect("it opens whatever is lost");
        if second.recovery.unknown_files.is_empty() {
            continue;
        }
        named += 1;
        assert_eq!(second.recovery.unknown_files, std::slice::from_ref(&path));
        assert!(machine.content(&path).is_some());
        second.volume.open_slice(weak());
        assert_eq!(second.append(slice(9), 1, 10), Ok(Answer::Committed));
        assert_eq!(second.seal(slice(9)), 1);
        assert!(machine.content(&path).expect("it is sealed").len() < 1_000);
        machine.end(End::Killed);
        sound(&machine);
    }
    assert!(named > 10, "{named}");
}

#[test]
fn a_journal_of_one_long_segment_is_not_full_for_ever() {
    let machine = machine(1);
    let mut first = sound(&machine);
    let long = usize::try_from(10 * SEGMENT).expect("it is short");
    assert_eq!(first.append(slice(1), 1, long), Ok(Answer::Committed));
    first.settle();
    assert_eq!(first.append(slice(1), 2, 10), Ok(Answer::Committed));
    // Nothing of the long segment is kept but as ballast, which is to be as long as the longest.
    first.settle();
    for (path, len) in machine.files(&Path::new(VOLUME).join("journal")) {
        let is_ballast = path.extension().is_some_and(|it| it == "ballast");
        assert!(is_ballast || len <= SEGMENT, "{} {len}", path.display());
    }
}

#[test]
fn what_a_batch_is_told_of_a_slice_that_its_own_group_seals_is_durable() {
    let machine = machine(1);
    let mut first = sound(&machine);
    let early = first.connection.append(batch(slice(1), 1, 10));
    let seal = first.volume.seal(slice(1), None);
    let late = first.connection.append(batch(slice(1), 2, 10));
    machine.fail_next("sync", ".spare");
    for pending in [early, late] {
        let Ok(Answer::Refused(refusal)) = first.step(pending) else {
            panic!("nothing of the group was written")
        };
        assert_eq!(refusal.reason, RefusalReason::WriteFailed);
    }
    assert!(machine.has_failed_all());
    assert_eq!(first.step(seal), Err(Unknown));
    assert_eq!(first.last(slice(1)), 0);
}

#[test]
fn an_older_connection_stays_superseded_however_many_sessions_come() {
    let machine = machine(1);
    let mut first = sound(&machine);
    let newer = first.volume.connect(SESSION).expect("it is open");
    let opened = newer.open(vec![slice(1)]);
    assert!(first.step(opened).is_ok());
    for session in 0..5_000 {
        let other = first.volume.connect(SessionId(1_000 + session));
        let opened = other.expect("it is open").open(vec![slice(1)]);
        assert!(first.step(opened).is_ok());
    }
    let Ok(Answer::Refused(refusal)) = first.append(slice(1), 1, 10) else {
        panic!("a newer connection of the session exists")
    };
    assert_eq!(refusal.reason, RefusalReason::Superseded);
}

#[test]
fn a_cut_slice_file_is_known_to_every_checkpoint_that_is_kept() {
    let machine = machine(1);
    let mut first = sound(&machine);
    for seq in 1..=12 {
        let answer = first.append(slice(1), seq, 6_000);
        assert_eq!(answer, Ok(Answer::Committed));
        first.settle();
    }
    let path = first.volume.slice_path(slice(1));
    machine.end(End::Killed);
    let file = machine.content(&path).expect("a checkpoint wrote it");
    machine.set_content(&path, &file[..file.len() - 100]);
    let mut second = open_with(&machine, 1 << 30).expect("it opens whatever is lost");
    assert_eq!(second.recovery.damage.len(), 1, "{:?}", second.recovery);
    // The file grows to more than it had, and no checkpoint says so.
    for seq in 13..=14 {
        let answer = second.append(slice(1), seq, 6_000);
        assert_eq!(answer, Ok(Answer::Committed));
    }
    let rows = second.seal(slice(1));
    assert!(machine.content(&path).expect("it is sealed").len() > file.len());
    machine.end(End::Killed);
    let newest = machine.files(&Path::new(VOLUME).join("checkpoint")).pop();
    let (newest, _) = newest.expect("there are two");
    machine.set_content(&newest, b"damaged");
    let mut third = open(&machine).expect("it opens whatever is lost");
    assert_eq!(third.recovery.damage.len(), 1, "{:?}", third.recovery);
    assert_eq!(third.seal(slice(1)), rows);
    let file = machine.content(&path).expect("it is sealed");
    let lines = file.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(lines as u64, rows);
}

#[test]
fn a_segment_does_not_come_back_under_its_old_name_with_the_header_of_its_next_use() {
    for seed in 0..50 {
        let machine = machine(seed);
        let mut first = sound(&machine);
        assert_eq!(first.append(slice(1), 1, 10), Ok(Answer::Committed));
        assert_eq!(first.seal(slice(1)), 1);
        first.volume.release(slice(1));
        first.settle();
        drop(first.connection.append(batch(slice(2), 1, 6_000)));
        assert_eq!(first.commit.step(), Step::Worked);
        machine.fail_next("sync dir", "journal");
        first.flush.step(true);
        assert!(machine.has_failed_all());
        // The next segment gets its header, but not its name.
        machine.fail_next("rename", "0000000000000003.segment");
        drop(first.connection.append(batch(slice(2), 2, 6_000)));
        assert_eq!(first.commit.step(), Step::Worked);
        assert!(machine.has_failed_all());
        machine.end(End::PowerLost);
        sound(&machine);
    }
}

#[test]
fn a_segment_does_not_survive_without_the_one_before_it() {
    for seed in 0..50 {
        let machine = machine(seed);
        let mut first = sound(&machine);
        assert_eq!(first.append(slice(1), 1, 10), Ok(Answer::Committed));
        machine.fail_next("sync", ".spare");
        machine.fail_next("sync dir", "journal");
        assert_eq!(first.append(slice(1), 2, 10), Err(Unknown));
        machine.end(End::Killed);
        machine.fail_next("sync dir", "journal");
        assert!(open(&machine).is_err() && machine.has_failed_all());
        machine.end(End::PowerLost);
        sound(&machine);
    }
}
