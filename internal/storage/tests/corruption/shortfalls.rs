//! What a volume does not do yet when it is damaged. Everything here is checked as far as it goes; a line is removed when the
//! volume does better.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use stream_model::level::Compression;

use crate::damage::Damage;
use crate::layout::{Kind, Place};

/// Rows that are lost with others of the same slice, of which `all` are there.
pub fn lost_as_well(
    place: &Place,
    compression: Option<Compression>,
    all: &[String],
    damage: &Damage,
    hits: &[Range<usize>],
) -> BTreeSet<String> {
    let Some(first) = hits.iter().map(|hit| hit.start).min() else {
        return BTreeSet::new();
    };
    match compression {
        // The members of a gzip file are not looked at: it is kept as a whole, or not at all when it is too short.
        Some(Compression::Gzip { .. }) => place.all_rows(),
        // Frames behind one whose length is damaged are not found again, nor those that a checkpoint adds before the seal.
        Some(Compression::Zstd { .. }) if damage.is_in_place() => {
            let before: BTreeSet<String> = place
                .regions
                .iter()
                .filter(|region| region.range.end <= first)
                .flat_map(|region| region.rows.iter().cloned())
                .collect();
            all.iter()
                .filter(|row| !before.contains(*row))
                .cloned()
                .collect()
        }
        _ => BTreeSet::new(),
    }
}

/// Damage that is passed on with the seal, because nothing looks at it.
pub fn is_passed_on(compression: Compression, damage: &Damage) -> bool {
    matches!(compression, Compression::Gzip { .. }) && damage.is_in_place()
}

/// Lost rows that no opening reports.
pub fn is_unreported(place: &Place, damage: &Damage, hits: &[Range<usize>]) -> bool {
    if !matches!(place.kind, Kind::Segment { .. }) {
        return false;
    }
    // A journal whose beginning is missing looks like one that was shortened.
    matches!(damage, Damage::Missing { .. }) || is_end_of_last_group(place, hits)
}

/// Whether the damage is in the last entries of a segment, behind others of the same group that are whole. They end in the block
/// up to which the segment is valid, so nothing is missing by the lengths.
fn is_end_of_last_group(place: &Place, hits: &[Range<usize>]) -> bool {
    let is_hit = |range: &Range<usize>| {
        hits.iter()
            .any(|hit| hit.start < range.end && range.start < hit.end)
    };
    let whole = place.regions.iter().rfind(|region| !is_hit(&region.range));
    let lost = place.regions.iter().find(|region| is_hit(&region.range));
    let end = place.regions.last().map_or(0, |last| last.range.end);
    whole.zip(lost).is_some_and(|(whole, lost)| {
        let block = whole.range.end.next_multiple_of(4096);
        whole.range.end <= lost.range.start && end <= block
    })
}

/// A newest segment that lost a part of its first block is said to be valid up to the end of that block, and the next opening
/// misses the rest.
pub fn is_reported_again(place: &Place, damage: &Damage) -> bool {
    matches!(damage, Damage::Truncate { len, .. } if *len < 4096)
        && place.kind == (Kind::Segment { newest: true })
}

/// An opening does not count the rows that are lost with the journal.
pub fn is_uncounted(place: &Place) -> bool {
    matches!(place.kind, Kind::Segment { .. })
}

/// An opening names unknown files only where it looks at all files.
pub fn is_unnamed(file: &Path) -> bool {
    !file.starts_with("journal") && !file.starts_with("slices")
}
