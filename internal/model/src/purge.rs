//! What is left of a purged sink: slices whose rows nobody will import, until their volumes and staging are rid of them.
//!
//! Purging a sink takes its files and slices out of the state at once, so that a new sink of the same name begins with
//! nothing. What they stood for is still on disks that may be away, and in staging. Each slice therefore leaves a note: its
//! writer reads there that it may release the slice without an upload, a source what became of its last batches, and the
//! clean-up which object to remove.

use serde::{Deserialize, Serialize};

use crate::slice::Slice;
use crate::time::Timestamp;

/// A slice of a purged sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Purged {
    /// The slice as it was.
    pub slice: Slice,
    /// When the purge was asked for. Tells two purges of the same name apart.
    pub purge: Timestamp,
    /// When the slice was taken out of the state.
    pub at: Timestamp,
    /// What became of its rows.
    pub rows: Rows,
}

/// What became of the rows of a purged slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rows {
    /// They were in the table, and went with it.
    Imported,
    /// They never came into the table.
    Discarded,
}

impl Purged {
    /// How many rows, or rejected records, were discarded; none: nobody knows, because the slice was not sealed.
    #[must_use]
    pub fn discarded(&self) -> Option<u64> {
        match self.rows {
            Rows::Imported => Some(0),
            Rows::Discarded => self.slice.seal().map(|seal| seal.figures.rows),
        }
    }
}
