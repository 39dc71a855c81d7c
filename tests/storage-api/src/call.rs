//! A call as the routes see it.

use hyper::http::request::Parts;
use serde_json::Value;

const PREFIX: &str = "/v2/storage";

/// A call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: String,
    /// Below `/v2/storage`, without a slash at either end.
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) token: Option<String>,
    pub(crate) body: Value,
}

impl Call {
    pub(crate) fn read(head: &Parts, body: &[u8]) -> Self {
        let path = head.uri.path();
        let path = path.strip_prefix(PREFIX).unwrap_or("elsewhere");
        let token = head.headers.get("x-storageapi-token");
        Self {
            method: head.method.to_string(),
            path: path.trim_matches('/').to_owned(),
            query: head.uri.query().unwrap_or_default().to_owned(),
            token: token
                .and_then(|token| token.to_str().ok())
                .map(str::to_owned),
            body: serde_json::from_slice(body).unwrap_or(Value::Null),
        }
    }

    /// A text in the body; empty when it is not there.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_default()
    }
}
