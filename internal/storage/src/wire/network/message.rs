//! The messages on a stream, version 1, as `docs/formats.md` describes them.
//!
//! All numbers are little-endian and of fixed length, and every list says how many elements it has. A count is held against the
//! bytes that are left before anything is allocated for it, so no message makes the reader use more than a small multiple of
//! its own length. Frames are not copied: they are parts of the message's buffer.

mod reply;

use bytes::{Buf, BufMut, Bytes};
use stream_model::level::Compression;
use stream_model::{SessionId, SliceId, Timestamp, VolumeId};

pub(super) use reply::{Denial, Reply};

use super::super::{Batch, Claim, KeyHash, Part};

/// The oldest version that this program speaks.
pub(super) const OLDEST: u16 = 1;
/// The newest.
pub(super) const NEWEST: u16 = 1;

/// What the first message begins with.
const MAGIC: u64 = u64::from_le_bytes(*b"STRMWIRE");
/// Length of a part in an append, without its frame.
const PART: usize = 56;
/// Length of an append, without its parts and keys.
const APPEND: usize = 21;
/// Length of an idempotency key in an append.
const CLAIM: usize = 24;

/// From the http-source to the storage-writer.
#[derive(Debug)]
pub(super) enum Request {
    /// The first message, and only the first.
    Hello(Hello),
    /// A batch.
    Append {
        /// Number of the message on the stream.
        id: u64,
        /// The batch.
        batch: Batch,
    },
    /// The question what became of the session's batches in these slices.
    Open {
        /// Number of the message on the stream.
        id: u64,
        /// The slices.
        slices: Vec<SliceId>,
    },
}

/// Who wants to talk to which volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    /// The oldest version that the http-source speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// The session.
    pub session: SessionId,
    /// The volume.
    pub volume: VolumeId,
    /// The opening of the volume that the route is about.
    pub incarnation: u64,
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Garbled {
    /// It ends in the middle.
    #[error("a message is too short for what it says it holds")]
    Short,
    /// It goes on after its end.
    #[error("a message is longer than what it says it holds")]
    Long,
    /// The first message is none of this protocol.
    #[error("the first message is none of this protocol")]
    Magic,
    /// Its checksum is another one.
    #[error("a batch has changed on the way")]
    Checksum,
    /// A value that has no meaning.
    #[error("a message has an unknown {0}")]
    Unknown(&'static str),
}

impl From<bytes::TryGetError> for Garbled {
    fn from(_: bytes::TryGetError) -> Self {
        Self::Short
    }
}

/// Length of the message for a batch.
pub(super) fn append_len(batch: &Batch) -> usize {
    let frames: usize = batch.parts.iter().map(|part| part.frame.len()).sum();
    batch
        .parts
        .len()
        .saturating_mul(PART)
        .saturating_add(batch.keys.len().saturating_mul(CLAIM))
        .saturating_add(frames)
        .saturating_add(APPEND)
}

impl Request {
    /// The length of [`Self::write`].
    pub fn len(&self) -> usize {
        match self {
            Self::Hello(_) => 45,
            Self::Append { batch, .. } => append_len(batch),
            Self::Open { slices, .. } => slices.len() * 16 + 13,
        }
    }

    /// Writes the message.
    pub fn write(self, out: &mut impl BufMut) {
        match self {
            Self::Hello(hello) => {
                out.put_u8(1);
                out.put_u64_le(MAGIC);
                out.put_u16_le(hello.oldest);
                out.put_u16_le(hello.newest);
                out.put_u64_le(hello.session.0);
                out.put_slice(&hello.volume.to_bytes());
                out.put_u64_le(hello.incarnation);
            }
            Self::Append { id, batch } => {
                out.put_u8(2);
                out.put_u64_le(id);
                let (parts, keys) = (batch.parts.len(), batch.keys.len());
                let mut headers = Vec::with_capacity(parts * PART + keys * CLAIM);
                let all = batch.parts.iter();
                all.for_each(|part| write_part(part, &mut headers));
                for claim in &batch.keys {
                    headers.put_slice(&claim.key.to_bytes());
                    headers.put_u64_le(claim.body);
                }
                out.put_u32_le(count(parts));
                out.put_u32_le(count(keys));
                out.put_u32_le(checksum(&headers, &batch));
                out.put_slice(&headers);
                batch.parts.into_iter().for_each(|part| out.put(part.frame));
            }
            Self::Open { id, slices } => {
                out.put_u8(3);
                out.put_u64_le(id);
                out.put_u32_le(count(slices.len()));
                slices
                    .iter()
                    .for_each(|slice| out.put_slice(&slice.to_bytes()));
            }
        }
    }

    /// Reads a message that takes up all of `input`.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(input: &mut impl Buf) -> Result<Self, Garbled> {
        let request = match input.try_get_u8()? {
            1 => Self::Hello(read_hello(input)?),
            2 => Self::Append {
                id: input.try_get_u64_le()?,
                batch: read_batch(input)?,
            },
            3 => {
                let id = input.try_get_u64_le()?;
                let slices = (0..elements(input, 16)?).map(|_| read_slice(input));
                let slices = slices.collect::<Result<_, _>>()?;
                Self::Open { id, slices }
            }
            _ => return Err(Garbled::Unknown("kind")),
        };
        ended(input)?;
        Ok(request)
    }
}

fn write_part(part: &Part, out: &mut impl BufMut) {
    let (codec, level) = match part.compression {
        Compression::None => (0, 0),
        Compression::Gzip { level } => (1, level),
        Compression::Zstd { level } => (2, level),
    };
    out.put_slice(&part.slice.to_bytes());
    out.put_u64_le(part.seq);
    out.put_u32_le(part.rows);
    out.put_u32_le(part.raw_bytes);
    out.put_i64_le(part.first_at.as_millis());
    out.put_i64_le(part.last_at.as_millis());
    out.put_u8(codec);
    out.put_u8(level);
    out.put_u16_le(0);
    out.put_u32_le(count(part.frame.len()));
}

fn read_hello(input: &mut impl Buf) -> Result<Hello, Garbled> {
    if input.try_get_u64_le()? != MAGIC {
        return Err(Garbled::Magic);
    }
    Ok(Hello {
        oldest: input.try_get_u16_le()?,
        newest: input.try_get_u16_le()?,
        session: SessionId(input.try_get_u64_le()?),
        volume: VolumeId::from_bytes(read_id(input)?),
        incarnation: input.try_get_u64_le()?,
    })
}

fn read_batch(input: &mut impl Buf) -> Result<Batch, Garbled> {
    let parts = usize::try_from(input.try_get_u32_le()?).map_err(|_| Garbled::Short)?;
    let keys = usize::try_from(input.try_get_u32_le()?).map_err(|_| Garbled::Short)?;
    let expected = input.try_get_u32_le()?;
    let len = parts.checked_mul(PART).zip(keys.checked_mul(CLAIM));
    let len = len.and_then(|(parts, keys)| parts.checked_add(keys));
    let len = len.filter(|len| *len <= input.remaining());
    let headers = input.copy_to_bytes(len.ok_or(Garbled::Short)?);
    let mut rest = headers.clone();
    let parts = (0..parts).map(|_| read_part(&mut rest));
    let mut parts: Vec<(Part, usize)> = parts.collect::<Result<_, _>>()?;
    let keys = (0..keys).map(|_| read_claim(&mut rest));
    let keys = keys.collect::<Result<_, _>>()?;
    for (part, len) in &mut parts {
        if input.remaining() < *len {
            return Err(Garbled::Short);
        }
        part.frame = input.copy_to_bytes(*len);
    }
    let parts = parts.into_iter().map(|(part, _)| part).collect();
    let batch = Batch { parts, keys };
    match checksum(&headers, &batch) == expected {
        true => Ok(batch),
        false => Err(Garbled::Checksum),
    }
}

/// CRC-32C of the headers of all parts and of the keys, then of all frames.
fn checksum(headers: &[u8], batch: &Batch) -> u32 {
    let parts = batch.parts.iter();
    parts.fold(crc32c::crc32c(headers), |crc, part| {
        crc32c::crc32c_append(crc, &part.frame)
    })
}

fn read_claim(input: &mut impl Buf) -> Result<Claim, Garbled> {
    Ok(Claim {
        key: KeyHash::from_bytes(read_id(input)?),
        body: input.try_get_u64_le()?,
    })
}

/// A part without its frame, and the length of that.
fn read_part(input: &mut impl Buf) -> Result<(Part, usize), Garbled> {
    let slice = read_slice(input)?;
    let (seq, rows) = (input.try_get_u64_le()?, input.try_get_u32_le()?);
    let raw_bytes = input.try_get_u32_le()?;
    let first_at = Timestamp::from_millis(input.try_get_i64_le()?);
    let last_at = Timestamp::from_millis(input.try_get_i64_le()?);
    let compression = match (input.try_get_u8()?, input.try_get_u8()?) {
        (0, _) => Compression::None,
        (1, level) => Compression::Gzip { level },
        (2, level) => Compression::Zstd { level },
        _ => return Err(Garbled::Unknown("compression")),
    };
    let _reserved = input.try_get_u16_le()?;
    let len = usize::try_from(input.try_get_u32_le()?).map_err(|_| Garbled::Short)?;
    let part = Part {
        slice,
        seq,
        rows,
        raw_bytes,
        first_at,
        last_at,
        compression,
        frame: Bytes::new(),
    };
    Ok((part, len))
}

fn read_slice(input: &mut impl Buf) -> Result<SliceId, Garbled> {
    read_id(input).map(SliceId::from_bytes)
}

fn read_id(input: &mut impl Buf) -> Result<[u8; 16], Garbled> {
    let mut id = [0; 16];
    input.try_copy_to_slice(&mut id)?;
    Ok(id)
}

/// Reads how many elements follow, each of which takes at least `len` bytes.
fn elements(input: &mut impl Buf, len: usize) -> Result<usize, Garbled> {
    let count = usize::try_from(input.try_get_u32_le()?).map_err(|_| Garbled::Short)?;
    if count > input.remaining() / len {
        return Err(Garbled::Short);
    }
    Ok(count)
}

fn ended(input: &impl Buf) -> Result<(), Garbled> {
    match input.remaining() {
        0 => Ok(()),
        _ => Err(Garbled::Long),
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("messages are shorter than 4 GiB")
}
