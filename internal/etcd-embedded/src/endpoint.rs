//! How a client of the same machine reaches the server.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use etcd_client::{Channel, Client, ConnectOptions, Error};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use crate::socket::SocketPath;

/// Fills the header that HTTP/2 requires; no name is ever looked up.
const AUTHORITY: &str = "http://etcd.embedded";
/// Large enough that a range or a transaction never waits for a window.
pub(crate) const STREAM_WINDOW: u32 = 2 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 8 << 20;

/// The address of a server. Stays valid while the server is down; clients of it reconnect by themselves.
#[derive(Debug, Clone)]
pub struct Endpoint {
    socket: Arc<SocketPath>,
    tcp: Option<SocketAddr>,
}

impl Endpoint {
    pub(crate) fn new(socket: Arc<SocketPath>, tcp: Option<SocketAddr>) -> Self {
        Self { socket, tcp }
    }

    /// The server that another process runs on this data directory. Whether it does shows when connecting.
    ///
    /// # Errors
    ///
    /// When there is no such directory.
    pub fn of_directory(dir: &Path) -> io::Result<Self> {
        let socket = SocketPath::new(&dir.canonicalize()?)?;
        Ok(Self::new(Arc::new(socket), None))
    }

    /// Connects over the unix socket. Works as soon as the server is open; requests are answered once it runs.
    ///
    /// Of the options only the user and `require_leader` have an effect: timeouts, keepalive and TLS belong to the
    /// connections that `etcd-client` opens itself.
    ///
    /// # Errors
    ///
    /// When nobody listens on the socket.
    pub async fn connect(&self, options: Option<ConnectOptions>) -> Result<Client, Error> {
        let channel = tonic::transport::Endpoint::from_static(AUTHORITY)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .connect_with_connector(Connector(Arc::clone(&self.socket)))
            .await?;
        Client::from_channel(Channel::Tonic(channel), options).await
    }

    /// The address for logs.
    pub fn address(&self) -> String {
        format!("unix:{}", self.socket.display().display())
    }

    /// The address of the TCP listener, when one was asked for.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }
}

/// Opens the connections of a channel, also when it reconnects.
struct Connector(Arc<SocketPath>);

impl Service<Uri> for Connector {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<UnixStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = Arc::clone(&self.0);
        Box::pin(async move { socket.connect().await.map(TokioIo::new) })
    }
}
