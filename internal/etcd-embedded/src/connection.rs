//! Accepted connections, unix or TCP, that can be cut.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Pause after a failed accept: without it, a process out of file descriptors would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listening sockets of one server.
pub(crate) struct Listeners {
    pub(crate) unix: UnixListener,
    pub(crate) tcp: Option<TcpListener>,
    /// Cuts every connection, whatever is under way on it.
    pub(crate) cut: CancellationToken,
}

impl Listeners {
    /// All connections, one after the other. Never ends.
    pub(crate) fn incoming(self) -> impl Stream<Item = io::Result<Connection>> {
        unfold(self, |listeners| async move {
            let connection = listeners.accept().await;
            Some((Ok(connection), listeners))
        })
    }

    async fn accept(&self) -> Connection {
        loop {
            match self.accept_one().await {
                Ok(transport) => {
                    return Connection {
                        transport,
                        cut: Box::pin(self.cut.clone().cancelled_owned()),
                    };
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept_one(&self) -> io::Result<Transport> {
        let Some(tcp) = &self.tcp else {
            let (stream, _) = self.unix.accept().await?;
            return Ok(Transport::Unix(stream));
        };
        tokio::select! {
            accepted = self.unix.accept() => Ok(Transport::Unix(accepted?.0)),
            accepted = tcp.accept() => {
                let stream = accepted?.0;
                stream.set_nodelay(true)?;
                Ok(Transport::Tcp(stream))
            }
        }
    }
}

/// One connection. Reports its end once it is cut.
pub(crate) struct Connection {
    transport: Transport,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

enum Transport {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match &mut self.transport {
            Transport::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Transport::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Transport::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Transport::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Unix(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
