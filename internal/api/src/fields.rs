//! Reading the JSON of a request field by field, so that a refusal names the field and what it should be.
//!
//! Deserialising into structs would be shorter, but its errors know neither the path of a field nor which name a typing
//! error was meant to be.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{ApiError, Code};

/// An object of a request. Fields are taken out one by one; [`finish`](Self::finish) refuses what is left.
#[derive(Debug)]
#[must_use = "call finish, or unknown fields go unnoticed"]
pub(crate) struct Fields {
    path: String,
    fields: Map<String, Value>,
    asked: Vec<&'static str>,
}

impl Fields {
    /// The object that is the body of a request.
    pub(crate) fn of_body(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::new(
                Code::MissingField,
                "The body is missing: send a JSON object.",
            ));
        }
        let value = serde_json::from_slice(body).map_err(|error| {
            ApiError::bad_request(format!("The body is not valid JSON: {error}."))
        })?;
        Self::of_value("body".to_owned(), value)
    }

    /// The object at `path`.
    pub(crate) fn of_value(path: String, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(fields) => Ok(Self {
                path,
                fields,
                asked: Vec::new(),
            }),
            other => Err(wrong_type(&path, "an object", &other)),
        }
    }

    /// The full name of a field, for messages.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// The value of a field. `null` counts as absent.
    pub(crate) fn optional(&mut self, name: &'static str) -> Option<Value> {
        self.nullable(name).filter(|value| !value.is_null())
    }

    /// The value of a field, where `null` means something.
    pub(crate) fn nullable(&mut self, name: &'static str) -> Option<Value> {
        self.asked.push(name);
        self.fields.remove(name)
    }

    /// The value of a field that must be there.
    pub(crate) fn required(&mut self, name: &'static str) -> Result<Value, ApiError> {
        self.optional(name).ok_or_else(|| self.missing(name))
    }

    /// Says that a field is missing.
    pub(crate) fn missing(&self, name: &str) -> ApiError {
        let path = self.path(name);
        ApiError::new(Code::MissingField, format!("Field {path:?} is missing."))
    }

    /// A text that must be there, with so many characters.
    pub(crate) fn text(
        &mut self,
        name: &'static str,
        len: RangeInclusive<usize>,
    ) -> Result<String, ApiError> {
        let value = self.required(name)?;
        text(&self.path(name), value, len)
    }

    /// A text, if it is there, with so many characters.
    pub(crate) fn optional_text(
        &mut self,
        name: &'static str,
        len: RangeInclusive<usize>,
    ) -> Result<Option<String>, ApiError> {
        let value = self.optional(name);
        value
            .map(|value| text(&self.path(name), value, len))
            .transpose()
    }

    /// True or false; false when absent.
    pub(crate) fn flag(&mut self, name: &'static str) -> Result<bool, ApiError> {
        match self.optional(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(other) => Err(wrong_type(&self.path(name), "true or false", &other)),
        }
    }

    /// An object that must be there.
    pub(crate) fn object(&mut self, name: &'static str) -> Result<Self, ApiError> {
        let value = self.required(name)?;
        Self::of_value(self.path(name), value)
    }

    /// A list that must be there, with so many items.
    pub(crate) fn list(
        &mut self,
        name: &'static str,
        len: RangeInclusive<usize>,
    ) -> Result<Vec<Value>, ApiError> {
        let value = self.required(name)?;
        list(&self.path(name), value, len)
    }

    /// Refuses fields that nobody asked for: a typing error must not be taken for an absent field.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        let Some(unknown) = self.fields.keys().next() else {
            return Ok(());
        };
        let path = self.path(unknown);
        let known = quoted_list(self.asked.iter().copied());
        Err(ApiError::bad_request(format!(
            "There is no field {path:?}; the fields here are {known}."
        )))
    }
}

/// A list with so many items.
pub(crate) fn list(
    path: &str,
    value: Value,
    len: RangeInclusive<usize>,
) -> Result<Vec<Value>, ApiError> {
    let items = match value {
        Value::Array(items) => items,
        other => return Err(wrong_type(path, "a list", &other)),
    };
    if !len.contains(&items.len()) {
        let (min, max, has) = (len.start(), len.end(), items.len());
        let message = format!("{path:?} must have {min} to {max} items, not {has}.");
        return Err(ApiError::new(Code::InvalidLength, message));
    }
    Ok(items)
}

/// A text with so many characters.
pub(crate) fn text(
    path: &str,
    value: Value,
    len: RangeInclusive<usize>,
) -> Result<String, ApiError> {
    let text = match value {
        Value::String(text) => text,
        other => return Err(wrong_type(path, "a text", &other)),
    };
    let has = text.chars().count();
    if !len.contains(&has) {
        let message = match *len.start() {
            0 => format!(
                "{path:?} must have at most {} characters, not {has}.",
                len.end()
            ),
            min => format!(
                "{path:?} must have {min} to {} characters, not {has}.",
                len.end()
            ),
        };
        return Err(ApiError::new(Code::InvalidLength, message));
    }
    Ok(text)
}

/// One of a few texts. `other` is what was sent.
pub(crate) fn not_one_of<'a>(
    path: &str,
    other: &str,
    possible: impl Iterator<Item = &'a str>,
) -> ApiError {
    let possible = quoted_list(possible);
    // A long value would hide the sentence.
    let other: String = other.chars().take(100).collect();
    let message = format!("{path:?} must be one of {possible}, not {other:?}.");
    ApiError::new(Code::InvalidEnumValue, message)
}

/// `"a", "b", "c"`.
pub(crate) fn quoted_list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn wrong_type(path: &str, expected: &str, value: &Value) -> ApiError {
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    ApiError::new(
        Code::InvalidFieldType,
        format!("{path:?} must be {expected}, not {is}."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(json: &str) -> Fields {
        Fields::of_body(json.as_bytes()).expect("an object")
    }

    #[test]
    fn a_field_that_nobody_asked_for_is_named_with_the_known_ones() {
        let mut body = fields(r#"{"name":"x","descripton":"y"}"#);
        body.text("name", 1..=5).expect("given");
        body.optional_text("description", 0..=5)
            .expect("absent is fine");
        let error = body.finish().expect_err("a typing error");
        assert_eq!(
            error.message,
            r#"There is no field "body.descripton"; the fields here are "name", "description"."#
        );
    }

    #[test]
    fn each_refusal_has_its_name() {
        let mut body = fields(r#"{"n":5,"e":"","l":[],"t":{"x":true},"z":null}"#);
        assert_eq!(
            body.text("n", 1..=9).expect_err("a number").code,
            Code::InvalidFieldType
        );
        assert_eq!(
            body.text("e", 1..=9).expect_err("empty").code,
            Code::InvalidLength
        );
        assert_eq!(
            body.list("l", 1..=9).expect_err("empty").code,
            Code::InvalidLength
        );
        assert_eq!(
            body.text("z", 0..=9).expect_err("null").code,
            Code::MissingField
        );
        let mut inner = body.object("t").expect("an object");
        assert_eq!(
            inner.text("y", 1..=9).expect_err("absent").message,
            r#"Field "body.t.y" is missing."#
        );
        assert_eq!(inner.flag("x"), Ok(true));
        assert_eq!(inner.finish(), Ok(()));
        assert_eq!(body.finish(), Ok(()));
    }

    #[test]
    fn bodies_that_are_no_object_are_refused() {
        assert_eq!(
            Fields::of_body(b"").expect_err("empty").code,
            Code::MissingField
        );
        assert_eq!(
            Fields::of_body(b"{").expect_err("cut").code,
            Code::BadRequest
        );
        assert_eq!(
            Fields::of_body(b"[]").expect_err("a list").code,
            Code::InvalidFieldType
        );
        assert_eq!(
            Fields::of_body(b"\xff").expect_err("no text").code,
            Code::BadRequest
        );
    }
}
