//! Rows into the target table, each file exactly once.
//!
//! A target is a place that holds tables: a database, a warehouse. All of them answer to one trait, [`Target`], and one
//! conformance suite. The crate is given decoded rows ([`RowStream`]) and knows nothing of staging, CSV or compression.
//!
//! What every target guarantees:
//!
//! - The rows of a file become visible all at once, together with the file's id in the target's own ledger. The ledger
//!   is the truth about what was imported: importing the same file again changes nothing and says so.
//! - When [`Target::import`] returns, the rows survive a power loss, as far as the target can promise that at all. The
//!   staged objects may go.
//! - A stream that fails, or a caller that stops polling, leaves no trace in the table.
//! - With a primary key the last row of a key wins, in the order of the stream.
//!
//! - A file that [`Target::remove`] was told of is never imported afterwards, also not by an import that began before.
//! - A column of a data type holds values of that type, and NULL where the text is empty.
//!
//! The crate refuses to convert values silently: text goes in, the same text comes out, or there is an error. What does not
//! have the form of the data type of its column is an error too: it was checked when the record was mapped.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests join what they spawn")
)]

mod error;
pub mod keboola;
mod registry;
mod rows;
pub mod sqlite;
mod table;

#[cfg(test)]
mod conformance;

pub use error::{RowsError, TargetError};
pub use registry::Targets;
pub use rows::{InvalidRow, Row, RowBlock, RowStream};
pub use table::{MAX_COLUMN_NAME_LEN, MAX_TABLE_ID_LEN, validate_table};

use std::collections::BTreeSet;

use async_trait::async_trait;
use stream_model::definition::{Table, TableKind};
use stream_model::{FileId, SinkKey, Timestamp};

/// A place that holds tables.
#[async_trait]
pub trait Target: Send + Sync {
    /// Which kind of tables it holds.
    fn kind(&self) -> TableKind;

    /// Creates the table if it is missing and adds the columns that it lacks. Repeating it is harmless.
    ///
    /// # Errors
    /// `Invalid` with one sentence when the existing table cannot take the rows: another primary key, a column that
    /// would change values.
    async fn prepare(&self, table: &Table) -> Result<(), TargetError>;

    /// Adds all rows of a file to its table and the file to the ledger, in one transaction. A file that is in the
    /// ledger already is left alone and its rows are not read; the result then says `already`.
    ///
    /// # Errors
    /// Nothing was imported, unless the failure was that of the commit itself: then [`Target::status`] knows. Either
    /// way the same call may be repeated.
    ///
    /// # Cancel safety
    /// Dropping the future rolls back, or comes too late and the file is imported as a whole.
    async fn import(&self, file: &ImportFile, rows: RowStream) -> Result<Imported, TargetError>;

    /// Looks a file up in the ledger. A file that is being imported is not there yet.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    async fn status(&self, file: FileId) -> Result<Option<Imported>, TargetError>;

    /// Enters files that were not imported into the ledger, so that they never will be, and drops the table if asked to,
    /// in one transaction. Answers which of the files had been imported before. Repeating it is harmless, also when the
    /// table is gone, and also when another one has taken its name since: each removal drops a table once.
    ///
    /// # Errors
    /// Nothing was changed, unless the failure was that of the commit itself. Either way the same call may be repeated.
    async fn remove(&self, removal: &Removal) -> Result<BTreeSet<FileId>, TargetError>;
}

/// What goes with a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Which removal. It is entered into the ledger when the table is dropped: who repeats it too late drops nothing.
    pub id: FileId,
    /// The sink. Written to the ledger, for people who look at it.
    pub sink: SinkKey,
    /// Its table.
    pub table: Table,
    /// Its files that are not known to be imported.
    pub files: Vec<FileId>,
    /// What happens to the table.
    pub fate: Fate,
}

/// What happens to the table of a sink that is purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes, with all its rows.
    Dropped,
    /// It stays as it is, because others write to it.
    Kept,
}

/// A file to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportFile {
    /// The file. The ledger knows it by this id.
    pub id: FileId,
    /// The sink whose rows it holds. Written to the ledger, for people who look at it.
    pub sink: SinkKey,
    /// The table, as it was defined when the file was opened. The rows have its columns in its order.
    pub table: Table,
}

/// A file that is in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// Rows in the file. With a primary key the table may have gained fewer.
    pub rows: u64,
    /// When it was imported.
    pub at: Timestamp,
    /// True: it was there before this call. False: this call put it there.
    pub already: bool,
}
