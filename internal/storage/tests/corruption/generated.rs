//! A volume with something of everything: slices of each compression, open, sealed and released; some rows only in the journal,
//! some only in slice files; groups of several batches, batches of several slices; two checkpoints; segments used again.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_model::definition::TableKind;
use stream_model::hours::Hour;
use stream_model::level::{Compression, Durability};
use stream_model::time::ManualClock;
use stream_model::trigger::UploadTrigger;
use stream_model::{SessionId, SliceId, Timestamp};
use stream_storage::local::{CommitWorker, FlushWorker, Options, SliceSpec, Step, Volume};
use stream_storage::wire::{Answer, Batch, Connection, Part, Pending};
use tokio::task::unconstrained;

use crate::disk::QuickDisk;
use crate::image::Image;
use crate::layout::Layout;

const ZSTD: Compression = Compression::Zstd { level: 1 };
const GZIP: Compression = Compression::Gzip { level: 1 };
pub const SESSIONS: [SessionId; 2] = [SessionId(0xa1), SessionId(0xb2)];

/// A slice by a number.
pub fn slice(number: u8) -> SliceId {
    SliceId::from_bytes([number; 16])
}

/// How slices differ: number, compression, and up to which part of the run they take rows.
const SLICES: [(u8, Compression, f64); 9] = [
    (1, ZSTD, 1.0),
    (2, GZIP, 1.0),
    (3, Compression::None, 1.0),
    (4, ZSTD, 0.6),
    (5, GZIP, 0.6),
    (6, Compression::None, 0.6),
    (7, ZSTD, 0.9),
    (8, GZIP, 0.9),
    (RELEASED, ZSTD, 0.4),
];
/// The slice that is released.
const RELEASED: u8 = 9;
/// Number of the successor of a sealed slice.
const SUCCESSOR: u8 = 100;

/// What the volume was given.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Rows of each part, by slice, session and number.
    pub parts: BTreeMap<(SliceId, SessionId, u64), Vec<String>>,
    /// Rows of each slice that is still there, in order.
    pub slices: BTreeMap<SliceId, Vec<String>>,
    pub compressions: BTreeMap<SliceId, Compression>,
    pub sealed: Vec<SliceId>,
}

/// A generated volume.
#[derive(Debug)]
pub struct Generated {
    pub image: Image,
    pub content: Content,
    pub layout: Layout,
}

/// How big the volume becomes.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub segment_bytes: u64,
    pub checkpoint_bytes: u64,
    pub groups: u32,
    pub longest_row: usize,
}

pub const SMALL: Size = Size {
    segment_bytes: 40 << 10,
    checkpoint_bytes: 110 << 10,
    groups: 64,
    longest_row: 160,
};

/// When the first rows arrive.
pub const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// So many parts of a slice arrive ten minutes apart, and the next begin anew: an hour has rows from different times.
const PARTS_OF_A_ROUND: u64 = 14;

/// Options for the volume in a directory.
pub fn options(dir: &Path, size: Size) -> Options {
    let clock = Arc::new(ManualClock::new(START));
    Options {
        segment_bytes: size.segment_bytes,
        checkpoint_bytes: size.checkpoint_bytes,
        reserve_bytes: 1 << 20,
        disk: Arc::new(QuickDisk),
        ..Options::new(dir.to_owned(), clock)
    }
}

pub fn spec(id: SliceId, compression: Compression) -> SliceSpec {
    SliceSpec {
        id,
        compression,
        durability: Durability::Disk,
        trigger: UploadTrigger::default_for(TableKind::Sqlite),
    }
}

/// When the rows of a part arrived.
fn arrived(seq: u64) -> Timestamp {
    START + Duration::from_secs(600 * (seq % PARTS_OF_A_ROUND))
}

/// How many rows arrived in each hour.
pub fn by_hour(rows: &[String]) -> BTreeMap<Hour, u64> {
    let mut hours = BTreeMap::new();
    for row in rows {
        let seq = row.split('/').nth(2).and_then(|seq| seq.parse().ok());
        let at = arrived(seq.expect("a row says which part it is of"));
        *hours.entry(Hour::of(at)).or_default() += 1;
    }
    hours
}

/// How many rows arrived in each hour, as a volume says.
pub fn sealed_by_hour(content: &stream_storage::local::Content) -> BTreeMap<Hour, u64> {
    let hours = content.later_hours.by_hour(&content.figures, START);
    hours.into_iter().collect()
}

pub fn part(id: SliceId, seq: u64, compression: Compression, rows: &[String]) -> Part {
    let raw: String = rows.iter().map(|row| format!("{row}\n")).collect();
    Part {
        slice: id,
        seq,
        rows: u32::try_from(rows.len()).expect("few"),
        raw_bytes: u32::try_from(raw.len()).expect("short"),
        first_at: arrived(seq),
        last_at: arrived(seq),
        compression,
        frame: Bytes::from(pack(raw.as_bytes(), compression)),
    }
}

fn pack(raw: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::Zstd { level } => {
            let mut packer = zstd::bulk::Compressor::new(level.into()).expect("valid");
            packer.include_checksum(true).expect("supported");
            packer.compress(raw).expect("packed")
        }
        Compression::Gzip { level } => {
            let level = flate2::Compression::new(level.into());
            let mut packer = flate2::GzBuilder::new()
                .operating_system(255)
                .write(Vec::new(), level);
            packer.write_all(raw).expect("packed");
            packer.finish().expect("packed")
        }
        Compression::None => raw.to_vec(),
    }
}

/// Generates a volume, the same one for the same seed.
pub fn generate(seed: u64, size: Size) -> Generated {
    let dir = tempfile::tempdir().expect("a directory");
    let mut rng = StdRng::seed_from_u64(seed);
    let id: u128 = rng.random();
    std::fs::write(dir.path().join("volume-id"), format!("{id:032x}\n")).expect("written");
    let content = Run::new(dir.path(), size, &mut rng).generate();
    let image = Image::read(dir.path());
    let layout = Layout::new(&image, &content);
    Generated {
        image,
        content,
        layout,
    }
}

/// A batch that waits for its answer, with the rows of each part.
struct Sent {
    answer: Pending<Answer>,
    session: SessionId,
    batch: Batch,
    rows: Vec<Vec<String>>,
}

struct Run<'a> {
    rng: &'a mut StdRng,
    size: Size,
    volume: Volume,
    commit: CommitWorker,
    flush: FlushWorker,
    content: Content,
    seqs: BTreeMap<(SliceId, SessionId), u64>,
    ended: Vec<u8>,
}

impl<'a> Run<'a> {
    fn new(dir: &Path, size: Size, rng: &'a mut StdRng) -> Self {
        let opened = Volume::open_stepped(options(dir, size));
        let (volume, commit, flush, recovery) = opened.expect("opened");
        assert_eq!(recovery.damage, []);
        Self {
            rng,
            size,
            volume,
            commit,
            flush,
            content: Content::default(),
            seqs: BTreeMap::new(),
            ended: Vec::new(),
        }
    }

    fn generate(mut self) -> Content {
        for (number, compression, _) in SLICES {
            self.volume.open_slice(spec(slice(number), compression));
            self.content.slices.insert(slice(number), Vec::new());
            self.content.compressions.insert(slice(number), compression);
        }
        for group in 0..self.size.groups {
            self.end_slices(f64::from(group) / f64::from(self.size.groups));
            self.group();
            self.settle();
        }
        self.content
    }

    /// Lets the flush worker do all that it would do by itself.
    fn settle(&mut self) {
        while self.flush.step(false) == Step::Worked {}
    }

    fn group(&mut self) {
        let batches = self.rng.random_range(1..=4);
        let mut sent: Vec<Sent> = Vec::new();
        for _ in 0..batches {
            let session = SESSIONS[self.rng.random_range(0..SESSIONS.len())];
            let (batch, rows) = self.batch(session);
            let connection = self.volume.connect(session).expect("open");
            let answer = connection.append(batch.clone());
            sent.push(Sent {
                answer,
                session,
                batch,
                rows,
            });
        }
        assert_eq!(self.commit.step(), Step::Worked);
        for Sent {
            answer,
            session,
            batch,
            rows,
        } in sent
        {
            assert_eq!(
                unconstrained(answer).now_or_never(),
                Some(Ok(Answer::Committed))
            );
            for (part, rows) in batch.parts.iter().zip(rows) {
                let all = self.content.slices.entry(part.slice).or_default();
                all.extend(rows.iter().cloned());
                self.content
                    .parts
                    .insert((part.slice, session, part.seq), rows);
            }
        }
    }

    fn batch(&mut self, session: SessionId) -> (Batch, Vec<Vec<String>>) {
        let mut open: Vec<(u8, Compression, f64)> = SLICES
            .into_iter()
            .filter(|(number, ..)| !self.ended.contains(number))
            .collect();
        let (mut parts, mut all_rows) = (Vec::new(), Vec::new());
        for _ in 0..self.rng.random_range(1..=3) {
            let (number, compression, _) = open.remove(self.rng.random_range(0..open.len()));
            let seq = self.seqs.entry((slice(number), session)).or_default();
            *seq += 1;
            let seq = *seq;
            let rows: Vec<String> = (0..self.rng.random_range(1..=6))
                .map(|row| self.row(number, session, seq, row))
                .collect();
            parts.push(part(slice(number), seq, compression, &rows));
            all_rows.push(rows);
        }
        (
            Batch {
                parts,
                keys: Vec::new(),
            },
            all_rows,
        )
    }

    fn row(&mut self, number: u8, session: SessionId, seq: u64, row: u32) -> String {
        let len = self.rng.random_range(0..self.size.longest_row);
        let noise: String = (0..len)
            .map(|_| char::from(self.rng.random_range(b'a'..=b'z')))
            .collect();
        format!("\"{number}/{session}/{seq}/{row}\",\"{noise}\"")
    }

    /// Seals slices whose time has come, and releases the one that is to be.
    fn end_slices(&mut self, progress: f64) {
        for (number, _, until) in SLICES {
            if progress < until || self.ended.contains(&number) {
                continue;
            }
            self.ended.push(number);
            let pending = self
                .volume
                .seal(slice(number), Some(slice(SUCCESSOR + number)));
            assert_eq!(self.commit.step(), Step::Worked);
            self.settle();
            let sealed = unconstrained(pending)
                .now_or_never()
                .expect("answered")
                .expect("sealed");
            let rows = self.content.slices[&slice(number)].len() as u64;
            assert_eq!(sealed.figures.rows, rows);
            assert_eq!(
                sealed_by_hour(&sealed),
                by_hour(&self.content.slices[&slice(number)])
            );
            if number == RELEASED {
                self.volume.release(slice(number));
                assert_eq!(self.commit.step(), Step::Worked);
                self.settle();
                self.content.slices.remove(&slice(number));
            } else {
                self.content.sealed.push(slice(number));
            }
        }
    }
}
