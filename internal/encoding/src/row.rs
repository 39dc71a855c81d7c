//! A reusable buffer of finished CSV rows.
//!
//! Owned by whoever gathers a batch. It grows to the size of the largest batch and stays there. It holds whole rows
//! only: [`crate::CompiledMapping::map`] takes back what it wrote when a column fails.

/// The most bytes of one row, with its quotes and its line end. No row limit may be set higher.
pub const MAX_ROW_LEN: usize = 2 << 20;

/// Finished CSV rows, one after the other.
#[derive(Debug)]
pub struct Rows {
    buffer: Vec<u8>,
    rows: u32,
    row_limit: usize,
}

/// A position between two rows of a [`Rows`], to return to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    len: usize,
    rows: u32,
}

impl Default for Rows {
    fn default() -> Self {
        Self::new()
    }
}

impl Rows {
    /// An empty buffer for rows of up to [`MAX_ROW_LEN`] bytes. Allocates nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            buffer: Vec::new(),
            rows: 0,
            row_limit: MAX_ROW_LEN,
        }
    }

    /// An empty buffer that refuses rows of more than `limit` bytes. [`MAX_ROW_LEN`] is the most.
    #[must_use]
    pub fn with_row_limit(limit: usize) -> Self {
        Self {
            row_limit: limit.min(MAX_ROW_LEN),
            ..Self::new()
        }
    }

    /// Forgets all rows and keeps the memory.
    pub fn clear(&mut self) {
        self.buffer.clear();
        self.rows = 0;
    }

    /// The CSV text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Bytes of all rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Number of rows.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// The most bytes of one row.
    #[must_use]
    pub fn row_limit(&self) -> usize {
        self.row_limit
    }

    /// The present end, to come back to with [`Self::truncate`].
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            len: self.buffer.len(),
            rows: self.rows,
        }
    }

    /// Bytes written since `mark`: the length of the row, when one row was mapped since.
    #[must_use]
    pub fn len_since(&self, mark: Mark) -> usize {
        self.buffer.len().saturating_sub(mark.len)
    }

    /// Removes all rows after `mark`. A mark of rows that are gone already changes nothing.
    pub fn truncate(&mut self, mark: Mark) {
        if mark.len <= self.buffer.len() {
            self.buffer.truncate(mark.len);
            self.rows = mark.rows;
        }
    }

    /// Where the next row is written.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Counts the row that was just written.
    pub(crate) fn finish_row(&mut self) {
        self.rows += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_to_a_mark() {
        let mut rows = Rows::new();
        rows.buffer().extend_from_slice(b"\"a\"\n");
        rows.finish_row();
        let mark = rows.mark();
        rows.buffer().extend_from_slice(b"\"bc\"\n");
        rows.finish_row();
        assert_eq!((rows.rows(), rows.len_since(mark)), (2, 5));
        rows.truncate(mark);
        assert_eq!((rows.rows(), rows.as_bytes()), (1, b"\"a\"\n".as_slice()));
        rows.clear();
        rows.truncate(mark);
        assert!(rows.is_empty() && rows.as_bytes().is_empty());
    }

    #[test]
    fn row_limit_never_exceeds_the_hard_limit() {
        assert_eq!(Rows::with_row_limit(usize::MAX).row_limit(), MAX_ROW_LEN);
        assert_eq!(Rows::with_row_limit(10).row_limit(), 10);
    }
}
