//! One connection at a time, to whichever member of etcd answers.
//!
//! The client library spreads requests over all members by load. A dead member looks idle, so it would be chosen more often
//! than the others, and more than half of all requests would fail as long as it is away. Here all requests go to one member
//! until that fails: when its connection breaks, when it says that it is not available (it has lost the others, or is going
//! down), or when it has not begun to answer for a while. Then the others are tried, the next one first.
//!
//! A request that has failed is not repeated here: whether it may be is known only to whoever sent it. Streams stay on the
//! connection on which they were opened.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::select_ok;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::{Channel, Endpoint};
use tower::util::BoxCloneSyncService;

/// A member that has not begun to answer by then is left.
const SILENCE: Duration = Duration::from_secs(2);
/// Whoever gave up waiting after at least this leaves the member, too.
const IMPATIENCE: Duration = Duration::from_secs(1);
/// How much sooner a member is tried than the one after it.
const HEAD_START: Duration = Duration::from_millis(250);
/// Requests that change nothing and can be made again at once.
const STREAMS: [&str; 2] = [
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
];
/// The status of an answer by which a member says that it is not available.
const UNAVAILABLE: &str = "14";

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// A channel over the members, of which there is at least one.
pub(crate) fn channel(members: Vec<Endpoint>) -> etcd_client::Channel {
    let first = rand::random_range(0..members.len());
    let failover = Failover(Arc::new(Shared {
        members,
        current: Mutex::new(Current {
            generation: 0,
            member: first,
            open: None,
        }),
        connecting: tokio::sync::Mutex::default(),
    }));
    etcd_client::Channel::Custom(BoxCloneSyncService::new(failover))
}

#[derive(Clone)]
struct Failover(Arc<Shared>);

struct Shared {
    members: Vec<Endpoint>,
    current: Mutex<Current>,
    /// Held by the one who connects; the others wait for what comes of it.
    connecting: tokio::sync::Mutex<()>,
}

struct Current {
    /// Counts the connections, so that each is left only once.
    generation: u64,
    /// The member that is connected, or is tried first.
    member: usize,
    open: Option<Channel>,
}

impl Shared {
    fn open(&self) -> Option<(u64, Channel)> {
        let current = self.current.lock();
        Some((current.generation, current.open.clone()?))
    }

    async fn connected(&self) -> Result<(u64, Channel), BoxError> {
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let _alone = self.connecting.lock().await;
        if let Some(open) = self.open() {
            return Ok(open);
        }
        let first = self.current.lock().member;
        let count = self.members.len();
        let mut wait = Duration::ZERO;
        let attempts = (first..first + count).map(|member| {
            let (member, pause) = (member % count, wait);
            wait += HEAD_START;
            let endpoint = &self.members[member];
            Box::pin(async move {
                tokio::time::sleep(pause).await;
                endpoint.connect().await.map(|channel| (member, channel))
            })
        });
        let ((member, channel), _slower) = select_ok(attempts).await?;
        let mut current = self.current.lock();
        current.generation += 1;
        current.member = member;
        current.open = Some(channel.clone());
        Ok((current.generation, channel))
    }

    fn leave(&self, generation: u64, why: &'static str) {
        let mut current = self.current.lock();
        if current.generation == generation && current.open.take().is_some() {
            let left = self.members[current.member].uri();
            tracing::debug!(member = %left, why, "left a member of etcd");
            current.member = (current.member + 1) % self.members.len();
        }
    }

    async fn call(self: Arc<Self>, request: Request) -> Result<Response, BoxError> {
        let opens_stream = STREAMS.contains(&request.uri().path());
        let (generation, mut channel) = self.connected().await?;
        let mut waiting = Waiting {
            shared: &self,
            generation,
            since: Instant::now(),
            is_answered: false,
        };
        let exchange = async {
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
            channel.call(request).await
        };
        let mut exchange = std::pin::pin!(exchange);
        let answer = match tokio::time::timeout(SILENCE, &mut exchange).await {
            Ok(answer) => answer,
            Err(_) => {
                self.leave(generation, "it is silent");
                // A change may still be on its way, however slow the disk of the member is. A stream is opened elsewhere.
                if opens_stream {
                    return Err("the member of etcd does not answer".into());
                }
                exchange.await
            }
        };
        waiting.is_answered = true;
        match answer {
            Ok(response) => {
                let status = response.headers().get("grpc-status");
                if status.is_some_and(|status| status == UNAVAILABLE) {
                    self.leave(generation, "it is not available");
                }
                Ok(response)
            }
            Err(error) => {
                self.leave(generation, "the connection failed");
                Err(error.into())
            }
        }
    }
}

/// Leaves the member when its answer is not waited for any more.
struct Waiting<'a> {
    shared: &'a Shared,
    generation: u64,
    since: Instant,
    is_answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.is_answered && self.since.elapsed() >= IMPATIENCE {
            self.shared.leave(self.generation, "nobody waits any more");
        }
    }
}

impl Service<Request> for Failover {
    type Response = Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Connecting is part of the call, so that it has the deadline of the request.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        Box::pin(Arc::clone(&self.0).call(request))
    }
}
