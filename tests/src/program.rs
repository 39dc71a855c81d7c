//! Where the program under test is.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};

/// Name of the program.
const NAME: &str = "stream-service";

/// Names another program to test.
const VARIABLE: &str = "STREAM_TEST_PROGRAM";

/// The service that was built with the running executable: same target directory, same profile; or what
/// `STREAM_TEST_PROGRAM` names. Builds nothing.
///
/// # Errors
/// When it is not there.
pub fn path() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "{VARIABLE} names {}, which is no file",
            path.display()
        );
        return Ok(path);
    }
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
