//! Acknowledged is stored, wherever the process dies: at each point between the arrival of a record and the end of its
//! custody, also while it recovers from the death before.
//!
//! One directory goes through all of them, under load, so that each death meets what the ones before have left.
//! `STREAM_TEST_POINTS` names the points of a run, `STREAM_TEST_ROUNDS` says how often all of them are visited.

use std::sync::{Arc, Mutex};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use stream_storage::crash::{self, Point};
use stream_tests::service::{Course, Service};
use stream_tests::setup::Setup;
use tokio::time::Instant;

use crate::traffic::{AfterBreak, Fate, Running, Traffic};
use crate::verdict::{Verdict, assert_sound};
use crate::{new_setup, seed, sinks};

const CONNECTIONS: u64 = 8;
/// How often the process dies at the same point while it recovers.
const DEATHS_IN_RECOVERY: usize = 3;
/// A process that opens a volume and has acknowledged so many records will not come to a point of the opening any more.
const RECORDS_OF_ONE_THAT_LIVES: u64 = 60;
/// How often a volume is prepared anew whose opening did not come to its point.
const ATTEMPTS: usize = 5;

/// What a disk that sometimes does not sync makes the process say before it dies.
const ALLOWED: &[&str] = &[
    "the disk failed to write; the journal goes on in a new segment",
    "cannot make a journal segment",
    "cannot prepare a journal segment",
    "the volume failed and takes nothing more",
    "volume failed, it will be opened again",
    "volume still cannot be opened",
];
/// Some syncs of the journal fail, once the volume is open.
const FAILING_SYNCS: &str = "disk-sync=40*off->5%return(EIO:/journal/)";

/// When the process comes to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// At the first start of all, on an empty directory.
    First,
    /// Each time that it opens the volume.
    Opening,
    /// Each time that it opens a volume on which a slice is sealed and not uploaded.
    OpeningAfter(Point),
    /// While it takes records.
    Load,
}

/// One death.
#[derive(Debug, Clone, Copy)]
struct Case {
    point: Point,
    when: When,
    /// Only for files with this in their path.
    file: &'static str,
    /// Hits that are passed by, drawn from this many from the first on.
    first: u64,
    spread: u64,
    /// What is armed beside it.
    also: &'static str,
}

impl Case {
    const fn new(point: Point, when: When) -> Self {
        Self {
            point,
            when,
            file: "",
            first: 0,
            spread: 1,
            also: "",
        }
    }

    const fn file(self, file: &'static str) -> Self {
        Self { file, ..self }
    }

    const fn hits(self, first: u64, spread: u64) -> Self {
        Self {
            first,
            spread,
            ..self
        }
    }

    const fn also(self, also: &'static str) -> Self {
        Self { also, ..self }
    }

    /// The text of `FAILPOINTS`.
    fn armed(&self, rng: &mut StdRng) -> String {
        let passed = self.first + rng.random_range(0..self.spread);
        let off = match passed {
            0 => String::new(),
            passed => format!("{passed}*off->"),
        };
        let name = self.point.name();
        format!("{name}={off}return({});{}", self.file, self.also)
    }
}

/// When and how the process is to die at a point. Each point has at least one case.
fn cases(point: Point) -> Vec<Case> {
    use Point as P;

    let on = |when| Case::new(point, when);
    match point {
        P::GroupEncoded | P::GroupWritten | P::GroupSynced | P::GroupIndexed | P::GroupAnswered => {
            vec![on(When::Load).hits(0, 150)]
        }
        P::GroupFailed | P::GroupDiscarded => vec![on(When::Load).also(FAILING_SYNCS)],
        P::SegmentHeaded | P::SegmentRenamed | P::SegmentNamed => {
            vec![on(When::Opening), on(When::Load).hits(1, 1)]
        }
        // The second one is the spare one that is made at once: later ones are given back and used again.
        P::SegmentZeroed => vec![on(When::Opening), on(When::Load).hits(1, 1)],
        P::SegmentFull | P::SegmentPrepared => vec![on(When::Load)],
        P::RunPacked | P::RunWritten => vec![on(When::Load).hits(0, 6)],
        P::SegmentGivenBack
        | P::SegmentSpared
        | P::SegmentRemoved
        | P::SliceSynced
        | P::SlicesSynced
        | P::CheckpointWritten
        | P::CheckpointPruned => vec![on(When::Load)],
        P::SealCommitted
        | P::SliceCompleted
        | P::ContentComputed
        | P::SealRecording
        | P::SealRecorded
        | P::SliceReleased
        | P::ReleaseCommitted
        | P::SliceFileRemoved
        | P::SliceRemovalSynced
        | P::UploadStarting
        | P::UploadStored
        | P::UploadRecorded
        | P::SliceRotated
        | P::FileClosed
        | P::ImportBegun
        | P::ImportCommitted
        | P::ImportRecorded
        | P::ObjectWritten
        | P::ObjectDeleted => vec![on(When::Load).hits(0, 3)],
        P::ObjectSynced | P::PublicationLinked | P::PublicationUnlinked => {
            vec![on(When::Load).file("/webhooks/").hits(1, 3)]
        }
        P::ReplacementWritten | P::ReplacementSynced | P::ReplacementRenamed => vec![
            on(When::First).file("volume-id"),
            on(When::Load).file("/checkpoint/"),
        ],
        P::VolumeLocked | P::VolumeIdentified | P::JournalResumed | P::VolumeRegistered => {
            vec![on(When::First), on(When::Opening)]
        }
        P::CheckpointRead
        | P::SegmentsFound
        | P::CopySynced
        | P::CopyRenamed
        | P::JournalReplayed
        | P::SlicesChecked
        | P::SlicesTidied
        | P::VolumeRecovered
        | P::IncarnationRaised
        | P::RecoveredRecording
        | P::RecoveredRecorded => vec![on(When::Opening)],
        P::EntryReplayed => vec![on(When::Opening).hits(0, 20)],
        P::SealVerified => vec![on(When::OpeningAfter(P::UploadStarting))],
    }
}

/// The deaths of one round: in between those under load, those of an opening, which need something to recover.
fn round(rng: &mut StdRng, asked: &[String]) -> Vec<Case> {
    let is_asked =
        |point: &&Point| asked.is_empty() || asked.iter().any(|name| name == point.name());
    let mut all: Vec<Case> = Point::ALL
        .iter()
        .filter(is_asked)
        .flat_map(|point| cases(*point))
        .filter(|case| case.when != When::First)
        .collect();
    all.shuffle(rng);
    let (mut loads, mut openings): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|case| case.when == When::Load);
    let mut mixed = Vec::new();
    while !loads.is_empty() || !openings.is_empty() {
        mixed.extend(loads.pop());
        mixed.extend(openings.pop());
    }
    mixed
}

/// A number from the environment.
fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// The points that the environment asks for; none: all.
fn asked() -> Vec<String> {
    let text = std::env::var("STREAM_TEST_POINTS").unwrap_or_default();
    let names: Vec<String> = text
        .split([',', ' '])
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    for name in &names {
        let is_known = Point::ALL.iter().any(|point| point.name() == name);
        assert!(
            is_known,
            "STREAM_TEST_POINTS names {name}, which is no point"
        );
    }
    names
}

/// Small segments, slices and checkpoints, so that every kind of step is taken within a second or two.
fn small(setup: Setup) -> Setup {
    setup
        .importing_each_second()
        // Later than the uploads, so that slices are also rotated within a file, however slow the machine.
        .env("STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL", "2s")
        .env("STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_COUNT", "150")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_SEGMENT_SIZE", "1MB")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_CHECKPOINT_SIZE", "1MB")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_MAX_SIZE", "64MB")
        .env("STORAGE_METADATA_CLEANUP_INTERVAL", "1s")
        .env("STORAGE_METADATA_CLEANUP_ARCHIVED_FILE_EXPIRATION", "1s")
}

/// Whether the newest process died where it was told to.
fn assert_died_at(service: &Service, point: Point) {
    let log = service.newest_log();
    let name = format!("\"{}\"", point.name());
    let is_last_word = |line: &&String| line.contains("dying at a fail point");
    let last = log.iter().find(is_last_word);
    assert!(
        last.is_some_and(|line| line.contains(&name)),
        "the process did not die at {name}; it said:\n{}",
        log.join("\n")
    );
}

/// Dies at all points that a first start comes to.
async fn first_starts(setup: &Setup, rng: &mut StdRng) -> anyhow::Result<Service> {
    let all = Point::ALL.iter().flat_map(|point| cases(*point));
    let mut firsts = all.filter(|case| case.when == When::First);
    let first = firsts.next().context("there are some")?;
    let mut service = Service::start_to_die(setup.clone().fail_points(&first.armed(rng))).await?;
    assert_died_at(&service, first.point);
    for case in firsts {
        service.arm(&case.armed(rng));
        let course = service.restart_to_die(|| {}, || true).await?;
        ensure!(course == Course::Died, "{case:?} lives");
        assert_died_at(&service, case.point);
    }
    service.arm("");
    service.restart().await?;
    Ok(service)
}

/// The process is dead, dies at a point and is dead again.
async fn die(
    service: &mut Service,
    running: &Running,
    case: Case,
    rng: &mut StdRng,
) -> anyhow::Result<()> {
    let ready = || running.restarted();
    if case.when == When::Load {
        service.arm(&case.armed(rng));
        service.restart_to_die(ready, || false).await?;
        assert_died_at(service, case.point);
        return Ok(());
    }
    let mut deaths = 0;
    for _ in 0..ATTEMPTS {
        if let When::OpeningAfter(point) = case.when {
            service.arm(&format!("{}=return", point.name()));
            service.restart_to_die(ready, || false).await?;
            assert_died_at(service, point);
        }
        service.arm(&case.armed(rng));
        let before = running.count();
        let enough = || running.count() > before + RECORDS_OF_ONE_THAT_LIVES;
        while deaths < DEATHS_IN_RECOVERY {
            if service.restart_to_die(ready, enough).await? == Course::Lived {
                // The next one has what this one took.
                break;
            }
            assert_died_at(service, case.point);
            deaths += 1;
        }
        if deaths == DEATHS_IN_RECOVERY {
            return Ok(());
        }
    }
    anyhow::bail!("the opening of the volume does not come to the point")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_point_to_die_at_loses_or_doubles_a_record() {
    const { assert!(crash::COMPILED, "the tests are built without fail points") };
    let seed = seed("crash points");
    let mut rng = StdRng::seed_from_u64(seed);
    let (_scratch, setup) = new_setup();
    let setup = small(setup);
    let tables = setup.tables();
    let mut service = first_starts(&setup, &mut rng).await.expect("it starts");
    let source = sinks::create(&service.api().expect("a token"), "webhooks").await;
    let traffic = Arc::new(Traffic {
        seed,
        records: u64::MAX,
        connections: CONNECTIONS,
        address: service.setup().source_address(),
        source: source.expect("it is created"),
        after_break: AfterBreak::Reconnect,
        made: Mutex::default(),
    });

    let (asked, rounds) = (asked(), number("STREAM_TEST_ROUNDS", 1));
    let mut running = traffic.start();
    running.acknowledged(200).await.expect("it takes records");
    service.kill().await.expect("it runs");
    let mut deaths = 0;
    for _ in 0..rounds {
        for case in round(&mut rng, &asked) {
            let begun = Instant::now();
            let died = die(&mut service, &running, case, &mut rng).await;
            died.unwrap_or_else(|error| panic!("{case:?}: {error:#}"));
            deaths += 1;
            eprintln!(
                "{:>6} ms {} {:?}",
                begun.elapsed().as_millis(),
                case.point.name(),
                case.when
            );
        }
    }
    service.arm("");
    service.restart().await.expect("it starts again");
    running.restarted();
    running.enough();
    let fates = running
        .finish()
        .await
        .expect("the answers are the right ones");

    let verdict = Verdict::new(&traffic, &fates);
    let [acknowledged, refused, unknown] =
        [Fate::Acknowledged, Fate::Refused, Fate::Unknown].map(|fate| verdict.count(fate));
    eprintln!(
        "crash points: {deaths} cases, {acknowledged} acknowledged, {refused} refused, {unknown} unknown"
    );
    verdict
        .wait_for_import(&tables)
        .await
        .expect("all records are imported");
    service.stop().await.expect("it stops");
    verdict
        .check(&tables)
        .expect("the tables hold what was acknowledged");
    assert_sound(service.setup()).await;
    service.assert_quiet(ALLOWED);
}
