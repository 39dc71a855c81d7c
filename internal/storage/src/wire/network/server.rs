//! The side of the storage-writer.
//!
//! One stream, one exchange: a state machine that reads messages, hands them to the volume in order, and sends the answers as
//! they come. It runs inside the stream of answers that gRPC polls, so there is no task and no queue of its own.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, unfold};
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, BoxStream, Service, http};
use tonic::server::{Grpc, StreamingService};
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use super::codec::Messages;
use super::message::{Denial, Hello, NEWEST, OLDEST, Reply, Request};
use super::metrics::{Counted, ServerMetrics};
use super::socket::{Bare, Duplex};
use super::{
    Admit, CONNECTION_WINDOW, Caller, FRAME, MAX_MESSAGE_BYTES, MAX_UNANSWERED, NetworkOptions,
    PATH, STREAM_WINDOW,
};
use crate::wire::{
    Answer, ConnectError, Connection, Opened, Pending, Refusal, RefusalReason, Unknown,
};

/// Streams of one process. Each is one session and volume, so this is volumes times the streams that are being replaced.
const MAX_STREAMS: u32 = 1024;
/// How long a stream is still read after it was told that the writer stops.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(5);

/// Serves streams on the connections until `stop` is cancelled. Then callers are told, what they had sent by then is answered,
/// and the streams end.
///
/// # Errors
/// When serving connections is not possible at all.
pub async fn serve<I, S>(
    volumes: Arc<dyn Admit>,
    connections: I,
    options: NetworkOptions,
    metrics: ServerMetrics,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    I: Stream<Item = io::Result<S>>,
    S: Duplex + 'static,
{
    let door = Door {
        volumes,
        open_timeout: options.open_timeout,
        metrics,
        stop: stop.clone(),
    };
    let connections = connections.map(|connection| connection.map(Bare));
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(options.keep_alive_interval))
        .http2_keepalive_timeout(Some(options.keep_alive_interval))
        .serve_with_incoming_shutdown(door, connections, stop.cancelled_owned())
        .await
}

/// Where streams come in.
#[derive(Clone)]
struct Door {
    volumes: Arc<dyn Admit>,
    open_timeout: Duration,
    metrics: ServerMetrics,
    stop: CancellationToken,
}

impl Service<http::Request<Body>> for Door {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let door = self.clone();
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("there is no such method").into_http());
            }
            let grpc = Grpc::new(Messages::<Reply, Request>::new());
            let mut grpc = grpc.max_decoding_message_size(MAX_MESSAGE_BYTES);
            Ok(grpc.streaming(door, request).await)
        })
    }
}

impl StreamingService<Request> for Door {
    type Response = Reply;
    type ResponseStream = BoxStream<Reply>;
    type Future = Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Request>>) -> Self::Future {
        let begin = Stage::Begin(self.clone(), Box::new(request.into_inner()));
        let replies = unfold(begin, |stage| stage.next());
        ready(Ok(tonic::Response::new(Box::pin(replies))))
    }
}

/// How far a stream is.
enum Stage {
    /// Nothing was read.
    Begin(Door, Box<Streaming<Request>>),
    /// It is connected to a volume.
    Connected(Box<Exchange>),
    /// The last answer was sent.
    Over,
}

impl Stage {
    async fn next(self) -> Option<(Result<Reply, Status>, Self)> {
        match self {
            Self::Begin(door, requests) => Some(door.begin(requests).await),
            Self::Connected(mut exchange) => {
                let reply = exchange.next().await?;
                let stage = match reply {
                    Ok(_) => Self::Connected(exchange),
                    Err(_) => Self::Over,
                };
                Some((reply, stage))
            }
            Self::Over => None,
        }
    }
}

impl Door {
    /// Reads the hello and connects to the volume.
    async fn begin(self, mut requests: Box<Streaming<Request>>) -> (Result<Reply, Status>, Stage) {
        let hello = match timeout(self.open_timeout, requests.message()).await {
            Ok(Ok(Some(Request::Hello(hello)))) => hello,
            Ok(Ok(_)) => {
                let rule = "the first message must be a hello";
                return (Err(Status::invalid_argument(rule)), Stage::Over);
            }
            Ok(Err(status)) => return (Err(status), Stage::Over),
            Err(_) => {
                let late = "there was no hello in time";
                return (Err(Status::deadline_exceeded(late)), Stage::Over);
            }
        };
        match self.admit(hello).await {
            Ok(connection) => {
                let exchange = Exchange {
                    requests,
                    volume: hello.volume,
                    connection,
                    unanswered: FuturesUnordered::new(),
                    reading: Reading::On,
                    _counted: Counted::new(&self.metrics.streams),
                    stop: self.stop,
                };
                let version = hello.newest.min(NEWEST);
                let welcome = Reply::Welcome { version };
                (Ok(welcome), Stage::Connected(Box::new(exchange)))
            }
            Err(denial) => {
                debug!(session = %hello.session, volume = %hello.volume, ?denial, "stream denied");
                (Ok(Reply::Denied(denial)), Stage::Over)
            }
        }
    }

    async fn admit(&self, hello: Hello) -> Result<Box<dyn Connection>, Denial> {
        if hello.oldest > NEWEST || hello.newest < OLDEST {
            warn!(session = %hello.session, oldest = hello.oldest, newest = hello.newest, "http source speaks other versions of the append protocol, upgrade the older of the two");
            return Err(Denial::Version {
                oldest: OLDEST,
                newest: NEWEST,
            });
        }
        let caller = Caller {
            session: hello.session,
            volume: hello.volume,
            incarnation: hello.incarnation,
        };
        self.volumes
            .admit(caller)
            .await
            .map_err(|error| match error {
                ConnectError::Closed { reason, .. } => Denial::Closed(reason),
                ConnectError::NoRoute(_)
                | ConnectError::Unreachable { .. }
                | ConnectError::Version { .. } => Denial::NoRoute,
            })
    }
}

/// Whether more is read from a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It is.
    On,
    /// Until then: the caller was told that the writer stops.
    Until(Instant),
    /// It is not: what was read is answered, and the stream ends.
    Off,
}

/// A stream that is connected to a volume.
struct Exchange {
    requests: Box<Streaming<Request>>,
    volume: stream_model::VolumeId,
    connection: Box<dyn Connection>,
    /// Filled by what is read, at most [`MAX_UNANSWERED`]; drained by the volume's answers.
    unanswered: FuturesUnordered<Unanswered>,
    reading: Reading,
    stop: CancellationToken,
    _counted: Counted,
}

impl Exchange {
    /// The next message to the caller. None when the stream ends.
    async fn next(&mut self) -> Option<Result<Reply, Status>> {
        loop {
            let is_reading = self.reading != Reading::Off;
            if !is_reading && self.unanswered.is_empty() {
                return None;
            }
            let may_read = is_reading && self.unanswered.len() < MAX_UNANSWERED;
            let deadline = match self.reading {
                Reading::Until(deadline) => Some(deadline),
                Reading::On | Reading::Off => None,
            };
            tokio::select! {
                biased;
                Some(answered) = self.unanswered.next() => return Some(self.sent(answered)),
                () = self.stop.cancelled(), if self.reading == Reading::On => {
                    self.reading = Reading::Until(Instant::now() + GOODBYE_PATIENCE);
                    return Some(Ok(Reply::Goodbye));
                }
                () = at(deadline) => self.reading = Reading::Off,
                request = self.requests.message(), if may_read => match request {
                    Ok(Some(request)) => self.take(request),
                    Ok(None) => self.reading = Reading::Off,
                    // Nobody is there to be answered. What was read goes its way.
                    Err(status) => {
                        debug!(volume = %self.volume, reason = status.message(), "stream broke");
                        return Some(Err(status));
                    }
                },
            }
        }
    }

    /// Passes an answer on. One that will not come ends the stream, which tells the caller.
    fn sent(&self, answered: Result<Reply, Unknown>) -> Result<Reply, Status> {
        let mut reply = answered.map_err(|Unknown| {
            Status::unavailable("the volume stopped before it answered everything")
        })?;
        if let Reply::Answer { window, .. } = &mut reply {
            *window = self.connection.key_window_seconds();
        }
        if let Reply::Answer {
            answer:
                Answer::Refused(Refusal {
                    reason: RefusalReason::Malformed(rule),
                    ..
                }),
            ..
        } = &reply
        {
            warn!(volume = %self.volume, rule, "an http source sent a malformed batch");
        }
        Ok(reply)
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Append { id, batch } => {
                let answer = self.connection.append(batch);
                self.unanswered.push(Unanswered::Append(id, answer));
            }
            Request::Open { id, slices } => {
                let opened = self.connection.open(slices);
                self.unanswered.push(Unanswered::Open(id, opened));
            }
            // A second one: the caller does not keep to the protocol.
            Request::Hello(_) => self.reading = Reading::Off,
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// A message that the volume has.
enum Unanswered {
    Append(u64, Pending<Answer>),
    Open(
        u64,
        Pending<std::collections::BTreeMap<stream_model::SliceId, Opened>>,
    ),
}

impl Future for Unanswered {
    type Output = Result<Reply, Unknown>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Append(id, answer) => {
                let id = *id;
                let answer = Pin::new(answer).poll(cx);
                answer.map_ok(|answer| Reply::Answer {
                    id,
                    window: None,
                    answer,
                })
            }
            Self::Open(id, opened) => {
                let id = *id;
                let opened = Pin::new(opened).poll(cx);
                opened.map_ok(|opened| Reply::Opened { id, opened })
            }
        }
    }
}
