//! Holds every answer of the tests against the description of the API.

use std::sync::LazyLock;

use hyper::Method;
use serde_json::Value;

use super::schema;
use super::world::Reply;
use crate::documentation::{Tokens, document};
use crate::request::Query;
use crate::route::Routes;

/// The description that is served.
pub(super) static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| document("https://stream.example.com", "1.2.3", Tokens::Local));

/// The one of an installation with projects.
static OF_PROJECTS: LazyLock<Value> =
    LazyLock::new(|| document("https://stream.example.com", "1.2.3", Tokens::OfProjects));

/// Panics when the description does not foresee this answer to this request.
pub(super) fn check(method: &str, target: &str, reply: &Reply) {
    if let Err(wrong) = answer(method, target, reply) {
        panic!(
            "{method} {target} {}: {wrong}: {}",
            reply.status, reply.text
        );
    }
}

fn answer(method: &str, target: &str, reply: &Reply) -> Result<(), String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let routes = Routes::new();
    let Ok((endpoint, _)) = routes.find(path) else {
        return response(&component("EndpointNotFound"), 404, reply);
    };
    if method == "OPTIONS" {
        let is_plain = reply.status == 200 && reply.text.is_empty();
        return is_plain
            .then_some(())
            .ok_or_else(|| "has a body".to_owned());
    }
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    if endpoint.operation(&method).is_none() {
        return response(&component("MethodNotAllowed"), 405, reply);
    }
    let path = endpoint.label().replace("{*", "{");
    let method = method.as_str().to_lowercase();
    let operation = &DOCUMENT["paths"][path.as_str()][method.as_str()];
    let named = operation["parameters"].as_array().into_iter().flatten();
    let named: Vec<_> = named.map(|parameter| parameter["name"].clone()).collect();
    let unknown = query
        .split('&')
        .filter(|part| !part.is_empty())
        .find(|part| {
            let name = part.split_once('=').map_or(*part, |(name, _)| name);
            Query::parse(query).get(name).is_some() && !named.contains(&Value::from(name))
        });
    if let Some(unknown) = unknown {
        return Err(format!("parameter {unknown:?} is not described"));
    }
    if reply.status >= 400
        && reply.json()["error"]
            .as_str()
            .is_some_and(is_of_the_storage_api)
    {
        let operation = &OF_PROJECTS["paths"][path.as_str()][method.as_str()];
        return response(&operation["responses"]["default"], reply.status, reply);
    }
    let described = &operation["responses"][reply.status.to_string()];
    if described.is_null() {
        return Err("the status is not described".to_owned());
    }
    response(described, reply.status, reply)
}

/// Such refusals are passed on, and described for installations that have any.
fn is_of_the_storage_api(name: &str) -> bool {
    !name.starts_with("stream.api.")
}

fn component(name: &str) -> Value {
    DOCUMENT["components"]["responses"][name].clone()
}

fn response(described: &Value, status: u16, reply: &Reply) -> Result<(), String> {
    if reply.status != status {
        return Err(format!("{status} is described"));
    }
    let Some(content) = described["content"].as_object() else {
        let is_empty = reply.text.is_empty();
        return is_empty
            .then_some(())
            .ok_or_else(|| "no body is described".to_owned());
    };
    let content_type = reply.header("content-type");
    let described = content.get(content_type);
    let described = described.ok_or_else(|| format!("type {content_type:?} is not described"))?;
    let value = match content_type {
        "application/json" => serde_json::from_str(&reply.text).map_err(|it| it.to_string())?,
        "application/yaml" => serde_yaml_ng::from_str(&reply.text).map_err(|it| it.to_string())?,
        _ => Value::String(reply.text.clone()),
    };
    schema::check(&DOCUMENT, &described["schema"], &value)
}

fn reply(status: u16, body: &str) -> Reply {
    let mut headers = hyper::HeaderMap::new();
    let json = hyper::header::HeaderValue::from_static("application/json");
    headers.insert("content-type", json);
    Reply {
        status,
        headers,
        text: body.to_owned(),
    }
}

#[test]
fn answers_that_are_not_described_are_noticed() {
    let index = r#"{"api":"stream","documentation":"https://x"}"#;
    let cases = [
        ("GET", "/v1", 200, index, true),
        ("GET", "/v1", 201, index, false),
        ("GET", "/v1", 200, r#"{"api":"stream"}"#, false),
        (
            "GET",
            "/v1",
            200,
            r#"{"api":"stream","documentation":"","x":1}"#,
            false,
        ),
        ("GET", "/v1?x=1", 200, index, false),
        ("GET", "/nowhere", 200, index, false),
        ("PUT", "/v1", 200, index, false),
        ("GET", "/health-check", 200, index, false),
        (
            "GET",
            "/v1/status",
            404,
            r#"{"statusCode":404,"error":"stream.api.endpointNotFound","message":"No."}"#,
            false,
        ),
        (
            "GET",
            "/v1/status",
            400,
            r#"{"statusCode":400,"error":"stream.api.missingField","message":"No."}"#,
            true,
        ),
        (
            "GET",
            "/v1/status",
            400,
            r#"{"statusCode":400,"error":"stream.api.invalidRange","message":"No."}"#,
            false,
        ),
    ];
    for (method, target, status, body, described) in cases {
        let outcome = answer(method, target, &reply(status, body));
        assert_eq!(
            outcome.is_ok(),
            described,
            "{method} {target} {body}: {outcome:?}"
        );
    }
}
