//! The page for people: the document as HTML.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use serde_json::Value;
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// How deep the fields of a body are shown; deeper ones have a name and are shown where it is described.
const DEPTH: usize = 6;

/// What the page may load: its own style and script and nothing else.
pub(super) fn policy() -> HeaderValue {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    HeaderValue::from_str(&policy).expect("hashes are plain text")
}

/// The page of a document.
pub(super) fn page(document: &Value) -> String {
    let mut page = Page(String::new());
    let title = escape(text(&document["info"]["title"]));
    let version = escape(text(&document["info"]["version"]));
    page.add(&format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} API</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n"
    ));
    page.navigation(document);
    page.add(&format!(
        "<main><h1>{title} API <small>{version}</small></h1>\n"
    ));
    page.paragraphs(text(&document["info"]["description"]));
    let server = escape(text(&document["servers"][0]["url"]));
    page.add(&format!(
        "<p>At <code>{server}</code>, with a token as <code>X-StorageApi-Token</code> or <code>Authorization: \
         Bearer</code>. For programs: <a href=\"{server}/v1/documentation/openapi.json\">openapi.json</a>, \
         <a href=\"{server}/v1/documentation/openapi.yaml\">openapi.yaml</a>.</p>\n"
    ));
    for tag in items(&document["tags"]) {
        let name = escape(text(&tag["name"]));
        page.add(&format!("<h2 id=\"tag-{name}\">{name}</h2>\n"));
        page.paragraphs(text(&tag["description"]));
        for (path, method, operation) in operations(document, &tag["name"]) {
            page.operation(path, method, operation);
        }
    }
    page.add("<h2 id=\"schemas\">Schemas</h2>\n");
    for (name, schema) in fields(&document["components"]["schemas"]) {
        page.schema(name, schema);
    }
    page.add(&format!("</main><script>{SCRIPT}</script></body></html>\n"));
    page.0
}

struct Page(String);

impl Page {
    fn add(&mut self, html: &str) {
        self.0.push_str(html);
    }

    fn navigation(&mut self, document: &Value) {
        self.add("<nav><input id=\"search\" type=\"search\" placeholder=\"Search\" aria-label=\"Search\" hidden>\n");
        for tag in items(&document["tags"]) {
            let name = escape(text(&tag["name"]));
            self.add(&format!(
                "<h2><a href=\"#tag-{name}\">{name}</a></h2><ul>\n"
            ));
            for (path, method, operation) in operations(document, &tag["name"]) {
                let (id, summary) = (text(&operation["operationId"]), text(&operation["summary"]));
                let search = searched(path, method, operation);
                self.add(&format!(
                    "<li data-search=\"{search}\"><a href=\"#{}\">{}</a></li>\n",
                    escape(id),
                    escape(summary)
                ));
            }
            self.add("</ul>\n");
        }
        self.add("<h2><a href=\"#schemas\">Schemas</a></h2></nav>\n");
    }

    fn operation(&mut self, path: &str, method: &str, operation: &Value) {
        let id = escape(text(&operation["operationId"]));
        let search = searched(path, method, operation);
        self.add(&format!(
            "<article id=\"{id}\" data-search=\"{search}\"><h3>{}</h3>\n<p><span class=\"method\">{}</span><code>{}</code></p>\n",
            escape(text(&operation["summary"])),
            escape(&method.to_uppercase()),
            escape(path)
        ));
        self.paragraphs(text(&operation["description"]));
        self.parameters(operation);
        for (content_type, content) in fields(&operation["requestBody"]["content"]) {
            self.add(&format!(
                "<p>Body: <code>{}</code></p>\n",
                escape(content_type)
            ));
            self.body(content);
        }
        self.add("<table><tr><th>answer</th><th></th></tr>\n");
        for (status, response) in fields(&operation["responses"]) {
            self.response(status, response);
        }
        self.add("</table></article>\n");
    }

    fn parameters(&mut self, operation: &Value) {
        if items(&operation["parameters"]).is_empty() {
            return;
        }
        self.add("<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>\n");
        for parameter in items(&operation["parameters"]) {
            let row = format!(
                "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                escape(text(&parameter["name"])),
                escape(text(&parameter["in"])),
                type_of(&parameter["schema"]),
                prose(text(&parameter["description"]))
            );
            self.add(&row);
        }
        self.add("</table>\n");
    }

    fn response(&mut self, status: &str, response: &Value) {
        self.add(&format!(
            "<tr><td><code>{}</code></td><td>{}",
            escape(status),
            prose(text(&response["description"]))
        ));
        for (content_type, content) in fields(&response["content"]) {
            let is_refusal = content["schema"].get("allOf").is_some();
            if !is_refusal {
                let schema = type_of(&content["schema"]);
                self.add(&format!(" <code>{}</code> {schema}", escape(content_type)));
                self.example(content);
            }
        }
        self.add("</td></tr>\n");
    }

    fn body(&mut self, content: &Value) {
        if let Some(schema) = content.get("schema") {
            self.add(&format!("<p>{}</p>\n", type_of(schema)));
        }
        self.example(content);
    }

    fn example(&mut self, content: &Value) {
        if let Some(example) = content.get("example") {
            let example = serde_json::to_string_pretty(example).unwrap_or_default();
            self.add(&format!("<pre>{}</pre>\n", escape(&example)));
        }
    }

    fn schema(&mut self, name: &str, schema: &Value) {
        let name = escape(name);
        let search = name.to_lowercase();
        self.add(&format!(
            "<article id=\"schema-{name}\" data-search=\"{search}\"><h3>{name}</h3>\n"
        ));
        self.paragraphs(text(&schema["description"]));
        if items(&schema["oneOf"]).is_empty() && schema.get("properties").is_none() {
            self.add(&format!("<p>{}</p>\n", type_of(schema)));
        } else {
            self.add("<table><tr><th>field</th><th>type</th><th></th></tr>\n");
            self.rows(schema, "", DEPTH);
            self.add("</table>\n");
        }
        self.add("</article>\n");
    }

    /// The fields of an object, those of the objects inside it below them.
    fn rows(&mut self, schema: &Value, before: &str, depth: usize) {
        let required = items(&schema["required"]);
        for (name, property) in fields(&schema["properties"]) {
            let optional = if required.iter().any(|it| it == name) {
                ""
            } else {
                "?"
            };
            let full = format!("{before}{name}");
            self.add(&format!(
                "<tr><td><code>{}{optional}</code></td><td>{}</td><td>{}</td></tr>\n",
                escape(&full),
                type_of(property),
                prose(text(&property["description"]))
            ));
            if depth > 0 {
                self.rows(property, &format!("{full}."), depth - 1);
                self.rows(&property["items"], &format!("{full}[]."), depth - 1);
            }
        }
        for variant in items(&schema["oneOf"]) {
            let named = fields(&variant["properties"]);
            let kind = named.iter().find_map(|(_, it)| it["const"].as_str());
            let title = escape(kind.unwrap_or("one of"));
            let meaning = prose(text(&variant["description"]));
            self.add(&format!(
                "<tr><th colspan=\"2\">{}{title}</th><td>{meaning}</td></tr>\n",
                escape(before)
            ));
            self.rows(variant, before, depth);
        }
    }

    fn paragraphs(&mut self, text: &str) {
        for paragraph in text.split("\n\n").filter(|it| !it.is_empty()) {
            let paragraph = prose(paragraph);
            self.add(&format!("<p>{paragraph}</p>\n"));
        }
    }
}

/// The operations of a tag with their paths and methods.
fn operations<'a>(document: &'a Value, tag: &Value) -> Vec<(&'a str, &'a str, &'a Value)> {
    let mut found = Vec::new();
    for (path, methods) in fields(&document["paths"]) {
        for (method, operation) in fields(methods) {
            if items(&operation["tags"]).contains(tag) {
                found.push((path, method, operation));
            }
        }
    }
    found
}

/// What a search for an operation looks at.
fn searched(path: &str, method: &str, operation: &Value) -> String {
    let (id, summary) = (text(&operation["operationId"]), text(&operation["summary"]));
    let description = text(&operation["description"]);
    escape(&format!("{method} {path} {id} {summary} {description}").to_lowercase())
}

/// The type of a value in words.
fn type_of(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = escape(reference.rsplit('/').next().unwrap_or_default());
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    let any = items(&schema["anyOf"]).iter().map(type_of);
    let any = any.collect::<Vec<_>>().join(" or ");
    let mut words = match &schema["type"] {
        _ if !any.is_empty() => any,
        Value::String(name) => escape(name),
        Value::Array(names) => {
            let names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            escape(&names.join(" or "))
        }
        _ if schema.get("const").is_some() || schema.get("enum").is_some() => String::new(),
        _ => "any".to_owned(),
    };
    if schema["items"].is_object() && schema["items"].get("properties").is_none() {
        let _ = write!(words, " of {}", type_of(&schema["items"]));
    }
    let fixed = schema.get("const").map(std::slice::from_ref);
    let possible: Vec<String> = fixed
        .unwrap_or_else(|| items(&schema["enum"]))
        .iter()
        .map(|value| format!("<code>{}</code>", escape(&value.to_string())))
        .collect();
    if !possible.is_empty() {
        let _ = write!(words, " {}", possible.join(", "));
    }
    for (key, meaning) in [
        ("minLength", "at least"),
        ("maxLength", "at most"),
        ("minItems", "at least"),
        ("maxItems", "at most"),
        ("minimum", "from"),
        ("maximum", "to"),
        ("default", "default"),
        ("format", "as"),
    ] {
        if let Some(value) = schema.get(key).filter(|value| **value != "") {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            let _ = write!(words, ", {meaning} {}", escape(&value));
        }
    }
    words
}

/// Text with `code` in it.
fn prose(text: &str) -> String {
    let mut html = String::new();
    for (index, part) in text.split('`').enumerate() {
        if index % 2 == 1 {
            let _ = write!(html, "<code>{}</code>", escape(part));
        } else {
            html.push_str(&escape(part));
        }
    }
    html
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn fields(value: &Value) -> Vec<(&str, &Value)> {
    let object = value.as_object().into_iter().flatten();
    object.map(|(name, value)| (name.as_str(), value)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_of_the_document_becomes_markup() {
        let evil = "<script>alert(1)</script>\"";
        let document = json!({
            "info": {"title": evil, "version": evil, "description": evil},
            "servers": [{"url": evil}],
            "tags": [{"name": evil, "description": evil}],
            "paths": {(evil): {"get": {
                "tags": [evil], "operationId": evil, "summary": evil, "description": evil,
                "parameters": [{"name": evil, "in": evil, "schema": {"type": evil, "enum": [evil]}, "description": evil}],
                "requestBody": {"content": {(evil): {"schema": {"$ref": evil}, "example": {(evil): evil}}}},
                "responses": {(evil): {"description": evil, "content": {(evil): {"schema": {}}}}},
            }}},
            "components": {"schemas": {(evil): {"properties": {(evil): {"type": [evil], "default": evil}}}}},
        });
        let page = page(&document);
        assert!(page.contains("&lt;script&gt;alert(1)"));
        assert_eq!(page.matches("<script>").count(), 1, "only its own");
        assert!(!page.contains("</script>\""));
    }

    #[test]
    fn code_is_marked_in_prose() {
        assert_eq!(prose("a `b<` c"), "a <code>b&lt;</code> c");
    }
}
