//! `state dump` and `state check`: on a service that runs, was stopped or was killed, and on what is no state at all.

use etcd_client::{Client, GetOptions};
use hyper::Method;
use serde_json::Value;
use stream_etcd_embedded::Endpoint;
use stream_tests::client::{PATIENCE, PAUSE, Source, request, send_once};
use stream_tests::service::{Ended, Service};
use stream_tests::setup::Setup;
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use crate::new_setup;
use crate::start::with_sink;

async fn state(setup: &Setup, words: &[&str]) -> Ended {
    let words: Vec<&str> = ["state"].iter().chain(words).copied().collect();
    let ended = setup.clone().words(&words).run_to_end().await;
    ended.expect("it ends")
}

/// Sends records until the table has rows of two imports, so that files and slices were rotated.
async fn send_until_imported(setup: &Setup, source: &Source) {
    let tables = Tables::open(&setup.tables()).expect("the table was created with the sink");
    for _ in 0..2 {
        let before = tables.rows("orders").expect("it is there");
        for total in 0..20 {
            let body = format!(r#"{{"total": {total}}}"#);
            let mut record = request(Method::POST, &source.path, body);
            let json = "application/json".parse().expect("valid");
            record.headers_mut().insert("content-type", json);
            let reply = send_once(setup.source_address(), record).await;
            assert_eq!(reply.expect("an answer").status, 200);
        }
        let deadline = Instant::now() + PATIENCE;
        while tables.rows("orders").expect("it is there") < before + 20 {
            assert!(Instant::now() < deadline, "the rows do not appear");
            sleep(PAUSE).await;
        }
    }
}

async fn client(setup: &Setup) -> Client {
    let endpoint = Endpoint::of_directory(&setup.data_dir().join("state")).expect("it exists");
    endpoint.connect(None).await.expect("the service runs")
}

async fn keys(client: &mut Client, prefix: &str) -> Vec<String> {
    let options = GetOptions::new().with_prefix().with_keys_only();
    let found = client.get(prefix, Some(options)).await.expect("an answer");
    let keys = found.kvs().iter();
    keys.map(|kv| kv.key_str().expect("a text").to_owned())
        .collect()
}

fn assert_no_findings(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert_eq!(ended.stderr, "");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(
        lines.len() == 1 && lines[0].starts_with("0 findings in "),
        "{lines:?}"
    );
}

/// Both forms of the dump. Neither shows one of the secrets.
async fn dumps(setup: &Setup, secrets: &[String]) -> (String, Vec<Value>) {
    let tree = state(setup, &["dump"]).await;
    let lines = state(setup, &["dump", "json"]).await;
    for ended in [&tree, &lines] {
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        for secret in secrets {
            assert!(!ended.stdout.contains(secret), "{secret} is in the dump");
        }
    }
    let parsed = lines.stdout.lines();
    let parsed = parsed.map(|line| serde_json::from_str(line).expect("JSON"));
    (tree.stdout, parsed.collect())
}

fn assert_contains(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}");
    }
}

#[tokio::test]
async fn a_service_that_runs_was_stopped_or_was_killed_keeps_every_rule_and_shows_its_state() {
    let (_scratch, mut service, api, source) = with_sink().await;
    let setup = service.setup().clone();
    send_until_imported(&setup, &source).await;
    let tokens = keys(&mut client(&setup).await, "stream/token/").await;
    let [token] = &tokens[..] else {
        panic!("one token was created: {tokens:?}");
    };
    let secrets = [
        source
            .path
            .rsplit('/')
            .next()
            .expect("it ends with the secret")
            .to_owned(),
        token
            .rsplit('/')
            .next()
            .expect("it ends with the hash")
            .to_owned(),
        api.token.expect("a token"),
    ];
    assert!(secrets.iter().all(|secret| secret.len() >= 32));

    assert_no_findings(&state(&setup, &["check"]).await);
    let (tree, lines) = dumps(&setup, &secrets).await;
    let shown = [
        "project 1, branch 1",
        "source orders: ",
        "sink orders: ",
        "sqlite table orders with 1 columns",
        ", current: writing, ",
        ": imported, ",
        " rows, committed ",
        "as default/local",
        "storage-coordinator on ",
        "api.create.sink/1/orders/orders/",
        "tokens\n",
    ];
    assert_contains(&tree, &shown);
    let known = |key: &str| lines.iter().any(|line| line["key"] == key);
    assert!(
        known("schema") && known("entity/source/1/1/orders"),
        "{lines:?}"
    );
    assert!(lines.iter().all(|line| line["revision"].is_i64()));

    service.stop().await.expect("it stops");
    assert_no_findings(&state(&setup, &["check"]).await);
    let (tree, _) = dumps(&setup, &secrets).await;
    assert_contains(&tree, &["source orders: ", ": imported, ", ", not open"]);
    assert!(!tree.contains("storage-coordinator on "), "{tree}");

    service.restart().await.expect("it starts again");
    send_until_imported(&setup, &source).await;
    service.kill().await.expect("it runs");
    assert_no_findings(&state(&setup, &["check"]).await);
    service.restart().await.expect("it starts again");
    assert_no_findings(&state(&setup, &["check"]).await);
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}

#[tokio::test]
async fn a_damaged_state_is_listed_and_exits_with_1() {
    let (_scratch, mut service, _, _) = with_sink().await;
    let setup = service.setup().clone();
    let version = "version/sink/1/1/orders/orders/0000000001";
    let mut client = client(&setup).await;
    let deleted = client.delete(format!("stream/{version}"), None).await;
    assert_eq!(deleted.expect("an answer").deleted(), 1);
    let put = client.put("stream/odd/key", "hunter2", None).await;
    put.expect("an answer");

    let assert_found = |ended: &Ended| {
        assert_eq!(ended.code, Some(1), "{}", ended.stdout);
        assert_eq!(ended.stderr, "");
        let lines: Vec<&str> = ended.stdout.lines().collect();
        let [odd, missing, count] = lines[..] else {
            panic!("there are not two findings and a count: {lines:?}");
        };
        assert!(odd.starts_with("odd/key: every key is known "), "{odd}");
        let newest =
            format!("{version}: the newest version of a definition has a record: it is missing; ");
        assert!(missing.starts_with(&newest), "{missing}");
        assert!(count.starts_with("2 findings in "), "{count}");
        assert!(!ended.stdout.contains("hunter2"), "{}", ended.stdout);
    };
    assert_found(&state(&setup, &["check"]).await);
    let secrets = ["hunter2".to_owned()];
    let (tree, _) = dumps(&setup, &secrets).await;
    assert_contains(&tree, &["not readable by this version\n  odd/key: "]);
    service.stop().await.expect("it stops");
    assert_found(&state(&setup, &["check"]).await);
    service.assert_quiet(&[]);
}

fn assert_refused(ended: &Ended, words: &[&str]) {
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
    let said: Vec<&str> = ended.stderr.lines().collect();
    let [line] = said[..] else {
        panic!("there is not exactly one line: {said:?}");
    };
    assert!(line.starts_with("Error: "), "{line}");
    assert_contains(line, words);
}

#[tokio::test]
async fn what_is_no_state_is_refused_and_nothing_is_created() {
    let (scratch, setup) = new_setup();
    let dir = setup.data_dir().display().to_string();
    for words in [&["check"][..], &["dump"], &["dump", "json"]] {
        let ended = state(&setup, words).await;
        assert_refused(
            &ended,
            &["no state in the data directory", &dir, "STREAM_DATA_DIR"],
        );
    }
    let names = ["\"state chek\" is no command", "\"state check\""];
    assert_refused(&state(&setup, &["chek"]).await, &names);
    assert!(!setup.data_dir().exists());
    std::fs::create_dir_all(setup.data_dir().join("state")).expect("created");
    assert_refused(
        &state(&setup, &["check"]).await,
        &["no state in the data directory"],
    );
    let inside = std::fs::read_dir(setup.data_dir().join("state")).expect("it is there");
    assert_eq!(inside.count(), 0);
    drop(scratch);
}

#[tokio::test]
async fn another_namespace_of_the_embedded_store_is_refused_and_stays_empty() {
    let (_scratch, setup) = new_setup();
    let mut service = Service::start(setup.clone()).await.expect("it starts");
    let other = setup.clone().env("ETCD_NAMESPACE", "other");
    let words = ["no state in ", "namespace other", "STREAM_ETCD_NAMESPACE"];
    assert_refused(&state(&other, &["check"]).await, &words);
    assert_eq!(keys(&mut client(&setup).await, "other/").await, [""; 0]);
    service.stop().await.expect("it stops");
    assert_refused(&state(&other, &["check"]).await, &words);
    service.assert_quiet(&[]);
}

#[tokio::test]
async fn the_state_in_an_etcd_is_found_by_its_endpoint() {
    let Some(etcd) = stream_tests_etcd::shared().await else {
        return;
    };
    let namespace = format!("state-command-{}", std::process::id());
    let (_scratch, setup) = new_setup();
    let setup = setup
        .env("ETCD_ENDPOINT", &etcd.endpoints().join(","))
        .env("ETCD_NAMESPACE", &namespace);
    let refused = state(&setup, &["check"]).await;
    assert_refused(&refused, &["no state in etcd at ", "namespace", &namespace]);
    let mut client = Client::connect(etcd.endpoints(), None)
        .await
        .expect("it runs");
    assert_eq!(keys(&mut client, &format!("{namespace}/")).await, [""; 0]);
    assert!(!setup.data_dir().exists());

    // Only the standalone default makes a volume itself.
    let volume = setup.data_dir().join("volumes/default/local");
    std::fs::create_dir_all(volume).expect("created");
    let mut service = Service::start(setup.clone()).await.expect("it starts");
    let api = service.api().expect("a token");
    api.create_source("orders").await.expect("it is created");
    assert_no_findings(&state(&setup, &["check"]).await);
    let (tree, _) = dumps(&setup, &[]).await;
    assert_contains(&tree, &["state in etcd at ", "source orders: "]);
    service.stop().await.expect("it stops");
    assert_no_findings(&state(&setup, &["check"]).await);
    service.assert_quiet(&[]);
}
