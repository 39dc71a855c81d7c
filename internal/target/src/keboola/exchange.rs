//! One request and its answer, on a connection of their own.
//!
//! No pool of connections: calls are rare, and one that went stale between two calls would leave it open whether a change was
//! made, for nothing.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::RETRY_AFTER;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::address::{Address, Scheme};
use super::tls::{self, NoAuthorities};

/// How long a connection with its encryption may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a request with its whole answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// The largest answer that is read: a list of a hundred tables with a hundred columns fits.
const MAX_ANSWER_LEN: usize = 4 << 20;

/// The way to the server.
pub(super) struct Wire {
    pub(super) address: Address,
    tls: Option<TlsConnector>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// How long the server asks to wait, if in seconds.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Broken {
    /// There was no connection: the server knows nothing of the request.
    Unreached(String),
    /// The server may have done what it was asked for.
    Unanswered(String),
}

impl Wire {
    pub(super) fn new(address: Address) -> Result<Self, NoAuthorities> {
        let tls = match address.scheme {
            Scheme::Http => None,
            Scheme::Https => {
                let named = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty());
                Some(tls::connector(named.as_deref().map(AsRef::as_ref))?)
            }
        };
        Ok(Self { address, tls })
    }

    /// Sends a request and reads its whole answer.
    pub(super) async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Reply, Broken> {
        let connecting = timeout(CONNECT_LIMIT, TcpStream::connect(self.place()));
        let stream = connecting
            .await
            .map_err(|_| slow("connection", CONNECT_LIMIT))?
            .map_err(|error| unreached(&error))?;
        // Small requests go out at once; where that cannot be set they go out a moment later.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return converse(stream, request).await;
        };
        let name = ServerName::try_from(self.address.host.clone());
        let name = name.map_err(|error| unreached(&error))?;
        let shaking = timeout(CONNECT_LIMIT, tls.connect(name, stream));
        let stream = shaking
            .await
            .map_err(|_| slow("TLS handshake", CONNECT_LIMIT))?
            .map_err(|error| unreached(&error))?;
        converse(stream, request).await
    }

    fn place(&self) -> (&str, u16) {
        (&self.address.host, self.address.port)
    }
}

async fn converse<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Reply, Broken>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let exchange = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreached(&error))?;
        let answering = async {
            let response = sender.send_request(request).await;
            read(response.map_err(|error| unanswered(&error))?).await
        };
        // When the connection has ended, what it has read is still to be taken.
        let driving = async {
            let _ = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            reply = answering => reply,
            () = driving => Err(Broken::Unanswered("the connection ended".to_owned())),
        }
    };
    match timeout(ANSWER_LIMIT, exchange).await {
        Ok(reply) => reply,
        Err(_) => Err(Broken::Unanswered(format!(
            "no answer within {} s",
            ANSWER_LIMIT.as_secs()
        ))),
    }
}

async fn read(response: hyper::Response<hyper::body::Incoming>) -> Result<Reply, Broken> {
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.trim().parse().ok())
        .map(Duration::from_secs);
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER_LEN).collect();
    let body = body.await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            let limit = MAX_ANSWER_LEN >> 20;
            return Broken::Unanswered(format!("the answer is larger than {limit} MiB"));
        }
        unanswered(error.as_ref())
    })?;
    Ok(Reply {
        status,
        retry_after,
        body: body.to_bytes(),
    })
}

fn slow(what: &str, limit: Duration) -> Broken {
    Broken::Unreached(format!("no {what} within {} s", limit.as_secs()))
}

fn unreached(error: &dyn Error) -> Broken {
    Broken::Unreached(chain(error))
}

fn unanswered(error: &(dyn Error + 'static)) -> Broken {
    Broken::Unanswered(chain(error))
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
