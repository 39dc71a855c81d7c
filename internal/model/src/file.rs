//! A file: the set of slices of one sink that is imported into the target in one transaction.
//!
//! ```text
//! writing ──close──▶ closing ──all slices uploaded──▶ importing ──target committed──▶ imported
//! ```
//!
//! All transitions are the coordinator's. The table is a snapshot of the sink's definition at opening: what was written
//! under one definition is imported under the same one.

use serde::{Deserialize, Serialize};

use crate::definition::Table;
use crate::id::{FileId, VolumeId};
use crate::key::SinkKey;
use crate::retry::Retry;
use crate::time::Timestamp;
use crate::trigger::{ImportTrigger, Reason};

/// A file as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct File {
    /// Which file.
    pub id: FileId,
    /// The sink whose rows it holds.
    pub sink: SinkKey,
    /// Version of the sink's definition that `table` was taken from.
    pub mapping_version: u64,
    /// The target table and its columns.
    pub table: Table,
    /// The volumes on which its slices are written.
    pub volumes: Vec<VolumeId>,
    /// When it is rotated.
    pub trigger: ImportTrigger,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Where it is in its life.
    pub state: State,
    /// The last failure of the current step, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
}

/// Where a file is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name")]
pub enum State {
    /// Its slices take rows.
    Writing,
    /// No slice is added any more; they are being sealed and uploaded.
    #[serde(rename_all = "camelCase")]
    Closing {
        /// When it was closed.
        at: Timestamp,
        /// Why.
        reason: Reason,
    },
    /// All slices are in staging. The import may have begun, and may be repeated: the target recognises the file's id.
    #[serde(rename_all = "camelCase")]
    Importing {
        /// When it was closed.
        closing_at: Timestamp,
        /// When all slices were uploaded.
        at: Timestamp,
    },
    /// The target has committed the rows.
    #[serde(rename_all = "camelCase")]
    Imported {
        /// When it was closed.
        closing_at: Timestamp,
        /// When all slices were uploaded.
        importing_at: Timestamp,
        /// When the target's commit was recorded.
        at: Timestamp,
        /// Rows in the file. With a primary key the table may have gained fewer.
        rows: u64,
    },
}

/// What happens to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// No slice is added any more.
    Close {
        /// When.
        at: Timestamp,
        /// Why.
        reason: Reason,
    },
    /// All slices are uploaded.
    Import {
        /// When.
        at: Timestamp,
    },
    /// The target has committed.
    Complete {
        /// When.
        at: Timestamp,
        /// Rows in the file.
        rows: u64,
    },
}

/// An event that the current state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("file {file} cannot {event}: it is {state}")]
pub struct IllegalTransition {
    /// The file.
    pub file: FileId,
    /// Its state.
    pub state: &'static str,
    /// The refused event.
    pub event: &'static str,
}

impl State {
    /// The name used in formats, logs and answers.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Closing { .. } => "closing",
            Self::Importing { .. } => "importing",
            Self::Imported { .. } => "imported",
        }
    }
}

impl Event {
    const fn name(&self) -> &'static str {
        match self {
            Self::Close { .. } => "be closed",
            Self::Import { .. } => "be imported",
            Self::Complete { .. } => "be completed",
        }
    }
}

impl File {
    /// The file after `event`.
    ///
    /// # Errors
    /// When the state does not allow the event.
    pub fn apply(self, event: Event) -> Result<Self, IllegalTransition> {
        let illegal = IllegalTransition {
            file: self.id,
            state: self.state.name(),
            event: event.name(),
        };
        let state = match (self.state.clone(), event) {
            (State::Writing, Event::Close { at, reason }) => State::Closing { at, reason },
            (State::Closing { at: closing_at, .. }, Event::Import { at }) => {
                State::Importing { closing_at, at }
            }
            (
                State::Importing {
                    closing_at,
                    at: importing_at,
                },
                Event::Complete { at, rows },
            ) => State::Imported {
                closing_at,
                importing_at,
                at,
                rows,
            },
            (
                State::Writing
                | State::Closing { .. }
                | State::Importing { .. }
                | State::Imported { .. },
                Event::Close { .. } | Event::Import { .. } | Event::Complete { .. },
            ) => return Err(illegal),
        };
        Ok(Self {
            state,
            retry: None,
            ..self
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::definition::{Column, ColumnKind, Mapping, TableKind};

    pub(crate) fn file() -> File {
        File {
            id: FileId::from_bytes([1; 16]),
            sink: crate::slice::tests::slice(1).sink,
            mapping_version: 1,
            table: Table {
                kind: TableKind::Sqlite,
                table_id: "orders".to_owned(),
                mapping: Mapping {
                    columns: vec![Column {
                        kind: ColumnKind::Body,
                        name: "body".to_owned(),
                        primary_key: false,
                        data_type: crate::definition::mapping::DataType::String,
                    }],
                },
            },
            volumes: vec![],
            trigger: ImportTrigger::default_for(TableKind::Sqlite),
            opened_at: Timestamp::from_millis(0),
            state: State::Writing,
            retry: None,
        }
    }

    #[test]
    fn lives_from_writing_to_imported_and_in_no_other_order() {
        let at = Timestamp::from_millis(1);
        let events = [
            Event::Close {
                at,
                reason: Reason::Interval,
            },
            Event::Import { at },
            Event::Complete { at, rows: 7 },
        ];
        let mut current = file();
        for (step, event) in events.iter().enumerate() {
            for (other_step, other) in events.iter().enumerate() {
                assert_eq!(
                    current.clone().apply(other.clone()).is_ok(),
                    step == other_step,
                    "{other:?}"
                );
            }
            current = current
                .apply(event.clone())
                .expect("the next step is allowed");
        }
        assert_eq!(current.state.name(), "imported");
        assert!(
            events
                .iter()
                .all(|event| current.clone().apply(event.clone()).is_err())
        );
        let json = serde_json::to_string(&current).expect("serialises");
        assert_eq!(
            serde_json::from_str::<File>(&json).expect("parses"),
            current
        );
    }
}
