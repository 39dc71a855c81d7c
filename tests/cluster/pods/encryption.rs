//! Sources and writers that prove to each other who they are.

use hyper::Method;
use stream_tests::client::{Source, request, send_once};
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests_etcd::Certificates;

use super::pod;
use crate::ownership::installation::{Installation, create};
use crate::ownership::load::Load;

const TLS: &str = "STORAGE_LEVEL_LOCAL_WRITER_NETWORK_TLS";

/// With these files: certificate with key, and authorities.
fn with(
    setup: Setup,
    identity: Option<(&std::path::Path, &std::path::Path)>,
    authorities: Option<&std::path::Path>,
) -> Setup {
    let text = |path: &std::path::Path| path.display().to_string();
    let setup = match identity {
        Some((certificate, key)) => setup
            .env(&format!("{TLS}_CERT"), &text(certificate))
            .env(&format!("{TLS}_KEY"), &text(key)),
        None => setup,
    };
    match authorities {
        Some(authorities) => setup.env(&format!("{TLS}_CA"), &text(authorities)),
        None => setup,
    }
}

/// Sends a record to a source that cannot reach the writer.
async fn assert_turned_away(setup: Setup, source: &Source) {
    let mut service = Service::start(setup).await.expect("it starts");
    let mut record = request(Method::POST, &source.path, r#"{"total": 1000000}"#);
    let json = hyper::header::HeaderValue::from_static("application/json");
    record.headers_mut().insert("content-type", json);
    let reply = send_once(service.setup().source_address(), record).await;
    let reply = reply.expect("an answer");
    assert_eq!(reply.status, 503, "{}", reply.message());
    assert_eq!(reply.error(), "stream.in.pipelineNotReady");
    assert!(service.has_said("writer cannot be reached"));
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_sources_with_the_right_certificates_reach_a_writer() {
    let Some(site) = Installation::new().await else {
        return;
    };
    site.volumes("volumes", &["one"]);
    for dir in ["right", "wrong"] {
        std::fs::create_dir_all(site.path(dir)).expect("created");
    }
    let right = Certificates::create(&site.path("right")).expect("written");
    let wrong = Certificates::create(&site.path("wrong")).expect("written");
    let server = Some((right.server.as_path(), right.server_key.as_path()));
    let client = Some((right.client.as_path(), right.client_key.as_path()));
    let stranger = Some((wrong.client.as_path(), wrong.client_key.as_path()));

    let rest = pod(&site, "rest", "api", "volumes").words(&[
        "api",
        "storage-coordinator",
        "storage-reader",
        "storage-writer",
    ]);
    let rest = with(rest, server, Some(&right.ca));
    let mut rest = Service::start(rest).await.expect("it starts");
    let source = create(&rest).await;
    let pod = |name: &str| pod(&site, name, "http-source", "none");

    let good = with(pod("good"), client, Some(&right.ca));
    let mut good = Service::start(good).await.expect("it starts");
    let load = Load::start(&[good.setup().source_address()], &source, 0);
    load.more(100).await.expect("acknowledged");
    let sent = load.stop().await.expect("the right answers");

    assert_turned_away(with(pod("wrong-ca"), client, Some(&wrong.ca)), &source).await;
    assert_turned_away(with(pod("nobody"), None, Some(&right.ca)), &source).await;
    assert_turned_away(with(pod("stranger"), stranger, Some(&right.ca)), &source).await;
    assert_turned_away(pod("plain"), &source).await;

    site.settle("encryption", &sent, &mut [&mut good, &mut rest])
        .await;
    good.assert_quiet(&[]);
    rest.assert_quiet(&[]);
}
