//! Reading rows: exactly what is written is read, and no result depends on where the input was cut into chunks.

use std::cell::RefCell;
use std::io;

use stream_encoding::{DecodeError, Encoder, RowReader, RowValues};
use stream_model::level::Compression;

thread_local! {
    /// Making one takes longer than all the rest.
    static ENCODERS: RefCell<[(Compression, Encoder); 2]> = RefCell::new(
        [Compression::Gzip { level: 1 }, Compression::Zstd { level: 1 }]
            .map(|codec| (codec, Encoder::new(codec))),
    );
}

/// Rows of values.
pub type Table = Vec<Vec<Vec<u8>>>;
/// Rows, and the error behind them if there is one.
pub type Read = (Table, Option<String>);

/// The first byte is the number of columns, the second the size of chunks, the third where the CSV is cut into two frames;
/// the rest is CSV.
pub fn check(input: &[u8]) {
    let [columns, step, cut, csv @ ..] = input else {
        return;
    };
    let columns = 1 + usize::from(columns % 4);
    let whole = read(Compression::None, columns, csv, usize::MAX);
    if let Some(table) = parse(csv, columns) {
        assert_eq!(whole.0, table, "what is written is read");
        assert_eq!(whole.1, None);
    }
    if whole.1.is_none() {
        let again = write(&whole.0);
        assert_eq!(
            read(Compression::None, columns, &again, usize::MAX),
            whole,
            "written and read again"
        );
    }
    let step = 1 + usize::from(*step);
    same(&read(Compression::None, columns, csv, step), &whole);
    let (first, second) = csv.split_at(usize::from(*cut).min(csv.len()));
    let parts = [first, second];
    ENCODERS.with_borrow_mut(|encoders| {
        for (codec, encoder) in encoders {
            let frames = parts.map(|part| encoder.frame(part).expect("memory takes it"));
            let read = read(*codec, columns, &frames.concat(), step);
            same(&read, &whole);
        }
    });
}

/// The same input read in other chunks. How many rows are found before a damage, and what is noticed first, depends on what
/// was read at once.
pub fn same(one: &Read, other: &Read) {
    assert_eq!(one.1.is_some(), other.1.is_some(), "{one:?} {other:?}");
    let common = one.0.len().min(other.0.len());
    assert_eq!(one.0[..common], other.0[..common]);
    assert!(one.1.is_some() || one.0.len() == other.0.len());
}

/// The rows before the end, and the error if it ends with one.
pub fn read(codec: Compression, columns: usize, input: &[u8], step: usize) -> Read {
    let mut reader = RowReader::new(codec, columns, Chunks { rest: input, step });
    let (mut row, mut table) = (RowValues::new(), Table::new());
    let error = loop {
        match reader.next(&mut row) {
            Ok(true) => {
                assert_eq!(row.len(), columns);
                table.push(row.iter().map(<[u8]>::to_vec).collect());
            }
            Ok(false) => {
                assert!(
                    matches!(reader.next(&mut row), Ok(false)),
                    "the end stays the end"
                );
                break None;
            }
            Err(error) => {
                let stopped = reader.next(&mut row);
                assert!(
                    matches!(stopped, Err(DecodeError::Stopped)),
                    "an error stops it"
                );
                assert!(
                    matches!(error, DecodeError::Corrupt { .. }),
                    "the input did not fail"
                );
                break Some(error.to_string());
            }
        }
    };
    assert_eq!(reader.rows(), u64::try_from(table.len()).expect("few"));
    (table, error)
}

struct Chunks<'a> {
    rest: &'a [u8],
    step: usize,
}

impl io::Read for Chunks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.step.min(buffer.len()).min(self.rest.len());
        let (now, later) = self.rest.split_at(len);
        buffer[..len].copy_from_slice(now);
        self.rest = later;
        Ok(len)
    }
}

/// Reads CSV exactly as it is written here. None when anything is different.
fn parse(csv: &[u8], columns: usize) -> Option<Table> {
    let (mut table, mut row) = (Table::new(), Vec::new());
    let mut rest = csv;
    while !rest.is_empty() {
        let (value, behind) = value(rest.strip_prefix(b"\"")?)?;
        row.push(value);
        let (separator, behind) = behind.split_first()?;
        match separator {
            b',' => {}
            b'\n' if row.len() == columns => table.push(std::mem::take(&mut row)),
            _ => return None,
        }
        rest = behind;
    }
    row.is_empty().then_some(table)
}

/// The value before the closing quote, and what is behind it.
fn value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut rest = text;
    loop {
        let quote = rest.iter().position(|byte| *byte == b'"')?;
        value.extend_from_slice(&rest[..quote]);
        rest = &rest[quote + 1..];
        let Some(behind) = rest.strip_prefix(b"\"") else {
            return Some((value, rest));
        };
        value.push(b'"');
        rest = behind;
    }
}

fn write(table: &Table) -> Vec<u8> {
    let mut csv = Vec::new();
    for row in table {
        for (position, value) in row.iter().enumerate() {
            csv.extend_from_slice(if position > 0 { b",\"" } else { b"\"" });
            for byte in value {
                csv.push(*byte);
                csv.extend((*byte == b'"').then_some(b'"'));
            }
            csv.push(b'"');
        }
        csv.push(b'\n');
    }
    csv
}
