//! A way to a server that can be cut: what a process sees when the network between it and the server fails.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Passes connections on to a server while it is whole. Ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    is_whole: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    ended: CancellationToken,
}

impl Proxy {
    /// Listens on a port of its own for connections to `server`.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.context("no port for a proxy")?;
        let (is_whole, whole) = watch::channel(true);
        let ended = CancellationToken::new();
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(accept(listener, server, whole, ended.clone()));
        Ok(Self {
            address,
            is_whole,
            accepting,
            ended,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks all connections, and each new one.
    pub fn cut(&self) {
        self.is_whole.send_replace(false);
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.is_whole.send_replace(true);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.ended.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    whole: watch::Receiver<bool>,
    ended: CancellationToken,
) {
    while let Ok((mut from, _)) = listener.accept().await {
        let (mut whole, ended) = (whole.clone(), ended.clone());
        if !*whole.borrow_and_update() {
            continue;
        }
        tokio::spawn(async move {
            // Either end may be gone: then both are.
            let passing = async {
                let mut to = TcpStream::connect(server).await?;
                to.set_nodelay(true)?;
                from.set_nodelay(true)?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            };
            tokio::select! {
                _ = passing => {}
                _ = whole.wait_for(|whole| !whole) => {}
                () = ended.cancelled() => {}
            }
        });
    }
}
