//! Volumes of every released version of the format, as they were written, and what is on them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use stream_model::hours::Hour;
use stream_storage::local::{Volume, inspect};

use crate::generated::{START, Size, by_hour, generate, options, sealed_by_hour};
use crate::image::Image;

/// Small enough to be kept with the source.
const GOLDEN: Size = Size {
    segment_bytes: 24 << 10,
    checkpoint_bytes: 72 << 10,
    groups: 34,
    longest_row: 60,
};
/// The seed of the volumes of version 1.
const SEED: u64 = 20_260_101;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The volume of a version. The zeroes at the ends of segments are not kept: `sizes` has the lengths.
fn read(version: &str) -> (Image, BTreeMap<String, Vec<String>>) {
    let dir = golden().join(version);
    let mut image = Image::read(&dir.join("volume"));
    let sizes = std::fs::read_to_string(dir.join("sizes")).expect("it is there");
    for line in sizes.lines() {
        let (path, size) = line.split_once(' ').expect("a path and a size");
        let content = image.0.entry(PathBuf::from(path)).or_default();
        let size = size.parse().expect("a number");
        assert!(content.len() <= size, "{path}");
        content.resize(size, 0);
    }
    let rows = std::fs::read_to_string(dir.join("rows")).expect("it is there");
    let mut slices: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in rows.lines() {
        let (slice, row) = line.split_once(' ').expect("a slice and a row");
        slices
            .entry(slice.to_owned())
            .or_default()
            .push(row.to_owned());
    }
    (image, slices)
}

fn versions() -> Vec<String> {
    let mut versions: Vec<String> = std::fs::read_dir(golden())
        .expect("it is there")
        .map(|entry| entry.expect("listed").file_name())
        .map(|name| name.into_string().expect("text"))
        .collect();
    versions.sort();
    versions
}

#[tokio::test]
async fn volumes_of_every_version_are_opened_and_have_all_rows() {
    // The second has rows of several hours in its checkpoints.
    assert_eq!(versions(), ["v1", "v1-hours"]);
    for version in versions() {
        let (image, expected) = read(&version);
        let dir = tempfile::tempdir().expect("a directory");
        image.write(dir.path());
        let (volume, recovery) = Volume::open(options(dir.path(), GOLDEN)).expect("it opens");
        assert_eq!(recovery.damage, [], "{version}");
        assert_eq!(
            recovery.unknown_files,
            [""; 0].map(PathBuf::from),
            "{version}"
        );
        let mut found = BTreeMap::new();
        for slice in volume.slices() {
            let content = volume.seal(slice.id, None).await.expect("sealed");
            let bytes = std::fs::read(volume.slice_path(slice.id)).expect("it has rows");
            let rows = crate::trial::rows_by_content(&bytes).expect("it can be unpacked");
            assert_eq!(rows.len() as u64, content.figures.rows);
            let hours = match version.as_str() {
                // All its rows came at once.
                "v1" => BTreeMap::from([(Hour::of(START), content.figures.rows)]),
                _ => by_hour(&rows),
            };
            assert_eq!(sealed_by_hour(&content), hours, "{version}");
            found.insert(slice.id.to_string(), rows);
        }
        assert_eq!(found, expected, "{version}");
        volume.stop().await;
    }
}

#[test]
fn volumes_of_every_version_are_verified_without_findings() {
    for version in versions() {
        let (image, expected) = read(&version);
        let dir = tempfile::tempdir().expect("a directory");
        image.write(dir.path());
        let found = inspect::verify(dir.path()).expect("readable");
        assert_eq!((found.findings.len(), found.notes.len()), (0, 0), "{found}");
        let inspection = &found.inspection;
        assert!(inspection.segments.len() >= 2, "{inspection}");
        assert_eq!(inspection.checkpoints.len(), 2, "{inspection}");
        let rows: BTreeMap<String, u64> = inspection
            .slices
            .iter()
            .map(|slice| (slice.id.to_string(), slice.figures.rows))
            .collect();
        let expected = expected
            .into_iter()
            .map(|(slice, rows)| (slice, rows.len() as u64));
        assert_eq!(rows, expected.collect());
        assert_eq!(
            Image::read(dir.path()),
            image,
            "{version}: nothing is written"
        );
    }
}

/// Writes the volume of a version that is about to be released: `STREAM_TEST_GOLDEN=v2 cargo test … -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn write_a_golden_volume() {
    let version =
        std::env::var("STREAM_TEST_GOLDEN").expect("STREAM_TEST_GOLDEN names the version");
    let dir = golden().join(version);
    assert!(!dir.exists(), "a released version never changes");
    let generated = generate(SEED, GOLDEN);
    let (mut image, mut sizes, mut rows) = (generated.image, String::new(), String::new());
    // A directory needs a file to be kept with the source, and a spare segment is none of the volume's content.
    image.0.retain(|path, _| {
        path.extension()
            .is_none_or(|extension| extension != "spare")
    });
    for (path, content) in &mut image.0 {
        writeln!(sizes, "{} {}", path.display(), content.len()).expect("text");
        if path.starts_with("journal") {
            let end = content
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1);
            content.truncate(end);
        }
    }
    for (slice, of_slice) in &generated.content.slices {
        for row in of_slice {
            writeln!(rows, "{slice} {row}").expect("text");
        }
    }
    image.write(&dir.join("volume"));
    std::fs::write(dir.join("sizes"), sizes).expect("written");
    std::fs::write(dir.join("rows"), rows).expect("written");
}
