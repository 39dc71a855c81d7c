//! The CSV is exactly the one of the contract, whatever the records hold: no header, every value quoted, quotes doubled,
//! commas between values, a line feed behind each row. It is compared byte for byte with a writer of three lines, and read
//! by the `csv` crate with its defaults and by our own reader with the input cut anywhere.

use proptest::prelude::*;
use serde_json::{Value, json};
use stream_encoding::{ContentType, Encoder, Record, Rows};
use stream_model::level::Compression;

use crate::targets::{mapped, rows};

/// Bytes that are hard on a CSV writer, and any others.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let hard = prop::sample::select(vec![
        b"\"".to_vec(),
        b"\"\"".to_vec(),
        b",".to_vec(),
        b"\n".to_vec(),
        b"\r\n".to_vec(),
        b"\r".to_vec(),
        b"\0".to_vec(),
        b"\\".to_vec(),
        b"\xef\xbb\xbf".to_vec(),
        b"\xff".to_vec(),
        b"\xc3".to_vec(),
        "é€😀\u{2028}".as_bytes().to_vec(),
        b"#; \t".to_vec(),
        b"=1+1".to_vec(),
    ]);
    let pieces = prop_oneof![4 => hard, 1 => prop::collection::vec(any::<u8>(), 0..12)];
    prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
}

fn text() -> impl Strategy<Value = String> {
    bytes().prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A record, as its two parts that a sender chooses.
#[derive(Debug, Clone)]
struct Sent {
    body: Body,
    header: Vec<u8>,
}

#[derive(Debug, Clone)]
enum Body {
    /// Bytes in which nothing is looked for.
    Any(Vec<u8>),
    /// A JSON object with this text as its member `a`.
    Json(String),
    /// A form with the same.
    Form(String),
}

fn sent() -> impl Strategy<Value = Sent> {
    let body = prop_oneof![text().prop_map(Body::Json), text().prop_map(Body::Form)];
    (body, bytes()).prop_map(|(body, header)| Sent { body, header })
}

impl Sent {
    fn record(&self) -> Record {
        let headers = [("x-b", self.header.as_slice())];
        mapped::record(self.body.content_type(), &headers, &self.body.bytes())
    }

    fn header(&self) -> String {
        String::from_utf8_lossy(&self.header).into_owned()
    }
}

impl Body {
    fn content_type(&self) -> ContentType {
        match self {
            Self::Any(_) => ContentType::Other,
            Self::Json(_) => ContentType::Json,
            Self::Form(_) => ContentType::Form,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Any(bytes) => bytes.clone(),
            Self::Json(text) => json!({ "z": [1], "a": text }).to_string().into_bytes(),
            Self::Form(text) => {
                let escaped = text.bytes().map(|byte| format!("%{byte:02x}"));
                format!("z=1&a={}", escaped.collect::<String>()).into_bytes()
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

fn template(content: &str, raw: bool) -> Value {
    let template = json!({ "language": "jsonnet", "content": content });
    json!({ "type": "template", "template": template, "rawString": raw })
}

/// Maps all records, compares the bytes, and reads them back in every way.
fn prove(columns: &[Value], records: &[Record], expected: &[Vec<String>], step: usize, cut: usize) {
    let mapping = mapped::compile(columns).expect("a valid mapping");
    let mut text = Rows::new();
    for record in records {
        mapping
            .map(record, &mut text, &mut || [0; 10])
            .expect("a row");
    }
    let written: Vec<u8> = expected.iter().flat_map(|row| mapped::row(row)).collect();
    let shown = || String::from_utf8_lossy(text.as_bytes()).into_owned();
    assert_eq!(text.as_bytes(), written, "{:?}", shown());
    // The defaults of the reader, but that it must not take the first row for a header.
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(text.as_bytes());
    let read: Vec<Vec<String>> = reader.deserialize().map(|row| row.expect("CSV")).collect();
    assert_eq!(read, expected);
    let bytes = |row: &Vec<String>| row.iter().map(|value| value.clone().into_bytes()).collect();
    let table: rows::Table = expected.iter().map(bytes).collect();
    let (first, second) = text.as_bytes().split_at(cut % (text.len() + 1));
    for codec in [
        Compression::None,
        Compression::Gzip { level: 1 },
        Compression::Zstd { level: 1 },
    ] {
        let mut encoder = Encoder::new(codec);
        let frames = [first, second].map(|part| encoder.frame(part).expect("memory"));
        let read = rows::read(codec, columns.len(), &frames.concat(), step);
        assert_eq!(read, (table.clone(), None), "{codec:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn of_bytes_that_are_not_looked_into(
        bodies in prop::collection::vec((bytes(), bytes()), 1..5),
        step in 1..40_usize,
        cut in any::<usize>(),
    ) {
        let columns = [
            json!({ "type": "ip" }),
            json!({ "type": "body" }),
            json!({ "type": "datetime" }),
            json!({ "type": "headers" }),
            template("Header('X-B')", true),
            template("BodyStr()", false),
            template("HeaderStr()", true),
        ];
        let sent: Vec<_> = bodies
            .into_iter()
            .map(|(body, header)| Sent { body: Body::Any(body), header })
            .collect();
        let expected = |sent: &Sent| {
            let (body, header) = (sent.body.text(), sent.header());
            vec![
                mapped::CLIENT.to_owned(),
                body.clone(),
                mapped::ARRIVAL.to_owned(),
                json!({ "X-B": header }).to_string(),
                header.clone(),
                json!(body).to_string(),
                format!("X-B: {header}\n"),
            ]
        };
        let records: Vec<_> = sent.iter().map(Sent::record).collect();
        let expected: Vec<_> = sent.iter().map(expected).collect();
        prove(&columns, &records, &expected, step, cut);
    }

    #[test]
    fn of_values_inside_bodies_and_defaults(
        sent in prop::collection::vec(sent(), 1..5),
        default in text(),
        step in 1..40_usize,
        cut in any::<usize>(),
    ) {
        let path = |path: &str, raw: bool| json!({
            "type": "path", "path": path, "rawString": raw, "defaultValue": default,
        });
        let columns = [path("a", true), path("a", false), path("b", true), path("b", false)];
        let expected = |sent: &Sent| {
            let (Body::Json(text) | Body::Form(text)) = &sent.body else {
                panic!("all have an inside");
            };
            vec![text.clone(), json!(text).to_string(), default.clone(), json!(default).to_string()]
        };
        let records: Vec<_> = sent.iter().map(Sent::record).collect();
        let expected: Vec<_> = sent.iter().map(expected).collect();
        prove(&columns, &records, &expected, step, cut);
    }
}
