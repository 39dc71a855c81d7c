//! Counts of rows and bytes.

use serde::{Deserialize, Serialize};

use crate::hours::LaterHours;
use crate::id::{SliceId, VolumeId};
use crate::key::SinkKey;
use crate::time::Timestamp;
use crate::trigger::Reason;

/// How much is in a slice, a file, or a level of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// Rows.
    pub rows: u64,
    /// Bytes before compression.
    pub raw_bytes: u64,
    /// Bytes after compression.
    pub bytes: u64,
    /// Arrival of the earliest record; none when there are no rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_at: Option<Timestamp>,
    /// Arrival of the latest record; none when there are no rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
}

impl Figures {
    /// Adds the other figures to these.
    pub fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.raw_bytes += other.raw_bytes;
        self.bytes += other.bytes;
        self.first_at = match (self.first_at, other.first_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.last_at = self.last_at.max(other.last_at);
    }
}

/// That the statistics of a sink were cleared: what was known at that moment does not count any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cleared {
    /// When.
    pub at: Timestamp,
    /// The figures of all rows at that moment.
    pub rows: Figures,
    /// The figures of all rejected records at that moment.
    pub rejects: Figures,
}

/// A slice on a volume has reached a limit of its trigger. Written once per slice by its writer; removed by the
/// transaction that rotates the slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Crossed {
    /// The sink of the slice.
    pub sink: SinkKey,
    /// The slice.
    pub slice: SliceId,
    /// The volume that holds it.
    pub volume: VolumeId,
    /// Which limit.
    pub reason: Reason,
    /// The figures at that moment. They only grow afterwards; the truth is in the seal.
    pub figures: Figures,
    /// Rows of them that arrived in later hours than the first, by hour.
    #[serde(default, skip_serializing_if = "LaterHours::is_empty")]
    pub later_hours: LaterHours,
    /// When it was noticed.
    pub at: Timestamp,
}

/// What a volume holds that is not uploaded yet. Published at most every 10 s, and only when changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeFigures {
    /// Slices on the volume.
    pub slices: u64,
    /// Their sum.
    pub figures: Figures,
    /// Free bytes of the file system.
    pub free_bytes: u64,
}
