//! The rows of a file, read from staging: slice after slice in their order, decompressed, split, counted.
//!
//! A thread of the blocking pool reads and decodes; the target takes blocks from a channel. The channel holds
//! [`QUEUED_BLOCKS`] blocks of [`BLOCK_BYTES`], filled by that thread and drained by the target, so an import needs the
//! same memory whatever the size of the file.
//!
//! A stream ends well only after the last row of the last slice was checked: length, checksum, number of rows. Any other end
//! is an error, so a target never commits a part of a file.

use std::io::Read;

use futures_util::{StreamExt, stream};
use stream_encoding::{DecodeError, RowReader, RowValues};
use stream_model::level::Compression;
use stream_model::{ErrorKind, SliceId};
use stream_storage::staging::{Content, Staging, StagingError};
use stream_target::{InvalidRow, RowBlock, RowStream, RowsError};
use tokio::sync::mpsc;

/// Text bytes at which a block is passed on.
const BLOCK_BYTES: usize = 256 * 1024;
/// Blocks on their way.
const QUEUED_BLOCKS: usize = 2;

/// A slice with rows in staging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StagedSlice {
    pub(crate) id: SliceId,
    pub(crate) object: String,
    pub(crate) content: Content,
    pub(crate) compression: Compression,
    pub(crate) rows: u64,
}

/// Rows that cannot be read from staging.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The object cannot be opened.
    #[error("cannot read object {object:?} of slice {slice}")]
    Staging {
        slice: SliceId,
        object: String,
        #[source]
        source: StagingError,
    },
    /// The object cannot be decoded, or does not have the recorded length and checksum.
    #[error("cannot decode object {object:?} of slice {slice}")]
    Decode {
        slice: SliceId,
        object: String,
        #[source]
        source: DecodeError,
    },
    /// A row is not one that the table can hold.
    #[error("object {object:?} of slice {slice} has a damaged row after row {rows}")]
    Row {
        slice: SliceId,
        object: String,
        rows: u64,
        #[source]
        source: InvalidRow,
    },
    /// Rows are missing, or there are too many.
    #[error("object {object:?} of slice {slice} has {found} rows instead of {expected}")]
    Count {
        slice: SliceId,
        object: String,
        expected: u64,
        found: u64,
    },
    /// The reading thread ended without a word.
    #[error("reading the rows of the file was interrupted")]
    Interrupted,
}

impl ReadError {
    /// What the caller can do about it.
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Staging { source, .. } => match source.kind() {
                // The state says that the object is there: it was removed by somebody else.
                ErrorKind::NotFound => ErrorKind::Corrupt,
                kind => kind,
            },
            Self::Decode { source, .. } => match source {
                DecodeError::Read { source, .. }
                    if source.kind() == std::io::ErrorKind::InvalidData =>
                {
                    ErrorKind::Corrupt
                }
                other => other.kind(),
            },
            Self::Row { .. } | Self::Count { .. } => ErrorKind::Corrupt,
            Self::Interrupted => ErrorKind::Unavailable,
        }
    }
}

enum Message {
    Block(RowBlock),
    Failed(ReadError),
    Complete,
}

/// The consumer has gone.
struct Abandoned;

/// The rows of these slices, in this order, each of `columns` values. Must be called within a runtime.
pub(crate) fn stream(staging: Staging, slices: Vec<StagedSlice>, columns: usize) -> RowStream {
    let (sender, receiver) = mpsc::channel(QUEUED_BLOCKS);
    // Nobody joins the thread: it ends as soon as the receiver is gone, and a panic in it leaves no `Complete` behind.
    drop(tokio::task::spawn_blocking(move || {
        let mut producer = Producer {
            sender,
            block: RowBlock::new(columns),
            columns,
        };
        for slice in &slices {
            match producer.read(&staging, slice) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return producer.end(Message::Failed(error)),
                Err(Abandoned) => return,
            }
        }
        if producer.flush().is_ok() {
            producer.end(Message::Complete);
        }
    }));
    stream::unfold(Some(receiver), |receiver| async {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Message::Block(block)) => Some((Ok(block), Some(receiver))),
            Some(Message::Failed(error)) => Some((Err(RowsError(Box::new(error))), None)),
            Some(Message::Complete) => None,
            None => Some((Err(RowsError(Box::new(ReadError::Interrupted))), None)),
        }
    })
    .boxed()
}

struct Producer {
    sender: mpsc::Sender<Message>,
    block: RowBlock,
    columns: usize,
}

impl Producer {
    fn read(
        &mut self,
        staging: &Staging,
        slice: &StagedSlice,
    ) -> Result<Result<(), ReadError>, Abandoned> {
        match staging.read_blocking(&slice.object, &slice.content) {
            Ok(input) => self.decode(slice, input),
            Err(source) => {
                let object = slice.object.clone();
                Ok(Err(ReadError::Staging {
                    slice: slice.id,
                    object,
                    source,
                }))
            }
        }
    }

    fn decode(
        &mut self,
        slice: &StagedSlice,
        input: impl Read,
    ) -> Result<Result<(), ReadError>, Abandoned> {
        let object = || slice.object.clone();
        let mut reader = RowReader::new(slice.compression, self.columns, input);
        let mut row = RowValues::new();
        loop {
            match reader.next(&mut row) {
                Ok(true) => {}
                Ok(false) => break,
                Err(source) => {
                    return Ok(Err(ReadError::Decode {
                        slice: slice.id,
                        object: object(),
                        source,
                    }));
                }
            }
            if let Err(source) = self.block.push_row(row.iter()) {
                let rows = reader.rows() - 1;
                return Ok(Err(ReadError::Row {
                    slice: slice.id,
                    object: object(),
                    rows,
                    source,
                }));
            }
            if self.block.bytes() >= BLOCK_BYTES {
                self.flush()?;
            }
        }
        let (expected, found) = (slice.rows, reader.rows());
        if expected != found {
            return Ok(Err(ReadError::Count {
                slice: slice.id,
                object: object(),
                expected,
                found,
            }));
        }
        Ok(Ok(()))
    }

    fn flush(&mut self) -> Result<(), Abandoned> {
        if self.block.is_empty() {
            return Ok(());
        }
        let block = std::mem::replace(&mut self.block, RowBlock::new(self.columns));
        self.sender
            .blocking_send(Message::Block(block))
            .map_err(|_| Abandoned)
    }

    fn end(self, message: Message) {
        // A consumer that has gone does not need to know.
        let _ = self.sender.blocking_send(message);
    }
}

#[cfg(test)]
mod tests;
