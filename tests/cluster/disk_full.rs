//! Disks that somebody else fills to the last byte, and limits that a volume or a sink has.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, ensure};
use stream_tests::client::{Api, PATIENCE, PAUSE, Source};
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests::table::Tables;
use stream_tests::tmpfs::Tmpfs;
use tokio::time::{Instant, sleep};

use crate::numbers::{self, Numbers, Refused};
use crate::sinks::{self, TEMPLATES};
use crate::traffic::{AfterBreak, Fate, Traffic};
use crate::verdict::Verdict;
use crate::{new_setup, seed};

/// What a service may say of a disk that is full.
const FULL: &[&str] = &[
    "the volume is full and takes no batches until there is room",
    "there is no room for a journal segment",
    "the disk is full, the volume opens with the room it has kept",
    "cannot write a slice file",
    "cannot complete a slice file",
    "cannot make a checkpoint",
    "cannot prepare a journal segment",
    "cannot keep room for a full disk",
    "the disk of the state store is full, its ballast is given up",
    "staging is full, uploads wait for room",
];
/// What it may say beside that when tables and staging are on the same disk.
const FULL_EVERYWHERE: &[&str] = &["No space left", "database or disk is full", "round failed"];

/// A journal that turns quickly.
fn small(setup: Setup) -> Setup {
    setup
        .importing_each_second()
        .env("STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_COUNT", "500")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_SEGMENT_SIZE", "2MB")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_CHECKPOINT_SIZE", "8MB")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_MAX_SIZE", "64MB")
}

/// The volume, of these, that a source writes to.
async fn volume_of(setup: &Setup, source: &str, volumes: &[PathBuf]) -> anyhow::Result<usize> {
    let dump = setup.clone().words(&["state", "dump", "json"]);
    let dumped = dump.run_to_end().await?;
    ensure!(
        dumped.success,
        "the state cannot be read: {}",
        dumped.stderr
    );
    let assignment = format!("entity/assignment/1/1/{source}");
    let line = dumped
        .stdout
        .lines()
        .find(|line| line.contains(&assignment));
    let line = line.with_context(|| format!("{source} has no volume: {}", dumped.stdout))?;
    for (position, volume) in volumes.iter().enumerate() {
        let id = std::fs::read_to_string(volume.join("volume-id"))?;
        if line.contains(id.trim()) {
            return Ok(position);
        }
    }
    anyhow::bail!("{source} is on another volume: {line}")
}

/// A source with one sink on another volume than `taken`.
async fn source_elsewhere(
    api: &Api,
    setup: &Setup,
    volumes: &[PathBuf],
    taken: usize,
) -> anyhow::Result<Source> {
    for attempt in 0..50 {
        let source = numbers::create(api, &format!("numbers-{attempt}")).await?;
        if volume_of(setup, &source.id, volumes).await? != taken {
            return Ok(source);
        }
    }
    anyhow::bail!("all sources are on the same volume")
}

/// Fails when a refusal does not say what it should. Prints how long they took.
fn check_refusals(test: &str, refused: &[Refused]) {
    for refusal in refused {
        assert!(refusal.has_retry_after, "{refusal:?}");
        assert!(matches!(refusal.status, 503 | 507), "{refusal:?}");
    }
    let slowest = refused.iter().map(|it| it.took).max().unwrap_or_default();
    eprintln!(
        "{test}: {} refusals, p99 {:?}, slowest {slowest:?}",
        refused.len(),
        numbers::p99(refused)
    );
}

async fn wait_until_ready(setup: &Setup) {
    let deadline = Instant::now() + PATIENCE;
    while !setup.readiness().await.is_ok_and(|report| report.is_ready) {
        assert!(Instant::now() < deadline, "it is not ready");
        sleep(PAUSE).await;
    }
}

/// Everything that two sources on two disks need.
struct TwoDisks {
    service: Service,
    disks: [Tmpfs; 2],
    tables: PathBuf,
    /// The disk of the first source.
    full: usize,
    first: Source,
    second: Source,
}

impl TwoDisks {
    async fn start(setup: Setup) -> anyhow::Result<Option<Self>> {
        let volumes = ["a", "b"].map(|label| setup.data_dir().join("volumes/default").join(label));
        let mut disks = Vec::new();
        for path in &volumes {
            let Some(disk) = Tmpfs::mount(path, 96 << 20)? else {
                return Ok(None);
            };
            disks.push(disk);
        }
        let disks = disks.try_into().ok().context("two were mounted")?;
        let setup = small(setup).env("STORAGE_LEVEL_LOCAL_RESERVE", "16MB");
        let tables = setup.tables();
        let service = Service::start(setup).await?;
        let api = service.api()?;
        let first = numbers::create(&api, "first").await?;
        let full = volume_of(service.setup(), &first.id, &volumes).await?;
        let second = source_elsewhere(&api, service.setup(), &volumes, full).await?;
        Ok(Some(Self {
            service,
            disks,
            tables,
            full,
            first,
            second,
        }))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_turns_its_sources_away_and_nobody_else_also_after_a_kill() {
    let (_scratch, setup) = new_setup();
    let Some(mut test) = TwoDisks::start(setup).await.expect("it starts") else {
        return;
    };
    let address = test.service.setup().source_address();
    let (id, other_id) = (test.first.id.clone(), test.second.id.clone());
    let mut first = Numbers::start(address, test.first.clone(), 8);
    let mut second = Numbers::start(address, test.second.clone(), 2);
    first.more(1500).await.expect("there is room");
    second.more(100).await.expect("there is room");

    let disk = &test.disks[test.full];
    disk.fill().expect("there is a disk");
    let refused = first.refusals(1000).await.expect("there is no room");
    check_refusals("disk full", &refused);
    assert!(refused.iter().any(|it| it.status == 507), "{refused:?}");
    second.more(300).await.expect("the other disk has room");
    assert!(second.refused().is_empty(), "{:?}", second.refused());
    // Uploads go on: whatever was acknowledged comes to the table although the disk stays full.
    let acknowledged = i64::try_from(first.acknowledged()).expect("it fits");
    let in_table = numbers::wait_for_rows(&test.tables, &id, acknowledged).await;
    in_table.expect("slices of a full disk are uploaded");

    // What became free by that is taken, too.
    disk.fill().expect("there is a disk");
    test.service.kill().await.expect("it runs");
    let since = Instant::now();
    test.service
        .restart()
        .await
        .expect("it starts on a full disk");
    eprintln!("disk full: ready {:?} after a kill", since.elapsed());
    first.refusals(100).await.expect("there is still no room");
    second.more(100).await.expect("the other disk has room");

    disk.clear().expect("it was filled");
    let took = first.more(1).await.expect("it goes on by itself");
    eprintln!("disk full: records are taken {took:?} after there was room");
    first.more(1000).await.expect("it goes on");
    let (first, second) = (first.stop().await, second.stop().await);
    for (id, fates) in [(id, first), (other_id, second)] {
        let fates = fates.expect("the answers are the right ones");
        let checked = numbers::check(&test.tables, &id, &fates).await;
        checked.expect("the table holds what was acknowledged");
    }
    test.service.stop().await.expect("it stops");
    test.service.assert_quiet(FULL);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_installation_on_one_full_disk_starts_and_goes_on_when_there_is_room() {
    let seed = seed("everything on a full disk");
    let (scratch, setup) = new_setup();
    let data = setup.data_dir().to_owned();
    let Some(disk) = Tmpfs::mount(&data, 320 << 20).expect("a directory") else {
        return;
    };
    // More than the ballast of the state: giving that up is no room for records.
    let setup = small(setup).env("STORAGE_LEVEL_LOCAL_RESERVE", "64MB");
    let tables = setup.tables();
    let mut service = Service::start(setup).await.expect("it starts");
    let source = sinks::create(&service.api().expect("a token"), "webhooks").await;
    let traffic = Arc::new(Traffic {
        seed,
        records: 4000,
        connections: 8,
        address: service.setup().source_address(),
        source: source.expect("it is created"),
        after_break: AfterBreak::Reconnect,
        made: Mutex::default(),
    });
    let mut running = traffic.start();
    running.acknowledged(1500).await.expect("there is room");
    disk.fill().expect("there is a disk");
    let free = ballast_is_given_up(&data).await;
    eprintln!("everything on a full disk: ballast given up after {free:?}");
    service.kill().await.expect("it runs");
    let since = Instant::now();
    service.restart().await.expect("it starts on a full disk");
    eprintln!(
        "everything on a full disk: ready after {:?}",
        since.elapsed()
    );
    running.restarted();
    assert!(Tables::open(&tables).is_ok(), "tables can be read");

    disk.clear().expect("it was filled");
    wait_until_ready(service.setup()).await;
    let fates = running.finish().await.expect("the answers are right");
    let verdict = Verdict::new(&traffic, &fates);
    assert!(verdict.count(Fate::Acknowledged) > 3500);
    let imported = verdict.wait_for_import(&tables).await;
    imported.expect("all records are imported");
    service.stop().await.expect("it stops");
    verdict
        .check(&tables)
        .expect("the tables hold what was acknowledged");
    let rows = Tables::open(&tables).and_then(|tables| tables.rows(TEMPLATES));
    assert!(rows.expect("readable") > 0);
    service.assert_quiet(&[FULL, FULL_EVERYWHERE].concat());
    drop((service, disk, scratch));
}

/// Waits until the state has noticed that the disk is full. Returns after how long.
async fn ballast_is_given_up(data: &Path) -> std::time::Duration {
    let since = Instant::now();
    while data.join("state/ballast").exists() {
        assert!(since.elapsed() < PATIENCE, "the ballast is kept");
        sleep(PAUSE).await;
    }
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_at_its_limit_is_refused_alone_until_its_slices_are_uploaded() {
    let (_scratch, setup) = new_setup();
    // Slices stay on the volume until they are told to close: nothing else frees what the sink holds.
    let setup = setup
        .env("STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL", "8s")
        .env("STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL", "8s")
        .env("STORAGE_LEVEL_LOCAL_SINK_MAX_SIZE", "1MB");
    let tables = setup.tables();
    let mut service = Service::start(setup).await.expect("it starts");
    let api = service.api().expect("a token");
    let greedy = numbers::create(&api, "greedy").await.expect("created");
    let modest = numbers::create(&api, "modest").await.expect("created");
    let address = service.setup().source_address();
    let mut many = Numbers::start(address, greedy, 8);
    let refused = many.refusals(50).await.expect("there is a limit");
    check_refusals("sink at its limit", &refused);
    for refusal in &refused {
        assert_eq!(
            (refusal.status, refusal.error.as_str()),
            (507, "stream.in.insufficientStorage")
        );
        let key = "storage.level.local.sink.maxSize";
        assert!(refusal.message.contains(key), "{}", refusal.message);
    }
    let mut few = Numbers::start(address, modest, 1);
    few.more(50)
        .await
        .expect("the other sink is below its limit");
    assert!(few.refused().is_empty(), "{:?}", few.refused());
    let took = many.more(1).await.expect("uploading makes room");
    eprintln!("sink at its limit: records are taken again after {took:?}");
    for (id, running) in [("greedy", many), ("modest", few)] {
        let fates = running.stop().await.expect("the answers are right");
        let checked = numbers::check(&tables, id, &fates).await;
        checked.expect("the table holds what was acknowledged");
    }
    service.stop().await.expect("it stops");
    service.assert_quiet(&["the sink holds as much on the volume as it may"]);
}
