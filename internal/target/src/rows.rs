//! Decoded rows on their way to a target.

use std::iter::FusedIterator;
use std::ops::{Index, Range};

use futures_util::stream::BoxStream;

use crate::RowsError;

/// The rows of a file, in blocks. An error ends it; nothing of the file is then imported.
pub type RowStream = BoxStream<'static, Result<RowBlock, RowsError>>;

/// A row that cannot be put into a block. The block is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRow {
    /// The row has more or fewer values than the block has columns.
    #[error("the row has {found} values instead of {expected}")]
    Columns {
        /// Columns of the block.
        expected: usize,
        /// Values of the row. A row with too many is not counted to its end.
        found: usize,
    },
    /// A value is not text.
    #[error("value {column} of the row is not UTF-8")]
    NotUtf8 {
        /// Which value, from 0.
        column: usize,
    },
    /// The block would exceed 4 GiB.
    #[error("the row does not fit into a block")]
    TooLarge,
}

/// Some rows of one table: all their text in one buffer, and where each value ends.
///
/// How large a block may grow is the producer's duty: at most 1 MiB of text, or a single row. Targets hold a few of them
/// at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowBlock {
    columns: usize,
    text: String,
    /// End of each value in `text`, row by row. Four bytes instead of eight: with short values this is half the block.
    ends: Vec<u32>,
}

impl RowBlock {
    /// An empty block for rows of that many columns.
    ///
    /// # Panics
    /// When `columns` is 0.
    #[must_use]
    pub fn new(columns: usize) -> Self {
        assert!(columns > 0, "a row has at least one column");
        Self {
            columns,
            text: String::new(),
            ends: Vec::new(),
        }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When the row does not have the block's number of columns or is not UTF-8; the block is then as before.
    pub fn push_row<'a>(
        &mut self,
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), InvalidRow> {
        let (text_before, ends_before) = (self.text.len(), self.ends.len());
        let pushed = self.push_values(values);
        if pushed.is_err() {
            self.text.truncate(text_before);
            self.ends.truncate(ends_before);
        }
        pushed
    }

    fn push_values<'a>(
        &mut self,
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<(), InvalidRow> {
        let mut found = 0;
        for value in values {
            if found == self.columns {
                return Err(InvalidRow::Columns {
                    expected: self.columns,
                    found: found + 1,
                });
            }
            let value =
                std::str::from_utf8(value).map_err(|_| InvalidRow::NotUtf8 { column: found })?;
            let end =
                u32::try_from(self.text.len() + value.len()).map_err(|_| InvalidRow::TooLarge)?;
            self.text.push_str(value);
            self.ends.push(end);
            found += 1;
        }
        if found != self.columns {
            return Err(InvalidRow::Columns {
                expected: self.columns,
                found,
            });
        }
        Ok(())
    }

    /// The rows, in the order in which they were added.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> + FusedIterator {
        (0..self.len()).map(|row| Row {
            block: self,
            first: row * self.columns,
        })
    }

    /// Number of columns.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len() / self.columns
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of text in all rows: what a producer compares with its limit.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    fn range(&self, value: usize) -> Range<usize> {
        let start = value
            .checked_sub(1)
            .map_or(0, |previous| self.ends[previous]);
        start as usize..self.ends[value] as usize
    }
}

/// One row of a block.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    block: &'a RowBlock,
    first: usize,
}

impl<'a> Row<'a> {
    /// The values, in the order of the columns.
    pub fn values(self) -> impl ExactSizeIterator<Item = &'a str> + FusedIterator {
        let block = self.block;
        (self.first..self.first + block.columns).map(move |value| &block.text[block.range(value)])
    }

    /// The value of a column, counted from 0.
    #[must_use]
    pub fn get(self, column: usize) -> Option<&'a str> {
        let block = self.block;
        (column < block.columns).then(|| &block.text[block.range(self.first + column)])
    }
}

impl Index<usize> for Row<'_> {
    type Output = str;

    fn index(&self, column: usize) -> &str {
        self.get(column).expect("the column is one of the row's")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes<'a>(row: &'a [&'a str]) -> impl Iterator<Item = &'a [u8]> {
        row.iter().map(|value| value.as_bytes())
    }

    #[test]
    fn a_refused_row_leaves_the_block_as_it_was() {
        let mut block = RowBlock::new(2);
        block.push_row(bytes(&["a", "b"])).expect("two values");
        let before = block.clone();
        assert_eq!(
            block.push_row(bytes(&["c"])),
            Err(InvalidRow::Columns {
                expected: 2,
                found: 1
            })
        );
        assert_eq!(
            block.push_row(bytes(&["c", "d", "e", "f"])),
            Err(InvalidRow::Columns {
                expected: 2,
                found: 3
            })
        );
        assert_eq!(
            block.push_row([&b"ok"[..], &b"\xff\xfe"[..]]),
            Err(InvalidRow::NotUtf8 { column: 1 })
        );
        // Half of a character is not text even if the next value would complete it.
        assert_eq!(
            block.push_row([&b"\xc3"[..], &b"\xa9"[..]]),
            Err(InvalidRow::NotUtf8 { column: 0 })
        );
        assert_eq!(block, before);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn gives_back_what_was_put_in(
            rows in proptest::collection::vec(proptest::collection::vec(".{0,12}", 3), 0..20)
        ) {
            let mut block = RowBlock::new(3);
            for row in &rows {
                block.push_row(row.iter().map(String::as_bytes)).expect("three values");
            }
            prop_assert_eq!(block.len(), rows.len());
            prop_assert_eq!(block.is_empty(), rows.is_empty());
            prop_assert_eq!(block.bytes(), rows.iter().flatten().map(String::len).sum::<usize>());
            for (row, expected) in block.rows().zip(&rows) {
                prop_assert_eq!(row.values().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
                prop_assert_eq!(&row[2], &expected[2]);
                prop_assert_eq!(row.get(3), None);
            }
        }
    }
}
