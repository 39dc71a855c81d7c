//! What only the numbers of entries and parts tell: nothing is left of the bytes, or their place tells nothing.

use std::path::PathBuf;

use crate::damage::Damage;
use crate::generated::{Generated, SMALL, generate};
use crate::layout::{Kind, Place, Region};
use crate::trial;

const SEEDS: std::ops::Range<u64> = 1..9;
const BLOCK: usize = 4096;

/// Runs cases of the same volume. Returns how many cost rows.
fn run(generated: &Generated, cases: impl IntoIterator<Item = Damage>) -> usize {
    let mut costly = 0;
    for damage in cases {
        let dir = tempfile::tempdir().expect("a directory");
        let outcome = trial::run(generated, &damage, dir.path());
        assert_eq!(outcome.wrong, [""; 0], "{damage:?}: {:?}", outcome.reported);
        if outcome.lost > 0 {
            assert!(!outcome.reported.is_empty(), "{damage:?}");
            costly += 1;
        }
    }
    costly
}

fn segments(generated: &Generated) -> Vec<(&PathBuf, &Place)> {
    let places = generated.layout.places.iter();
    places
        .filter(|(_, place)| matches!(place.kind, Kind::Segment { .. }))
        .collect()
}

/// The last entry of a segment, if nothing is missing by the lengths when it is damaged: it ends in the block in which the entry of
/// its group before it ends.
fn last_within_block(place: &Place) -> Option<&Region> {
    let [.., before, last] = &place.regions[..] else {
        return None;
    };
    let block = before.range.end.next_multiple_of(BLOCK);
    let is_hidden = before.group == last.group && last.range.end <= block;
    (is_hidden && place.kind == (Kind::Segment { newest: false })).then_some(last)
}

#[test]
fn a_damaged_last_entry_of_a_segment_is_missed_by_its_number() {
    let mut costly = 0;
    for seed in SEEDS {
        let generated = generate(seed, SMALL);
        for (file, place) in segments(&generated) {
            let Some(last) = last_within_block(place) else {
                continue;
            };
            let flips = last.range.clone().step_by(37).map(|at| Damage::Flip {
                file: file.clone(),
                at,
                bit: 3,
            });
            costly += run(&generated, flips);
        }
    }
    assert!(costly > 0, "no segment ends with such an entry");
}

#[test]
fn a_missing_oldest_segment_is_missed_by_the_parts_that_follow() {
    let mut costly = 0;
    for seed in SEEDS {
        let generated = generate(seed, SMALL);
        let oldest = segments(&generated)[0].0.clone();
        costly += run(&generated, [Damage::Missing { file: oldest }]);
    }
    assert!(costly > 0, "no oldest segment is needed");
}

#[test]
fn a_newest_segment_without_a_whole_first_block_is_reported_once() {
    let generated = generate(1, SMALL);
    let segments = segments(&generated);
    let (newest, _) = segments.last().expect("there are some");
    let cuts = (0..BLOCK).step_by(123).map(|len| Damage::Truncate {
        file: (*newest).clone(),
        len,
    });
    let cuts: Vec<Damage> = cuts.collect();
    for damage in cuts {
        let dir = tempfile::tempdir().expect("a directory");
        let outcome = trial::run(&generated, &damage, dir.path());
        assert_eq!(outcome.wrong, [""; 0], "{damage:?}: {:?}", outcome.reported);
    }
}
