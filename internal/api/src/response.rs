//! Answers: indented JSON, open to every origin.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER, SERVER,
};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tracing::{error, warn};

use crate::error::{ApiError, ErrorBody};
use crate::token::random_text;

/// An answer on its way out.
pub(crate) type Answer = Response<Full<Bytes>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// An answer with a JSON body.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let mut bytes = serde_json::to_vec_pretty(body)
        .expect("answers are plain structs with text keys, which always serialise");
    bytes.push(b'\n');
    let mut answer = empty(status);
    *answer.body_mut() = Full::new(Bytes::from(bytes));
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    // Tasks and URLs with secrets have no business in a cache on the way.
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// An answer with a text for people.
pub(crate) fn text(body: &'static str) -> Answer {
    let mut answer = empty(StatusCode::OK);
    *answer.body_mut() = Full::new(Bytes::from_static(body.as_bytes()));
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer
}

/// That it was done, and nothing more.
pub(crate) fn done() -> Answer {
    empty(StatusCode::OK)
}

/// An answer that is the same for everybody as long as the process runs.
pub(crate) fn document(body: Bytes, content_type: &'static str) -> Answer {
    let mut answer = empty(StatusCode::OK);
    *answer.body_mut() = Full::new(body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}

/// Sends the client to another path for good.
pub(crate) fn moved(to: &'static str) -> Answer {
    let mut answer = empty(StatusCode::MOVED_PERMANENTLY);
    answer
        .headers_mut()
        .insert(LOCATION, HeaderValue::from_static(to));
    answer
}

/// The answer to `OPTIONS`: what a browser may send to this path.
pub(crate) fn options(methods: &HeaderValue) -> Answer {
    let mut answer = empty(StatusCode::OK);
    let headers = answer.headers_mut();
    headers.insert(ALLOW, methods.clone());
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods.clone());
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static("*, Authorization"),
    );
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("3600"));
    answer
}

/// The answer to a refused request. A fault of the service gets an id that finds its log line.
pub(crate) fn refused(refusal: &ApiError, endpoint: &'static str) -> Answer {
    let status = refusal.status();
    let exception = status.is_server_error().then(|| {
        let id = format!("keboola-stream-api-{}", random_text(16));
        let reason = refusal.message.as_str();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            warn!(
                endpoint,
                exception = id,
                reason,
                "request cannot be answered now"
            );
        } else {
            error!(endpoint, exception = id, reason, "request failed");
        }
        id
    });
    let mut answer = json(
        status,
        &ErrorBody {
            status_code: status.as_u16(),
            error: refusal.name(),
            message: &refusal.message,
            exception_id: exception.as_deref().or(refusal.exception_id()),
        },
    );
    let soon = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
    if let Some(seconds) = refusal.retry_after.or(soon) {
        answer
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// Adds what every answer has.
pub(crate) fn finish(mut answer: Answer, server: &HeaderValue) -> Answer {
    let any_origin = HeaderValue::from_static("*");
    let no_sniff = HeaderName::from_static("x-content-type-options");
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, any_origin);
    headers.insert(no_sniff, HeaderValue::from_static("nosniff"));
    headers.insert(SERVER, server.clone());
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}
