//! A small disk of its own, in memory, that a test can fill.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};

/// The name of the file that takes what is free.
const FILLER: &str = "filler";

/// A file system in memory, mounted until this is dropped.
#[derive(Debug)]
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts one of so many bytes on a new directory. None when this user may not mount; where tests must not be left out
    /// (`CI=true`) that is an error.
    ///
    /// # Errors
    /// When the directory cannot be made.
    #[allow(clippy::print_stderr, reason = "a test that was left out must be told")]
    pub fn mount(path: &Path, bytes: u64) -> anyhow::Result<Option<Self>> {
        std::fs::create_dir_all(path)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(path)
            .output();
        let reason = match mounted {
            Ok(output) if output.status.success() => {
                let path = path.to_owned();
                return Ok(Some(Self { path }));
            }
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let is_required = std::env::var("CI").is_ok_and(|value| value == "true");
        ensure!(!is_required, "a tmpfs cannot be mounted: {reason}");
        eprintln!("left out: a tmpfs cannot be mounted ({reason}); run the test as root");
        Ok(None)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes everything that is free, to the last byte. Again: what has become free since.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(self.path.join(FILLER))?;
        for chunk in [64 << 10, 4 << 10, 1] {
            let zeroes = vec![0; chunk];
            loop {
                match file.write_all(&zeroes) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => bail!("cannot fill {}: {error}", self.path.display()),
                }
            }
        }
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    /// When it was not taken.
    pub fn clear(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.path.join(FILLER)).context("it was not filled")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that is still ending may have files in it. Nobody can be told when it fails.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
