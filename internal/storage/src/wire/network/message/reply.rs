//! What the storage-writer sends.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut};
use stream_model::SliceId;

use super::{Garbled, count, elements, ended, read_slice};
use crate::wire::{Answer, KnownKey, Opened, Refusal, RefusalReason, Sealed};

/// The rule of a batch that the writer calls malformed. The writer's log names it.
const UNNAMED_RULE: &str = "it breaks a rule that the log of the writer names";
/// Length of an expected number with its slice.
const EXPECTED: usize = 24;
/// Length of the fixed part of what is known of a slice.
const KNOWN: usize = 42;
/// Length of a known key.
const KNOWN_KEY: usize = 12;

/// From the storage-writer to the http-source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Reply {
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
        /// For how many seconds at least the volume remembers idempotency keys; none when it has not said it.
        window: Option<u32>,
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
pub(in super::super) enum Denial {
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
            Self::Answer { id, window, answer } => {
                out.put_u8(3);
                out.put_u64_le(*id);
                out.put_u32_le(window.map_or(0, |seconds| seconds.saturating_add(1)));
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
                window: input.try_get_u32_le()?.checked_sub(1),
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
        Answer::KnownKeys(keys) => {
            out.put_u8(3);
            out.put_u32_le(count(keys.len()));
            for key in keys {
                out.put_u32_le(key.position);
                out.put_u64_le(key.body);
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
        3 => {
            let keys = (0..elements(input, KNOWN_KEY)?).map(|_| {
                Ok::<_, Garbled>(KnownKey {
                    position: input.try_get_u32_le()?,
                    body: input.try_get_u64_le()?,
                })
            });
            Ok(Answer::KnownKeys(keys.collect::<Result<_, _>>()?))
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
        RefusalReason::KeysElsewhere => (12, none),
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
        12 => RefusalReason::KeysElsewhere,
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
