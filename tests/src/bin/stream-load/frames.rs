//! Frames as the service would make them: records mapped to rows, rows compressed.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use stream_encoding::{
    CompiledMapping, ContentType, Encoder, Headers, Record, Rows, decompress_frames,
};
use stream_model::Timestamp;
use stream_model::definition::mapping::Mapping;
use stream_model::level::Compression;

use crate::body;

/// How the frames are compressed: as the service does by default.
pub const COMPRESSION: Compression = Compression::Zstd { level: 1 };

/// Rows of all frames together, at least: compression must see what it would see in real life.
const VARIETY: u64 = 4_096;
/// What the codec is measured with, before compression.
const CODEC_BYTES: usize = 256 << 10;
/// How long each direction of the codec is measured.
const CODEC_TIME: Duration = Duration::from_millis(500);

/// A frame and what must be said of it.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Compressed rows.
    pub bytes: Bytes,
    /// How many.
    pub rows: u32,
    /// Their length before compression.
    pub raw_bytes: u32,
}

/// Different frames of the same number of rows.
#[derive(Debug)]
pub struct Frames(Vec<Frame>);

impl Frames {
    /// Makes frames of `rows` rows, from records of `bytes` bytes.
    ///
    /// # Errors
    /// When they cannot be mapped or compressed.
    pub fn new(rows: u64, bytes: usize) -> anyhow::Result<Self> {
        let mut source = RowSource::new(bytes)?;
        let mut encoder = Encoder::new(COMPRESSION);
        let count = (VARIETY / rows).max(32);
        let frames = (0..count).map(|_| {
            let made = source.rows(|made| u64::from(made.rows()) < rows)?;
            Ok(Frame {
                bytes: encoder.frame(made.as_bytes())?,
                rows: made.rows(),
                raw_bytes: made.len().try_into()?,
            })
        });
        Ok(Self(frames.collect::<anyhow::Result<_>>()?))
    }

    /// Any of them.
    pub fn any(&self, rng: &mut StdRng) -> Frame {
        self.0[rng.random_range(0..self.0.len())].clone()
    }
}

/// Makes rows of records.
struct RowSource {
    mapping: CompiledMapping,
    rng: StdRng,
    rows: Rows,
    bytes: usize,
}

impl RowSource {
    fn new(bytes: usize) -> anyhow::Result<Self> {
        let path = |name: &str, path: &str| json!({"type": "path", "name": name, "path": path, "rawString": true, "defaultValue": ""});
        let mapping: Mapping = serde_json::from_value(json!({"columns": [
            {"type": "uuid", "name": "uuid"},
            {"type": "datetime", "name": "received"},
            path("id", "id"),
            path("type", "type"),
            path("actor", "actor.name"),
            path("amount", "data.amount"),
            path("currency", "data.currency"),
            path("text", "text"),
        ]}))?;
        Ok(Self {
            mapping: CompiledMapping::compile(&mapping)?,
            rng: StdRng::seed_from_u64(2),
            rows: Rows::new(),
            bytes,
        })
    }

    /// New rows, while `more` wants some.
    fn rows(&mut self, more: impl Fn(&Rows) -> bool) -> anyhow::Result<&Rows> {
        self.rows.clear();
        while more(&self.rows) {
            let record = Record {
                received_at: Timestamp::from_millis(1_767_225_600_000),
                client_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
                headers: Headers::default(),
                content_type: ContentType::Json,
                body: body::record(&mut self.rng, self.bytes).into(),
            };
            let ids: [u8; 10] = self.rng.random();
            self.mapping.map(&record, &mut self.rows, &mut || ids)?;
        }
        Ok(&self.rows)
    }
}

/// What the codec does with rows, in bytes before compression per second of one CPU.
#[derive(Debug)]
pub struct Codec {
    /// Packing 256 KiB.
    pub compress: f64,
    /// Unpacking them.
    pub decompress: f64,
    /// Bytes before compression for each one after.
    pub ratio: f64,
}

impl Codec {
    /// Measures it.
    ///
    /// # Errors
    /// When the codec fails.
    pub fn measure() -> anyhow::Result<Self> {
        let mut source = RowSource::new(1_024)?;
        let raw = source.rows(|rows| rows.len() < CODEC_BYTES)?.as_bytes();
        let mut encoder = Encoder::new(COMPRESSION);
        let frame = encoder.frame(raw)?;
        let mut out = Vec::new();
        Ok(Self {
            compress: speed(raw.len(), || {
                encoder.frame(raw)?;
                Ok(())
            })?,
            decompress: speed(raw.len(), || {
                out.clear();
                decompress_frames(COMPRESSION, &frame, &mut out, raw.len()).context("cannot unpack")
            })?,
            ratio: raw.len() as f64 / frame.len() as f64,
        })
    }
}

fn speed(bytes: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let (start, mut times) = (Instant::now(), 0);
    while start.elapsed() < CODEC_TIME {
        work()?;
        times += 1;
    }
    Ok((bytes * times) as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_rows_that_were_asked_for() {
        let frames = Frames::new(100, 300).expect("made");
        for frame in &frames.0 {
            let mut raw = Vec::new();
            decompress_frames(COMPRESSION, &frame.bytes, &mut raw, 1 << 20).expect("whole");
            assert_eq!((frame.rows, frame.raw_bytes as usize), (100, raw.len()));
            assert_eq!(raw.iter().filter(|byte| **byte == b'\n').count(), 100);
        }
        assert_ne!(frames.0[0].bytes, frames.0[1].bytes);
    }
}
