//! Reading the tables that the service imports into, with nothing but SQLite.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rusqlite::{Connection, OpenFlags};

/// A database, opened for reading.
#[derive(Debug)]
pub struct Tables {
    db: Connection,
    path: PathBuf,
}

impl Tables {
    /// Opens it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags);
        let db = db.with_context(|| format!("cannot open {}", path.display()))?;
        db.busy_timeout(std::time::Duration::from_secs(30))?;
        Ok(Self {
            db,
            path: path.to_owned(),
        })
    }

    /// Calls `visit` with each row: the values by column, NULL as nothing.
    ///
    /// # Errors
    /// When there is no such table, or it cannot be read; and what `visit` says.
    pub fn each_row(
        &self,
        table: &str,
        mut visit: impl FnMut(&Row) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let failed = || format!("cannot read table {table} of {}", self.path.display());
        let mut statement = self
            .db
            .prepare(&format!("SELECT * FROM {}", quoted(table)))
            .with_context(failed)?;
        let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
        let mut rows = statement.query([]).with_context(failed)?;
        while let Some(row) = rows.next().with_context(failed)? {
            let mut values = BTreeMap::new();
            for (index, name) in names.iter().enumerate() {
                let value: Option<String> = row
                    .get(index)
                    .with_context(|| format!("column {name}"))
                    .with_context(failed)?;
                values.insert(name.clone(), value);
            }
            visit(&Row(values))?;
        }
        Ok(())
    }

    /// How often each value of an SQL expression stands in a table.
    ///
    /// # Errors
    /// When there is no such table, or it cannot be read.
    pub fn counts(&self, table: &str, expression: &str) -> anyhow::Result<BTreeMap<String, i64>> {
        let sql = format!(
            "SELECT {expression}, count(*) FROM {} GROUP BY 1",
            quoted(table)
        );
        let failed = || format!("cannot read table {table} of {}", self.path.display());
        let mut statement = self.db.prepare(&sql).with_context(failed)?;
        let pairs = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        pairs.collect::<Result<_, _>>().with_context(failed)
    }

    /// How many rows a table has.
    ///
    /// # Errors
    /// When there is no such table, or it cannot be read.
    pub fn rows(&self, table: &str) -> anyhow::Result<i64> {
        Ok(self.counts(table, "''")?.into_values().sum())
    }

    /// The number of the last row, without reading the others: as many as there are when none was ever removed. A table that is
    /// not there yet has none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn last_row(&self, table: &str) -> anyhow::Result<i64> {
        let failed = || format!("cannot read table {table} of {}", self.path.display());
        if !self.db.table_exists(None, table).with_context(failed)? {
            return Ok(0);
        }
        let sql = format!("SELECT coalesce(max(rowid), 0) FROM {}", quoted(table));
        let last = self.db.query_row(&sql, [], |row| row.get(0));
        last.with_context(failed)
    }
}

/// A row.
#[derive(Debug)]
pub struct Row(BTreeMap<String, Option<String>>);

impl Row {
    /// The value of a column.
    ///
    /// # Errors
    /// When there is no such column, or the value is NULL.
    pub fn value(&self, column: &str) -> anyhow::Result<&str> {
        let value = self
            .0
            .get(column)
            .with_context(|| format!("there is no column {column}"))?;
        value
            .as_deref()
            .with_context(|| format!("column {column} is NULL"))
    }

    /// How many columns the table has.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.0.len()
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
