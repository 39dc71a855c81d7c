//! More than there is room for: rates, shares, refusals that cost little, clients that leave, and what is told about it.

use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use stream_model::rate::RateLimit;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tracing::field::{Field, Visit};
use tracing::span;

use super::*;
use crate::intake::Budgets;
use crate::source_metrics::Families;
use crate::table::{Entry, Table};
use crate::testing::{ModelDirectory, ModelVolume};

const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const NEIGHBOUR: &str = "/stream/1/neighbour/secret";
/// Longer than any test waits for anything.
const PATIENCE: Duration = Duration::from_secs(60);

impl Server {
    fn entry(&self, source: &str) -> Arc<Entry> {
        let mut found = self.rig.directory.table.authenticate(1, source, "secret");
        found.pop().expect("there is such a source")
    }

    fn limit(&self, records: u64, bytes: u64) {
        let entry = self.entry("orders");
        entry.intake.set_rate(RateLimit::new(records, bytes));
    }

    /// Lets `orders` send no more for a long time, whatever the clock does meanwhile.
    async fn exhaust(&self) {
        self.limit(1, 0);
        let answer = self
            .request("POST", PATH, NDJSON, &"1\n".repeat(5000))
            .await;
        assert_eq!(answer.status(), 200);
    }

    /// A second source, with a volume and a lane of its own.
    fn add_neighbour(&self) -> Rig {
        let other = Rig::with(ModelVolume::new(2), ModelDirectory::new(), 2);
        other.volume.open_slice(slice(9));
        let route = || {
            let sinks = vec![body_sink("n", 1)];
            route_on(volume_id(2), &other.lane, sinks, &[target(slice(9))])
        };
        other.directory.set_route(route());
        let mut route = route();
        route.source.source = "neighbour".parse().expect("valid");
        self.rig.directory.set_route(route);
        other
    }

    /// Nothing is held for any request, and no connection is open.
    fn is_idle(&self) -> bool {
        let budgets = &self.rig.directory.table.budgets;
        let connections = self.registry.gather();
        let connections = connections
            .iter()
            .find(|family| family.name() == "stream_http_connections");
        let open = connections.map(|family| family.get_metric()[0].get_gauge().get_value());
        budgets.bytes.used() == 0
            && budgets.requests.used() == 0
            && self.entry("orders").intake.metrics.in_flight.get() == 0
            && open == Some(0.0)
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("it comes true");
}

#[tokio::test]
async fn a_source_beyond_its_rate_is_refused_with_the_time_to_wait() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.exhaust().await;
    let many = "1\n".repeat(3);
    for (header, body) in [(JSON, "1"), (NDJSON, &*many)] {
        let answer = server.request("POST", PATH, header, body).await;
        assert_eq!(answer.error(), error(429, "rateLimited"));
        let wait: u64 = answer
            .header("retry-after")
            .and_then(|wait| wait.parse().ok())
            .expect("whole seconds");
        assert!((1000..=5000).contains(&wait), "{wait}");
    }
    assert_eq!(server.rig.volume.rows(slice(1)).len(), 5000);
    server.limit(0, 0);
    assert_eq!(server.post("1").await.status(), 200);
}

#[tokio::test]
async fn bytes_are_counted_as_they_are_after_decoding() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let level = stream_model::level::Compression::Zstd { level: 1 };
    let frame = stream_encoding::Encoder::new(level)
        .frame("1".repeat(500_000).as_bytes())
        .expect("memory");
    assert!(frame.len() < 5_000);
    server.limit(0, 5_000);
    let request = Request::post(PATH).header("content-encoding", "zstd");
    let request = request.body(Full::new(frame)).expect("valid");
    assert_eq!(server.send(request).await.status(), 200);
    let refused = server.post("1").await;
    assert_eq!(refused.error(), error(429, "rateLimited"));
    // Of a body in pieces the size is not known ahead either.
    let chunks = ["1", "2"].map(|text| Ok(Frame::data(Bytes::from(text))));
    let body = StreamBody::new(futures_util::stream::iter(chunks));
    let request = Request::post(PATH).body(body).expect("valid");
    let refused = server.send(request).await;
    assert_eq!(refused.error(), error(429, "rateLimited"));
    assert_eq!(server.rig.volume.rows(slice(1)).len(), 1);
}

#[tokio::test]
async fn many_records_pass_together_or_not_at_all() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.exhaust().await;
    server.limit(0, 1_000);
    // The bytes of this one are counted before its records are, and come back.
    let entry = server.entry("orders");
    entry.intake.set_rate(RateLimit::new(1, 1_000));
    let refused = server
        .request("POST", PATH, NDJSON, &"1\n".repeat(400))
        .await;
    assert_eq!(refused.error(), error(429, "rateLimited"));
    server.limit(0, 1_000);
    let answer = server
        .request("POST", PATH, NDJSON, &"1\n".repeat(500))
        .await;
    assert_eq!(answer.status(), 200);
    assert_eq!(server.rig.volume.rows(slice(1)).len(), 5500);
}

#[tokio::test]
async fn a_neighbour_of_a_source_at_fifty_times_its_rate_is_served() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let neighbour = server.add_neighbour();
    server.exhaust().await;
    let mut refused = 0;
    for number in 0..20 {
        let flood = futures_util::future::join_all((0..50).map(|_| server.post("1")));
        let body = number.to_string();
        let (flood, answer) = tokio::join!(flood, server.request("POST", NEIGHBOUR, JSON, &body));
        assert_eq!(answer.status(), 200);
        refused += flood.iter().filter(|answer| answer.status() == 429).count();
    }
    assert_eq!(refused, 1000);
    assert_eq!(neighbour.volume.rows(slice(9)).len(), 20);
    assert_eq!(server.rig.volume.rows(slice(1)).len(), 5000);
}

/// A server whose budgets are so many bytes and requests.
async fn narrow(bytes: usize, requests: usize, of_source: usize) -> Server {
    let families = Arc::new(Families::new(10).expect("valid names"));
    let table = Table::new(Budgets::new(bytes, requests, of_source), families);
    let directory = ModelDirectory::with(table);
    let rig = Rig::with(ModelVolume::new(1), directory, 1);
    Server::with(vec![body_sink("a", 1)], 1 << 20, rig).await
}

/// Sends requests that the volume does not answer until it refuses one.
async fn fill(server: &Arc<Server>, body: &str) -> (JoinSet<Answer>, usize) {
    let mut waiting = JoinSet::new();
    let mut sent = 0;
    loop {
        let (one, body) = (Arc::clone(server), body.to_owned());
        let before = server.rig.directory.table.budgets.requests.used();
        waiting.spawn(async move { one.post(&body).await });
        let refused = async {
            let answered = waiting.join_next().await.expect("one was sent");
            answered.expect("no panic")
        };
        let requests = || server.rig.directory.table.budgets.requests.used();
        tokio::select! {
            answer = refused => {
                assert_eq!(answer.error(), error(503, "overloaded"));
                assert_eq!(answer.header("retry-after"), Some("1"));
                return (waiting, sent);
            }
            () = until(|| requests() > before) => sent += 1,
        }
        assert!(sent < 1000, "nothing is ever refused");
    }
}

#[tokio::test]
async fn a_source_whose_volume_does_not_answer_leaves_room_for_others() {
    let server = Arc::new(narrow(1 << 20, 50, usize::MAX).await);
    let neighbour = server.add_neighbour();
    server.rig.volume.hold();
    let (mut waiting, sent) = fill(&server, "1").await;
    assert_eq!(sent, 40, "four fifths of the requests");
    for _ in 0..10 {
        let answer = server.request("POST", NEIGHBOUR, JSON, "1").await;
        assert_eq!(answer.status(), 200);
    }
    server.rig.volume.release();
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.expect("no panic").status(), 200);
    }
    assert_eq!(neighbour.volume.rows(slice(9)).len(), 10);
    until(|| server.is_idle()).await;
}

#[tokio::test]
async fn memory_is_shared_like_requests_are() {
    let server = Arc::new(narrow(500_000, 1_000, usize::MAX).await);
    let _neighbour = server.add_neighbour();
    server.rig.volume.hold();
    let body = "1".repeat(40_000);
    let (_waiting, sent) = fill(&server, &body).await;
    // Body and row, 80 KB of the 400 KB that one source may have, each but the last one.
    assert_eq!(sent, 4);
    let answer = server
        .request("POST", NEIGHBOUR, JSON, &body[..30_000])
        .await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_source_may_have_a_limit_of_its_own() {
    let server = Arc::new(narrow(1 << 20, 1_000, 3).await);
    server.rig.volume.hold();
    let (_waiting, sent) = fill(&server, "1").await;
    assert_eq!(sent, 3);
}

/// An answer in plain text, as far as its length says.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    loop {
        let mut chunk = [0; 1024];
        let read = stream.read(&mut chunk).await.expect("readable");
        text.extend_from_slice(&chunk[..read]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = whole.split_once("\r\n\r\n") else {
            assert!(read > 0, "cut off: {whole}");
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length
            .and_then(|length| length.parse().ok())
            .expect("a length");
        if body.len() >= length {
            return whole;
        }
        assert!(read > 0, "cut off: {whole}");
    }
}

fn head(path: &str, length: usize, more: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{more}\r\n")
}

#[tokio::test]
async fn a_short_refused_body_keeps_the_connection() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.exhaust().await;
    let mut stream = TcpStream::connect(server.address).await.expect("served");
    for (path, status) in [
        (PATH, "429"),
        ("/stream/1/orders/wrong", "404"),
        ("/health-check", "405"),
        (PATH, "429"),
    ] {
        let request = head(path, 40_000, "");
        stream.write_all(request.as_bytes()).await.expect("taken");
        // The body comes on its own, as many clients send it.
        tokio::task::yield_now().await;
        stream.write_all(&[b'1'; 40_000]).await.expect("taken");
        let answer = read_answer(&mut stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert!(!answer.contains("connection: close"), "{answer}");
    }
    server.limit(0, 0);
    stream
        .write_all((head(PATH, 1, "") + "1").as_bytes())
        .await
        .expect("taken");
    assert!(read_answer(&mut stream).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_long_refused_body_is_not_read() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.exhaust().await;
    for request in [
        head(PATH, 100_000, ""),
        head(PATH, 10, "expect: 100-continue\r\n"),
        head(PATH, 2_000_000, ""),
    ] {
        let mut stream = TcpStream::connect(server.address).await.expect("served");
        stream.write_all(request.as_bytes()).await.expect("taken");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("closed in order");
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
}

/// Sends it, and reads to the end of the connection. How long that took by the clock of the test.
async fn answer_and_end(server: &Server, request: &str) -> (String, Duration) {
    let mut stream = TcpStream::connect(server.address).await.expect("served");
    let begun = tokio::time::Instant::now();
    stream.write_all(request.as_bytes()).await.expect("taken");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    let read = tokio::time::timeout(TIMEOUT, read).await;
    read.expect("it is closed").expect("closed in order");
    (answer, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_long_for_a_refused_body() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let (at_once, a_moment) = (Duration::from_millis(500), Duration::from_secs(5));
    // Of one that is too long to be read none is; a short one may be on its way.
    for (length, most) in [(100_000, at_once), (1_000, a_moment)] {
        let request = head("/stream/1/orders/wrong", length, "");
        let (answer, took) = answer_and_end(&server, &request).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(took <= most, "{length} bytes are waited for: {took:?}");
    }
}

/// It is known to be too long only when much of it was read.
#[tokio::test]
async fn a_long_refused_body_in_chunks_is_read_in_part() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    for (chunks, is_read) in [(3, true), (9, false)] {
        let path = "/stream/1/orders/wrong";
        let mut text =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
        let chunk = format!("4000\r\n{}\r\n", "1".repeat(0x4000));
        text.push_str(&chunk.repeat(chunks));
        text.push_str("0\r\n\r\n");
        let mut stream = TcpStream::connect(server.address).await.expect("served");
        // It may be closed before all of it is taken.
        let _ = stream.write_all(text.as_bytes()).await;
        let answer = read_answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        let is_closed = answer.contains("connection: close\r\n");
        assert_eq!(is_closed, !is_read, "{chunks} chunks: {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_waited_for_as_long_as_configured() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let mut stream = TcpStream::connect(server.address).await.expect("served");
    stream
        .write_all((head(PATH, 10, "") + "123").as_bytes())
        .await
        .expect("taken");
    let begun = tokio::time::Instant::now();
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("closed in order");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("stream.in.requestTimeout") && answer.contains("connection: close"));
    assert!(begun.elapsed() >= TIMEOUT, "the clock of the test");
    drop(stream);
    until(|| server.is_idle()).await;
}

/// A request, whole: one record or many, with its length or in chunks.
fn whole_request(rng: &mut StdRng) -> Vec<u8> {
    let (kind, piece) = if rng.random_bool(0.5) {
        ("application/x-ndjson", "1\n")
    } else {
        ("text/plain", "1 ")
    };
    let body = piece.repeat(rng.random_range(1..2_000));
    let mut text = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\n");
    if rng.random_bool(0.5) {
        write!(text, "content-length: {}\r\n\r\n{body}", body.len()).expect("memory");
        return text.into_bytes();
    }
    text.push_str("transfer-encoding: chunked\r\n\r\n");
    for chunk in body.as_bytes().chunks(700) {
        let chunk = str::from_utf8(chunk).expect("ASCII");
        write!(text, "{:x}\r\n{chunk}\r\n", chunk.len()).expect("memory");
    }
    text.push_str("0\r\n\r\n");
    text.into_bytes()
}

#[tokio::test]
async fn clients_that_are_cut_off_leave_nothing_behind() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.rig.volume.hold();
    let mut rng = StdRng::seed_from_u64(7);
    let mut open = Vec::new();
    for number in 0..400 {
        let request = whole_request(&mut rng);
        // Some are whole, and wait for the volume.
        let cut = if number % 4 == 0 {
            request.len()
        } else {
            rng.random_range(0..request.len())
        };
        let mut stream = TcpStream::connect(server.address).await.expect("served");
        stream.write_all(&request[..cut]).await.expect("taken");
        if rng.random_bool(0.3) {
            stream.shutdown().await.expect("open");
        }
        open.push(stream);
        if open.len() > 50 {
            drop(open.swap_remove(rng.random_range(0..open.len())));
        }
    }
    server.rig.volume.received(1).await;
    assert!(!server.is_idle());
    drop(open);
    server.rig.volume.release();
    until(|| server.is_idle()).await;
    assert_eq!(server.post("1").await.status(), 200);
}

/// Everything that is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {}={value:?}", field.name()).expect("memory");
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = event.metadata().level().to_string();
        event.record(&mut Fields(&mut line));
        self.0.lock().push(line);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Log {
    fn lines(&self, part: &str) -> Vec<String> {
        let lines = self.0.lock();
        lines
            .iter()
            .filter(|line| line.contains(part))
            .cloned()
            .collect()
    }
}

async fn logging(sample: u32) -> Server {
    let access = config::AccessLog {
        enabled: true,
        sample,
    };
    let sinks = vec![path_sink("a", 1, "x")];
    Server::logging(&access, TrustedProxies::default(), sinks, 1000, Rig::new()).await
}

#[tokio::test]
async fn a_request_is_one_line_with_its_id_and_without_the_secret() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let server = logging(1).await;
    let own_id = ("x-request-id", "from-the-client");
    let answer = server
        .request("POST", &format!("{PATH}?a=b"), own_id, "no")
        .await;
    assert_eq!(answer.header("x-request-id"), Some("from-the-client"));
    let lines = log.lines("request answered");
    let [line] = &*lines else {
        panic!("one line: {lines:?}")
    };
    for part in [
        "INFO",
        "method=POST",
        r#"path="/stream/1/orders/*****""#,
        "status=415",
        r#"error="unsupportedMediaType""#,
        "bytes=2",
        "elapsed_ms=",
        r#"request_id="from-the-client""#,
        "client=127.0.0.1",
        r#"source="1/1/orders""#,
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    assert!(!line.contains("a=b"), "{line}");
}

#[tokio::test]
async fn one_request_of_so_many_is_logged() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let server = logging(10).await;
    for _ in 0..30 {
        server.post(r#"{"x":"1"}"#).await;
    }
    assert_eq!(log.lines("request answered").len(), 3);
}

#[tokio::test]
async fn the_secret_is_nowhere_in_the_log() {
    const SECRET: &str = "Xq7Zt2Secret";
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let server = logging(1).await;
    let mut route = route_on(
        volume_id(1),
        &server.rig.lane,
        vec![path_sink("a", 1, "x")],
        &[target(slice(1))],
    );
    route.secret = Secret::new(SECRET.to_owned());
    server.rig.directory.set_route(route);
    let path = format!("/stream/1/orders/{SECRET}");
    for (method, path) in [
        ("POST", path.clone()),
        ("POST", format!("{path}?secret={SECRET}")),
        ("POST", format!("{path}/")),
        ("POST", format!("/stream/1/{SECRET}/orders")),
        ("POST", format!("/stream/{SECRET}/orders/x")),
        ("POST", format!("/stream/1/orders/{SECRET}x")),
        ("POST", format!("/{SECRET}")),
        ("GET", path.clone()),
        ("OPTIONS", path.clone()),
    ] {
        server.request(method, &path, JSON, r#"{"x":"1"}"#).await;
    }
    server
        .rig
        .volume
        .script([Act::LoseAnswer, Act::Refuse(RefusalReason::DiskFull)]);
    let request = server.request("POST", &path, JSON, r#"{"x":"1"}"#);
    request.await;
    assert_eq!(log.lines("request answered").len(), 10);
    assert_eq!(log.lines("/stream/1/orders/*****").len(), 3);
    assert_eq!(log.lines(SECRET), Vec::<String>::new());
}

#[tokio::test]
async fn a_fault_is_told_with_the_id_that_the_client_was_told() {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.rig.directory.set_route(Route {
        source: source(),
        secret: Secret::new("secret".to_owned()),
        state: State::Broken,
    });
    let answer = server.post("1").await;
    assert_eq!(answer.error(), error(500, "genericError"));
    let id = answer.header("x-request-id").expect("an id");
    let lines = log.lines("fault of the service");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("WARN") && lines[0].contains(id),
        "{lines:?}"
    );
    assert!(
        log.lines("request answered").is_empty(),
        "there is no access log"
    );
}

#[tokio::test]
async fn refusals_are_counted_by_their_names() {
    let families = Arc::new(Families::new(10).expect("valid names"));
    let registry = Registry::new();
    families.register(&registry).expect("fresh");
    let table = Table::new(Budgets::new(64 << 20, 1_000, usize::MAX), families);
    let rig = Rig::with(ModelVolume::new(1), ModelDirectory::with(table), 1);
    let sinks = vec![body_sink("a", 1), path_sink("b", 1, "x")];
    let server = Server::with(sinks, 1000, rig).await;
    server.post(r#"{"x":"1"}"#).await;
    server.post("{}").await;
    server
        .request("POST", PATH, NDJSON, "{\"x\":1}\n{}\n{\"x\":2}")
        .await;
    server.post(&"1".repeat(1001)).await;
    server
        .rig
        .volume
        .script([Act::Refuse(RefusalReason::DiskFull)]);
    server.post(r#"{"x":"1"}"#).await;
    let mut text = String::new();
    prometheus::TextEncoder::new()
        .encode_utf8(&registry.gather(), &mut text)
        .expect("text");
    let labels = r#"project="1",source="orders""#;
    for line in [
        format!("requests_total{{{labels}}} 5"),
        // One, one in the other sink, three of which one is in one sink only.
        format!("records_total{{{labels}}} 5"),
    ] {
        assert!(text.contains(&line), "{line} is not in {text}");
    }
    for reason in [
        "unprocessableContent",
        "partiallyRejected",
        "bodyTooLarge",
        "insufficientStorage",
    ] {
        let line = format!(
            "rejected_requests_total{{project=\"1\",reason=\"{reason}\",source=\"orders\"}} 1"
        );
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}

#[tokio::test]
async fn a_new_route_does_not_forget_what_was_counted() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.exhaust().await;
    server.rig.route(vec![body_sink("a", 2)], &[slice(3)]);
    assert_eq!(server.post("1").await.error(), error(429, "rateLimited"));
}
