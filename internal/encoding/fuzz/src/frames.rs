//! Frames from a damaged disk: the two readers agree on what is whole, and neither takes more than it may.

use stream_encoding::{Encoder, FrameError, decompress_frames};
use stream_model::level::Compression;

use super::rows;

/// What frames of a test may hold.
const LIMIT: usize = 1 << 20;

/// The first byte is the codec (`g`, `n`, anything else: zstd), the second the size of chunks, the rest frames.
pub fn check(input: &[u8]) {
    let [codec, step, frames @ ..] = input else {
        return;
    };
    let codec = match codec {
        b'g' => Compression::Gzip { level: 1 },
        b'n' => Compression::None,
        _ => Compression::Zstd { level: 1 },
    };
    let step = 1 + usize::from(*step);
    let mut content = b"before".to_vec();
    let result = decompress_frames(codec, frames, &mut content, LIMIT);
    assert!(content.starts_with(b"before") && content.len() <= LIMIT + 6);
    let content = content.split_off(6);
    let read = rows::read(codec, 2, frames, step);
    rows::same(&read, &rows::read(codec, 2, frames, usize::MAX));
    match result {
        Ok(()) => {
            let plain = rows::read(Compression::None, 2, &content, usize::MAX);
            rows::same(&plain, &read);
            again(codec, &content);
        }
        Err(error) => {
            assert!(content.is_empty(), "nothing is added on failure");
            if matches!(error, FrameError::Damaged { .. }) {
                let (_, damaged) = rows::read(codec, 2, frames, usize::MAX);
                assert!(damaged.is_some(), "damaged frames have no end");
            }
        }
    }
}

/// The content as a frame of ours: within the limit it comes back, below it does not.
fn again(codec: Compression, content: &[u8]) {
    let frame = Encoder::new(codec).frame(content).expect("memory takes it");
    let mut back = Vec::new();
    decompress_frames(codec, &frame, &mut back, content.len()).expect("whole");
    assert_eq!(back, content);
    if let Some(less) = content.len().checked_sub(1) {
        let limited = decompress_frames(codec, &frame, &mut Vec::new(), less);
        assert!(
            matches!(limited, Err(FrameError::TooLarge { .. })),
            "{limited:?}"
        );
    }
}
