//! A batch whose rows are compressed, before its parts get their numbers.

use bytes::Bytes;
use stream_model::SliceId;
use stream_model::level::Durability;
use stream_storage::wire;

use super::{Bound, Gathered, Outlet};
use crate::route::Target;

/// A batch with the frames for its slices.
pub(crate) struct Packed {
    pub(super) gathered: Gathered,
    pub(super) frames: Vec<(Outlet, Target, Bytes)>,
    /// The weakest class among the sinks.
    pub(super) weakest: Durability,
}

impl Packed {
    /// Gives each part its number. `next` is called once for each slice and must count the number as used.
    pub fn bind(self, mut next: impl FnMut(SliceId) -> u64) -> Bound {
        let Self {
            gathered,
            frames,
            mut weakest,
        } = self;
        let mut parts = Vec::with_capacity(frames.len());
        let mut outlets = Vec::with_capacity(frames.len());
        for ((outlet, target, frame), (_, rows)) in frames.into_iter().zip(gathered.outlets()) {
            let (first_at, last_at) = rows.times.expect("an outlet with rows has their times");
            outlets.push(outlet);
            weakest = weakest.max(target.durability);
            parts.push(wire::Part {
                slice: target.slice,
                seq: next(target.slice),
                rows: rows.rows,
                raw_bytes: u32::try_from(rows.csv.len()).expect("a batch is far below 4 GiB"),
                first_at,
                last_at,
                compression: target.compression,
                frame,
            });
        }
        let turns = gathered.turns();
        let keys = turns.iter().map(|turn| turn.claim()).collect();
        Bound {
            gathered,
            turns,
            batch: wire::Batch { parts, keys },
            outlets,
            durability: weakest,
        }
    }
}
