//! The first minutes with the service: it starts on an empty directory, shows a row, and says clearly what it cannot do.

use std::fs;
use std::net::TcpListener;

use hyper::Method;
use serde_json::{Value, json};
use stream_tests::client::{Api, PATIENCE, PAUSE, Source, request, send_once};
use stream_tests::service::{Ended, Service};
use stream_tests::setup::Setup;
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use crate::new_setup;

/// Checks that a process did not start and said why in one line with these words.
pub fn assert_refused(ended: &Ended, words: &[&str]) {
    let said = &ended.stderr;
    assert!(!ended.success, "it exited with 0: {said}");
    let reasons: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("Error: "))
        .collect();
    let [reason] = reasons[..] else {
        panic!("there is not exactly one line with the reason: {said}");
    };
    for word in words {
        assert!(reason.contains(word), "{word:?} is not in: {reason}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

async fn assert_start_is_refused(setup: &Setup, words: &[&str]) {
    assert_refused(&setup.run_to_end().await.expect("it ends"), words);
}

#[tokio::test]
async fn a_data_directory_that_is_a_file_is_refused() {
    let (_scratch, setup) = new_setup();
    fs::write(setup.data_dir(), "in the way").expect("written");
    let dir = setup.data_dir().display().to_string();
    assert_start_is_refused(
        &setup,
        &["cannot use the data directory", &dir, "STREAM_DATA_DIR"],
    )
    .await;
    // A file further up is as bad.
    let below = setup.clone().env("DATA_DIR", &format!("{dir}/below"));
    assert_start_is_refused(&below, &["cannot use the data directory", "below"]).await;
}

#[tokio::test]
async fn a_second_process_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let (scratch, setup) = new_setup();
    let mut first = Service::start(setup).await.expect("it starts");
    let second = Setup::new(scratch.path()).expect("free ports");
    let dir = second.data_dir().display().to_string();
    assert_start_is_refused(&second, &["another process uses the data directory", &dir]).await;
    let api = first.api().expect("a token");
    let reply = api
        .call(Method::GET, "/v1/branches/default/sources", &Value::Null)
        .await;
    assert_eq!(reply.expect("an answer").status, 200);
    first.stop().await.expect("it stops");
    first.assert_quiet(&[]);
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_with_its_setting() {
    type Address = fn(&Setup) -> std::net::SocketAddr;
    let cases: [(Address, &str); 3] = [
        (Setup::api_address, "api.listen"),
        (Setup::source_address, "source.http.listen"),
        (Setup::metrics_address, "metrics.listen"),
    ];
    for (address, key) in cases {
        let (_scratch, setup) = new_setup();
        let address = address(&setup);
        let _taken = TcpListener::bind(address).expect("nobody listens there");
        assert_start_is_refused(&setup, &[&address.to_string(), key]).await;
    }
}

#[tokio::test]
async fn arguments_that_make_no_sense_are_refused_with_what_would() {
    let (_scratch, setup) = new_setup();
    let cases: [(&[&str], &[&str]); 6] = [
        (
            &["all", "--api-lisen=127.0.0.1:0"],
            &["--api-lisen", "--api-listen"],
        ),
        (&["all", "--log-format=yaml"], &["log", "yaml", "json"]),
        (
            &["all", "wrter"],
            &[
                "unexpected service component",
                "\"wrter\"",
                "storage-writer",
            ],
        ),
        (
            &[],
            &[
                "specify at least one service component",
                "http-source",
                "all",
            ],
        ),
        (&["http-source"], &["http-source", "storage-writer"]),
        (
            &["all", "--storage-level-staging-upload-trigger-interval=1h"],
            &["storage.level.staging.upload.trigger.interval", "30m"],
        ),
    ];
    for (words, reason) in cases {
        assert_start_is_refused(&setup.clone().words(words), reason).await;
    }
    assert!(
        !setup.data_dir().exists(),
        "nothing is created before the arguments are checked"
    );
}

#[tokio::test]
async fn what_only_asks_for_a_text_exits_with_0() {
    let (_scratch, setup) = new_setup();
    let cases: [(&[&str], &str); 5] = [
        (&["--help"], "storage-coordinator"),
        (&["version"], "stream-service "),
        (&["check"], "valid"),
        (
            &["config", "print"],
            "storage.level.target.import.trigger.interval = ",
        ),
        (&["--dump-config=json"], "\"dataDir\""),
    ];
    for (words, text) in cases {
        let ended = setup
            .clone()
            .words(words)
            .run_to_end()
            .await
            .expect("it ends");
        assert!(ended.success, "{words:?}: {}", ended.stderr);
        assert!(ended.stdout.contains(text), "{words:?}: {}", ended.stdout);
    }
    assert!(!setup.data_dir().exists());
}

/// A service with a source and a sink of one column.
pub async fn with_sink() -> (stream_tests::scratch::Scratch, Service, Api, Source) {
    let (scratch, setup) = new_setup();
    let service = Service::start(setup.importing_each_second())
        .await
        .expect("it starts");
    let api = service.api().expect("a token");
    let source = api.create_source("orders").await.expect("it is created");
    let column = json!({"type": "path", "name": "total", "path": "total", "rawString": true});
    api.create_sink(&source, "orders", &[column])
        .await
        .expect("it is created");
    (scratch, service, api, source)
}

#[tokio::test]
async fn a_new_installation_says_where_it_runs_and_shows_the_first_row() {
    let (_scratch, mut service, _, source) = with_sink().await;
    let banner = service.banner();
    let setup = service.setup().clone();
    for address in [
        setup.api_address(),
        setup.source_address(),
        setup.metrics_address(),
    ] {
        assert!(
            banner.contains(&address.to_string()),
            "{address} is not in: {banner}"
        );
    }
    assert!(banner.contains("admin token was created"), "{banner}");

    let mut record = request(Method::POST, &source.path, r#"{"total": 12.50}"#);
    record
        .headers_mut()
        .insert("content-type", "application/json".parse().expect("valid"));
    let reply = send_once(setup.source_address(), record)
        .await
        .expect("an answer");
    assert_eq!((reply.status, &reply.body[..]), (200, &b"OK"[..]));
    assert_eq!(reply.headers["x-stream-durability"], "disk");

    let deadline = Instant::now() + PATIENCE;
    let tables = Tables::open(&setup.tables()).expect("the table was created with the sink");
    while tables.rows("orders").expect("it is there") == 0 {
        assert!(Instant::now() < deadline, "the row does not appear");
        sleep(PAUSE).await;
    }
    let totals = tables.counts("orders", "total").expect("it is there");
    assert_eq!(
        totals.into_iter().collect::<Vec<_>>(),
        [("12.50".to_owned(), 1)]
    );
    service.stop().await.expect("it stops");
    let secret = source
        .path
        .rsplit('/')
        .next()
        .expect("the URL ends with it");
    assert!(
        !service.log().join("\n").contains(secret),
        "the secret of the source is in the log"
    );
    service.assert_quiet(&[]);
}

#[tokio::test]
async fn the_process_is_ready_only_when_all_its_components_are() {
    let (_scratch, setup) = new_setup();
    let starting = setup.clone();
    let looking = tokio::spawn(async move {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match starting.readiness().await {
                Ok(report) if report.is_ready => return report.components,
                _ => assert!(Instant::now() < deadline, "it does not get ready"),
            }
            tokio::task::yield_now().await;
        }
    });
    let mut service = Service::start(setup.clone()).await.expect("it starts");
    let first = looking.await.expect("it gets ready");
    assert_eq!(
        first,
        setup.components(),
        "it said that it is ready when only these were"
    );
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}
