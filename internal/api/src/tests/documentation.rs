//! The description of the API, and that the API is as described.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::described::DOCUMENT;
use super::schema;
use super::world::World;
use crate::operation::{self, Body, Operation, Run};

const BASE: &str = "/v1/documentation";

#[tokio::test]
async fn the_description_is_served_in_all_forms_without_a_token() {
    let world = World::start().await;
    let mut anybody = world.client.clone();
    anybody.token = None;
    for name in ["openapi.json", "openapi3.json"] {
        let json = anybody.get(&format!("{BASE}/{name}")).await;
        assert_eq!(
            (json.status, json.json()),
            (200, DOCUMENT.clone()),
            "{name}"
        );
    }
    for name in ["openapi.yaml", "openapi3.yaml"] {
        let yaml = anybody.get(&format!("{BASE}/{name}")).await;
        let read: Value = serde_yaml_ng::from_str(&yaml.text).expect("YAML");
        assert_eq!((yaml.status, read), (200, DOCUMENT.clone()), "{name}");
    }
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn the_page_shows_every_operation_and_loads_nothing() {
    let world = World::start().await;
    let mut anybody = world.client.clone();
    anybody.token = None;
    for path in [BASE.to_owned(), format!("{BASE}/")] {
        let page = anybody.get(&path).await;
        assert_eq!(page.status, 200);
        for operation in operation::all() {
            let anchor = format!("<article id=\"{}\"", operation.id);
            assert!(page.text.contains(&anchor), "{}", operation.id);
        }
        for loading in ["src=", "<link", "@import", "url(", " style=", " onclick="] {
            assert!(!page.text.contains(loading), "{loading}");
        }
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        for (element, directive) in [("style", "style-src"), ("script", "script-src")] {
            let text = page.text.split_once(&format!("<{element}>")).expect("it").1;
            let text = text
                .split_once(&format!("</{element}>"))
                .expect("its end")
                .0;
            let allowed = format!("{directive} 'sha256-{}'", base64_sha256(text));
            assert!(policy.contains(&allowed), "{policy} allows {element}");
        }
    }
    world.stop().await.expect("stopped");
}

fn base64_sha256(text: &str) -> String {
    use base64::Engine;
    use sha2::{Digest, Sha256};
    base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text.as_bytes()))
}

#[test]
fn every_operation_is_described_and_its_examples_fit() {
    let mut ids = BTreeSet::new();
    for operation in operation::all() {
        let (path, method) = (operation.path.replace("{*", "{"), operation.method.as_str());
        let described = &DOCUMENT["paths"][path.as_str()][method.to_lowercase().as_str()];
        assert!(ids.insert(operation.id), "{} is there twice", operation.id);
        assert!(
            !operation.id.is_empty() && !operation.summary.is_empty(),
            "{path}"
        );
        assert!(!operation.answers.is_empty(), "{method} {path}");
        let bodies = described["responses"].as_object().expect("responses");
        let contents = bodies.values().chain([&described["requestBody"]]);
        for content in contents.filter_map(|it| it["content"].as_object()) {
            for content in content.values() {
                if let Some(example) = content.get("example") {
                    let fits = schema::check(&DOCUMENT, &content["schema"], example);
                    assert_eq!(fits, Ok(()), "{method} {path} {example}");
                }
            }
        }
        for part in operation.parts() {
            let parameters = described["parameters"].as_array().expect("parameters");
            assert!(parameters.iter().any(|it| it["name"] == part), "{part}");
        }
        let is_open = matches!(operation.run, Run::Open(_));
        assert_eq!(described["security"] == json!([]), is_open, "{path}");
    }
}

#[test]
fn every_reference_leads_to_a_schema_and_every_schema_is_referred_to() {
    let mut references = BTreeSet::new();
    collect(&DOCUMENT, &mut |name, value| {
        if name == "$ref" {
            references.insert(value.as_str().expect("a text").to_owned());
        }
    });
    let schemas = DOCUMENT["components"]["schemas"]
        .as_object()
        .expect("schemas");
    let known: BTreeSet<String> = schemas
        .keys()
        .map(|name| format!("#/components/schemas/{name}"))
        .collect();
    assert_eq!(references, known);
}

#[test]
fn error_names_are_those_of_the_code() {
    let mut described = BTreeSet::new();
    collect(&DOCUMENT, &mut |name, value| {
        if name == "enum" {
            let names = value.as_array().into_iter().flatten();
            let names = names.filter_map(Value::as_str);
            let names = names.filter(|name| name.starts_with("stream.api."));
            described.extend(names.map(str::to_owned));
        }
    });
    let code = include_str!("../error.rs").split('"').skip(1).step_by(2);
    let code: BTreeSet<String> = code
        .filter(|text| text.starts_with("stream.api."))
        .map(str::to_owned)
        .collect();
    assert_eq!(described, code);
    assert!(code.len() > 20, "{code:?}");
}

/// Calls `found` with each field in the document.
fn collect(value: &Value, found: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                found(name, field);
                collect(field, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        _ => {}
    }
}

/// The order in which all operations succeed: reading, changing, and then deleting and undeleting.
fn place(operation: &Operation) -> usize {
    let last = [
        "deleteSink",
        "undeleteSink",
        "deleteSource",
        "undeleteSource",
    ];
    let is_read = !matches!(operation.run, Run::Write(_));
    let place = last.iter().position(|id| *id == operation.id);
    place.map_or(usize::from(!is_read), |place| place + 2)
}

#[tokio::test]
async fn every_operation_answers_as_described() {
    let world = World::start().await;
    world.source("Orders").await;
    world.sink("audit").await;
    let client = &world.client;
    let body = json!({"description": "Changed."});
    let task = client
        .done("PATCH", "/v1/branches/1/sources/orders", body)
        .await;
    let task = task["taskId"].as_str().expect("an id").to_owned();
    let mut operations = operation::all();
    operations.sort_by_key(place);
    // There is no record without a storage-writer; records have tests of their own.
    operations.retain(|operation| !operation.parts().contains(&"record"));
    for operation in operations {
        let mut path = operation.path.to_owned();
        for part in operation.parts() {
            let value = match part {
                "branch" => "default",
                "source" => "orders",
                "sink" => "audit",
                "version" => "1",
                "task" => task.as_str(),
                other => panic!("{path}: what is {other}?"),
            };
            path = path.replace(&format!("{{{part}}}"), value);
            path = path.replace(&format!("{{*{part}}}"), value);
        }
        let body = match &operation.body {
            Some(Body::Json { example, .. }) => Some(example.clone()),
            Some(Body::Any(_)) | None => None,
        };
        // The answer is held against the description on its way.
        let reply = client.send(operation.method.as_str(), &path, body).await;
        let mut answers = operation.answers.iter();
        let expected = answers.any(|answer| answer.status.as_u16() == reply.status);
        assert!(expected, "{} {path}: {}", operation.method, reply.text);
        if reply.status == 202 {
            let id = reply.json()["taskId"].as_str().expect("an id").to_owned();
            let task = client.ended(&id).await;
            assert_eq!(
                task["status"], "success",
                "{} {path}: {task}",
                operation.method
            );
        }
    }
    world.stop().await.expect("stopped");
}

#[tokio::test]
async fn what_the_schema_of_a_body_refuses_is_refused_and_nothing_else() {
    let world = World::start().await;
    world.source("Orders").await;
    world.sink("audit").await;
    let mut refused = 0;
    for operation in operation::all() {
        let Some(Body::Json { example, .. }) = &operation.body else {
            continue;
        };
        let path = operation.path.replace("{branch}", "default");
        let path = path
            .replace("{source}", "orders")
            .replace("{sink}", "audit");
        let method = operation.method.as_str();
        let described = &DOCUMENT["paths"][operation.path][method.to_lowercase().as_str()];
        let schema = &described["requestBody"]["content"]["application/json"]["schema"];
        for body in changed(example) {
            let fits = schema::check(&DOCUMENT, schema, &body);
            let reply = world.client.send(method, &path, Some(body.clone())).await;
            let is_refused = reply.status == 400;
            assert_eq!(
                fits.is_err(),
                is_refused,
                "{method} {path} {body}: {fits:?}, {}",
                reply.text
            );
            refused += usize::from(is_refused);
            if reply.status == 202 {
                let task = reply.json()["taskId"].as_str().expect("an id").to_owned();
                world.client.ended(&task).await;
            }
        }
    }
    assert!(refused > 100, "{refused}");
    world.stop().await.expect("stopped");
}

/// The body with each of its values changed in turn. A setting's value is whatever the setting takes.
fn changed(body: &Value) -> Vec<Value> {
    let mut changed = vec![Value::Null, json!([]), json!("text")];
    let mut pointers = Vec::new();
    pointers_of(body, String::new(), &mut pointers);
    for pointer in pointers
        .iter()
        .filter(|pointer| !pointer.ends_with("/value"))
    {
        let with = |value: Value| {
            let mut changed = body.clone();
            *changed.pointer_mut(pointer).expect("it is there") = value;
            changed
        };
        changed.extend([with(Value::Null), with(json!(7)), with(json!(""))]);
        match body.pointer(pointer) {
            // Which settings there are is not said by the schema.
            Some(Value::String(_)) if pointer.ends_with("/key") => {}
            Some(Value::String(_)) => changed.push(with("x".repeat(5_000).into())),
            Some(Value::Array(_)) => changed.push(with(json!([]))),
            Some(Value::Object(fields)) => {
                let mut more = fields.clone();
                more.insert("unknown".to_owned(), json!(1));
                changed.push(with(Value::Object(more)));
                for name in fields.keys() {
                    let mut less = fields.clone();
                    less.shift_remove(name);
                    changed.push(with(Value::Object(less)));
                }
            }
            _ => changed.push(with(json!("true"))),
        }
    }
    changed
}

fn pointers_of(value: &Value, at: String, pointers: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                pointers_of(field, format!("{at}/{name}"), pointers);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointers_of(item, format!("{at}/{index}"), pointers);
            }
        }
        _ => {}
    }
    pointers.push(at);
}
