//! `volume forget`: the disk of a volume is gone, a person says so, and the service goes on without it. The volume stays away
//! when it comes back.

use std::fs;
use std::path::Path;

use hyper::Method;
use stream_tests::client::{PATIENCE, PAUSE, Source, request, send_once};
use stream_tests::service::Ended;
use stream_tests::setup::Setup;
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use crate::start::with_sink;

async fn forget(setup: &Setup, words: &[&str]) -> Ended {
    let words: Vec<&str> = ["volume", "forget"].iter().chain(words).copied().collect();
    let ended = setup.clone().words(&words).run_to_end().await;
    ended.expect("it ends")
}

async fn send(setup: &Setup, source: &Source, total: u32) -> u16 {
    let body = format!(r#"{{"total": {total}}}"#);
    let mut record = request(Method::POST, &source.path, body);
    let json = "application/json".parse().expect("valid");
    record.headers_mut().insert("content-type", json);
    let reply = send_once(setup.source_address(), record).await;
    reply.expect("an answer").status
}

fn rows(setup: &Setup) -> i64 {
    let tables = Tables::open(&setup.tables()).expect("the table was created with the sink");
    tables.rows("orders").expect("it is there")
}

async fn until_there_are(setup: &Setup, wanted: i64) {
    let deadline = Instant::now() + PATIENCE;
    while rows(setup) < wanted {
        assert!(Instant::now() < deadline, "the rows do not appear");
        sleep(PAUSE).await;
    }
}

fn id_of(volume: &Path) -> String {
    let id = fs::read_to_string(volume.join("volume-id")).expect("it has one");
    id.trim().to_owned()
}

#[tokio::test]
async fn a_lost_volume_is_given_up_by_a_person_and_stays_away_when_it_returns() {
    let (scratch, mut service, _, source) = with_sink().await;
    let setup = service.setup().clone();
    assert_eq!(send(&setup, &source, 1).await, 200);
    until_there_are(&setup, 1).await;
    let volume = setup.data_dir().join("volumes/default/local");
    let id = id_of(&volume);

    let open = forget(&setup, &[&id, "confirm"]).await;
    assert_eq!(open.code, Some(1));
    assert!(open.stderr.contains("open on node"), "{}", open.stderr);

    // Its last record is not in the table yet when the disk goes.
    assert_eq!(send(&setup, &source, 2).await, 200);
    service.kill().await.expect("it ran");
    let away = scratch.join("away");
    fs::rename(&volume, &away).expect("moved");
    let before = rows(&setup);
    let look = forget(&setup, &[&id]).await;
    assert_eq!(look.code, Some(0), "{}", look.stderr);
    assert!(
        look.stdout.contains("Nothing was changed"),
        "{}",
        look.stdout
    );
    let done = forget(&setup, &[&id, "confirm"]).await;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(
        done.stdout.contains("gets other volumes"),
        "{}",
        done.stdout
    );
    let check = setup.clone().words(&["state", "check"]).run_to_end().await;
    let check = check.expect("it ends");
    assert_eq!(check.code, Some(0), "{}", check.stdout);

    // The service goes on with a new volume: the source gets it, and rows come through.
    service.restart().await.expect("it starts");
    assert_ne!(id_of(&volume), id);
    let deadline = Instant::now() + PATIENCE;
    while send(&setup, &source, 3).await != 200 {
        assert!(Instant::now() < deadline, "the source gets no volume");
        sleep(PAUSE).await;
    }
    until_there_are(&setup, before + 1).await;
    service.stop().await.expect("it stops");

    // The old disk comes back beside the new one: it is not taken, and the service works.
    fs::rename(&away, setup.data_dir().join("volumes/default/old")).expect("moved");
    service.restart().await.expect("it starts");
    assert_eq!(send(&setup, &source, 4).await, 200);
    until_there_are(&setup, before + 2).await;
    service.stop().await.expect("it stops");
    assert!(
        service
            .log()
            .iter()
            .any(|line| line.contains("was forgotten at")),
        "it says why the old volume stays closed"
    );
    service.assert_quiet(&["was forgotten", "lease lost"]);
}
