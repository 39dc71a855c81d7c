//! One directory, several processes: the next one waits until the volume is free and takes it over.

use std::path::Path;
use std::process::Command;

use stream_tests::service::Service;
use tokio::time::{Instant, sleep};

use super::installation::{Installation, create, id_of, not_ready};
use super::load::Load;
use super::{AFTER_A_PAUSE, number, pause, rounds};
use crate::traffic::Fate;

/// What a process says, once, while another one has its volume.
const WAITS: &str = "volume is taken over as soon as it is free";

/// The same directory under another path, removed when dropped.
struct BindMount<'a>(Option<&'a Path>);

impl<'a> BindMount<'a> {
    /// Mounts a directory on another one, where that is allowed.
    fn new(from: &Path, to: &'a Path) -> Self {
        let mut mount = Command::new("mount");
        let mounted = mount.arg("--bind").arg(from).arg(to).output();
        let is_there = mounted.is_ok_and(|mounted| mounted.status.success());
        if !is_there {
            eprintln!("skipped: a directory cannot be mounted here");
        }
        Self(is_there.then_some(to))
    }
}

impl Drop for BindMount<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // Processes may still have it open; the name goes at once.
            let _ = Command::new("umount").arg("--lazy").arg(path).status();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_has_one_writer_whatever_its_path_is_and_the_next_takes_over_from_a_killed_one() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let own = site.volumes("volumes", &["local"]);
    let mut first = Service::start(site.node("a", &own)).await.expect("starts");
    let source = create(&first).await;
    let volume = id_of(&own.join("default/local"));
    let linked = site.volumes("linked", &[]).join("default");
    std::fs::create_dir_all(&linked).expect("created");
    let link = linked.join("link");
    std::os::unix::fs::symlink(own.join("default/local"), &link).expect("linked");
    let mounted = site.volumes("mounted", &["mount"]);
    let mount = mounted.join("default/mount");
    let bound = BindMount::new(&own.join("default/local"), &mount);

    let mut others = vec![site.node("b", &site.path("linked"))];
    others.extend(bound.0.map(|_| site.node("c", &mounted)));
    let mut addresses = vec![first.setup().source_address()];
    let load = Load::start(&addresses, &source, 0);
    load.more(100).await.expect("acknowledged");
    let mut waiting = Vec::new();
    for setup in others {
        addresses.push(setup.source_address());
        let service = Service::spawn(setup).expect("it starts");
        service.until_said(WAITS).await.expect("it waits");
        let reason = not_ready(service.setup()).await;
        assert!(reason.contains("in use by another process"), "{reason}");
        waiting.push(service);
    }
    load.longest_gap();
    load.more(400).await.expect("the first goes on");
    let sent = load.stop().await.expect("the right answers");
    assert!(
        sent.refusals.is_empty(),
        "the first is undisturbed: {:?}",
        sent.refusals
    );
    assert_eq!(sent.count(Fate::Unknown), 0);
    assert_eq!(
        site.incarnation(&volume).await,
        1,
        "nobody else has opened it"
    );

    let load = Load::start(&addresses, &source, sent.next());
    let mut all = sent;
    load.more(200).await.expect("acknowledged");
    load.longest_gap();
    first.kill().await.expect("it runs");
    load.more(400).await.expect("another one goes on");
    eprintln!(
        "killed: nothing was acknowledged for {} ms",
        load.longest_gap().as_millis()
    );
    all.add(load.stop().await.expect("the right answers"));
    assert_eq!(site.incarnation(&volume).await, 2, "one has opened it");
    let mut services: Vec<&mut Service> = waiting.iter_mut().collect();
    site.settle("taking over", &all, &mut services).await;
    for service in &waiting {
        let waits = service
            .log()
            .iter()
            .filter(|line| line.contains(WAITS))
            .count();
        assert_eq!(waits, 1, "it says so once");
        service.assert_quiet(&[AFTER_A_PAUSE, &[WAITS]].concat());
    }
    first.assert_quiet(AFTER_A_PAUSE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_starts_before_the_old_one_has_ended_takes_over_from_it() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let volumes = site.volumes("volumes", &["local"]);
    let mut old = Service::start(site.node("a", &volumes))
        .await
        .expect("starts");
    // On the same machine, as its node id says. Both coordinators believe that everything is theirs.
    let again = site.node("b", &volumes).env("NODE_ID", "a");
    let mut new = Service::spawn(again).expect("starts");
    let source = create(&old).await;
    let addresses = [&old, &new].map(|service| service.setup().source_address());
    let load = Load::start(&addresses, &source, 0);
    for round in 0..rounds() {
        load.more(200).await.expect("acknowledged");
        new.until_said(WAITS).await.expect("it waits");
        load.longest_gap();
        let begun = Instant::now();
        old.stop().await.expect("it exits with 0");
        new.until_ready().await.expect("it takes over");
        let ready = begun.elapsed();
        load.more(100).await.expect("the new one goes on");
        eprintln!(
            "upgrade {round}: ready {} ms after SIGTERM to the old one, nothing acknowledged for {} ms",
            ready.as_millis(),
            load.longest_gap().as_millis()
        );
        old.spawn_again().expect("it has ended");
        std::mem::swap(&mut old, &mut new);
    }
    let sent = load
        .stop()
        .await
        .expect("only answers that a client may repeat");
    site.settle("upgrade", &sent, &mut [&mut old, &mut new])
        .await;
    let written = sent
        .written(&site.tables(), Fate::Unknown)
        .expect("readable");
    eprintln!("upgrade: of the unknown {} were written", written.len());
    for service in [&old, &new] {
        service.assert_quiet(&[AFTER_A_PAUSE, &[WAITS]].concat());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_and_doubles_nothing() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let volumes = site.volumes("volumes", &["local"]);
    let mut service = Service::start(site.node("a", &volumes))
        .await
        .expect("starts");
    let source = create(&service).await;
    let load = Load::start(&[service.setup().source_address()], &source, 0);
    let restarts = number("STREAM_TEST_RESTARTS", 10);
    load.longest_gap();
    for _ in 0..restarts {
        load.more(50).await.expect("acknowledged");
        service.stop().await.expect("it exits with 0");
        service.restart().await.expect("it starts again");
    }
    load.more(50).await.expect("acknowledged");
    eprintln!(
        "restarts: nothing was acknowledged for {} ms at most",
        load.longest_gap().as_millis()
    );
    let sent = load
        .stop()
        .await
        .expect("only answers that a client may repeat");
    site.settle("restarts", &sent, &mut [&mut service]).await;
    let written = sent
        .written(&site.tables(), Fate::Unknown)
        .expect("readable");
    assert!(written.is_empty(), "written, but not answered: {written:?}");
    service.assert_quiet(AFTER_A_PAUSE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sources_use_the_volumes_of_the_other_node_while_one_is_dead() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let node = |name: &str| {
        let volumes = site.volumes(&format!("volumes of {name}"), &["one", "two"]);
        let count = "STORAGE_LEVEL_LOCAL_VOLUME_ASSIGNMENT_COUNT";
        site.node(name, &volumes).env(count, "4")
    };
    let mut a = Service::start(node("a")).await.expect("starts");
    let mut b = Service::start(node("b")).await.expect("starts");
    let source = create(&a).await;
    let addresses = [&a, &b].map(|service| service.setup().source_address());
    let load = Load::start(&addresses, &source, 0);
    load.more(300).await.expect("acknowledged");
    load.longest_gap();
    a.kill().await.expect("it runs");
    let killed = Instant::now();
    load.more(300).await.expect("the other node goes on");
    eprintln!(
        "dead node: nothing was acknowledged for {} ms",
        load.longest_gap().as_millis()
    );
    sleep(pause().saturating_sub(killed.elapsed())).await;
    load.more(100).await.expect("acknowledged");
    a.restart().await.expect("it starts again");
    load.more(300).await.expect("acknowledged");
    let sent = load
        .stop()
        .await
        .expect("only answers that a client may repeat");
    site.settle("dead node", &sent, &mut [&mut a, &mut b]).await;
    for service in [&a, &b] {
        service.assert_quiet(AFTER_A_PAUSE);
    }
}
