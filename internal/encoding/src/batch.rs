//! A body with many records, taken apart.
//!
//! | format | a record is |
//! |---|---|
//! | lines | a line that is not blank, read as JSON (<https://github.com/ndjson/ndjson-spec>) |
//! | array | an item of a JSON array |
//! | CSV | a row behind the header row, as a JSON object of strings (RFC 4180) |
//!
//! Only what separates the records is judged here. A line that is not JSON is a record like any other until a mapping looks
//! into it. An array must be JSON from its first to its last byte, because otherwise nobody knows where its items end. A row
//! of CSV with too few or too many values is an item that is no record.
//!
//! The records of lines and arrays share the memory of the body. Rows of CSV are written anew, with the names of the header
//! in each of them, so their total is limited.

use bytes::Bytes;
use csv::ByteRecord;

use crate::canonical::push_json_string;
use crate::error::MapError;
use crate::scan;

/// How the records of a body are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchFormat {
    /// A record a line.
    Lines,
    /// A JSON array.
    Array,
    /// CSV with a header row.
    Csv,
}

/// What a batch may have.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// The most records.
    pub records: usize,
    /// The most bytes that rows of CSV may take as JSON.
    pub csv_as_json_bytes: usize,
}

/// A body that cannot be taken apart. The texts go back to the sender and never quote the body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// Too many records.
    #[error("the batch has more than {limit} records")]
    TooManyRecords {
        /// The limit.
        limit: usize,
    },
    /// The array is not one.
    #[error("the body cannot be read as a JSON array: {message}")]
    NotAnArray {
        /// What is wrong, and where.
        message: String,
    },
    /// The header row names nothing, or one thing twice.
    #[error("the header row of the CSV {problem}")]
    Header {
        /// What is wrong.
        problem: String,
    },
    /// Rows and header together are too much.
    #[error(
        "the rows of the CSV take more than {limit} bytes with the names of the header; send fewer rows or shorter names"
    )]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

/// An item of a batch that is no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Why.
    pub error: MapError,
    /// The item as it came, without the line end.
    pub bytes: Bytes,
}

/// The items of a batch: the JSON of a record, or what is none.
type Items = Vec<Result<Bytes, Malformed>>;

impl BatchFormat {
    /// The format of a request, by its header `Content-Type` and whether its URL says `batch=true`. None: one record.
    #[must_use]
    pub fn of(content_type: Option<&str>, asked_for: bool) -> Option<Self> {
        let media_type = content_type.unwrap_or("").split(';').next().unwrap_or("");
        let is = |name: &str| media_type.trim().eq_ignore_ascii_case(name);
        if is("application/x-ndjson") {
            Some(Self::Lines)
        } else if is("text/csv") {
            // A single record has no format in which it could be CSV with a header.
            Some(Self::Csv)
        } else if asked_for && is("application/json") {
            Some(Self::Array)
        } else {
            None
        }
    }

    /// Takes a body apart. An item is the JSON of a record, or why it is none.
    ///
    /// # Errors
    /// When it is not clear what the records are, or there are too many.
    pub fn split(
        self,
        body: &Bytes,
        limits: BatchLimits,
    ) -> Result<Vec<Result<Bytes, Malformed>>, BatchError> {
        match self {
            Self::Lines => lines(body, limits.records),
            Self::Array => array(body, limits.records),
            Self::Csv => rows(body, limits),
        }
    }
}

fn lines(body: &Bytes, limit: usize) -> Result<Items, BatchError> {
    let mut records = Vec::new();
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', body).chain(std::iter::once(body.len()));
    for end in ends {
        let line = start..end;
        start = (end + 1).min(body.len());
        if body[line.clone()].iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if records.len() == limit {
            return Err(BatchError::TooManyRecords { limit });
        }
        records.push(Ok(body.slice(line)));
    }
    Ok(records)
}

fn array(body: &Bytes, limit: usize) -> Result<Items, BatchError> {
    let items = scan::items(body, limit).map_err(|error| BatchError::NotAnArray {
        message: error.to_string(),
    })?;
    let items = items.ok_or(BatchError::TooManyRecords { limit })?;
    Ok(items.into_iter().map(|item| Ok(body.slice(item))).collect())
}

/// What rows of CSV become: one text with the objects of all of them.
struct Objects {
    /// The names of the header as JSON strings, each with its colon.
    names: Vec<String>,
    text: String,
    limit: usize,
}

impl Objects {
    fn begin(header: &ByteRecord, limit: usize) -> Result<Self, BatchError> {
        let wrong = |problem: String| Err(BatchError::Header { problem });
        let mut names = Vec::with_capacity(header.len());
        for (position, name) in header.iter().enumerate() {
            let mut json = String::new();
            push_json_string(&mut json, &String::from_utf8_lossy(name));
            json.push(':');
            if name.is_empty() {
                return wrong(format!("has no name for value {}", position + 1));
            }
            if names.contains(&json) {
                return wrong(format!(
                    "has value {} under a name that it has before",
                    position + 1
                ));
            }
            names.push(json);
        }
        Ok(Self {
            names,
            text: String::new(),
            limit,
        })
    }

    /// Adds a row. Returns the place of its object.
    fn push(&mut self, row: &ByteRecord) -> Result<std::ops::Range<usize>, BatchError> {
        let start = self.text.len();
        for (position, (name, value)) in self.names.iter().zip(row).enumerate() {
            self.text.push(if position == 0 { '{' } else { ',' });
            self.text.push_str(name);
            push_json_string(&mut self.text, &String::from_utf8_lossy(value));
        }
        self.text.push('}');
        if self.text.len() > self.limit {
            return Err(BatchError::TooLarge { limit: self.limit });
        }
        Ok(start..self.text.len())
    }
}

fn rows(body: &Bytes, limits: BatchLimits) -> Result<Items, BatchError> {
    // A byte order mark is not a part of the first name.
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(text);
    let mut row = ByteRecord::new();
    // Memory is read and any bytes are values: there is nothing that could fail.
    let mut end = 0;
    let mut next = |row: &mut ByteRecord| {
        let start = end;
        let found = reader.read_byte_record(row).unwrap_or(false);
        end = usize::try_from(reader.position().byte())
            .unwrap_or(text.len())
            .min(text.len());
        found.then(|| start.min(end)..end)
    };
    if next(&mut row).is_none() {
        let problem = "is missing".to_owned();
        return Err(BatchError::Header { problem });
    }
    let mut objects = Objects::begin(&row, limits.csv_as_json_bytes)?;
    let mut places = Vec::new();
    while let Some(place) = next(&mut row) {
        if places.len() == limits.records {
            let limit = limits.records;
            return Err(BatchError::TooManyRecords { limit });
        }
        let (values, names) = (row.len(), objects.names.len());
        places.push(if values == names {
            Ok(objects.push(&row)?)
        } else {
            let message = format!("the row has {values} values and the header has {names}");
            let bytes = body.slice_ref(without_line_ends(&text[place]));
            Err(Malformed {
                error: MapError::MalformedBody { message },
                bytes,
            })
        });
    }
    let text = Bytes::from(objects.text);
    Ok(places
        .into_iter()
        .map(|place| place.map(|place| text.slice(place)))
        .collect())
}

/// A row without the blank lines before it and without its own line end.
fn without_line_ends(row: &[u8]) -> &[u8] {
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let start = row.iter().take_while(|byte| is_end(byte)).count();
    let row = &row[start..];
    let row = row.strip_suffix(b"\n").unwrap_or(row);
    row.strip_suffix(b"\r").unwrap_or(row)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scan::tests::json_value;

    const LIMITS: BatchLimits = BatchLimits {
        records: 5,
        csv_as_json_bytes: 1000,
    };

    fn split(
        format: BatchFormat,
        body: &[u8],
    ) -> Result<Vec<Result<String, Malformed>>, BatchError> {
        let items = format.split(&Bytes::copy_from_slice(body), LIMITS)?;
        let text = |item: Bytes| String::from_utf8_lossy(&item).into_owned();
        Ok(items.into_iter().map(|item| item.map(text)).collect())
    }

    fn records(format: BatchFormat, body: &str) -> Vec<String> {
        let items = split(format, body.as_bytes()).expect("it can be taken apart");
        let items = items.into_iter();
        items.map(|item| item.expect("a record")).collect()
    }

    #[test]
    fn the_content_type_tells_the_format() {
        use BatchFormat::{Array, Csv, Lines};
        for (content_type, asked_for, format) in [
            ("application/x-ndjson", false, Some(Lines)),
            ("Application/X-NDJSON; charset=utf-8", true, Some(Lines)),
            ("text/csv", false, Some(Csv)),
            ("text/csv;header=present", true, Some(Csv)),
            ("application/json", true, Some(Array)),
            ("application/json; charset=utf-8", true, Some(Array)),
            ("application/json", false, None),
            ("application/vnd.api+json", true, None),
            ("text/plain", true, None),
            ("", true, None),
        ] {
            assert_eq!(
                BatchFormat::of(Some(content_type), asked_for),
                format,
                "{content_type}"
            );
        }
        assert_eq!(BatchFormat::of(None, true), None);
    }

    #[test]
    fn lines_are_records_and_blank_ones_are_not() {
        let body = "{\"a\":1}\r\n\n  \n[not json\n\"last\"";
        let expected = ["{\"a\":1}\r", "[not json", "\"last\""];
        assert_eq!(records(BatchFormat::Lines, body), expected);
        assert_eq!(records(BatchFormat::Lines, ""), Vec::<String>::new());
        assert_eq!(records(BatchFormat::Lines, "\n"), Vec::<String>::new());
    }

    #[test]
    fn items_of_an_array_are_records() {
        let body = " [ {\"a\":[1,2]} , \"]\" ,3,null,[ ] ] ";
        let expected = ["{\"a\":[1,2]}", "\"]\"", "3", "null", "[ ]"];
        assert_eq!(records(BatchFormat::Array, body), expected);
        assert_eq!(records(BatchFormat::Array, "[]"), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_an_array_has_no_records() {
        for body in ["", "{}", "1", "[1", "[1,]", "[1] 2", "[1,{\"a\"}]"] {
            let result = split(BatchFormat::Array, body.as_bytes());
            assert!(
                matches!(result, Err(BatchError::NotAnArray { .. })),
                "{body} {result:?}"
            );
        }
        let deep = "[".repeat(scan::MAX_DEPTH + 1);
        assert!(split(BatchFormat::Array, deep.as_bytes()).is_err());
    }

    #[test]
    fn rows_become_objects_of_strings() {
        let body =
            "\u{feff}id,\"full \"\"name\"\"\"\r\n1,\"Ada, \nCountess\"\r\n\r\n\"2\n\"\r\n3,\n";
        let items = split(BatchFormat::Csv, body.as_bytes()).expect("it can be taken apart");
        let message = "the row has 1 values and the header has 2".to_owned();
        assert_eq!(
            items,
            [
                Ok(r#"{"id":"1","full \"name\"":"Ada, \nCountess"}"#.to_owned()),
                Err(Malformed {
                    error: MapError::MalformedBody { message },
                    bytes: Bytes::from_static(b"\"2\n\""),
                }),
                Ok(r#"{"id":"3","full \"name\"":""}"#.to_owned()),
            ]
        );
        assert_eq!(records(BatchFormat::Csv, "a,b\n"), Vec::<String>::new());
    }

    #[test]
    fn a_header_must_name_each_value_once() {
        for body in ["", "\n", "a,,b\n1,2,3\n", "a,b,a\n1,2,3\n"] {
            let result = split(BatchFormat::Csv, body.as_bytes());
            assert!(
                matches!(result, Err(BatchError::Header { .. })),
                "{body:?} {result:?}"
            );
        }
    }

    #[test]
    fn limits_hold() {
        let limit = LIMITS.records;
        let many = Err(BatchError::TooManyRecords { limit });
        for (format, fits, more) in [
            (BatchFormat::Lines, "1\n2\n3\n4\n5\n\n", "1\n2\n3\n4\n5\n6"),
            (BatchFormat::Array, "[1,2,3,4,5]", "[1,2,3,4,5,6]"),
            (
                BatchFormat::Csv,
                "a\n1\n2\n3\n4\n5\n",
                "a\n1\n2\n3\n4\n5\n6\n",
            ),
        ] {
            assert_eq!(records(format, fits).len(), limit);
            assert_eq!(split(format, more.as_bytes()), many);
        }
        let long = format!("{}\n1\n2\n3\n", "n".repeat(400));
        let result = split(BatchFormat::Csv, long.as_bytes());
        assert_eq!(result, Err(BatchError::TooLarge { limit: 1000 }));
    }

    proptest! {
        #[test]
        fn values_survive_in_every_format(values in prop::collection::vec(json_value(), 0..5)) {
            let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
            prop_assert_eq!(&records(BatchFormat::Lines, &texts.join("\n")), &texts);
            prop_assert_eq!(&records(BatchFormat::Array, &format!("[{}]", texts.join(","))), &texts);
        }

        #[test]
        fn any_text_survives_in_a_row(names in prop::collection::btree_set("[^\r\n]{1,9}", 1..4), seed in any::<[String; 4]>()) {
            let values = || seed.iter().take(names.len());
            let mut writer = csv::Writer::from_writer(Vec::new());
            writer.write_record(&names).expect("memory takes it");
            writer.write_record(values()).expect("memory takes it");
            let body = writer.into_inner().expect("memory takes it");
            // A mark of the order of bytes is not a part of a name.
            prop_assume!(!body.starts_with(b"\xef\xbb\xbf"));
            let rows = records(BatchFormat::Csv, &String::from_utf8(body).expect("made of text"));
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(&rows[0]).expect("it is an object");
            prop_assert_eq!(object.len(), names.len());
            for (name, value) in names.iter().zip(values()) {
                prop_assert_eq!(object[name].as_str(), Some(value.as_str()));
            }
        }

        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..60)) {
            for format in [BatchFormat::Lines, BatchFormat::Array, BatchFormat::Csv] {
                let _ = split(format, &body);
            }
        }
    }
}
