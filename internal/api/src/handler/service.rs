//! What anybody may ask.

use hyper::StatusCode;
use serde::Serialize;

use crate::context::Context;
use crate::response::{Answer, json, moved, text};

#[derive(Serialize)]
struct ServiceView {
    api: &'static str,
    documentation: String,
}

/// `GET /`
pub(crate) fn root() -> Answer {
    moved("/v1")
}

/// `GET /v1`
pub(crate) fn index(context: &Context) -> Answer {
    let documentation = format!("{}/v1/documentation", context.urls.api);
    json(
        StatusCode::OK,
        &ServiceView {
            api: "stream",
            documentation,
        },
    )
}

/// `GET /health-check`
pub(crate) fn health() -> Answer {
    text("OK")
}
