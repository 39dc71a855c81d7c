//! A disk that does not sync any more, and works again later.

use std::path::Path;

use anyhow::{Context, ensure};
use hyper::Method;
use stream_tests::client::{PATIENCE, PAUSE, request, send_once};
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use tokio::time::{Instant, sleep};

use crate::new_setup;
use crate::numbers::{self, Numbers};

/// What a service may say of a disk that fails.
const FAILING: &[&str] = &[
    "the disk failed to write",
    "the volume failed and takes nothing more",
    "volume failed, it will be opened again",
    "volume still cannot be opened",
    "outcome of a batch is still unknown",
    "the volume stopped before slice",
    "cannot prepare a journal segment",
    "cannot keep room for a full disk",
    "round failed",
];

/// The reason that `/ready` gives for the writer, when it gives one.
async fn unready(setup: &Setup) -> anyhow::Result<Option<String>> {
    let reply = send_once(setup.metrics_address(), request(Method::GET, "/ready", "")).await?;
    let body = reply.json();
    let writer = &body["components"]["storage-writer"];
    Ok((reply.status != 200).then(|| writer.to_string()))
}

/// The value of a metric of the volume.
async fn metric(setup: &Setup, name: &str, label: &str) -> anyhow::Result<f64> {
    let metrics = request(Method::GET, "/metrics", "");
    let reply = send_once(setup.metrics_address(), metrics).await?;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let series = format!("{name}{{volume=\"{label}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&series));
    let line = line.with_context(|| format!("there is no {series}"))?;
    Ok(line.trim().parse()?)
}

/// Waits until the volume is, or is not, healthy; by its metric and by what the process says of its readiness.
async fn wait_for_health(
    setup: &Setup,
    label: &str,
    healthy: bool,
) -> anyhow::Result<Option<String>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = metric(setup, "stream_volume_healthy", label).await?;
        let reason = unready(setup).await?;
        if (shown > 0.5) == healthy && reason.is_none() == healthy {
            return Ok(reason);
        }
        ensure!(
            Instant::now() < deadline,
            "volume {label} is {shown}, the process says {reason:?}"
        );
        sleep(PAUSE).await;
    }
}

/// Two volumes for one source. Syncs of the journal of the first fail while the file `switch` exists.
fn failing_while(setup: Setup, switch: &Path) -> Setup {
    for label in ["a", "b"] {
        let path = setup.data_dir().join("volumes/default").join(label);
        std::fs::create_dir_all(path).expect("a directory");
    }
    let fault = format!(
        "disk-sync=return(EIO:/default/a/journal:{})",
        switch.display()
    );
    let mut setup = setup
        .importing_each_second()
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_SEGMENT_SIZE", "2MB")
        .env("STORAGE_LEVEL_LOCAL_JOURNAL_CHECKPOINT_SIZE", "8MB")
        .env("STORAGE_LEVEL_LOCAL_VOLUME_ASSIGNMENT_COUNT", "2");
    setup.env.push(("FAILPOINTS".to_owned(), fault));
    setup
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_records_of_a_failing_disk_go_to_another_one_and_it_comes_back_by_itself() {
    let (scratch, setup) = new_setup();
    let switch = scratch.join("failing");
    let setup = failing_while(setup, &switch);
    let tables = setup.tables();
    let mut service = Service::start(setup.clone()).await.expect("it starts");
    let api = service.api().expect("a token");
    let source = numbers::create(&api, "numbers").await.expect("created");
    let mut clients = Numbers::start(setup.source_address(), source, 8);
    clients.more(500).await.expect("both disks work");

    std::fs::write(&switch, "").expect("writable");
    let reason = wait_for_health(&setup, "default/a", false).await;
    let reason = reason.expect("it is noticed").expect("with a reason");
    assert!(reason.contains("default/a"), "{reason}");
    let took = clients.more(500).await.expect("the other disk works");
    eprintln!("failing disk: {reason}; 500 more records after {took:?}");
    assert!(
        metric(&setup, "stream_volume_healthy", "default/b")
            .await
            .is_ok_and(|it| it > 0.5)
    );

    std::fs::remove_file(&switch).expect("it was there");
    let since = Instant::now();
    wait_for_health(&setup, "default/a", true)
        .await
        .expect("it comes back");
    eprintln!("failing disk: healthy {:?} after it works", since.elapsed());
    clients.more(500).await.expect("both disks work");
    let fates = clients
        .stop()
        .await
        .expect("the answers are the right ones");
    numbers::check(&tables, "numbers", &fates)
        .await
        .expect("the table holds what was acknowledged");
    service.stop().await.expect("it stops");
    service.assert_quiet(FAILING);
}
