//! Several installations on one etcd, and state of a later version.

use hyper::Method;
use serde_json::{Value, json};
use stream_tests::client::{Api, PATIENCE, PAUSE, Source, request, send_once};
use stream_tests::service::Service;
use stream_tests::table::Tables;
use stream_tests_etcd::{Cluster, Transport};
use tokio::time::{Instant, sleep};

use crate::etcd_keys as keys;
use crate::etcd_outage::with_etcd;
use crate::new_setup;

/// One begins with the other.
const NAMESPACES: [&str; 2] = ["tenant", "tenant-2"];

async fn cluster() -> Option<Cluster> {
    let program = stream_tests_etcd::program()?;
    let cluster = Cluster::start(&program, 1, Transport::Plain).await;
    Some(cluster.expect("etcd starts"))
}

async fn create(api: &Api, id: &str) -> Source {
    let source = api.create_source(id).await.expect("it is created");
    let column = json!({"type": "path", "name": "total", "path": "total", "rawString": true});
    let created = api.create_sink(&source, id, &[column]).await;
    created.expect("it is created");
    source
}

async fn send(service: &Service, source: &Source, total: &str) {
    let body = json!({"total": total}).to_string();
    let mut record = request(Method::POST, &source.path, body);
    let content_type = "application/json".parse().expect("valid");
    record.headers_mut().insert("content-type", content_type);
    let address = service.setup().source_address();
    let reply = send_once(address, record).await.expect("an answer");
    assert_eq!(reply.status, 200, "{}", reply.message());
}

async fn assert_only_row(service: &Service, table: &str, total: &str) {
    let deadline = Instant::now() + PATIENCE;
    let tables = Tables::open(&service.setup().tables()).expect("the database is there");
    while tables.rows(table).expect("it is there") == 0 {
        assert!(Instant::now() < deadline, "the row does not appear");
        sleep(PAUSE).await;
    }
    let totals = tables.counts(table, "total").expect("it is there");
    assert_eq!(
        totals.into_iter().collect::<Vec<_>>(),
        [(total.to_owned(), 1)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_in_two_namespaces_of_one_etcd_do_not_see_each_other() {
    let Some(cluster) = cluster().await else {
        return;
    };
    let mut services = Vec::new();
    for namespace in NAMESPACES {
        let (scratch, setup) = new_setup();
        let setup = with_etcd(setup, &cluster).env("ETCD_NAMESPACE", namespace);
        services.push((Service::start(setup).await.expect("it starts"), scratch));
    }
    let mut apis = Vec::new();
    let mut sources = Vec::new();
    for (number, (service, _)) in services.iter().enumerate() {
        let api = service.api().expect("a token");
        // Of the same name in both, and one that only the second has.
        let both = create(&api, "orders").await;
        send(service, &both, &format!("both {number}")).await;
        sources.push(both);
        apis.push(api);
    }
    let own = create(&apis[1], "own").await;
    send(&services[1].0, &own, "own").await;
    for (number, (service, _)) in services.iter().enumerate() {
        assert_only_row(service, "orders", &format!("both {number}")).await;
    }
    assert_only_row(&services[1].0, "own", "own").await;

    let path = "/v1/branches/default/sources/own";
    let reply = apis[0].call(Method::GET, path, &Value::Null).await;
    assert_eq!(reply.expect("an answer").status, 404);
    let stranger = Api {
        token: apis[1].token.clone(),
        ..apis[0].clone()
    };
    let reply = stranger.call(Method::GET, path, &Value::Null).await;
    assert_eq!(
        reply.expect("an answer").status,
        401,
        "a token of the other"
    );
    assert_ne!(sources[0].path, sources[1].path);
    let record = request(Method::POST, &sources[1].path, r#"{"total": "lost"}"#);
    let address = services[0].0.setup().source_address();
    let reply = send_once(address, record).await.expect("an answer");
    assert_eq!(reply.status, 404, "a URL of the other");

    for (service, _) in &mut services {
        service.stop().await.expect("it stops");
        service.assert_quiet(&[]);
    }
    let all = keys::under(&cluster, "t").await.expect("etcd answers");
    for namespace in NAMESPACES {
        let named = all
            .keys()
            .filter(|key| key.starts_with(&format!("{namespace}/entity/")));
        assert!(named.count() > 0, "nothing is stored in {namespace}");
    }
    let elsewhere: Vec<_> = keys::all(&cluster)
        .await
        .expect("etcd answers")
        .into_keys()
        .filter(|key| {
            !NAMESPACES
                .iter()
                .any(|own| key.starts_with(&format!("{own}/")))
        })
        .collect();
    assert!(elsewhere.is_empty(), "written outside: {elsewhere:?}");
}

#[tokio::test]
async fn state_of_a_later_version_is_refused_and_left_alone() {
    let Some(cluster) = cluster().await else {
        return;
    };
    let (key, value) = ("stream/schema", r#"{"version":2}"#);
    keys::put(&cluster, key, value).await.expect("etcd answers");
    let (_scratch, setup) = new_setup();
    let ended = with_etcd(setup, &cluster)
        .run_to_end()
        .await
        .expect("it ends");
    crate::start::assert_refused(&ended, &["schema", "format 2", "upgrade"]);
    let found = keys::all(&cluster).await.expect("etcd answers");
    let found: Vec<_> = found
        .iter()
        .map(|(key, stored)| (key.as_str(), stored.value.as_str()))
        .collect();
    assert_eq!(found, [(key, value)]);
}
