//! Every answer that is promised, in one table: what was sent in which situation, and status, error name, headers and shape
//! of the body that come back. docs/api.md promises the same statuses and names, no more and no fewer.

use std::collections::BTreeSet;
use std::io::Write as _;

use stream_model::level::Compression;

use super::*;

const NAME_PREFIX: &str = "stream.in.";
const VERBOSE: &str = "/stream/1/orders/secret?verbose=true";
const ARRAY: &str = "/stream/1/orders/secret?batch=true";
const NDJSON: &str = "application/x-ndjson";
/// More than all headers together may have.
const LONG: &str = match std::str::from_utf8(&[b'x'; 5000]) {
    Ok(text) => text,
    Err(_) => "",
};

/// What is the case when the request comes.
#[derive(Debug, Clone, Copy)]
enum Given {
    /// The source has a sink `a` for any body and a sink `b` that needs `x`.
    Source,
    /// The source has but the sink `b`.
    Strict,
    Disabled,
    NoEnabledSink,
    Broken,
    NoSlice,
    Durability(Durability),
    Volume(Act),
    VolumeDown,
    NoMemory,
}

/// The shape of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A text.
    Text(&'static str),
    /// `{statusCode, error, message}`.
    Error,
    /// `{statusCode, error?, message, sources}`.
    Sources,
    /// `{statusCode, error?, message, accepted, rejected, records?}`.
    Batch(u64, u64),
}

/// How a body is sent.
#[derive(Debug, Clone)]
enum Content {
    Plain(String),
    Encoded(&'static str, Vec<u8>),
    /// It never comes to its end.
    Endless,
}

#[derive(Debug, Clone)]
struct Row {
    given: Given,
    method: &'static str,
    path: &'static str,
    content_type: &'static str,
    content: Content,
    status: u16,
    /// Without the prefix; none for what is no error.
    name: Option<&'static str>,
    shape: Shape,
    headers: &'static [(&'static str, &'static str)],
}

fn row(status: u16, name: Option<&'static str>, shape: Shape) -> Row {
    Row {
        given: Given::Source,
        method: "POST",
        path: PATH,
        content_type: "application/json",
        content: Content::Plain(r#"{"x":"1"}"#.to_owned()),
        status,
        name,
        shape,
        headers: &[],
    }
}

fn accepted() -> Row {
    row(200, None, Shape::Text("OK"))
}

fn refused(status: u16, name: &'static str) -> Row {
    row(status, Some(name), Shape::Error)
}

/// Refused by a sink: its source and the others are told of too.
fn rejected(status: u16, name: &'static str) -> Row {
    row(status, Some(name), Shape::Sources)
}

fn batch(status: u16, name: Option<&'static str>, accepted: u64, rejected: u64) -> Row {
    let shape = Shape::Batch(accepted, rejected);
    row(status, name, shape).typed(NDJSON)
}

impl Row {
    fn given(self, given: Given) -> Self {
        Self { given, ..self }
    }

    fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    fn path(self, path: &'static str) -> Self {
        Self { path, ..self }
    }

    fn typed(self, content_type: &'static str) -> Self {
        Self {
            content_type,
            ..self
        }
    }

    fn body(self, body: impl Into<String>) -> Self {
        let content = Content::Plain(body.into());
        Self { content, ..self }
    }

    fn content(self, content: Content) -> Self {
        Self { content, ..self }
    }

    fn headers(self, headers: &'static [(&'static str, &'static str)]) -> Self {
        Self { headers, ..self }
    }

    fn request(&self) -> Request<Sent> {
        let mut request = Request::builder().method(self.method).uri(self.path);
        if !self.content_type.is_empty() {
            request = request.header("content-type", self.content_type);
        }
        let body = match &self.content {
            Content::Plain(text) => Full::new(Bytes::from(text.clone())).boxed_unsync(),
            Content::Encoded(encoding, bytes) => {
                request = request.header("content-encoding", *encoding);
                Full::new(Bytes::from(bytes.clone())).boxed_unsync()
            }
            Content::Endless => {
                let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"{")))]);
                let body = futures_util::StreamExt::chain(first, futures_util::stream::pending());
                StreamBody::new(body).boxed_unsync()
            }
        };
        request.body(body).expect("a valid request")
    }
}

type Sent = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

fn encoded(encoding: &'static str, text: &str) -> Content {
    let text = text.as_bytes();
    let frame = |codec| {
        stream_encoding::Encoder::new(codec)
            .frame(text)
            .expect("memory")
    };
    let bytes = match encoding {
        "gzip" => frame(Compression::Gzip { level: 1 }).to_vec(),
        "zstd" => frame(Compression::Zstd { level: 1 }).to_vec(),
        // One block, stored (RFC 1951, section 3.2.4).
        _ => {
            let len = u16::try_from(text.len()).expect("short");
            let mut bytes = vec![1];
            bytes.write_all(&len.to_le_bytes()).expect("memory");
            bytes.write_all(&(!len).to_le_bytes()).expect("memory");
            bytes.write_all(text).expect("memory");
            bytes
        }
    };
    Content::Encoded(encoding, bytes)
}

const RETRY: &[(&str, &str)] = &[("retry-after", "1")];

fn accepting() -> Vec<Row> {
    let in_cache = &[("x-stream-durability", "cache")];
    let in_memory = &[("x-stream-durability", "memory")];
    let cors = &[
        ("allow", "OPTIONS, POST"),
        ("access-control-allow-methods", "OPTIONS, POST"),
        ("access-control-allow-headers", "*"),
    ];
    vec![
        accepted().headers(&[
            ("content-type", "text/plain; charset=utf-8"),
            ("x-stream-durability", "disk"),
        ]),
        row(200, None, Shape::Sources).path(VERBOSE),
        row(202, None, Shape::Text("OK"))
            .given(Given::Durability(Durability::Cache))
            .headers(in_cache),
        row(202, None, Shape::Text("OK"))
            .given(Given::Durability(Durability::Memory))
            .headers(in_memory),
        accepted().typed("application/json; charset=utf-8"),
        accepted().typed("Application/Vnd.Api+JSON"),
        accepted()
            .typed("application/x-www-form-urlencoded")
            .body("x=1&y[]=2"),
        accepted().content(encoded("gzip", r#"{"x":1}"#)),
        accepted().content(encoded("zstd", r#"{"x":1}"#)),
        accepted().content(encoded("deflate", r#"{"x":1}"#)),
        accepted().content(Content::Encoded("identity", br#"{"x":1}"#.to_vec())),
        row(200, None, Shape::Text(""))
            .method("OPTIONS")
            .headers(cors),
        row(200, None, Shape::Text("OK"))
            .method("GET")
            .path("/health-check"),
        row(200, None, Shape::Text(""))
            .method("HEAD")
            .path("/health-check"),
        batch(200, None, 2, 0).body("{\"x\":1}\n{\"x\":2}\n"),
        batch(200, None, 2, 0)
            .typed("text/csv; header=present")
            .body("x,y\n1,2\n3,4\n"),
        batch(200, None, 1, 0)
            .typed("application/json")
            .path(ARRAY)
            .body(r#"[{"x":1}]"#),
        batch(200, None, 0, 0).body(""),
        batch(202, None, 1, 0)
            .given(Given::Durability(Durability::Cache))
            .headers(in_cache),
        batch(207, Some("partiallyRejected"), 1, 1)
            .body("{\"x\":1}\n{\"y\":1}\n")
            .headers(&[("x-stream-durability", "disk")]),
    ]
}

fn refusing() -> Vec<Row> {
    let wrong = "/stream/1/orders/wrong";
    vec![
        refused(404, "routeNotFound").path("/nowhere"),
        refused(404, "routeNotFound").path("/stream/1/orders"),
        refused(404, "routeNotFound").method("GET").path("/"),
        refused(405, "methodNotAllowed")
            .method("GET")
            .headers(&[("allow", "OPTIONS, POST")]),
        refused(405, "methodNotAllowed")
            .method("PUT")
            .headers(&[("allow", "OPTIONS, POST")]),
        refused(405, "methodNotAllowed")
            .path("/health-check")
            .headers(&[("allow", "GET, HEAD")]),
        refused(400, "badRequest").path("/stream/x/orders/secret"),
        refused(404, "noSourceFound").path(wrong),
        refused(404, "noSourceFound").path("/stream/1/other/secret"),
        refused(404, "noSourceFound").path("/stream/2/orders/secret"),
        refused(404, "disabledSource").given(Given::Disabled),
        refused(503, "noEnabledSink")
            .given(Given::NoEnabledSink)
            .headers(RETRY),
        refused(500, "genericError").given(Given::Broken),
        refused(413, "headerTooLarge").typed(LONG),
        refused(413, "bodyTooLarge").body("1".repeat(1_000_001)),
        refused(413, "bodyTooLarge").content(encoded("gzip", &"1".repeat(1_000_001))),
        refused(400, "badRequest").content(Content::Encoded("gzip", b"no".to_vec())),
        refused(415, "unsupportedMediaType").content(Content::Encoded("br", b"no".to_vec())),
        rejected(413, "payloadTooLarge").body(format!(r#"{{"x":"{}"}}"#, "y".repeat(600_000))),
        rejected(415, "unsupportedMediaType")
            .typed("text/plain")
            .body("x"),
        rejected(415, "unsupportedMediaType").typed("").body("x"),
        rejected(422, "unprocessableContent").body(r#"{"y":1}"#),
        rejected(422, "unprocessableContent").body("{"),
    ]
}

fn refusing_later() -> Vec<Row> {
    vec![
        refused(507, "insufficientStorage")
            .given(refusing_volume(RefusalReason::DiskFull))
            .headers(RETRY),
        refused(507, "insufficientStorage")
            .given(refusing_volume(RefusalReason::VolumeFull))
            .headers(RETRY),
        refused(507, "insufficientStorage")
            .given(refusing_volume(RefusalReason::SinkFull(slice(1))))
            .headers(RETRY),
        refused(503, "overloaded")
            .given(refusing_volume(RefusalReason::Overloaded))
            .headers(RETRY),
        refused(503, "overloaded")
            .given(Given::NoMemory)
            .headers(RETRY),
        refused(503, "shutdown")
            .given(refusing_volume(RefusalReason::Stopping))
            .headers(RETRY),
        rejected(507, "insufficientStorage")
            .path(VERBOSE)
            .given(refusing_volume(RefusalReason::DiskFull))
            .headers(RETRY),
        refused(400, "badRequest").path(ARRAY).body("[1"),
        refused(400, "badRequest").path(ARRAY).body("{}"),
        refused(400, "badRequest")
            .typed("text/csv")
            .body("a,a\n1,2\n"),
        refused(413, "bodyTooLarge")
            .typed(NDJSON)
            .body("1\n".repeat(10_001)),
        batch(422, Some("unprocessableContent"), 0, 2)
            .given(Given::Strict)
            .body("{}\n1\n"),
        batch(507, Some("insufficientStorage"), 0, 1)
            .given(refusing_volume(RefusalReason::DiskFull))
            .headers(RETRY),
        batch(404, Some("disabledSource"), 0, 1).given(Given::Disabled),
    ]
}

const fn refusing_volume(reason: RefusalReason) -> Given {
    Given::Volume(Act::Refuse(reason))
}

/// Those that take their time. The clock of the test goes on by itself.
fn late() -> Vec<Row> {
    vec![
        refused(408, "requestTimeout").content(Content::Endless),
        refused(503, "noOpenedSliceFound")
            .given(Given::NoSlice)
            .headers(RETRY),
        refused(503, "pipelineNotReady")
            .given(Given::VolumeDown)
            .headers(RETRY),
        refused(503, "outcomeUnknown").given(Given::Volume(Act::Hang)),
    ]
}

/// What ends the connection, or is said by hyper: tested where whole connections are, with the real process.
const ON_THE_WIRE: [(u16, &str); 3] = [(429, "–"), (431, "–"), (499, "eof")];

/// What needs rates, keys or an interpreter: tested where they are (`overload`, `keys`, `templates`).
const BY_FEATURE: [(u16, &str); 8] = [
    (429, "rateLimited"),
    (422, "idempotencyKeyReused"),
    (503, "idempotencyKeyUnavailable"),
    (503, "idempotencyKeyInUse"),
    (422, "templateTimeLimit"),
    (422, "templateMemoryLimit"),
    (503, "templatesOverloaded"),
    (503, "templatesSuspended"),
];

async fn world(given: Given) -> Server {
    let sinks = match given {
        Given::Strict => vec![path_sink("b", 1, "x")],
        _ => vec![body_sink("a", 1), path_sink("b", 1, "x")],
    };
    let server = Server::with(sinks, 1_000_000, Rig::new()).await;
    let state = |state| {
        let secret = Secret::new("secret".to_owned());
        let source = source();
        server.rig.directory.set_route(Route {
            source,
            secret,
            state,
        });
    };
    match given {
        Given::Source | Given::Strict | Given::NoMemory => {}
        Given::Disabled => state(State::Disabled),
        Given::NoEnabledSink => state(State::NoEnabledSink),
        Given::Broken => state(State::Broken),
        Given::NoSlice => state(State::NoSlice),
        Given::Durability(durability) => {
            let targets = [1, 2].map(|id| Target {
                durability,
                ..target(slice(id))
            });
            let sinks = vec![body_sink("a", 1), path_sink("b", 1, "x")];
            let route = route_on(volume_id(1), &server.rig.lane, sinks, &targets);
            server.rig.directory.set_route(route);
        }
        Given::Volume(act) => server.rig.volume.script([act]),
        Given::VolumeDown => server.rig.volume.with(|state| state.down = true),
    }
    server
}

async fn check(row: &Row) {
    let server = world(row.given).await;
    let taken = matches!(row.given, Given::NoMemory).then(|| {
        let all = 64 << 20;
        let taken = server.rig.admission.reserve(all);
        taken.expect("nothing else is under way")
    });
    let answer = server.send(row.request()).await;
    drop(taken);
    let what = format!(
        "{} {} when {:?}: {}",
        row.method,
        row.path,
        row.given,
        answer.text()
    );
    assert_eq!(answer.status(), row.status, "{what}");
    for (name, value) in row.headers {
        assert_eq!(answer.header(name), Some(*value), "{name} of {what}");
    }
    // Whoever is not told to come again would do so in vain.
    let retry = row.headers.iter().find(|(name, _)| *name == "retry-after");
    assert_eq!(
        answer.header("retry-after"),
        retry.map(|(_, value)| *value),
        "{what}"
    );
    // These every answer has.
    assert_eq!(answer.header("server"), Some("stream-service"), "{what}");
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("*"),
        "{what}"
    );
    assert!(
        answer
            .header("x-request-id")
            .is_some_and(|id| id.len() == 33),
        "{what}"
    );
    check_body(row, &answer, &what);
}

fn check_body(row: &Row, answer: &Answer, what: &str) {
    if let Shape::Text(text) = row.shape {
        assert_eq!(answer.text(), text, "{what}");
        return;
    }
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{what}"
    );
    let json = answer.json();
    let name = row.name.map(|name| format!("{NAME_PREFIX}{name}"));
    assert_eq!(json["statusCode"], row.status, "{what}");
    assert_eq!(
        json.get("error").and_then(Value::as_str),
        name.as_deref(),
        "{what}"
    );
    let message = json["message"].as_str().unwrap_or_default();
    assert!(
        message.ends_with('.') && message.len() > 10,
        "a sentence: {what}"
    );
    let mut keys: Vec<_> = json
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    keys.retain(|key| !["statusCode", "error", "message"].contains(key));
    match row.shape {
        Shape::Text(_) | Shape::Error => assert!(keys.is_empty(), "{what}"),
        Shape::Sources => {
            assert_eq!(keys, ["sources"], "{what}");
            assert_eq!(json["sources"][0]["sourceId"], "orders", "{what}");
        }
        Shape::Batch(accepted, rejected) => {
            let records = json
                .get("records")
                .map_or(0, |list| list.as_array().map_or(0, Vec::len));
            assert_eq!(json["accepted"], accepted, "{what}");
            assert_eq!(
                (&json["rejected"], records as u64),
                (&json!(rejected), rejected),
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn every_answer_is_the_promised_one() {
    for row in [accepting(), refusing(), refusing_later()].concat() {
        check(&row).await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_late_answer_is_the_promised_one() {
    for row in late() {
        check(&row).await;
    }
}

/// Statuses and names in the table of docs/api.md.
fn documented() -> BTreeSet<(u16, String)> {
    let text = include_str!("../../../../docs/api.md");
    let (_, table) = text
        .split_once("| status | `error` after `stream.in.` |")
        .expect("the table is there");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let mut pairs = BTreeSet::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let statuses = cells[1].split(", ").map(|status| {
            let digits = status.split(' ').next().unwrap_or_default();
            digits.parse::<u16>().expect("a status")
        });
        for status in statuses {
            let names = cells[2]
                .split("; ")
                .map(|name| name.trim_matches('`').to_owned());
            pairs.extend(names.map(|name| (status, name)));
        }
    }
    pairs
}

#[test]
fn the_documentation_has_the_same_answers() {
    let rows = [accepting(), refusing(), refusing_later(), late()].concat();
    let tested = rows
        .iter()
        .map(|row| (row.status, row.name.unwrap_or("–").to_owned()));
    let elsewhere = ON_THE_WIRE.into_iter().chain(BY_FEATURE);
    let elsewhere = elsewhere.map(|(status, name)| (status, name.to_owned()));
    let tested: BTreeSet<_> = tested.chain(elsewhere).collect();
    assert_eq!(tested, documented());
    // Which of them are worth another try is in the table too.
    let text = include_str!("../../../../docs/api.md");
    for row in rows.iter().filter(|row| row.shape == Shape::Error) {
        let retry = if row.headers == RETRY {
            " + Retry-After"
        } else {
            ""
        };
        let name = row.name.expect("an error");
        let found = text.lines().any(|line| {
            line.starts_with(&format!("| {}{retry} | `", row.status))
                && line.contains(&format!("`{name}`"))
        });
        assert!(found, "{}{retry} {name} is not documented so", row.status);
    }
}
