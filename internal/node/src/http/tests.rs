mod http2;
mod tls;

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;

/// Long enough for anything that does not hang.
const SOON: Duration = Duration::from_secs(30);
const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Drained>,
    /// One message for each request that has reached the service.
    arrived: mpsc::UnboundedReceiver<()>,
    /// Requests to `/slow` wait for it.
    release: CancellationToken,
}

async fn bind() -> Listener {
    let address = "127.0.0.1:0".parse().expect("an address");
    Listener::bind(address, "the test", "test.listen")
        .await
        .expect("port 0 is always free")
}

/// Echoes body and peer. `/slow` waits to be released, `/panic` panics, `/ignore` answers without
/// reading the body.
async fn start(options: ServeOptions) -> Server {
    let listener = bind().await;
    let address = listener.local_addr();
    let (stop, release) = (CancellationToken::new(), CancellationToken::new());
    let (arrive, arrived) = mpsc::unbounded_channel();
    let released = release.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (arrive, released) = (arrive.clone(), released.clone());
        async move {
            arrive.send(()).expect("the test holds the receiver");
            let peer = request
                .extensions()
                .get::<Peer>()
                .copied()
                .expect("always there");
            match request.uri().path() {
                "/slow" => released.cancelled().await,
                "/panic" => panic!("as asked"),
                "/ignore" => return Ok(Response::new(Full::from("no"))),
                _ => {}
            }
            let body = request
                .into_body()
                .collect()
                .await
                .map(|body| body.to_bytes());
            let text = format!("{} {}", peer.0, body.map_or(0, |body| body.len()));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
        }
    });
    #[expect(clippy::disallowed_methods, reason = "joined by the test")]
    let task = tokio::spawn(listener.serve(options, service, stop.clone()));
    Server {
        address,
        stop,
        task,
        arrived,
        release,
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    async fn stop(self) -> Drained {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.task)
            .await
            .expect("it drains")
            .expect("no panic")
    }
}

async fn send(stream: &mut TcpStream, text: &str) {
    stream
        .write_all(text.as_bytes())
        .await
        .expect("the server reads");
}

/// Reads one answer: its status line and its body.
async fn answer(stream: &mut TcpStream) -> (String, String) {
    let mut text = Vec::new();
    let read = async {
        loop {
            if let Some(answer) = complete(&text) {
                return answer;
            }
            assert_ne!(
                stream.read_buf(&mut text).await.expect("it answers"),
                0,
                "closed early"
            );
        }
    };
    tokio::time::timeout(SOON, read).await.expect("it answers")
}

fn complete(text: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))?;
    let whole = body.len() == length.parse::<usize>().ok()?;
    whole.then(|| {
        (
            head.lines().next().unwrap_or_default().to_owned(),
            body.to_owned(),
        )
    })
}

/// Waits for the server to close the connection and returns what it still sent.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut text)).await;
    // A reset is an end like any other.
    let _ = read.expect("the server closes the connection");
    String::from_utf8(text).expect("headers are text")
}

#[tokio::test]
async fn serves_many_requests_on_one_connection_and_tells_the_peer() {
    let server = start(ServeOptions::default()).await;
    let mut stream = server.connect().await;
    let peer = stream.local_addr().expect("connected");
    for _ in 0..3 {
        send(
            &mut stream,
            "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello",
        )
        .await;
        assert_eq!(
            answer(&mut stream).await,
            ("HTTP/1.1 200 OK".to_owned(), format!("{peer} 5"))
        );
    }
    assert_eq!(server.stop().await, Drained { aborted: 0 });
}

#[tokio::test]
async fn stop_closes_idle_connections_and_finishes_requests() {
    let mut server = start(ServeOptions::default()).await;
    let (mut fresh, mut idle, mut busy) = (
        server.connect().await,
        server.connect().await,
        server.connect().await,
    );
    send(&mut idle, GET).await;
    answer(&mut idle).await;
    server.arrived.recv().await;
    send(&mut busy, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.arrived.recv().await;
    server.stop.cancel();
    assert_eq!(rest(&mut fresh).await, "");
    assert_eq!(rest(&mut idle).await, "");
    assert!(
        TcpStream::connect(server.address).await.is_err(),
        "the port is closed"
    );
    assert!(!server.task.is_finished());
    server.release.cancel();
    let text = rest(&mut busy).await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("connection: close"), "{text}");
    assert_eq!(server.stop().await, Drained { aborted: 0 });
}

#[tokio::test]
async fn request_over_the_drain_deadline_is_cut_and_counted() {
    let options = ServeOptions {
        drain: Duration::from_millis(20),
        ..ServeOptions::default()
    };
    let mut server = start(options).await;
    let mut busy = server.connect().await;
    send(&mut busy, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.arrived.recv().await;
    assert_eq!(server.stop().await, Drained { aborted: 1 });
    assert_eq!(rest(&mut busy).await, "");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_answered_429() {
    let registry = Registry::new();
    let metrics = ServerMetrics::register(&registry, "test").expect("a fresh registry");
    let options = ServeOptions {
        max_connections: 1,
        metrics: Some(metrics.clone()),
        ..ServeOptions::default()
    };
    let server = start(options).await;
    let mut first = server.connect().await;
    send(&mut first, GET).await;
    answer(&mut first).await;
    let mut second = server.connect().await;
    assert!(
        rest(&mut second)
            .await
            .starts_with("HTTP/1.1 429 Too Many Requests\r\n")
    );
    assert_eq!((metrics.connections.get(), metrics.refused.get()), (1, 1));
    drop(first);
    // The place of the first one is free as soon as the server has seen it go.
    let served = async {
        loop {
            let mut next = server.connect().await;
            send(
                &mut next,
                "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
            )
            .await;
            if rest(&mut next).await.starts_with("HTTP/1.1 200 OK\r\n") {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, served)
        .await
        .expect("served in the end");
    server.stop().await;
    assert_eq!(metrics.connections.get(), 0);
    assert!(ServerMetrics::register(&registry, "other").is_ok());
    assert!(ServerMetrics::register(&registry, "test").is_err());
}

#[tokio::test]
async fn headers_over_the_limit_are_answered_431() {
    let server = start(ServeOptions {
        header_limit: 1000,
        ..ServeOptions::default()
    })
    .await;
    let mut stream = server.connect().await;
    send(
        &mut stream,
        &format!(
            "GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n",
            "b".repeat(900)
        ),
    )
    .await;
    assert_eq!(answer(&mut stream).await.0, "HTTP/1.1 200 OK");
    send(
        &mut stream,
        &format!(
            "GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n",
            "b".repeat(1000)
        ),
    )
    .await;
    let text = rest(&mut stream).await;
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn answers_given_early_or_for_no_request_at_all_are_sent() {
    let server = start(ServeOptions::default()).await;
    let mut early = server.connect().await;
    send(
        &mut early,
        "POST /ignore HTTP/1.1\r\nhost: x\r\ncontent-length: 99\r\n\r\nstart",
    )
    .await;
    assert_eq!(
        answer(&mut early).await,
        ("HTTP/1.1 200 OK".to_owned(), "no".to_owned())
    );
    let mut pipelined = server.connect().await;
    send(&mut pipelined, &format!("{GET}GET / HT")).await;
    assert_eq!(answer(&mut pipelined).await.0, "HTTP/1.1 200 OK");
    let mut garbage = server.connect().await;
    send(&mut garbage, "hello there\r\n\r\n").await;
    let text = rest(&mut garbage).await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    server.stop().await;
}

#[tokio::test]
async fn silent_late_and_idle_clients_are_cut_while_a_slow_service_is_not() {
    let timeout = Duration::from_millis(300);
    let options = ServeOptions {
        header_timeout: timeout,
        idle_timeout: timeout,
        ..ServeOptions::default()
    };
    let mut server = start(options).await;
    let mut slow = server.connect().await;
    send(&mut slow, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    server.arrived.recv().await;
    let (mut silent, mut late, mut idle) = (
        server.connect().await,
        server.connect().await,
        server.connect().await,
    );
    send(&mut late, "GET / HTTP/1.1\r\nhost").await;
    send(&mut idle, GET).await;
    answer(&mut idle).await;
    for (stream, what) in [
        (&mut silent, "silent"),
        (&mut late, "late"),
        (&mut idle, "idle"),
    ] {
        assert_eq!(rest(stream).await, "", "{what}");
    }
    server.release.cancel();
    assert_eq!(answer(&mut slow).await.0, "HTTP/1.1 200 OK");
    server.stop().await;
}

#[tokio::test]
async fn panic_of_the_service_ends_only_its_connection() {
    let server = start(ServeOptions::default()).await;
    let (mut bad, mut good) = (server.connect().await, server.connect().await);
    send(&mut bad, "GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(rest(&mut bad).await, "");
    send(&mut good, GET).await;
    assert_eq!(answer(&mut good).await.0, "HTTP/1.1 200 OK");
    assert_eq!(server.stop().await, Drained { aborted: 0 });
}

#[tokio::test]
async fn taken_port_is_told_in_a_sentence() {
    let taken = bind().await;
    let address = taken.local_addr();
    let error = Listener::bind(address, "the API", "api.listen")
        .await
        .expect_err("taken");
    assert_eq!(
        error.to_string(),
        format!(
            "cannot listen on {address} for the API: address already in use; \
             stop the other process or set api.listen (STREAM_API_LISTEN)"
        )
    );
    assert!(std::error::Error::source(&error).is_none(), "said already");
}

#[tokio::test]
async fn foreign_address_is_told_in_a_sentence() {
    // From the range reserved for documentation: no machine has it.
    let address = "192.0.2.1:0".parse().expect("an address");
    let error = Listener::bind(address, "the source", "source.http.listen").await;
    assert_eq!(
        error.expect_err("not ours").to_string(),
        "cannot listen on 192.0.2.1:0 for the source: this machine has no such address; \
         set source.http.listen (STREAM_SOURCE_HTTP_LISTEN)"
    );
}
