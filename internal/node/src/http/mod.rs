//! A listener for HTTP/1.1 and HTTP/2 that sheds load, times out idle and slow clients, and drains.
//!
//! Used by the API, the HTTP source and the admin port; they bring a hyper service, this module
//! owns sockets and connections. It adds nothing to the path of a request but the peer's address:
//! no task, no span, no timer.
//!
//! Timeouts of the service itself (and with it of a slow request body) are the service's business.
//! HTTP/2 is spoken with clients that begin with it, with and without TLS; there is no upgrade from
//! HTTP/1.1, which RFC 9113 has removed.

mod connection;
mod dial;
mod forwarded;
mod pulse;
mod rare;
mod sockets;
mod tls;
mod transport;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};
use prometheus::{IntCounter, IntGauge, Opts, Registry};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::{ENV_PREFIX, env_name};
use crate::tasks::TaskError;
pub use dial::ClientTls;
pub use forwarded::TrustedProxies;
pub use tls::{Tls, TlsError};
pub use transport::Socket;

/// Connections the kernel may hold for us before we accept them. It takes less if its own limit is
/// lower.
const BACKLOG: u32 = 4096;

/// Wait after a failed accept, when descriptors have probably run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection beyond the limit gets, as far as its socket takes it at once.
const OVERLOADED: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\
                            connection: close\r\n\r\n";

/// The address of the client's end of the connection, in the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Why a listener could not be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address} for {what}: {}; {} {key} ({})",
    reason(cause),
    advice(cause),
    env_name(ENV_PREFIX, key)
)]
pub struct BindError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// What the operating system said. Part of the sentence, therefore not a source.
    pub cause: io::Error,
    what: &'static str,
    key: &'static str,
}

fn reason(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::AddrInUse => "address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => cause.to_string(),
    }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::AddrInUse => "stop the other process or set",
        io::ErrorKind::PermissionDenied => "choose a port from 1024 on with",
        _ => "set",
    }
}

/// How connections are treated. The default suits a small port such as the admin one.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Connections beyond this many are answered 429 and closed.
    pub max_connections: usize,
    /// Largest request line with headers, in bytes; beyond it the answer is 431.
    pub header_limit: usize,
    /// How long a client may take to send request line and headers, counted from the first byte
    /// (from the connection, for the first request). Checked now and then: what is over it is found
    /// within twice the time.
    pub header_timeout: Duration,
    /// How long a connection may be without a request and without progress of an answer. Checked
    /// like `header_timeout`.
    pub idle_timeout: Duration,
    /// How long requests in flight may take after the stop before their connections are cut.
    pub drain: Duration,
    /// Certificate and key; without them nothing is encrypted.
    pub tls: Option<Tls>,
    /// Where to count connections.
    pub metrics: Option<ServerMetrics>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            header_limit: 16 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            drain: Duration::from_secs(10),
            tls: None,
            metrics: None,
        }
    }
}

/// Connections of one listener.
#[derive(Debug, Clone)]
pub struct ServerMetrics {
    connections: IntGauge,
    refused: IntCounter,
}

impl ServerMetrics {
    /// Registers the metrics under the label `server`. Once per server and registry.
    ///
    /// # Errors
    ///
    /// When this server is registered already.
    pub fn register(registry: &Registry, server: &str) -> prometheus::Result<Self> {
        let connections = IntGauge::with_opts(
            Opts::new(
                "stream_http_connections",
                "Open connections. At the limit of the server, new ones are answered 429.",
            )
            .const_label("server", server),
        )?;
        let refused = IntCounter::with_opts(
            Opts::new(
                "stream_http_connections_refused_total",
                "Connections answered 429 because of the limit. A rise means too few replicas or leaking clients.",
            )
            .const_label("server", server),
        )?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self {
            connections,
            refused,
        })
    }
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections cut with a request in flight, because it outlasted the drain deadline.
    pub aborted: usize,
}

/// An open port that nobody serves yet. Connections wait until [`serve`](Self::serve).
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    what: &'static str,
}

impl Listener {
    /// Opens the port. `what` names the server in sentences ("the API"), `key` is the setting of
    /// the address.
    ///
    /// # Errors
    ///
    /// A sentence that names address, server, setting and way out.
    pub async fn bind(
        address: SocketAddr,
        what: &'static str,
        key: &'static str,
    ) -> Result<Self, BindError> {
        let open = || {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }?;
            // A restarted process must not wait for the old connections of its port to be
            // forgotten.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let socket = socket.listen(BACKLOG)?;
            let address = socket.local_addr()?;
            Ok(Self {
                socket,
                address,
                what,
            })
        };
        open().map_err(|cause| BindError {
            address,
            cause,
            what,
            key,
        })
    }

    /// The address with the port the system chose, when port 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and serves connections until `stop` is cancelled, then drains.
    ///
    /// On the stop the port is closed, idle connections are closed, and requests in flight are
    /// finished; those that last longer than `options.drain` are cut. A panic of the service closes
    /// its connection and nothing else.
    pub async fn serve<S, B>(
        self,
        options: ServeOptions,
        service: S,
        stop: CancellationToken,
    ) -> Drained
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<TaskError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<TaskError>,
    {
        let Self {
            socket,
            address,
            what,
        } = self;
        info!(server = what, %address, "listening");
        let cut = CancellationToken::new();
        let connections = TaskTracker::new();
        let handler = connection::Handler::new(&options, service, stop.clone(), cut.clone());
        let handler = Arc::new(handler);
        while let Some((stream, peer)) = accept(&socket, what, &stop).await {
            if connections.len() >= options.max_connections {
                refuse(&stream, options.metrics.as_ref());
                continue;
            }
            let open = Open::new(options.metrics.as_ref());
            let connection = Arc::clone(&handler).serve(stream, peer);
            connections.spawn(async move {
                let _open = open;
                connection.await;
            });
        }
        drop(socket);
        drain(what, &options, &connections, &cut).await
    }
}

/// The next connection; `None` when asked to stop.
async fn accept(
    socket: &TcpListener,
    what: &'static str,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => return Some(accepted),
            // The client gave up while it waited; the next one may be fine.
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                // Once, not at every attempt: it usually lasts until other connections end.
                if !std::mem::replace(&mut told, true) {
                    warn!(server = what, %error, "cannot accept connections, will go on trying");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Answers at once instead of leaving the client in the backlog: it can go to another replica.
fn refuse(stream: &TcpStream, metrics: Option<&ServerMetrics>) {
    if let Some(metrics) = metrics {
        metrics.refused.inc();
    }
    // A client that does not take it sees the connection closed, which says the same.
    let _ = stream.try_write(OVERLOADED);
}

/// Counts the connection while it is open.
struct Open(Option<IntGauge>);

impl Open {
    fn new(metrics: Option<&ServerMetrics>) -> Self {
        let gauge = metrics.map(|metrics| metrics.connections.clone());
        if let Some(gauge) = &gauge {
            gauge.inc();
        }
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(gauge) = &self.0 {
            gauge.dec();
        }
    }
}

async fn drain(
    what: &'static str,
    options: &ServeOptions,
    connections: &TaskTracker,
    cut: &CancellationToken,
) -> Drained {
    connections.close();
    if tokio::time::timeout(options.drain, connections.wait())
        .await
        .is_ok()
    {
        info!(server = what, "port closed, all requests answered");
        return Drained { aborted: 0 };
    }
    let aborted = connections.len();
    cut.cancel();
    connections.wait().await;
    warn!(
        server = what,
        aborted, "port closed, requests over the drain deadline were cut"
    );
    Drained { aborted }
}

#[cfg(test)]
mod tests;
