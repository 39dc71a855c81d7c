//! What is sound in the bytes of a slice file: the frames whose checksums are right, and the rows in them.

use std::ops::Range;

use stream_model::level::Compression;

use super::frames::{self, Rows};

/// What is sound in the bytes of a slice file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sound {
    /// Where, in order; neighbours are one range.
    pub ranges: Vec<Range<usize>>,
    /// Rows in it.
    pub rows: u64,
    /// Its bytes before compression.
    pub raw_bytes: u64,
}

impl Sound {
    fn add(&mut self, range: Range<usize>, content: Rows) {
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
        self.rows += content.rows;
        self.raw_bytes += content.bytes;
    }

    /// Length of the sound start of the file.
    pub fn start(&self) -> u64 {
        self.ranges
            .first()
            .filter(|range| range.start == 0)
            .map_or(0, |range| range.end as u64)
    }

    /// The sound bytes of the file.
    pub fn bytes(&self, file: &[u8]) -> Vec<u8> {
        let parts: Vec<&[u8]> = self
            .ranges
            .iter()
            .map(|range| &file[range.clone()])
            .collect();
        parts.concat()
    }
}

/// Finds what is sound: every frame whose checksum is right, wherever it stands; of plain CSV all whole rows, because nothing
/// tells where a damaged one ends.
pub(super) fn sound(bytes: &[u8], compression: Compression) -> Sound {
    let mut sound = Sound::default();
    for stretch in frames::stretches(bytes, compression) {
        if let Some(content) = stretch.content {
            sound.add(stretch.range, content);
        }
    }
    sound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_behind_the_last_whole_row_is_not_sound() {
        let csv = b"\"a\nb\",\"c\"\n\"say \"\"x\"\"\n\",\"\"\n\"cut\n";
        let found = sound(csv, Compression::None);
        assert_eq!((found.rows, found.start()), (2, csv.len() as u64 - 5));
        assert_eq!(found.bytes(csv), csv[..csv.len() - 5]);
        assert_eq!(found.raw_bytes, csv.len() as u64 - 5);
    }

    #[test]
    fn frames_on_both_sides_of_a_damaged_one_are_sound() {
        let frame = |row: &str| {
            let mut packer = zstd::bulk::Compressor::new(1).expect("valid");
            packer.include_checksum(true).expect("supported");
            packer.compress(row.as_bytes()).expect("packed")
        };
        let frames = ["\"one\"\n", "\"two\"\n", "\"three\"\n\"four\"\n"].map(frame);
        let second = frames[0].len()..frames[0].len() + frames[1].len();
        let mut file = frames.concat();
        for at in second.clone() {
            file[at] ^= 0xff;
        }
        let found = sound(&file, Compression::Zstd { level: 1 });
        assert_eq!(found.ranges, [0..second.start, second.end..file.len()]);
        assert_eq!((found.rows, found.start()), (3, second.start as u64));
        assert_eq!(found.bytes(&file), [&frames[0][..], &frames[2]].concat());
    }
}
