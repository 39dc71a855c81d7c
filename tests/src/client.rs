//! A small HTTP/1.1 client: one keep-alive connection, and calls of the configuration API on top of it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// More than any answer takes.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks at something that is being waited for.
pub const PAUSE: Duration = Duration::from_millis(25);
/// What clients call the host. The service does not care, and expected rows do not depend on a port.
pub const HOST_NAME: &str = "stream.test";

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The name of the error, empty when the answer is none.
    #[must_use]
    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    /// The message of the answer, empty when it has none.
    #[must_use]
    pub fn message(&self) -> String {
        self.json()["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Whether the request was accepted.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens. Nothing was sent then.
    pub async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends with the sender or the server. How it ended is what the requests are told.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { sender })
    }

    /// Sends a request and reads its answer.
    ///
    /// # Errors
    /// When there is no whole answer; the connection is of no more use then.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Reply, Broken> {
        let exchange = async {
            let unsent = |error: hyper::Error| Broken::Unsent(error.into());
            self.sender.ready().await.map_err(unsent)?;
            let answer = self.sender.try_send_request(request).await;
            let (parts, body) = answer
                .map_err(|mut error| match error.take_message() {
                    Some(_) => unsent(error.into_error()),
                    None => Broken::Unknown(error.into_error().into()),
                })?
                .into_parts();
            let body = body
                .collect()
                .await
                .map_err(|error| Broken::Unknown(error.into()))?;
            let status = parts.status.as_u16();
            Ok(Reply {
                status,
                headers: parts.headers,
                body: body.to_bytes(),
            })
        };
        let answer = timeout(PATIENCE, exchange).await;
        answer.unwrap_or_else(|_| Err(Broken::Unknown(anyhow!("there was no answer in time"))))
    }
}

/// A connection that is of no more use.
#[derive(Debug)]
pub enum Broken {
    /// The request was not sent: the connection had been closed before.
    Unsent(anyhow::Error),
    /// There is no answer. Whether the request was carried out is unknown.
    Unknown(anyhow::Error),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsent(error) => write!(f, "not sent: {error:#}"),
            Self::Unknown(error) => write!(f, "no answer: {error:#}"),
        }
    }
}

impl std::error::Error for Broken {}

/// Sends one request on a connection of its own.
///
/// # Errors
/// When there is no answer.
pub async fn send_once(
    address: SocketAddr,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Reply> {
    Ok(Connection::open(address).await?.send(request).await?)
}

/// A request without more headers than it needs.
///
/// # Panics
/// When `path` is no path of a URL.
#[must_use]
pub fn request(method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, HOST_NAME);
    request
        .body(Full::new(body.into()))
        .expect("tests write valid paths")
}

/// The configuration API, with a token.
#[derive(Debug, Clone)]
pub struct Api {
    /// Where it listens.
    pub address: SocketAddr,
    /// The token to be sent.
    pub token: Option<String>,
}

/// A source that can be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its id.
    pub id: String,
    /// The path of its URL, on the HTTP source.
    pub path: String,
}

impl Api {
    /// The API at an address with the token of the installation.
    ///
    /// # Errors
    /// When the token cannot be read.
    pub fn with_admin_token(address: SocketAddr, data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join("admin-token");
        let token = std::fs::read_to_string(&path);
        let token = token.with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            address,
            token: Some(token.trim().to_owned()),
        })
    }

    /// Sends one call. A `body` of null is none.
    ///
    /// # Errors
    /// When there is no answer; an answer that is an error is an answer.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Reply> {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.call_text(method, path, body).await
    }

    /// Sends one call with a body that need not be JSON.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn call_text(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> anyhow::Result<Reply> {
        let mut request = request(method, path, body);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, "application/json".parse()?);
        if let Some(token) = &self.token {
            headers.insert("x-storageapi-token", token.parse()?);
        }
        send_once(self.address, request).await
    }

    /// Sends a call that starts a task and waits until it has succeeded. Returns the task.
    ///
    /// # Errors
    /// When the call is refused or the task fails.
    pub async fn done(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let reply = self.call(method, path, body).await?;
        ensure!(
            reply.status == 202,
            "{path} was refused: {} {}",
            reply.status,
            reply.message()
        );
        let mut task = reply.json();
        let id = task["taskId"]
            .as_str()
            .context("the task has no id")?
            .to_owned();
        let deadline = Instant::now() + PATIENCE;
        while task["isFinished"] != true {
            ensure!(Instant::now() < deadline, "task {id} does not finish");
            sleep(PAUSE).await;
            let path = format!("/v1/tasks/{id}");
            task = self.call(Method::GET, &path, &Value::Null).await?.json();
        }
        if task["status"] != "success" {
            bail!("task {id} failed: {}", task["error"]);
        }
        Ok(task)
    }

    /// Creates a source of that id.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create_source(&self, id: &str) -> anyhow::Result<Source> {
        let sources = "/v1/branches/default/sources";
        let body = serde_json::json!({"type": "http", "name": id, "sourceId": id});
        self.done(Method::POST, sources, &body).await?;
        let path = format!("{sources}/{id}");
        let source = self.call(Method::GET, &path, &Value::Null).await?.json();
        let url = source["http"]["url"]
            .as_str()
            .context("the source has no URL")?;
        let path = url.find("/stream/").map(|at| url[at..].to_owned());
        let path = path.with_context(|| format!("{url} is no URL of a source"))?;
        Ok(Source {
            id: id.to_owned(),
            path,
        })
    }

    /// Creates a sink of that id, into the table of the same name.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn create_sink(
        &self,
        source: &Source,
        id: &str,
        columns: &[Value],
    ) -> anyhow::Result<()> {
        let path = format!("/v1/branches/default/sources/{}/sinks", source.id);
        self.done(Method::POST, &path, &sink(id, columns))
            .await
            .map(|_| ())
    }
}

/// The definition of a sink into the table of the same name.
#[must_use]
pub fn sink(id: &str, columns: &[Value]) -> Value {
    let table =
        serde_json::json!({"type": "sqlite", "tableId": id, "mapping": {"columns": columns}});
    serde_json::json!({"type": "table", "name": id, "sinkId": id, "table": table})
}
