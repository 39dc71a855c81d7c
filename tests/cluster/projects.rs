//! The service with the projects of a Storage API.

use hyper::Method;
use serde_json::{Value, json};
use stream_tests::client::{Api, PATIENCE, PAUSE, request, send_once};
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests_storage_api::{Fault, StorageApi};
use tokio::time::{sleep, timeout};

use crate::new_setup;
use crate::start::assert_refused;

/// Base64 of 32 bytes.
pub const KEY: &str = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
const SOURCES: &str = "/v1/branches/default/sources";

pub fn with_projects(setup: Setup, host: &str) -> Setup {
    setup
        .env("STORAGE_API_HOST", host)
        .env("ENCRYPTION_PROVIDER", "aes")
        .env("ENCRYPTION_AES_SECRET_KEY", KEY)
}

#[tokio::test]
async fn a_storage_api_that_cannot_be_used_is_refused_with_what_to_do() {
    let double = StorageApi::start().await;
    let (_scratch, setup) = new_setup();
    for (setup, words) in [
        (
            setup.clone().env("STORAGE_API_HOST", &double.url()),
            &["encryption.provider", "openssl rand -base64 32"][..],
        ),
        (
            with_projects(setup.clone(), "ftp://somewhere"),
            &["storageApiHost is not valid", "https://"],
        ),
        (
            with_projects(setup.clone(), &double.url()).env("ENCRYPTION_AES_SECRET_KEY", "hunter2"),
            &["encryption.aes.secretKey is not valid", "32 bytes"],
        ),
    ] {
        let ended = setup.run_to_end().await.expect("it ends");
        assert_refused(&ended, words);
        assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    }
    double.fail("GET", "", Fault::Refuse(404, "notFound"), 1);
    let ended = with_projects(setup, &double.url()).run_to_end().await;
    assert_refused(
        &ended.expect("it ends"),
        &[&double.url(), "no Storage API answers"],
    );
}

#[tokio::test]
async fn a_sink_of_a_project_takes_rows_and_no_credential_is_in_the_log() {
    let double = StorageApi::start().await;
    let tokens = double.add_project(12);
    let (_scratch, setup) = new_setup();
    // The start waits for a Storage API that is not there yet.
    double.fail("GET", "", Fault::Status(503), 4);
    let setup = with_projects(setup, &double.url()).importing_each_second();
    let setup = setup
        .env("STORAGE_LEVEL_STAGING_UPLOAD_MIN_INTERVAL", "1s")
        .env("STORAGE_LEVEL_TARGET_IMPORT_MIN_INTERVAL", "1s");
    let (address, source_address) = (setup.api_address(), setup.source_address());
    let mut service = Service::start(setup).await.expect("it starts");
    let api = Api {
        address,
        token: Some(tokens.admin.clone()),
    };
    let source = json!({"type": "http", "name": "Orders"});
    let done = api.done(Method::POST, SOURCES, &source).await;
    done.expect("created");
    let sink = json!({
        "type": "table", "name": "Raw", "table": {"type": "keboola", "tableId": "in.c-shop.orders",
            "mapping": {"columns": [{"type": "body", "name": "body"}]}},
    });
    let sinks = format!("{SOURCES}/orders/sinks");
    let done = api.done(Method::POST, &sinks, &sink).await;
    done.expect("created");
    assert_eq!(double.holdings(12).tokens.len(), 1);
    let get = async |path: &str| {
        let reply = api.call(Method::GET, path, &Value::Null).await;
        reply.expect("an answer").json()
    };
    let source = get(&format!("{SOURCES}/orders")).await;
    let url = source["http"]["url"].as_str().expect("a URL");
    let path = url.find("/stream/").map(|at| &url[at..]).expect("a path");
    let sent = send_once(source_address, request(Method::POST, path, "row"));
    assert_eq!(sent.await.expect("an answer").status, 200);
    // Its file is closed and staged, and waits.
    let total = format!("{sinks}/raw/statistics/total");
    let staged = async {
        while get(&total).await["levels"]["staging"]["recordsCount"] != 1 {
            sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, staged).await.expect("it is staged");
    service.stop().await.expect("it stops");
    service.assert_quiet(&["waiting for the storage api"]);
    let log = service.log().join("\n");
    for secret in [tokens.admin.as_str(), KEY, "-secret", "key-of-file"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
