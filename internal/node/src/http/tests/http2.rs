//! HTTP/2 without TLS, as gRPC clients and proxies speak it.

use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

type Client = SendRequest<Full<Bytes>>;

pub(super) async fn over<T>(socket: T) -> Client
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(socket))
        .await
        .expect("it speaks HTTP/2");
    #[expect(clippy::disallowed_methods, reason = "ends with the client")]
    drop(tokio::spawn(connection));
    client
}

pub(super) async fn get(
    client: &mut Client,
    path: &str,
    body: &'static str,
) -> hyper::Result<String> {
    let request = Request::get(format!("http://x{path}")).body(Full::from(body));
    let answer = client.send_request(request.expect("valid")).await?;
    assert_eq!(answer.status(), 200);
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.into()).expect("text"))
}

#[tokio::test]
async fn requests_of_one_connection_do_not_wait_for_each_other() {
    let mut server = start(ServeOptions::default()).await;
    let socket = server.connect().await;
    let own = socket.local_addr().expect("connected");
    let mut client = over(socket).await;
    let mut slow_client = client.clone();
    let slow = get(&mut slow_client, "/slow", "12");
    let mut slow = std::pin::pin!(slow);
    assert!(futures_util::poll!(slow.as_mut()).is_pending());
    server.arrived.recv().await;
    let answer = get(&mut client, "/", "12345").await.expect("answered");
    assert_eq!(answer, format!("{own} 5"));
    server.release.cancel();
    assert_eq!(slow.await.expect("answered"), format!("{own} 2"));
    server.stop().await;
}

#[tokio::test]
async fn the_stop_finishes_requests_under_way() {
    let mut server = start(ServeOptions::default()).await;
    let mut client = over(server.connect().await).await;
    let slow = get(&mut client, "/slow", "");
    let mut slow = std::pin::pin!(slow);
    assert!(futures_util::poll!(slow.as_mut()).is_pending());
    server.arrived.recv().await;
    server.stop.cancel();
    server.release.cancel();
    slow.await.expect("answered");
    assert_eq!(server.stop().await, Drained { aborted: 0 });
}

#[tokio::test]
async fn requests_over_the_drain_deadline_are_cut() {
    let options = ServeOptions {
        drain: Duration::from_millis(50),
        ..ServeOptions::default()
    };
    let mut server = start(options).await;
    let mut client = over(server.connect().await).await;
    let slow = get(&mut client, "/slow", "");
    let mut slow = std::pin::pin!(slow);
    assert!(futures_util::poll!(slow.as_mut()).is_pending());
    server.arrived.recv().await;
    assert_eq!(server.stop().await, Drained { aborted: 1 });
    slow.await.expect_err("cut");
}

#[tokio::test]
async fn headers_over_the_limit_are_refused_and_the_connection_goes_on() {
    let options = ServeOptions {
        header_limit: 2000,
        ..ServeOptions::default()
    };
    let server = start(options).await;
    let mut client = over(server.connect().await).await;
    let request = Request::get("http://x/").header("x-long", "y".repeat(3000));
    let request = request.body(Full::from("")).expect("valid");
    match client.send_request(request).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        // The client knows the limit and does not even send it.
        Err(error) => assert!(error.is_user() || !error.is_closed(), "{error}"),
    }
    get(&mut client, "/", "").await.expect("answered");
    server.stop().await;
}

#[tokio::test]
async fn idle_clients_are_cut_and_busy_ones_are_not() {
    let timeout = Duration::from_millis(300);
    let options = ServeOptions {
        header_timeout: timeout,
        idle_timeout: timeout,
        ..ServeOptions::default()
    };
    let mut server = start(options).await;
    let mut busy = over(server.connect().await).await;
    let slow = get(&mut busy, "/slow", "");
    let mut slow = std::pin::pin!(slow);
    assert!(futures_util::poll!(slow.as_mut()).is_pending());
    server.arrived.recv().await;
    // The preface cut short, and whole with nothing behind it.
    for preface in ["PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut silent = server.connect().await;
        send(&mut silent, preface).await;
        let mut sent = Vec::new();
        let closed = tokio::time::timeout(SOON, silent.read_to_end(&mut sent)).await;
        // A reset is an end like any other.
        let _ = closed.expect("the server closes the connection");
    }
    server.release.cancel();
    slow.await.expect("answered");
    server.stop().await;
}

#[tokio::test]
async fn a_preface_that_comes_byte_by_byte_and_one_that_only_begins_like_it_are_told_apart() {
    let server = start(ServeOptions::default()).await;
    let mut http1 = server.connect().await;
    http1.set_nodelay(true).expect("a socket");
    for byte in "PRI / HTTP/1.1\r\nhost: x\r\n\r\n".chars() {
        send(&mut http1, &byte.to_string()).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(answer(&mut http1).await.0, "HTTP/1.1 200 OK");
    server.stop().await;
}
