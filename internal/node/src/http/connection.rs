//! One connection: hyper's state machine, its timeouts and its orderly end.
//!
//! hyper has a timer for headers, but it allocates and registers it anew for every request. Here
//! one timer per connection looks now and then at what the socket and the service have noted down,
//! which costs a request two clock readings and no timer.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TrackedFuture;
use tracing::debug;

use super::{Peer, ServeOptions};
use crate::tasks::TaskError;

/// What all connections of a listener have in common.
pub(super) struct Handler<S> {
    builder: http1::Builder,
    service: S,
    limits: Limits,
    stop: CancellationToken,
    cut: CancellationToken,
}

#[derive(Clone, Copy)]
struct Limits {
    header: Duration,
    idle: Duration,
}

impl Limits {
    /// How often a connection is looked at.
    fn interval(self) -> Duration {
        self.header.min(self.idle)
    }
}

impl<S, B> Handler<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<TaskError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<TaskError>,
{
    /// `stop` asks connections to end after the request in flight, `cut` ends them at once.
    pub(super) fn new(
        options: &ServeOptions,
        service: S,
        stop: CancellationToken,
        cut: CancellationToken,
    ) -> Self {
        // Not `pipeline_flush`: it holds back an answer while bytes of the client are unread, that
        // is answers given before the body was read, and 400 and 431.
        let mut builder = http1::Builder::new();
        builder
            .max_header_size(options.header_limit)
            .header_read_timeout(None);
        let limits = Limits {
            header: options.header_timeout,
            idle: options.idle_timeout,
        };
        Self {
            builder,
            service,
            limits,
            stop,
            cut,
        }
    }

    /// Serves one connection to its end.
    pub(super) fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> impl Future<Output = ()> + Send + 'static {
        // Answers are small and complete: waiting for more to send would only delay them. Not vital
        // if refused.
        let _ = stream.set_nodelay(true);
        let pulse = Arc::new(Pulse::new());
        let io = TokioIo::new(Observed {
            stream,
            pulse: Arc::clone(&pulse),
        });
        let service = Attended {
            service: self.service.clone(),
            peer,
            pulse: Arc::clone(&pulse),
        };
        let connection = self.builder.serve_connection(io, service);
        // Children: the hot path checks for cancellation, and the lock of a common token would be
        // contended.
        let (stop, cut) = (self.stop.child_token(), self.cut.child_token());
        drive(connection, pulse, self.limits, stop, cut)
    }
}

async fn drive<S, B>(
    connection: http1::Connection<TokioIo<Observed>, Attended<S>>,
    pulse: Arc<Pulse>,
    limits: Limits,
    stop: CancellationToken,
    cut: CancellationToken,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Error: Into<TaskError>,
    B: Body + 'static,
    B::Error: Into<TaskError>,
{
    let mut connection = pin!(connection);
    let mut check = pin!(tokio::time::sleep(limits.interval()));
    let mut closing = false;
    loop {
        tokio::select! {
            biased;
            () = cut.cancelled() => return,
            () = stop.cancelled(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
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
                    connection.as_mut().graceful_shutdown();
                    check.as_mut().reset(Instant::now() + limits.interval());
                }
            },
        }
    }
}

/// What the connection has been doing lately. Written by its socket and service, read by its timer.
///
/// All of them run in the task of the connection; atomics only because hyper owns two of the three.
struct Pulse {
    opened: Instant,
    /// Requests in the service.
    serving: TaskTracker,
    /// When the first byte of the next request came, in milliseconds after `opened`; `NONE` between
    /// requests.
    head: AtomicU64,
    /// When something was last written or a request was complete, in milliseconds after `opened`.
    progress: AtomicU64,
}

const NONE: u64 = u64::MAX;

enum Verdict {
    Wait(Duration),
    /// The head of a request takes too long.
    Late,
    /// Nothing happens.
    Idle,
}

impl Pulse {
    fn new() -> Self {
        Self {
            opened: Instant::now(),
            serving: TaskTracker::new(),
            // A client that connects and says nothing is late, not idle.
            head: AtomicU64::new(0),
            progress: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(NONE - 1)
    }

    fn bytes_read(&self) {
        if self.head.load(Ordering::Relaxed) == NONE && self.serving.is_empty() {
            self.head.store(self.now(), Ordering::Relaxed);
        }
    }

    fn bytes_written(&self) {
        self.progress.store(self.now(), Ordering::Relaxed);
    }

    fn head_complete(&self) {
        self.head.store(NONE, Ordering::Relaxed);
        self.progress.store(self.now(), Ordering::Relaxed);
    }

    fn verdict(&self, limits: Limits) -> Verdict {
        if !self.serving.is_empty() {
            return Verdict::Wait(limits.interval());
        }
        let head = self.head.load(Ordering::Relaxed);
        let (since, limit, over) = if head == NONE {
            (
                self.progress.load(Ordering::Relaxed),
                limits.idle,
                Verdict::Idle,
            )
        } else {
            (head, limits.header, Verdict::Late)
        };
        let passed = Duration::from_millis(self.now().saturating_sub(since));
        match limit.checked_sub(passed) {
            // A rest of less than a millisecond is not worth another look.
            Some(rest) if rest >= Duration::from_millis(1) => {
                Verdict::Wait(rest.min(limits.interval()))
            }
            _ => over,
        }
    }
}

/// The socket, noting when bytes move.
struct Observed {
    stream: TcpStream,
    pulse: Arc<Pulse>,
}

impl AsyncRead for Observed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pulse.bytes_read();
        }
        outcome
    }
}

impl Observed {
    fn written(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(outcome, Poll::Ready(Ok(1..))) {
            self.pulse.bytes_written();
        }
        outcome
    }
}

impl AsyncWrite for Observed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(outcome)
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
