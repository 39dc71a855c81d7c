//! The frames in a slice file or in a batch: where they are, what they hold, and which of them are damaged.
//!
//! Behind a damaged frame it goes on with the next place where a frame unpacks, so only damaged frames are lost. Frames are unpacked
//! piece by piece, so one that claims to be huge costs time, not memory.

use std::io::{self, Read};
use std::ops::Range;

use stream_model::level::Compression;

/// How a zstd frame begins.
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// How a gzip member of ours begins: deflate, no flags, no time.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0];

/// Rows that were unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rows {
    pub rows: u64,
    /// Their bytes before compression.
    pub bytes: u64,
}

/// A part of a file: a frame, or bytes that are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stretch {
    pub range: Range<usize>,
    /// What the frame holds; none when it is damaged.
    pub content: Option<Rows>,
}

/// Cuts a file into frames and damaged parts. Two damaged parts are never neighbours.
pub(super) fn stretches(bytes: &[u8], compression: Compression) -> Vec<Stretch> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if let Some((len, rows)) = frame_at(&bytes[at..], compression) {
            found.push(Stretch {
                range: at..at + len,
                content: Some(rows),
            });
            at += len;
            continue;
        }
        // A length in a damaged frame means nothing, so the next frame is looked for from the next byte on.
        let start = at;
        loop {
            at = next_candidate(bytes, at + 1, compression);
            if at >= bytes.len() || frame_at(&bytes[at..], compression).is_some() {
                break;
            }
        }
        found.push(Stretch {
            range: start..at,
            content: None,
        });
    }
    found
}

/// What one frame holds that must take up all of the bytes; none when it is damaged.
pub(super) fn unpack(frame: &[u8], compression: Compression) -> Option<Rows> {
    frame_at(frame, compression)
        .filter(|(len, _)| *len == frame.len())
        .map(|(_, rows)| rows)
}

/// The length of the sound frame at the start of the bytes, and what it holds.
fn frame_at(bytes: &[u8], compression: Compression) -> Option<(usize, Rows)> {
    match compression {
        Compression::Zstd { .. } => {
            let len = zstd::zstd_safe::find_frame_compressed_size(bytes).ok()?;
            let frame = bytes.get(..len).filter(|frame| !frame.is_empty())?;
            let unpacked = zstd::stream::read::Decoder::with_buffer(frame).ok()?;
            Some((len, count(unpacked.single_frame()).ok().flatten()?))
        }
        Compression::Gzip { .. } => {
            let mut unpacked = flate2::bufread::GzDecoder::new(bytes);
            let rows = count(&mut unpacked).ok().flatten()?;
            Some((bytes.len() - unpacked.into_inner().len(), rows))
        }
        Compression::None => {
            let end = end_of_rows(bytes).filter(|end| *end > 0)?;
            let rows = count(&bytes[..end]).ok().flatten()?;
            Some((end, rows))
        }
    }
}

fn next_candidate(bytes: &[u8], from: usize, compression: Compression) -> usize {
    let magic = match compression {
        Compression::Zstd { .. } => ZSTD_MAGIC,
        Compression::Gzip { .. } => GZIP_MAGIC,
        // Where a row of damaged plain text begins cannot be told.
        Compression::None => return bytes.len(),
    };
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(magic.len())
        .position(|window| window == magic)
        .map_or(bytes.len(), |position| from + position)
}

/// Counts rows; none when the last one is cut. A line break inside quotes belongs to a value.
fn count(mut csv: impl Read) -> io::Result<Option<Rows>> {
    let mut counted = Rows::default();
    let (mut quoted, mut whole) = (false, true);
    let mut buffer = [0; 8 << 10];
    loop {
        let len = csv.read(&mut buffer)?;
        if len == 0 {
            return Ok(whole.then_some(counted));
        }
        counted.bytes += len as u64;
        for byte in &buffer[..len] {
            quoted ^= *byte == b'"';
            whole = *byte == b'\n' && !quoted;
            counted.rows += u64::from(whole);
        }
    }
}

/// Where the last whole row ends.
fn end_of_rows(csv: &[u8]) -> Option<usize> {
    let (mut quoted, mut end) = (false, None);
    for (at, byte) in csv.iter().enumerate() {
        quoted ^= *byte == b'"';
        if *byte == b'\n' && !quoted {
            end = Some(at + 1);
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const ZSTD: Compression = Compression::Zstd { level: 1 };
    const GZIP: Compression = Compression::Gzip { level: 1 };

    fn csv(frame: u8, rows: u8) -> Vec<u8> {
        let row = |row| format!("\"frame {frame}\",\"row {row}\nof it\"\n");
        (0..rows).map(row).collect::<String>().into_bytes()
    }

    fn pack(raw: &[u8], compression: Compression) -> Vec<u8> {
        match compression {
            Compression::Zstd { level } => {
                let mut packer = zstd::bulk::Compressor::new(level.into()).expect("valid");
                packer.include_checksum(true).expect("supported");
                packer.compress(raw).expect("packed")
            }
            Compression::Gzip { level } => {
                let level = flate2::Compression::new(level.into());
                let mut packer = flate2::GzBuilder::new()
                    .operating_system(255)
                    .write(Vec::new(), level);
                packer.write_all(raw).expect("packed");
                packer.finish().expect("packed")
            }
            Compression::None => raw.to_vec(),
        }
    }

    fn file(compression: Compression) -> (Vec<u8>, Vec<Range<usize>>) {
        let (mut bytes, mut frames) = (Vec::new(), Vec::new());
        for (frame, rows) in [3, 1, 9, 2].into_iter().enumerate() {
            let start = bytes.len();
            bytes.extend(pack(&csv(frame as u8, rows), compression));
            frames.push(start..bytes.len());
        }
        (bytes, frames)
    }

    #[test]
    fn every_frame_and_row_is_found() {
        for compression in [ZSTD, GZIP] {
            let (bytes, frames) = file(compression);
            let found = stretches(&bytes, compression);
            let ranges: Vec<_> = found.iter().map(|stretch| stretch.range.clone()).collect();
            assert_eq!(ranges, frames);
            let rows: Vec<_> = found.iter().filter_map(|stretch| stretch.content).collect();
            assert_eq!(
                rows.iter().map(|rows| rows.rows).collect::<Vec<_>>(),
                [3, 1, 9, 2]
            );
        }
        let (bytes, _) = file(Compression::None);
        let [all] = &stretches(&bytes, Compression::None)[..] else {
            panic!("plain text has no frames");
        };
        let expected = Rows {
            rows: 15,
            bytes: bytes.len() as u64,
        };
        assert_eq!(all.content, Some(expected));
    }

    fn unpacked(bytes: &[u8], compression: Compression) -> Option<Vec<u8>> {
        let mut raw = Vec::new();
        match compression {
            Compression::Zstd { .. } => raw = zstd::decode_all(bytes).ok()?,
            _ => drop(
                flate2::read::MultiGzDecoder::new(bytes)
                    .read_to_end(&mut raw)
                    .ok()?,
            ),
        }
        Some(raw)
    }

    #[test]
    fn a_flipped_bit_anywhere_costs_one_frame() {
        for compression in [ZSTD, GZIP] {
            let (bytes, frames) = file(compression);
            let mut harmless = 0;
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x10;
                let found = stretches(&damaged, compression);
                let sound: Vec<_> = found
                    .iter()
                    .filter(|stretch| stretch.content.is_some())
                    .map(|stretch| stretch.range.clone())
                    .collect();
                if unpacked(&damaged, compression) == unpacked(&bytes, compression) {
                    // A bit in a header that means nothing.
                    assert_eq!(sound, frames, "{compression:?} byte {at}");
                    harmless += 1;
                    continue;
                }
                let mut others = frames.clone();
                others.retain(|frame| !frame.contains(&at));
                assert_eq!(sound, others, "{compression:?} byte {at}");
            }
            assert!(harmless <= 8 * frames.len(), "{compression:?}: {harmless}");
        }
    }

    #[test]
    fn a_cut_frame_is_no_frame() {
        for compression in [ZSTD, GZIP, Compression::None] {
            let frame = pack(&csv(0, 3), compression);
            assert_eq!(unpack(&frame, compression).map(|rows| rows.rows), Some(3));
            for cut in 0..frame.len() {
                let rows = unpack(&frame[..cut], compression);
                let whole = compression == Compression::None && frame[..cut].ends_with(b"\"\n");
                assert_eq!(rows.is_some(), whole, "{compression:?} cut at {cut}");
            }
        }
    }
}
