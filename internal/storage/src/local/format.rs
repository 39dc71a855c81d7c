//! The bytes of a journal segment: its header, the entries, and what stands in them. See `docs/formats.md`.
//!
//! Decoding never panics and never trusts a length before its checksum. All integers are little-endian.
//!
//! The checksum of an entry header starts from the volume's id and the segment's number. A segment is used again without
//! being wiped, so what an earlier use left behind the end, or what was copied here from another volume, must not look
//! like an entry.

use std::collections::BTreeMap;

#[cfg(test)]
use bytes::Bytes;
use stream_model::level::Compression;
use stream_model::{SessionId, SliceId, Timestamp, VolumeId};

use crate::wire::Part;

/// Length of the segment header, and the unit on which commit groups start: a write that tears destroys whole blocks, so
/// no two groups share one.
pub(super) const BLOCK: u64 = 4096;
/// Entries start on multiples of this.
pub(super) const ALIGN: usize = 64;
/// Length of an entry header.
pub(super) const ENTRY_HEADER: usize = 64;
/// Format version of segments.
const VERSION: u32 = 1;
const SEGMENT_MAGIC: &[u8; 8] = b"STRMJRNL";
const ENTRY_MAGIC: u32 = u32::from_le_bytes(*b"ENTR");
/// Longest payload. Larger lengths are damage, not data.
pub(super) const MAX_PAYLOAD: usize = 512 << 20;

/// The first block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub volume: VolumeId,
    /// Number of this segment; they rise by one in the order of writing.
    pub number: u64,
    /// The segment that was written before; 0 for none.
    pub previous: u64,
    /// Up to which byte the previous segment is valid. What stands behind was refused, or never acknowledged.
    pub previous_valid_to: u64,
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK as usize);
        block.extend_from_slice(SEGMENT_MAGIC);
        block.extend_from_slice(&VERSION.to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(&self.volume.to_bytes());
        block.extend_from_slice(&self.number.to_le_bytes());
        block.extend_from_slice(&self.previous.to_le_bytes());
        block.extend_from_slice(&self.previous_valid_to.to_le_bytes());
        let crc = crc32c::crc32c(&block);
        block.extend_from_slice(&crc.to_le_bytes());
        block.resize(BLOCK as usize, 0);
        block
    }

    /// The header, or none when the bytes are not one that this version understands.
    pub fn decode(block: &[u8]) -> Option<Self> {
        let mut input = Reader(block);
        let checked = block.get(..56)?;
        if input.take(8)? != SEGMENT_MAGIC || input.u32()? != VERSION {
            return None;
        }
        input.take(4)?;
        let header = Self {
            volume: VolumeId::from_bytes(input.array()?),
            number: input.u64()?,
            previous: input.u64()?,
            previous_valid_to: input.u64()?,
        };
        (input.u32()? == crc32c::crc32c(checked)).then_some(header)
    }
}

/// The start value of entry header checksums in one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seed(u32);

impl Seed {
    pub fn new(volume: VolumeId, number: u64) -> Self {
        Self(crc32c::crc32c_append(
            crc32c::crc32c(&volume.to_bytes()),
            &number.to_le_bytes(),
        ))
    }
}

/// What kind of payload an entry has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Batch,
    Seal,
    Release,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Batch => 1,
            Self::Seal => 2,
            Self::Release => 3,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Batch),
            2 => Some(Self::Seal),
            3 => Some(Self::Release),
            _ => None,
        }
    }
}

/// The header of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryHeader {
    pub kind: Kind,
    pub payload_len: u32,
    pub payload_crc: u32,
    /// Number of the entry in the journal; they rise by one.
    pub entry: u64,
    /// Number of the commit group; they rise by one. A group is written only after the one before it is durable.
    pub group: u64,
    /// Position of the entry in its group, from 0. Tells whether what is missing before it was in its own group.
    pub position: u32,
}

impl EntryHeader {
    fn encode(&self, seed: Seed) -> [u8; ENTRY_HEADER] {
        let mut bytes = [0; ENTRY_HEADER];
        bytes[0..4].copy_from_slice(&ENTRY_MAGIC.to_le_bytes());
        bytes[4] = self.kind.code();
        bytes[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.entry.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.group.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.position.to_le_bytes());
        let crc = crc32c::crc32c_append(seed.0, &bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, or none when there is no valid one.
    pub fn decode(bytes: &[u8], seed: Seed) -> Option<Self> {
        let bytes = bytes.get(..ENTRY_HEADER)?;
        let mut input = Reader(bytes);
        if input.u32()? != ENTRY_MAGIC {
            return None;
        }
        let code = input.u8()?;
        input.take(3)?;
        let (payload_len, payload_crc) = (input.u32()?, input.u32()?);
        let (entry, group, position) = (input.u64()?, input.u64()?, input.u32()?);
        let crc = u32::from_le_bytes(bytes[60..].try_into().ok()?);
        if crc != crc32c::crc32c_append(seed.0, &bytes[..60]) || payload_len as usize > MAX_PAYLOAD
        {
            return None;
        }
        Some(Self {
            kind: Kind::from_code(code)?,
            payload_len,
            payload_crc,
            entry,
            group,
            position,
        })
    }

    /// Bytes from the start of the header to the start of the next entry of the same group.
    pub fn stride(&self) -> u64 {
        ((ENTRY_HEADER + self.payload_len as usize).next_multiple_of(ALIGN)) as u64
    }
}

/// Builds the bytes of one commit group.
#[derive(Debug, Default)]
pub(super) struct GroupBuffer {
    bytes: Vec<u8>,
    entries: u32,
}

impl GroupBuffer {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.entries = 0;
        // One unusually large group must not pin its memory for ever.
        self.bytes.shrink_to(16 << 20);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends an entry; `write` appends its payload. Returns the offset of the payload within the group.
    pub fn push(
        &mut self,
        seed: Seed,
        kind: Kind,
        entry: u64,
        group: u64,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> u64 {
        let start = self.bytes.len();
        let payload = start + ENTRY_HEADER;
        self.bytes.resize(payload, 0);
        write(&mut self.bytes);
        let payload_len = u32::try_from(self.bytes.len() - payload)
            .expect("the queue accepts no batch longer than MAX_PAYLOAD");
        let payload_crc = crc32c::crc32c(&self.bytes[payload..]);
        let position = self.entries;
        self.entries += 1;
        let header = EntryHeader {
            kind,
            payload_len,
            payload_crc,
            entry,
            group,
            position,
        }
        .encode(seed);
        self.bytes[start..payload].copy_from_slice(&header);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        payload as u64
    }
}

const PART_HEADER: usize = 56;

/// Length of the payload of a batch.
pub(super) fn batch_len(parts: &[Part]) -> usize {
    12 + parts
        .iter()
        .map(|part| PART_HEADER + part.frame.len())
        .sum::<usize>()
}

/// Appends the payload of a batch. Returns the offset of each part's frame from the start of the payload.
pub(super) fn encode_batch(session: SessionId, parts: &[Part], out: &mut Vec<u8>) -> Vec<u64> {
    let start = out.len();
    out.extend_from_slice(&session.0.to_le_bytes());
    out.extend_from_slice(
        &u32::try_from(parts.len())
            .expect("checked on arrival")
            .to_le_bytes(),
    );
    let mut offsets = Vec::with_capacity(parts.len());
    for part in parts {
        let (codec, level) = compression_code(part.compression);
        out.extend_from_slice(&part.slice.to_bytes());
        out.extend_from_slice(&part.seq.to_le_bytes());
        out.extend_from_slice(&part.rows.to_le_bytes());
        out.extend_from_slice(&part.raw_bytes.to_le_bytes());
        out.extend_from_slice(&part.first_at.as_millis().to_le_bytes());
        out.extend_from_slice(&part.last_at.as_millis().to_le_bytes());
        out.extend_from_slice(&[codec, level, 0, 0]);
        let len = u32::try_from(part.frame.len()).expect("checked on arrival");
        out.extend_from_slice(&len.to_le_bytes());
        offsets.push((out.len() - start) as u64);
        out.extend_from_slice(&part.frame);
    }
    offsets
}

/// A part as read back. The frame is named by its place in the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecoveredPart {
    pub slice: SliceId,
    pub seq: u64,
    pub rows: u32,
    pub raw_bytes: u32,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub compression: Compression,
    pub frame_offset: u64,
    pub frame_len: u32,
}

/// Reads the payload of a batch. None when it is not one, which a valid checksum makes a bug of the writer.
pub(super) fn decode_batch(payload: &[u8]) -> Option<(SessionId, Vec<RecoveredPart>)> {
    let mut input = Reader(payload);
    let session = SessionId(input.u64()?);
    let count = input.u32()?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let slice = SliceId::from_bytes(input.array()?);
        let (seq, rows, raw_bytes) = (input.u64()?, input.u32()?, input.u32()?);
        let first_at = Timestamp::from_millis(input.i64()?);
        let last_at = Timestamp::from_millis(input.i64()?);
        let codec = input.take(4)?;
        let compression = compression_from_code(codec[0], codec[1])?;
        let frame_len = input.u32()?;
        let frame_offset = (payload.len() - input.0.len()) as u64;
        input.take(frame_len as usize)?;
        parts.push(RecoveredPart {
            slice,
            seq,
            rows,
            raw_bytes,
            first_at,
            last_at,
            compression,
            frame_offset,
            frame_len,
        });
    }
    Some((session, parts))
}

/// A slice takes no more rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SealEntry {
    pub slice: SliceId,
    pub successor: Option<SliceId>,
    pub sessions: BTreeMap<SessionId, u64>,
}

impl SealEntry {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.slice.to_bytes());
        encode_successor(self.successor, out);
        encode_sessions(&self.sessions, out);
    }

    pub fn decode(payload: &[u8]) -> Option<Self> {
        let mut input = Reader(payload);
        Some(Self {
            slice: SliceId::from_bytes(input.array()?),
            successor: decode_successor(&mut input)?,
            sessions: decode_sessions(&mut input)?,
        })
    }
}

pub(super) fn encode_successor(successor: Option<SliceId>, out: &mut Vec<u8>) {
    out.push(u8::from(successor.is_some()));
    out.extend_from_slice(&successor.map_or([0; 16], SliceId::to_bytes));
}

pub(super) fn decode_successor(input: &mut Reader<'_>) -> Option<Option<SliceId>> {
    let present = input.u8()? != 0;
    let id = SliceId::from_bytes(input.array()?);
    Some(present.then_some(id))
}

pub(super) fn encode_sessions(sessions: &BTreeMap<SessionId, u64>, out: &mut Vec<u8>) {
    let count = u32::try_from(sessions.len()).expect("a slice has at most MAX_SESSIONS sessions");
    out.extend_from_slice(&count.to_le_bytes());
    for (session, last) in sessions {
        out.extend_from_slice(&session.0.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
    }
}

pub(super) fn decode_sessions(input: &mut Reader<'_>) -> Option<BTreeMap<SessionId, u64>> {
    let count = input.u32()?;
    let mut sessions = BTreeMap::new();
    for _ in 0..count {
        sessions.insert(SessionId(input.u64()?), input.u64()?);
    }
    Some(sessions)
}

pub(super) const fn compression_code(compression: Compression) -> (u8, u8) {
    match compression {
        Compression::None => (0, 0),
        Compression::Gzip { level } => (1, level),
        Compression::Zstd { level } => (2, level),
    }
}

pub(super) const fn compression_from_code(codec: u8, level: u8) -> Option<Compression> {
    match codec {
        0 => Some(Compression::None),
        1 => Some(Compression::Gzip { level }),
        2 => Some(Compression::Zstd { level }),
        _ => None,
    }
}

/// Takes values off the front of a byte slice; none when there are too few bytes.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }
}

/// The payload of a release: the slice, whose rows are safe elsewhere.
pub(super) fn decode_release(payload: &[u8]) -> Option<SliceId> {
    Reader(payload).array().map(SliceId::from_bytes)
}

/// Copies a frame out of a payload; used by tests and tools, which hold whole payloads.
#[cfg(test)]
pub(super) fn frame_of(payload: &[u8], part: &RecoveredPart) -> Option<Bytes> {
    let start = usize::try_from(part.frame_offset).ok()?;
    payload
        .get(start..start + part.frame_len as usize)
        .map(Bytes::copy_from_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(slice: u8, seq: u64, frame: &[u8]) -> Part {
        Part {
            slice: SliceId::from_bytes([slice; 16]),
            seq,
            rows: 2,
            raw_bytes: 100,
            first_at: Timestamp::from_millis(5),
            last_at: Timestamp::from_millis(6),
            compression: Compression::Zstd { level: 1 },
            frame: Bytes::copy_from_slice(frame),
        }
    }

    #[test]
    fn segment_header_round_trips_and_detects_damage() {
        let header = SegmentHeader {
            volume: VolumeId::from_bytes([7; 16]),
            number: 3,
            previous: 2,
            previous_valid_to: 8192,
        };
        let block = header.encode();
        assert_eq!(block.len(), BLOCK as usize);
        assert_eq!(SegmentHeader::decode(&block), Some(header));
        for at in 0..60 {
            let mut damaged = block.clone();
            damaged[at] ^= 1;
            assert_eq!(SegmentHeader::decode(&damaged), None, "byte {at}");
        }
        assert_eq!(SegmentHeader::decode(&block[..40]), None);
    }

    #[test]
    fn entry_of_another_segment_is_not_an_entry() {
        let volume = VolumeId::from_bytes([7; 16]);
        let mut group = GroupBuffer::default();
        let seed = Seed::new(volume, 1);
        let parts = [part(1, 1, b"abc"), part(2, 9, b"")];
        let mut offsets = Vec::new();
        group.push(seed, Kind::Batch, 5, 4, |out| {
            offsets = encode_batch(SessionId(8), &parts, out)
        });
        let header = EntryHeader::decode(group.bytes(), seed).expect("valid");
        assert_eq!(
            (header.entry, header.group, header.kind),
            (5, 4, Kind::Batch)
        );
        assert_eq!(header.stride(), group.bytes().len() as u64);
        assert_eq!(header.payload_len as usize, batch_len(&parts));
        assert_eq!(
            EntryHeader::decode(group.bytes(), Seed::new(volume, 2)),
            None
        );
        assert_eq!(
            EntryHeader::decode(group.bytes(), Seed::new(VolumeId::from_bytes([8; 16]), 1)),
            None
        );
    }

    #[test]
    fn batch_payload_round_trips_and_every_cut_is_noticed() {
        let parts = [part(1, 1, b"abc"), part(2, 9, b"defgh")];
        let mut payload = Vec::new();
        let offsets = encode_batch(SessionId(8), &parts, &mut payload);
        let (session, recovered) = decode_batch(&payload).expect("valid");
        assert_eq!(session, SessionId(8));
        assert_eq!(recovered.len(), 2);
        for ((part, read), offset) in parts.iter().zip(&recovered).zip(offsets) {
            assert_eq!(
                (part.slice, part.seq, part.rows),
                (read.slice, read.seq, read.rows)
            );
            assert_eq!(read.frame_offset, offset);
            assert_eq!(frame_of(&payload, read).as_deref(), Some(&part.frame[..]));
        }
        for cut in 0..payload.len() {
            assert_eq!(decode_batch(&payload[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn seal_payload_round_trips() {
        let seal = SealEntry {
            slice: SliceId::from_bytes([1; 16]),
            successor: Some(SliceId::from_bytes([2; 16])),
            sessions: BTreeMap::from([(SessionId(1), 5), (SessionId(2), 1)]),
        };
        let mut payload = Vec::new();
        seal.encode(&mut payload);
        assert_eq!(SealEntry::decode(&payload), Some(seal));
    }
}
