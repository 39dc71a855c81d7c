//! `volume inspect` and `volume verify`: while the service runs, after it was stopped or killed, and on a damaged volume.

use std::path::{Path, PathBuf};

use hyper::Method;
use stream_tests::client::{Source, request, send_once};
use stream_tests::service::Ended;
use stream_tests::setup::Setup;

use crate::new_setup;
use crate::start::with_sink;

async fn volume(setup: &Setup, word: &str, path: &Path) -> Ended {
    let path = path.to_str().expect("text");
    let setup = setup.clone().words(&["volume", word, path]);
    setup.run_to_end().await.expect("it ends")
}

async fn send(setup: &Setup, source: &Source, records: u32) {
    for total in 0..records {
        let body = format!(r#"{{"total": {total}}}"#);
        let mut record = request(Method::POST, &source.path, body);
        let json = "application/json".parse().expect("valid");
        record.headers_mut().insert("content-type", json);
        let reply = send_once(setup.source_address(), record).await;
        assert_eq!(reply.expect("an answer").status, 200);
    }
}

fn assert_contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

/// The names and lengths of all files below a directory, with the times at which they were changed.
fn files(dir: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("listed");
        let metadata = entry.metadata().expect("it is there");
        if metadata.is_dir() {
            found.extend(files(&entry.path()));
        }
        let changed = metadata.modified().expect("known");
        found.push((entry.path(), metadata.len(), changed));
    }
    found.sort();
    found
}

/// The journal segment with the highest number that has a batch.
fn segment_with_batch(volume: &Path) -> PathBuf {
    let mut segments: Vec<PathBuf> = std::fs::read_dir(volume.join("journal"))
        .expect("a directory")
        .map(|entry| entry.expect("listed").path())
        .filter(|path| path.extension().is_some_and(|name| name == "segment"))
        .filter(|path| std::fs::read(path).expect("readable")[4096..].starts_with(b"ENTR"))
        .collect();
    segments.sort();
    segments.pop().expect("rows were sent")
}

#[tokio::test]
async fn a_volume_is_inspected_at_any_time_and_verified_when_nobody_uses_it() {
    let (_scratch, mut service, _, source) = with_sink().await;
    let setup = service.setup().clone();
    let volumes = setup.data_dir().join("volumes");
    let dir = volumes.join("default/local");
    send(&setup, &source, 20).await;

    let shown = volume(&setup, "inspect", &dir).await;
    assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""));
    assert_contains(&shown.stdout, &["in use by another process", " segments, "]);
    let refused = volume(&setup, "verify", &dir).await;
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert_contains(&refused.stderr, &["Error: ", "in use by another process"]);

    service.kill().await.expect("it runs");
    let before = files(&setup.data_dir().join("volumes"));
    for path in [&dir, &volumes] {
        let sound = volume(&setup, "verify", path).await;
        assert_eq!((sound.code, sound.stderr.as_str()), (Some(0), ""));
        assert_contains(&sound.stdout, &["0 findings in volume ", "default/local"]);
        let shown = volume(&setup, "inspect", path).await;
        assert_contains(&shown.stdout, &["open: ", "sessions", "unknown files: 0\n"]);
        assert!(!shown.stdout.contains("in use"), "{}", shown.stdout);
    }
    assert_eq!(files(&volumes), before, "nothing is written");

    service.restart().await.expect("it starts again");
    send(&setup, &source, 5).await;
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}

#[tokio::test]
async fn damage_is_listed_with_its_place_and_exits_with_1() {
    let (_scratch, mut service, _, source) = with_sink().await;
    let setup = service.setup().clone();
    let dir = setup.data_dir().join("volumes/default/local");
    send(&setup, &source, 20).await;
    service.kill().await.expect("it runs");
    let segment = segment_with_batch(&dir);
    let mut bytes = std::fs::read(&segment).expect("readable");
    // In the payload of the first entry; others stand behind it.
    bytes[4096 + 64 + 70] ^= 1;
    std::fs::write(&segment, &bytes).expect("written");
    std::fs::write(dir.join("journal/notes.txt"), "x").expect("written");

    let found = volume(&setup, "verify", &dir).await;
    assert_eq!((found.code, found.stderr.as_str()), (Some(1), ""));
    let place = format!("{} bytes 4096..", segment.display());
    assert_contains(
        &found.stdout,
        &[&place, ": damaged journal entries, 1 rows lost\n"],
    );
    let shown = volume(&setup, "inspect", &dir).await;
    assert_eq!(shown.code, Some(0));
    let unknown = dir.join("journal/notes.txt").display().to_string();
    assert_contains(&shown.stdout, &["unknown files: 1\n", &unknown, &place]);
}

#[tokio::test]
async fn what_is_no_volume_is_refused_and_nothing_is_created() {
    let (scratch, setup) = new_setup();
    let none = scratch.join("none");
    let empty = scratch.join("empty");
    std::fs::create_dir_all(empty.join("default/local")).expect("created");
    for word in ["inspect", "verify"] {
        let refused = volume(&setup, word, &none).await;
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
        assert_contains(&refused.stderr, &["Error: cannot read the directory "]);
        let refused = volume(&setup, word, &empty).await;
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
        assert_contains(&refused.stderr, &["Error: there is no volume in "]);
    }
    let repair = setup.clone().words(&["volume", "repair", "x"]);
    let refused = repair.run_to_end().await.expect("it ends");
    assert_contains(&refused.stderr, &["\"volume repair x\" is no command"]);
    assert!(!none.exists() && !setup.data_dir().exists());
    let inside = std::fs::read_dir(empty.join("default/local")).expect("it is there");
    assert_eq!(inside.count(), 0);
}
