//! Decompressing frames in memory, within a limit.

use std::io::{self, Read as _};

use stream_model::ErrorKind;
use stream_model::level::Compression;

/// Frames that cannot be decompressed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The bytes are not whole frames of the codec, or a checksum does not match.
    #[error("the frames are damaged")]
    Damaged {
        /// What the codec says.
        #[source]
        source: io::Error,
    },
    /// They hold more than they should.
    #[error("the frames hold more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

impl FrameError {
    /// What the caller can do about it: nothing, these are not the bytes that were written.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// Appends the content of any number of frames to `out`, at most `limit` bytes.
///
/// # Errors
/// When the frames are damaged, end in the middle, are followed by something else, or hold more than `limit` bytes.
/// `out` is unchanged then.
pub fn decompress_frames(
    compression: Compression,
    frames: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<(), FrameError> {
    let start = out.len();
    let result = append(compression, frames, out, limit);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn append(
    compression: Compression,
    frames: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
) -> Result<(), FrameError> {
    let damaged = |source| FrameError::Damaged { source };
    // One more than allowed is enough to know.
    let take = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let read = match compression {
        _ if frames.is_empty() => Ok(0),
        Compression::None => frames.take(take).read_to_end(out),
        Compression::Gzip { .. } => flate2::bufread::MultiGzDecoder::new(frames)
            .take(take)
            .read_to_end(out),
        Compression::Zstd { .. } => zstd::stream::read::Decoder::with_buffer(frames)
            .and_then(|decoder| decoder.take(take).read_to_end(out)),
    };
    match read.map_err(damaged)? {
        read if read > limit => Err(FrameError::TooLarge { limit }),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Encoder;

    pub(crate) const CODECS: [Compression; 4] = [
        Compression::None,
        Compression::Gzip { level: 1 },
        Compression::Zstd { level: 1 },
        Compression::Zstd { level: 19 },
    ];

    fn decompress(
        compression: Compression,
        frames: &[u8],
        limit: usize,
    ) -> Result<Vec<u8>, FrameError> {
        let mut out = b"before".to_vec();
        let result = decompress_frames(compression, frames, &mut out, limit);
        assert!(out.starts_with(b"before"));
        assert!(
            result.is_ok() || out.len() == 6,
            "nothing is added on failure"
        );
        result.map(|()| out.split_off(6))
    }

    #[test]
    fn nothing_decompresses_to_nothing() {
        for codec in CODECS {
            assert_eq!(decompress(codec, b"", 0).expect("empty"), b"");
            let frame = Encoder::new(codec).frame(b"").expect("frame");
            assert_eq!(decompress(codec, &frame, 0).expect("empty frame"), b"");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let raw = vec![b'0'; 8 << 20];
        for codec in CODECS {
            let frame = Encoder::new(codec).frame(&raw).expect("frame");
            let mut out = Vec::new();
            let result = decompress_frames(codec, &frame, &mut out, 10_000);
            assert!(
                matches!(result, Err(FrameError::TooLarge { limit: 10_000 })),
                "{codec:?}"
            );
            assert!(
                out.capacity() < 1 << 20,
                "{codec:?} took {} bytes",
                out.capacity()
            );
            assert_eq!(
                decompress(codec, &frame, raw.len()).expect("exactly the limit"),
                raw
            );
            assert!(decompress(codec, &frame, raw.len() - 1).is_err());
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        for codec in CODECS
            .into_iter()
            .filter(|codec| *codec != Compression::None)
        {
            let mut encoder = Encoder::new(codec);
            let first = encoder.frame(b"\"a\"\n\"b\"\n").expect("frame");
            let both = [&first[..], &encoder.frame(b"\"c\"\n").expect("frame")].concat();
            for len in (1..both.len()).filter(|len| *len != first.len()) {
                let result = decompress(codec, &both[..len], 1_000);
                assert!(
                    matches!(result, Err(FrameError::Damaged { .. })),
                    "{codec:?} cut at {len}"
                );
            }
        }
    }

    #[test]
    fn a_zstd_frame_has_checksum_and_content_size() {
        let frame = Encoder::new(Compression::Zstd { level: 1 })
            .frame(&[b'x'; 3_000])
            .expect("frame");
        assert_eq!(
            zstd::zstd_safe::get_frame_content_size(&frame).expect("a frame"),
            Some(3_000)
        );
        // RFC 8878: the byte after the magic number describes the frame, its bit 2 announces a checksum.
        assert_eq!(frame[4] & 4, 4);
        let mut damaged = frame.to_vec();
        *damaged.last_mut().expect("not empty") ^= 1;
        assert!(decompress(Compression::Zstd { level: 1 }, &damaged, 10_000).is_err());
    }

    #[test]
    fn a_damaged_gzip_member_is_noticed() {
        let codec = Compression::Gzip { level: 1 };
        let frame = Encoder::new(codec).frame(b"some text").expect("frame");
        for at in [0, 12, frame.len() - 1, frame.len() - 5] {
            let mut damaged = frame.to_vec();
            damaged[at] ^= 1;
            assert!(decompress(codec, &damaged, 1_000).is_err(), "byte {at}");
        }
        assert!(decompress(codec, &[&frame[..], b"garbage"].concat(), 1_000).is_err());
    }

    #[test]
    fn frames_have_no_spare_memory_and_are_reproducible() {
        let raw = b"\"abc\",\"def\"\n".repeat(1_000);
        for codec in CODECS {
            let mut encoder = Encoder::new(codec);
            let first = encoder.frame(&raw).expect("frame");
            encoder.frame(b"something else").expect("frame");
            assert_eq!(first, encoder.frame(&raw).expect("frame"), "{codec:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn concatenated_frames_round_trip(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2_000), 0..5),
            repeat in 1..30_usize,
        ) {
            for codec in CODECS {
                let mut encoder = Encoder::new(codec);
                let (mut frames, mut raw) = (Vec::new(), Vec::new());
                for part in &parts {
                    let part = part.repeat(repeat);
                    frames.extend_from_slice(&encoder.frame(&part).expect("frame"));
                    raw.extend(part);
                }
                let read = decompress(codec, &frames, raw.len()).expect("whole frames");
                prop_assert_eq!(read, raw);
            }
        }

        #[test]
        fn other_bytes_do_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            flip in any::<prop::sample::Index>(),
        ) {
            for codec in CODECS {
                let mut out = Vec::new();
                let _ = decompress_frames(codec, &bytes, &mut out, 100_000);
                let mut frame = Encoder::new(codec).frame(&bytes).expect("frame").to_vec();
                let at = flip.index(frame.len().max(1));
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= 0x55;
                }
                let _ = decompress_frames(codec, &frame, &mut out, 100_000);
            }
        }
    }
}
