use proptest::prelude::*;

use super::*;
use crate::Encoder;
use crate::frame::tests::CODECS;

/// Gives a few bytes at a time, with interruptions, and fails at the end if told so.
struct Trickle<'a> {
    bytes: &'a [u8],
    step: usize,
    interrupt: bool,
    fails: bool,
}

impl<'a> Trickle<'a> {
    fn new(bytes: &'a [u8], step: usize) -> Self {
        Self {
            bytes,
            step,
            interrupt: false,
            fails: false,
        }
    }
}

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupt = !self.interrupt;
        if self.interrupt {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.bytes.is_empty() && self.fails {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let len = self.step.min(buffer.len()).min(self.bytes.len());
        let (now, later) = self.bytes.split_at(len);
        buffer[..len].copy_from_slice(now);
        self.bytes = later;
        Ok(len)
    }
}

type Table = Vec<Vec<Vec<u8>>>;

fn csv_of(table: &Table) -> Vec<u8> {
    let mut csv = Vec::new();
    for row in table {
        for (position, value) in row.iter().enumerate() {
            csv.extend_from_slice(if position > 0 { b",\"" } else { b"\"" });
            for byte in value {
                csv.push(*byte);
                if *byte == b'"' {
                    csv.push(b'"');
                }
            }
            csv.push(b'"');
        }
        csv.push(b'\n');
    }
    csv
}

fn read_all(codec: Compression, columns: usize, input: impl Read) -> Result<Table, DecodeError> {
    let mut reader = RowReader::new(codec, columns, input);
    let (mut row, mut table) = (RowValues::new(), Vec::new());
    while reader.next(&mut row)? {
        table.push(row.iter().map(<[u8]>::to_vec).collect());
        assert_eq!(reader.rows(), u64::try_from(table.len()).expect("few"));
    }
    assert!(!reader.next(&mut row)?, "the end stays the end");
    Ok(table)
}

fn frames_of(codec: Compression, csv: &[u8], cut: usize) -> Vec<u8> {
    let (first, second) = csv.split_at(cut.min(csv.len()));
    let mut encoder = Encoder::new(codec);
    [first, second]
        .iter()
        .flat_map(|raw| encoder.frame(raw).expect("frame"))
        .collect()
}

#[test]
fn an_empty_slice_has_no_rows() {
    for codec in CODECS {
        assert_eq!(
            read_all(codec, 3, io::empty()).expect("empty"),
            Table::new()
        );
        let frame = Encoder::new(codec).frame(b"").expect("frame");
        assert_eq!(
            read_all(codec, 3, &frame[..]).expect("an empty frame"),
            Table::new()
        );
    }
}

#[test]
fn values_are_found_by_column() {
    let mut reader = RowReader::new(
        Compression::None,
        2,
        b"\"a\",\"\"\n\"\",\"b\n\"\n".as_slice(),
    );
    let mut row = RowValues::new();
    assert!(row.is_empty());
    assert!(reader.next(&mut row).expect("row"));
    assert_eq!(
        (row.get(0), row.get(1), row.get(2)),
        (Some(&b"a"[..]), Some(&b""[..]), None)
    );
    assert!(reader.next(&mut row).expect("row"));
    assert_eq!((row.len(), row.get(1)), (2, Some(&b"b\n"[..])));
    assert!(!reader.next(&mut row).expect("end"));
}

#[test]
fn a_single_empty_column_is_a_row() {
    let table = vec![vec![b"".to_vec()], vec![b"".to_vec()]];
    assert_eq!(
        read_all(Compression::None, 1, csv_of(&table).as_slice()).expect("rows"),
        table
    );
}

#[test]
fn rows_of_another_width_are_corrupt() {
    for (columns, csv) in [
        (2, "\"a\"\n"),
        (1, "\"a\",\"b\"\n"),
        (2, "\"a\",\"b\"\n\"c\"\n"),
    ] {
        let error = read_all(Compression::None, columns, csv.as_bytes()).expect_err(csv);
        assert!(matches!(error, DecodeError::Corrupt { .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn plain_rows_cut_anywhere_but_at_a_row_end_are_corrupt() {
    // The last value has a line end, so a cut behind it looks like the end of a row of the right width.
    let table = vec![
        vec![b"a\n\"b\"\n".to_vec(), b"".to_vec()],
        vec![b"\"".to_vec(), b"x\ny".to_vec()],
    ];
    let csv = csv_of(&table);
    let row_end = csv_of(&table[..1].to_vec()).len();
    for len in 0..csv.len() {
        let result = read_all(Compression::None, 2, &csv[..len]);
        if len == 0 || len == row_end {
            result.expect("whole rows");
        } else {
            assert!(
                matches!(result, Err(DecodeError::Corrupt { .. })),
                "cut at {len}"
            );
        }
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_slice_and_not_its_end() {
    let mark = b"\xef\xbb\xbf";
    for rest in [b"".as_slice(), b"\"a\"\n", b"\""] {
        let csv = [mark, rest].concat();
        for step in [1, 3, 100] {
            for codec in CODECS {
                let frames = frames_of(codec, &csv, mark.len());
                let error = read_all(codec, 1, Trickle::new(&frames, step)).expect_err("no row");
                assert!(
                    matches!(error, DecodeError::Corrupt { rows: 0, .. }),
                    "{codec:?}"
                );
            }
        }
    }
}

#[test]
fn compressed_rows_cut_anywhere_but_at_a_frame_end_are_corrupt() {
    let table = vec![vec![b"some".to_vec()], vec![b"text".to_vec()]];
    let csv = csv_of(&table);
    for codec in CODECS
        .into_iter()
        .filter(|codec| *codec != Compression::None)
    {
        let frame_end = Encoder::new(codec).frame(&csv[..7]).expect("frame").len();
        let frames = frames_of(codec, &csv, 7);
        for len in (1..frames.len()).filter(|len| *len != frame_end) {
            let error = read_all(codec, 1, &frames[..len]).expect_err("cut");
            assert!(
                matches!(error, DecodeError::Corrupt { .. }),
                "{codec:?} cut at {len}: {error:?}"
            );
        }
    }
}

#[test]
fn a_failing_input_is_not_called_corrupt_and_stops_the_reader() {
    let csv = csv_of(&vec![vec![b"a".to_vec()]; 3]);
    for codec in CODECS {
        let frames = frames_of(codec, &csv, 4);
        for len in [0, 5, frames.len()] {
            let input = Trickle {
                fails: true,
                ..Trickle::new(&frames[..len], 3)
            };
            let mut reader = RowReader::new(codec, 1, input);
            let mut row = RowValues::new();
            let error = loop {
                match reader.next(&mut row) {
                    Ok(true) => {}
                    Ok(false) => panic!("{codec:?} took a broken connection for the end"),
                    Err(error) => break error,
                }
            };
            assert!(
                matches!(error, DecodeError::Read { .. }),
                "{codec:?} at {len}: {error:?}"
            );
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(matches!(reader.next(&mut row), Err(DecodeError::Stopped)));
        }
    }
}

#[test]
fn a_row_without_end_does_not_fill_the_memory() {
    let endless = io::repeat(b'x');
    let error = read_all(Compression::None, 1, endless).expect_err("endless");
    assert!(
        matches!(error, DecodeError::Corrupt { rows: 0, .. }),
        "{error:?}"
    );

    let bomb = [b"\"".as_slice(), &vec![b'x'; 16 << 20]].concat();
    let codec = Compression::Zstd { level: 1 };
    let frame = Encoder::new(codec).frame(&bomb).expect("frame");
    let error = read_all(codec, 1, &frame[..]).expect_err("bomb");
    assert!(matches!(error, DecodeError::Corrupt { .. }), "{error:?}");
}

#[test]
fn the_longest_row_is_read() {
    let table = vec![vec![vec![b'x'; MAX_ROW_LEN - 3]]; 3];
    for codec in CODECS {
        let frames = frames_of(codec, &csv_of(&table), MAX_ROW_LEN);
        assert_eq!(
            read_all(codec, 1, &frames[..]).expect("rows"),
            table,
            "{codec:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_table_survives_in_any_codec(
        table in (1..4_usize).prop_flat_map(|columns| {
            let value = prop_oneof![
                prop::collection::vec(any::<u8>(), 0..30),
                "[\",\n\r ab]{0,12}".prop_map(String::into_bytes),
            ];
            prop::collection::vec(prop::collection::vec(value, columns), 1..20)
        }),
        cut in any::<prop::sample::Index>(),
        step in 1..50_usize,
    ) {
        let csv = csv_of(&table);
        let columns = table[0].len();
        for codec in CODECS {
            let frames = frames_of(codec, &csv, cut.index(csv.len() + 1));
            let read = read_all(codec, columns, Trickle::new(&frames, step)).expect("whole slice");
            prop_assert_eq!(&read, &table);
        }
    }

    #[test]
    fn other_bytes_do_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        text in "[\",\n\r ab]{0,60}",
        flip in any::<prop::sample::Index>(),
    ) {
        for codec in CODECS {
            let _ = read_all(codec, 2, &bytes[..]);
            let mut frames = frames_of(codec, text.as_bytes(), 10);
            let at = flip.index(frames.len().max(1));
            if let Some(byte) = frames.get_mut(at) {
                *byte ^= 0x10;
            }
            let _ = read_all(codec, 2, &frames[..]);
        }
    }
}
