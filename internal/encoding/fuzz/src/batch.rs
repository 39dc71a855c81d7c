//! Bodies with many records: where each begins and ends, and that their number is limited.

use bytes::Bytes;
use serde_json::value::RawValue;
use stream_encoding::{BatchError, BatchFormat, BatchLimits, Malformed};

use super::json::{self as reference, Json};

type Items = Vec<Result<Bytes, Malformed>>;

/// The first byte is the format (`l`, `a`, anything else), the second the limit of records, the rest the body.
pub fn check(input: &[u8]) {
    let [format, limit, body @ ..] = input else {
        return;
    };
    let format = match format {
        b'l' => BatchFormat::Lines,
        b'a' => BatchFormat::Array,
        _ => BatchFormat::Csv,
    };
    let limits = BatchLimits {
        records: usize::from(*limit),
        csv_as_json_bytes: 64 * usize::from(*limit),
    };
    let shared = Bytes::copy_from_slice(body);
    let result = format.split(&shared, limits);
    match format {
        BatchFormat::Lines => lines(body, limits, result),
        BatchFormat::Array => array(body, limits, result),
        BatchFormat::Csv => rows(body, limits, result),
    }
}

/// The items, all of which are records; none when there are too many and that was said.
fn records(
    count: usize,
    limits: BatchLimits,
    result: Result<Items, BatchError>,
) -> Option<Vec<Bytes>> {
    if count > limits.records {
        let limit = limits.records;
        assert_eq!(result, Err(BatchError::TooManyRecords { limit }));
        return None;
    }
    let items = result.expect("it can be taken apart");
    assert_eq!(items.len(), count);
    Some(
        items
            .into_iter()
            .map(|item| item.expect("a record"))
            .collect(),
    )
}

fn lines(body: &[u8], limits: BatchLimits, result: Result<Items, BatchError>) {
    let blank = |line: &&[u8]| line.iter().all(|byte| b" \t\r\x0c".contains(byte));
    let expected = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !blank(line));
    let expected: Vec<_> = expected.collect();
    if let Some(records) = records(expected.len(), limits, result) {
        assert_eq!(records, expected);
    }
}

fn array(body: &[u8], limits: BatchLimits, result: Result<Items, BatchError>) {
    let Some(Json::Array(values)) = reference::parse(body) else {
        // Items are counted as they come, so there may be too many before a mistake.
        let refused = matches!(
            result,
            Err(BatchError::NotAnArray { .. } | BatchError::TooManyRecords { .. })
        );
        assert!(refused, "{result:?}");
        return;
    };
    let Some(records) = records(values.len(), limits, result) else {
        return;
    };
    let expected: Vec<&RawValue> = serde_json::from_slice(body).expect("read before");
    for (record, expected) in records.iter().zip(expected) {
        assert_eq!(record, expected.get().as_bytes());
    }
}

fn rows(body: &[u8], limits: BatchLimits, result: Result<Items, BatchError>) {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(body);
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let rows: Vec<Vec<String>> = (reader.byte_records())
        .map(|row| row.expect("memory can be read").iter().map(text).collect())
        .collect();
    let names = rows.first().cloned().unwrap_or_default();
    let mut sorted = names.clone();
    sorted.sort();
    let distinct = sorted.windows(2).all(|pair| pair[0] != pair[1]);
    if names.is_empty() || names.iter().any(String::is_empty) || !distinct {
        assert!(
            matches!(result, Err(BatchError::Header { .. })),
            "{result:?}"
        );
        return;
    }
    let object = |row: &Vec<String>| {
        let members = names
            .iter()
            .cloned()
            .zip(row.iter().cloned().map(Json::Text));
        (row.len() == names.len()).then(|| Json::Object(members.collect()).canonical())
    };
    let objects: Vec<_> = rows[1..].iter().map(object).collect();
    let counted = |count| {
        objects[..count]
            .iter()
            .flatten()
            .map(String::len)
            .sum::<usize>()
    };
    match result {
        Ok(items) => {
            let items: Vec<_> = items
                .into_iter()
                .map(|item| item.ok().map(|item| item.to_vec()))
                .collect();
            let objects = objects
                .into_iter()
                .map(|object| object.map(String::into_bytes));
            assert_eq!(items, objects.collect::<Vec<_>>());
            assert!(items.len() <= limits.records);
        }
        Err(BatchError::TooManyRecords { limit }) => assert!(objects.len() > limit),
        Err(BatchError::TooLarge { limit }) => {
            let count = objects.len().min(limits.records);
            assert!(
                counted(count) > limit,
                "{} bytes are not too many",
                counted(count)
            );
        }
        Err(error) => panic!("{error:?}"),
    }
}
