//! One connection: hyper's state machine, its timeouts and its orderly end.

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;

use hyper::body::{Body, Incoming};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TrackedFuture;
use tracing::debug;

use super::pulse::{Limits, Pulse, Verdict};
use super::rare::Rare;
use super::tls::Tls;
use super::transport::{Transport, Version};
use super::{Peer, ServeOptions};
use crate::tasks::TaskError;

/// Requests that a client may have under way on one HTTP/2 connection.
const MAX_STREAMS: u32 = 256;
/// What a client may send ahead on one stream, and on one connection. Bodies are read as they come, and counted by the
/// service; this is what hyper holds before that.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;

/// What all connections of a listener have in common.
pub(super) struct Handler<S> {
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
    tls: Option<Tls>,
    service: S,
    limits: Limits,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl<S, B> Handler<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    S::Error: Into<TaskError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<TaskError>,
{
    /// `stop` asks connections to end after the requests in flight, `cut` ends them at once.
    pub(super) fn new(
        options: &ServeOptions,
        service: S,
        stop: CancellationToken,
        cut: CancellationToken,
    ) -> Self {
        // Not `pipeline_flush`: it holds back an answer while bytes of the client are unread, that
        // is answers given before the body was read, and 400 and 431.
        let mut http1 = http1::Builder::new();
        http1
            .max_header_size(options.header_limit)
            // A client may close its half once it has said everything (`nc -N` does). Otherwise its request would be
            // carried out and the answer thrown away.
            .half_close(true)
            .header_read_timeout(None);
        let streams = Streams {
            cut: cut.clone(),
            running: TaskTracker::new(),
        };
        let mut http2 = http2::Builder::new(streams);
        http2
            .max_header_list_size(u32::try_from(options.header_limit).unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let limits = Limits {
            header: options.header_timeout,
            idle: options.idle_timeout,
        };
        Self {
            http1,
            http2,
            tls: options.tls.clone(),
            service,
            limits,
            stop,
            cut,
        }
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // Answers are small and complete: waiting for more to send would only delay them. Not vital
        // if refused.
        let _ = stream.set_nodelay(true);
        let pulse = Arc::new(Pulse::new());
        // Children: the hot path checks for cancellation, and the lock of a common token would be
        // contended.
        let (stop, cut) = (self.stop.child_token(), self.cut.child_token());
        let begin = Transport::begin(stream, self.tls.as_ref(), Arc::clone(&pulse));
        let begin = tokio::time::timeout(self.limits.header, begin);
        let (transport, version) = match stop.run_until_cancelled(begin).await {
            // Nothing was asked yet, so nothing is cut off.
            None | Some(Err(_)) => return,
            Some(Ok(Err(error))) => {
                debug!(%peer, %error, "connection did not begin");
                return;
            }
            Some(Ok(Ok(begun))) => begun,
        };
        let io = TokioIo::new(transport);
        let service = Attended {
            service: self.service.clone(),
            peer,
            pulse: Arc::clone(&pulse),
        };
        match version {
            Version::Http1 => {
                let connection = self.http1.serve_connection(io, service);
                drive(connection, pulse, self.limits, stop, cut).await;
            }
            Version::Http2 => {
                let connection = self.http2.serve_connection(io, service);
                drive(connection, pulse, self.limits, stop, cut).await;
            }
        }
    }
}

/// A connection of either version.
trait Exchange: Future<Output = hyper::Result<()>> {
    /// Takes no more requests, and ends when those under way are answered.
    fn finish(self: Pin<&mut Self>);
}

impl<S, B> Exchange for http1::Connection<TokioIo<Transport>, Attended<S>>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Error: Into<TaskError>,
    B: Body + 'static,
    B::Error: Into<TaskError>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S, B> Exchange for http2::Connection<TokioIo<Transport>, Attended<S>, Streams>
where
    S: Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<TaskError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<TaskError>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Runs the requests of HTTP/2 connections, each in a task of its own. They end with the connections: those are cut together.
#[derive(Clone)]
pub(super) struct Streams {
    cut: CancellationToken,
    running: TaskTracker,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let cut = self.cut.clone();
        self.running.spawn(async move {
            cut.run_until_cancelled(stream).await;
        });
    }
}

async fn drive(
    connection: impl Exchange,
    pulse: Arc<Pulse>,
    limits: Limits,
    stop: CancellationToken,
    cut: CancellationToken,
) {
    let mut connection = pin!(connection);
    let mut check = pin!(tokio::time::sleep(limits.interval()));
    let mut cut = pin!(Rare::new(cut.cancelled()));
    let mut stop = pin!(Rare::new(stop.cancelled()));
    let mut closing = false;
    loop {
        tokio::select! {
            biased;
            () = cut.as_mut() => return,
            () = stop.as_mut(), if !closing => {
                closing = true;
                connection.as_mut().finish();
            }
            outcome = connection.as_mut() => {
                if let Err(error) = outcome {
                    // Clients come and go as they like; this is for whoever looks for a particular
                    // one.
                    debug!(%error, "connection ended");
                }
                return;
            }
            () = check.as_mut() => match pulse.verdict(limits) {
                Verdict::Wait(time) => check.as_mut().reset(Instant::now() + time),
                Verdict::Late => return,
                // Asked to close before and still not gone: it does not take its answer.
                Verdict::Idle if closing => return,
                Verdict::Idle => {
                    closing = true;
                    connection.as_mut().finish();
                    check.as_mut().reset(Instant::now() + limits.interval());
                }
            },
        }
    }
}

/// The service, with the peer's address in each request and a note of whether it is at work.
struct Attended<S> {
    service: S,
    peer: SocketAddr,
    pulse: Arc<Pulse>,
}

impl<S> Service<Request<Incoming>> for Attended<S>
where
    S: Service<Request<Incoming>>,
{
    type Response = S::Response;
    type Error = S::Error;
    // A future with a name is needed here, and this one counts for as long as it lives.
    type Future = TrackedFuture<S::Future>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.pulse.head_complete();
        request.extensions_mut().insert(Peer(self.peer));
        self.pulse.serving.track_future(self.service.call(request))
    }
}
