//! When a slice is uploaded and when a file is imported.

use serde::{Deserialize, Serialize};

use crate::definition::TableKind;
use crate::statistics::Figures;
use crate::time::Timestamp;
use crate::unit::{ByteSize, Interval};

/// When a slice is closed and uploaded. Whichever limit is reached first, but never sooner than `min_interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadTrigger {
    /// Rows in the slice, 1–10 000 000.
    pub count: u64,
    /// Compressed bytes in the slice, 100 B – 50 MB.
    pub size: ByteSize,
    /// Age since the first record of the slice, 1 s – 30 min.
    pub interval: Interval,
    /// Least time since the slice was opened, 1 s – 30 min.
    pub min_interval: Interval,
}

/// When a file is closed and imported. Whichever limit is reached first, but never sooner than `min_interval`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportTrigger {
    /// Rows in the file, 1–10 000 000.
    pub count: u64,
    /// Compressed bytes in the file, 100 B – 500 MB.
    pub size: ByteSize,
    /// Age since the first record of the file, 1 s – 24 h.
    pub interval: Interval,
    /// Least time since the file was opened, 1 s – 24 h.
    pub min_interval: Interval,
    /// Slices in the file, 1–200.
    pub slices_count: u64,
}

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reason {
    /// Rows.
    Count,
    /// Bytes.
    Size,
    /// Age since the first record.
    Interval,
    /// Number of slices.
    SlicesCount,
    /// The number of sessions that a slice remembers.
    Sessions,
    /// The definition of the sink changed, or it was disabled or deleted.
    Definition,
    /// The volume is being drained.
    Drain,
}

impl UploadTrigger {
    /// The trigger of a sink without settings.
    #[must_use]
    pub const fn default_for(kind: TableKind) -> Self {
        let (interval, min_interval) = match kind {
            TableKind::Sqlite | TableKind::Postgres => (5, 1),
            TableKind::Keboola => (30, 10),
        };
        Self {
            count: 10_000,
            size: ByteSize(5 << 20),
            interval: Interval::from_secs(interval),
            min_interval: Interval::from_secs(min_interval),
        }
    }

    /// Which limit a slice with these figures has reached. The least interval does not count here: see [`Self::not_before`].
    #[must_use]
    pub fn reached(&self, figures: &Figures, now: Timestamp) -> Option<Reason> {
        let first_at = figures.first_at?;
        if figures.rows >= self.count {
            return Some(Reason::Count);
        }
        if figures.bytes >= self.size.0 {
            return Some(Reason::Size);
        }
        (now.since(first_at) >= self.interval.0).then_some(Reason::Interval)
    }

    /// The earliest time at which a slice that was opened at `opened_at` may be rotated.
    #[must_use]
    pub fn not_before(&self, opened_at: Timestamp) -> Timestamp {
        opened_at + self.min_interval.0
    }
}

impl ImportTrigger {
    /// The trigger of a sink without settings.
    #[must_use]
    pub const fn default_for(kind: TableKind) -> Self {
        let (interval, min_interval) = match kind {
            TableKind::Sqlite | TableKind::Postgres => (10, 1),
            TableKind::Keboola => (60, 60),
        };
        Self {
            count: 50_000,
            size: ByteSize(50 << 20),
            interval: Interval::from_secs(interval),
            min_interval: Interval::from_secs(min_interval),
            slices_count: 100,
        }
    }

    /// Which limit a file with these figures and that many slices with rows has reached.
    #[must_use]
    pub fn reached(&self, figures: &Figures, slices: u64, now: Timestamp) -> Option<Reason> {
        let first_at = figures.first_at?;
        if figures.rows >= self.count {
            return Some(Reason::Count);
        }
        if figures.bytes >= self.size.0 {
            return Some(Reason::Size);
        }
        if slices >= self.slices_count {
            return Some(Reason::SlicesCount);
        }
        (now.since(first_at) >= self.interval.0).then_some(Reason::Interval)
    }

    /// The earliest time at which a file that was opened at `opened_at` may be rotated.
    #[must_use]
    pub fn not_before(&self, opened_at: Timestamp) -> Timestamp {
        opened_at + self.min_interval.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn nothing_is_reached_without_a_record() {
        let trigger = UploadTrigger::default_for(TableKind::Sqlite);
        assert_eq!(trigger.reached(&Figures::default(), at(1_000_000)), None);
    }

    #[test]
    fn whichever_limit_comes_first() {
        let trigger = UploadTrigger::default_for(TableKind::Sqlite);
        let figures = |rows, bytes| Figures {
            rows,
            bytes,
            raw_bytes: bytes,
            first_at: Some(at(100)),
            last_at: Some(at(101)),
        };
        assert_eq!(trigger.reached(&figures(9_999, 10), at(104)), None);
        assert_eq!(
            trigger.reached(&figures(10_000, 10), at(101)),
            Some(Reason::Count)
        );
        assert_eq!(
            trigger.reached(&figures(1, 5 << 20), at(101)),
            Some(Reason::Size)
        );
        assert_eq!(
            trigger.reached(&figures(1, 10), at(105)),
            Some(Reason::Interval)
        );
    }
}
