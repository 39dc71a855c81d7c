//! `volume inspect` and `volume verify`: looks at volumes without the service, and without changing anything on them.
//!
//! The path is a volume, or a directory with volumes as `storage.volumesPath` is one. No configuration is needed: a volume
//! that was copied to another machine can be looked at there.

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use stream_storage::local::inspect;

/// What is to be shown, and where it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// What is on the volumes.
    Inspect(PathBuf),
    /// What of it is damaged.
    Verify(PathBuf),
}

/// Reads the words after `volume`.
///
/// # Errors
/// When there is no such command.
pub fn parse(words: &[&str]) -> anyhow::Result<Look> {
    match words {
        ["inspect", path] => Ok(Look::Inspect(PathBuf::from(path))),
        ["verify", path] => Ok(Look::Verify(PathBuf::from(path))),
        _ => bail!(
            "\"volume {}\" is no command; there are \"volume inspect PATH\", \"volume verify PATH\" and \"volume forget ID\"",
            words.join(" ")
        ),
    }
}

/// Prints what was asked for, of one volume after the other. Exits with 1 when a verification has findings, or a volume
/// cannot be looked at.
///
/// # Errors
/// When there is no volume at the path.
pub fn run(look: &Look) -> anyhow::Result<ExitCode> {
    let (Look::Inspect(path) | Look::Verify(path)) = look;
    let mut is_sound = true;
    for dir in volumes(path)? {
        let shown = match look {
            Look::Inspect(_) => inspect::inspect(&dir).map(|found| (found.to_string(), true)),
            Look::Verify(_) => {
                inspect::verify(&dir).map(|found| (found.to_string(), found.findings.is_empty()))
            }
        };
        match shown {
            Ok((text, sound)) => {
                is_sound &= sound;
                std::io::stdout()
                    .write_all(text.as_bytes())
                    .context("cannot write to standard output")?;
            }
            Err(error) => {
                is_sound = false;
                let mut text = String::new();
                let _ = writeln!(text, "Error: {:#}", anyhow::Error::from(error));
                // The other volumes are looked at all the same.
                let _ = std::io::stderr().write_all(text.as_bytes());
            }
        }
    }
    Ok(match is_sound {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The volume at the path, or those at `<type>/<label>` below it, sorted.
fn volumes(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if inspect::is_volume(path) {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for kind in directories(path)? {
        let labels = directories(&kind)?;
        found.extend(labels.into_iter().filter(|dir| inspect::is_volume(dir)));
    }
    if found.is_empty() {
        bail!(
            "there is no volume in {}: neither is it one, nor are there any at <type>/<label> below it",
            path.display()
        );
    }
    Ok(found)
}

/// The directories in a directory, without those that hold no volumes (hidden ones and `lost+found`).
fn directories(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let reading = || format!("cannot read the directory {}", path.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let name = entry.file_name();
        let is_hidden = name.as_encoded_bytes().starts_with(b".") || name == "lost+found";
        if !is_hidden && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_are_refused_with_those_that_exist() {
        let path = PathBuf::from("a/b");
        assert_eq!(
            parse(&["inspect", "a/b"]).expect("a command"),
            Look::Inspect(path.clone())
        );
        assert_eq!(
            parse(&["verify", "a/b"]).expect("a command"),
            Look::Verify(path)
        );
        for words in [
            &[][..],
            &["verify"],
            &["verify", "a", "b"],
            &["repair", "a"],
        ] {
            let error = parse(words).expect_err("no command").to_string();
            assert!(error.contains("\"volume verify PATH\""), "{error}");
        }
    }
}
