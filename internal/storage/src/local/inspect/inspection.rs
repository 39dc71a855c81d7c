//! What is told about a volume.

use std::collections::BTreeMap;
use std::path::PathBuf;

use stream_model::level::Compression;
use stream_model::statistics::Figures;
use stream_model::{SessionId, SliceId, VolumeId};

use super::super::recovery::Damage;

/// Whether a process has the volume open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// None has.
    Free,
    /// One has: files change while they are read.
    InUse,
}

/// What is on a volume.
#[derive(Debug)]
pub struct Inspection {
    /// The directory.
    pub dir: PathBuf,
    /// The identity.
    pub id: VolumeId,
    /// Whether a process has it open.
    pub usage: Usage,
    /// The journal, oldest first.
    pub segments: Vec<SegmentSummary>,
    /// Whole checkpoints, newest first.
    pub checkpoints: Vec<CheckpointSummary>,
    /// What the next opening would find in the slices.
    pub slices: Vec<SliceSummary>,
    /// Files and directories that do not belong to a volume, or to no slice that it knows.
    pub unknown_files: Vec<PathBuf>,
    /// What the next opening would report.
    pub damage: Vec<Damage>,
}

/// A segment of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Its number.
    pub number: u64,
    /// The file.
    pub path: PathBuf,
    /// Length of the file.
    pub size: u64,
    /// Whether its header is undamaged.
    pub whole_header: bool,
    /// Whether it is the newest.
    pub newest: bool,
    /// Up to which byte entries count.
    pub valid_to: u64,
    /// Commit groups.
    pub groups: u64,
    /// Numbers of the first and the last entry.
    pub entries: Option<(u64, u64)>,
    /// Bytes that they occupy.
    pub entry_bytes: u64,
    /// Entries that are batches.
    pub batches: u64,
    /// Rows in these.
    pub rows: u64,
    /// Sessions that sent them.
    pub sessions: usize,
    /// Entries that are seals.
    pub seals: u64,
    /// Entries that are releases.
    pub releases: u64,
}

/// A whole checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointSummary {
    /// Its number.
    pub number: u64,
    /// Slices that it vouches for.
    pub slices: usize,
    /// The last entry of the journal when it was made.
    pub last_entry: u64,
    /// The last commit group, likewise.
    pub last_group: u64,
}

/// A slice, as the next opening would find it.
#[derive(Debug, Clone, PartialEq)]
pub struct SliceSummary {
    /// The slice.
    pub id: SliceId,
    /// How its frames are compressed.
    pub compression: Compression,
    /// Whether it takes rows.
    pub stage: SliceStage,
    /// What is in it. `bytes` counts frames as they came.
    pub figures: Figures,
    /// The highest committed sequence number of each session.
    pub sessions: BTreeMap<SessionId, u64>,
    /// Length of its file; none when there is none.
    pub file_len: Option<u64>,
    /// Length that the newest checkpoint vouches for; what stands behind is written again.
    pub vouched_len: u64,
    /// Frames in the journal that the checkpoint does not cover.
    pub journal_frames: usize,
    /// Their bytes.
    pub journal_bytes: u64,
}

/// Whether a slice takes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceStage {
    /// It does, once a writer opens it.
    Open,
    /// It does not.
    Sealed {
        /// The slice that takes them.
        successor: Option<SliceId>,
    },
}

/// What a verification found.
#[derive(Debug)]
pub struct Verification {
    /// What is on the volume.
    pub inspection: Inspection,
    /// All that is not as it was written.
    pub findings: Vec<Damage>,
    /// What is odd and may have a harmless reason: a process that was killed, a write that failed.
    pub notes: Vec<Damage>,
    /// How much was checked.
    pub checked: Checked,
}

/// How much was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    /// Entries of the journal.
    pub entries: u64,
    /// Frames that were unpacked, in the journal and in slice files.
    pub frames: u64,
    /// Files of slices.
    pub slice_files: u64,
    /// Bytes of segments and slice files.
    pub bytes: u64,
}
