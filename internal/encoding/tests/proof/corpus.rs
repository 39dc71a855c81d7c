//! Replays the corpus of the fuzzer, without the fuzzer: what it found once is checked on every test.

use std::fs;
use std::path::{Path, PathBuf};

use crate::targets;

/// The files of a target, in an order that stays.
fn corpus(target: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let entries = fs::read_dir(&directory).expect("each target has a corpus");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files
}

fn replay(target: &str, check: fn(&[u8])) {
    for file in corpus(target) {
        let input = fs::read(&file).expect("a readable file");
        let result = std::panic::catch_unwind(|| check(&input));
        assert!(result.is_ok(), "{} fails, see above", file.display());
    }
}

macro_rules! replays {
    ($($target:ident),*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target), targets::$target::check);
        })*

        #[test]
        fn no_target_is_forgotten() {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets");
            let entries = fs::read_dir(directory).expect("the targets are there");
            let mut names: Vec<_> = entries
                .map(|entry| entry.expect("a readable directory").path().with_extension(""))
                .map(|path| path.file_name().expect("a name").to_string_lossy().into_owned())
                .collect();
            names.sort();
            assert_eq!(names, [$(stringify!($target)),*]);
        }
    };
}

replays!(batch, content, form, frames, path, record, rows, template);
