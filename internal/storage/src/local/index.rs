//! What a volume knows of its slices, in memory. Rebuilt by recovery; changed by the commit thread when a group is
//! durable and by the flush thread when frames reach a slice file.
//!
//! For every slice: `synced_entry <= flushed_entry <=` the last committed entry. `pending` holds the frames of the entries
//! behind `flushed_entry`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use stream_model::hours::LaterHours;
use stream_model::level::{Compression, Durability};
use stream_model::slice::MAX_SESSIONS;
use stream_model::statistics::Figures;
use stream_model::trigger::Reason;
use stream_model::{SessionId, SliceId, Timestamp};

use super::format::SealEntry;
use super::segment::{Segment, Usage};
use super::space::{SinkSpace, Space};
use super::volume::{Content, CrossedSlice, SliceSpec};
use crate::wire::{Opened, Sealed};

/// All slices of a volume and the segments they need.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub slices: HashMap<SliceId, Slice>,
    pub usage: Usage,
    /// Slices named by a retained checkpoint.
    pub listed: HashSet<SliceId>,
    /// Slices that were released in this run and whose files are not durably gone yet.
    pub leaving: HashSet<SliceId>,
    /// The last committed entry and group.
    pub position: (u64, u64),
    /// What the slices occupy.
    pub space: Space,
}

/// One slice.
#[derive(Debug)]
pub(super) struct Slice {
    /// Set once the writer has said in this run that the slice is open here.
    pub spec: Option<SliceSpec>,
    pub compression: Compression,
    /// The highest committed sequence number of each session.
    pub sessions: BTreeMap<SessionId, u64>,
    /// Committed rows. `bytes` counts frames as they came; the file is smaller after coalescing.
    pub figures: Figures,
    /// Rows of them that arrived in later hours than the first.
    pub later_hours: LaterHours,
    pub stage: Stage,
    /// Committed frames that are not in the slice file yet, oldest first.
    pub pending: VecDeque<Frame>,
    /// Bytes of `pending` before compression, and as they came.
    pub pending_raw: u64,
    pub pending_len: u64,
    /// Length of the slice file, as written.
    pub file_len: u64,
    /// The last entry, of any kind, that concerns the slice.
    pub last_entry: u64,
    /// The last entry whose frame is in the slice file.
    pub flushed_entry: u64,
    /// The last entry whose frame is safe in the file, by the newest checkpoint and by the one before it.
    pub synced_entry: u64,
    pub synced_entry_before: u64,
    /// Whether the crossing of its trigger was reported in this run.
    pub reported: bool,
    /// Where its bytes are counted; none until the writer has said whose rows it holds.
    pub space: Option<Arc<SinkSpace>>,
}

/// Where a slice is in its life on the volume.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Stage {
    Open,
    /// Takes no more rows; its last frames are on the way to the file.
    Sealing {
        successor: Option<SliceId>,
    },
    /// The file is complete.
    Sealed {
        successor: Option<SliceId>,
        content: Content,
    },
}

/// A committed frame in the journal.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub entry: u64,
    pub segment: Arc<Segment>,
    pub offset: u64,
    pub len: u32,
    pub raw: u32,
}

/// A committed part.
#[derive(Debug, Clone)]
pub(super) struct Committed {
    pub slice: SliceId,
    pub session: SessionId,
    pub seq: u64,
    pub rows: u32,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
    pub compression: Compression,
    pub frame: Frame,
}

impl Slice {
    pub fn new(compression: Compression) -> Self {
        Self {
            spec: None,
            compression,
            sessions: BTreeMap::new(),
            figures: Figures::default(),
            later_hours: LaterHours::default(),
            stage: Stage::Open,
            pending: VecDeque::new(),
            pending_raw: 0,
            pending_len: 0,
            file_len: 0,
            last_entry: 0,
            flushed_entry: 0,
            synced_entry: 0,
            synced_entry_before: 0,
            reported: false,
            space: None,
        }
    }

    /// Bytes that the slice occupies outside the journal, or will when its frames are in its file.
    pub fn occupied(&self) -> u64 {
        self.file_len + self.pending_len
    }

    pub fn last(&self, session: SessionId) -> u64 {
        self.sessions.get(&session).copied().unwrap_or(0)
    }

    /// What a session is told of the slice when it takes no more rows; none while it does.
    pub fn sealed(&self, session: SessionId) -> Option<Sealed> {
        match &self.stage {
            Stage::Open => None,
            Stage::Sealing { successor } | Stage::Sealed { successor, .. } => Some(Sealed {
                last: self.last(session),
                successor: *successor,
            }),
        }
    }

    pub fn has_room_for(&self, session: SessionId) -> bool {
        self.sessions.len() < MAX_SESSIONS || self.sessions.contains_key(&session)
    }

    pub fn durability(&self) -> Durability {
        self.spec
            .as_ref()
            .map_or(Durability::Disk, |spec| spec.durability)
    }

    fn add(&mut self, part: Committed) {
        let (seq, session) = (part.seq, part.session);
        self.sessions.insert(session, seq);
        self.later_hours
            .add(&self.figures, part.first_at, part.rows.into());
        self.figures.add(&Figures {
            rows: part.rows.into(),
            raw_bytes: part.frame.raw.into(),
            bytes: part.frame.len.into(),
            first_at: Some(part.first_at),
            last_at: Some(part.last_at),
        });
        self.last_entry = part.frame.entry;
        self.pending_raw += u64::from(part.frame.raw);
        self.pending_len += u64::from(part.frame.len);
        self.pending.push_back(part.frame);
    }

    /// When the slice reaches its age limit; none when that concerns nobody.
    pub fn due(&self) -> Option<Timestamp> {
        let spec = self.spec.as_ref().filter(|_| !self.reported)?;
        let first_at = self
            .figures
            .first_at
            .filter(|_| self.stage == Stage::Open)?;
        Some(first_at + spec.trigger.interval.0)
    }

    /// The limit of its trigger that the slice has reached, the first time it is asked after that.
    pub fn newly_crossed(&mut self, id: SliceId, now: Timestamp) -> Option<CrossedSlice> {
        let spec = self.spec.as_ref()?;
        if self.reported || self.stage != Stage::Open {
            return None;
        }
        let full = self.sessions.len() >= MAX_SESSIONS;
        let reason = spec
            .trigger
            .reached(&self.figures, now)
            .or_else(|| full.then_some(Reason::Sessions))?;
        self.reported = true;
        Some(CrossedSlice {
            slice: id,
            reason,
            figures: self.figures,
            later_hours: self.later_hours.clone(),
            at: now,
        })
    }
}

impl Index {
    /// Takes in a committed part. Entries that the slice file already covers only leave their mark on the segment.
    pub fn commit(&mut self, part: Committed) {
        self.usage
            .record(part.frame.segment.number, part.slice, part.frame.entry);
        let compression = part.compression;
        let slice = self
            .slices
            .entry(part.slice)
            .or_insert_with(|| Slice::new(compression));
        if part.frame.entry > slice.flushed_entry {
            self.space.add(slice.space.as_ref(), part.frame.len.into());
            slice.add(part);
        }
    }

    /// Takes in a committed seal. What it says of the sessions counts even when their last entries are damaged: they were
    /// acknowledged.
    pub fn seal(&mut self, seal: &SealEntry, segment: u64, entry: u64) {
        self.usage.record(segment, seal.slice, entry);
        // A slice that never had rows has no compression to keep.
        let slice = self
            .slices
            .entry(seal.slice)
            .or_insert_with(|| Slice::new(Compression::None));
        slice.last_entry = slice.last_entry.max(entry);
        for (session, last) in &seal.sessions {
            let known = slice.sessions.entry(*session).or_default();
            *known = (*known).max(*last);
        }
        if slice.stage == Stage::Open {
            slice.stage = Stage::Sealing {
                successor: seal.successor,
            };
        }
    }

    /// Takes in a committed release. Returns whether there was a slice.
    pub fn release(&mut self, id: SliceId, segment: u64) -> bool {
        self.usage.record_release(segment, id);
        let Some(slice) = self.slices.remove(&id) else {
            return false;
        };
        self.space.remove(&slice);
        self.leaving.insert(id);
        true
    }

    /// What a session is told when it opens the slice.
    pub fn opened(&self, id: SliceId, session: SessionId) -> Opened {
        let Some(slice) = self.slices.get(&id) else {
            return Opened::UnknownSlice;
        };
        match slice.sealed(session) {
            Some(sealed) => Opened::Sealed(sealed),
            None if slice.spec.is_none() => Opened::UnknownSlice,
            None => Opened::Last(slice.last(session)),
        }
    }

    /// The oldest segment, if nobody needs it any more.
    pub fn oldest_free_segment(&self) -> Option<Arc<Segment>> {
        let covered = |id, entry| {
            self.slices
                .get(&id)
                .is_none_or(|slice: &Slice| slice.synced_entry_before >= entry)
        };
        let named = |id| self.listed.contains(&id) || self.leaving.contains(&id);
        self.usage.oldest_free(covered, named)
    }
}
