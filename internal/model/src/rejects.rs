//! Rejected records: what a sink's mapping refuses, kept as slices of their own.
//!
//! A slice of rejected records lies on a volume beside those with rows and is closed, sealed and uploaded like them. It
//! belongs to no file, because it is never imported, and outlives the files that come and go beside it: a sink has one such
//! slice that takes records on each of its volumes, and it is rotated only when it holds something. So keeping rejects costs
//! one record of the state per sink and volume, and nothing while none come.
//!
//! Planning is pure and needs no memory: two coordinators that miss the same slice plan the same one, and the second finds
//! that it exists.

use crate::file::File;
use crate::id::{FileId, SliceId, VolumeId};
use crate::slice::{Kind, Slice, State};
use crate::time::Timestamp;
use crate::trigger::UploadTrigger;
use crate::unit::{ByteSize, Interval};

/// When a slice of rejected records is rotated, unless the configuration says otherwise: an hour after its first record or
/// at 5 MB, but not within a minute. Rejects are looked at by people, so few large objects are better than many fresh ones.
#[must_use]
pub const fn default_trigger() -> UploadTrigger {
    UploadTrigger {
        count: 1_000_000,
        size: ByteSize(5 << 20),
        interval: Interval::from_secs(3600),
        min_interval: Interval::from_secs(60),
    }
}

/// Plans the first slice of rejected records on each of `volumes`, for a sink whose writing file is `file`. `rows` is a slice
/// of that file: its compression and durability are taken over, so that a batch promises the same for both.
#[must_use]
pub fn plan(
    file: &File,
    rows: &Slice,
    volumes: &[VolumeId],
    trigger: UploadTrigger,
    now: Timestamp,
) -> Vec<Slice> {
    let slice = |volume: &VolumeId| Slice {
        id: first_id(file, *volume),
        sink: file.sink.clone(),
        kind: Kind::Rejects,
        file: FileId::none(),
        volume: *volume,
        mapping_version: file.mapping_version,
        compression: rows.compression,
        durability: rows.durability,
        trigger,
        opened_at: now,
        state: State::Writing,
        retry: None,
        forgotten: None,
    };
    volumes.iter().map(slice).collect()
}

/// Plans the slice that takes the rejected records when `slice` is closed. `rows` is the slice that takes the rows of the
/// sink on the same volume.
#[must_use]
pub fn successor(
    slice: &Slice,
    rows: Option<&Slice>,
    trigger: UploadTrigger,
    now: Timestamp,
    random: [u8; 10],
) -> Slice {
    let like = rows.unwrap_or(slice);
    Slice {
        mapping_version: like.mapping_version,
        compression: like.compression,
        durability: like.durability,
        trigger,
        ..crate::opening::successor(slice, now, random)
    }
}

/// Whether a slice of rejected records promises and compresses as the slice with rows beside it.
#[must_use]
pub fn matches(slice: &Slice, rows: &Slice) -> bool {
    slice.compression == rows.compression && slice.durability == rows.durability
}

/// The same for everybody who plans it: made of the file and the volume, both of which are random enough.
fn first_id(file: &File, volume: VolumeId) -> SliceId {
    let (file_id, volume) = (file.id.to_bytes(), volume.to_bytes());
    let mut random = [0; 10];
    for (position, byte) in random.iter_mut().enumerate() {
        // Turned, so that identifiers of tests, which are not random, do not swap; and apart from them by the constant.
        *byte = file_id[position + 6] ^ volume[position + 6].rotate_left(3) ^ 0xa5;
    }
    SliceId::new(file.opened_at, random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant::check_slice;
    use crate::level::{Compression, Durability};
    use crate::slice::tests::slice;

    fn file(id: u8) -> File {
        File {
            id: FileId::from_bytes([id; 16]),
            ..crate::file::tests::file()
        }
    }

    fn volumes(count: u8) -> Vec<VolumeId> {
        (1..=count)
            .map(|id| VolumeId::from_bytes([id; 16]))
            .collect()
    }

    #[test]
    fn everybody_plans_the_same_slices_and_different_ones_for_each_file_and_volume() {
        let (trigger, at) = (default_trigger(), Timestamp::from_millis);
        let plan = |id, now| plan(&file(id), &slice(1), &volumes(3), trigger, now);
        let (first, again) = (plan(1, at(5)), plan(1, at(9)));
        let ids = |slices: &[Slice]| slices.iter().map(|slice| slice.id).collect::<Vec<_>>();
        assert_eq!(ids(&first), ids(&again));
        let mut all = [ids(&first), ids(&plan(2, at(5)))].concat();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
        for (slice, volume) in first.iter().zip(volumes(3)) {
            assert_eq!((slice.volume, slice.kind), (volume, Kind::Rejects));
            assert_eq!(check_slice(slice, slice), Ok(()));
        }
    }

    #[test]
    fn a_successor_follows_the_rows_beside_it() {
        let trigger = default_trigger();
        let now = Timestamp::from_millis(7);
        let old = plan(&file(1), &slice(1), &volumes(1), trigger, now).remove(0);
        let rows = Slice {
            compression: Compression::None,
            durability: Durability::Cache,
            mapping_version: 9,
            ..slice(2)
        };
        assert!(matches(&old, &slice(1)) && !matches(&old, &rows));
        let new = successor(&old, Some(&rows), trigger, now, [1; 10]);
        assert!(matches(&new, &rows));
        assert_eq!((new.kind, new.file), (Kind::Rejects, FileId::none()));
        assert_eq!(new.volume, old.volume);
        let alone = successor(&old, None, trigger, now, [1; 10]);
        assert!(matches(&alone, &old));
    }
}
