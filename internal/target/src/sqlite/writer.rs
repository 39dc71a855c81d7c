//! The writing side of a database: one transaction at a time, on a blocking thread.

use rusqlite::{Connection, Statement, Transaction, TransactionBehavior};
use stream_model::definition::Table;
use stream_model::{Clock, Timestamp};
use tokio::sync::mpsc;

use super::{failure, ledger, schema};
use crate::{ImportFile, Imported, RowBlock, TargetError};

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
    let mut rows = 0;
    let mut next = first;
    while let Fed::Block(block) = next {
        check_columns(file, &block)?;
        insert_block(&mut statement, &block).map_err(&failed)?;
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

/// The hot path: one prepared statement, values bound straight from the block.
fn insert_block(statement: &mut Statement<'_>, block: &RowBlock) -> rusqlite::Result<()> {
    for row in block.rows() {
        for (index, value) in row.values().enumerate() {
            statement.raw_bind_parameter(index + 1, value)?;
        }
        statement.raw_execute()?;
    }
    Ok(())
}
