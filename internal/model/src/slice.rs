//! A slice: an append-only sequence of frames on one volume, under one mapping version.
//!
//! ```text
//! writing ──close──▶ closing ──seal──▶ uploading ──upload──▶ uploaded
//!                        └────seal, no rows────────────────────▲
//! ```
//!
//! Who makes a transition is fixed: the coordinator closes, the storage-writer that holds the volume seals, the
//! storage-reader on the same machine uploads. That a slice is *imported* is read off its file and never written here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hours::{Hour, LaterHours};
use crate::id::{FileId, SessionId, SliceId, VolumeId};
use crate::key::SinkKey;
use crate::level::{Compression, Durability};
use crate::retry::Retry;
use crate::statistics::Figures;
use crate::time::Timestamp;
use crate::trigger::{Reason, UploadTrigger};

/// The most sessions whose last sequence number a slice remembers. One more and the slice is rotated.
pub const MAX_SESSIONS: usize = 64;

/// A slice as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Slice {
    /// Which slice.
    pub id: SliceId,
    /// The sink whose rows it holds.
    pub sink: SinkKey,
    /// What it holds.
    #[serde(default, skip_serializing_if = "Kind::is_rows")]
    pub kind: Kind,
    /// The file it is imported with; [`FileId::none`] for rejected records, which are not imported.
    pub file: FileId,
    /// The volume that holds it until it is uploaded.
    pub volume: VolumeId,
    /// Version of the sink's definition under which its rows were mapped.
    pub mapping_version: u64,
    /// Compression of its frames.
    pub compression: Compression,
    /// What an acknowledgement of its rows promises.
    pub durability: Durability,
    /// When it is rotated. The interval is the lesser of the upload and the import interval, so that an import never
    /// has to wait for an upload first.
    pub trigger: UploadTrigger,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Where it is in its life.
    pub state: State,
    /// The last failure of the current step, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// That its rows are given up, because a person said that the volume is lost. Such a slice is uploaded without rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forgotten: Option<Forgotten>,
}

/// What a slice holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Rows of the sink's table.
    #[default]
    Rows,
    /// Records that the sink's mapping refuses ([`crate::rejects`]).
    Rejects,
}

impl Kind {
    /// Whether these are rows of the table. The argument is a reference because `serde` wants one.
    #[must_use]
    pub fn is_rows(&self) -> bool {
        *self == Self::Rows
    }
}

/// That the rows of a slice are given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forgotten {
    /// When.
    pub at: Timestamp,
    /// How many rows it had, if it was sealed: only then that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Arrival of the earliest record of these; none when there are none, and in what older versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_at: Option<Timestamp>,
    /// Rows that arrived in later hours than that, by hour.
    #[serde(default, skip_serializing_if = "LaterHours::is_empty")]
    pub later_hours: LaterHours,
}

/// SHA-256 of no bytes.
const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Where a slice is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name")]
pub enum State {
    /// Takes batches.
    Writing,
    /// The writer has been told to seal it; batches in flight may still be committed until it does.
    #[serde(rename_all = "camelCase")]
    Closing(Closing),
    /// Sealed: no later append can succeed. The reader uploads it.
    #[serde(rename_all = "camelCase")]
    Uploading {
        /// How it was closed.
        closing: Closing,
        /// What was sealed.
        seal: Seal,
    },
    /// In staging, or empty.
    #[serde(rename_all = "camelCase")]
    Uploaded {
        /// How it was closed.
        closing: Closing,
        /// What was sealed.
        seal: Seal,
        /// Name of the object in staging; none for a slice without rows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        object: Option<String>,
        /// When the upload was committed.
        at: Timestamp,
    },
}

/// How a slice was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Closing {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: Reason,
    /// The slice that takes the rows from now on; none when the sink stopped taking rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<SliceId>,
}

/// The final content of a slice, committed with the transition that makes it immutable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seal {
    /// When.
    pub at: Timestamp,
    /// Incarnation of the volume that sealed it.
    pub incarnation: u64,
    /// Rows, bytes and times. `bytes` is the exact length of the slice file and of the object.
    pub figures: Figures,
    /// Rows that arrived in later hours than the first record, by hour. All others arrived in the hour of that one; so do all
    /// in a seal of an older version.
    #[serde(default, skip_serializing_if = "LaterHours::is_empty")]
    pub later_hours: LaterHours,
    /// SHA-256 of the slice file, 64 hexadecimal digits. Verified when the slice is uploaded and when it is imported.
    pub checksum: String,
    /// The highest committed sequence number of each session that wrote to the slice: what a client that lost an answer
    /// needs to know, even after the slice has left the volume.
    pub sessions: BTreeMap<SessionId, u64>,
}

/// What happens to a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The coordinator rotates it.
    Close(Closing),
    /// The writer seals it.
    Seal(Seal),
    /// The writer rebuilt the file of a sealed slice from its journal and got other bytes for the same rows, as after an
    /// upgrade of the compression library; or it got fewer rows, because the disk has damaged some.
    Reseal(Seal),
    /// The reader has put the object into staging.
    Upload {
        /// Name of the object.
        object: String,
        /// When.
        at: Timestamp,
    },
    /// A person has said that the volume is lost: the rows are given up.
    Forget {
        /// The incarnation of the volume that was raised for that.
        incarnation: u64,
        /// When.
        at: Timestamp,
    },
}

/// An event that the current state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("slice {slice} cannot {event}: it is {state}")]
pub struct IllegalTransition {
    /// The slice.
    pub slice: SliceId,
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
            Self::Closing(_) => "closing",
            Self::Uploading { .. } => "uploading",
            Self::Uploaded { .. } => "uploaded",
        }
    }
}

impl Event {
    const fn name(&self) -> &'static str {
        match self {
            Self::Close(_) => "be closed",
            Self::Seal(_) => "be sealed",
            Self::Reseal(_) => "be sealed again",
            Self::Upload { .. } => "be uploaded",
            Self::Forget { .. } => "be forgotten",
        }
    }
}

impl Slice {
    /// The slice after `event`.
    ///
    /// # Errors
    /// When the state does not allow the event.
    pub fn apply(self, event: Event) -> Result<Self, IllegalTransition> {
        let illegal = IllegalTransition {
            slice: self.id,
            state: self.state.name(),
            event: event.name(),
        };
        let mut forgotten = self.forgotten.clone();
        let state = match (self.state.clone(), event) {
            (
                state @ (State::Writing | State::Closing(_) | State::Uploading { .. }),
                Event::Forget { incarnation, at },
            ) => {
                let seal = self.seal();
                forgotten = Some(Forgotten {
                    at,
                    rows: seal.map(|seal| seal.figures.rows),
                    first_at: seal.and_then(|seal| seal.figures.first_at),
                    later_hours: seal.map(|it| it.later_hours.clone()).unwrap_or_default(),
                });
                Self::given_up(state, incarnation, at)
            }
            (State::Writing, Event::Close(closing)) => State::Closing(closing),
            (State::Closing(closing), Event::Seal(seal)) => Self::sealed(closing, seal),
            (State::Uploading { closing, seal: old }, Event::Reseal(seal))
                if seal.figures.rows <= old.figures.rows && seal.sessions == old.sessions =>
            {
                Self::sealed(closing, seal)
            }
            (State::Uploading { closing, seal }, Event::Upload { object, at }) => State::Uploaded {
                closing,
                seal,
                object: Some(object),
                at,
            },
            (
                State::Writing
                | State::Closing(_)
                | State::Uploading { .. }
                | State::Uploaded { .. },
                Event::Close(_)
                | Event::Seal(_)
                | Event::Reseal(_)
                | Event::Upload { .. }
                | Event::Forget { .. },
            ) => return Err(illegal),
        };
        Ok(Self {
            state,
            retry: None,
            forgotten,
            ..self
        })
    }

    /// The state of a slice whose rows are given up: as if it had been sealed empty. Sessions of an earlier seal stay, because
    /// their clients have been told that those batches are kept; the others are told that nothing was written, and send again.
    fn given_up(state: State, incarnation: u64, at: Timestamp) -> State {
        let (closing, sessions) = match state {
            State::Writing => (None, BTreeMap::new()),
            State::Closing(closing) => (Some(closing), BTreeMap::new()),
            State::Uploading { closing, seal } | State::Uploaded { closing, seal, .. } => {
                (Some(closing), seal.sessions)
            }
        };
        let closing = closing.unwrap_or(Closing {
            at,
            reason: Reason::Drain,
            successor: None,
        });
        let seal = Seal {
            at,
            incarnation,
            figures: Figures::default(),
            checksum: NOTHING.to_owned(),
            later_hours: LaterHours::default(),
            sessions,
        };
        Self::sealed(closing, seal)
    }

    /// The state after a seal. Nothing has to be uploaded of a slice without rows.
    fn sealed(closing: Closing, seal: Seal) -> State {
        if seal.figures.rows == 0 {
            return State::Uploaded {
                closing,
                at: seal.at,
                seal,
                object: None,
            };
        }
        State::Uploading { closing, seal }
    }

    /// What was sealed, once it was.
    #[must_use]
    pub const fn seal(&self) -> Option<&Seal> {
        match &self.state {
            State::Writing | State::Closing(_) => None,
            State::Uploading { seal, .. } | State::Uploaded { seal, .. } => Some(seal),
        }
    }

    /// What was sealed, by the hour in which it arrived.
    #[must_use]
    pub fn sealed_by_hour(&self) -> Vec<(Hour, u64)> {
        let of_seal = |seal: &Seal| seal.later_hours.by_hour(&seal.figures, self.opened_at);
        self.seal().map(of_seal).unwrap_or_default()
    }

    /// What was given up of it, by the hour in which it arrived, as far as that is known.
    #[must_use]
    pub fn lost_by_hour(&self) -> Vec<(Hour, u64)> {
        let of_lost = |lost: &Forgotten| {
            let figures = Figures {
                rows: lost.rows.unwrap_or(0),
                first_at: lost.first_at,
                ..Figures::default()
            };
            lost.later_hours.by_hour(&figures, self.opened_at)
        };
        self.forgotten.as_ref().map(of_lost).unwrap_or_default()
    }

    /// How it was closed, once it was.
    #[must_use]
    pub const fn closing(&self) -> Option<&Closing> {
        match &self.state {
            State::Writing => None,
            State::Closing(closing)
            | State::Uploading { closing, .. }
            | State::Uploaded { closing, .. } => Some(closing),
        }
    }

    /// Name of the object in staging, for an uploaded slice with rows.
    #[must_use]
    pub fn object(&self) -> Option<&str> {
        match &self.state {
            State::Uploaded { object, .. } => object.as_deref(),
            State::Writing | State::Closing(_) | State::Uploading { .. } => None,
        }
    }

    /// Whether its rows have left the volume, or there were none.
    #[must_use]
    pub const fn is_uploaded(&self) -> bool {
        matches!(self.state, State::Uploaded { .. })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::definition::TableKind;

    pub(crate) fn slice(id: u8) -> Slice {
        Slice {
            id: SliceId::from_bytes([id; 16]),
            sink: SinkKey {
                source: crate::SourceKey {
                    branch: crate::BranchKey {
                        project: crate::ProjectId(1),
                        branch: crate::BranchId(1),
                    },
                    source: "orders".parse().expect("valid"),
                },
                sink: "raw".parse().expect("valid"),
            },
            kind: Kind::Rows,
            file: FileId::from_bytes([9; 16]),
            volume: VolumeId::from_bytes([8; 16]),
            mapping_version: 1,
            compression: Compression::Zstd { level: 1 },
            durability: Durability::Disk,
            trigger: UploadTrigger::default_for(TableKind::Sqlite),
            opened_at: Timestamp::from_millis(0),
            state: State::Writing,
            retry: None,
            forgotten: None,
        }
    }

    pub(crate) fn closing() -> Closing {
        Closing {
            at: Timestamp::from_millis(5),
            reason: Reason::Count,
            successor: None,
        }
    }

    pub(crate) fn seal(rows: u64) -> Seal {
        Seal {
            at: Timestamp::from_millis(6),
            incarnation: 1,
            figures: Figures {
                rows,
                raw_bytes: rows * 10,
                bytes: rows * 3,
                first_at: None,
                last_at: None,
            },
            checksum: "00".repeat(32),
            later_hours: LaterHours::default(),
            sessions: BTreeMap::from([(SessionId(1), rows)]),
        }
    }

    #[test]
    fn a_slice_of_a_lost_volume_is_given_up_in_any_state_but_the_last() {
        let at = Timestamp::from_millis(9);
        let forget = || Event::Forget { incarnation: 7, at };
        let closed = slice(1).apply(Event::Close(closing())).expect("closed");
        let sealed = closed.clone().apply(Event::Seal(seal(3))).expect("sealed");
        for (before, rows) in [(slice(1), None), (closed, None), (sealed, Some(3))] {
            let sessions = before.seal().map(|seal| seal.sessions.clone());
            let after = before.clone().apply(forget()).expect("given up");
            let forgotten = after.forgotten.as_ref();
            assert_eq!(forgotten.map(|it| (it.at, it.rows)), Some((at, rows)));
            assert!(after.is_uploaded() && after.object().is_none());
            let seal = after.seal().expect("sealed");
            assert_eq!((seal.figures.rows, seal.incarnation), (0, 7));
            assert_eq!(seal.sessions, sessions.unwrap_or_default());
            assert_eq!(crate::invariant::check_slice(&before, &after), Ok(()));
            assert!(after.apply(forget()).is_err(), "once");
        }
    }

    #[test]
    fn lives_from_writing_to_uploaded() {
        let closing_slice = slice(1)
            .apply(Event::Close(closing()))
            .expect("writing may be closed");
        assert_eq!(closing_slice.state.name(), "closing");
        let uploading = closing_slice
            .apply(Event::Seal(seal(3)))
            .expect("closing may be sealed");
        assert_eq!(uploading.state.name(), "uploading");
        let event = Event::Upload {
            object: "a/b".to_owned(),
            at: Timestamp::from_millis(7),
        };
        let uploaded = uploading.apply(event).expect("uploading may be uploaded");
        assert_eq!(uploaded.object(), Some("a/b"));
        assert_eq!(uploaded.seal().map(|s| s.figures.rows), Some(3));
    }

    #[test]
    fn a_seal_without_rows_needs_no_upload() {
        let closed = slice(1).apply(Event::Close(closing())).expect("closed");
        let uploaded = closed.apply(Event::Seal(seal(0))).expect("sealed");
        assert!(uploaded.is_uploaded());
        assert_eq!(uploaded.object(), None);
    }

    #[test]
    fn resealing_can_lose_rows_but_never_gain_any_or_change_sessions() {
        let sealed = slice(1).apply(Event::Close(closing())).expect("closed");
        let sealed = sealed.apply(Event::Seal(seal(3))).expect("sealed");
        let resealed = |rows: u64, last: u64| {
            let sessions = BTreeMap::from([(SessionId(1), last)]);
            sealed.clone().apply(Event::Reseal(Seal {
                sessions,
                ..seal(rows)
            }))
        };
        assert_eq!(
            resealed(3, 3).expect("other bytes").state.name(),
            "uploading"
        );
        assert_eq!(
            resealed(2, 3)
                .expect("a row was damaged")
                .seal()
                .map(|s| s.figures.rows),
            Some(2)
        );
        assert!(resealed(0, 3).expect("all rows were damaged").is_uploaded());
        assert!(resealed(4, 3).is_err());
        assert!(resealed(2, 2).is_err());
    }

    #[test]
    fn every_other_order_is_refused() {
        let writing = slice(1);
        let closed = slice(1).apply(Event::Close(closing())).expect("closed");
        let uploading = closed.clone().apply(Event::Seal(seal(3))).expect("sealed");
        let upload = Event::Upload {
            object: "x".to_owned(),
            at: Timestamp::from_millis(7),
        };
        let uploaded = uploading.clone().apply(upload.clone()).expect("uploaded");
        for (from, events) in [
            (
                &writing,
                vec![Event::Seal(seal(1)), Event::Reseal(seal(1)), upload.clone()],
            ),
            (
                &closed,
                vec![
                    Event::Close(closing()),
                    Event::Reseal(seal(1)),
                    upload.clone(),
                ],
            ),
            (
                &uploading,
                vec![Event::Close(closing()), Event::Seal(seal(3))],
            ),
            (
                &uploaded,
                vec![
                    Event::Close(closing()),
                    Event::Seal(seal(3)),
                    Event::Reseal(seal(3)),
                    upload,
                ],
            ),
        ] {
            for event in events {
                assert!(
                    from.clone().apply(event.clone()).is_err(),
                    "{} {}",
                    from.state.name(),
                    event.name()
                );
            }
        }
    }

    #[test]
    fn json_form_round_trips() {
        let mut seal = seal(3);
        seal.later_hours = [(Hour(1), 2)].into_iter().collect();
        let sealed = slice(1)
            .apply(Event::Close(closing()))
            .expect("closed")
            .apply(Event::Seal(seal))
            .expect("sealed");
        let json = serde_json::to_string(&sealed).expect("serialises");
        assert!(json.contains(r#""state":{"name":"uploading""#), "{json}");
        let hours = r#""laterHours":{"1970-01-01T01:00:00.000Z":2}"#;
        assert!(json.contains(hours), "{json}");
        assert_eq!(
            serde_json::from_str::<Slice>(&json).expect("parses"),
            sealed
        );
    }
}
