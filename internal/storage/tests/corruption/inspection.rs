//! Looking at volumes that are in use, incomplete, or were given what they should not have been.

use std::path::Path;

use bytes::Bytes;
use stream_model::ErrorKind;
use stream_model::level::Compression;
use stream_storage::local::inspect::{self, InspectError, Usage};
use stream_storage::local::{Damage, Volume};
use stream_storage::wire::{Answer, Batch, Connection, Part};

use crate::generated::{Generated, SESSIONS, SMALL, generate, options, part, slice, spec};
use crate::image::Image;

const ZSTD: Compression = Compression::Zstd { level: 1 };

fn written(generated: &Generated, change: impl FnOnce(&mut Image)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let mut image = generated.image.clone();
    change(&mut image);
    image.write(dir.path());
    dir
}

fn findings(dir: &Path) -> Vec<Damage> {
    let before = Image::read(dir);
    let found = inspect::verify(dir).expect("it can be read");
    assert_eq!(Image::read(dir), before, "nothing is written");
    found.findings
}

#[tokio::test]
async fn a_volume_in_use_is_inspected_and_not_verified() {
    let dir = written(&generate(1, SMALL), |_| {});
    let (volume, _) = Volume::open(options(dir.path(), SMALL)).expect("opened");
    let inspection = inspect::inspect(dir.path()).expect("readable");
    assert_eq!(
        (inspection.usage, inspection.id),
        (Usage::InUse, volume.id())
    );
    let text = inspection.to_string();
    assert!(text.contains("in use by another process"), "{text}");
    let refused = inspect::verify(dir.path()).expect_err("it is in use");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    volume.stop().await;
    let inspection = inspect::inspect(dir.path()).expect("readable");
    assert_eq!(inspection.usage, Usage::Free);
    assert_eq!(findings(dir.path()), []);
}

#[test]
fn a_volume_is_told_by_its_journal_when_its_id_is_damaged() {
    let generated = generate(1, SMALL);
    let whole = written(&generated, |_| {});
    let id = inspect::inspect(whole.path()).expect("readable").id;
    let damaged: [Option<&[u8]>; 3] = [
        Some(b"0123456789abcdef0123456789abcdef\n"),
        Some(b"what is this"),
        None,
    ];
    for content in damaged {
        let dir = written(&generated, |image| {
            image.0.remove(Path::new("volume-id"));
            let content = content.map(|content| ("volume-id".into(), content.to_vec()));
            image.0.extend(content);
        });
        let [finding] = &findings(dir.path())[..] else {
            panic!("there is one finding");
        };
        assert_eq!(finding.file, dir.path().join("volume-id"));
        assert_eq!(inspect::inspect(dir.path()).expect("readable").id, id);
    }
    let dir = written(&generated, |image| {
        image.0.retain(|path, _| !path.starts_with("journal"));
        image.0.insert("volume-id".into(), b"what is this".to_vec());
    });
    let refused = inspect::verify(dir.path()).expect_err("nothing tells the id");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
}

#[test]
fn what_is_no_volume_is_refused_and_nothing_is_created() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("notes.txt"), "x").expect("written");
    for refused in [
        inspect::inspect(dir.path()).err(),
        inspect::verify(dir.path()).err(),
    ] {
        assert!(
            matches!(refused, Some(InspectError::NotAVolume { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(Image::read(dir.path()).0.len(), 1);
}

#[test]
fn a_copy_without_lock_and_with_other_files_is_sound() {
    let dir = written(&generate(1, SMALL), |image| {
        image.0.remove(Path::new("lock"));
        image.0.insert("notes.txt".into(), b"x".to_vec());
        image
            .0
            .insert("checkpoint/old/1.checkpoint".into(), b"x".to_vec());
    });
    assert_eq!(findings(dir.path()), []);
    let unknown = inspect::inspect(dir.path())
        .expect("readable")
        .unknown_files;
    let expected = ["checkpoint/old", "notes.txt"].map(|name| dir.path().join(name));
    assert_eq!(unknown, expected);
}

/// A source that sends what is no frame, or counts wrongly, is found by unpacking alone: every checksum of the volume is right.
#[tokio::test]
async fn frames_that_are_not_what_their_batch_says_are_findings() {
    let dir = tempfile::tempdir().expect("a directory");
    let (volume, _) = Volume::open(options(dir.path(), SMALL)).expect("opened");
    let rows = ["\"a\"".to_owned(), "\"b\"".to_owned()];
    let sound = part(slice(1), 1, ZSTD, &rows);
    let sent = [
        (sound.clone(), None),
        (
            Part {
                frame: Bytes::from_static(b"no frame"),
                ..part(slice(2), 1, ZSTD, &rows)
            },
            Some(2),
        ),
        (
            Part {
                rows: 7,
                ..part(slice(3), 1, ZSTD, &rows)
            },
            Some(7),
        ),
        (
            Part {
                raw_bytes: 9,
                ..part(slice(4), 1, Compression::None, &rows)
            },
            Some(2),
        ),
    ];
    let connection = volume.connect(SESSIONS[0]).expect("open");
    for (part, _) in &sent {
        volume.open_slice(spec(part.slice, part.compression));
        let parts = vec![part.clone()];
        let answer = connection
            .append(Batch {
                parts,
                keys: Vec::new(),
            })
            .await;
        assert_eq!(answer, Ok(Answer::Committed));
    }
    volume.stop().await;
    let found = findings(dir.path());
    let rows: Vec<Option<u64>> = found.iter().map(|finding| finding.rows).collect();
    let expected: Vec<Option<u64>> = sent.iter().filter_map(|(_, rows)| rows.map(Some)).collect();
    assert_eq!(rows, expected, "{found:?}");
    for (finding, (part, _)) in found.iter().zip(&sent[1..]) {
        let bytes = std::fs::read(&finding.file).expect("readable");
        let range = usize::try_from(finding.from).expect("small")
            ..usize::try_from(finding.to).expect("small");
        assert_eq!(
            bytes[range],
            part.frame[..],
            "the finding is where the frame is"
        );
    }
}
