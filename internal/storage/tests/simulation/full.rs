//! A disk that is full or fails for a while, and the limits of a volume: what is refused, what goes on, what comes back.

use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use stream_model::SinkKey;
use stream_storage::local::{Health, OpenError, Options};
use stream_storage::wire::{Answer, RefusalReason};

use super::disk::{End, Machine};
use super::regressions::{Open, machine, open_as, slice};

const VOLUME: &str = "/volumes/default/simulated";
const SEGMENT: u64 = 512 << 10;
const ROW: usize = 8 << 10;
const PLENTY: u64 = 1 << 30;

fn options(options: &mut Options) {
    options.segment_bytes = SEGMENT;
    options.checkpoint_bytes = 8 * SEGMENT;
    options.max_journal_bytes = 64 * SEGMENT;
    options.reserve_bytes = SEGMENT;
}

fn open(machine: &Arc<Machine>) -> Result<Open, OpenError> {
    open_as(machine, options)
}

/// Somebody else takes everything that is free.
fn fill(machine: &Machine) {
    let used: u64 = ["", "journal", "checkpoint", "slices"]
        .iter()
        .flat_map(|dir| machine.files(&Path::new(VOLUME).join(dir)))
        .map(|(_, len)| len)
        .sum();
    machine.set_capacity(used);
}

fn sink(name: &str) -> SinkKey {
    let key = format!(r#"{{"project":1,"branch":1,"source":"source","sink":"{name}"}}"#);
    serde_json::from_str(&key).expect("it is a key")
}

fn refused(answer: &Result<Answer, stream_storage::wire::Unknown>) -> Option<RefusalReason> {
    match answer {
        Ok(Answer::Refused(refusal)) => Some(refusal.reason),
        _ => None,
    }
}

/// A volume with so many rows in its newest segment, and everything that it keeps for a full disk.
fn filled(machine: &Arc<Machine>, rows: u64) -> Open {
    let mut first = open(machine).expect("there is room");
    first.settle();
    for seq in 1..=rows {
        let answer = first.append(slice(1), seq, ROW);
        assert_eq!(answer, Ok(Answer::Committed), "row {seq}");
    }
    first.settle();
    first
}

/// Seals a slice however many seconds that takes. Returns its rows.
fn seal(open: &mut Open, n: u8) -> u64 {
    let mut pending = open.volume.seal(slice(n), None);
    for _ in 0..20 {
        open.commit.step();
        open.flush.step(true);
        if let Some(content) = (&mut pending).now_or_never() {
            return content.expect("it is sealed").figures.rows;
        }
    }
    panic!("slice {n} is not sealed: {:?}", open.volume.status());
}

/// Whoever has filled the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thief {
    /// Leaves alone what becomes free afterwards.
    Sated,
    /// Takes that too, after each opening.
    Greedy,
}

/// Lives of a volume on a full disk, with so many rows in its newest segment. Then there is room again.
fn live_on_a_full_disk(rows: u64, thief: Thief) {
    let machine = machine(rows);
    let first = filled(&machine, rows);
    fill(&machine);
    machine.end(End::Killed);
    drop(first);
    for life in 0..5 {
        let opened = open(&machine);
        let mut next = opened.unwrap_or_else(|error| panic!("{rows} rows, life {life}: {error}"));
        assert_eq!(next.recovery.damage, []);
        assert_eq!(next.recovery.rows, rows);
        if thief == Thief::Greedy {
            fill(&machine);
            next.settle();
            let answer = next.append(slice(1), rows + 1, ROW);
            assert_eq!(refused(&answer), Some(RefusalReason::DiskFull));
        }
        machine.end(End::Killed);
    }
    let mut last = open(&machine).expect("it opens again and again");
    if thief == Thief::Greedy {
        machine.set_capacity(PLENTY);
    }
    // Sealed, so it can be uploaded; then it makes room.
    assert_eq!(seal(&mut last, 1), rows);
    last.volume.release(slice(1));
    last.settle();
    machine.set_capacity(PLENTY);
    last.settle();
    assert_eq!(last.append(slice(2), 1, ROW), Ok(Answer::Committed));
    last.settle();
    let journal = machine.files(&Path::new(VOLUME).join("journal"));
    let is_kept = |path: &Path| path.extension().is_some_and(|it| it == "ballast");
    let kept = journal.iter().filter(|(path, _)| is_kept(path));
    assert_eq!(kept.count(), 2, "{journal:?}");
}

#[test]
fn a_volume_opens_on_a_full_disk_as_often_as_it_is_killed_and_seals_what_it_has() {
    // Few rows, and nearly a segment of them: what is written anew is short or long.
    for rows in [0, 1, 20, 41, 100] {
        live_on_a_full_disk(rows, Thief::Sated);
        live_on_a_full_disk(rows, Thief::Greedy);
    }
}

#[test]
fn slices_are_sealed_on_a_full_disk_when_their_segment_is_full_too() {
    let machine = machine(1);
    // Each group takes blocks of its own: these fill the segment, and there is no other.
    let rows = 41;
    let mut first = filled(&machine, rows);
    let journal = Path::new(VOLUME).join("journal");
    for (path, _) in machine.files(&journal) {
        if path.extension().is_some_and(|it| it == "spare") {
            machine.remove(&path);
        }
    }
    fill(&machine);
    first.settle();
    for n in [2, 3] {
        for _ in 0..3 {
            // A seal that was given up is asked for again, and takes a group of its own.
            drop(first.volume.seal(slice(n), None));
        }
        assert_eq!(seal(&mut first, n), 0);
    }
    assert_eq!(seal(&mut first, 1), rows);
    assert_eq!(first.volume.status().health, Health::Full);
}

#[test]
fn a_sink_at_its_limit_is_refused_alone_and_goes_on_when_its_slices_are_released() {
    let machine = machine(1);
    let mut first = open_as(&machine, |it| {
        options(it);
        it.max_sink_bytes = Some(10 * ROW as u64);
    })
    .expect("there is room");
    for (n, name) in [(1, "a"), (2, "b"), (3, "a")] {
        first.volume.attribute(slice(n), &sink(name));
    }
    for seq in 1..=10 {
        assert_eq!(first.append(slice(1), seq, ROW), Ok(Answer::Committed));
    }
    let answer = first.append(slice(1), 11, ROW);
    assert_eq!(refused(&answer), Some(RefusalReason::SinkFull(slice(1))));
    let answer = first.append(slice(3), 1, ROW);
    assert_eq!(refused(&answer), Some(RefusalReason::SinkFull(slice(3))));
    assert_eq!(first.append(slice(2), 1, ROW), Ok(Answer::Committed));
    assert_eq!(first.volume.status().health, Health::Healthy);
    assert_eq!(first.seal(slice(1)), 10);
    first.volume.release(slice(1));
    first.settle();
    assert_eq!(first.append(slice(3), 1, ROW), Ok(Answer::Committed));
}

#[test]
fn what_an_earlier_run_has_left_counts_for_its_sink() {
    let machine = machine(1);
    let limited = |it: &mut Options| {
        options(it);
        it.max_sink_bytes = Some(10 * ROW as u64);
    };
    let mut first = open_as(&machine, limited).expect("there is room");
    for seq in 1..=10 {
        assert_eq!(first.append(slice(1), seq, ROW), Ok(Answer::Committed));
    }
    first.settle();
    machine.end(End::Killed);
    let mut second = open_as(&machine, limited).expect("it opens");
    second.volume.attribute(slice(1), &sink("a"));
    let answer = second.append(slice(1), 11, ROW);
    assert_eq!(refused(&answer), Some(RefusalReason::SinkFull(slice(1))));
}

#[test]
fn a_volume_at_its_limit_refuses_everything_until_slices_are_released() {
    let machine = machine(1);
    let mut first = open_as(&machine, |it| {
        options(it);
        it.max_bytes = Some(8 * SEGMENT);
    })
    .expect("there is room");
    let mut seq = 0;
    let full = loop {
        let answer = first.append(slice(1), seq + 1, ROW);
        if answer != Ok(Answer::Committed) {
            break refused(&answer);
        }
        seq += 1;
        assert!(seq < 1000, "there is no limit");
    };
    assert_eq!(full, Some(RefusalReason::VolumeFull));
    let status = first.volume.status();
    assert!(status.journal_bytes + status.slice_bytes >= 8 * SEGMENT);
    assert_eq!(first.seal(slice(1)), seq);
    first.volume.release(slice(1));
    first.settle();
    assert_eq!(first.append(slice(2), 1, ROW), Ok(Answer::Committed));
    first.settle();
    assert_eq!(first.volume.status().health, Health::Healthy);
}

#[test]
fn after_a_failed_sync_nothing_is_written_until_a_probe_succeeds() {
    let machine = machine(1);
    let mut first = filled(&machine, 1);
    let health = first.volume.health();
    let segments = |machine: &Machine| {
        let files = machine.files(&Path::new(VOLUME).join("journal"));
        let is_segment = |path: &Path| path.extension().is_some_and(|it| it == "segment");
        files.iter().filter(|(path, _)| is_segment(path)).count()
    };
    let before = segments(&machine);
    machine.fail_next("sync", ".spare");
    let answer = first.append(slice(1), 2, ROW);
    assert_eq!(refused(&answer), Some(RefusalReason::WriteFailed));
    let Health::Suspended(reason) = health.borrow().clone() else {
        panic!("it does not say that its disk fails")
    };
    assert!(reason.contains("injected"), "{reason}");
    // However many try, the disk is left alone.
    let (operations, _) = machine.trace();
    for _ in 0..10 {
        let answer = first.append(slice(1), 2, ROW);
        assert_eq!(refused(&answer), Some(RefusalReason::WriteFailed));
    }
    let seal = first.volume.seal(slice(2), None);
    first.commit.step();
    assert_eq!(machine.trace().0, operations);
    assert_eq!(segments(&machine), before + 1);
    // The first probe fails, too; the second one comes after two ticks.
    machine.fail_next("sync", ".spare");
    first.flush.step(true);
    first.commit.step();
    assert!(machine.has_failed_all());
    first.flush.step(true);
    first.commit.step();
    assert!(matches!(*health.borrow(), Health::Suspended(_)));
    first.flush.step(true);
    first.commit.step();
    assert_eq!(*health.borrow(), Health::Healthy);
    // The seal was not forgotten.
    assert_eq!(first.step(seal).expect("sealed").figures.rows, 0);
    assert_eq!(first.append(slice(1), 2, ROW), Ok(Answer::Committed));
    machine.end(End::PowerLost);
    let mut second = open(&machine).expect("it opens");
    assert_eq!(second.recovery.damage, []);
    assert_eq!(second.last(slice(1)), 2);
}
