//! The side of the http-source.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{FuturesUnordered, poll_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use stream_model::{SessionId, SliceId, VolumeId};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::client::Grpc;
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use super::codec::Messages;
use super::message::{Denial, Hello, NEWEST, OLDEST, Reply, Request, append_len};
use super::metrics::{ClientMetrics, Counted};
use super::{
    CONNECTION_WINDOW, Dial, FRAME, MAX_MESSAGE_BYTES, MAX_OUTSTANDING_BYTES, NetworkOptions, PATH,
    Route, Routes, STREAM_WINDOW,
};
use crate::wire::{
    Answer, Batch, ConnectError, Connection, Opened, Pending, Refusal, RefusalReason, Transport,
};

mod waiting;

use waiting::{Waiter, Waiting};

/// The way to volumes of other processes.
pub struct Network {
    routes: Arc<dyn Routes>,
    dial: Arc<dyn Dial>,
    options: NetworkOptions,
    metrics: ClientMetrics,
    writers: Mutex<Writers>,
    /// Streams that were made. One per connection; the task takes them at once.
    made: UnboundedSender<Replies>,
}

/// What hands out answers. One task for all streams: an answer is a few bytes and wakes one lane.
#[must_use = "no answer arrives unless this runs"]
pub struct NetworkTask {
    made: UnboundedReceiver<Replies>,
}

/// The processes to which there is a way.
#[derive(Default)]
struct Writers {
    channels: HashMap<String, Weak<Channel>>,
    /// Those that did not answer the last time, which was said.
    away: HashMap<String, String>,
}

/// The answers on one stream.
struct Replies {
    stream: Streaming<Reply>,
    shared: Arc<Mutex<Waiting>>,
    given_up: CancellationToken,
    volume: VolumeId,
    _counted: Counted,
}

/// A connection to a volume of another process. Dropping it gives up what was not answered.
struct NetworkConnection {
    shared: Arc<Mutex<Waiting>>,
    _given_up: DropGuard,
    /// Keeps the channel for the next stream to the same process.
    _channel: Arc<Channel>,
}

impl Network {
    /// A way to the volumes that `routes` knows, and the task that it needs.
    pub fn new(
        routes: Arc<dyn Routes>,
        dial: Arc<dyn Dial>,
        options: NetworkOptions,
        metrics: ClientMetrics,
    ) -> (Self, NetworkTask) {
        let (made, taken) = mpsc::unbounded_channel();
        let network = Self {
            routes,
            dial,
            options,
            metrics,
            writers: Mutex::default(),
            made,
        };
        (network, NetworkTask { made: taken })
    }

    async fn open(
        &self,
        route: &Route,
        volume: VolumeId,
        session: SessionId,
    ) -> Result<Box<dyn Connection>, ConnectError> {
        let unreachable = |reason: String| ConnectError::Unreachable {
            volume,
            address: route.address.clone(),
            reason,
        };
        let failed = |status: Status| unreachable(chain(&status));
        let channel = self
            .channel(&route.address)
            .map_err(|error| unreachable(error.to_string()))?;
        let (sender, mut requests) = greet(volume, session, route.incarnation);
        let mut grpc = Grpc::new(Channel::clone(&channel));
        let ready = grpc.ready().await;
        ready.map_err(|error| unreachable(error.to_string()))?;
        let requests = poll_fn(move |cx| requests.poll_recv(cx));
        let path = PathAndQuery::from_static(PATH);
        let codec = Messages::<Request, Reply>::new();
        let replies = grpc.streaming(tonic::Request::new(requests), path, codec);
        let mut stream = replies.await.map_err(failed)?.into_inner();
        match stream.message().await.map_err(failed)? {
            Some(Reply::Welcome { version: NEWEST }) => {
                Ok(self.connected(stream, sender, volume, channel))
            }
            Some(Reply::Denied(denial)) => Err(denied(volume, denial)),
            Some(_) => Err(unreachable("it does not keep to the protocol".to_owned())),
            None => Err(unreachable("it ended the stream".to_owned())),
        }
    }

    fn connected(
        &self,
        stream: Streaming<Reply>,
        sender: UnboundedSender<Request>,
        volume: VolumeId,
        channel: Arc<Channel>,
    ) -> Box<dyn Connection> {
        let outstanding = self.metrics.outstanding_bytes.clone();
        let shared = Arc::new(Mutex::new(Waiting::new(sender, outstanding)));
        let given_up = CancellationToken::new();
        let replies = Replies {
            stream,
            shared: Arc::clone(&shared),
            given_up: given_up.clone(),
            volume,
            _counted: Counted::new(&self.metrics.streams),
        };
        // Without the task the stream is closed by the drop of what it should have got.
        let _ = self.made.send(replies);
        Box::new(NetworkConnection {
            shared,
            _given_up: given_up.drop_guard(),
            _channel: channel,
        })
    }

    /// The channel to a process, shared by all streams to it. It connects when it is used, and again when it broke.
    fn channel(&self, address: &str) -> Result<Arc<Channel>, tonic::transport::Error> {
        let mut writers = self.writers.lock();
        if let Some(channel) = writers.channels.get(address).and_then(Weak::upgrade) {
            return Ok(channel);
        }
        let interval = self.options.keep_alive_interval;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(self.options.open_timeout)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(interval)
            .keep_alive_while_idle(true);
        let dial = Arc::clone(&self.dial);
        let connector = tower::service_fn(move |uri: Uri| {
            let dial = Arc::clone(&dial);
            async move {
                let host = uri.host().unwrap_or_default();
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let port = uri.port_u16().unwrap_or(80);
                dial.dial(host, port).await.map(TokioIo::new)
            }
        });
        let channel = Arc::new(endpoint.connect_with_connector_lazy(connector));
        writers
            .channels
            .retain(|_, channel| channel.strong_count() > 0);
        let weak = Arc::downgrade(&channel);
        writers.channels.insert(address.to_owned(), weak);
        Ok(channel)
    }

    /// Says once that a writer is away, and once that it is back.
    fn report(&self, address: &str, outcome: &Result<Box<dyn Connection>, ConnectError>) {
        let mut writers = self.writers.lock();
        match outcome {
            Err(ConnectError::Unreachable { reason, .. }) => {
                let known = writers.away.insert(address.to_owned(), reason.clone());
                if known.as_ref() != Some(reason) {
                    info!(address, reason, "writer cannot be reached");
                }
            }
            Err(error @ ConnectError::Version { .. }) => {
                let reason = error.to_string();
                let known = writers.away.insert(address.to_owned(), reason.clone());
                if known.as_ref() != Some(&reason) {
                    warn!(
                        address,
                        reason, "writer speaks another version of the append protocol"
                    );
                }
            }
            Ok(_) | Err(ConnectError::NoRoute(_) | ConnectError::Closed { .. }) => {
                if writers.away.remove(address).is_some() {
                    info!(address, "writer can be reached again");
                }
            }
        }
    }
}

/// A way for messages on which the hello waits.
fn greet(
    volume: VolumeId,
    session: SessionId,
    incarnation: u64,
) -> (UnboundedSender<Request>, UnboundedReceiver<Request>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let hello = Hello {
        oldest: OLDEST,
        newest: NEWEST,
        session,
        volume,
        incarnation,
    };
    // The receiver is alive: it is right here.
    let _ = sender.send(Request::Hello(hello));
    (sender, receiver)
}

fn denied(volume: VolumeId, denial: Denial) -> ConnectError {
    match denial {
        Denial::NoRoute => ConnectError::NoRoute(volume),
        Denial::Closed(reason) => ConnectError::Closed { volume, reason },
        Denial::Version { oldest, newest } => ConnectError::Version {
            volume,
            oldest,
            newest,
        },
    }
}

/// What a status says, with what lies behind it.
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[async_trait]
impl Transport for Network {
    async fn connect(
        &self,
        volume: VolumeId,
        session: SessionId,
    ) -> Result<Box<dyn Connection>, ConnectError> {
        let Some(route) = self.routes.find(volume) else {
            self.routes.doubt();
            return Err(ConnectError::NoRoute(volume));
        };
        let opening = self.open(&route, volume, session);
        let outcome = match timeout(self.options.open_timeout, opening).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectError::Unreachable {
                volume,
                address: route.address.clone(),
                reason: "it does not answer in time".to_owned(),
            }),
        };
        if outcome.is_err() {
            self.routes.doubt();
        }
        self.report(&route.address, &outcome);
        outcome
    }
}

impl Connection for NetworkConnection {
    fn append(&self, batch: Batch) -> Pending<Answer> {
        let (reply, pending) = Pending::channel();
        let bytes = batch.bytes();
        let mut waiting = self.shared.lock();
        let refused = if waiting.is_leaving() {
            Some(RefusalReason::Stopping)
        } else if append_len(&batch) > MAX_MESSAGE_BYTES {
            Some(RefusalReason::Malformed("it is too long"))
        } else if !waiting.has_room_for(bytes, MAX_OUTSTANDING_BYTES) {
            Some(RefusalReason::Overloaded)
        } else {
            None
        };
        match refused {
            // Not sent, so certainly not written.
            Some(reason) => {
                let expected = std::collections::BTreeMap::new();
                let _ = reply.send(Answer::Refused(Refusal { reason, expected }));
            }
            None => {
                let waiter = Waiter::Append { reply, bytes };
                waiting.send(waiter, |id| Request::Append { id, batch });
            }
        }
        pending
    }

    fn open(&self, slices: Vec<SliceId>) -> Pending<std::collections::BTreeMap<SliceId, Opened>> {
        let (reply, pending) = Pending::channel();
        let waiter = Waiter::Open(reply);
        let mut waiting = self.shared.lock();
        waiting.send(waiter, |id| Request::Open { id, slices });
        pending
    }

    fn key_window_seconds(&self) -> Option<u32> {
        self.shared.lock().key_window()
    }
}

impl NetworkTask {
    /// Hands out answers until `stop` is cancelled. What is not answered then is unknown.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut streams = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                made = self.made.recv() => match made {
                    Some(replies) => streams.push(replies.hand_out()),
                    None => return,
                },
                Some(()) = streams.next() => {}
            }
        }
    }
}

impl Replies {
    /// Hands out the answers until the stream ends or is given up.
    async fn hand_out(mut self) {
        let given_up = self.given_up.clone();
        loop {
            let reply = tokio::select! {
                biased;
                () = given_up.cancelled() => return,
                reply = self.stream.message() => reply,
            };
            let keeps_to_protocol = match reply {
                Ok(Some(Reply::Answer { id, window, answer })) => {
                    self.shared.lock().answer(id, window, answer)
                }
                Ok(Some(Reply::Opened { id, opened })) => self.shared.lock().opened(id, opened),
                Ok(Some(Reply::Goodbye)) => {
                    self.shared.lock().leave();
                    true
                }
                Ok(Some(Reply::Welcome { .. } | Reply::Denied(_))) => false,
                Ok(None) => return,
                Err(status) => {
                    debug!(volume = %self.volume, reason = chain(&status), "stream broke");
                    return;
                }
            };
            if !keeps_to_protocol {
                warn!(volume = %self.volume, "writer does not keep to the append protocol, its stream is closed");
                return;
            }
        }
    }
}

impl Drop for Replies {
    /// Whatever ended the stream: no answer comes any more.
    fn drop(&mut self) {
        self.shared.lock().close();
    }
}
