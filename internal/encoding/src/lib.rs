//! Record → CSV row → compressed frame, and back again.
//!
//! ```text
//! Record ──CompiledMapping──▶ Rows (CSV) ──Encoder──▶ frame ──▶ slice: frames, one after the other
//!                                                                 │
//! RowValues ◀────────────────────RowReader────────────────────────┘
//! ```
//!
//! This is the hot path of the service: it runs for every record, on the thread that received it. It is synchronous,
//! does no I/O of its own and never builds a tree of a JSON body: the body is scanned once, which checks it and finds
//! the values that the columns ask for.
//!
//! Invariants:
//!
//! * the CSV is UTF-8; every value is quoted, `"` is doubled, values are separated by `,` and rows end with `\n`;
//! * a record that cannot be mapped leaves no trace in the rows;
//! * a row is never longer than [`MAX_ROW_LEN`], whatever the body says;
//! * each frame can be decompressed alone, and frames written one after the other form a valid file of their codec;
//! * bytes from the network or from disk never panic: they are a value or an error.
//!
//! The crate refuses to know sinks, slices and volumes, and to run templates that are more than a single call on this path: a
//! template that could loop is evaluated in another process ([`jsonnet`]), and its values are given to the mapping.

mod batch;
mod calendar;
mod canonical;
mod column;
mod compress;
mod content;
mod csv;
mod decode;
mod error;
mod form;
mod frame;
pub mod jsonnet;
mod mapping;
mod path;
mod record;
mod reject;
mod row;
mod scan;
mod selection;
mod strftime;
mod template;

pub use batch::{BatchError, BatchFormat, BatchLimits, Malformed};
pub use compress::{CompressError, Encoder};
pub use content::{ContentEncoding, ContentError, UnknownEncoding};
pub use decode::{DecodeError, RowReader, RowValues};
pub use error::{CompileError, MapError};
pub use frame::{FrameError, decompress_frames};
pub use mapping::{CompiledMapping, MAX_COLUMN_NAME_LEN};
pub use record::{ContentType, Headers, Record};
pub use reject::{REJECT_COLUMNS, Reject};
pub use row::{MAX_ROW_LEN, Mark, Rows};
