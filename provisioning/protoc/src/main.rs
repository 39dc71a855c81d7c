//! Copies the protobuf compiler and its well-known types to the directory given as the only argument.
//!
//! `protoc` looks for `../include` beside its own binary, so the copy keeps that shape: `bin/protoc`, `include/…`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let target = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: provide-protoc DIRECTORY")?);
    let protoc = protoc_bin_vendored::protoc_bin_path()?;
    let include = protoc_bin_vendored::include_path()?;
    copy_tree(&include, &target.join("include"))?;
    fs::create_dir_all(target.join("bin"))?;
    // The binary comes last: its presence means that the copy is complete.
    fs::copy(protoc, target.join("bin/protoc"))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
