//! What a sink refuses is kept: killed at any instruction, each record that was answered 422 or named in a 207 is in an
//! object of rejected records, once, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use stream_encoding::{REJECT_COLUMNS, RowReader, RowValues};
use stream_model::level::Compression;
use stream_tests::client::{Api, Broken, Connection, PATIENCE, PAUSE, Reply, Source, request};
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use crate::verdict::assert_sound;
use crate::{new_setup, seed};

/// Times the process is killed, and requests between two kills.
const KILLS: u64 = 3;
const REQUESTS: u64 = 60;
/// The sinks with the values that they want.
const SINKS: [(&str, &str); 2] = [("with-x", "x"), ("with-y", "y")];

/// What was answered about the records of a run, by their number.
#[derive(Default)]
struct Ledger {
    /// The rejected records of each sink, with their bodies.
    rejected: BTreeMap<(&'static str, u64), Bytes>,
    /// Records that each sink took.
    accepted: BTreeMap<&'static str, u64>,
    /// Records of requests without an answer: kept, taken, or neither.
    unknown: Vec<u64>,
}

/// A record: its number, and whether it has what each sink wants.
fn record(rng: &mut StdRng, number: u64) -> (Bytes, [bool; 2]) {
    let odd = ["\u{e9}\"\\n", "a,b", "", "'"][rng.random_range(0..4)];
    let (x, y) = (rng.random_bool(0.6), rng.random_bool(0.6));
    let mut record = json!({"n": number.to_string(), "odd": odd});
    for (has, name) in [(x, "x"), (y, "y")] {
        if has {
            record[name] = json!(number.to_string());
        }
    }
    match rng.random_range(0..8) {
        // Not even text, with its number in front.
        0 => {
            let mut bytes = format!("{{\"n\":\"{number}\",").into_bytes();
            bytes.extend_from_slice(&[0xff, 0, b'"', 0xfe]);
            (bytes.into(), [false, false])
        }
        _ => (record.to_string().into(), [x, y]),
    }
}

/// The number in a record.
fn number(body: &[u8]) -> anyhow::Result<u64> {
    let text = String::from_utf8_lossy(body);
    let (_, rest) = text.split_once("\"n\":\"").context("it has a number")?;
    let digits = rest.split('"').next().unwrap_or_default();
    Ok(digits.parse()?)
}

impl Ledger {
    fn note(&mut self, number: u64, body: &Bytes, takes: [bool; 2]) {
        for ((sink, _), takes) in SINKS.iter().zip(takes) {
            if takes {
                *self.accepted.entry(sink).or_default() += 1;
            } else {
                self.rejected.insert((sink, number), body.clone());
            }
        }
    }

    /// Sends one request, with one record or with many, until it is answered or its outcome is unknown.
    async fn send(
        &mut self,
        connection: &mut Connection,
        source: &Source,
        rng: &mut StdRng,
        next: &mut u64,
    ) -> anyhow::Result<bool> {
        let many = rng.random_bool(0.4);
        let count = if many { rng.random_range(1..20) } else { 1 };
        let records: Vec<_> = (0..count)
            .map(|_| {
                *next += 1;
                let (body, takes) = record(rng, *next);
                (*next, body, takes)
            })
            .collect();
        let mut reply = None;
        while reply.is_none() {
            reply = match connection.send(posted(source, &records, many)).await {
                Ok(Reply { status: 503, .. }) => None,
                Ok(answered) => Some(answered),
                Err(Broken::Unsent(_)) => return Ok(false),
                Err(Broken::Unknown(_)) => {
                    self.unknown
                        .extend(records.iter().map(|(number, ..)| number));
                    return Ok(false);
                }
            };
        }
        let reply = reply.context("it was answered")?;
        let rejected = records
            .iter()
            .filter(|(_, _, takes)| *takes != [true, true]);
        let rejected = rejected.count();
        let expected = match (many, rejected) {
            (_, 0) => 200,
            (true, rejected) if rejected < records.len() => 207,
            _ => 422,
        };
        ensure!(
            reply.status == expected,
            "{} {}",
            reply.status,
            reply.message()
        );
        let is_named = reply.headers.contains_key("x-stream-rejected");
        ensure!(is_named == (rejected > 0), "{:?}", reply.headers);
        for (number, body, takes) in &records {
            self.note(*number, body, *takes);
        }
        Ok(true)
    }
}

fn posted(
    source: &Source,
    records: &[(u64, Bytes, [bool; 2])],
    many: bool,
) -> Request<Full<Bytes>> {
    let bodies: Vec<&[u8]> = records.iter().map(|(_, body, _)| &body[..]).collect();
    let content_type = match many {
        true => "application/x-ndjson",
        false => "application/json",
    };
    let mut request = request(Method::POST, &source.path, bodies.join(&b'\n'));
    let value = content_type.parse().expect("a header");
    request.headers_mut().insert(CONTENT_TYPE, value);
    request
}

fn quick(setup: Setup) -> Setup {
    setup
        .importing_each_second()
        .env("STORAGE_REJECTS_INTERVAL", "1s")
        .env("STORAGE_REJECTS_MIN_INTERVAL", "1s")
}

async fn create(api: &Api) -> anyhow::Result<Source> {
    let source = api.create_source("orders").await?;
    for (sink, path) in SINKS {
        let column = json!({"type": "path", "path": path, "name": "v"});
        api.create_sink(&source, sink, &[column]).await?;
    }
    Ok(source)
}

async fn look(api: &Api, source: &Source, sink: &str) -> anyhow::Result<Value> {
    let path = format!("/v1/branches/default/sources/{}/sinks/{sink}", source.id);
    let get = async |rest: &str| {
        api.call(Method::GET, &format!("{path}/{rest}"), &Value::Null)
            .await
    };
    let mut list = get("rejected").await?.json();
    list["total"] = get("statistics/total").await?.json();
    Ok(list)
}

/// Waits until the wanted records are in staging and nothing is on the way any more. Answers what the API lists, and the
/// records in it. A number alone would not do: records of requests without an answer may be among them.
async fn settled(
    api: &Api,
    source: &Source,
    sink: &str,
    staging: &Path,
    wanted: &BTreeMap<u64, &Bytes>,
) -> anyhow::Result<(Value, Vec<(u64, Vec<u8>)>)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let list = look(api, source, sink).await?;
        let slices = list["rejected"].as_array().context("a list")?;
        let on_the_way = slices.iter().any(|slice| {
            let has_records = slice["statistics"]["recordsCount"] != 0;
            slice["object"].is_null() && (slice["state"] != "writing" || has_records)
        });
        let kept = read(staging, &list)?;
        let there: BTreeSet<u64> = kept.iter().map(|(number, _)| *number).collect();
        let missing = wanted.keys().filter(|number| !there.contains(*number));
        let missing: Vec<&u64> = missing.collect();
        if !on_the_way && missing.is_empty() {
            return Ok((list, kept));
        }
        ensure!(
            Instant::now() < deadline,
            "{missing:?} are missing: {list:#}"
        );
        sleep(PAUSE).await;
    }
}

/// The rejected records in the objects that the API lists: number and body, as often as they are there.
fn read(staging: &Path, list: &Value) -> anyhow::Result<Vec<(u64, Vec<u8>)>> {
    let mut records = Vec::new();
    for slice in list["rejected"].as_array().context("a list")? {
        let Some(object) = slice["object"].as_str() else {
            continue;
        };
        ensure!(object.starts_with("rejects/"), "{object}");
        let file = std::fs::File::open(staging.join(object))?;
        let compression = Compression::Zstd { level: 1 };
        let mut reader = RowReader::new(compression, REJECT_COLUMNS.len(), file);
        let (mut row, before) = (RowValues::new(), records.len());
        while reader.next(&mut row)? {
            let values: Vec<&[u8]> = row.iter().collect();
            let (encoding, body) = (values[11], values[12]);
            let body = match encoding {
                b"text" => body.to_vec(),
                b"base64" => base64(body)?,
                other => anyhow::bail!("{}", String::from_utf8_lossy(other)),
            };
            ensure!(values[10] == body.len().to_string().into_bytes());
            records.push((number(&body)?, body));
        }
        let counted = slice["statistics"]["recordsCount"].as_u64();
        let found = u64::try_from(records.len() - before)?;
        ensure!(
            counted == Some(found),
            "{counted:?} are counted, {found} are there"
        );
    }
    Ok(records)
}

fn base64(text: &[u8]) -> anyhow::Result<Vec<u8>> {
    use base64::Engine as _;
    Ok(base64::engine::general_purpose::STANDARD.decode(text)?)
}

/// What a sink has rejected is there, once, and counted; and what it has taken is in the table.
async fn check(ledger: &Ledger, api: &Api, source: &Source, sink: &'static str, setup: &Setup) {
    let (staging, tables) = (setup.data_dir().join("staging"), setup.tables());
    let expected = ledger.rejected.range((sink, 0)..=(sink, u64::MAX));
    let expected: BTreeMap<u64, &Bytes> = expected.map(|((_, n), body)| (*n, body)).collect();
    let found = settled(api, source, sink, &staging, &expected).await;
    let (list, kept) = found.expect("all are uploaded");
    let mut seen: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (number, body) in kept {
        assert!(
            seen.insert(number, body).is_none(),
            "{number} is kept twice"
        );
    }
    for (number, body) in &expected {
        assert_eq!(
            seen.get(number).map(Vec::as_slice),
            Some(&body[..]),
            "{number}"
        );
    }
    let unanswered = seen.keys().filter(|number| !expected.contains_key(*number));
    let unanswered: Vec<&u64> = unanswered.collect();
    let known = |number: &&u64| ledger.unknown.contains(number);
    assert!(unanswered.iter().all(known), "{unanswered:?}");
    eprintln!(
        "rejects: {sink}: {} kept, 0 missing, 0 twice; {} more of requests without an answer",
        expected.len(),
        unanswered.len()
    );
    let counted = list["total"]["rejected"]["recordsCount"].as_u64();
    assert_eq!(counted, Some(seen.len() as u64));
    let rows = imported(&tables, sink, ledger.accepted[sink]).await;
    let most = ledger.accepted[sink] + ledger.unknown.len() as u64;
    assert!(
        rows.is_ok_and(|rows| rows <= most),
        "received = rows + rejects"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rejected_record_is_kept_exactly_once() {
    let seed = seed("rejects");
    let (_scratch, setup) = new_setup();
    let staging = setup.data_dir().join("staging");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut service = Service::start(quick(setup)).await.expect("it starts");
    let api = service.api().expect("a token");
    let source = create(&api).await.expect("created");
    let address = service.setup().source_address();
    let (mut ledger, mut next) = (Ledger::default(), 0);
    for kill in 0..=KILLS {
        let mut connection = Connection::open(address).await.expect("connected");
        for _ in 0..REQUESTS {
            let sent = ledger
                .send(&mut connection, &source, &mut rng, &mut next)
                .await;
            assert!(sent.expect("the right answer"), "nobody has killed it");
        }
        if kill == KILLS {
            break;
        }
        // Whatever is answered up to that instruction counts.
        let moment = Duration::from_millis(rng.random_range(0..40));
        let killing = service.kill_after(moment);
        let sending = async {
            let mut goes_on = true;
            while goes_on {
                let sent = ledger
                    .send(&mut connection, &source, &mut rng, &mut next)
                    .await;
                goes_on = sent.expect("the right answer");
            }
        };
        let (killed, ()) = tokio::join!(killing, sending);
        killed.expect("it lived");
        service.restart().await.expect("it starts again");
    }
    for (sink, _) in SINKS {
        check(&ledger, &api, &source, sink, service.setup()).await;
    }
    // What a deleted sink has rejected stays.
    let path = format!(
        "/v1/branches/default/sources/{}/sinks/{}",
        source.id, SINKS[0].0
    );
    let objects = objects(&staging);
    let deleted = api.done(Method::DELETE, &path, &Value::Null).await;
    deleted.expect("deleted");
    service.stop().await.expect("it stops");
    assert!(self::objects(&staging) >= objects);
    assert_sound(service.setup()).await;
    service.assert_quiet(&[]);
}

async fn imported(tables: &Path, sink: &str, least: u64) -> anyhow::Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rows = Tables::open(tables).and_then(|tables| tables.rows(sink));
        match rows {
            Ok(rows) if rows >= i64::try_from(least)? => return Ok(u64::try_from(rows)?),
            _ => ensure!(
                Instant::now() < deadline,
                "{rows:?} of {least} are imported"
            ),
        }
        sleep(PAUSE).await;
    }
}

/// How many objects of rejected records there are.
fn objects(staging: &Path) -> usize {
    let mut left = vec![staging.join("rejects")];
    let mut found = 0;
    while let Some(path) = left.pop() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => left.push(path),
                _ => found += 1,
            }
        }
    }
    found
}
