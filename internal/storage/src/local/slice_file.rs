//! From committed frames in the journal to the bytes of a slice file.
//!
//! Many small frames compress badly, so runs of them are unpacked and packed again as one. Runs of frames that are large
//! enough by themselves stay as they came: that is how they come when there is much to do, and then the work would take the
//! processor from those who wait for an answer. A run ends when it is long enough, when the slice is sealed, or when a
//! checkpoint syncs the file. A rebuild after a crash starts from the newest checkpoint,
//! so it ends runs where they ended before and writes the same bytes. (Only when it has to start from the checkpoint before
//! that, when a checkpoint failed after it had ended a run, or with another version of the compression library, are the
//! bytes different, and the slice is sealed anew.)

use std::io;

use sha2::{Digest, Sha256};
use stream_model::level::Compression;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::compress_bound;

use super::disk::DiskFile;
use super::index::Frame;

/// A run of frames ends when it has this many bytes before compression.
pub(super) const RUN_BYTES: u64 = 256 << 10;
/// Frames of a run that have as many bytes on average before compression are not worth the work of packing them again. Rows of
/// 1 KB records, zstd 1: the file would be 6 % smaller; 20 % with frames of 4 KiB, and half the size with frames of one row.
const KEPT_FRAME_BYTES: u64 = 16 << 10;
/// Larger buffers are not kept from one run to the next.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

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

/// Packs runs of frames. Keeps its buffers and the tables of the codec, of about a megabyte each.
#[derive(Default)]
pub(super) struct Packer {
    frames: Vec<u8>,
    raw: Vec<u8>,
    packed: Vec<u8>,
    codec: Option<Codec>,
}

/// zstd in both directions, for one level.
struct Codec {
    level: u8,
    unpack: Decompressor<'static>,
    pack: Compressor<'static>,
}

impl Codec {
    fn new(level: u8) -> io::Result<Self> {
        let mut pack = Compressor::new(i32::from(level))?;
        pack.include_checksum(true)?;
        Ok(Self {
            level,
            unpack: Decompressor::new()?,
            pack,
        })
    }
}

impl Packer {
    /// The bytes of the slice file for a run of frames.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn pack(&mut self, compression: Compression, run: &[Frame]) -> io::Result<&[u8]> {
        self.read(run)?;
        let Compression::Zstd { level } = compression else {
            return Ok(&self.frames);
        };
        if stays_as_it_came(run) {
            return Ok(&self.frames);
        }
        match self.pack_again(level, run) {
            Ok(()) => Ok(&self.packed),
            Err(error) => {
                // The frames are durable and the client was told so: keep them as they came rather than not at all.
                tracing::error!(error = %error, frames = run.len(), "cannot unpack committed frames");
                self.codec = None;
                Ok(&self.frames)
            }
        }
    }

    /// Takes the frames of a run from the journal.
    fn read(&mut self, run: &[Frame]) -> io::Result<()> {
        let len = run.iter().map(|frame| frame.len as usize).sum();
        for buffer in [&mut self.frames, &mut self.raw, &mut self.packed] {
            buffer.clear();
            buffer.shrink_to(KEPT_BUFFER_BYTES);
        }
        self.frames.resize(len, 0);
        let mut rest = &mut self.frames[..];
        for frame in run {
            let (own, others) = rest.split_at_mut(frame.len as usize);
            frame.segment.file.read_exact_at(own, frame.offset)?;
            rest = others;
        }
        Ok(())
    }

    fn pack_again(&mut self, level: u8, run: &[Frame]) -> io::Result<()> {
        let codec = match self.codec.take().filter(|codec| codec.level == level) {
            Some(codec) => self.codec.insert(codec),
            None => self.codec.insert(Codec::new(level)?),
        };
        let mut rest = &self.frames[..];
        for frame in run {
            let (packed, others) = rest.split_at(frame.len as usize);
            let start = self.raw.len();
            self.raw.resize(start + frame.raw as usize, 0);
            let read = codec
                .unpack
                .decompress_to_buffer(packed, &mut self.raw[start..])?;
            if read != frame.raw as usize {
                return Err(io::Error::other("a frame is shorter than it was"));
            }
            rest = others;
        }
        self.packed.reserve(compress_bound(self.raw.len()));
        codec.pack.compress_to_buffer(&self.raw, &mut self.packed)?;
        Ok(())
    }
}

/// Whether packing a run again would gain little.
fn stays_as_it_came(run: &[Frame]) -> bool {
    let raw: u64 = run.iter().map(|frame| u64::from(frame.raw)).sum();
    run.len() == 1 || run.len() as u64 * KEPT_FRAME_BYTES <= raw
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
