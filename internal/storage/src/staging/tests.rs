use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use stream_model::ErrorKind;
use tempfile::TempDir;

use super::*;

const NAME: &str = "1/1/source/sink/slice-0123.csv.zst";

/// A staging area, and a way to its objects that is independent of it.
struct Fixture {
    staging: Staging,
    directory: TempDir,
    memory: Option<Arc<InMemory>>,
}

impl Fixture {
    fn in_directory() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = StagingConfig::in_directory(&directory.path().join("a/staging"));
        let staging = Staging::open(&config.expect("valid")).expect("opens");
        Self {
            staging,
            directory,
            memory: None,
        }
    }

    fn in_memory() -> Self {
        let memory = Arc::new(InMemory::new());
        let staging = Staging::with_store(Arc::clone(&memory) as Arc<dyn ObjectStore>);
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self {
            staging,
            directory,
            memory: Some(memory),
        }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("a/staging")
    }

    fn uploads(&self) -> usize {
        fs::read_dir(self.root().join(".uploads"))
            .expect("a directory")
            .count()
    }

    fn slice(&self, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join("slice");
        fs::write(&path, bytes).expect("written");
        path
    }

    async fn overwrite(&self, name: &str, bytes: Vec<u8>) {
        match &self.memory {
            Some(memory) => {
                memory
                    .put(&Key::from(name), bytes.into())
                    .await
                    .expect("written");
            }
            None => fs::write(self.root().join(name), bytes).expect("written"),
        }
    }

    async fn upload(&self, name: &str, bytes: &[u8]) -> Result<(), StagingError> {
        self.staging
            .upload(name, &self.slice(bytes), &Content::of(bytes))
            .await
    }

    async fn read(&self, name: &str, content: &Content) -> Result<Vec<u8>, StagingError> {
        let mut all = Vec::new();
        let mut stream = self.staging.read(name, content.clone()).await?;
        while let Some(chunk) = stream.try_next().await? {
            assert!(chunk.len() <= CHUNK_BYTES);
            all.extend_from_slice(&chunk);
        }
        assert_eq!(self.read_blocking(name, content).await?, all);
        Ok(all)
    }

    async fn read_blocking(&self, name: &str, content: &Content) -> Result<Vec<u8>, StagingError> {
        let (staging, name, content) = (self.staging.clone(), name.to_owned(), content.clone());
        blocking(move || {
            let mut all = Vec::new();
            match staging
                .read_blocking(&name, &content)?
                .read_to_end(&mut all)
            {
                Ok(_) => Ok(all),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
                    Err(error
                        .downcast::<StagingError>()
                        .expect("the error of staging"))
                }
            }
        })
        .await
    }

    async fn names(&self, prefix: &str) -> Vec<String> {
        let objects = self.staging.list(prefix).await.expect("listed");
        objects.into_iter().map(|object| object.name).collect()
    }
}

/// Bytes that differ everywhere, so that a swapped or repeated piece is noticed.
fn bytes(length: usize) -> Vec<u8> {
    (0_u32..)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(length)
        .collect()
}

macro_rules! suite {
    ($($behaviour:ident),+ $(,)?) => {
        mod directory {
            $(#[tokio::test] async fn $behaviour() {
                super::$behaviour(super::Fixture::in_directory()).await;
            })+
        }
        mod memory {
            $(#[tokio::test] async fn $behaviour() {
                super::$behaviour(super::Fixture::in_memory()).await;
            })+
        }
    };
}

suite! {
    gives_back_what_was_uploaded,
    a_repeated_upload_finds_its_own_result,
    uploads_of_the_same_slice_at_the_same_time_all_succeed,
    refuses_a_damaged_slice_file,
    never_replaces_an_object,
    reports_a_damaged_object_by_name,
    deletes_and_forgets,
    lists_whole_segments_in_order,
    refuses_names_that_are_none,
}

async fn gives_back_what_was_uploaded(fixture: Fixture) {
    for length in [
        0,
        1,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        8 << 20,
        (17 << 20) + 5,
    ] {
        let bytes = bytes(length);
        let name = format!("1/1/source/sink/{length}.csv");
        fixture.upload(&name, &bytes).await.expect("uploaded");
        let read = fixture
            .read(&name, &Content::of(&bytes))
            .await
            .expect("read");
        assert!(read == bytes, "{length}");
    }
}

async fn a_repeated_upload_finds_its_own_result(fixture: Fixture) {
    for length in [100, 9 << 20] {
        let bytes = bytes(length);
        let name = format!("1/1/source/sink/{length}.csv");
        fixture.upload(&name, &bytes).await.expect("uploaded");
        fixture.upload(&name, &bytes).await.expect("already there");
        // Not even the slice file is needed any more.
        let gone = fixture.directory.path().join("gone");
        fixture
            .staging
            .upload(&name, &gone, &Content::of(&bytes))
            .await
            .expect("already there");
        assert_eq!(
            fixture
                .read(&name, &Content::of(&bytes))
                .await
                .expect("read"),
            bytes
        );
    }
    assert_eq!(fixture.names("").await.len(), 2);
}

async fn uploads_of_the_same_slice_at_the_same_time_all_succeed(fixture: Fixture) {
    let bytes = bytes(CHUNK_BYTES * 3 + 7);
    let (slice, content) = (fixture.slice(&bytes), Content::of(&bytes));
    let attempts = (0..8).map(|_| fixture.staging.upload(NAME, &slice, &content));
    for result in futures_util::future::join_all(attempts).await {
        result.expect("uploaded");
    }
    assert_eq!(fixture.read(NAME, &content).await.expect("read"), bytes);
    if fixture.memory.is_none() {
        assert_eq!(fixture.uploads(), 0);
    }
}

async fn refuses_a_damaged_slice_file(fixture: Fixture) {
    for length in [1_000, (8 << 20) + 1] {
        let sealed = bytes(length);
        let mut flipped = sealed.clone();
        flipped[length / 2] ^= 1;
        let longer = [&sealed[..], b"x"].concat();
        for damaged in [&flipped[..], &longer, &sealed[..length - 1], b""] {
            let slice = fixture.slice(damaged);
            let error = fixture
                .staging
                .upload(NAME, &slice, &Content::of(&sealed))
                .await
                .expect_err("damaged");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(
                error.to_string().contains(&slice.display().to_string()),
                "{error}"
            );
        }
    }
    let gone = fixture.directory.path().join("gone");
    let error = fixture
        .staging
        .upload(NAME, &gone, &Content::of(b"a"))
        .await
        .expect_err("gone");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(fixture.names("").await, [""; 0]);
    if fixture.memory.is_none() {
        assert_eq!(fixture.uploads(), 0, "failed uploads leave nothing behind");
    }
}

async fn never_replaces_an_object(fixture: Fixture) {
    fixture.upload(NAME, b"first").await.expect("uploaded");
    for other in [&b"other"[..], b"longer than it", b""] {
        let error = fixture
            .upload(NAME, other)
            .await
            .expect_err("another content");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(NAME), "{error}");
    }
    assert_eq!(
        fixture
            .read(NAME, &Content::of(b"first"))
            .await
            .expect("read"),
        b"first"
    );
}

async fn reports_a_damaged_object_by_name(fixture: Fixture) {
    let bytes = bytes(CHUNK_BYTES * 2 + 100);
    let content = Content::of(&bytes);
    fixture.upload(NAME, &bytes).await.expect("uploaded");
    let mut flipped = bytes.clone();
    flipped[CHUNK_BYTES + 5] ^= 0x80;
    for (damaged, expected) in [
        (flipped, Mismatch::Checksum),
        (
            [&bytes[..], b"x"].concat(),
            Mismatch::Long {
                expected: content.bytes,
            },
        ),
        (
            bytes[..bytes.len() - 1].to_vec(),
            Mismatch::Short {
                expected: content.bytes,
                found: content.bytes - 1,
            },
        ),
        (
            vec![],
            Mismatch::Short {
                expected: content.bytes,
                found: 0,
            },
        ),
    ] {
        fixture.overwrite(NAME, damaged).await;
        let streamed = fixture.read(NAME, &content).await.expect_err("damaged");
        let blocking = fixture
            .read_blocking(NAME, &content)
            .await
            .expect_err("damaged");
        for error in [streamed, blocking] {
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            let StagingError::Corrupt { subject, mismatch } = error else {
                panic!("{error}")
            };
            assert_eq!(subject, Subject::Object(NAME.to_owned()));
            assert_eq!(mismatch, expected);
        }
    }
    let mut stream = fixture
        .staging
        .read(NAME, content)
        .await
        .expect("it is there");
    assert!(stream.try_next().await.is_err());
    assert!(
        stream.try_next().await.expect("ended").is_none(),
        "the error is the last item"
    );
}

async fn deletes_and_forgets(fixture: Fixture) {
    fixture.staging.delete(NAME).await.expect("missing is fine");
    fixture.upload(NAME, b"a").await.expect("uploaded");
    fixture.staging.delete(NAME).await.expect("deleted");
    fixture.staging.delete(NAME).await.expect("deleted again");
    let content = Content::of(b"a");
    let streamed = fixture
        .staging
        .read(NAME, content.clone())
        .await
        .err()
        .expect("gone");
    let blocking = fixture
        .read_blocking(NAME, &content)
        .await
        .expect_err("gone");
    for error in [streamed, blocking] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(NAME), "{error}");
    }
    fixture.upload(NAME, b"b").await.expect("the name is free");
}

async fn lists_whole_segments_in_order(fixture: Fixture) {
    assert_eq!(fixture.names("").await, [""; 0]);
    assert_eq!(fixture.names("9/9").await, [""; 0]);
    let all = [
        "1/1/a-2/s/x.csv",
        "1/1/a/s/x.csv",
        "1/1/a/s/y.csv",
        "1/1/a/t/x.csv",
        "2/1/a/s/x.csv",
    ];
    for name in all.iter().rev() {
        fixture.upload(name, b"abc").await.expect("uploaded");
    }
    assert_eq!(fixture.names("").await, all);
    assert_eq!(fixture.names("1/1/a").await, all[1..4]);
    assert_eq!(fixture.names("1/1/a/").await, all[1..4]);
    assert_eq!(fixture.names("1/1/a/s").await, all[1..3]);
    let objects = fixture.staging.list("2").await.expect("listed");
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0].bytes, 3);
    assert!(objects[0].modified > Timestamp::from_millis(1_600_000_000_000));
}

async fn refuses_names_that_are_none(fixture: Fixture) {
    let slice = fixture.slice(b"a");
    let content = Content::of(b"a");
    for name in ["", "../escape", ".uploads/x", "a/../../b", "/etc/passwd"] {
        let staging = &fixture.staging;
        let read = staging.read(name, content.clone()).await.map(|_| ());
        let blocking = staging.read_blocking(name, &content).map(|_| ());
        let uploaded = staging.upload(name, &slice, &content).await;
        for result in [read, blocking, uploaded, staging.delete(name).await] {
            assert_eq!(result.expect_err(name).kind(), ErrorKind::Invalid);
        }
    }
    assert_eq!(
        fixture
            .staging
            .list("../..")
            .await
            .expect_err("none")
            .kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn left_overs_of_crashed_uploads_are_invisible_and_collected_when_old() {
    let fixture = Fixture::in_directory();
    let left_over = fixture.root().join(".uploads/slice-0123.csv.zst.0");
    fs::write(&left_over, b"half").expect("written");
    fs::write(fixture.root().join("README (by hand)"), b"hello").expect("written");
    fixture
        .upload(NAME, b"whole")
        .await
        .expect("uploaded beside the left-over");
    assert_eq!(fixture.names("").await, [NAME]);

    let written = fs::metadata(&left_over)
        .and_then(|metadata| metadata.modified())
        .expect("a time");
    let written = written.duration_since(UNIX_EPOCH).expect("after 1970");
    let written = Timestamp::from_millis(0) + written;
    assert_eq!(
        fixture.staging.collect(written).await.expect("collected"),
        0
    );
    assert!(left_over.exists(), "it may be an upload that is running");
    let later = written + Duration::from_millis(1);
    assert_eq!(fixture.staging.collect(later).await.expect("collected"), 1);
    assert_eq!(fixture.uploads(), 0);
    assert_eq!(fixture.names("").await, [NAME]);
}

#[tokio::test]
async fn goes_on_when_somebody_removes_its_directories() {
    let fixture = Fixture::in_directory();
    fixture.upload(NAME, b"a").await.expect("uploaded");
    fs::remove_dir_all(fixture.root()).expect("removed");
    fixture.upload(NAME, b"a").await.expect("uploaded again");
    assert_eq!(fixture.names("1").await, [NAME]);
    assert_eq!(
        fixture
            .staging
            .collect(Timestamp::from_millis(0))
            .await
            .expect("collected"),
        0
    );
}

#[test]
fn says_why_a_directory_cannot_be_used() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, b"").expect("written");
    let config = StagingConfig::in_directory(&file.join("staging")).expect("valid");
    let error = Staging::open(&config).expect_err("a file is in the way");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error
            .to_string()
            .ends_with("cannot be used: it cannot be created"),
        "{error}"
    );
    assert!(
        !error.to_string().contains("os error"),
        "the source is printed by whoever prints chains"
    );

    // A file system without hard links, on which no file can be created either.
    let config = StagingConfig::in_directory(Path::new("/proc/self")).expect("valid");
    let error = Staging::open(&config).expect_err("not a real directory");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn opening_leaves_nothing_behind_and_keeps_what_is_there() {
    let fixture = Fixture::in_directory();
    assert_eq!(fixture.uploads(), 0);
    fs::write(fixture.root().join("x.csv"), b"a").expect("written");
    let config = StagingConfig::in_directory(&fixture.root()).expect("valid");
    Staging::open(&config).expect("opens again");
    assert_eq!(fs::read(fixture.root().join("x.csv")).expect("there"), b"a");
}

/// A store that fails its next calls.
#[derive(Debug)]
struct Flaky {
    inner: InMemory,
    failures: AtomicU32,
    aborted: Arc<AtomicU32>,
}

impl Flaky {
    fn fails(&self, times: u32) {
        self.failures.store(times, Ordering::SeqCst);
    }

    fn check(&self) -> object_store::Result<()> {
        let failing = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        match failing {
            Ok(_) => Err(object_store::Error::Generic {
                store: "flaky",
                source: "away".into(),
            }),
            Err(_) => Ok(()),
        }
    }
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flaky")
    }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(
        &self,
        location: &Key,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.check()?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Key,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(FlakyUpload {
            inner,
            parts: 0,
            aborted: Arc::clone(&self.aborted),
        }))
    }

    async fn get_opts(
        &self,
        location: &Key,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.check()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Key>>,
    ) -> BoxStream<'static, object_store::Result<Key>> {
        match self.check() {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match self.check() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Key,
        to: &Key,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// An upload in parts whose second part fails.
#[derive(Debug)]
struct FlakyUpload {
    inner: Box<dyn MultipartUpload>,
    parts: u32,
    aborted: Arc<AtomicU32>,
}

#[async_trait]
impl MultipartUpload for FlakyUpload {
    fn put_part(&mut self, data: PutPayload) -> object_store::UploadPart {
        self.parts += 1;
        if self.parts == 2 {
            let error = object_store::Error::Generic {
                store: "flaky",
                source: "away".into(),
            };
            return Box::pin(std::future::ready(Err(error)));
        }
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> object_store::Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> object_store::Result<()> {
        self.aborted.fetch_add(1, Ordering::SeqCst);
        self.inner.abort().await
    }
}

#[tokio::test]
async fn a_store_that_is_away_can_be_tried_again() {
    let aborted = Arc::new(AtomicU32::new(0));
    let store = Arc::new(Flaky {
        inner: InMemory::new(),
        failures: AtomicU32::new(0),
        aborted: Arc::clone(&aborted),
    });
    let staging = Staging::with_store(Arc::clone(&store) as Arc<dyn ObjectStore>);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let slice = directory.path().join("slice");
    fs::write(&slice, b"abc").expect("written");
    let content = Content::of(b"abc");

    store.fails(1);
    let error = staging
        .upload(NAME, &slice, &content)
        .await
        .expect_err("away");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    staging.upload(NAME, &slice, &content).await.expect("back");
    store.fails(1);
    let error = staging
        .read(NAME, content.clone())
        .await
        .err()
        .expect("away");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    store.fails(1);
    assert_eq!(
        staging.list("").await.expect_err("away").kind(),
        ErrorKind::Unavailable
    );
    store.fails(1);
    assert_eq!(
        staging.delete(NAME).await.expect_err("away").kind(),
        ErrorKind::Unavailable
    );
    staging.delete(NAME).await.expect("back");

    let large = bytes(9 << 20);
    fs::write(&slice, &large).expect("written");
    let error = staging
        .upload(NAME, &slice, &Content::of(&large))
        .await
        .expect_err("away");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(aborted.load(Ordering::SeqCst), 1);
    assert_eq!(staging.list("").await.expect("listed"), []);
}
