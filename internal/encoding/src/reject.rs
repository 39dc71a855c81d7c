//! A rejected record as a row of CSV, with what a person needs to find out why, and to send it again.
//!
//! The columns are fixed, whatever the mapping was that refused the record ([`REJECT_COLUMNS`], `docs/formats.md`). The body
//! is kept byte for byte: as it is when it is text, else in base64. Only what does not fit into the longest row there can be
//! ([`MAX_ROW_LEN`]) is cut off, and the row says so.
//!
//! The row holds what the sender sent as body and what the service found, never another header than `Content-Type`: headers
//! and URL may hold credentials.

use std::fmt::Write as _;
use std::net::IpAddr;

use stream_model::Timestamp;

use crate::csv::Field;
use crate::row::MAX_ROW_LEN;

/// The columns of a row, in their order.
pub const REJECT_COLUMNS: [&str; 13] = [
    "receivedAt",
    "requestId",
    "source",
    "sink",
    "recordIndex",
    "error",
    "column",
    "message",
    "clientIp",
    "contentType",
    "bodyBytes",
    "bodyEncoding",
    "body",
];

/// The most bytes of each other value. They are shorter unless somebody wants them longer.
const MAX_VALUE: usize = 4096;
/// What a row may have without its body: all values with every character doubled, quotes and commas.
const MAX_REST: usize = REJECT_COLUMNS.len() * (2 * MAX_VALUE + 4);

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A rejected record.
#[derive(Debug, Clone, Copy)]
pub struct Reject<'a> {
    /// When it arrived.
    pub received_at: Timestamp,
    /// The id of its request.
    pub request_id: &'a str,
    /// The source, with project and branch.
    pub source: &'a str,
    /// The sink that refuses it.
    pub sink: &'a str,
    /// Its place in the request, from 0.
    pub index: u32,
    /// The name of the error.
    pub error: &'a str,
    /// The column at fault, when it is a single one.
    pub column: Option<&'a str>,
    /// What is wrong.
    pub message: &'a str,
    /// The address of the client.
    pub client_ip: IpAddr,
    /// The content type of its request, as it was sent.
    pub content_type: &'a str,
    /// The body: that of the request, or the record's part of it.
    pub body: &'a [u8],
}

impl Reject<'_> {
    /// Appends the row, of at most [`MAX_ROW_LEN`] bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut number = String::new();
        let at = self.received_at.to_string();
        value(out, &at);
        next(out, self.request_id);
        next(out, self.source);
        next(out, self.sink);
        // Writing to a string cannot fail.
        let _ = write!(number, "{}", self.index);
        next(out, &number);
        next(out, self.error);
        next(out, self.column.unwrap_or(""));
        next(out, self.message);
        next(out, &self.client_ip.to_string());
        next(out, self.content_type);
        number.clear();
        let _ = write!(number, "{}", self.body.len());
        next(out, &number);
        self.write_body(out);
        out.push(b'\n');
    }

    /// Text stays text, for people to read, unless it has so many quotes that it would not fit with all of them doubled.
    fn write_body(&self, out: &mut Vec<u8>) {
        let room = MAX_ROW_LEN - MAX_REST;
        let encoded_len = self.body.len().div_ceil(3) * 4;
        let quotes = memchr::memchr_iter(b'"', self.body).count();
        let is_text = std::str::from_utf8(self.body).is_ok();
        if is_text && self.body.len() + quotes <= room {
            next(out, "text");
            out.push(b',');
            quoted(out, self.body);
        } else if encoded_len <= room {
            next(out, "base64");
            out.push(b',');
            base64(out, self.body);
        } else {
            next(out, "base64-truncated");
            out.push(b',');
            base64(out, &self.body[..room / 4 * 3]);
        }
    }
}

fn next(out: &mut Vec<u8>, text: &str) {
    out.push(b',');
    value(out, text);
}

/// A value; of one that is too long, its beginning.
fn value(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(MAX_VALUE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    quoted(out, &text.as_bytes()[..end]);
}

fn quoted(out: &mut Vec<u8>, text: &[u8]) {
    let mut field = Field::open(out, usize::MAX);
    field.text(text);
    field.close().expect("there is no limit");
}

fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.reserve(bytes.len().div_ceil(3) * 4 + 2);
    out.push(b'"');
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit) & 63) as usize;
            out.push(if digit <= group.len() {
                BASE64[index]
            } else {
                b'='
            });
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use stream_model::level::Compression;

    use super::*;
    use crate::{RowReader, RowValues};

    fn reject(body: &[u8]) -> Reject<'_> {
        Reject {
            received_at: Timestamp::from_millis(1_000),
            request_id: "r-1",
            source: "1/1/orders",
            sink: "raw",
            index: 7,
            error: "stream.in.unprocessableContent",
            column: Some("id"),
            message: "column \"id\": it is missing.",
            client_ip: Ipv4Addr::LOCALHOST.into(),
            content_type: "application/json",
            body,
        }
    }

    /// The values of the rows, read as a target would read them.
    fn read(csv: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut reader = RowReader::new(Compression::None, REJECT_COLUMNS.len(), csv);
        let (mut row, mut rows) = (RowValues::new(), Vec::new());
        while reader.next(&mut row).expect("whole rows") {
            rows.push(row.iter().map(<[u8]>::to_vec).collect());
        }
        rows
    }

    fn written(reject: &Reject<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        reject.write(&mut out);
        out
    }

    fn decode(text: &[u8]) -> Vec<u8> {
        let digit = |byte: &u8| BASE64.iter().position(|known| known == byte);
        let digits: Vec<usize> = text.iter().filter_map(digit).collect();
        let mut bytes = Vec::new();
        for group in digits.chunks(4) {
            let bits = (0..4).fold(0, |bits, at| {
                bits << 6 | group.get(at).copied().unwrap_or(0)
            });
            let all = [bits >> 16, bits >> 8, bits].map(|byte| (byte & 255) as u8);
            bytes.extend_from_slice(&all[..group.len() - 1]);
        }
        bytes
    }

    #[test]
    fn a_row_says_what_was_sent_and_what_is_wrong() {
        let csv = written(&reject(b"{\"a\":\n1}"));
        let text = String::from_utf8(csv).expect("text");
        assert_eq!(
            text,
            "\"1970-01-01T00:00:01.000Z\",\"r-1\",\"1/1/orders\",\"raw\",\"7\",\
             \"stream.in.unprocessableContent\",\"id\",\"column \"\"id\"\": it is missing.\",\"127.0.0.1\",\
             \"application/json\",\"8\",\"text\",\"{\"\"a\"\":\n1}\"\n"
        );
    }

    #[test]
    fn base64_is_the_usual_one() {
        for (bytes, text) in [
            (&b""[..], "\"\""),
            (b"f", "\"Zg==\""),
            (b"fo", "\"Zm8=\""),
            (b"foo", "\"Zm9v\""),
            (b"foobar", "\"Zm9vYmFy\""),
            (b"\xff\xfe\xfd", "\"//79\""),
        ] {
            let mut out = Vec::new();
            base64(&mut out, bytes);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }

    #[test]
    fn a_body_that_fits_into_no_row_is_cut_and_marked() {
        for body in [
            vec![b'"'; 4 << 20],
            vec![0xff; 4 << 20],
            vec![b'a'; 4 << 20],
        ] {
            let csv = written(&reject(&body));
            assert!(csv.len() <= MAX_ROW_LEN, "{}", csv.len());
            let row = read(&csv).remove(0);
            assert_eq!(row[10], body.len().to_string().into_bytes());
            assert_eq!(row[11], b"base64-truncated");
            let kept = decode(&row[12]);
            assert!(kept.len() > 1 << 20 && body.starts_with(&kept));
        }
        // What a request may have by default always fits.
        for body in [vec![b'"'; 1 << 20], vec![0xff; 1 << 20]] {
            let row = read(&written(&reject(&body))).remove(0);
            assert_eq!(
                (row[11].as_slice(), decode(&row[12])),
                (b"base64".as_slice(), body)
            );
        }
    }

    #[test]
    fn long_texts_leave_room_for_the_body() {
        let long = "\"".repeat(100_000) + "é";
        let body = vec![0xff; 4 << 20];
        let reject = Reject {
            request_id: &long,
            source: &long,
            sink: &long,
            error: &long,
            column: Some(&long),
            message: &long,
            content_type: &long,
            ..reject(&body)
        };
        let csv = written(&reject);
        assert!(csv.len() <= MAX_ROW_LEN, "{}", csv.len());
        assert_eq!(read(&csv)[0][7].len(), MAX_VALUE);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_body_comes_back_byte_for_byte(
            bodies in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..300),
                    "[\",\n\r a-c\u{e9}\\x00]{0,300}".prop_map(String::into_bytes),
                ],
                1..4,
            ),
        ) {
            let mut csv = Vec::new();
            for body in &bodies {
                reject(body).write(&mut csv);
            }
            let read: Vec<Vec<u8>> = read(&csv).into_iter().map(|row| match row[11].as_slice() {
                b"text" => row[12].clone(),
                _ => decode(&row[12]),
            }).collect();
            prop_assert_eq!(read, bodies);
        }
    }
}
