//! Which volumes this machine has: the directories `<volumesPath>/<type>/<label>`.

use std::io;
use std::path::{Path, PathBuf};

use stream_model::ErrorKind;
use stream_storage::local::durable;

/// Type and label of the volume that a standalone installation makes for itself.
const DEFAULT_VOLUME: (&str, &str) = ("default", "local");

/// A directory that is a volume, or becomes one when it is opened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeDir {
    /// Type of the volume: sinks are placed by it.
    pub kind: String,
    /// Name of the volume for people.
    pub label: String,
    /// The directory.
    pub path: PathBuf,
}

/// The volumes cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// A directory cannot be read or made.
    #[error("cannot read the volumes in {}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// There is no volume.
    #[error("there is no volume in {}: create a directory <type>/<label> there, for example default/local", path.display())]
    None {
        /// Where they should be.
        path: PathBuf,
    },
}

impl DiscoverError {
    /// What the caller can do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Unavailable,
            Self::None { .. } => ErrorKind::Invalid,
        }
    }
}

/// The volumes below `volumes_path`, sorted. Blocks.
///
/// # Errors
/// When a directory cannot be read.
pub(crate) fn find(volumes_path: &Path) -> Result<Vec<VolumeDir>, DiscoverError> {
    let mut volumes = Vec::new();
    for (kind, path) in directories(volumes_path)? {
        for (label, path) in directories(&path)? {
            volumes.push(VolumeDir {
                kind: kind.clone(),
                label,
                path,
            });
        }
    }
    volumes.sort();
    Ok(volumes)
}

/// Makes the volume of a standalone installation, to be found by [`find`].
///
/// # Errors
/// When it cannot be made.
pub(crate) fn create_default(volumes_path: &Path) -> Result<(), DiscoverError> {
    let path = volumes_path.join(DEFAULT_VOLUME.0).join(DEFAULT_VOLUME.1);
    durable::create_dir_all(&path).map_err(|source| DiscoverError::Io { path, source })
}

/// The directories in `path` by name, without hidden ones (`.snapshot`) and `lost+found`, which a file system makes by
/// itself. None when `path` does not exist.
fn directories(path: &Path) -> Result<Vec<(String, PathBuf)>, DiscoverError> {
    let failed = |source| DiscoverError::Io {
        path: path.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .map(str::to_owned);
        let name = name.filter(|name| !name.starts_with('.') && name != "lost+found");
        // `is_dir` follows links: a volume may be a link to where its disk is mounted.
        if let Some(name) = name.filter(|_| path.is_dir()) {
            found.push((name, path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_directories_two_levels_down_and_nothing_else() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for path in [
            "ssd/b",
            "ssd/a",
            "hdd/c/slices",
            "ssd/.snapshot",
            "lost+found/x",
        ] {
            std::fs::create_dir_all(dir.path().join(path)).expect("created");
        }
        std::fs::write(dir.path().join("ssd/notes.txt"), "x").expect("written");
        std::os::unix::fs::symlink(dir.path().join("ssd/a"), dir.path().join("hdd/link"))
            .expect("linked");
        let found = find(dir.path()).expect("readable");
        let names: Vec<_> = found
            .iter()
            .map(|v| format!("{}/{}", v.kind, v.label))
            .collect();
        assert_eq!(names, ["hdd/c", "hdd/link", "ssd/a", "ssd/b"]);
        assert_eq!(found[2].path, dir.path().join("ssd/a"));
    }

    #[test]
    fn a_missing_path_has_no_volumes_until_the_default_one_is_made() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("data/volumes");
        assert_eq!(find(&path).expect("readable"), []);
        create_default(&path).expect("created");
        let found = find(&path).expect("readable");
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].kind.as_str(), found[0].label.as_str()),
            ("default", "local")
        );
    }
}
