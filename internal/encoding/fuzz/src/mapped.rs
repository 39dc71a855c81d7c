//! Mapping one record, and reading the row with a reader that is not ours.

use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use serde_json::Value;
use stream_encoding::{
    CompileError, CompiledMapping, ContentType, Headers, MapError, Record, Rows,
};
use stream_model::Timestamp;

/// When all records arrive.
pub const ARRIVAL: &str = "2006-01-02T15:04:05.007Z";
/// Where all records come from.
pub const CLIENT: &str = "192.0.2.1";

/// Compiles columns, given as users write them. A name is made up for each.
///
/// # Errors
/// When they cannot be compiled.
pub fn compile(columns: &[Value]) -> Result<CompiledMapping, CompileError> {
    let named = columns.iter().enumerate().map(|(position, column)| {
        let mut column = column.clone();
        column["name"] = Value::from(name(position));
        column
    });
    let mapping = serde_json::json!({ "columns": named.collect::<Vec<_>>() });
    CompiledMapping::compile(
        &serde_json::from_value(mapping).expect("the columns are written well"),
    )
}

/// The name of a column.
pub fn name(position: usize) -> String {
    format!("c{position}")
}

/// A record.
pub fn record(content_type: ContentType, headers: &[(&str, &[u8])], body: &[u8]) -> Record {
    Record {
        received_at: ARRIVAL.parse::<Timestamp>().expect("a time"),
        client_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        headers: Headers::new(headers.iter().copied()),
        content_type,
        body: Bytes::copy_from_slice(body),
    }
}

/// Maps a record behind another row. That row stays what it was, whatever happens.
///
/// # Errors
/// When the mapping refuses the record.
pub fn map(
    mapping: &CompiledMapping,
    record: &Record,
    row_limit: usize,
) -> Result<Vec<u8>, MapError> {
    let before = compile(&[serde_json::json!({ "type": "ip" })]).expect("a plain column");
    let mut rows = Rows::with_row_limit(row_limit);
    before
        .map(record, &mut rows, &mut || [1; 10])
        .expect("an address fits");
    let (len, mark) = (rows.len(), rows.mark());
    let result = mapping.map(record, &mut rows, &mut || [7; 10]);
    let row = rows.as_bytes()[len..].to_vec();
    match &result {
        Ok(()) => {
            assert_eq!(rows.rows(), 2, "a row was added");
            assert!(
                row.len() <= row_limit,
                "a row of {} bytes is over the limit",
                row.len()
            );
            assert_eq!(rows.len_since(mark), row.len());
        }
        Err(error) => {
            assert_eq!(
                (rows.rows(), row.len()),
                (1, 0),
                "{error} left something behind"
            );
            assert!(!error.to_string().is_empty());
        }
    }
    assert_eq!(
        &rows.as_bytes()[..len],
        format!("\"{CLIENT}\"\n").as_bytes()
    );
    result.map(|()| row)
}

/// The values of one row, read by the CSV reader with its defaults.
pub fn values(row: &[u8]) -> Vec<String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(row);
    let mut records = reader.records().map(|record| record.expect("CSV in UTF-8"));
    let values = records
        .next()
        .expect("a row")
        .iter()
        .map(str::to_owned)
        .collect();
    assert!(records.next().is_none(), "one row is one row: {row:?}");
    values
}

/// A row, written as the contract says.
pub fn row(values: &[String]) -> Vec<u8> {
    let quoted = |value: &String| format!("\"{}\"", value.replace('"', "\"\""));
    let values: Vec<_> = values.iter().map(quoted).collect();
    [values.join(",").as_bytes(), b"\n"].concat()
}
