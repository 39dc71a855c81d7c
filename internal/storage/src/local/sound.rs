//! What is sound in the bytes of a slice file: the frames whose checksums are right, and the rows in them.

use stream_model::level::Compression;

/// What is sound in the bytes of a slice file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sound {
    /// Where, in order; neighbours are one range.
    pub ranges: Vec<std::ops::Range<usize>>,
    /// Rows in it.
    pub rows: u64,
    /// Its bytes before compression.
    pub raw_bytes: u64,
}

impl Sound {
    fn add(&mut self, range: std::ops::Range<usize>, raw: &[u8]) {
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
        self.rows += count_rows(raw);
        self.raw_bytes += raw.len() as u64;
    }

    /// Length of the sound start of the file.
    pub fn start(&self) -> u64 {
        self.ranges
            .first()
            .filter(|range| range.start == 0)
            .map_or(0, |range| range.end as u64)
    }
}

/// Finds what is sound: for zstd every frame whose checksum is right, for plain CSV all whole rows. The members of a gzip file
/// are not looked at: they count as sound when `len` bytes are there, and as lost when not.
pub(super) fn sound(bytes: &[u8], len: u64, compression: Compression) -> Option<Sound> {
    let mut sound = Sound::default();
    match compression {
        Compression::Zstd { .. } => {
            let mut at = 0;
            while let Ok(length) = zstd::zstd_safe::find_frame_compressed_size(&bytes[at..]) {
                let Some(frame) = bytes.get(at..at + length).filter(|frame| !frame.is_empty())
                else {
                    break;
                };
                if let Ok(raw) = zstd::decode_all(frame) {
                    sound.add(at..at + length, &raw);
                }
                at += length;
            }
            Some(sound)
        }
        Compression::None => {
            let end = end_of_rows(bytes);
            sound.add(0..end, &bytes[..end]);
            Some(sound)
        }
        Compression::Gzip { .. } if bytes.len() as u64 >= len => None,
        Compression::Gzip { .. } => Some(sound),
    }
}

/// Where the last whole row ends. A line break inside quotes belongs to a value.
fn end_of_rows(csv: &[u8]) -> usize {
    let (mut quoted, mut end) = (false, 0);
    for (at, byte) in csv.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => end = at + 1,
            _ => {}
        }
    }
    end
}

fn count_rows(csv: &[u8]) -> u64 {
    let (mut quoted, mut rows) = (false, 0);
    for byte in csv {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => rows += 1,
            _ => {}
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_outside_of_quotes() {
        let csv = b"\"a\nb\",\"c\"\n\"say \"\"x\"\"\n\",\"\"\n\"cut\n";
        assert_eq!(count_rows(csv), 2);
        assert_eq!(end_of_rows(csv), csv.len() - 5);
    }
}
