//! Where the program under test is.

use std::path::PathBuf;

use anyhow::{Context, bail};

/// Name of the program.
const NAME: &str = "stream-service";

/// The service that was built with the running executable: same target directory, same profile. Builds nothing.
///
/// # Errors
/// When it is not there.
pub fn path() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the running executable")?;
    // A program of the package stands beside it, a test executable in `deps` below it.
    for dir in own.ancestors().skip(1).take(2) {
        let path = dir
            .join(NAME)
            .with_extension(std::env::consts::EXE_EXTENSION);
        if path.is_file() {
            return Ok(path);
        }
    }
    let dir = own.parent().unwrap_or(&own);
    bail!(
        "there is no {NAME} in or above {}; build it with `cargo build --package {NAME}`, and `--release` for benchmarks",
        dir.display()
    )
}
