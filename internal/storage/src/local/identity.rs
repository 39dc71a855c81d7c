//! Which volume a directory is.
//!
//! The identity stands in a small file of its own, and in the header of every segment. Entries are checked against it, so a
//! volume under a wrong identity would look empty: when the file is damaged, the journal tells.

use std::io;
use std::path::Path;

use stream_model::VolumeId;

use super::disk::Disk;
use super::format::{BLOCK, SegmentHeader};
use super::recovery::Damage;
use super::segment;

/// Name of the file.
pub(super) const FILE: &str = "volume-id";
/// Name of the file that is locked while the volume is open.
pub(super) const LOCK: &str = "lock";

/// What a directory says about its identity.
#[derive(Debug)]
pub(super) enum Found {
    /// The identity, and what is wrong with the file that should hold it.
    Known(VolumeId, Option<Damage>),
    /// There is a file or a journal, and neither tells.
    Unreadable,
    /// There is neither.
    New,
}

/// Looks for the identity. Writes nothing.
///
/// # Errors
/// What the disk says. That something cannot be read now does not mean that it is not there.
pub(super) fn find(disk: &dyn Disk, dir: &Path) -> io::Result<Found> {
    let path = dir.join(FILE);
    let bytes = match disk.read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read?),
    };
    let text = bytes.as_deref().map(String::from_utf8_lossy);
    let written: Option<VolumeId> = text.and_then(|text| text.trim().parse().ok());
    let journal = in_journal(disk, &dir.join("journal"))?;
    Ok(match (written, journal.named.first()) {
        (Some(id), None) => Found::Known(id, None),
        (Some(id), Some(_)) if journal.named.contains(&id) => Found::Known(id, None),
        (_, Some(id)) => {
            let damage = Damage {
                file: path,
                from: 0,
                to: bytes.map_or(0, |bytes| bytes.len() as u64),
                rows: Some(0),
                what: "the volume id is not the one of the journal",
            };
            Found::Known(*id, Some(damage))
        }
        (None, None) if bytes.is_some() || journal.has_segments => Found::Unreadable,
        (None, None) => Found::New,
    })
}

struct InJournal {
    has_segments: bool,
    /// The identities in undamaged headers.
    named: Vec<VolumeId>,
}

fn in_journal(disk: &dyn Disk, dir: &Path) -> io::Result<InJournal> {
    let files = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        files => files?,
    };
    let mut found = InJournal {
        has_segments: false,
        named: Vec::new(),
    };
    for path in files {
        if segment::segment_number(&path).is_some() {
            found.has_segments = true;
            found
                .named
                .extend(read_header(disk, &path)?.map(|header| header.volume));
        }
    }
    Ok(found)
}

/// The header of a segment, of whatever volume; none when it is damaged.
pub(super) fn read_header(disk: &dyn Disk, path: &Path) -> io::Result<Option<SegmentHeader>> {
    let file = disk.open(path)?;
    let len = usize::try_from(file.size()?.min(BLOCK)).unwrap_or(0);
    let mut block = vec![0; len];
    file.read_exact_at(&mut block, 0)?;
    Ok(SegmentHeader::decode(&block))
}
