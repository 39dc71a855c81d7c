//! Paths, against a parser that goes character by character and serde_json.

use serde_json::{Value, json};
use stream_encoding::{ContentType, MAX_ROW_LEN, MapError};

use super::json::{self, Json, MAX_DEPTH, Step};
use super::mapped;

const DEFAULT: &str = "a \"default\",\n\u{e9}\u{1}";

/// The first line of the input is a path, the rest a body.
pub fn check(input: &[u8]) {
    let end = input
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(input.len());
    let Ok(path) = std::str::from_utf8(&input[..end]) else {
        return;
    };
    let body = input.get(end + 1..).unwrap_or_default();
    let column = |raw: bool| json!({ "type": "path", "path": path, "rawString": raw });
    let with_default = |raw: bool| {
        let mut column = column(raw);
        column["defaultValue"] = Value::from(DEFAULT);
        column
    };
    let strict = mapped::compile(&[column(false)]);
    let lenient = mapped::compile(&[with_default(false), with_default(true)]);
    let (strict, lenient, steps) = match (strict, lenient, parse(path)) {
        (Ok(strict), Ok(lenient), Some(steps)) => (strict, lenient, steps),
        (Err(_), Err(_), None) => return,
        (strict, _, steps) => panic!("{path:?} is {strict:?} but {steps:?}"),
    };
    let record = mapped::record(ContentType::Json, &[], body);
    let (strict, lenient) = (
        mapped::map(&strict, &record, MAX_ROW_LEN),
        mapped::map(&lenient, &record, MAX_ROW_LEN),
    );
    let Some(body) = json::parse(body) else {
        assert!(
            matches!(strict, Err(MapError::MalformedBody { .. })),
            "{strict:?}"
        );
        assert!(
            matches!(lenient, Err(MapError::MalformedBody { .. })),
            "{lenient:?}"
        );
        return;
    };
    match body.at(&steps) {
        Some(value) => {
            assert_eq!(
                mapped::values(&strict.expect("it is there")),
                [value.canonical()]
            );
            let both = [value.canonical(), value.raw()];
            assert_eq!(mapped::values(&lenient.expect("it is there")), both);
        }
        None => {
            let missing = matches!(&strict, Err(MapError::MissingPath { column, path: named }) if column == "c0" && named == path);
            assert!(missing, "{strict:?}");
            let both = [
                Json::Text(DEFAULT.to_owned()).canonical(),
                DEFAULT.to_owned(),
            ];
            assert_eq!(mapped::values(&lenient.expect("there is a default")), both);
        }
    }
}

/// Reads a path. None when it is not one.
pub fn parse(path: &str) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut chars = path.chars().peekable();
    // Whether a name has to come, as behind a dot.
    let mut name_due = false;
    while chars.peek().is_some() || name_due {
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| !matches!(c, '.' | '[')) {
            name.push(c);
        }
        if name.contains(']') || (name.is_empty() && (name_due || chars.peek() != Some(&'['))) {
            return None;
        }
        if !name.is_empty() {
            steps.push(Step::Key(name));
        }
        while chars.next_if_eq(&'[').is_some() {
            let mut number = String::new();
            while let Some(c) = chars.next_if(char::is_ascii_digit) {
                number.push(c);
            }
            chars.next_if_eq(&']')?;
            steps.push(Step::Index(number.parse().ok()?));
        }
        name_due = chars.next_if_eq(&'.').is_some();
        if !name_due && chars.peek().is_some() {
            return None;
        }
    }
    (steps.len() <= MAX_DEPTH).then_some(steps)
}
