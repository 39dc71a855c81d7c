//! A request id leads to the records of its request: in every stage, over rotations, kills and restarts, on two volumes, for slow
//! bodies and for records that a sink rejects. Each answer of the source says where the records are, and that slice is always
//! among those that the API names; when it names one as certain, there is no other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use hyper::{HeaderMap, Method};
use serde_json::{Value, json};
use stream_tests::client::{Api, Connection, PATIENCE, PAUSE, Source, request};
use stream_tests::service::Service;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::new_setup;

const SINKS: &str = "/v1/branches/default/sources/orders/sinks";
/// Takes every record, and only those with a number.
const ALL: &str = "all";
const NUMBERED: &str = "numbered";
/// Restarts, and requests between two of them.
const RESTARTS: usize = 5;
const REQUESTS: usize = 10;

/// Where a record is, as the source has said.
#[derive(Debug, Clone)]
struct Told {
    request: String,
    sink: String,
    slice: String,
    kind: &'static str,
}

/// What the API has said.
#[derive(Debug, Default)]
struct Tally {
    lookups: usize,
    certain: usize,
    /// Of the slices that have the records.
    stages: BTreeMap<String, usize>,
    longest: Duration,
}

/// Every place in the headers of an answer.
fn told(headers: &HeaderMap) -> anyhow::Result<Vec<Told>> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str()).transpose();
    let request = text("x-request-id")?.context("every answer has an id")?;
    let mut told = Vec::new();
    for (header, kind) in [
        ("x-stream-position", "row"),
        ("x-stream-rejected", "rejected"),
    ] {
        for place in text(header)?.into_iter().flat_map(|it| it.split(", ")) {
            let (sink, place) = place.split_once('=').context("sink=slice:seq")?;
            let (slice, _) = place.split_once(':').context("sink=slice:seq")?;
            told.push(Told {
                request: request.to_owned(),
                sink: sink.to_owned(),
                slice: slice.to_owned(),
                kind,
            });
        }
    }
    Ok(told)
}

/// Sends records for both sinks, for one of them, and several at once.
async fn send(address: SocketAddr, source: &Source) -> anyhow::Result<Vec<Told>> {
    let mut connection = Connection::open(address).await?;
    let mut all = Vec::new();
    for number in 0..REQUESTS {
        let (content_type, body, statuses) = match number % 5 {
            0 => ("application/json", "{}", [422, 422]),
            1 => (
                "application/x-ndjson",
                "{\"n\":1}\n{\"n\":2}\n{}\n",
                [207, 200],
            ),
            _ => ("application/json", "{\"n\":1}", [200, 200]),
        };
        let mut record = request(Method::POST, &source.path, body);
        let headers = record.headers_mut();
        headers.insert("content-type", content_type.parse()?);
        let reply = connection.send(record).await?;
        let message = reply.message();
        ensure!(
            statuses.contains(&reply.status),
            "{} {message}",
            reply.status
        );
        let told = told(&reply.headers)?;
        ensure!(!told.is_empty(), "no sink has it: {:?}", reply.headers);
        all.extend(told);
    }
    Ok(all)
}

/// A request that takes its time: its record comes into a slice that was opened after its head had come.
async fn send_slowly(address: SocketAddr, source: &Source) -> anyhow::Result<Vec<Told>> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: stream.test\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: 7\r\n\r\n{{\"n\"",
        source.path
    );
    stream.write_all(head.as_bytes()).await?;
    let before = slices(&send(address, source).await?);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = slices(&send(address, source).await?);
        if now.is_disjoint(&before) {
            break;
        }
        ensure!(Instant::now() < deadline, "slices are not rotated");
        sleep(PAUSE).await;
    }
    stream.write_all(b":1}").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let lines = answer.lines().skip(1).take_while(|line| !line.is_empty());
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.insert(hyper::header::HeaderName::try_from(name)?, value.parse()?);
    }
    let told = told(&headers)?;
    let after = slices(&told);
    ensure!(
        after.is_disjoint(&before),
        "it is in a slice that was there"
    );
    Ok(told)
}

fn slices(told: &[Told]) -> BTreeSet<String> {
    let rows = told.iter().filter(|it| it.kind == "row");
    rows.map(|it| it.slice.clone()).collect()
}

/// Looks for a record by the id of its request alone. Answers the stage of its slice.
async fn look_up(api: &Api, told: &Told, tally: &mut Tally) -> anyhow::Result<String> {
    let path = format!("{SINKS}/{}/records/{}", told.sink, told.request);
    let begun = Instant::now();
    let reply = api.call(Method::GET, &path, &Value::Null).await?;
    tally.longest = tally.longest.max(begun.elapsed());
    tally.lookups += 1;
    let found = reply.json();
    ensure!(reply.status == 200, "{told:?}: {} {found}", reply.status);
    ensure!(found["requestId"] == told.request.as_str(), "{found}");
    let places = found["places"].as_array().context("places")?;
    let of_kind: Vec<&Value> = places.iter().filter(|it| it["kind"] == told.kind).collect();
    let named = of_kind
        .iter()
        .find(|it| it["sliceId"] == told.slice.as_str());
    let named = named.with_context(|| format!("{told:?} is not in {found}"))?;
    if named["certain"] == true {
        ensure!(of_kind.len() == 1, "{told:?} {found}");
        tally.certain += 1;
    }
    let stage = named["stage"].as_str().context("a stage")?.to_owned();
    *tally.stages.entry(stage.clone()).or_default() += 1;
    Ok(stage)
}

async fn create(api: &Api) -> Source {
    let source = api.create_source("orders").await.expect("it is created");
    let whole = json!({"type": "body", "name": "body"});
    let number = json!({"type": "path", "name": "n", "path": "n", "rawString": true});
    for (sink, column) in [(ALL, whole), (NUMBERED, number)] {
        let created = api.create_sink(&source, sink, &[column]).await;
        created.expect("it is created");
    }
    source
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_id_of_a_request_leads_to_the_slices_of_its_records() {
    let (scratch, setup) = new_setup();
    let volumes = scratch.path().join("volumes");
    for label in ["one", "two"] {
        std::fs::create_dir_all(volumes.join("default").join(label)).expect("a directory");
    }
    let setup = setup
        .env("STORAGE_VOLUMES_PATH", &volumes.display().to_string())
        .env("STORAGE_LEVEL_LOCAL_VOLUME_ASSIGNMENT_COUNT", "2")
        .env("STORAGE_LEVEL_STAGING_UPLOAD_TRIGGER_INTERVAL", "1s")
        .env("STORAGE_LEVEL_TARGET_IMPORT_TRIGGER_INTERVAL", "3s");
    let mut service = Service::start(setup).await.expect("it starts");
    let api = service.api().expect("a token");
    let source = create(&api).await;
    let address = service.setup().source_address();
    let (mut all, mut tally) = (Vec::new(), Tally::default());
    for restart in 0..RESTARTS {
        let sent = send(address, &source).await;
        all.extend(sent.expect("the answers are the right ones"));
        let slow = send_slowly(address, &source).await;
        let slow = slow.expect("the answers are the right ones");
        for told in &slow {
            let found = look_up(&api, told, &mut tally).await;
            found.expect("at once");
        }
        all.extend(slow);
        match restart % 2 {
            0 => service.kill().await.expect("it runs"),
            _ => service.stop().await.expect("it stops"),
        }
        service.restart().await.expect("it starts again");
        // In the first slice of each run, and in one that the run before has written to, perhaps.
        all.extend(send(address, &source).await.expect("the right answers"));
        for told in &all {
            let found = look_up(&api, told, &mut tally).await;
            found.expect("in every stage");
        }
    }
    until_imported(&api, &all, &mut tally).await;
    for stage in ["local", "staging", "target"] {
        assert!(tally.stages.contains_key(stage), "{tally:?}");
    }
    until_certain(&api, &all, &mut tally).await;
    purge(&api, &all, &mut tally).await;
    let own = format!("{SINKS}/{ALL}/records/chosen-by-the-client");
    let refused = api.call(Method::GET, &own, &Value::Null).await;
    assert_eq!(refused.expect("an answer").status, 400);
    eprintln!(
        "requests: {} records of {} requests, looked up {} times, {} certain, {:?}; longest {} ms",
        all.len(),
        all.iter()
            .map(|it| &it.request)
            .collect::<BTreeSet<_>>()
            .len(),
        tally.lookups,
        tally.certain,
        tally.stages,
        tally.longest.as_millis()
    );
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}

/// Follows the rows until all of them are in their table.
async fn until_imported(api: &Api, all: &[Told], tally: &mut Tally) {
    let deadline = Instant::now() + PATIENCE;
    for told in all.iter().filter(|it| it.kind == "row") {
        while look_up(api, told, tally).await.expect("in every stage") != "target" {
            assert!(Instant::now() < deadline, "{told:?} is not imported");
            sleep(PAUSE).await;
        }
    }
}

/// Closes what takes rows still and could have had any of them. Then some are in the one slice that can have them.
async fn until_certain(api: &Api, all: &[Told], tally: &mut Tally) {
    let path = format!("{SINKS}/{ALL}/disable");
    let disabled = api.done(Method::PUT, &path, &Value::Null).await;
    disabled.expect("it is disabled");
    let deadline = Instant::now() + PATIENCE;
    while tally.certain == 0 {
        assert!(Instant::now() < deadline, "{tally:?}");
        for told in all.iter().filter(|it| it.sink == ALL) {
            let found = look_up(api, told, tally).await;
            found.expect("in every stage");
        }
    }
}

/// Purges a sink: its requests lead to what is left of it.
async fn purge(api: &Api, all: &[Told], tally: &mut Tally) {
    let path = format!("{SINKS}/{NUMBERED}?cascade=true");
    let purged = api.done(Method::DELETE, &path, &Value::Null).await;
    purged.expect("it is purged");
    for told in all.iter().filter(|it| it.sink == NUMBERED).take(REQUESTS) {
        let stage = look_up(api, told, tally).await.expect("for some minutes");
        let expected = match told.kind {
            "row" => "purged",
            _ => "discarded",
        };
        assert_eq!(stage, expected, "{told:?}");
    }
}
