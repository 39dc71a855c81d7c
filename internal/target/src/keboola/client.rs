//! Calls of the Storage API: tried again where that is harmless, and their errors understood.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use stream_model::Secret;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout_at};

use super::address::Address;
use super::error::{Refusal, StorageApiError};
use super::exchange::{Broken, Reply, Wire};
use super::tls::NoAuthorities;

/// The header of the token.
const TOKEN: &str = "x-storageapi-token";
/// What every path begins with.
const PREFIX: &str = "/v2/storage/";
/// How often a call is made.
const TRIES: u32 = 4;
/// The pause after the first try, doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause that the Storage API may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a call with all its tries may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The Storage API of a Keboola installation. Clones share everything.
#[derive(Clone)]
pub struct StorageApi(Arc<Inner>);

struct Inner {
    wire: Wire,
    options: Options,
    /// One permit per job. Held by whoever waits for one.
    jobs: Semaphore,
}

/// Limits of what is asked of the Storage API.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long the sending of an event may take.
    pub event_send_timeout: Duration,
    /// Jobs that this process has there at the same time.
    pub job_limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            event_send_timeout: Duration::from_secs(30),
            job_limit: 2,
        }
    }
}

/// A call to be made.
pub(super) struct Ask<'a> {
    /// What it does, as in "cannot …".
    pub(super) operation: &'static str,
    pub(super) method: Method,
    /// Below `/v2/storage/`.
    pub(super) path: String,
    pub(super) token: Option<&'a Secret<String>>,
    pub(super) body: Option<Value>,
}

impl<'a> Ask<'a> {
    pub(super) fn get(operation: &'static str, path: impl Into<String>) -> Self {
        Self {
            operation,
            method: Method::GET,
            path: path.into(),
            token: None,
            body: None,
        }
    }

    pub(super) fn post(operation: &'static str, path: impl Into<String>, body: Value) -> Self {
        Self {
            method: Method::POST,
            body: Some(body),
            ..Self::get(operation, path)
        }
    }

    pub(super) fn delete(operation: &'static str, path: impl Into<String>) -> Self {
        Self {
            method: Method::DELETE,
            ..Self::get(operation, path)
        }
    }

    pub(super) fn by(self, token: &'a Secret<String>) -> Self {
        Self {
            token: Some(token),
            ..self
        }
    }

    /// Whether making the call twice does the same as once.
    fn is_idempotent(&self) -> bool {
        self.method != Method::POST
    }
}

/// What became of one try.
enum Tried {
    Answered(Reply),
    /// Try again after the pause, unless it was the last time.
    Again {
        reason: String,
        pause: Option<Duration>,
    },
    Failed(String),
}

impl StorageApi {
    /// Prepares the way to the Storage API. Nothing is sent yet.
    ///
    /// # Errors
    /// When the address is one with encryption and no authority is known.
    pub fn new(address: Address, options: Options) -> Result<Self, NoAuthorities> {
        Ok(Self(Arc::new(Inner {
            wire: Wire::new(address)?,
            options,
            jobs: Semaphore::new(options.job_limit),
        })))
    }

    pub(super) fn options(&self) -> &Options {
        &self.0.options
    }

    /// Waits for the turn of a job.
    pub(super) async fn job_permit(&self) -> SemaphorePermit<'_> {
        let permit = self.0.jobs.acquire().await;
        permit.expect("the semaphore is never closed")
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.0.wire.address
    }

    /// Makes a call and reads its answer. A call that changes something is made again only when the first one certainly did
    /// nothing.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        ask: Ask<'_>,
    ) -> Result<T, StorageApiError> {
        let reply = self.answered(&ask).await?;
        let body: &[u8] = match reply.body.len() {
            0 => b"null",
            _ => &reply.body,
        };
        serde_json::from_slice(body).map_err(|error| StorageApiError::Unreadable {
            operation: ask.operation,
            // The library's own text quotes the answer, which may hold a token.
            reason: format!("at line {} column {}", error.line(), error.column()),
        })
    }

    async fn answered(&self, ask: &Ask<'_>) -> Result<Reply, StorageApiError> {
        let deadline = Instant::now() + PATIENCE;
        let unavailable = |reason| StorageApiError::Unavailable {
            operation: ask.operation,
            reason,
        };
        let mut pause = FIRST_PAUSE;
        for left in (0..TRIES).rev() {
            let tried = timeout_at(deadline, self.try_once(ask)).await;
            let (reason, asked) = match tried {
                Ok(Tried::Answered(reply)) => return checked(ask, reply),
                Ok(Tried::Failed(reason)) => return Err(unavailable(reason)),
                Ok(Tried::Again { reason, pause }) => (reason, pause),
                Err(_) => (format!("no answer within {} s", PATIENCE.as_secs()), None),
            };
            let pausing = asked.unwrap_or(pause).min(LONGEST_PAUSE);
            if left == 0 || Instant::now() + pausing >= deadline {
                return Err(unavailable(reason));
            }
            sleep(pausing).await;
            pause *= 2;
        }
        Err(unavailable("no try is left".to_owned()))
    }

    async fn try_once(&self, ask: &Ask<'_>) -> Tried {
        let repeatable = ask.is_idempotent();
        let again = |reason, pause| match repeatable {
            true => Tried::Again { reason, pause },
            false => Tried::Failed(reason),
        };
        match self.0.wire.exchange(self.request(ask)).await {
            // It says itself that it has done nothing.
            Ok(reply) if reply.status == 429 => Tried::Again {
                reason: "it has too many requests (429)".to_owned(),
                pause: reply.retry_after,
            },
            Ok(reply) if reply.status >= 500 => {
                again(format!("it answered {}", reply.status), reply.retry_after)
            }
            Ok(reply) => Tried::Answered(reply),
            Err(Broken::Unreached(reason)) => Tried::Again {
                reason,
                pause: None,
            },
            Err(Broken::Unanswered(reason)) => again(reason, None),
        }
    }

    fn request(&self, ask: &Ask<'_>) -> Request<Full<Bytes>> {
        let body = ask.body.as_ref().map(Value::to_string);
        let mut request = Request::new(Full::new(Bytes::from(body.unwrap_or_default())));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = format!("{PREFIX}{}", ask.path)
            .parse()
            .expect("paths are made of fixed texts, numbers and checked identifiers");
        let headers = request.headers_mut();
        let host = HeaderValue::from_str(&self.0.wire.address.authority);
        headers.insert(HOST, host.expect("it was read as an authority"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT, HeaderValue::from_static("stream-service"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if ask.body.is_some() {
            let json = HeaderValue::from_static("application/json");
            headers.insert(CONTENT_TYPE, json);
        }
        // A token that cannot stand in a header is none of theirs: sent without, it is refused as such.
        if let Some(Ok(mut token)) = ask.token.map(|token| HeaderValue::from_str(token.expose())) {
            token.set_sensitive(true);
            headers.insert(TOKEN, token);
        }
        request
    }
}

/// The body of an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody {
    error: Option<String>,
    code: Option<String>,
    exception_id: Option<String>,
}

/// The answer, if it is not a refusal.
fn checked(ask: &Ask<'_>, reply: Reply) -> Result<Reply, StorageApiError> {
    if (200..300).contains(&reply.status) {
        return Ok(reply);
    }
    let status = reply.status;
    if !(400..500).contains(&status) {
        let reason = format!("it answered {status}");
        let operation = ask.operation;
        return Err(StorageApiError::Unavailable { operation, reason });
    }
    let body = serde_json::from_slice(&reply.body).unwrap_or(ErrorBody {
        error: None,
        code: None,
        exception_id: None,
    });
    let message = body.error.unwrap_or_else(|| {
        let operation = ask.operation;
        format!("the Storage API refused to {operation} with status {status}")
    });
    Err(StorageApiError::Refused(Refusal {
        status,
        name: body.code.unwrap_or_else(|| "storage.refused".to_owned()),
        message: without(ask.token, message),
        exception_id: body.exception_id,
    }))
}

/// A text of somebody else without the token, should they quote it.
fn without(token: Option<&Secret<String>>, text: String) -> String {
    match token.map(|token| token.expose().as_str()) {
        Some(token) if !token.is_empty() => text.replace(token, "***"),
        _ => text,
    }
}
