use sha2::{Digest, Sha256};
use stream_encoding::Encoder;
use stream_storage::staging::StagingConfig;
use tempfile::TempDir;

use super::*;
use crate::fixture::{sink_key, slice_id};

const ZSTD: Compression = Compression::Zstd { level: 1 };

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

struct Staged {
    dir: TempDir,
    staging: Staging,
}

impl Staged {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = StagingConfig::in_directory(&dir.path().join("staging")).expect("valid");
        Self {
            staging: Staging::open(&config).expect("opened"),
            dir,
        }
    }

    /// Uploads a slice of two columns in frames of a few rows each.
    async fn slice(&self, number: u8, rows: &[(String, String)]) -> StagedSlice {
        let mut encoder = Encoder::new(ZSTD);
        let mut bytes = Vec::new();
        for rows in rows.chunks(1000) {
            let csv: String = rows
                .iter()
                .map(|(a, b)| format!("\"{a}\",\"{b}\"\n"))
                .collect();
            bytes.extend_from_slice(&encoder.frame(csv.as_bytes()).expect("compressed"));
        }
        let path = self.dir.path().join(format!("slice-{number}"));
        std::fs::write(&path, &bytes).expect("written");
        let content = Content {
            bytes: bytes.len() as u64,
            checksum: hex(&bytes),
        };
        let id = slice_id(number);
        let object = Staging::object_name(&sink_key("raw"), id, &content.checksum, ZSTD);
        self.staging
            .upload(&object, &path, &content)
            .await
            .expect("uploaded");
        StagedSlice {
            id,
            object,
            content,
            compression: ZSTD,
            rows: rows.len() as u64,
        }
    }

    fn object(&self, slice: &StagedSlice) -> std::path::PathBuf {
        self.dir.path().join("staging").join(&slice.object)
    }

    async fn read(&self, slices: Vec<StagedSlice>) -> Result<Vec<(String, String)>, ReadError> {
        let mut stream = stream(self.staging.clone(), slices, 2);
        let mut rows = Vec::new();
        while let Some(block) = stream.next().await {
            let block = block.map_err(|error| *error.0.downcast().expect("our own error"))?;
            assert!(block.bytes() < 2 * BLOCK_BYTES, "blocks are bounded");
            rows.extend(
                block
                    .rows()
                    .map(|row| (row[0].to_owned(), row[1].to_owned())),
            );
        }
        Ok(rows)
    }
}

fn rows(name: &str, count: usize) -> Vec<(String, String)> {
    (0..count)
        .map(|n| (format!("{name}{n}"), "x".repeat(n % 200)))
        .collect()
}

#[tokio::test]
async fn rows_of_all_slices_come_in_their_order() {
    let staged = Staged::new();
    let (first, second) = (rows("a", 5_000), rows("b", 3));
    let slices = vec![
        staged.slice(2, &first).await,
        staged.slice(1, &second).await,
    ];
    let read = staged.read(slices).await.expect("undamaged");
    assert!(read == [first, second].concat());
}

#[tokio::test]
async fn damage_is_reported_with_the_name_of_the_object() {
    let staged = Staged::new();
    let slice = staged.slice(1, &rows("a", 100)).await;
    let path = staged.object(&slice);
    let mut bytes = std::fs::read(&path).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let error = staged.read(vec![slice.clone()]).await.expect_err("damaged");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&slice.object), "{error}");
}

#[tokio::test]
async fn a_removed_or_shortened_object_is_damage_too() {
    let staged = Staged::new();
    let slice = staged.slice(1, &rows("a", 100)).await;
    let path = staged.object(&slice);
    let bytes = std::fs::read(&path).expect("readable");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
    let error = staged
        .read(vec![slice.clone()])
        .await
        .expect_err("shortened");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    std::fs::remove_file(&path).expect("removed");
    let error = staged.read(vec![slice]).await.expect_err("removed");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn missing_or_surplus_rows_are_noticed() {
    let staged = Staged::new();
    let mut slice = staged.slice(1, &rows("a", 100)).await;
    for wrong in [99, 101] {
        slice.rows = wrong;
        let error = staged
            .read(vec![slice.clone()])
            .await
            .expect_err("another number of rows");
        assert!(
            matches!(error, ReadError::Count { found: 100, .. }),
            "{error}"
        );
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn a_producer_that_dies_does_not_look_like_the_end() {
    // A row that a block cannot hold makes the thread end through its error path; no columns at all make it panic.
    let staged = Staged::new();
    let slice = staged.slice(1, &rows("a", 1)).await;
    let mut stream = stream(staged.staging.clone(), vec![slice], 0);
    let error = stream
        .next()
        .await
        .expect("not the end")
        .expect_err("not a block");
    let error = error.0.downcast::<ReadError>().expect("our own error");
    assert!(matches!(*error, ReadError::Interrupted), "{error}");
}
