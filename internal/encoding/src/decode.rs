//! Reading a slice back: decompress, split into rows, check.
//!
//! A reader holds one row and the buffers of its codec, however long the slice is. It trusts nothing: rows of the wrong
//! width, rows longer than any that could have been written, and an end in the middle of a row are reported.

use std::io::{self, BufRead as _, BufReader, Read};

use ::csv::{ByteRecord, Reader, ReaderBuilder, Terminator};
use stream_model::ErrorKind;
use stream_model::level::Compression;

use crate::row::MAX_ROW_LEN;

/// Rows that cannot be read back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not what was written.
    #[error("the slice is damaged after row {rows}: {reason}")]
    Corrupt {
        /// Rows that were read before.
        rows: u64,
        /// What is wrong.
        reason: String,
    },
    /// The bytes could not be fetched.
    #[error("the slice cannot be read after row {rows}")]
    Read {
        /// Rows that were read before.
        rows: u64,
        /// What the input says.
        #[source]
        source: io::Error,
    },
    /// An earlier call failed; where the next row would begin is not known.
    #[error("the slice cannot be read further after an earlier error")]
    Stopped,
}

impl DecodeError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Read { .. } | Self::Stopped => ErrorKind::Unavailable,
        }
    }
}

/// The values of one row. Reuse it: it keeps its memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowValues(ByteRecord);

impl RowValues {
    /// No values.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no row was read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a column, counted from 0.
    #[must_use]
    pub fn get(&self, column: usize) -> Option<&[u8]> {
        self.0.get(column)
    }

    /// All values in the order of the columns.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.0.iter()
    }
}

/// Reads the rows of a slice, one after the other.
pub struct RowReader<R: Read> {
    csv: Reader<Guard<Decompress<Source<R>>>>,
    columns: usize,
    rows: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    Failed,
}

impl<R: Read> std::fmt::Debug for RowReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowReader")
            .field("columns", &self.columns)
            .field("rows", &self.rows)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl<R: Read> RowReader<R> {
    /// Reads `input`, the bytes of a slice from its first frame on, as rows of `columns` values. The input needs no
    /// buffer of its own. Nothing is read yet.
    #[must_use]
    pub fn new(compression: Compression, columns: usize, input: R) -> Self {
        let guard = Guard::new(Decompress::new(
            compression,
            Source {
                input,
                failed: false,
            },
        ));
        let csv = ReaderBuilder::new()
            .has_headers(false)
            // The width is checked here, because the reader would only compare rows with each other.
            .flexible(true)
            .terminator(Terminator::Any(b'\n'))
            .buffer_capacity(BUFFER_LEN)
            .from_reader(guard);
        Self {
            csv,
            columns,
            rows: 0,
            state: State::Reading,
        }
    }

    /// Reads the next row into `row`. False: there are no more, and the slice ended where it should.
    ///
    /// # Errors
    /// When the slice is damaged or its input fails. The content of `row` is unspecified then, and so is what follows:
    /// all further calls fail.
    pub fn next(&mut self, row: &mut RowValues) -> Result<bool, DecodeError> {
        match self.state {
            State::Reading => {}
            State::Ended => return Ok(false),
            State::Failed => return Err(DecodeError::Stopped),
        }
        let result = self.read(row);
        match result {
            Ok(true) => self.rows += 1,
            Ok(false) => self.state = State::Ended,
            Err(_) => self.state = State::Failed,
        }
        result
    }

    /// Rows read so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    fn read(&mut self, row: &mut RowValues) -> Result<bool, DecodeError> {
        let rows = self.rows;
        self.csv.get_mut().start_row();
        let found = self
            .csv
            .read_byte_record(&mut row.0)
            .map_err(|error| self.failure(error))?;
        if found && row.len() != self.columns {
            let reason = format!(
                "the next row has {} values instead of {}",
                row.len(),
                self.columns
            );
            return Err(DecodeError::Corrupt { rows, reason });
        }
        Ok(found)
    }

    /// Tells a failing input from damaged content: both come out of the decoder as an I/O error.
    fn failure(&self, error: ::csv::Error) -> DecodeError {
        let rows = self.rows;
        let input_failed = self.csv.get_ref().input.input().failed;
        match error.into_kind() {
            ::csv::ErrorKind::Io(source) if input_failed => DecodeError::Read { rows, source },
            ::csv::ErrorKind::Io(source) => DecodeError::Corrupt {
                rows,
                reason: source.to_string(),
            },
            other => DecodeError::Corrupt {
                rows,
                reason: format!("{other:?}"),
            },
        }
    }
}

/// How much is decompressed at once.
const BUFFER_LEN: usize = 64 << 10;

/// The input; remembers whether it was at fault.
struct Source<R> {
    input: R,
    failed: bool,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed = true;
                    return Err(error);
                }
                read => return read,
            }
        }
    }
}

/// The decoder of a slice. Both codecs call an input without any byte an unexpected end, while here it is a slice without
/// rows; so the decoder comes into being when the first byte is seen.
enum Decompress<R: Read> {
    Waiting(Compression, Option<BufReader<R>>),
    None(BufReader<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

/// Why [`Decompress::Waiting`] is never seen without input.
const REPLACED: &str = "the input leaves only when the decoder takes its place";

impl<R: Read> Decompress<R> {
    fn new(compression: Compression, input: R) -> Self {
        Self::Waiting(
            compression,
            Some(BufReader::with_capacity(BUFFER_LEN, input)),
        )
    }

    fn open(compression: Compression, input: BufReader<R>) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(input),
            Compression::Gzip { .. } => {
                Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(input)))
            }
            Compression::Zstd { .. } => {
                Self::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(input)?))
            }
        })
    }

    fn input(&self) -> &R {
        match self {
            Self::Waiting(_, input) => input.as_ref().expect(REPLACED).get_ref(),
            Self::None(input) => input.get_ref(),
            Self::Gzip(decoder) => decoder.get_ref().get_ref(),
            Self::Zstd(decoder) => decoder.get_ref().get_ref(),
        }
    }
}

impl<R: Read> Read for Decompress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Self::Waiting(compression, waiting) = self {
            if waiting.as_mut().expect(REPLACED).fill_buf()?.is_empty() {
                return Ok(0);
            }
            let input = waiting.take().expect(REPLACED);
            *self = Self::open(*compression, input)?;
        }
        match self {
            Self::Waiting(..) => Ok(0),
            Self::None(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// Watches the CSV text on its way to the CSV reader, which by itself takes a cut-off row for a whole one and a row
/// without end for a long one. At the start it drops a byte order mark, and when the first piece of text is nothing else,
/// it takes that for the end of all.
struct Guard<R> {
    input: R,
    /// Nothing was handed out yet.
    at_start: bool,
    /// Bytes that may still be handed out before the present row must have ended.
    budget: usize,
    last: u8,
    /// Quotes so far; every whole row has an even number.
    odd_quotes: bool,
}

impl<R> Guard<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            at_start: true,
            budget: 0,
            last: b'\n',
            odd_quotes: false,
        }
    }

    /// A row begins somewhere in what was handed out already.
    fn start_row(&mut self) {
        self.budget = MAX_ROW_LEN + BUFFER_LEN;
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let damaged = |reason| Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        if buffer.is_empty() {
            return Ok(0);
        }
        let len = buffer.len().min(self.budget);
        if len == 0 {
            return damaged("a row is longer than any row that is written");
        }
        let read = self.input.read(&mut buffer[..len])?;
        let Some(last) = buffer[..read].last() else {
            if self.odd_quotes || self.last != b'\n' {
                return damaged("it ends in the middle of a row");
            }
            return Ok(0);
        };
        // No row begins with anything else, and so with no byte order mark.
        if std::mem::take(&mut self.at_start) && buffer[0] != b'"' {
            return damaged("it does not begin with a row");
        }
        self.last = *last;
        self.odd_quotes ^= memchr::memchr_iter(b'"', &buffer[..read]).count() % 2 == 1;
        self.budget -= read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
