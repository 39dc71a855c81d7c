//! Where a part of a batch goes: to the rows of a sink, or to what the sink rejects.
//!
//! Rejected records are parts of the same batch as the rows of the others, so they are durable together or not at all, and
//! a sender that is told of a rejection can rely on the record being kept.

use stream_model::Timestamp;

use super::Gathered;
use crate::route::{Target, VolumeRoute};

/// Where a part goes. The number is the position of the sink in the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlet {
    /// To the rows of the sink.
    Rows(usize),
    /// To its rejected records.
    Rejects(usize),
}

impl VolumeRoute {
    /// The slice behind an outlet. None: the sink has none there for rejected records.
    pub fn target(&self, outlet: Outlet) -> Option<Target> {
        match outlet {
            Outlet::Rows(sink) => self.targets.get(sink).copied(),
            Outlet::Rejects(sink) => self.rejects.get(sink).copied().flatten(),
        }
    }
}

/// Rows for one slice.
#[derive(Debug, Default)]
pub(super) struct SinkRows {
    pub csv: Vec<u8>,
    pub rows: u32,
    pub times: Option<(Timestamp, Timestamp)>,
}

impl SinkRows {
    pub fn push(&mut self, row: &[u8], at: Timestamp) {
        if row.is_empty() {
            return;
        }
        self.csv.extend_from_slice(row);
        self.rows += 1;
        self.times = Some(
            self.times
                .map_or((at, at), |(first, last)| (first.min(at), last.max(at))),
        );
    }

    pub fn clear(&mut self) {
        self.csv.clear();
        self.rows = 0;
        self.times = None;
    }
}

/// How many rejected records are kept, and the bytes of their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Kept {
    /// Records, counted for each sink.
    pub records: u64,
    /// Bytes before compression.
    pub bytes: u64,
}

impl Gathered {
    /// The outlets that have rows, with these.
    pub(super) fn outlets(&self) -> impl Iterator<Item = (Outlet, &SinkRows)> {
        let rows = self.rows.iter().enumerate();
        let rows = rows.map(|(sink, rows)| (Outlet::Rows(sink), rows));
        let rejects = self.rejects.iter().enumerate();
        let rejects = rejects.map(|(sink, rows)| (Outlet::Rejects(sink), rows));
        rows.chain(rejects).filter(|(_, rows)| rows.rows > 0)
    }

    /// The slices that it needs on a volume, which has one for each of its outlets.
    pub fn targets(&self, here: &VolumeRoute) -> Vec<Target> {
        let outlets = self.outlets();
        outlets
            .filter_map(|(outlet, _)| here.target(outlet))
            .collect()
    }

    /// Gives up the rejected records for which the volume has no slice. Answers how many there are.
    pub fn give_up_rejects(&mut self, here: &VolumeRoute) -> u64 {
        let mut given_up = 0;
        for (sink, rejects) in self.rejects.iter_mut().enumerate() {
            if rejects.rows > 0 && here.target(Outlet::Rejects(sink)).is_none() {
                given_up += u64::from(rejects.rows);
                self.raw_bytes -= rejects.csv.len();
                rejects.clear();
            }
        }
        given_up
    }

    /// The rejected records in it.
    pub fn kept(&self) -> Kept {
        let mut kept = Kept::default();
        for rejects in &self.rejects {
            kept.records += u64::from(rejects.rows);
            kept.bytes += rejects.csv.len() as u64;
        }
        kept
    }
}
