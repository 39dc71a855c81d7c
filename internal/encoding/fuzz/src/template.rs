//! Templates: what must hold for every one that compiles, whatever language it needs.

use serde_json::json;
use stream_encoding::{CompileError, CompiledMapping, ContentType, MAX_ROW_LEN};

use super::mapped;
use super::{json as reference, path};

/// What separates a template from the body.
const SEPARATOR: &[u8] = b"\n--\n";

/// The input is a template, and behind a line with `--` a body.
pub fn check(input: &[u8]) {
    let cut = input
        .windows(SEPARATOR.len())
        .position(|window| window == SEPARATOR);
    let cut = cut.unwrap_or(input.len());
    let Ok(content) = std::str::from_utf8(&input[..cut]) else {
        return;
    };
    let body = input.get(cut + SEPARATOR.len()..).unwrap_or_default();
    let mapping = match compile(content) {
        Ok(mapping) => mapping,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let record = mapped::record(
        ContentType::Json,
        &[("x-b", b"say \"hi\""), ("accept", b"\xff")],
        body,
    );
    let values = mapped::map(&mapping, &record, MAX_ROW_LEN).map(|row| mapped::values(&row));
    if let Ok(values) = &values {
        let value =
            reference::parse(values[0].as_bytes()).expect("without rawString a value is JSON");
        assert_eq!(value.canonical(), values[0], "in its one form");
        assert_eq!(
            value.raw(),
            values[1],
            "and rawString takes the quotes off a text"
        );
    }
    // Space around it means nothing.
    if let Ok(spaced) = compile(&format!(" \t{content}\r\n")) {
        assert_eq!(
            mapped::map(&spaced, &record, MAX_ROW_LEN).map(|row| mapped::values(&row)),
            values
        );
    }
    if let Some(path) = simple_path(content) {
        let column = |raw: bool| json!({ "type": "path", "path": path, "rawString": raw });
        let mapping = mapped::compile(&[column(false), column(true)])
            .expect("the template has the same path");
        let by_path = mapped::map(&mapping, &record, MAX_ROW_LEN).map(|row| mapped::values(&row));
        assert_eq!(by_path, values, "Body('…') is a path column");
    }
}

fn compile(content: &str) -> Result<CompiledMapping, CompileError> {
    let template = json!({ "language": "jsonnet", "content": content });
    let column = |raw: bool| json!({ "type": "template", "template": template, "rawString": raw });
    mapped::compile(&[column(false), column(true)])
}

/// The path of `Body('…')`, if it has no escapes.
fn simple_path(content: &str) -> Option<&str> {
    let path = content.strip_prefix("Body('")?.strip_suffix("')")?;
    let plain = !path.contains(['\'', '\\']);
    (plain && path::parse(path).is_some()).then_some(path)
}
