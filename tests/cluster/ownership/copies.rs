//! A copy of a volume is opened by another process while the first one runs: the first one is shut out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use stream_tests::client::PAUSE;
use stream_tests::service::Service;
use tokio::time::{Instant, sleep};

use super::AFTER_A_PAUSE;
use super::installation::{Installation, create, id_of, not_ready};
use super::load::Load;
use crate::traffic::Fate;

/// Everything but the coordinator, so that slices stay open until the test wants them closed.
const NODE: [&str; 4] = ["api", "http-source", "storage-writer", "storage-reader"];
/// What a writer says that is not the owner any more.
const CLOSED: &str = "volume was opened by another writer, it is closed here";
/// What a writer says that would have to give up rows that are nowhere else.
const SURPLUS: &str =
    "uploaded slice has rows on the volume that were not sealed, it is left alone";

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("created");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Every file of a volume with its content.
fn content(of: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(of).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            files.append(&mut content(&path));
        } else {
            let bytes = fs::read(&path).expect("readable");
            files.insert(path, bytes);
        }
    }
    files
}

/// Opens the first directory again: it has rows that are nowhere else, and keeps them.
async fn open_again(first: &mut Service, volume: &Path, left: &BTreeMap<PathBuf, Vec<u8>>) {
    first.restart().await.expect("it opens its volume again");
    first
        .until_said(SURPLUS)
        .await
        .expect("it says that there are more rows");
    first.stop().await.expect("it stops");
    let now = content(volume);
    let is_slice = |path: &&PathBuf| path.extension().is_some_and(|it| it == "slice");
    for slice in left.keys().filter(is_slice) {
        assert!(now.contains_key(slice), "{} was removed", slice.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_opens_a_copy_shuts_the_first_writer_out_and_nothing_is_imported_twice() {
    let Some(site) = Installation::new().await else {
        return;
    };
    let own = site.volumes("volumes of a", &["local"]);
    let setup = site.node("a", &own).words(&NODE);
    let mut first = Service::start(setup).await.expect("starts");
    let source = create(&first).await;
    let volume = own.join("default/local");
    let id = id_of(&volume);
    let at_first = [first.setup().source_address()];
    let load = Load::start(&at_first, &source, 0);
    load.more(300).await.expect("acknowledged");
    let mut before = load.stop().await.expect("the right answers");

    // Nothing is being written while it is copied. What the first writer acknowledges afterwards is in its own directory only.
    let other = site.volumes("volumes of b", &[]);
    copy(&volume, &other.join("default/copy"));
    let load = Load::start(&at_first, &source, before.next());
    load.more(200).await.expect("it knows nothing of the copy");
    let after = load.stop().await.expect("the right answers");
    let idle = Load::start(&at_first, &source, after.next());
    let begun = Instant::now();
    let setup = site.node("b", &other).words(&NODE);
    // The first process does not reach the volume in the second one: what it acknowledges is in its own directory.
    let nowhere = "127.0.0.1:9";
    let setup = setup.env("STORAGE_LEVEL_LOCAL_WRITER_NETWORK_ADVERTISE", nowhere);
    let mut second = Service::start(setup).await.expect("it opens the copy");
    first
        .until_said(CLOSED)
        .await
        .expect("it learns that it is shut out");
    eprintln!(
        "copy: shut out {} ms after the start of the second",
        begun.elapsed().as_millis()
    );
    assert_eq!(site.incarnation(&id).await, 2);
    let counted = idle.count();
    sleep(PAUSE * 10).await;
    assert_eq!(idle.count(), counted, "it acknowledges nothing any more");
    let reason = not_ready(first.setup()).await;
    assert!(reason.contains("was opened again"), "{reason}");
    let raced = idle
        .stop()
        .await
        .expect("only answers that a client may repeat");
    let left = content(&volume);

    let load = Load::start(&[second.setup().source_address()], &source, raced.next());
    load.more(300).await.expect("the second writer goes on");
    before.add(load.stop().await.expect("the right answers"));
    let coordinator = site.node("c", &other).words(&["storage-coordinator"]);
    let mut coordinator = Service::start(coordinator).await.expect("starts");
    eprintln!("copy, kept: {}", before.summary());
    let imported = before.wait_for_import(&site.tables()).await;
    imported.expect("what both directories have, and the second one took, is imported");
    assert!(
        content(&volume) == left,
        "the first writer touches nothing any more"
    );
    let registration = site.of_volume("registration", &id).await;
    assert_eq!(registration["node"], "b");
    for service in [&mut first, &mut second] {
        service.stop().await.expect("it stops");
    }
    before
        .check(&site.tables())
        .expect("all of that once, and nothing else");
    for lost in [&after, &raced] {
        let written = lost
            .written(&site.tables(), Fate::Acknowledged)
            .expect("readable");
        assert!(written.is_empty(), "the copy cannot have them: {written:?}");
    }

    open_again(&mut first, &volume, &left).await;
    coordinator.stop().await.expect("it stops");
    before.check(&site.tables()).expect("still nothing twice");
    first.assert_quiet(&[AFTER_A_PAUSE, &[CLOSED, SURPLUS]].concat());
    second.assert_quiet(AFTER_A_PAUSE);
    coordinator.assert_quiet(AFTER_A_PAUSE);
}
