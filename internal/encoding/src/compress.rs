//! Compressing rows into frames.
//!
//! A frame is complete in itself: it carries its own checksum and can be decompressed without any other. Frames written
//! one after the other are a valid file of the codec, which is what makes a slice readable after every frame.

use bytes::Bytes;
use flate2::{Compress, Crc, FlushCompress, Status};
use stream_model::ErrorKind;
use stream_model::level::Compression;
use zstd::zstd_safe::{CParameter, compress_bound};

/// A frame that could not be made. The codecs have no reason to refuse any input; what remains is a lack of memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompressError {
    /// zstd refused.
    #[error("zstd cannot compress {len} bytes")]
    Zstd {
        /// Bytes of the input.
        len: usize,
        /// What zstd says.
        #[source]
        source: std::io::Error,
    },
    /// deflate refused.
    #[error("deflate cannot compress {len} bytes")]
    Deflate {
        /// Bytes of the input.
        len: usize,
        /// What deflate says.
        #[source]
        source: flate2::CompressError,
    },
    /// deflate stopped before the end.
    #[error("deflate made no progress with {len} bytes")]
    Stuck {
        /// Bytes of the input.
        len: usize,
    },
}

impl CompressError {
    /// What the caller can do about it: try again when there is memory.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }
}

/// Makes frames. Keeps the tables of its codec and a buffer of the size of the largest frame, so keep it: one per
/// thread, not one per batch.
pub struct Encoder {
    codec: Codec,
    /// Compressed bytes before they get a block of memory of their exact size.
    buffer: Vec<u8>,
}

enum Codec {
    None,
    Gzip(Compress),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let codec = match self.codec {
            Codec::None => "none",
            Codec::Gzip(_) => "gzip",
            Codec::Zstd(_) => "zstd",
        };
        f.debug_struct("Encoder")
            .field("codec", &codec)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// Prepares a codec. Levels out of range are moved to the nearest allowed one.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        let codec = match compression {
            Compression::None => Codec::None,
            Compression::Gzip { level } => {
                let level = flate2::Compression::new(u32::from(level.clamp(1, 9)));
                // Bare deflate: header and trailer of the member are written here, so that the tables can be reused.
                Codec::Gzip(Compress::new(level, false))
            }
            Compression::Zstd { level } => Codec::Zstd(zstd_compressor(level.clamp(1, 19))),
        };
        Self {
            codec,
            buffer: Vec::new(),
        }
    }

    /// Compresses `raw` into one frame: a zstd frame with checksum and content size, a gzip member, or the bytes as
    /// they are.
    ///
    /// # Errors
    /// When the codec lacks memory. The encoder can be used again.
    pub fn frame(&mut self, raw: &[u8]) -> Result<Bytes, CompressError> {
        self.buffer.clear();
        match &mut self.codec {
            Codec::None => return Ok(Bytes::copy_from_slice(raw)),
            Codec::Gzip(deflate) => gzip_member(deflate, raw, &mut self.buffer)?,
            Codec::Zstd(zstd) => {
                self.buffer.reserve(compress_bound(raw.len()));
                zstd.compress_to_buffer(raw, &mut self.buffer)
                    .map_err(|source| CompressError::Zstd {
                        len: raw.len(),
                        source,
                    })?;
            }
        }
        // A copy of the exact size: frames wait in queues that count their bytes, so they must not hold more.
        Ok(Bytes::copy_from_slice(&self.buffer))
    }
}

fn zstd_compressor(level: u8) -> zstd::bulk::Compressor<'static> {
    const IN_RANGE: &str = "the level is in range and the flags exist in every version";
    let mut compressor = zstd::bulk::Compressor::new(i32::from(level)).expect(IN_RANGE);
    compressor
        .set_parameter(CParameter::ChecksumFlag(true))
        .expect(IN_RANGE);
    compressor
        .set_parameter(CParameter::ContentSizeFlag(true))
        .expect(IN_RANGE);
    compressor
}

/// Appends a gzip member (RFC 1952).
fn gzip_member(deflate: &mut Compress, raw: &[u8], out: &mut Vec<u8>) -> Result<(), CompressError> {
    // Magic, deflate, no flags, no time, no hint, unknown system: the same rows always give the same bytes.
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    deflate.reset();
    out.extend_from_slice(&HEADER);
    out.reserve(raw.len() / 2 + 64);
    loop {
        let consumed = usize::try_from(deflate.total_in()).unwrap_or(raw.len());
        let before = (deflate.total_in(), deflate.total_out());
        let status = deflate
            .compress_vec(
                raw.get(consumed..).unwrap_or_default(),
                out,
                FlushCompress::Finish,
            )
            .map_err(|source| CompressError::Deflate {
                len: raw.len(),
                source,
            })?;
        match status {
            Status::StreamEnd => break,
            Status::Ok | Status::BufError => {
                let had_space = out.len() < out.capacity();
                if had_space && before == (deflate.total_in(), deflate.total_out()) {
                    return Err(CompressError::Stuck { len: raw.len() });
                }
                out.reserve(raw.len() / 2 + 64);
            }
        }
    }
    let mut crc = Crc::new();
    crc.update(raw);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    Ok(())
}
