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
/// Name under which the identity is kept that another service gave the volume.
pub(super) const FORMER: &str = "volume-id.former";
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
    /// A name that another service gave to an empty volume: what the file holds.
    Foreign(Vec<u8>),
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
    let is_name = text.as_deref().is_some_and(|text| is_name(text.trim()));
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
        (None, None) if journal.has_segments => Found::Unreadable,
        (None, None) => match bytes {
            None => Found::New,
            Some(bytes) if is_name && !was_opened(disk, dir)? => Found::Foreign(bytes),
            Some(_) => Found::Unreadable,
        },
    })
}

/// Whether the text may be how another service names a volume. It is not empty, and no garbage.
fn is_name(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=253).contains(&text.len()) && text.chars().all(allowed)
}

/// Whether this service had the volume open ever: then the file was its own, and is damaged.
fn was_opened(disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
    for name in ["journal", "checkpoint", "slices"] {
        match disk.list(&dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            listed => return listed.map(|_| true),
        }
    }
    Ok(false)
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
