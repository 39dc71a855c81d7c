//! A directory that goes away when its test passes and stays when it fails.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

/// A new empty directory. Dropped while a test fails it is kept, and its path is printed.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Creates the directory.
    ///
    /// # Errors
    /// When there is no place for it.
    pub fn new() -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("stream-test-").tempdir();
        Ok(Self {
            dir: dir.context("cannot create a temporary directory")?,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Scratch {
    #[allow(
        clippy::print_stderr,
        reason = "whoever looks into the failure needs the path"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            eprintln!(
                "the directory of the failed test is kept: {}",
                self.dir.path().display()
            );
        }
    }
}
