//! Templates that need the interpreter, and columns with data types: from HTTP to the table, and when templates misbehave.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use stream_tests::client::{Api, PATIENCE, PAUSE, Reply, Source, request, send_once, sink};
use stream_tests::service::Service;
use stream_tests::table::Tables;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::new_setup;
use crate::start::with_sink;

/// What is logged when the templates of a sink have to rest.
const RESTS: &str = "templates of a sink exceed their limits again and again";

fn template(name: &str, content: &str) -> Value {
    let template = json!({"language": "jsonnet", "content": content});
    json!({"type": "template", "name": name, "template": template, "rawString": true})
}

fn typed(name: &str, data_type: &str) -> Value {
    json!({"type": "path", "name": name, "path": name, "dataType": data_type, "defaultValue": ""})
}

async fn post(address: SocketAddr, source: &Source, body: &str) -> Reply {
    let mut record = request(Method::POST, &source.path, body.to_owned());
    let json = "application/json".parse().expect("valid");
    record.headers_mut().insert("content-type", json);
    send_once(address, record).await.expect("an answer")
}

/// A sink with its own source and table, all of that name.
async fn create(api: &Api, id: &str, columns: &[Value]) -> Source {
    let source = api.create_source(id).await.expect("it is created");
    let created = api.create_sink(&source, id, columns).await;
    created.expect("it is created");
    source
}

/// Waits until a table has that many rows.
async fn rows(service: &Service, table: &str, rows: i64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let tables = Tables::open(&service.setup().tables()).expect("a database");
        let now = tables.rows(table).expect("it can be read");
        if now >= rows {
            assert_eq!(now, rows, "{table}");
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{table} has {now} of {rows} rows"
        );
        sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn values_of_every_data_type_are_stored_as_such() {
    let (_scratch, setup) = new_setup();
    let mut service = Service::start(setup.importing_each_second())
        .await
        .expect("it starts");
    let api = service.api().expect("a token");
    let mut columns: Vec<_> = ["int", "float", "bool", "timestamp", "json"]
        .map(|data_type| typed(data_type, data_type))
        .into();
    columns.push(typed("string", "string"));
    let mut sum = template(
        "sum",
        "std.foldl(function(a, b) a + b, Body('json.items', []), 0)",
    );
    sum["dataType"] = "int".into();
    columns.push(sum);
    let source = create(&api, "typed", &columns).await;
    let shown = api
        .call(
            Method::GET,
            "/v1/branches/default/sources/typed/sinks/typed",
            &Value::Null,
        )
        .await
        .expect("an answer")
        .json();
    let shown = &shown["table"]["mapping"]["columns"];
    assert_eq!(shown[0]["dataType"], "int");
    assert_eq!(shown[5].get("dataType"), None, "only when it is set");

    let address = service.setup().source_address();
    let full = r#"{"int":9007199254740993,"float":0.25,"bool":true,"timestamp":"2026-01-02T03:04:05+01:00","json":{"items":[1, 2]},"string":"007"}"#;
    assert_eq!(post(address, &source, full).await.status, 200);
    let empty = r#"{"int":null}"#;
    assert_eq!(post(address, &source, empty).await.status, 200);
    for (wrong, column) in [
        (r#"{"int":1.5}"#, "int"),
        (r#"{"float":"x"}"#, "float"),
        (r#"{"bool":2}"#, "bool"),
        (r#"{"timestamp":"2026-01-02"}"#, "timestamp"),
        (r#"{"json":{"items":["x"]}}"#, "sum"),
    ] {
        let reply = post(address, &source, wrong).await;
        assert_eq!(
            (reply.status, reply.error().as_str()),
            (422, "stream.in.unprocessableContent")
        );
        assert!(
            reply.message().contains(&format!("{column:?}")),
            "{}",
            reply.message()
        );
    }
    rows(&service, "typed", 2).await;
    let tables = Tables::open(&service.setup().tables()).expect("a database");
    for (column, stored) in [
        ("int", ["integer 9007199254740993", "null "]),
        ("float", ["real 0.25", "null "]),
        ("bool", ["integer 1", "null "]),
        (
            "timestamp",
            ["text 2026-01-02T02:04:05.000000000Z", "null "],
        ),
        ("json", [r#"text {"items":[1,2]}"#, "null "]),
        ("string", [r#"text "007""#, r#"text """#]),
        ("sum", ["integer 3", "integer 0"]),
    ] {
        let value = format!("typeof(\"{column}\") || ' ' || ifnull(\"{column}\", '')");
        let counts = tables.counts("typed", &value).expect("it can be read");
        let expected: BTreeMap<_, _> = stored.map(|stored| (stored.to_owned(), 1)).into();
        assert_eq!(counts, expected, "{column}");
    }
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}

#[tokio::test]
async fn templates_that_cannot_be_compiled_are_refused_when_they_are_saved() {
    let (_scratch, mut service, api, source) = with_sink().await;
    // Templates that are accepted after all must not refuse the record at the end.
    let other = api.create_source("other").await.expect("it is created");
    let path = format!("/v1/branches/default/sources/{}/sinks", other.id);
    let deep = format!("{}1{}", "[".repeat(2_000), "]".repeat(2_000));
    let long = "1 +".repeat(1_366);
    for (content, says) in [
        (
            "Invalid()",
            Some("\"T\": the template is invalid: 1:1-8 undefined local: Invalid"),
        ),
        ("local x = 1;\n  y", Some("2:3-4")),
        ("'open", Some("1:1")),
        // Whatever becomes of it, the answer comes and the API lives.
        (&deep, None),
        (&long, Some("4096")),
    ] {
        let body = sink("new", &[template("T", content)]);
        let reply = api
            .call(Method::POST, &path, &body)
            .await
            .expect("an answer");
        let Some(says) = says else { continue };
        assert_eq!(reply.status, 400, "{}", reply.message());
        assert!(reply.message().contains(says), "{}", reply.message());
    }
    let address = service.setup().source_address();
    assert_eq!(post(address, &source, r#"{"total":1}"#).await.status, 200);
    service.stop().await.expect("it stops");
    service.assert_quiet(&[]);
}

/// Table, template, and what a record is answered.
const HOSTILE: [(&str, &str, u16, &str); 5] = [
    (
        "recursion",
        "local f(x) = f(x + 1); f(Body('n'))",
        422,
        "unprocessableContent",
    ),
    (
        "fold",
        "std.foldl(function(a, b) a + b, std.range(1, 1000000000), Body('n'))",
        422,
        "templateTimeLimit",
    ),
    (
        "loop",
        "local f(n) = if n == 0 then 0 else f(n - 1) + f(n - 1); f(60 + Body('n'))",
        422,
        "templateTimeLimit",
    ),
    (
        "memory",
        "local s = std.repeat('0123456789', 100000000); std.length(s) + Body('n')",
        422,
        "templateMemoryLimit",
    ),
    (
        "output",
        "std.repeat('x', 3000000) + Body('n')",
        413,
        "payloadTooLarge",
    ),
];

#[tokio::test]
async fn hostile_templates_end_within_bounds_and_the_service_goes_on() {
    let (_scratch, setup) = new_setup();
    let setup = setup
        .importing_each_second()
        .env("SOURCE_HTTP_JSONNET_WORKERS", "1")
        .env("SOURCE_HTTP_JSONNET_MEMORY", "64MB");
    let mut service = Service::start(setup).await.expect("it starts");
    let api = service.api().expect("a token");
    let good = create(&api, "good", &[template("n", "Body('n') * 2")]).await;
    let address = service.setup().source_address();
    let mut sent = 0;
    for (id, content, status, error) in HOSTILE {
        let hostile = create(&api, id, &[template("x", content)]).await;
        let reply = post(address, &hostile, r#"{"n":1}"#).await;
        let expected = (status, format!("stream.in.{error}"));
        assert_eq!(
            (reply.status, reply.error()),
            expected,
            "{id}: {}",
            reply.message()
        );
        assert!(
            reply.message().contains("\"x\"") || status == 413,
            "{}",
            reply.message()
        );
        assert_eq!(
            post(address, &good, r#"{"n":21}"#).await.status,
            200,
            "{id}"
        );
        sent += 1;
        if id == "fold" {
            // It goes on, until it has to rest.
            for attempt in 0..10 {
                let reply = post(address, &hostile, r#"{"n":1}"#).await;
                if reply.status == 503 {
                    assert_eq!(reply.error(), "stream.in.templatesSuspended");
                    assert!(reply.headers.contains_key("retry-after"));
                    break;
                }
                assert!(attempt < 9, "it never rests");
            }
            assert_eq!(post(address, &good, r#"{"n":21}"#).await.status, 200);
            sent += 1;
        }
    }
    rows(&service, "good", sent).await;
    let tables = Tables::open(&service.setup().tables()).expect("a database");
    for id in ["recursion", "fold", "loop", "memory", "output"] {
        assert_eq!(tables.rows(id).expect("it can be read"), 0, "{id}");
    }
    service.stop().await.expect("it stops");
    service.assert_quiet(&[RESTS]);
}

/// The processes that a process has started.
fn children(parent: u32) -> Vec<Pid> {
    let stat = |entry: std::fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        let of = fields.split(' ').nth(1)?.parse::<u32>().ok()?;
        (of == parent && !fields.starts_with('Z')).then(|| Pid::from_raw(pid))?
    };
    let entries = std::fs::read_dir("/proc").expect("a Linux system");
    entries.flatten().filter_map(stat).collect()
}

/// Sends a number until it is acknowledged.
async fn insist(address: SocketAddr, source: &Source, number: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reply = post(address, source, &format!("{{\"n\":{number}}}")).await;
        match (reply.status, reply.error().as_str()) {
            (200, _) => return,
            // Not written, says each of them. The limit: two evaluators were killed under the same record.
            (503, _) | (422, "stream.in.templateMemoryLimit") => {}
            other => panic!("{other:?} {}", reply.message()),
        }
        assert!(Instant::now() < deadline, "{number} is never acknowledged");
        sleep(PAUSE).await;
    }
}

#[tokio::test]
async fn killing_evaluators_neither_loses_nor_doubles_a_record() {
    const CLIENTS: u64 = 8;
    const RECORDS: u64 = 60;
    const KILLS: u32 = 5;
    let (_scratch, setup) = new_setup();
    let mut service = Service::start(setup.importing_each_second())
        .await
        .expect("it starts");
    let api = service.api().expect("a token");
    let content = "'n' + std.foldl(function(a, b) a + b, std.range(1, 300), 0) + '-' + Body('n')";
    let source = create(&api, "killed", &[template("n", content)]).await;
    let (address, pid) = (service.setup().source_address(), service.pid());
    let stop = Arc::new(AtomicBool::new(false));
    let killer = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut killed = 0;
            while killed < KILLS && !stop.load(Ordering::Relaxed) {
                for evaluator in children(pid) {
                    // It may be gone already.
                    killed += u32::from(kill_process(evaluator, Signal::KILL).is_ok());
                }
                sleep(Duration::from_millis(100)).await;
            }
            killed
        }
    });
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let source = source.clone();
        clients.spawn(async move {
            for number in 0..RECORDS {
                insist(address, &source, client * RECORDS + number).await;
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("it does not panic");
    }
    stop.store(true, Ordering::Relaxed);
    assert!(
        killer.await.expect("it does not panic") > 0,
        "something was killed"
    );
    let all = CLIENTS * RECORDS;
    rows(&service, "killed", i64::try_from(all).expect("a few")).await;
    let tables = Tables::open(&service.setup().tables()).expect("a database");
    let counts = tables.counts("killed", "n").expect("it can be read");
    let expected: BTreeMap<_, _> = (0..all).map(|n| (format!("n45150-{n}"), 1)).collect();
    assert_eq!(counts, expected);
    service.stop().await.expect("it stops");
    // One that is killed while it starts is told to the log, and its records are sent again.
    service.assert_quiet(&[RESTS, "cannot start an evaluator of templates"]);
}

#[tokio::test]
async fn evaluators_end_with_a_service_that_is_killed_in_the_middle_of_a_template() {
    let (_scratch, setup) = new_setup();
    let setup = setup.env("SOURCE_HTTP_JSONNET_TIMEOUT", "10s");
    let mut service = Service::start(setup).await.expect("it starts");
    let api = service.api().expect("a token");
    let content = "std.foldl(function(a, b) a + b, std.range(1, 1000000000), 0)";
    let source = create(&api, "loop", &[template("x", content)]).await;
    let address = service.setup().source_address();
    assert_eq!(
        children(service.pid()),
        Vec::new(),
        "none while there is no work"
    );
    let mut record = request(Method::POST, &source.path, "{}");
    let json = "application/json".parse().expect("valid");
    record.headers_mut().insert("content-type", json);
    let looping = tokio::spawn(send_once(address, record));
    let deadline = Instant::now() + PATIENCE;
    let evaluator = loop {
        if let [evaluator] = children(service.pid())[..] {
            break evaluator.as_raw_nonzero();
        }
        assert!(Instant::now() < deadline, "no evaluator was started");
        sleep(PAUSE).await;
    };
    service.kill().await.expect("it is killed");
    assert!(
        looping.await.expect("it does not panic").is_err(),
        "no answer"
    );
    // Nobody waits for it but the first process of the system, so it may stay as a zombie.
    let stat = format!("/proc/{evaluator}/stat");
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "the evaluator lives on");
        sleep(PAUSE).await;
    }
    service.assert_quiet(&[]);
}
