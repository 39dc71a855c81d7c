//! Writing one CSV value.
//!
//! Every value is quoted, even an empty one, so that an embedded comma, quote or line end needs no case of its own and
//! a reader can tell a truncated row from a whole one.

/// An open CSV value at the end of a buffer.
#[must_use = "a value that is not closed leaves broken CSV"]
pub(crate) struct Field<'a> {
    out: &'a mut Vec<u8>,
    limit: usize,
}

/// The buffer has grown past the limit of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Overflow;

impl<'a> Field<'a> {
    /// Opens a value. `limit` is the length of `out` beyond which the row counts as too long.
    pub fn open(out: &'a mut Vec<u8>, limit: usize) -> Self {
        out.push(b'"');
        Self { out, limit }
    }

    /// Appends text, doubling its quotes.
    pub fn text(&mut self, text: &[u8]) {
        let mut rest = text;
        while let Some(at) = memchr::memchr(b'"', rest) {
            self.out.extend_from_slice(&rest[..=at]);
            self.out.push(b'"');
            rest = &rest[at + 1..];
        }
        self.out.extend_from_slice(rest);
    }

    /// Appends text that is known to have no quote.
    pub fn plain(&mut self, text: &[u8]) {
        debug_assert!(!text.contains(&b'"'), "plain text must have no quote");
        self.out.extend_from_slice(text);
    }

    /// Appends a byte that is not a quote.
    pub fn byte(&mut self, byte: u8) {
        debug_assert_ne!(byte, b'"', "a quote must be doubled");
        self.out.push(byte);
    }

    /// Appends one quote of the text, doubled.
    pub fn quote(&mut self) {
        self.out.extend_from_slice(b"\"\"");
    }

    /// Appends one character of the text.
    pub fn char(&mut self, c: char) {
        if c == '"' {
            return self.quote();
        }
        self.out
            .extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }

    /// Fails when the row is too long already. For writers whose output can be much larger than their input.
    pub fn check(&self) -> Result<(), Overflow> {
        if self.out.len() > self.limit {
            Err(Overflow)
        } else {
            Ok(())
        }
    }

    /// Closes the value.
    pub fn close(self) -> Result<(), Overflow> {
        self.out.push(b'"');
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(values: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            let mut field = Field::open(&mut out, usize::MAX);
            field.text(value);
            field.close().expect("no limit");
        }
        out.push(b'\n');
        out
    }

    #[test]
    fn quotes_everything_and_doubles_quotes() {
        let values = [b"".to_vec(), b"a,b\n".to_vec(), b"\"say \"\"".to_vec()];
        assert_eq!(row(&values), b"\"\",\"a,b\n\",\"\"\"say \"\"\"\"\"\n");
    }

    #[test]
    fn a_value_beyond_the_limit_is_noticed() {
        let mut out = Vec::new();
        let mut field = Field::open(&mut out, 5);
        field.text(b"abc");
        assert_eq!(field.close(), Ok(()));
        out.clear();
        let mut field = Field::open(&mut out, 5);
        field.text(b"abcd");
        assert_eq!(field.close(), Err(Overflow));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_bytes_survive_the_csv_reader(
            values in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..40),
                    "[\",\n\r a-c\u{e9}]{0,20}".prop_map(String::into_bytes),
                ],
                1..6,
            ),
        ) {
            let text = [row(&values), row(&values)].concat();
            let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_slice());
            let read: Vec<Vec<Vec<u8>>> = reader
                .byte_records()
                .map(|record| record.expect("valid CSV").iter().map(<[u8]>::to_vec).collect())
                .collect();
            prop_assert_eq!(read, vec![values.clone(), values]);
        }
    }
}
