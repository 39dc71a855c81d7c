//! The volumes of this machine as a process finds them that does not open them: by their directories.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use stream_model::{SliceId, VolumeId};
use stream_node::{CancellationToken, TaskError};
use stream_storage::local::slice_file_path;
use tracing::{info, warn};

use super::SliceFiles;
use crate::copies::{self, identity};
use crate::discover;

/// How often the directories are looked at: a volume that the writer has just made should be found before its first slice
/// is sealed.
const PERIOD: Duration = Duration::from_secs(1);

/// Volumes that were found. Clones share them.
///
/// Whether the files in them are complete is not decided here: the state says so for each opening of a volume.
#[derive(Clone)]
pub struct FoundVolumes {
    path: PathBuf,
    dirs: Arc<RwLock<BTreeMap<VolumeId, PathBuf>>>,
}

impl FoundVolumes {
    /// The volumes below a directory, `<type>/<label>`. None are known before [`Self::follow`] runs.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            dirs: Arc::default(),
        }
    }

    /// Looks for volumes until cancelled.
    ///
    /// # Errors
    /// Never; what cannot be read is reported once and looked at again.
    pub async fn follow(self, cancel: CancellationToken) -> Result<(), TaskError> {
        let mut told = None;
        loop {
            let own = self.clone();
            let looked = tokio::task::spawn_blocking(move || own.look()).await?;
            match looked {
                Ok(()) => told = None,
                Err(error) => {
                    let error = stream_node::error_chain(&error);
                    if told.as_ref() != Some(&error) {
                        warn!(
                            error,
                            "volumes cannot be looked for, will go on with those that are known"
                        );
                        told = Some(error);
                    }
                }
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    /// Of two directories with the same identity neither is used: nothing here tells which one is the copy.
    fn look(&self) -> Result<(), discover::DiscoverError> {
        let sorted = copies::sort(discover::find(&self.path)?);
        let known = |dir: discover::VolumeDir| Some((identity(&dir.path)?, dir.path));
        let found: BTreeMap<_, _> = sorted.volumes.into_iter().filter_map(known).collect();
        let mut dirs = self.dirs.write();
        for (id, path) in &found {
            if dirs.get(id) != Some(path) {
                info!(volume = %id, path = %path.display(), "volume found");
            }
        }
        *dirs = found;
        Ok(())
    }
}

impl SliceFiles for FoundVolumes {
    fn volumes(&self) -> Vec<VolumeId> {
        self.dirs.read().keys().copied().collect()
    }

    fn path(&self, volume: VolumeId, slice: SliceId) -> Option<PathBuf> {
        let dirs = self.dirs.read();
        Some(slice_file_path(dirs.get(&volume)?, slice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_found_once_it_has_an_identity_and_a_copy_hides_both() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let found = FoundVolumes::new(root.path().to_owned());
        found.look().expect("readable");
        assert_eq!(found.volumes(), []);

        let (id, slice) = (VolumeId::from_bytes([1; 16]), SliceId::from_bytes([2; 16]));
        let dir = root.path().join("default/a");
        std::fs::create_dir_all(&dir).expect("created");
        found.look().expect("readable");
        assert_eq!(found.volumes(), []);

        let write = |dir: &std::path::Path| {
            std::fs::write(dir.join("volume-id"), format!("{id}\n")).expect("written");
        };
        write(&dir);
        found.look().expect("readable");
        assert_eq!(found.volumes(), [id]);
        let path = found.path(id, slice).expect("it is known");
        assert_eq!(path, dir.join("slices").join(format!("{slice}.slice")));

        let copy = root.path().join("default/b");
        std::fs::create_dir_all(&copy).expect("created");
        write(&copy);
        found.look().expect("readable");
        assert_eq!(found.volumes(), []);
        assert_eq!(found.path(id, slice), None);
    }
}
