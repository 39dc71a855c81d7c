//! From committed frames in the journal to the bytes of a slice file.
//!
//! Many small frames compress badly, so runs of them are unpacked and packed again as one. A run ends when it is long enough,
//! when the slice is sealed, or when a checkpoint syncs the file. A rebuild after a crash starts from the newest checkpoint,
//! so it ends runs where they ended before and writes the same bytes. (Only when it has to start from the checkpoint before
//! that, when a checkpoint failed after it had ended a run, or with another version of the compression library, are the
//! bytes different, and the slice is sealed anew.)

use std::io;

use sha2::{Digest, Sha256};
use stream_model::level::Compression;

use super::disk::DiskFile;
use super::index::Frame;

/// A run of frames ends when it has this many bytes before compression.
pub(super) const RUN_BYTES: u64 = 256 << 10;

/// The number of frames at the front of `frames` that make a complete run; none when there are too few.
pub(super) fn complete_run<'a>(frames: impl Iterator<Item = &'a Frame>) -> Option<usize> {
    let mut raw = 0;
    for (position, frame) in frames.enumerate() {
        raw += u64::from(frame.raw);
        if raw >= RUN_BYTES {
            return Some(position + 1);
        }
    }
    None
}

/// Packs runs of frames.
#[derive(Default)]
pub(super) struct Packer {
    frames: Vec<u8>,
    raw: Vec<u8>,
}

impl Packer {
    /// The bytes of the slice file for a run of frames.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn pack(&mut self, compression: Compression, run: &[Frame]) -> io::Result<Vec<u8>> {
        self.frames.clear();
        for frame in run {
            let start = self.frames.len();
            self.frames.resize(start + frame.len as usize, 0);
            frame
                .segment
                .file
                .read_exact_at(&mut self.frames[start..], frame.offset)?;
        }
        let Compression::Zstd { level } = compression else {
            return Ok(self.frames.clone());
        };
        if run.len() == 1 {
            return Ok(self.frames.clone());
        }
        match self.recompress(level, run) {
            Ok(packed) => Ok(packed),
            Err(error) => {
                // The frames are durable and the client was told so: keep them as they came rather than not at all.
                tracing::error!(error = %error, frames = run.len(), "cannot unpack committed frames");
                Ok(self.frames.clone())
            }
        }
    }

    fn recompress(&mut self, level: u8, run: &[Frame]) -> io::Result<Vec<u8>> {
        self.raw.clear();
        let mut decompressor = zstd::bulk::Decompressor::new()?;
        let mut rest = &self.frames[..];
        for frame in run {
            let (packed, tail) = rest.split_at(frame.len as usize);
            let unpacked = decompressor.decompress(packed, frame.raw as usize)?;
            self.raw.extend_from_slice(&unpacked);
            rest = tail;
        }
        let mut compressor = zstd::bulk::Compressor::new(i32::from(level))?;
        compressor.include_checksum(true)?;
        let packed = compressor.compress(&self.raw);
        self.raw.shrink_to(8 << 20);
        self.frames.shrink_to(8 << 20);
        packed
    }
}

/// The running checksum of a slice file.
#[derive(Debug, Clone, Default)]
pub(super) struct Checksum(Sha256);

impl Checksum {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of the first `len` bytes of a file.
    ///
    /// # Errors
    /// When the file cannot be read, or is shorter.
    pub fn of_file(file: &dyn DiskFile, len: u64) -> io::Result<Self> {
        let mut checksum = Self::default();
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        while offset < len {
            let count = usize::try_from(len - offset)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            file.read_exact_at(&mut buffer[..count], offset)?;
            checksum.update(&buffer[..count]);
            offset += count as u64;
        }
        Ok(checksum)
    }

    /// 64 hexadecimal digits.
    pub fn finish(self) -> String {
        use std::fmt::Write;

        self.0
            .finalize()
            .iter()
            .fold(String::with_capacity(64), |mut hex, byte| {
                write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
                hex
            })
    }
}
