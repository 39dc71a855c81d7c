//! The messages on a stream, version 1, as `docs/formats.md` describes them.
//!
//! All numbers are little-endian and of fixed length, and every list says how many elements it has. A count is held against the
//! bytes that are left before anything is allocated for it, so no message makes the reader use more than a small multiple of
//! its own length. Frames are not copied: they are parts of the message's buffer.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use stream_model::level::Compression;
use stream_model::{SessionId, SliceId, Timestamp, VolumeId};

use super::super::{Answer, Batch, Opened, Part, Refusal, RefusalReason, Sealed};

/// The oldest version that this program speaks.
pub(super) const OLDEST: u16 = 1;
/// The newest.
pub(super) const NEWEST: u16 = 1;

/// What the first message begins with.
const MAGIC: u64 = u64::from_le_bytes(*b"STRMWIRE");
/// Length of a part in an append, without its frame.
const PART: usize = 56;
/// Length of an append, without its parts.
const APPEND: usize = 17;
/// Length of the fixed part of what is known of a slice.
const KNOWN: usize = 42;
/// Length of an expected number with its slice.
const EXPECTED: usize = 24;
/// The rule of a batch that the writer calls malformed. The writer's log names it.
const UNNAMED_RULE: &str = "it breaks a rule that the log of the writer names";

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

/// From the storage-writer to the http-source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    /// The stream is connected to the volume.
    Welcome {
        /// The version that both speak.
        version: u16,
    },
    /// It is not, and ends.
    Denied(Denial),
    /// What became of a batch.
    Answer {
        /// Number of the message.
        id: u64,
        /// What became of it.
        answer: Answer,
    },
    /// What the volume knows about the slices of an open.
    Opened {
        /// Number of the message.
        id: u64,
        /// What it knows.
        opened: BTreeMap<SliceId, Opened>,
    },
    /// The writer stops: it answers what is on the way and takes nothing that is sent after this has arrived.
    Goodbye,
}

/// Why a stream is not connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Denial {
    /// The volume is not served here, or under another incarnation.
    NoRoute,
    /// The volume takes nothing. The text is for people.
    Closed(String),
    /// The writer speaks these versions.
    Version {
        /// The oldest.
        oldest: u16,
        /// The newest.
        newest: u16,
    },
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
    let frames: usize = batch.bytes();
    batch
        .parts
        .len()
        .saturating_mul(PART)
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
                let mut headers = Vec::with_capacity(batch.parts.len() * PART);
                let parts = batch.parts.iter();
                parts.for_each(|part| write_part(part, &mut headers));
                out.put_u32_le(count(batch.parts.len()));
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
    let expected = input.try_get_u32_le()?;
    if parts > input.remaining() / PART {
        return Err(Garbled::Short);
    }
    let headers = input.copy_to_bytes(parts * PART);
    let mut rest = headers.clone();
    let parts = (0..parts).map(|_| read_part(&mut rest));
    let mut parts: Vec<(Part, usize)> = parts.collect::<Result<_, _>>()?;
    for (part, len) in &mut parts {
        if input.remaining() < *len {
            return Err(Garbled::Short);
        }
        part.frame = input.copy_to_bytes(*len);
    }
    let parts = parts.into_iter().map(|(part, _)| part).collect();
    let batch = Batch { parts };
    match checksum(&headers, &batch) == expected {
        true => Ok(batch),
        false => Err(Garbled::Checksum),
    }
}

/// CRC-32C of the headers of all parts, then of all frames.
fn checksum(headers: &[u8], batch: &Batch) -> u32 {
    let parts = batch.parts.iter();
    parts.fold(crc32c::crc32c(headers), |crc, part| {
        crc32c::crc32c_append(crc, &part.frame)
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

impl Reply {
    /// Writes the message.
    pub fn write(&self, out: &mut impl BufMut) {
        match self {
            Self::Welcome { version } => {
                out.put_u8(1);
                out.put_u16_le(*version);
            }
            Self::Denied(denial) => {
                out.put_u8(2);
                denial.write(out);
            }
            Self::Answer { id, answer } => {
                out.put_u8(3);
                out.put_u64_le(*id);
                write_answer(answer, out);
            }
            Self::Opened { id, opened } => {
                out.put_u8(4);
                out.put_u64_le(*id);
                out.put_u32_le(count(opened.len()));
                for (slice, opened) in opened {
                    write_known(*slice, *opened, out);
                }
            }
            Self::Goodbye => out.put_u8(5),
        }
    }

    /// Reads a message that takes up all of `input`.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(input: &mut impl Buf) -> Result<Self, Garbled> {
        let reply = match input.try_get_u8()? {
            1 => Self::Welcome {
                version: input.try_get_u16_le()?,
            },
            2 => Self::Denied(Denial::read(input)?),
            3 => Self::Answer {
                id: input.try_get_u64_le()?,
                answer: read_answer(input)?,
            },
            4 => {
                let id = input.try_get_u64_le()?;
                let opened = (0..elements(input, KNOWN)?).map(|_| read_known(input));
                let opened = opened.collect::<Result<_, _>>()?;
                Self::Opened { id, opened }
            }
            5 => Self::Goodbye,
            _ => return Err(Garbled::Unknown("kind")),
        };
        ended(input)?;
        Ok(reply)
    }
}

impl Denial {
    fn write(&self, out: &mut impl BufMut) {
        match self {
            Self::NoRoute => out.put_u8(1),
            Self::Closed(reason) => {
                out.put_u8(2);
                out.put_u32_le(count(reason.len()));
                out.put_slice(reason.as_bytes());
            }
            Self::Version { oldest, newest } => {
                out.put_u8(3);
                out.put_u16_le(*oldest);
                out.put_u16_le(*newest);
            }
        }
    }

    fn read(input: &mut impl Buf) -> Result<Self, Garbled> {
        Ok(match input.try_get_u8()? {
            1 => Self::NoRoute,
            2 => {
                let len = elements(input, 1)?;
                let text = input.copy_to_bytes(len);
                Self::Closed(String::from_utf8_lossy(&text).into_owned())
            }
            3 => Self::Version {
                oldest: input.try_get_u16_le()?,
                newest: input.try_get_u16_le()?,
            },
            _ => return Err(Garbled::Unknown("denial")),
        })
    }
}

fn write_answer(answer: &Answer, out: &mut impl BufMut) {
    match answer {
        Answer::Committed => out.put_u8(0),
        Answer::Sealed(slices) => {
            out.put_u8(1);
            out.put_u32_le(count(slices.len()));
            for (slice, sealed) in slices {
                write_known(*slice, Opened::Sealed(*sealed), out);
            }
        }
        Answer::Refused(refusal) => {
            out.put_u8(2);
            write_reason(refusal.reason, out);
            out.put_u32_le(count(refusal.expected.len()));
            for (slice, expected) in &refusal.expected {
                out.put_slice(&slice.to_bytes());
                out.put_u64_le(*expected);
            }
        }
    }
}

fn read_answer(input: &mut impl Buf) -> Result<Answer, Garbled> {
    match input.try_get_u8()? {
        0 => Ok(Answer::Committed),
        1 => {
            let slices = (0..elements(input, KNOWN)?).map(|_| match read_known(input)? {
                (slice, Opened::Sealed(sealed)) => Ok((slice, sealed)),
                (_, Opened::Last(_) | Opened::UnknownSlice) => Err(Garbled::Unknown("seal")),
            });
            Ok(Answer::Sealed(slices.collect::<Result<_, _>>()?))
        }
        2 => {
            let reason = read_reason(input)?;
            let expected = (0..elements(input, EXPECTED)?)
                .map(|_| Ok::<_, Garbled>((read_slice(input)?, input.try_get_u64_le()?)));
            let expected = expected.collect::<Result<_, _>>()?;
            Ok(Answer::Refused(Refusal { reason, expected }))
        }
        _ => Err(Garbled::Unknown("answer")),
    }
}

fn write_reason(reason: RefusalReason, out: &mut impl BufMut) {
    let none = SliceId::from_bytes([0; 16]);
    let (code, slice) = match reason {
        RefusalReason::UnknownSlice(slice) => (1, slice),
        RefusalReason::OutOfOrder => (2, none),
        RefusalReason::TooManySessions(slice) => (3, slice),
        RefusalReason::DiskFull => (4, none),
        RefusalReason::VolumeFull => (5, none),
        RefusalReason::SinkFull(slice) => (6, slice),
        RefusalReason::Overloaded => (7, none),
        RefusalReason::WriteFailed => (8, none),
        RefusalReason::Superseded => (9, none),
        RefusalReason::Stopping => (10, none),
        RefusalReason::Malformed(_) => (11, none),
    };
    out.put_u8(code);
    out.put_slice(&slice.to_bytes());
}

fn read_reason(input: &mut impl Buf) -> Result<RefusalReason, Garbled> {
    let code = input.try_get_u8()?;
    let slice = read_slice(input)?;
    Ok(match code {
        1 => RefusalReason::UnknownSlice(slice),
        2 => RefusalReason::OutOfOrder,
        3 => RefusalReason::TooManySessions(slice),
        4 => RefusalReason::DiskFull,
        5 => RefusalReason::VolumeFull,
        6 => RefusalReason::SinkFull(slice),
        7 => RefusalReason::Overloaded,
        8 => RefusalReason::WriteFailed,
        9 => RefusalReason::Superseded,
        10 => RefusalReason::Stopping,
        11 => RefusalReason::Malformed(UNNAMED_RULE),
        _ => return Err(Garbled::Unknown("reason")),
    })
}

fn write_known(slice: SliceId, known: Opened, out: &mut impl BufMut) {
    let (tag, last, successor) = match known {
        Opened::Last(last) => (0, last, None),
        Opened::Sealed(sealed) => (1, sealed.last, sealed.successor),
        Opened::UnknownSlice => (2, 0, None),
    };
    out.put_slice(&slice.to_bytes());
    out.put_u8(tag);
    out.put_u64_le(last);
    out.put_u8(u8::from(successor.is_some()));
    out.put_slice(&successor.map_or([0; 16], SliceId::to_bytes));
}

fn read_known(input: &mut impl Buf) -> Result<(SliceId, Opened), Garbled> {
    let slice = read_slice(input)?;
    let (tag, last) = (input.try_get_u8()?, input.try_get_u64_le()?);
    let (has_successor, successor) = (input.try_get_u8()?, read_slice(input)?);
    let known = match (tag, has_successor) {
        (0, 0) => Opened::Last(last),
        (1, has @ (0 | 1)) => Opened::Sealed(Sealed {
            last,
            successor: (has == 1).then_some(successor),
        }),
        (2, 0) => Opened::UnknownSlice,
        _ => return Err(Garbled::Unknown("slice state")),
    };
    Ok((slice, known))
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
