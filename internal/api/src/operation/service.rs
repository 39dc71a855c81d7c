//! What anybody may ask.

use hyper::{Method, StatusCode};

use super::{Group, Operation};
use crate::handler::service;

pub(super) fn group() -> Group {
    let mut operations = index();
    operations.extend(documentation());
    Group {
        name: "Service",
        description: "What anybody may ask, without a token.",
        operations,
    }
}

fn index() -> Vec<Operation> {
    vec![
        Operation::open(Method::GET, "/", |_| service::root())
            .named("root", "Lead to the index")
            .answers_nothing(StatusCode::MOVED_PERMANENTLY, "The index is at `/v1`."),
        Operation::open(Method::GET, "/v1", service::index)
            .named("index", "Say what this is")
            .answers::<service::ServiceView>(StatusCode::OK, "The name of the API."),
        Operation::open(Method::GET, "/health-check", |_| service::health())
            .named("healthCheck", "Say that the API answers")
            .answers_text("text/plain; charset=utf-8", "The text `OK`."),
    ]
}

fn documentation() -> Vec<Operation> {
    const JSON: &str = "application/json";
    const YAML: &str = "application/yaml";
    let document = |path, id, content_type| {
        let answer = if content_type == JSON {
            service::document_json
        } else {
            service::document_yaml
        };
        Operation::open(Method::GET, path, answer)
            .named(id, "Describe the API for programs")
            .describe("OpenAPI 3.1.")
            .answers_text(content_type, "This document.")
    };
    vec![
        Operation::open(Method::GET, "/v1/documentation", service::page)
            .named("documentation", "Describe the API for people")
            .describe(
                "One page that needs nothing but itself: no script, style or font from elsewhere.",
            )
            .answers_text("text/html; charset=utf-8", "The page."),
        document("/v1/documentation/openapi.json", "openapiJson", JSON),
        document("/v1/documentation/openapi.yaml", "openapiYaml", YAML),
        document("/v1/documentation/openapi3.json", "openapi3Json", JSON),
        document("/v1/documentation/openapi3.yaml", "openapi3Yaml", YAML),
    ]
}
