//! Where on an undamaged volume what stands, read by the description of the format alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use stream_model::level::Compression;
use stream_model::{SessionId, SliceId};

use crate::damage::Damage;
use crate::generated::Content;
use crate::image::Image;

const BLOCK: usize = 4096;

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    VolumeId,
    Lock,
    Segment { newest: bool },
    Spare,
    Checkpoint { newest: bool },
    Slice(SliceId),
    Keys,
}

/// Bytes that mean something, and what is lost with them.
#[derive(Debug, Clone)]
pub struct Region {
    pub range: Range<usize>,
    /// Rows that stand here and nowhere else.
    pub rows: BTreeSet<String>,
    /// The commit group, in a segment.
    pub group: Option<u64>,
    /// Bytes without which nobody can tell how many rows there were.
    telling: Vec<Range<usize>>,
}

/// A file.
#[derive(Debug, Clone)]
pub struct Place {
    pub kind: Kind,
    pub regions: Vec<Region>,
    pub len: usize,
}

/// All files.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    pub places: BTreeMap<PathBuf, Place>,
}

/// What the newest checkpoint says of a slice.
struct Vouched {
    entry: u64,
    len: usize,
}

impl Layout {
    pub fn new(image: &Image, content: &Content) -> Self {
        let numbered = |dir: &str, extension: &str| -> Vec<(u64, &PathBuf, &Vec<u8>)> {
            let mut found: Vec<_> = image
                .0
                .iter()
                .filter(|(path, _)| path.starts_with(dir))
                .filter(|(path, _)| path.extension().is_some_and(|found| found == extension))
                .map(|(path, bytes)| (number_of(path), path, bytes))
                .collect();
            found.sort_unstable_by_key(|(number, ..)| *number);
            found
        };
        let mut layout = Self::default();
        let checkpoints = numbered("checkpoint", "checkpoint");
        let newest = checkpoints.last().map(|(.., bytes)| read_checkpoint(bytes));
        let vouched = newest.unwrap_or_default();
        for (position, (_, path, bytes)) in checkpoints.iter().enumerate() {
            let newest = position + 1 == checkpoints.len();
            layout.add(path, Kind::Checkpoint { newest }, bytes, vec![whole(bytes)]);
        }
        let segments = numbered("journal", "segment");
        for (position, (_, path, bytes)) in segments.iter().enumerate() {
            let limit = segments
                .get(position + 1)
                .map(|(.., next)| u64_at(next, 48) as usize);
            let newest = limit.is_none();
            let regions = segment(bytes, limit.unwrap_or(bytes.len()), content, &vouched);
            layout.add(path, Kind::Segment { newest }, bytes, regions);
        }
        for (path, bytes) in &image.0 {
            if path.starts_with("slices") {
                let stem = path.file_stem().and_then(|stem| stem.to_str());
                let id: SliceId = stem.and_then(|stem| stem.parse().ok()).expect("a slice");
                let len = vouched.get(&id).map_or(0, |vouched| vouched.len);
                let regions = slice_file(&bytes[..len], content.compressions[&id]);
                layout.add(path, Kind::Slice(id), bytes, regions);
            } else if path.extension().is_some_and(|found| found == "spare") {
                layout.add(path, Kind::Spare, bytes, Vec::new());
            } else if path == Path::new("volume-id") {
                layout.add(path, Kind::VolumeId, bytes, vec![whole(&bytes[..32])]);
            } else if path.starts_with("keys") {
                layout.add(path, Kind::Keys, bytes, vec![whole(bytes)]);
            } else if path == Path::new("lock") {
                layout.add(path, Kind::Lock, bytes, Vec::new());
            }
        }
        assert_eq!(layout.places.len(), image.0.len(), "every file is known");
        layout
    }

    fn add(&mut self, path: &Path, kind: Kind, bytes: &[u8], regions: Vec<Region>) {
        let place = Place {
            kind,
            regions,
            len: bytes.len(),
        };
        self.places.insert(path.to_owned(), place);
    }
}

impl Place {
    /// The rows that stand in these bytes and nowhere else.
    pub fn rows_in(&self, hit: &[Range<usize>]) -> BTreeSet<String> {
        let regions = &self.regions;
        let is_hit = |region: &Region| {
            hit.iter()
                .any(|hit| hit.start < region.range.end && region.range.start < hit.end)
        };
        let mut rows: BTreeSet<String> = regions
            .iter()
            .filter(|region| is_hit(region))
            .flat_map(|region| region.rows.iter().cloned())
            .collect();
        // What follows damage in the last group of the newest segment cannot be told from a group that was being written.
        let last = regions.last().and_then(|region| region.group);
        if self.kind == (Kind::Segment { newest: true })
            && let Some(first) = regions
                .iter()
                .position(|region| region.group == last && last.is_some() && is_hit(region))
        {
            rows.extend(
                regions[first..]
                    .iter()
                    .flat_map(|region| region.rows.iter().cloned()),
            );
        }
        rows
    }

    /// The rows in the newest segment whose loss cannot be told from a commit group that was being written: those of the last group
    /// from the first that is hit, those behind which nothing is whole, and those of groups of which not even a header is left,
    /// when there is no entry before them.
    pub fn torn_rows(&self, hit: &[Range<usize>]) -> BTreeSet<String> {
        let hits = |range: &Range<usize>| {
            hit.iter()
                .any(|hit| hit.start < range.end && range.start < hit.end)
        };
        let entries: Vec<&Region> = self.regions.iter().filter(|r| r.group.is_some()).collect();
        let last = entries.last().and_then(|region| region.group);
        if self.kind != (Kind::Segment { newest: true }) {
            return BTreeSet::new();
        }
        let whole = entries.iter().rposition(|region| !hits(&region.range));
        let behind = whole.map_or(0, |whole| whole + 1);
        let in_last = entries
            .iter()
            .position(|region| region.group == last && hits(&region.range))
            .unwrap_or(entries.len());
        let mut others = entries.iter().take_while(|region| region.group != last);
        let is_gone = |region: &&Region| hits(&(region.range.start..region.range.start + 64));
        let nothing_before = in_last < entries.len() && others.all(is_gone);
        let first = match nothing_before {
            true => 0,
            false => behind.min(in_last),
        };
        let torn = entries[first..].iter();
        torn.flat_map(|region| region.rows.iter().cloned())
            .collect()
    }

    /// Whether a volume with this damage to the file can tell how many rows are lost.
    pub fn tells_rows(&self, damage: &Damage) -> bool {
        match damage {
            Damage::Flip { at, .. } => {
                let mut telling = self.regions.iter().flat_map(|region| &region.telling);
                !telling.any(|range| range.contains(at))
            }
            _ => !matches!(self.kind, Kind::Segment { .. }),
        }
    }

    /// Whether the byte means something.
    pub fn is_live(&self, at: usize) -> bool {
        self.regions.iter().any(|region| region.range.contains(&at))
    }
}

fn whole(bytes: &[u8]) -> Region {
    region(0..bytes.len(), BTreeSet::new(), None)
}

fn region(range: Range<usize>, rows: BTreeSet<String>, group: Option<u64>) -> Region {
    Region {
        range,
        rows,
        group,
        telling: Vec::new(),
    }
}

fn number_of(path: &Path) -> u64 {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    u64::from_str_radix(stem.expect("a name"), 16).expect("a number")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn slice_at(bytes: &[u8], at: usize) -> SliceId {
    SliceId::from_bytes(bytes[at..at + 16].try_into().expect("16 bytes"))
}

fn segment(
    bytes: &[u8],
    limit: usize,
    content: &Content,
    vouched: &BTreeMap<SliceId, Vouched>,
) -> Vec<Region> {
    let mut regions = vec![region(0..60, BTreeSet::new(), None)];
    let seed = crc32c::crc32c_append(crc32c::crc32c(&bytes[16..32]), &bytes[32..40]);
    let mut at = BLOCK;
    while at + 64 <= limit {
        let header = &bytes[at..at + 64];
        let crc = crc32c::crc32c_append(seed, &header[..60]);
        if &header[..4] != b"ENTR" || u32_at(header, 60) != crc {
            at += 64;
            continue;
        }
        let len = u32_at(header, 8) as usize;
        let payload = &bytes[at + 64..at + 64 + len];
        let rows = match header[4] {
            1 => batch_rows(payload, u64_at(header, 16), content, vouched),
            _ => BTreeSet::new(),
        };
        let mut region = region(at..at + 64 + len, rows, Some(u64_at(header, 24)));
        if header[4] == 1 {
            region.telling = telling(payload, at + 64);
        }
        regions.push(region);
        at += (64 + len).next_multiple_of(64);
    }
    regions
}

/// The rows of a batch that no slice file has.
fn batch_rows(
    payload: &[u8],
    entry: u64,
    content: &Content,
    vouched: &BTreeMap<SliceId, Vouched>,
) -> BTreeSet<String> {
    let session = SessionId(u64_at(payload, 0));
    let mut rows = BTreeSet::new();
    let mut at = 12;
    for _ in 0..u32_at(payload, 8) {
        let (id, seq) = (slice_at(payload, at), u64_at(payload, at + 16));
        let covered = vouched
            .get(&id)
            .is_some_and(|vouched| entry <= vouched.entry);
        if !covered && content.slices.contains_key(&id) {
            rows.extend(content.parts[&(id, session, seq)].iter().cloned());
        }
        at += 56 + u32_at(payload, at + 52) as usize;
    }
    assert_eq!(at, payload.len());
    rows
}

/// The bytes of a batch that say where its parts are, whose they are and, when their frames do not, how many rows they have.
fn telling(payload: &[u8], start: usize) -> Vec<Range<usize>> {
    let count = 8..12;
    let mut ranges = vec![count];
    let mut at = 12;
    for _ in 0..u32_at(payload, 8) {
        let len = u32_at(payload, at + 52) as usize;
        let is_plain = payload[at + 48] == 0;
        ranges.extend([at..at + 16, at + 48..at + 49, at + 52..at + 56]);
        if is_plain {
            ranges.extend([at + 24..at + 28, at + 56..at + 56 + len]);
        }
        at += 56 + len;
    }
    let moved = ranges
        .into_iter()
        .map(|range| start + range.start..start + range.end);
    moved.collect()
}

fn read_checkpoint(bytes: &[u8]) -> BTreeMap<SliceId, Vouched> {
    let mut vouched = BTreeMap::new();
    let mut at = 60;
    for _ in 0..u64_at(bytes, 52) {
        let state = Vouched {
            entry: u64_at(bytes, at + 36),
            len: u64_at(bytes, at + 44) as usize,
        };
        vouched.insert(slice_at(bytes, at), state);
        at += 96 + 16 * u32_at(bytes, at + 92) as usize;
    }
    if bytes[at..].starts_with(b"HOUR") {
        let slices = u32_at(bytes, at + 4);
        at += 8;
        for _ in 0..slices {
            at += 8 + 16 * u32_at(bytes, at + 4) as usize;
        }
    }
    assert_eq!(at + 4, bytes.len());
    vouched
}

fn slice_file(bytes: &[u8], compression: Compression) -> Vec<Region> {
    let mut regions = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let (len, raw) = match compression {
            Compression::Zstd { .. } => {
                let len = zstd::zstd_safe::find_frame_compressed_size(rest).expect("a frame");
                (len, zstd::decode_all(&rest[..len]).expect("a whole frame"))
            }
            Compression::Gzip { .. } => {
                let mut member = flate2::bufread::GzDecoder::new(rest);
                let mut raw = Vec::new();
                member.read_to_end(&mut raw).expect("a whole member");
                (rest.len() - member.into_inner().len(), raw)
            }
            Compression::None => {
                let end = rest.iter().position(|byte| *byte == b'\n').expect("a row");
                (end + 1, rest[..=end].to_vec())
            }
        };
        let raw = String::from_utf8(raw).expect("text");
        let rows = raw.lines().map(str::to_owned).collect();
        regions.push(region(at..at + len, rows, None));
        at += len;
    }
    regions
}
