//! What is done to a volume.

use std::ops::Range;
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::image::Image;
use crate::layout::{Kind, Layout, Place};

/// One kind of damage, at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    Flip { file: PathBuf, at: usize, bit: u8 },
    Truncate { file: PathBuf, len: usize },
    Zero { file: PathBuf, range: Range<usize> },
    Missing { file: PathBuf },
    Swap { files: [PathBuf; 2] },
    Unknown { file: PathBuf, content: Vec<u8> },
}

impl Damage {
    pub fn apply(&self, image: &mut Image) {
        let files = &mut image.0;
        match self {
            Self::Flip { file, at, bit } => content(files.get_mut(file))[*at] ^= 1 << bit,
            Self::Truncate { file, len } => content(files.get_mut(file)).truncate(*len),
            Self::Zero { file, range } => content(files.get_mut(file))[range.clone()].fill(0),
            Self::Missing { file } => drop(files.remove(file)),
            Self::Swap {
                files: [one, other],
            } => {
                let first = std::mem::take(content(files.get_mut(one)));
                let second = std::mem::replace(content(files.get_mut(other)), first);
                *content(files.get_mut(one)) = second;
            }
            Self::Unknown { file, content } => drop(files.insert(file.clone(), content.clone())),
        }
    }

    /// The bytes that are not what they were.
    pub fn hits<'a>(&'a self, image: &Image) -> Vec<(&'a Path, Range<usize>)> {
        let len = |file: &PathBuf| image.0[file].len();
        match self {
            Self::Flip { file, at, .. } => vec![(file, *at..at + 1)],
            Self::Truncate { file, len: cut } => vec![(file, *cut..len(file))],
            Self::Zero { file, range } => not_zero(&image.0[file], range.clone())
                .map(|range| (file.as_path(), range))
                .collect(),
            Self::Missing { file } => vec![(file, 0..len(file))],
            Self::Swap { files } => files
                .iter()
                .map(|file| (file.as_path(), 0..len(file)))
                .collect(),
            Self::Unknown { .. } => Vec::new(),
        }
    }

    /// Whether files keep their lengths.
    pub const fn is_in_place(&self) -> bool {
        matches!(self, Self::Flip { .. } | Self::Zero { .. })
    }
}

/// The stretches of a range that are not zero.
fn not_zero(bytes: &[u8], range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let start = range.start;
    let is_zero = |one: &u8, other: &u8| (*one == 0) == (*other == 0);
    let stretches = bytes[range].chunk_by(is_zero);
    let mut at = start;
    stretches.filter_map(move |stretch| {
        at += stretch.len();
        (stretch[0] != 0).then_some(at - stretch.len()..at)
    })
}

fn content(file: Option<&mut Vec<u8>>) -> &mut Vec<u8> {
    file.expect("the file is there")
}

/// The files that may be damaged. Without its id nothing on a volume can be read, so that has a test of its own; so have the files
/// of idempotency keys, which hold no rows.
pub fn files(layout: &Layout) -> Vec<(&PathBuf, &Place)> {
    layout
        .places
        .iter()
        .filter(|(_, place)| !matches!(place.kind, Kind::VolumeId | Kind::Keys))
        .collect()
}

/// Every cut of every file, thinned out evenly to about `count`. The empty ends of segments are cut at blocks only.
pub fn truncations(layout: &Layout, count: usize) -> Vec<Damage> {
    let mut all = Vec::new();
    for (file, place) in files(layout) {
        let end = place.regions.last().map_or(0, |region| region.range.end);
        for len in 0..place.len {
            if len <= end || len % 4096 < 2 {
                let file = file.clone();
                all.push(Damage::Truncate { file, len });
            }
        }
    }
    let step = (all.len() / count.max(1)).max(1);
    all.into_iter().step_by(step).collect()
}

/// Something else, anywhere: half of it in the journal, else each file is as likely as any other, however short.
pub fn random(rng: &mut StdRng, layout: &Layout) -> Damage {
    let files: Vec<_> = files(layout)
        .into_iter()
        .filter(|(_, place)| place.len > 0)
        .collect();
    let segments: Vec<_> = files
        .iter()
        .filter(|(_, place)| matches!(place.kind, Kind::Segment { .. }))
        .copied()
        .collect();
    let (file, place) = match rng.random() {
        true => segments[rng.random_range(0..segments.len())],
        false => files[rng.random_range(0..files.len())],
    };
    let file = file.clone();
    match rng.random_range(0..100) {
        0..80 => Damage::Flip {
            file,
            at: anywhere(rng, place),
            bit: rng.random_range(0..8),
        },
        80..93 => {
            let at = anywhere(rng, place) / 512 * 512;
            let len = 512 << rng.random_range(0..4);
            let range = at..(at + len).min(place.len);
            Damage::Zero { file, range }
        }
        93..96 => Damage::Missing { file },
        96..98 => {
            let alike: Vec<&PathBuf> = files
                .iter()
                .filter(|(other, _)| other.extension() == file.extension() && **other != file)
                .map(|(other, _)| *other)
                .collect();
            match alike.len() {
                0 => Damage::Missing { file },
                count => {
                    let other = alike[rng.random_range(0..count)].clone();
                    Damage::Swap {
                        files: [file, other],
                    }
                }
            }
        }
        _ => unknown(rng),
    }
}

/// A byte of the file: nine times of ten one that means something.
fn anywhere(rng: &mut StdRng, place: &Place) -> usize {
    let regions = &place.regions;
    if regions.is_empty() || rng.random_ratio(1, 10) {
        return rng.random_range(0..place.len);
    }
    let region = &regions[rng.random_range(0..regions.len())];
    rng.random_range(region.range.clone())
}

/// A file that does not belong to a volume, some with names that nearly do.
fn unknown(rng: &mut StdRng) -> Damage {
    const NAMES: [&str; 14] = [
        "notes.txt",
        "journal/notes.txt",
        "journal/segment",
        "journal/.segment",
        "journal/12zz.segment",
        "journal/00000000000000001.segment.bak",
        "checkpoint/core",
        "checkpoint/latest.checkpoint",
        "checkpoint/0000000000000003.checkpoint.tmp",
        "slices/readme",
        "slices/0.slice",
        "slices/00000000000000000000000000000000.slice",
        "slices/fefefefefefefefefefefefefefefefe.slice",
        "slices/fefefefefefefefefefefefefefefefe.slice.tmp",
    ];
    let mut content = vec![0; rng.random_range(0..10_000)];
    rng.fill(&mut content[..]);
    Damage::Unknown {
        file: PathBuf::from(NAMES[rng.random_range(0..NAMES.len())]),
        content,
    }
}
