//! Compression, and where the CPU work for it is done.

use std::cell::RefCell;

use bytes::Bytes;
use stream_encoding::{CompressError, Encoder};
use stream_model::level::Compression;

/// Work on up to this many bytes is done where it arises; it takes less time than moving it to another thread is worth.
const INLINE_BYTES: usize = 128 << 10;

thread_local! {
    // An encoder has tables of up to a megabyte. There are few threads and maybe thousands of lanes, so threads have them.
    static ENCODERS: RefCell<Vec<(Compression, Encoder)>> = const { RefCell::new(Vec::new()) };
}

/// Makes one frame.
///
/// # Errors
/// When the codec has no memory.
pub(crate) fn compress(compression: Compression, csv: &[u8]) -> Result<Bytes, CompressError> {
    ENCODERS.with_borrow_mut(|encoders| {
        let known = encoders.iter().position(|(own, _)| *own == compression);
        let index = known.unwrap_or_else(|| {
            encoders.push((compression, Encoder::new(compression)));
            encoders.len() - 1
        });
        encoders[index].1.frame(csv)
    })
}

/// Does CPU work on about `bytes` bytes, away from the runtime's threads when it is much. None when the work panicked.
pub(crate) async fn offload<R: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> R + Send + 'static,
) -> Option<R> {
    if bytes <= INLINE_BYTES {
        return Some(work());
    }
    tokio::task::spawn_blocking(work).await.ok()
}
