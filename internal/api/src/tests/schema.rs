//! Holds values against the schemas of the description.
//!
//! Stricter than JSON Schema: an object may have no field that its schema does not name, and a schema no keyword that is not
//! known here. So a field that is served without being described fails, and so does a description that nothing checks.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use stream_model::Timestamp;

/// Keywords that say nothing about values.
const REMARKS: [&str; 6] = [
    "title",
    "description",
    "default",
    "examples",
    "$schema",
    "readOnly",
];
/// Formats of numbers that JSON does not tell apart.
const NUMBERS: [&str; 8] = [
    "uint", "uint8", "uint16", "uint32", "uint64", "int64", "int32", "double",
];

/// What a schema knows of an object's fields.
enum Known {
    /// Everything: it says nothing about fields.
    All,
    Fields(BTreeSet<String>),
}

/// Says where `value` is not what the schema describes. References are looked up in `document`.
pub(super) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    whole(document, schema, value, "")
}

/// Checks a value against all that is said about it.
fn whole(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let known = part(document, schema, value, at)?;
    let (Known::Fields(known), Some(fields)) = (known, value.as_object()) else {
        return Ok(());
    };
    match fields.keys().find(|name| !known.contains(*name)) {
        Some(unknown) => Err(format!("{at}/{unknown} is not described")),
        None => Ok(()),
    }
}

/// Checks a value against a part of what is said about it.
fn part(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<Known, String> {
    let Some(schema) = schema.as_object() else {
        return match schema {
            Value::Bool(true) => Ok(Known::All),
            _ => Err(format!("{at}: nothing is allowed by {schema}")),
        };
    };
    let mut known = BTreeSet::new();
    let mut says_fields = false;
    for (keyword, rule) in schema {
        let inner = match keyword.as_str() {
            "$ref" => Some(part(document, resolve(document, rule)?, value, at)?),
            "allOf" => Some(all_of(document, rule, value, at)?),
            "anyOf" => Some(some_of(document, rule, value, at, 1..=usize::MAX)?),
            "oneOf" => Some(some_of(document, rule, value, at, 1..=1)?),
            "properties" => Some(properties(document, schema, rule, value, at)?),
            "additionalProperties" => {
                let named = schema.get("properties").and_then(Value::as_object);
                additional(document, named, rule, value, at)?
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    whole(document, rule, item, &format!("{at}/{index}"))?;
                }
                None
            }
            _ => {
                simple(keyword, rule, value).map_err(|wrong| format!("{at}: {wrong}"))?;
                None
            }
        };
        match inner {
            Some(Known::Fields(fields)) => {
                says_fields = true;
                known.extend(fields);
            }
            Some(Known::All) => return Ok(Known::All),
            None => {}
        }
    }
    Ok(if says_fields {
        Known::Fields(known)
    } else {
        Known::All
    })
}

fn resolve<'a>(document: &'a Value, reference: &Value) -> Result<&'a Value, String> {
    let pointer = reference.as_str().and_then(|it| it.strip_prefix('#'));
    let found = pointer.and_then(|pointer| document.pointer(pointer));
    found.ok_or_else(|| format!("{reference} leads nowhere"))
}

fn all_of(document: &Value, rule: &Value, value: &Value, at: &str) -> Result<Known, String> {
    let mut known = BTreeSet::new();
    for schema in rule.as_array().into_iter().flatten() {
        match part(document, schema, value, at)? {
            Known::All => return Ok(Known::All),
            Known::Fields(fields) => known.extend(fields),
        }
    }
    Ok(Known::Fields(known))
}

/// So many of the schemas must fit.
fn some_of(
    document: &Value,
    rule: &Value,
    value: &Value,
    at: &str,
    count: std::ops::RangeInclusive<usize>,
) -> Result<Known, String> {
    let schemas = rule.as_array().into_iter().flatten();
    let (mut fitting, mut wrong) = (Vec::new(), Vec::new());
    for schema in schemas {
        // A variant that refuses unknown fields has to be asked as a whole.
        match part(document, schema, value, at) {
            Ok(known) => fitting.push(known),
            Err(error) => wrong.push(error),
        }
    }
    if !count.contains(&fitting.len()) {
        return Err(format!("{at}: {} variants fit; {wrong:?}", fitting.len()));
    }
    let mut all = BTreeSet::new();
    for known in fitting {
        match known {
            Known::All => return Ok(Known::All),
            Known::Fields(fields) => all.extend(fields),
        }
    }
    Ok(Known::Fields(all))
}

fn properties(
    document: &Value,
    schema: &Map<String, Value>,
    rule: &Value,
    value: &Value,
    at: &str,
) -> Result<Known, String> {
    let named = rule.as_object().expect("properties are an object");
    if let Some(fields) = value.as_object() {
        for (name, schema) in named {
            if let Some(field) = fields.get(name) {
                whole(document, schema, field, &format!("{at}/{name}"))?;
            }
        }
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !named.contains_key(name) {
                return Err(format!("{at}/{name} is required but not described"));
            }
        }
    }
    Ok(Known::Fields(named.keys().cloned().collect()))
}

fn additional(
    document: &Value,
    named: Option<&Map<String, Value>>,
    rule: &Value,
    value: &Value,
    at: &str,
) -> Result<Option<Known>, String> {
    let Some(fields) = value.as_object() else {
        return Ok(None);
    };
    let others = fields
        .iter()
        .filter(|(name, _)| !named.is_some_and(|named| named.contains_key(*name)));
    for (name, field) in others {
        whole(document, rule, field, &format!("{at}/{name}"))?;
    }
    let keys = fields.keys().cloned().collect();
    Ok((rule != &Value::Bool(false)).then_some(Known::Fields(keys)))
}

/// Keywords that look at the value alone.
fn simple(keyword: &str, rule: &Value, value: &Value) -> Result<(), String> {
    let text_len = value.as_str().map(|text| text.chars().count());
    let items = value.as_array().map(Vec::len);
    let limit = rule.as_u64().and_then(|limit| usize::try_from(limit).ok());
    let fits = match keyword {
        "type" => is_of_type(rule, value),
        "const" => value == rule,
        "enum" => rule.as_array().is_some_and(|it| it.contains(value)),
        "required" => {
            let names = rule.as_array().into_iter().flatten();
            let mut names = names.filter_map(Value::as_str);
            names.all(|name| value.as_object().is_none_or(|it| it.contains_key(name)))
        }
        "minLength" => text_len.is_none_or(|len| Some(len) >= limit),
        "maxLength" => text_len.is_none_or(|len| Some(len) <= limit),
        "minItems" => items.is_none_or(|len| Some(len) >= limit),
        "maxItems" => items.is_none_or(|len| Some(len) <= limit),
        "minimum" => value.as_f64().is_none_or(|it| Some(it) >= rule.as_f64()),
        "maximum" => value.as_f64().is_none_or(|it| Some(it) <= rule.as_f64()),
        "pattern" if rule == "^[0-9a-f]{16}$" => value.as_str().is_none_or(|it| {
            it.len() == 16 && it.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        }),
        "format" if rule == "date-time" => value
            .as_str()
            .is_none_or(|it| it.parse::<Timestamp>().is_ok()),
        "format" if NUMBERS.iter().any(|it| rule == it) => true,
        remark if REMARKS.contains(&remark) => true,
        unknown => return Err(format!("keyword {unknown:?} is not checked")),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("{value} does not fit {keyword} {rule}"))
    }
}

fn is_of_type(rule: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    match rule {
        Value::String(name) => is(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(is),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fits(schema: &Value, value: &Value) -> bool {
        let document = json!({"named": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}});
        check(&document, schema, value).is_ok()
    }

    #[test]
    fn objects_have_the_described_fields_and_no_others() {
        let named = json!({"$ref": "#/named"});
        assert!(fits(&named, &json!({"a": "x"})));
        for wrong in [
            json!({}),
            json!({"a": 1}),
            json!({"a": "x", "b": 1}),
            json!([]),
        ] {
            assert!(!fits(&named, &wrong), "{wrong}");
        }
        let both = json!({"allOf": [named, {"properties": {"b": {"enum": [1, 2]}}}]});
        assert!(fits(&both, &json!({"a": "x", "b": 2})));
        assert!(!fits(&both, &json!({"a": "x", "b": 3})));
        assert!(!fits(&both, &json!({"a": "x", "c": 1})));
        assert!(fits(&json!({"type": "object"}), &json!({"anything": 1})));
    }

    #[test]
    fn variants_maps_and_limits_are_checked() {
        let variant = |name: &str, field: &str| {
            json!({"type": "object", "properties": {"type": {"const": name}, (field): {"type": "integer"}},
                "required": ["type"], "additionalProperties": false})
        };
        let one = json!({"oneOf": [variant("x", "a"), variant("y", "b")]});
        assert!(fits(&one, &json!({"type": "x", "a": 1})));
        assert!(!fits(&one, &json!({"type": "x", "b": 1})));
        assert!(!fits(&one, &json!({"type": "z"})));
        let map = json!({"type": "object", "additionalProperties": {"type": "string"}});
        assert!(fits(&map, &json!({"k": "v"})));
        assert!(!fits(&map, &json!({"k": 1})));
        let text = json!({"type": "string", "minLength": 1, "maxLength": 2});
        assert!(fits(&text, &json!("éé")));
        assert!(!fits(&text, &json!("")) && !fits(&text, &json!("abc")));
        let time = json!({"type": "string", "format": "date-time"});
        assert!(fits(&time, &json!("2026-01-01T00:00:00.000Z")));
        assert!(!fits(&time, &json!("yesterday")));
        assert!(
            !fits(&json!({"multipleOf": 2}), &json!(2)),
            "not known here"
        );
        assert!(!fits(&json!({"$ref": "#/none"}), &json!(2)));
    }
}
