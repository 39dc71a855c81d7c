//! Directories that hold the same volume.
//!
//! One directory that is found under two paths, by a link or a mount, is one volume: the first path is used. Two directories
//! with the same identity are a volume and a copy of it, and nothing in them tells which has the newest rows. Opening the older
//! one would shut out the newer one, so neither is opened until a person has moved the copy away.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use stream_model::VolumeId;

use crate::discover::VolumeDir;

/// The file with the identity.
const IDENTITY: &str = "volume-id";

/// Directories, told apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sorted {
    /// Each is a volume of its own.
    pub(crate) volumes: Vec<VolumeDir>,
    /// Other paths of these.
    pub(crate) repeated: Vec<VolumeDir>,
    /// Directories with the same identity, at least two each.
    pub(crate) copies: Vec<Vec<VolumeDir>>,
}

/// Tells the directories apart. One whose identity cannot be read is taken for a volume of its own: it cannot be opened. Blocks.
pub(crate) fn sort(dirs: Vec<VolumeDir>) -> Sorted {
    let mut sorted = Sorted::default();
    let mut places = BTreeSet::new();
    let mut known: BTreeMap<VolumeId, Vec<VolumeDir>> = BTreeMap::new();
    for dir in dirs {
        if !place(&dir.path).is_none_or(|place| places.insert(place)) {
            sorted.repeated.push(dir);
            continue;
        }
        match identity(&dir.path) {
            Some(id) => known.entry(id).or_default().push(dir),
            None => sorted.volumes.push(dir),
        }
    }
    for mut same in known.into_values() {
        match same.len() {
            1 => sorted.volumes.append(&mut same),
            _ => sorted.copies.push(same),
        }
    }
    sorted.volumes.sort();
    sorted
}

/// What the system knows the directory by, whatever its path is.
fn place(dir: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(dir).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// The identity in a directory, if it can be read. Blocks.
pub(crate) fn identity(dir: &Path) -> Option<VolumeId> {
    let text = std::fs::read_to_string(dir.join(IDENTITY)).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_is_one_volume_and_copies_are_none() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = |label: &str, id: Option<u8>| {
            let path = root.path().join(label);
            std::fs::create_dir_all(&path).expect("created");
            if let Some(id) = id {
                let id = format!("{}\n", VolumeId::from_bytes([id; 16]));
                std::fs::write(path.join(IDENTITY), id).expect("written");
            }
            VolumeDir {
                kind: "default".to_owned(),
                label: label.to_owned(),
                path,
            }
        };
        let (a, b, new, damaged) = (
            dir("a", Some(1)),
            dir("b", Some(2)),
            dir("new", None),
            dir("z", None),
        );
        std::fs::write(damaged.path.join(IDENTITY), "?").expect("written");
        let copy = dir("copy of a", Some(1));
        let link = VolumeDir {
            label: "link to b".to_owned(),
            path: root.path().join("link to b"),
            ..b.clone()
        };
        std::os::unix::fs::symlink(&b.path, &link.path).expect("linked");
        let all = [&a, &b, &copy, &link, &new, &damaged];
        let sorted = sort(all.into_iter().cloned().collect());
        assert_eq!(sorted.volumes, [b, new, damaged]);
        assert_eq!(sorted.repeated, [link]);
        assert_eq!(sorted.copies, [vec![a, copy]]);
    }
}
