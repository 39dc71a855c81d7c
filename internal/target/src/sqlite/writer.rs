//! The writing side of a database: one transaction at a time, on a blocking thread.

use std::collections::BTreeSet;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement, Transaction, TransactionBehavior};
use stream_model::definition::Table;
use stream_model::definition::mapping::DataType;
use stream_model::{Clock, FileId, Timestamp};
use tokio::sync::mpsc;

use super::{failure, ledger, schema};
use crate::{Fate, ImportFile, Imported, Removal, RowBlock, TargetError};

/// What the stream of rows is turned into for the writing thread.
pub(super) enum Fed {
    /// Some rows.
    Block(RowBlock),
    /// There are no more, and all were handed over.
    End,
}

/// The connection that writes.
pub(super) struct Writer {
    db: Connection,
    /// When the ledger was last pruned; none since the process started.
    pruned_at: Option<Timestamp>,
}

impl Writer {
    pub(super) fn new(db: Connection) -> Self {
        Self {
            db,
            pruned_at: None,
        }
    }

    #[cfg(test)]
    pub(super) fn db(&self) -> &Connection {
        &self.db
    }

    /// Creates or completes a table.
    pub(super) fn prepare(&mut self, table: &Table) -> Result<(), TargetError> {
        let transaction = begin(&mut self.db)?;
        schema::apply(&transaction, table)?;
        commit(transaction)
    }

    /// Imports a file, unless the ledger has it. Any error, and the end of the channel without [`Fed::End`], roll back:
    /// the transaction does when it is dropped.
    pub(super) fn import(
        &mut self,
        file: &ImportFile,
        feed: &mut mpsc::Receiver<Fed>,
        clock: &dyn Clock,
    ) -> Result<Imported, TargetError> {
        // The database is not locked for other programs before there is something to write.
        let first = feed.blocking_recv().ok_or(TargetError::Stopped)?;
        let at = clock.now();
        let transaction = begin(&mut self.db)?;
        if let Some(imported) = ledger::claim(&transaction, file, at)? {
            return Ok(imported);
        }
        // Prepared before, normally; but a table can be dropped, and a database restored from a backup.
        schema::apply(&transaction, &file.table)?;
        let rows = insert(&transaction, file, first, feed)?;
        ledger::complete(&transaction, file.id, rows)?;
        let due = self
            .pruned_at
            .is_none_or(|pruned| at.since(pruned) >= ledger::PRUNE_INTERVAL);
        let pruned = due && ledger::prune(&transaction, at)?;
        commit(transaction)?;
        if pruned {
            self.pruned_at = Some(at);
        }
        tracing::debug!(file = %file.id, table = file.table.table_id, rows, "imported a file");
        Ok(Imported {
            rows,
            at,
            already: false,
        })
    }
}

impl Writer {
    /// Fences files off and drops their table.
    pub(super) fn remove(
        &mut self,
        removal: &Removal,
        clock: &dyn Clock,
    ) -> Result<BTreeSet<FileId>, TargetError> {
        let (at, mut imported) = (clock.now(), BTreeSet::new());
        let transaction = begin(&mut self.db)?;
        let entry = |id: FileId| ImportFile {
            id,
            sink: removal.sink.clone(),
            table: removal.table.clone(),
        };
        for id in &removal.files {
            // An entry with rows is an import. One without was made here, or the file had none.
            let known = ledger::claim(&transaction, &entry(*id), at)?;
            if known.is_some_and(|known| known.rows > 0) {
                imported.insert(*id);
            }
        }
        let is_new = || ledger::claim(&transaction, &entry(removal.id), at);
        if removal.fate == Fate::Dropped && is_new()?.is_none() {
            schema::drop(&transaction, &removal.table)?;
        }
        commit(transaction)?;
        Ok(imported)
    }
}

/// Begins a transaction that has the right to write from the start: one that read first could be refused later.
fn begin(db: &mut Connection) -> Result<Transaction<'_>, TargetError> {
    db.transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failure::of("begin a write transaction"))
}

fn commit(transaction: Transaction<'_>) -> Result<(), TargetError> {
    transaction
        .commit()
        .map_err(failure::of("commit to the database"))
}

fn insert(
    transaction: &Transaction<'_>,
    file: &ImportFile,
    first: Fed,
    feed: &mut mpsc::Receiver<Fed>,
) -> Result<u64, TargetError> {
    let failed = failure::of_table("write rows", &file.table.table_id);
    let mut statement = transaction
        .prepare(&schema::insert_statement(&file.table))
        .map_err(&failed)?;
    let columns = file.table.mapping.columns.iter();
    let types: Vec<DataType> = columns.map(|column| column.data_type).collect();
    let mut rows = 0;
    let mut next = first;
    while let Fed::Block(block) = next {
        check_columns(file, &block)?;
        insert_block(&mut statement, &types, &block).map_err(|error| match error {
            Insert::Failed(error) => failed(error),
            Insert::NotOfType { column } => not_of_type(file, column),
        })?;
        rows += block.len() as u64;
        next = feed.blocking_recv().ok_or(TargetError::Stopped)?;
    }
    Ok(rows)
}

fn check_columns(file: &ImportFile, block: &RowBlock) -> Result<(), TargetError> {
    let expected = file.table.mapping.columns.len();
    if block.columns() == expected {
        return Ok(());
    }
    Err(TargetError::Corrupt {
        what: format!(
            "file {} has rows of {} values and table {:?} has {expected} columns",
            file.id,
            block.columns(),
            file.table.table_id
        ),
        source: None,
    })
}

fn not_of_type(file: &ImportFile, column: usize) -> TargetError {
    let columns = &file.table.mapping.columns;
    let column = columns.get(column).map_or("", |column| &column.name);
    TargetError::Corrupt {
        what: format!(
            "file {} has a value in column {column:?} of table {:?} that is not of the data type of the column",
            file.id, file.table.table_id
        ),
        source: None,
    }
}

/// Why rows were not inserted.
enum Insert {
    Failed(rusqlite::Error),
    /// A value that mapping should have refused.
    NotOfType {
        column: usize,
    },
}

impl From<rusqlite::Error> for Insert {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

/// The hot path: one prepared statement, values bound straight from the block.
fn insert_block(
    statement: &mut Statement<'_>,
    types: &[DataType],
    block: &RowBlock,
) -> Result<(), Insert> {
    for row in block.rows() {
        for (index, (value, data_type)) in row.values().zip(types).enumerate() {
            if *data_type == DataType::String {
                statement.raw_bind_parameter(index + 1, value)?;
                continue;
            }
            let value = typed(value, *data_type).ok_or(Insert::NotOfType { column: index })?;
            statement.raw_bind_parameter(index + 1, value)?;
        }
        statement.raw_execute()?;
    }
    Ok(())
}

/// A value of a data type. An empty one is NULL.
fn typed(value: &str, data_type: DataType) -> Option<ToSqlOutput<'_>> {
    let value = match data_type {
        _ if value.is_empty() => ValueRef::Null,
        DataType::String | DataType::Timestamp | DataType::Json => ValueRef::Text(value.as_bytes()),
        DataType::Int => ValueRef::Integer(value.parse().ok()?),
        DataType::Float => {
            let number: f64 = value.parse().ok()?;
            ValueRef::Real(Some(number).filter(|number| number.is_finite())?)
        }
        DataType::Bool => ValueRef::Integer(match value {
            "true" => 1,
            "false" => 0,
            _ => return None,
        }),
    };
    Some(ToSqlOutput::Borrowed(value))
}
