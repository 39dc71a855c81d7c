//! The OpenAPI 3.1 document.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::Tokens;
use super::schemas::Schemas;
use crate::error::{Code, ErrorBody};
use crate::operation::{self, Body, Content, Group, Operation, Parameter, Run, SchemaOf, Success};

const INTRODUCTION: &str = "Sources take records by HTTP; sinks make rows of them and import the rows into tables. \
    This API declares both, changes their settings and shows what became of the rows.\n\n\
    Changes are checked, answered 202 with a task, and made in the background, one at a time per source or sink; the task \
    says how it ended. Unknown fields are refused. `null` in a request means the same as leaving the field out. A refusal \
    has a name in `error`, by which clients decide, and a sentence in `message`, which may change.\n\n\
    An unknown path is answered 404 `stream.api.endpointNotFound`, a method that a path does not have 405 \
    `stream.api.methodNotAllowed` with `Allow`. Every path answers `OPTIONS`.";

/// The document.
pub(crate) fn document(server: &str, version: &str, tokens: Tokens) -> Value {
    let (groups, mut schemas) = (operation::groups(), Schemas::new());
    let paths = paths(&groups, tokens, &mut schemas);
    let tags = groups.iter();
    let tags = tags.map(|it| json!({"name": it.name, "description": it.description}));
    let responses = json!({
        "EndpointNotFound": refusal(&[Code::EndpointNotFound], &mut schemas),
        "MethodNotAllowed": refusal(&[Code::MethodNotAllowed], &mut schemas),
    });
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Stream service",
            "version": version,
            "description": INTRODUCTION,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server}],
        "tags": tags.collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "responses": responses,
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-StorageApi-Token"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    })
}

fn paths(groups: &[Group], tokens: Tokens, schemas: &mut Schemas) -> Map<String, Value> {
    let mut paths: Map<String, Value> = Map::new();
    for group in groups {
        for operation in &group.operations {
            let path = operation.path.replace("{*", "{");
            let methods = paths.entry(path).or_insert_with(|| json!({}));
            let method = operation.method.as_str().to_lowercase();
            let mut described = describe(operation, group.name, schemas);
            if tokens == Tokens::OfProjects && !matches!(operation.run, Run::Open(_)) {
                described["responses"]["default"] = refusal_elsewhere(schemas);
            }
            methods[method] = described;
        }
    }
    paths
}

fn describe(operation: &Operation, tag: &str, schemas: &mut Schemas) -> Value {
    let mut parameters: Vec<Value> = operation.parts().into_iter().map(path_part).collect();
    parameters.extend(operation.query.iter().map(query_parameter));
    let security = match operation.run {
        Run::Open(_) => json!([]),
        Run::Read(_) | Run::Survey(_) | Run::Write(_) => json!([{"token": []}, {"bearer": []}]),
    };
    let mut description = operation.description.to_owned();
    if matches!(operation.run, Run::Write(_)) {
        description.push_str(" Needs a token that may change something.");
    }
    let mut described = json!({
        "tags": [tag],
        "operationId": operation.id,
        "summary": operation.summary,
        "description": description.trim(),
        "parameters": parameters,
        "security": security,
        "responses": responses(operation, schemas),
    });
    if let Some(body) = &operation.body {
        described["requestBody"] = request_body(body, schemas);
    }
    described
}

fn path_part(name: &str) -> Value {
    let (schema, description) = match name {
        "branch" => (
            json!({"type": "string", "examples": ["default"]}),
            "Number of the branch, or `default`.",
        ),
        "source" => (json!({"type": "string"}), "Identifier of the source."),
        "sink" => (json!({"type": "string"}), "Identifier of the sink."),
        "version" => (
            json!({"type": "integer", "minimum": 1}),
            "Number of the version.",
        ),
        "record" => (
            json!({"type": "string", "examples": ["01a1ff1076a17fc8bf76b6b92178988a:17"]}),
            "Slice and number of the record: `<slice>:<number>`.",
        ),
        "task" => (
            json!({"type": "string"}),
            "Identifier of the task. Its slashes may be sent as they are or as `%2F`.",
        ),
        _ => (json!({"type": "string"}), ""),
    };
    json!({
        "name": name, "in": "path", "required": true, "description": description, "schema": schema,
    })
}

fn query_parameter(parameter: &Parameter) -> Value {
    json!({
        "name": parameter.name, "in": "query", "required": false,
        "description": parameter.description, "schema": parameter.schema,
    })
}

fn request_body(body: &Body, schemas: &mut Schemas) -> Value {
    match body {
        Body::Json { schema, example } => json!({
            "required": true,
            "content": {"application/json": {"schema": schemas.of(*schema), "example": example}},
        }),
        Body::Any(content_types) => {
            let content = content_types.iter().map(|it| ((*it).to_owned(), json!({})));
            json!({"content": content.collect::<Map<_, _>>()})
        }
    }
}

fn responses(operation: &Operation, schemas: &mut Schemas) -> Value {
    let mut responses = Map::new();
    for answer in &operation.answers {
        let status = answer.status.as_u16().to_string();
        responses.insert(status, success(answer, schemas));
    }
    let mut refusals: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in operation.refusals() {
        let status = code.status().as_u16();
        refusals.entry(status).or_default().push(code);
    }
    for (status, codes) in refusals {
        responses.insert(status.to_string(), refusal(&codes, schemas));
    }
    Value::Object(responses)
}

fn success(answer: &Success, schemas: &mut Schemas) -> Value {
    let mut success = json!({"description": answer.description});
    let (content_type, schema) = match answer.content {
        Content::Nothing => return success,
        Content::Json(schema) => ("application/json", schemas.of(schema)),
        Content::Text(document @ ("application/json" | "application/yaml")) => {
            (document, json!({"type": "object"}))
        }
        Content::Text(content_type) => (content_type, json!({"type": "string"})),
    };
    let mut content = json!({"schema": schema});
    if let Some(example) = &answer.example {
        content["example"] = example.clone();
    }
    success["content"] = json!({ content_type: content });
    if answer.status.as_u16() == 202 {
        let parameters = json!({"task": "$response.body#/taskId"});
        success["links"] = json!({"task": {"operationId": "getTask", "parameters": parameters}});
    }
    success
}

/// A refusal of the Storage API, which is passed on as it is.
fn refusal_elsewhere(schemas: &mut Schemas) -> Value {
    let schema: SchemaOf = SchemaGenerator::subschema_for::<ErrorBody>;
    json!({
        "description": "The Storage API refuses the token, with its own status and name, such as `storage.tokenInvalid`.",
        "content": {"application/json": {"schema": schemas.of(schema)}},
    })
}

/// A refusal with one of these names, which all have the same status.
fn refusal(codes: &[Code], schemas: &mut Schemas) -> Value {
    let schema: SchemaOf = SchemaGenerator::subschema_for::<ErrorBody>;
    let names: Vec<&str> = codes.iter().map(|code| code.name()).collect();
    let listed: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    let named = json!({"properties": {"error": {"enum": names}}});
    let content = json!({"schema": {"allOf": [schemas.of(schema), named]}});
    let mut refusal = json!({
        "description": format!("Refused: {}.", listed.join(", ")),
        "content": {"application/json": content},
    });
    let text =
        |description: &str| json!({"description": description, "schema": {"type": "string"}});
    let seconds =
        |description: &str| json!({"description": description, "schema": {"type": "integer"}});
    match codes.first().map(|code| code.status().as_u16()) {
        Some(405) => refusal["headers"] = json!({"Allow": text("The methods that the path has.")}),
        Some(429 | 503) => {
            refusal["headers"] =
                json!({"Retry-After": seconds("Seconds after which to try again.")});
        }
        _ => {}
    }
    refusal
}
