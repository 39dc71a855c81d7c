//! What is left of a purged sink: slices whose rows nobody will import, until their volumes and staging are rid of them.
//!
//! Purging a sink takes its files and slices out of the state at once, so that a new sink of the same name begins with
//! nothing. What they stood for is still on disks that may be away, and in staging. Each slice therefore leaves a note: its
//! writer reads there that it may release the slice without an upload, a source what became of its last batches, and the
//! clean-up which object to remove.
//!
//! The table of such a sink goes unless another one writes to it. While that is decided and done it is marked ([`Dropping`]).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::definition::{TableKind, TablePlace};
use crate::id::FileId;
use crate::key::SinkKey;
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

/// That a table is being dropped with a sink. As long as it is, no sink can be stored that writes to the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropping {
    /// The sink.
    pub sink: SinkKey,
    /// Which kind of target holds the table.
    #[serde(rename = "type")]
    pub kind: TableKind,
    /// Name of the table in the target.
    pub table_id: String,
    /// Since when.
    pub at: Timestamp,
}

impl Dropping {
    /// Which table it is.
    #[must_use]
    pub fn place(&self) -> TablePlace {
        TablePlace::of(self.kind, &self.table_id, &self.sink)
    }
}

/// The identifier under which a target enters that it has dropped the table of a sink that was purged then. The same for
/// everybody who works on that purge, and for no other one.
#[must_use]
pub fn removal_id(sink: &SinkKey, purge: Timestamp) -> FileId {
    let hash = Sha256::digest(format!("removal/{sink}/{}", purge.as_millis()));
    let mut random = [0; 10];
    random.copy_from_slice(&hash[..10]);
    FileId::new(purge, random)
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
