//! Records as webhooks send them, from a seed: bodies in the shapes of a code forge, a payment service and a chat, and the
//! plain values that people send when they try something out.
//!
//! The same seed, number and connection give the same record always. Nothing of a record is kept: whoever needs it again
//! makes it again.

mod json;
mod shape;
mod text;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::client::{HOST_NAME, request};

pub(crate) use json::quoted;
pub use json::{Json, Step};

/// The header with the name of the record.
pub const RECORD_ID: &str = "X-Record-Id";
/// The header with the name of the connection that sent it.
pub const CONNECTION: &str = "X-Connection";
/// A header that only some records have.
pub const NOTE: &str = "X-Note";

/// One record of every so many is no JSON and must be refused.
const MALFORMED_EVERY: u32 = 150;
/// As many events of a connection are about the same thing. A record is for one of these ids, so that later ones update
/// the row of earlier ones in a table with a primary key.
const IDS: u32 = 30;

/// What a record says.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// A JSON value.
    Json(Json),
    /// Something that only looks like one.
    Malformed,
}

/// One record.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its number.
    pub index: u64,
    /// What it says.
    pub content: Content,
    /// The bytes that are sent.
    pub body: Bytes,
    /// The headers that are sent, by canonical name and sorted.
    pub headers: Vec<(&'static str, String)>,
}

impl Record {
    /// Makes record number `index`, which `connection` sends.
    #[must_use]
    pub fn new(seed: u64, index: u64, connection: u64) -> Self {
        let mixed = seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut rng = StdRng::seed_from_u64(mixed);
        let id = rng.random_range(0..IDS);
        let value = shape::value(&mut rng, &format!("evt_{id}"));
        let sent = value.sent(&mut rng);
        let (content, body) = if rng.random_ratio(1, MALFORMED_EVERY) {
            (Content::Malformed, damaged(&mut rng, &sent))
        } else {
            (Content::Json(value), sent)
        };
        let headers = headers(&mut rng, index, connection, body.len());
        Self {
            index,
            content,
            body: body.into(),
            headers,
        }
    }

    /// The name by which its rows are found.
    #[must_use]
    pub fn id(&self) -> String {
        self.index.to_string()
    }

    /// Whether it is no JSON.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.content == Content::Malformed
    }

    /// A header, if it has it.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(own, _)| *own == name)
            .map(|(_, value)| value.as_str())
    }

    /// A value of the body, if it has it.
    #[must_use]
    pub fn at(&self, steps: &[Step]) -> Option<&Json> {
        match &self.content {
            Content::Json(value) => value.at(steps),
            Content::Malformed => None,
        }
    }

    /// The request to be sent to the URL of a source.
    ///
    /// # Panics
    /// Never: the headers are valid.
    #[must_use]
    pub fn request(&self, path: &str) -> Request<Full<Bytes>> {
        let mut request = request(Method::POST, path, self.body.clone());
        for (name, value) in &self.headers {
            // The client computes the length, and `request` has set the host.
            if !["Content-Length", "Host"].contains(name) {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a valid header name");
                let value =
                    HeaderValue::from_bytes(value.as_bytes()).expect("a valid header value");
                request.headers_mut().insert(name, value);
            }
        }
        debug_assert!(request.headers().contains_key(CONTENT_TYPE));
        request
    }
}

fn headers(
    rng: &mut StdRng,
    index: u64,
    connection: u64,
    len: usize,
) -> Vec<(&'static str, String)> {
    let content_type = match rng.random_range(0..10) {
        0 => "application/vnd.example.event+json",
        1 => "Application/JSON; charset=\"utf-8\"",
        2 => "application/json;charset=UTF-8",
        _ => "application/json",
    };
    let mut headers = vec![
        ("Content-Length", len.to_string()),
        ("Content-Type", content_type.to_owned()),
        ("Host", HOST_NAME.to_owned()),
        (CONNECTION, connection.to_string()),
    ];
    if rng.random_ratio(1, 3) {
        headers.push((NOTE, text::header_value(rng)));
    }
    headers.push((RECORD_ID, index.to_string()));
    headers
}

/// Damages JSON so that it is none.
fn damaged(rng: &mut StdRng, text: &str) -> String {
    match rng.random_range(0..4) {
        0 => format!("{text},"),
        1 => format!("{{\"a\":{text}"),
        2 => format!("[{text} 1]"),
        _ => format!("{{'a':{text}}}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_record() {
        for index in 0..50 {
            let (a, b) = (Record::new(7, index, 1), Record::new(7, index, 1));
            assert_eq!((a.body, a.headers), (b.body, b.headers));
        }
        assert_ne!(Record::new(7, 3, 1).body, Record::new(8, 3, 1).body);
    }

    /// The value with all numbers as floats, because the parser takes 12e2 for another kind of number than 1200.
    fn with_floats(value: Value) -> Value {
        match value {
            Value::Number(number) => Value::from(number.as_f64()),
            Value::Array(items) => items.into_iter().map(with_floats).collect(),
            Value::Object(members) => members
                .into_iter()
                .map(|(name, value)| (name, with_floats(value)))
                .collect(),
            other => other,
        }
    }

    #[test]
    fn bodies_are_the_json_that_they_are_said_to_be() {
        for index in 0..600 {
            let record = Record::new(11, index, 0);
            let parsed: Result<Value, _> = serde_json::from_slice(&record.body);
            let Content::Json(value) = &record.content else {
                assert!(parsed.is_err(), "record {index} is JSON");
                continue;
            };
            let written = serde_json::from_str(&value.written()).expect("what is written is JSON");
            let parsed = parsed.expect("what is sent is JSON");
            assert_eq!(with_floats(parsed), with_floats(written), "record {index}");
        }
    }

    #[test]
    fn records_are_of_every_size_and_kind() {
        let records: Vec<_> = (0..4_000).map(|index| Record::new(3, index, 0)).collect();
        let sizes = |range: std::ops::Range<usize>| {
            records
                .iter()
                .filter(|record| range.contains(&record.body.len()))
                .count()
        };
        assert!(sizes(1..2) > 0, "one byte");
        assert!(sizes(200..5_000) > 2_000, "the usual size");
        assert!(sizes(50_000..400_000) > 5, "large");
        assert!(sizes(400_000..950_000) > 0, "the largest");
        assert_eq!(sizes(950_000..usize::MAX), 0, "none is over the limit");
        assert!(records.iter().any(Record::is_malformed));
        let kinds: BTreeSet<_> = records
            .iter()
            .filter_map(|record| record.at(&[Step::Key("type")]))
            .map(Json::written)
            .collect();
        assert!(kinds.len() > 8, "{kinds:?}");
    }
}
