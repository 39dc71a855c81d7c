//! Whatever bytes are sent, the table has them: through mapping, CSV, compression, staging and the import into SQLite.
//!
//! What a row must hold is said here in a few lines that share nothing with the service.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use stream_tests::client::{Connection, PATIENCE, PAUSE, Source, request};
use stream_tests::service::Service;
use stream_tests::table::Tables;
use tokio::time::{Instant, sleep};

use crate::{new_setup, seed};

/// The table.
const TABLE: &str = "bytes";
/// Records with anything, and records with JSON.
const RECORDS: usize = 300;
/// What is hard on CSV, JSON, UTF-8 and SQL.
const HARD: [&[u8]; 16] = [
    b"\"",
    b"\"\"",
    b",",
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b"\\",
    b"'",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xe2\x82",
    b"\xed\xa0\x80",
    "\u{1F600}\u{2028}\u{e9}".as_bytes(),
    b"NULL",
    b"\x1a\x7f",
];
/// A default that is as hard.
const DEFAULT: &str = "\",\r\n\u{0}'\u{e9}\"";

/// A row: the values of `body`, `text`, `header`, `raw` and `value`.
type Row = [String; 5];

fn columns() -> Vec<Value> {
    let template = |name: &str, content: &str, raw: bool| {
        let template = json!({ "language": "jsonnet", "content": content });
        json!({ "type": "template", "name": name, "template": template, "rawString": raw })
    };
    let path = |name: &str, raw: bool| json!({ "type": "path", "name": name, "path": "a.b", "rawString": raw, "defaultValue": DEFAULT });
    vec![
        template("id", "Header('X-Id')", true),
        json!({ "type": "body", "name": "body" }),
        template("text", "BodyStr()", false),
        template("header", "Header('X-Any', '')", true),
        path("raw", true),
        path("value", false),
    ]
}

/// Some bytes, mostly hard ones.
fn bytes(rng: &mut StdRng) -> Vec<u8> {
    let pieces = rng.random_range(0..12);
    let mut piece = || {
        if rng.random_ratio(1, 4) {
            return (0..rng.random_range(0..6)).map(|_| rng.random()).collect();
        }
        HARD[rng.random_range(0..HARD.len())].to_vec()
    };
    (0..pieces).flat_map(|_| piece()).collect()
}

/// A request, and its row.
fn record(rng: &mut StdRng, source: &Source, id: &str) -> (Request<Full<Bytes>>, Row) {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let inside = lossy(&bytes(rng));
    let (body, raw) = if rng.random_bool(0.5) {
        (
            json!({ "z": [lossy(&bytes(rng))], "a": { "b": inside } }),
            inside,
        )
    } else {
        (json!([inside]), DEFAULT.to_owned())
    };
    let body = body.to_string();
    // What may stand in a header; around it there is no white space.
    let mut header: Vec<u8> = bytes(rng);
    header.retain(|byte| *byte >= b' ' && *byte != 0x7f);
    let header = header.trim_ascii().to_vec();
    let row = [
        body.clone(),
        json!(body).to_string(),
        lossy(&header),
        raw.clone(),
        json!(raw).to_string(),
    ];
    let mut request = request(Method::POST, &source.path, body);
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(HeaderName::from_static("x-id"), id.parse().expect("text"));
    headers.insert("x-any", HeaderValue::from_bytes(&header).expect("visible"));
    (request, row)
}

/// The same for a body that is not JSON, to a sink without columns that look inside.
fn opaque(rng: &mut StdRng, source: &Source, id: &str) -> (Request<Full<Bytes>>, String) {
    let body = bytes(rng);
    let text = String::from_utf8_lossy(&body).into_owned();
    let mut request = request(Method::POST, &source.path, body);
    request
        .headers_mut()
        .insert("x-id", id.parse().expect("text"));
    (request, text)
}

/// Reads a table until it has that many rows: the values of each id, in the order of `names`.
async fn table(
    service: &Service,
    table: &str,
    names: &[&str],
    count: usize,
) -> BTreeMap<String, Vec<String>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let tables = Tables::open(&service.setup().tables()).expect("a database");
        let mut rows = BTreeMap::new();
        let mut read = 0;
        let visited = tables.each_row(table, |row| {
            let value = |name: &&str| row.value(name).map(str::to_owned);
            let values = names.iter().map(value).collect::<Result<_, _>>()?;
            rows.insert(row.value("id")?.to_owned(), values);
            read += 1;
            Ok(())
        });
        visited.expect("a table");
        if read >= count {
            assert_eq!(
                (read, rows.len()),
                (count, count),
                "each record is there once"
            );
            return rows;
        }
        assert!(Instant::now() < deadline, "{read} of {count} rows");
        sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn the_table_has_the_bytes_that_were_sent() {
    let mut rng = StdRng::seed_from_u64(seed("any bytes"));
    let (_scratch, setup) = new_setup();
    let mut service = Service::start(setup.importing_each_second())
        .await
        .expect("it starts");
    let api = service.api().expect("a token");
    let source = api.create_source("bytes").await.expect("created");
    api.create_sink(&source, TABLE, &columns())
        .await
        .expect("created");
    let plain = api.create_source("opaque").await.expect("created");
    let simple = [columns()[0].clone(), columns()[1].clone()];
    api.create_sink(&plain, "opaque", &simple)
        .await
        .expect("created");
    let address = service.setup().source_address();
    let mut connection = Connection::open(address).await.expect("it listens");
    let (mut rows, mut texts) = (BTreeMap::new(), BTreeMap::new());
    for number in 0..RECORDS {
        let id = format!("{number:04}");
        let (request, row) = record(&mut rng, &source, &id);
        let answer = connection.send(request).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.message());
        rows.insert(id.clone(), row.to_vec());
        let (request, text) = opaque(&mut rng, &plain, &id);
        let answer = connection.send(request).await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.message());
        texts.insert(id, vec![text]);
    }
    let names = ["body", "text", "header", "raw", "value"];
    let found = table(&service, TABLE, &names, RECORDS).await;
    for (id, row) in &rows {
        assert_eq!(found.get(id), Some(row), "record {id}");
    }
    assert_eq!(table(&service, "opaque", &["body"], RECORDS).await, texts);
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}
