//! The connections of a listener for whoever speaks another protocol on them than the servers of this module.

use std::io;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, unfold};
use futures_util::{Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::tls::Tls;
use super::transport::Socket;
use super::{Listener, accept};

/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Clients that shake hands at the same time; more wait in the backlog.
const MAX_HANDSHAKES: usize = 256;

impl Listener {
    /// The connections, each after its handshake if there is a certificate, until `stop` is cancelled. A slow client holds up
    /// no other one.
    pub fn sockets(
        self,
        tls: Option<Tls>,
        stop: CancellationToken,
    ) -> impl Stream<Item = io::Result<Socket>> + Send {
        let Self {
            socket,
            address,
            what,
        } = self;
        info!(server = what, %address, "listening");
        let entrance = Entrance {
            socket,
            what,
            tls,
            stop,
        };
        unfold((entrance, FuturesUnordered::new()), |state| async move {
            let (entrance, mut shaking) = state;
            loop {
                let socket = tokio::select! {
                    biased;
                    Some(shaken) = shaking.next() => shaken,
                    accepted = accept(&entrance.socket, entrance.what, &entrance.stop), if shaking.len() < MAX_HANDSHAKES => {
                        let (stream, _) = accepted?;
                        shaking.push(shake_hands(stream, entrance.tls.clone()));
                        continue;
                    }
                };
                match socket {
                    Ok(socket) => return Some((Ok(socket), (entrance, shaking))),
                    // The client is told by the alert; what it did is its own business.
                    Err(error) => {
                        debug!(server = entrance.what, %error, "handshake failed");
                    }
                }
            }
        })
    }
}

struct Entrance {
    socket: TcpListener,
    what: &'static str,
    tls: Option<Tls>,
    stop: CancellationToken,
}

async fn shake_hands(stream: TcpStream, tls: Option<Tls>) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else {
        return Ok(Socket::Plain(stream));
    };
    let shaken = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await;
    let shaken = shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(Socket::Tls(Box::new(shaken)))
}
