//! What the state store would hold: sinks, their slices, and how far each slice is. It survives everything here.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use stream_model::definition::TableKind;
use stream_model::level::{Compression, Durability};
use stream_model::trigger::UploadTrigger;
use stream_model::{SessionId, SliceId};
use stream_storage::local::{Content, SliceSpec};

use super::ledger::{Ledger, Promise};

/// How far a slice is.
#[derive(Debug, Clone, PartialEq)]
pub enum SliceState {
    Writing,
    /// To be sealed.
    Closing,
    /// Its content is known, and was compared with what was sent.
    Sealed(Content),
    /// Its rows are safe elsewhere.
    Released(Content),
}

impl SliceState {
    pub fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed(_) | Self::Released(_))
    }
}

/// A slice.
#[derive(Debug)]
pub struct SliceRecord {
    pub sink: usize,
    pub successor: Option<SliceId>,
    pub state: SliceState,
}

/// A sink.
#[derive(Debug)]
pub struct Sink {
    pub compression: Compression,
    pub durability: Durability,
    pub current: SliceId,
}

/// Everything.
#[derive(Default)]
pub struct State {
    pub ledger: Ledger,
    pub sinks: Vec<Sink>,
    pub slices: BTreeMap<SliceId, SliceRecord>,
}

impl State {
    pub fn new(rng: &mut StdRng) -> Self {
        let mut state = Self::default();
        let weak = rng.random_bool(0.2);
        for sink in 0..rng.random_range(1..4) {
            let compression = match rng.random_range(0..10) {
                0..3 => Compression::None,
                3 => Compression::Gzip { level: 1 },
                _ => Compression::Zstd { level: 1 },
            };
            let durability = if weak && rng.random_bool(0.6) {
                Durability::Cache
            } else {
                Durability::Disk
            };
            let current = state.add_slice(sink);
            state.sinks.push(Sink {
                compression,
                durability,
                current,
            });
        }
        state
    }

    fn add_slice(&mut self, sink: usize) -> SliceId {
        let number = self.slices.len() as u128 + 1;
        let id = SliceId::from_bytes(number.to_be_bytes());
        let record = SliceRecord {
            sink,
            successor: None,
            state: SliceState::Writing,
        };
        self.slices.insert(id, record);
        id
    }

    /// Closes the current slice of a sink, with a successor.
    pub fn rotate(&mut self, sink: usize) -> (SliceId, SliceId) {
        let successor = self.add_slice(sink);
        let closed = std::mem::replace(&mut self.sinks[sink].current, successor);
        let record = self.slices.get_mut(&closed).expect("it was added");
        record.state = SliceState::Closing;
        record.successor = Some(successor);
        (closed, successor)
    }

    /// Closes the last slice of a sink.
    pub fn close(&mut self, sink: usize) {
        let current = self.sinks[sink].current;
        let record = self.slices.get_mut(&current).expect("it was added");
        if record.state == SliceState::Writing {
            record.state = SliceState::Closing;
        }
    }

    /// The slices that take rows, one per sink.
    pub fn current(&self) -> Vec<SliceId> {
        self.sinks.iter().map(|sink| sink.current).collect()
    }

    pub fn promise(&self, slice: SliceId) -> Promise {
        match self.sinks[self.sink_of(slice)].durability {
            Durability::Disk => Promise::Kept,
            Durability::Cache | Durability::Memory => Promise::Weak,
        }
    }

    /// Whether some sink promises less than `disk`.
    pub fn is_weak(&self) -> bool {
        self.sinks
            .iter()
            .any(|sink| sink.durability != Durability::Disk)
    }

    pub fn sink_of(&self, slice: SliceId) -> usize {
        self.slices[&slice].sink
    }

    pub fn spec(&self, slice: SliceId) -> SliceSpec {
        SliceSpec {
            id: slice,
            compression: self.sinks[self.sink_of(slice)].compression,
            durability: self.sinks[self.sink_of(slice)].durability,
            trigger: UploadTrigger::default_for(TableKind::Sqlite),
        }
    }

    /// The last number of a session in a slice that the volume does not know any more.
    pub fn recorded_last(&self, slice: SliceId, session: SessionId) -> u64 {
        match &self.slices[&slice].state {
            SliceState::Sealed(content) | SliceState::Released(content) => {
                content.sessions.get(&session).copied().unwrap_or(0)
            }
            SliceState::Writing | SliceState::Closing => panic!("slice {slice} is not sealed"),
        }
    }
}

/// Compresses rows as one frame.
pub fn frame(compression: Compression, csv: &[u8]) -> Bytes {
    match compression {
        Compression::None => Bytes::copy_from_slice(csv),
        Compression::Gzip { level } => {
            let level = flate2::Compression::new(level.into());
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(csv).expect("memory takes it");
            encoder.finish().expect("memory takes it").into()
        }
        Compression::Zstd { level } => {
            let mut compressor = zstd::bulk::Compressor::new(level.into()).expect("a valid level");
            compressor.include_checksum(true).expect("supported");
            compressor.compress(csv).expect("memory takes it").into()
        }
    }
}

/// The rows in the file of a slice.
pub fn unpack(compression: Compression, file: &[u8]) -> Vec<u8> {
    match compression {
        _ if file.is_empty() => Vec::new(),
        Compression::None => file.to_vec(),
        Compression::Gzip { .. } => {
            let mut csv = Vec::new();
            let mut decoder = flate2::read::MultiGzDecoder::new(file);
            decoder.read_to_end(&mut csv).expect("whole gzip members");
            csv
        }
        Compression::Zstd { .. } => zstd::decode_all(file).expect("whole zstd frames"),
    }
}
