//! The HTTP interface, over real connections, against the model volume.

mod contract;
mod keys;
mod many;
mod overload;
mod rejects;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use prometheus::Registry;
use serde_json::{Value, json};
use stream_model::definition::ColumnKind;
use stream_model::level::Durability;
use stream_model::time::ManualClock;
use stream_model::{RequestId, Secret, Timestamp};
use stream_node::{Listener, ServeOptions, ServerMetrics};
use stream_storage::wire::RefusalReason;
use tokio_util::sync::CancellationToken;

use crate::access::AccessLog;
use crate::config;
use crate::dispatch::Dispatcher;
use crate::receive::Receiver;
use crate::request_id::RequestIds;
use crate::route::{PlannedSink, Ready, Route, State, Target};
use crate::testing::{
    Act, Rig, SESSION, TIMEOUT, body_sink, path_sink, route_on, sink, slice, source, target,
    template_sink, volume_id,
};
use stream_node::TrustedProxies;

const PATH: &str = "/stream/1/orders/secret";
const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

struct Server {
    rig: Rig,
    address: SocketAddr,
    registry: Registry,
    clock: Arc<ManualClock>,
    _receiver: Arc<Receiver>,
    _stop: tokio_util::sync::DropGuard,
}

impl Server {
    async fn start(sinks: Vec<PlannedSink>) -> Self {
        Self::with(sinks, 1 << 20, Rig::new()).await
    }

    async fn with(sinks: Vec<PlannedSink>, max_body: usize, rig: Rig) -> Self {
        Self::behind(TrustedProxies::default(), sinks, max_body, rig).await
    }

    async fn behind(
        proxies: TrustedProxies,
        sinks: Vec<PlannedSink>,
        max_body: usize,
        rig: Rig,
    ) -> Self {
        Self::logging(&config::AccessLog::default(), proxies, sinks, max_body, rig).await
    }

    async fn logging(
        access: &config::AccessLog,
        proxies: TrustedProxies,
        sinks: Vec<PlannedSink>,
        max_body: usize,
        rig: Rig,
    ) -> Self {
        let slices: Vec<_> = (1..).take(sinks.len()).map(slice).collect();
        rig.route(sinks, &slices);
        let mapper = Arc::clone(&rig.mapper);
        let metrics = Arc::clone(&rig.metrics);
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(0)));
        let receiver = Arc::new(Receiver {
            table: Arc::clone(&rig.directory.table),
            dispatcher: Dispatcher::new(
                mapper,
                rig.evaluators.clone(),
                metrics,
                Arc::clone(&rig.directory) as _,
                TIMEOUT,
            ),
            clock: Arc::clone(&clock) as _,
            metrics: Arc::clone(&rig.metrics),
            max_header: 4000,
            max_body,
            max_batch: 4 * max_body,
            proxies,
            timeout: TIMEOUT,
            ids: RequestIds::new(SESSION),
            access: AccessLog::new(access),
        });
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(local, "the test", "test.listen")
            .await
            .expect("port 0");
        let address = listener.local_addr();
        let stop = CancellationToken::new();
        let service = {
            let receiver = Arc::clone(&receiver);
            service_fn(move |request: Request<Incoming>| {
                let receiver = Arc::clone(&receiver);
                async move { Ok::<_, Infallible>(receiver.receive(request).await) }
            })
        };
        let registry = Registry::new();
        let options = ServeOptions {
            metrics: Some(ServerMetrics::register(&registry, "test").expect("fresh")),
            ..ServeOptions::default()
        };
        let serve = listener.serve(options, service, stop.clone());
        drop(tokio::spawn(serve));
        Self {
            rig,
            address,
            registry,
            clock,
            _receiver: receiver,
            _stop: stop.drop_guard(),
        }
    }

    async fn request(&self, method: &str, path: &str, header: (&str, &str), body: &str) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header.0, header.1);
        self.send(
            request
                .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
                .expect("valid"),
        )
        .await
    }

    async fn post(&self, body: &str) -> Answer {
        self.request("POST", PATH, JSON, body).await
    }

    async fn send<B>(&self, mut request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        request
            .headers_mut()
            .insert("host", "x".parse().expect("valid"));
        let socket = tokio::net::TcpStream::connect(self.address)
            .await
            .expect("served");
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .expect("HTTP");
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.expect("answered");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        connection.abort();
        Answer(Response::from_parts(parts, body))
    }
}

struct Answer(Response<Bytes>);

impl Answer {
    fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(self.0.body()).expect("text")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(self.0.body()).expect("JSON")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.0
            .headers()
            .get(name)
            .map(|value| value.to_str().expect("text"))
    }

    /// Status and error name.
    fn error(&self) -> (u16, String) {
        let body = self.json();
        assert_eq!(body["statusCode"], self.status());
        let name = body["error"].as_str().expect("an error has a name");
        (
            self.status(),
            name.strip_prefix("stream.in.")
                .expect("the prefix")
                .to_owned(),
        )
    }
}

fn error(status: u16, name: &str) -> (u16, String) {
    (status, name.to_owned())
}

#[tokio::test]
async fn a_record_is_written_before_it_is_acknowledged() {
    let server = Server::start(vec![body_sink("a", 1), path_sink("b", 1, "x")]).await;
    let answer = server.post(r#"{"x":"1"}"#).await;
    assert_eq!((answer.status(), answer.text()), (200, "OK"));
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    assert_eq!(answer.header("x-stream-durability"), Some("disk"));
    let position = format!("a={}:1, b={}:1", slice(1), slice(2));
    assert_eq!(answer.header("x-stream-position"), Some(&*position));
    assert_eq!(answer.header("server"), Some("stream-service"));
    assert!(
        answer
            .header("x-request-id")
            .is_some_and(|id| id.starts_with("0000000000000007-"))
    );
    assert_eq!(server.rig.volume.rows(slice(1)), [r#""{""x"":""1""}""#]);
    assert_eq!(server.rig.volume.rows(slice(2)), [r#""1""#]);
    assert_eq!(server.rig.admission.used(), 0);
}

/// The id leads to the slice by this time, so it has to be that of the row.
#[tokio::test]
async fn a_record_has_arrived_when_its_request_id_says_however_long_its_body_takes() {
    let server = Server::start(vec![sink("a", 1, ColumnKind::Datetime)]).await;
    server.clock.advance(Duration::from_secs(7));
    let (more, rest) = tokio::sync::mpsc::unbounded_channel();
    let rest = futures_util::stream::unfold(rest, async |mut rest| {
        rest.recv().await.map(|part| (part, rest))
    });
    let body = StreamBody::new(Box::pin(
        rest.map(|part: &'static str| Ok(Frame::data(Bytes::from(part)))),
    ));
    let request = Request::post(PATH).header(JSON.0, JSON.1).body(body);
    let sending = server.send(request.expect("valid"));
    let body = async {
        more.send("{\"x\":").expect("it is sent");
        while server.rig.admission.used() == 0 {
            tokio::task::yield_now().await;
        }
        server.clock.advance(Duration::from_secs(20));
        more.send("1}").expect("it is sent");
        drop(more);
    };
    let (answer, ()) = tokio::join!(sending, body);
    assert_eq!(answer.status(), 200, "{}", answer.text());
    let id = answer.header("x-request-id").expect("an id");
    let id: RequestId = id.parse().expect("one of ours");
    assert_eq!(id.session, SESSION);
    assert_eq!(id.arrived_at(), Timestamp::from_millis(7_000));
    assert_eq!(
        server.rig.volume.rows(slice(1)),
        [r#""1970-01-01T00:00:07.000Z""#]
    );
}

#[tokio::test]
async fn verbose_names_every_sink() {
    let server = Server::start(vec![body_sink("a", 1), body_sink("b", 1)]).await;
    let answer = server
        .request("POST", &format!("{PATH}?verbose=true"), JSON, "{}")
        .await;
    let sink =
        |id: &str| json!({"sinkId": id, "statusCode": 200, "message": "Successfully written."});
    let expected = json!({
        "statusCode": 200,
        "message": "Successfully written to 2/2 sinks.",
        "sources": [{
            "projectId": 1, "sourceId": "orders", "branchId": 1, "statusCode": 200,
            "message": "Successfully written to 2/2 sinks.",
            "sinks": [sink("a"), sink("b")],
        }],
    });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn a_record_that_one_sink_refuses_is_in_the_others() {
    let server = Server::start(vec![body_sink("a", 1), path_sink("b", 1, "x")]).await;
    let answer = server.post(r#"{"y":1}"#).await;
    assert_eq!(answer.error(), error(422, "unprocessableContent"));
    let body = answer.json();
    let message = body["message"].as_str().expect("text");
    assert!(
        message.starts_with(r#"Written to 1/2 sinks. Sink "b": column "c""#),
        "{message}"
    );
    let statuses = [0, 1].map(|sink| body["sources"][0]["sinks"][sink]["statusCode"].clone());
    assert_eq!(statuses, [json!(200), json!(422)]);
    let position = format!("a={}:1", slice(1));
    assert_eq!(answer.header("x-stream-position"), Some(&*position));
    assert_eq!(server.rig.volume.rows(slice(1)).len(), 1);
    assert!(server.rig.volume.rows(slice(2)).is_empty());
}

#[tokio::test]
async fn a_record_that_no_sink_takes_is_not_sent_at_all() {
    let server = Server::start(vec![path_sink("a", 1, "x")]).await;
    let no_json = ("content-type", "text/plain");
    let refused = server.request("POST", PATH, no_json, "x").await;
    assert_eq!(refused.error(), error(415, "unsupportedMediaType"));
    assert_eq!(refused.header("x-stream-durability"), None);
    assert_eq!(
        server.post("{").await.error(),
        error(422, "unprocessableContent")
    );
    let long = |length| format!(r#"{{"x":"{}"}}"#, "y".repeat(length));
    assert_eq!(server.post(&long(500_000)).await.status(), 200);
    assert_eq!(
        server.post(&long(600_000)).await.error(),
        error(413, "payloadTooLarge")
    );
    assert_eq!(server.rig.volume.rows(slice(1)).len(), 1);
}

#[tokio::test]
async fn an_unknown_source_and_a_wrong_secret_are_answered_alike() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let unknown = server
        .request("POST", "/stream/1/other/secret", JSON, "{}")
        .await;
    let wrong = server
        .request("POST", "/stream/1/orders/wrong", JSON, "{}")
        .await;
    assert_eq!(unknown.text(), wrong.text());
}

#[tokio::test]
async fn bodies_are_limited_by_length_while_reading_and_by_memory() {
    let server = Server::with(vec![body_sink("a", 1)], 1000, Rig::new()).await;
    assert_eq!(server.post(&"1".repeat(1000)).await.status(), 200);
    assert_eq!(
        server.post(&"1".repeat(1001)).await.error(),
        error(413, "bodyTooLarge")
    );
    let chunks = (0..3).map(|_| Ok(Frame::data(Bytes::from("1".repeat(400)))));
    let body = StreamBody::new(futures_util::stream::iter(chunks));
    let request = Request::post(PATH).body(body).expect("valid");
    assert_eq!(
        server.send(request).await.error(),
        error(413, "bodyTooLarge")
    );
    let free = (64 << 20) - 1000;
    let taken = server
        .rig
        .admission
        .reserve(free)
        .expect("nothing else is under way");
    let answer = server.post(&"1".repeat(999)).await;
    assert_eq!(answer.error(), error(503, "overloaded"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop(taken);
    assert_eq!(server.post("1").await.status(), 200);
    assert_eq!(server.rig.admission.used(), 0);
}

#[tokio::test]
async fn content_encodings_are_undone_within_the_limit() {
    let server = Server::with(vec![body_sink("a", 1)], 1000, Rig::new()).await;
    let frame = |length: usize| {
        let level = stream_model::level::Compression::Zstd { level: 1 };
        stream_encoding::Encoder::new(level)
            .frame("1".repeat(length).as_bytes())
            .expect("memory")
    };
    let send = async |encoding: &str, body: Bytes| {
        let request = Request::post(PATH).header("content-encoding", encoding);
        server
            .send(request.body(Full::new(body)).expect("valid"))
            .await
    };
    assert_eq!(send("zstd", frame(1000)).await.status(), 200);
    assert_eq!(
        send("zstd", frame(1001)).await.error(),
        error(413, "bodyTooLarge")
    );
    assert_eq!(
        send("gzip", frame(10)).await.error(),
        error(400, "badRequest")
    );
    assert_eq!(
        send("br", frame(10)).await.error(),
        error(415, "unsupportedMediaType")
    );
    assert_eq!(
        server.rig.volume.rows(slice(1)),
        [format!("\"{}\"", "1".repeat(1000))]
    );
}

#[tokio::test]
async fn a_request_waits_for_the_news_of_a_slice() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let secret = Secret::new("secret".to_owned());
    let state = State::NoSlice;
    server.rig.directory.set_route(Route {
        source: source(),
        secret,
        state,
    });
    let announce = async {
        tokio::task::yield_now().await;
        server.rig.route(vec![body_sink("a", 1)], &[slice(1)]);
    };
    let (answer, ()) = tokio::join!(server.post("{}"), announce);
    assert_eq!(answer.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn routes_catch_up_with_what_the_process_has_heard_before_they_are_used() {
    let rig = Rig::new();
    let (mapper, metrics) = (Arc::clone(&rig.mapper), Arc::clone(&rig.metrics));
    let directory = Arc::clone(&rig.directory) as Arc<dyn crate::route::Directory>;
    let dispatcher = Dispatcher::new(mapper, rig.evaluators.clone(), metrics, directory, TIMEOUT);
    assert_eq!(dispatcher.catch_up().now_or_never(), Some(()));
    rig.directory.ahead.store(1, Ordering::SeqCst);
    let mut waiting = std::pin::pin!(dispatcher.catch_up());
    assert_eq!(waiting.as_mut().now_or_never(), None);
    rig.directory.announce();
    assert_eq!(waiting.now_or_never(), Some(()));
    // The clock of the test moves on by itself: it does not wait for ever.
    dispatcher.catch_up().await;
}

/// In real time: the evaluator is a thread.
#[tokio::test]
async fn templates_are_evaluated_before_a_record_is_written() {
    let sinks = vec![
        template_sink("a", 1, "Body('n') * 2 + std.length(Header('content-type'))"),
        body_sink("b", 1),
    ];
    let server = Server::start(sinks).await;
    let answer = server.post(r#"{"n":1.5}"#).await;
    assert_eq!((answer.status(), answer.text()), (200, "OK"));
    assert_eq!(server.rig.volume.rows(slice(1)), ["\"34\""]);
    let answer = server.post("{}").await;
    assert_eq!(answer.error(), error(422, "unprocessableContent"));
    assert!(
        answer.text().contains("Written to 1/2 sinks."),
        "{}",
        answer.text()
    );
    let answer = server.post(r#"{"n":null}"#).await;
    assert_eq!(answer.error(), error(422, "unprocessableContent"));
    assert!(
        answer
            .text()
            .contains("column \\\"c\\\": the template failed: "),
        "{}",
        answer.text()
    );
    assert_eq!(server.rig.volume.rows(slice(1)).len(), 1);
    assert_eq!(server.rig.volume.rows(slice(2)).len(), 3);
    assert_eq!(server.rig.admission.used(), 0);
}

#[tokio::test]
async fn many_records_are_evaluated_at_once() {
    let server = Server::start(vec![template_sink("a", 1, "'<' + Body('n') + '>'")]).await;
    let lines: Vec<_> = (0..100).map(|n| format!("{{\"n\":{n}}}")).collect();
    let body = format!("{}\n{{}}\n", lines.join("\n"));
    let ndjson = ("content-type", "application/x-ndjson");
    let answer = server.request("POST", PATH, ndjson, &body).await;
    assert_eq!(answer.status(), 207);
    assert!(
        answer.text().contains(r#""accepted":100,"rejected":1"#),
        "{}",
        answer.text()
    );
    let expected: Vec<_> = (0..100).map(|n| format!("\"<{n}>\"")).collect();
    assert_eq!(server.rig.volume.rows(slice(1)), expected);
}

#[tokio::test]
async fn the_weakest_sink_decides_the_class_and_memory_does_not_wait() {
    let server = Server::start(vec![body_sink("a", 1), body_sink("b", 1)]).await;
    for (first, second, status, class) in [
        (Durability::Disk, Durability::Cache, 202, "cache"),
        (Durability::Memory, Durability::Disk, 202, "memory"),
        (Durability::Memory, Durability::Memory, 202, "memory"),
    ] {
        let targets = [(1, first), (2, second)].map(|(id, durability)| Target {
            durability,
            ..target(slice(id))
        });
        let sinks = vec![body_sink("a", 1), body_sink("b", 1)];
        server
            .rig
            .directory
            .set_route(route_on(volume_id(1), &server.rig.lane, sinks, &targets));
        if first == second {
            server.rig.volume.hold();
        }
        let answer = server.post("{}").await;
        assert_eq!((answer.status(), answer.text()), (status, "OK"));
        assert_eq!(answer.header("x-stream-durability"), Some(class));
    }
}

#[tokio::test]
async fn all_branches_with_the_secret_get_the_record() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let other = Rig::new();
    other.volume.open_slice(slice(9));
    let mut route = route_on(
        volume_id(1),
        &other.lane,
        vec![path_sink("b", 1, "x")],
        &[target(slice(9))],
    );
    route.source.branch.branch = stream_model::BranchId(2);
    let targets = [target(slice(9))];
    // The lane of the second branch looks for its own source.
    other.directory.set_route(route_on(
        volume_id(1),
        &other.lane,
        vec![path_sink("b", 1, "x")],
        &targets,
    ));
    server.rig.directory.set_route(route);
    let answer = server.post(r#"{"x":1}"#).await;
    assert_eq!((answer.status(), answer.text()), (200, "OK"));
    assert_eq!(
        (
            server.rig.volume.rows(slice(1)).len(),
            other.volume.rows(slice(9)).len()
        ),
        (1, 1)
    );
    let refused = server.post("{}").await;
    assert_eq!(refused.error(), error(422, "unprocessableContent"));
    let body = refused.json();
    let branches = [0, 1].map(|source| body["sources"][source]["branchId"].clone());
    assert_eq!(branches, [json!(1), json!(2)]);
}

#[tokio::test]
async fn headers_reach_a_mapping_that_reads_them_even_a_later_one() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.rig.volume.hold();
    let rotate = async {
        server.rig.volume.received(1).await;
        server.rig.volume.seal(slice(1), Some(slice(2)));
        server
            .rig
            .route(vec![sink("a", 2, ColumnKind::Headers)], &[slice(2)]);
        server.rig.volume.release();
    };
    let (answer, ()) = tokio::join!(server.request("POST", PATH, ("x-own", "1"), "{}"), rotate);
    assert_eq!(answer.status(), 200);
    let rows = server.rig.volume.rows(slice(2));
    assert!(rows[0].contains(r#"""X-Own"":""1"""#), "{rows:?}");
}

#[tokio::test]
async fn a_client_that_leaves_does_not_take_its_record_along() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.rig.volume.hold();
    {
        let leaving = server.post("1");
        tokio::select! {
            _ = leaving => panic!("nothing is answered while the volume holds"),
            () = server.rig.volume.received(1) => {}
        }
    }
    server.rig.volume.release();
    // The next record is committed behind it.
    assert_eq!(server.post("2").await.status(), 200);
    assert_eq!(server.rig.volume.rows(slice(1)), ["\"1\"", "\"2\""]);
    assert_eq!(server.rig.admission.used(), 0);
}

#[tokio::test]
async fn requests_are_counted_by_class() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    server.post("{}").await;
    server.request("GET", "/nowhere", JSON, "").await;
    assert_eq!(
        (
            server.rig.metrics.records.get(),
            server.rig.metrics.bytes.get()
        ),
        (1, 2)
    );
}

#[tokio::test]
async fn two_volumes_share_the_load_and_a_resting_one_is_passed_over() {
    let first = Rig::new();
    let second = Rig::with(
        crate::testing::ModelVolume::new(2),
        Arc::clone(&first.directory),
        2,
    );
    let route = |rig: &Rig, id| crate::route::VolumeRoute {
        volume: volume_id(id),
        lane: rig.lane.clone(),
        targets: [target(slice(id))].into(),
        rejects: [None].into(),
    };
    let volumes = vec![route(&first, 1), route(&second, 2)];
    first.volume.open_slice(slice(1));
    second.volume.open_slice(slice(2));
    let plan = Arc::new(crate::route::Plan::new(vec![body_sink("a", 1)]));
    let state = State::Ready(Ready {
        plan,
        volumes: volumes.clone(),
        keys: Arc::default(),
    });
    let secret = Secret::new("secret".to_owned());
    first.directory.set_route(Route {
        source: source(),
        secret,
        state,
    });
    first.volume.hold();
    let waiting = first.append("1");
    assert_eq!(
        crate::balance::choose(&volumes).map(|route| route.volume),
        Some(volume_id(2))
    );
    first.volume.received(1).await;
    first.volume.script([Act::Refuse(RefusalReason::DiskFull)]);
    first.volume.release();
    assert_eq!(waiting.outcome().await.written, Ok(Durability::Disk));
    assert_eq!(second.volume.rows(slice(2)), ["\"1\""]);
    let loaded = second.append("2");
    assert_eq!(
        crate::balance::choose(&volumes).map(|route| route.volume),
        Some(volume_id(2))
    );
    loaded.outcome().await;
}

#[tokio::test]
async fn trusted_proxies_say_who_their_client_is() {
    for (trusted, expected) in [("127.0.0.0/8", "203.0.113.9"), ("10.0.0.0/8", "127.0.0.1")] {
        let proxies = TrustedProxies::parse(&[trusted.to_owned()]).expect("valid");
        let sinks = vec![sink("a", 1, ColumnKind::Ip)];
        let server = Server::behind(proxies, sinks, 1000, Rig::new()).await;
        let header = ("x-forwarded-for", "6.6.6.6, 203.0.113.9");
        let answer = server.request("POST", PATH, header, "x").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(
            server.rig.volume.rows(slice(1)),
            [format!("\"{expected}\"")]
        );
    }
}

#[tokio::test]
async fn long_headers_are_refused_with_a_name() {
    let server = Server::start(vec![body_sink("a", 1)]).await;
    let send = async |length: usize| {
        let value = "y".repeat(length);
        server.request("POST", PATH, ("x-long", &value), "x").await
    };
    assert_eq!(send(3800).await.status(), 200);
    assert_eq!(send(4000).await.error(), error(413, "headerTooLarge"));
    assert_eq!(server.rig.volume.rows(slice(1)).len(), 1);
}
