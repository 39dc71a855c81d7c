//! What anybody may ask.

use hyper::StatusCode;
use hyper::header::CONTENT_SECURITY_POLICY;
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use crate::response::{Answer, document, json, moved, text};

/// The API.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ServiceView {
    /// Its name.
    api: &'static str,
    /// Where it is described.
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

/// `GET /v1/documentation`
pub(crate) fn page(context: &Context) -> Answer {
    let rendered = context.documentation.rendered();
    let mut page = document(rendered.page.clone(), "text/html; charset=utf-8");
    page.headers_mut()
        .insert(CONTENT_SECURITY_POLICY, rendered.policy.clone());
    page
}

/// `GET /v1/documentation/openapi.json`
pub(crate) fn document_json(context: &Context) -> Answer {
    let rendered = context.documentation.rendered();
    document(rendered.json.clone(), "application/json")
}

/// `GET /v1/documentation/openapi.yaml`
pub(crate) fn document_yaml(context: &Context) -> Answer {
    let rendered = context.documentation.rendered();
    document(rendered.yaml.clone(), "application/yaml")
}
