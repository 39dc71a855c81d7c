//! Fail points: places where a test lets the process die, or the disk fail.
//!
//! A [`Point`] stands at each step between the arrival of a batch and the end of its custody, before or after a change that
//! a crash must not tear from its neighbours. Armed by the environment variable `FAILPOINTS` it aborts the process there: no
//! unwinding, no buffers written, nothing dropped, as after SIGKILL. A [`Fault`] stands before each call to the disk of a
//! volume and lets it fail with an error instead.
//!
//! ```text
//! FAILPOINTS="group-synced=7*off->return"             dies behind the eighth fdatasync of a group
//! FAILPOINTS="replacement-synced=return(checkpoint)"  dies before a file with that in its path gets its name
//! FAILPOINTS="disk-sync=return(EIO)"                  no sync succeeds
//! FAILPOINTS="disk-sync=return(EIO:/volumes/b)"       no sync of a file with that in its path succeeds
//! FAILPOINTS="disk-sync=return(EIO:/volumes/b:/flag)" the same, while the file /flag exists
//! ```
//!
//! All this is there only with the cargo feature `failpoints`, which the tests of the workspace have and a released binary
//! does not: without it [`point`] is empty and the disk is the plain one.
//!
//! It refuses to be a way to configure the service: a name that is listed neither here nor by another crate that has fail points
//! is an error at the start.

#[cfg(feature = "failpoints")]
mod armed;
#[cfg(feature = "failpoints")]
mod disk;

#[cfg(feature = "failpoints")]
pub use armed::{arm, point, point_at};
#[cfg(feature = "failpoints")]
pub(crate) use disk::FailingDisk;

/// Whether this binary has fail points.
pub const COMPILED: bool = cfg!(feature = "failpoints");

/// Declares an enum of names, and the list of all of them.
macro_rules! names {
    ($(#[$about:meta])* $type:ident { $($(#[$doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $type {
            $($(#[$doc])* $variant,)*
        }

        impl $type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in `FAILPOINTS`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

names! {
    /// A step at which the process may be told to die.
    Point {
        // A commit group.
        /// It is encoded, nothing of it is in the file.
        GroupEncoded = "group-encoded",
        /// It is in the file, at most in the cache of the system.
        GroupWritten = "group-written",
        /// It is durable, nobody knows.
        GroupSynced = "group-synced",
        /// It is in the index, nobody is answered.
        GroupIndexed = "group-indexed",
        /// It is answered.
        GroupAnswered = "group-answered",
        /// Writing it failed, nothing says yet that it does not count.
        GroupFailed = "group-failed",
        /// The next segment says durably that it does not count, nobody is told.
        GroupDiscarded = "group-discarded",

        // The segments of the journal.
        /// One has no room for the next group, there is no next one.
        SegmentFull = "segment-full",
        /// One is full of zeroes, in the cache of the system.
        SegmentZeroed = "segment-zeroed",
        /// A spare one is durable, nobody knows of it.
        SegmentPrepared = "segment-prepared",
        /// The next one has its header, but the name of a spare one.
        SegmentHeaded = "segment-headed",
        /// It has its name, in the cache of the system.
        SegmentRenamed = "segment-renamed",
        /// It is there durably, nothing is in it.
        SegmentNamed = "segment-named",
        /// One that nobody needs is a spare one, in the cache of the system.
        SegmentGivenBack = "segment-given-back",
        /// It is that durably, nobody knows of it.
        SegmentSpared = "segment-spared",
        /// One that nobody needs is gone, in the cache of the system.
        SegmentRemoved = "segment-removed",

        // The file of a slice.
        /// A run of frames is packed, not written.
        RunPacked = "run-packed",
        /// It is in the file, the index does not know.
        RunWritten = "run-written",
        /// A seal is in the journal and the index, the file is not complete.
        SealCommitted = "seal-committed",
        /// The file of a sealed slice is complete, its checksum is not known.
        SliceCompleted = "slice-completed",
        /// It is known, nobody is told.
        ContentComputed = "content-computed",
        /// The writer knows the content, the state does not.
        SealRecording = "seal-recording",
        /// The state knows it.
        SealRecorded = "seal-recorded",
        /// A slice that an earlier process sealed was compared with its record.
        SealVerified = "seal-verified",
        /// The writer has asked to release an uploaded slice.
        SliceReleased = "slice-released",
        /// The release is in the journal and the index, the file is there.
        ReleaseCommitted = "release-committed",
        /// The file is gone, in the cache of the system.
        SliceFileRemoved = "slice-file-removed",
        /// It is gone durably, the index does not know.
        SliceRemovalSynced = "slice-removal-synced",

        // A checkpoint.
        /// The file of one slice is synced.
        SliceSynced = "slice-synced",
        /// All that it will name are, it does not exist.
        SlicesSynced = "slices-synced",
        /// It is durable, segments are not freed.
        CheckpointWritten = "checkpoint-written",
        /// The oldest one is gone.
        CheckpointPruned = "checkpoint-pruned",
        /// A whole file is written under a temporary name, in the cache of the system.
        ReplacementWritten = "replacement-written",
        /// It is durable under that name.
        ReplacementSynced = "replacement-synced",
        /// It has its name, in the cache of the system.
        ReplacementRenamed = "replacement-renamed",

        // The opening of a volume.
        /// It is locked.
        VolumeLocked = "volume-locked",
        /// Its identity is known, for a new one durable.
        VolumeIdentified = "volume-identified",
        /// The newest checkpoint is read.
        CheckpointRead = "checkpoint-read",
        /// The segments are known, the spare ones removed.
        SegmentsFound = "segments-found",
        /// The newest segment is copied, the copy has another name.
        CopySynced = "copy-synced",
        /// The copy has its name, in the cache of the system.
        CopyRenamed = "copy-renamed",
        /// An entry of the journal is about to be taken in.
        EntryReplayed = "entry-replayed",
        /// All are.
        JournalReplayed = "journal-replayed",
        /// The files of slices were compared with the checkpoint.
        SlicesChecked = "slices-checked",
        /// They are cut to what is vouched for, those of released slices removed.
        SlicesTidied = "slices-tidied",
        /// The journal has a new segment.
        JournalResumed = "journal-resumed",
        /// The volume is open, the state does not know.
        VolumeRecovered = "volume-recovered",
        /// The state knows the number of this opening.
        IncarnationRaised = "incarnation-raised",
        /// The volume is announced.
        VolumeRegistered = "volume-registered",
        /// All slices are as the state says, the state does not say that it is recovered.
        RecoveredRecording = "recovered-recording",
        /// It does.
        RecoveredRecorded = "recovered-recorded",

        // An upload.
        /// Nothing is done yet.
        UploadStarting = "upload-starting",
        /// The object is written under a temporary name, in the cache of the system.
        ObjectWritten = "object-written",
        /// It is durable under that name.
        ObjectSynced = "object-synced",
        /// A file that must not replace another has its name and the temporary one, in the cache of the system.
        PublicationLinked = "publication-linked",
        /// It has its name only, in the cache of the system.
        PublicationUnlinked = "publication-unlinked",
        /// The object is in staging, the state does not know.
        UploadStored = "upload-stored",
        /// The state knows it.
        UploadRecorded = "upload-recorded",

        // The way into the table.
        /// The state has a slice closed and its successor open.
        SliceRotated = "slice-rotated",
        /// The state has a file closed and the next one open.
        FileClosed = "file-closed",
        /// The state says that a file is being imported.
        ImportBegun = "import-begun",
        /// The target has committed, the state does not know.
        ImportCommitted = "import-committed",
        /// The state knows it.
        ImportRecorded = "import-recorded",
        /// The object of an imported slice is removed.
        ObjectDeleted = "object-deleted",
    }
}

names! {
    /// A call to the disk of a volume that may be told to fail.
    Fault {
        /// Opening an existing file.
        Open = "disk-open",
        /// Opening a file, creating it when missing.
        Create = "disk-create",
        /// Reading, of a part or a whole file.
        Read = "disk-read",
        /// Writing at an offset. Nothing is written then.
        Write = "disk-write",
        /// Syncing the content of a file. Nothing is synced then.
        Sync = "disk-sync",
        /// Cutting or extending a file.
        SetLen = "disk-set-len",
        /// Replacing a whole small file. The old one stays.
        Replace = "disk-replace",
        /// Renaming a file.
        Rename = "disk-rename",
        /// Removing a file.
        Remove = "disk-remove",
        /// Creating a directory.
        CreateDir = "disk-create-dir",
        /// Listing a directory.
        List = "disk-list",
        /// Syncing a directory.
        SyncDir = "disk-sync-dir",
    }
}

/// Dies here, when armed.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn point(_: Point) {}

/// Dies here, when armed for this file.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn point_at(_: Point, _: &std::path::Path) {}

/// Arms what `FAILPOINTS` names, here and elsewhere. Without the feature the variable is not even read.
///
/// # Errors
/// When the text is not understood.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn arm(_others: &[&str]) -> Result<(), String> {
    Ok(())
}
