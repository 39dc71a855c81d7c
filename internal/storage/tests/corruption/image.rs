//! The content of a directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files by their paths in the directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image(pub BTreeMap<PathBuf, Vec<u8>>);

impl Image {
    pub fn read(dir: &Path) -> Self {
        let mut image = Self::default();
        image.add(dir, Path::new(""));
        image
    }

    fn add(&mut self, dir: &Path, below: &Path) {
        for entry in std::fs::read_dir(dir.join(below)).expect("a directory") {
            let entry = entry.expect("listed");
            let path = below.join(entry.file_name());
            if entry.file_type().expect("known").is_dir() {
                self.add(dir, &path);
            } else {
                let content = std::fs::read(entry.path()).expect("readable");
                self.0.insert(path, content);
            }
        }
    }

    pub fn write(&self, dir: &Path) {
        for name in ["journal", "checkpoint", "slices"] {
            std::fs::create_dir_all(dir.join(name)).expect("created");
        }
        for (path, content) in &self.0 {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().expect("in a directory")).expect("created");
            std::fs::write(path, content).expect("written");
        }
    }
}
