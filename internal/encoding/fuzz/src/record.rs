//! Records: every kind of column at once, the row compared byte for byte.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value, json};
use stream_encoding::{CompiledMapping, ContentType, MAX_ROW_LEN, MapError};

use super::json::{self as reference, Json, Step};
use super::{form, mapped, path};

/// Columns without anything to choose.
const PLAIN: [&str; 5] = ["uuid", "datetime", "ip", "body", "headers"];
/// Templates that do not look inside the body, and whether their texts lose their quotes.
const TEMPLATES: [(&str, bool); 6] = [
    ("HeaderStr()", true),
    ("Header('x-b', 'no \"x\"')", false),
    ("BodyStr()", false),
    ("Header()", true),
    ("Now('%Y-%j %s')", true),
    ("Ip()", false),
];

/// A column that looks inside the body.
struct Inside {
    path: &'static str,
    default: Option<&'static str>,
    raw: bool,
}

const fn inside(path: &'static str, default: Option<&'static str>, raw: bool) -> Inside {
    Inside { path, default, raw }
}

const INSIDE: &[Inside] = &[
    inside("", None, false),
    inside("", None, true),
    inside("a", Some("none"), false),
    inside("a", Some(""), true),
    inside("a.b", Some("\"\n,"), true),
    inside("a.b[0]", Some("x"), false),
    inside("a[1].b", Some("x"), true),
    inside("[0]", Some("x"), true),
    inside("[1][0].a", Some("x"), false),
    inside("b", Some("\u{e9}\u{0}"), true),
    // Only this one can reject the record.
    inside("c.c", None, true),
];

/// All columns, and all but the one that can reject.
static MAPPINGS: LazyLock<[CompiledMapping; 2]> = LazyLock::new(|| {
    let mut columns: Vec<Value> = PLAIN.map(|kind| json!({ "type": kind })).to_vec();
    columns.extend(TEMPLATES.map(|(content, raw)| {
        let template = json!({ "language": "jsonnet", "content": content });
        json!({ "type": "template", "template": template, "rawString": raw })
    }));
    columns.extend(INSIDE.iter().map(|column| {
        let mut json = json!({ "type": "path", "path": column.path, "rawString": column.raw });
        if let Some(default) = column.default {
            json["defaultValue"] = default.into();
        }
        json
    }));
    let strict = mapped::compile(&columns).expect("a valid mapping");
    columns.pop();
    [strict, mapped::compile(&columns).expect("a valid mapping")]
});

/// The first byte is the content type (`j`, `f`, anything else), then come lines `name:value` and, behind an empty line,
/// the body. Without an empty line all is body.
pub fn check(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    let content_type = match kind {
        b'j' => ContentType::Json,
        b'f' => ContentType::Form,
        _ => ContentType::Other,
    };
    let (headers, body) = match rest.windows(2).position(|window| window == b"\n\n") {
        Some(end) => (headers(&rest[..end]), &rest[end + 2..]),
        None => (Vec::new(), rest),
    };
    let record = mapped::record(content_type, &headers, body);
    let inside = match content_type {
        ContentType::Json => reference::parse(body),
        ContentType::Form => form::parse(body),
        ContentType::Other => None,
    };
    for (mapping, count) in MAPPINGS.iter().zip([INSIDE.len(), INSIDE.len() - 1]) {
        let result = mapped::map(mapping, &record, MAX_ROW_LEN);
        match &inside {
            Some(inside) => {
                let expected = expected(&headers, body, inside, &INSIDE[..count]);
                compare(result, &expected);
            }
            None if content_type == ContentType::Other => {
                let first = mapped::name(PLAIN.len() + TEMPLATES.len());
                assert_eq!(result, Err(MapError::NotStructured { column: first }));
            }
            None => assert!(
                matches!(result, Err(MapError::MalformedBody { .. })),
                "{result:?}"
            ),
        }
    }
}

fn headers(lines: &[u8]) -> Vec<(&str, &[u8])> {
    let line = |line| {
        let colon = <[u8]>::iter(line).position(|byte| *byte == b':')?;
        Some((
            std::str::from_utf8(&line[..colon]).ok()?,
            &line[colon + 1..],
        ))
    };
    lines
        .split(|byte| *byte == b'\n')
        .filter_map(line)
        .collect()
}

/// The values behind the UUID, up to the first that is missing.
fn expected(
    headers: &[(&str, &[u8])],
    body: &[u8],
    inside: &Json,
    columns: &[Inside],
) -> Vec<Option<String>> {
    let body = String::from_utf8_lossy(body).into_owned();
    let headers = first_headers(headers);
    let lines = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"));
    let own = headers.iter().find(|(name, _)| name == "X-B");
    let own = own.map_or("no \"x\"", |(_, value)| value);
    let members = headers.iter().cloned();
    let members = members.map(|(name, value)| (name, Json::Text(value)));
    let object = Json::Object(members.collect()).canonical();
    let plain = [
        mapped::ARRIVAL.to_owned(),
        mapped::CLIENT.to_owned(),
        body.clone(),
        object.clone(),
        lines.collect(),
        reference::quoted(own),
        reference::quoted(&body),
        object,
        "2006-002 1136214245".to_owned(),
        reference::quoted(mapped::CLIENT),
    ];
    let inside = columns.iter().map(|column| {
        let steps: Vec<Step> = path::parse(column.path).expect("a valid path");
        let default = column.default.map(|text| Json::Text(text.to_owned()));
        let value = inside.at(&steps).cloned().or(default)?;
        Some(if column.raw {
            value.raw()
        } else {
            value.canonical()
        })
    });
    plain.into_iter().map(Some).chain(inside).collect()
}

/// Canonical names in their order, and the first value of each.
fn first_headers(headers: &[(&str, &[u8])]) -> Vec<(String, String)> {
    let mut canonical = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value).into_owned();
        canonical.entry(canonical_name(name)).or_insert(value);
    }
    canonical.into_iter().collect()
}

fn canonical_name(name: &str) -> String {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if !name.chars().all(is_token) {
        return name.to_owned();
    }
    let word = |word: &str| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + &rest.to_ascii_lowercase()
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

fn compare(result: Result<Vec<u8>, MapError>, expected: &[Option<String>]) {
    let missing = expected.iter().position(Option::is_none);
    let whole: Option<Vec<String>> = expected.iter().cloned().collect();
    match (result, whole) {
        (Ok(row), Some(mut values)) => {
            let id = mapped::values(&row).swap_remove(0);
            assert!(is_uuid(&id), "{id}");
            values.insert(0, id);
            assert_eq!(row, mapped::row(&values));
        }
        (Err(MapError::MissingPath { column, .. }), None) => {
            let position = missing.expect("not whole") + 1;
            assert_eq!(column, mapped::name(position));
        }
        (Err(MapError::RowTooLong { limit }), whole) => {
            // Values behind one that is missing do not count.
            let before = expected.iter().map_while(Clone::clone).collect();
            let len = mapped::row(&whole.unwrap_or(before)).len() + "\"\",".len() + 36;
            assert!(len > limit, "a row of {len} bytes is too long");
        }
        (result, whole) => panic!("{result:?} but {whole:?}"),
    }
}

fn is_uuid(id: &str) -> bool {
    let parts: Vec<_> = id.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12]
        && id
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}
