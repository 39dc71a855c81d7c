//! A run: an immutable file of keys in order, with what finds a key in it by one read.
//!
//! In memory are the Bloom filter and the beginning of each block (1.5 B and 0.05 B per key), on the disk the rest. Blocks have
//! their own checksums: a damaged one costs its keys only. The format is described in `docs/formats.md`.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use stream_model::{Timestamp, VolumeId};

use super::super::disk::{Disk, DiskFile};
use super::super::durable;
use super::super::format::{CLAIM, Reader, decode_claim, encode_claim};
use super::bloom::Bloom;
use crate::wire::{Claim, KeyHash};

const MAGIC: &[u8; 8] = b"STRMKEYS";
const VERSION: u32 = 1;
const EXTENSION: &str = "keys";
/// Length of a block, and the keys in it.
const BLOCK: usize = 4096;
const PER_BLOCK: usize = 170;
const FOOTER: usize = 112;
/// So much is written at a time.
const CHUNK: usize = 256 << 10;
/// So many blocks are read at a time by a merge.
const READ_AHEAD: u64 = 16;

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Scope {
    /// The entries of the journal whose keys are in it: from the first to the last.
    pub from_entry: u64,
    pub to_entry: u64,
    /// The group of the last one.
    pub to_group: u64,
    /// When the volume took the first and the last of them.
    pub oldest_at: Timestamp,
    pub newest_at: Timestamp,
}

impl Scope {
    /// Both together.
    pub fn join(self, other: Self) -> Self {
        Self {
            from_entry: self.from_entry.min(other.from_entry),
            to_entry: self.to_entry.max(other.to_entry),
            to_group: self.to_group.max(other.to_group),
            oldest_at: self.oldest_at.min(other.oldest_at),
            newest_at: self.newest_at.max(other.newest_at),
        }
    }

    /// Whether the keys of that entry are in it.
    pub fn covers(&self, entry: u64) -> bool {
        (self.from_entry..=self.to_entry).contains(&entry)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.from_entry, self.to_entry, self.to_group] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for at in [self.oldest_at, self.newest_at] {
            out.extend_from_slice(&at.as_millis().to_le_bytes());
        }
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            from_entry: input.u64()?,
            to_entry: input.u64()?,
            to_group: input.u64()?,
            oldest_at: Timestamp::from_millis(input.i64()?),
            newest_at: Timestamp::from_millis(input.i64()?),
        })
    }
}

/// A run on the disk.
#[derive(Debug)]
pub(in super::super) struct Run {
    pub number: u64,
    pub path: PathBuf,
    /// Keys in it.
    pub count: u64,
    pub scope: Scope,
    file: Box<dyn DiskFile>,
    seed: u32,
    bloom: Bloom,
    /// The first eight bytes of the first key of each block.
    fences: Vec<u64>,
    /// A block was found to be damaged.
    reported: AtomicBool,
}

/// A key that cannot be looked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The disk does not read it. That says nothing of what is there.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The block where it would be is damaged.
    #[error("a block of keys is damaged")]
    Damaged,
}

/// The name of a run.
pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.{EXTENSION}"))
}

/// The number in the name of a run, or of what a process has left that ended while it wrote one.
pub(in super::super) fn number_of(file: &Path) -> Option<u64> {
    let whole = match file.extension()? == "tmp" {
        true => file.with_extension(""),
        false => file.to_owned(),
    };
    if whole.extension()? != EXTENSION {
        return None;
    }
    super::super::segment::number_in(whole.file_stem()?.to_str()?)
}

fn seed(volume: VolumeId, number: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&volume.to_bytes()), &number.to_le_bytes())
}

fn prefix(key: KeyHash) -> u64 {
    (u128::from_be_bytes(key.to_bytes()) >> 64) as u64
}

impl Run {
    /// Opens a run. None when it is damaged; its blocks are only looked at when a key is looked for.
    ///
    /// # Errors
    /// `NotFound`, or what the disk says.
    pub fn open(
        disk: &dyn Disk,
        dir: &Path,
        volume: VolumeId,
        number: u64,
    ) -> io::Result<Option<Self>> {
        let path = path(dir, number);
        let file = disk.open(&path)?;
        let size = file.size()?;
        let Some(end) = size.checked_sub(FOOTER as u64) else {
            return Ok(None);
        };
        let mut footer = [0; FOOTER];
        file.read_exact_at(&mut footer, end)?;
        let Some(found) = Footer::decode(&footer, volume, number) else {
            return Ok(None);
        };
        let Some((blocks, summary)) = found.lengths().filter(|(a, b)| a + b == end) else {
            return Ok(None);
        };
        let mut bytes = vec![0; usize::try_from(summary).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, blocks)?;
        if crc32c::crc32c(&bytes) != found.summary_crc {
            return Ok(None);
        }
        let (fences, bloom) = bytes.split_at(8 * usize::try_from(found.blocks).unwrap_or(0));
        let Some(bloom) = Bloom::from_bytes(bloom) else {
            return Ok(None);
        };
        let fences = fences.as_chunks::<8>().0.iter();
        Ok(Some(Self {
            number,
            path,
            count: found.count,
            scope: found.scope,
            file,
            seed: seed(volume, number),
            bloom,
            fences: fences.map(|fence| u64::from_le_bytes(*fence)).collect(),
            reported: AtomicBool::new(false),
        }))
    }

    /// The body under which a key was committed, if it is here.
    ///
    /// # Errors
    /// When the place where it would be cannot be read.
    pub fn find(&self, key: KeyHash) -> Result<Option<u64>, ReadError> {
        if !self.bloom.may_contain(key) {
            return Ok(None);
        }
        let prefix = prefix(key);
        // The block before the first that begins with as much; those that begin with the same as well.
        let first = self
            .fences
            .partition_point(|fence| *fence < prefix)
            .saturating_sub(1);
        let last = self.fences.partition_point(|fence| *fence <= prefix);
        for block in first..last {
            let claims = self.block(block as u64)?;
            if let Ok(at) = claims.binary_search_by_key(&key, |claim| claim.key) {
                return Ok(Some(claims[at].body));
            }
        }
        Ok(None)
    }

    /// Notes that it has a damaged block. True: for the first time.
    pub fn note_damage(&self) -> bool {
        !self.reported.swap(true, Ordering::Relaxed)
    }

    fn block(&self, number: u64) -> Result<Vec<Claim>, ReadError> {
        let mut bytes = [0; BLOCK];
        self.file.read_exact_at(&mut bytes, number * BLOCK as u64)?;
        decode_block(&bytes, self.seed).ok_or(ReadError::Damaged)
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        8 * self.fences.len() + self.bloom.to_bytes().len()
    }
}

fn encode_block(claims: &[Claim], seed: u32, out: &mut Vec<u8>) {
    let start = out.len();
    claims
        .iter()
        .for_each(|claim| out.extend_from_slice(&encode_claim(claim)));
    out.resize(start + PER_BLOCK * CLAIM, 0);
    out.extend_from_slice(
        &u32::try_from(claims.len())
            .expect("at most 170")
            .to_le_bytes(),
    );
    out.resize(start + BLOCK - 4, 0);
    let crc = crc32c::crc32c_append(seed, &out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

fn decode_block(bytes: &[u8; BLOCK], seed: u32) -> Option<Vec<Claim>> {
    let (content, crc) = bytes.split_at(BLOCK - 4);
    if crc32c::crc32c_append(seed, content).to_le_bytes() != crc {
        return None;
    }
    let count = Reader(&content[PER_BLOCK * CLAIM..]).u32()? as usize;
    let claims = content
        .get(..count.checked_mul(CLAIM)?)?
        .chunks_exact(CLAIM);
    Some(claims.filter_map(decode_claim).collect())
}

/// The end of the file.
struct Footer {
    count: u64,
    blocks: u64,
    /// Words of the filter.
    words: u64,
    scope: Scope,
    summary_crc: u32,
}

impl Footer {
    fn encode(&self, volume: VolumeId, number: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&volume.to_bytes());
        for field in [number, self.count, self.blocks, self.words] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        self.scope.encode(&mut out);
        out.extend_from_slice(&self.summary_crc.to_le_bytes());
        out.resize(FOOTER - 4, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], volume: VolumeId, number: u64) -> Option<Self> {
        let (content, crc) = bytes.split_at_checked(FOOTER - 4)?;
        if crc32c::crc32c(content).to_le_bytes() != crc {
            return None;
        }
        let mut input = Reader(content);
        let is_it = input.take(8)? == MAGIC
            && input.u32()? == VERSION
            && input.array()? == volume.to_bytes()
            && input.u64()? == number;
        if !is_it {
            return None;
        }
        Some(Self {
            count: input.u64()?,
            blocks: input.u64()?,
            words: input.u64()?,
            scope: Scope::decode(&mut input)?,
            summary_crc: input.u32()?,
        })
    }

    /// Lengths of the blocks, and of what is known of them in memory.
    fn lengths(&self) -> Option<(u64, u64)> {
        let blocks = self.blocks.checked_mul(BLOCK as u64)?;
        let summary = self.blocks.checked_add(self.words)?.checked_mul(8)?;
        blocks.checked_add(summary)?;
        Some((blocks, summary))
    }
}

/// Writes a run. Nothing has its name before all of it is durable.
pub(super) struct Writer<'a> {
    disk: &'a dyn Disk,
    dir: &'a Path,
    volume: VolumeId,
    number: u64,
    file: Box<dyn DiskFile>,
    offset: u64,
    out: Vec<u8>,
    block: Vec<Claim>,
    count: u64,
    bloom: Bloom,
    fences: Vec<u64>,
}

impl<'a> Writer<'a> {
    /// Begins a run of at most so many keys.
    ///
    /// # Errors
    /// What the disk says.
    pub fn new(
        disk: &'a dyn Disk,
        dir: &'a Path,
        volume: VolumeId,
        number: u64,
        keys: u64,
    ) -> io::Result<Self> {
        let file = disk.create(&durable::temporary(&path(dir, number)))?;
        file.set_len(0)?;
        Ok(Self {
            disk,
            dir,
            volume,
            number,
            file,
            offset: 0,
            out: Vec::with_capacity(CHUNK + BLOCK),
            block: Vec::with_capacity(PER_BLOCK),
            count: 0,
            bloom: Bloom::with_room_for(keys),
            fences: Vec::new(),
        })
    }

    /// Adds a key. Keys come in order, each once.
    ///
    /// # Errors
    /// What the disk says.
    pub fn push(&mut self, claim: Claim) -> io::Result<()> {
        self.block.push(claim);
        self.bloom.insert(claim.key);
        self.count += 1;
        match self.block.len() {
            PER_BLOCK => self.close_block(),
            _ => Ok(()),
        }
    }

    fn close_block(&mut self) -> io::Result<()> {
        let Some(first) = self.block.first() else {
            return Ok(());
        };
        self.fences.push(prefix(first.key));
        encode_block(&self.block, seed(self.volume, self.number), &mut self.out);
        self.block.clear();
        match self.out.len() >= CHUNK {
            true => self.write_out(),
            false => Ok(()),
        }
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.out, self.offset)?;
        self.offset += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }

    /// Makes the run durable under its name.
    ///
    /// # Errors
    /// What the disk says; there is no run then, or a whole one that nobody knows.
    pub fn finish(mut self, scope: Scope) -> io::Result<Run> {
        self.close_block()?;
        let mut summary: Vec<u8> = self
            .fences
            .iter()
            .flat_map(|fence| fence.to_le_bytes())
            .collect();
        let bloom = self.bloom.to_bytes();
        summary.extend_from_slice(&bloom);
        let footer = Footer {
            count: self.count,
            blocks: self.fences.len() as u64,
            words: bloom.len() as u64 / 8,
            scope,
            summary_crc: crc32c::crc32c(&summary),
        };
        self.out.extend_from_slice(&summary);
        self.out
            .extend_from_slice(&footer.encode(self.volume, self.number));
        self.write_out()?;
        self.file.sync_data()?;
        let path = path(self.dir, self.number);
        self.disk.rename(&durable::temporary(&path), &path)?;
        self.disk.sync_dir(self.dir)?;
        Ok(Run {
            number: self.number,
            path,
            count: self.count,
            scope,
            file: self.file,
            seed: seed(self.volume, self.number),
            bloom: self.bloom,
            fences: self.fences,
            reported: AtomicBool::new(false),
        })
    }
}

/// All keys of a run in order, for a merge.
pub(super) struct Cursor<'a> {
    run: &'a Run,
    next_block: u64,
    ahead: std::vec::IntoIter<Claim>,
    /// The key at the front; none at the end.
    pub front: Option<Claim>,
    /// Blocks that were passed over because they are damaged.
    pub damaged: u64,
}

impl<'a> Cursor<'a> {
    /// Stands at the first key.
    ///
    /// # Errors
    /// What the disk says.
    pub fn new(run: &'a Run) -> io::Result<Self> {
        let mut cursor = Self {
            run,
            next_block: 0,
            ahead: Vec::new().into_iter(),
            front: None,
            damaged: 0,
        };
        cursor.advance()?;
        Ok(cursor)
    }

    /// Goes on to the next key.
    ///
    /// # Errors
    /// What the disk says.
    pub fn advance(&mut self) -> io::Result<()> {
        let blocks = self.run.fences.len() as u64;
        loop {
            self.front = self.ahead.next();
            if self.front.is_some() || self.next_block >= blocks {
                return Ok(());
            }
            let count = READ_AHEAD.min(blocks - self.next_block);
            let mut bytes = vec![0; BLOCK * usize::try_from(count).unwrap_or(0)];
            let at = self.next_block * BLOCK as u64;
            self.run.file.read_exact_at(&mut bytes, at)?;
            let mut ahead = Vec::with_capacity(PER_BLOCK * usize::try_from(count).unwrap_or(0));
            for block in bytes.as_chunks::<BLOCK>().0 {
                match decode_block(block, self.run.seed) {
                    Some(claims) => ahead.extend(claims),
                    None => self.damaged += 1,
                }
            }
            self.next_block += count;
            self.ahead = ahead.into_iter();
        }
    }
}
