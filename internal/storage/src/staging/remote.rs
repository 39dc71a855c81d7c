//! Staging in an object store behind a network, or in memory.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use stream_model::Timestamp;
use tokio::runtime::Handle;

use super::content::{Verified, Verifier, open_slice};
use super::name::ObjectName;
use super::{CHUNK_BYTES, Content, ObjectInfo, ObjectStream, StagingError, Subject, blocking};

/// Objects up to this size are written by one conditional request, larger ones in parts of this size.
const PART_BYTES: usize = 8 << 20;

type Chunks = BoxStream<'static, object_store::Result<Bytes>>;

/// An object store.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
}

impl Remote {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    pub(super) async fn upload(
        &self,
        name: &ObjectName,
        slice: &Path,
        content: &Content,
    ) -> Result<(), StagingError> {
        match self.store.head(&key(name)).await {
            Ok(_) => return self.confirm(name, content).await,
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(failed("look up", name)(error)),
        }
        let (slice, expected) = (slice.to_owned(), content.clone());
        let source = blocking(move || open_slice(&slice, &expected)).await?;
        if content.bytes <= PART_BYTES as u64 {
            self.put(name, source, content).await
        } else {
            self.put_parts(name, source).await
        }
    }

    /// Writes a small object with one request that fails if the name is taken.
    async fn put(
        &self,
        name: &ObjectName,
        mut source: Verified<std::fs::File>,
        content: &Content,
    ) -> Result<(), StagingError> {
        // Room for one byte more than there should be, so that reading comes to the end and the check is made.
        let limit = usize::try_from(content.bytes).map_or(PART_BYTES, |bytes| bytes + 1);
        let bytes = blocking(move || source.read_chunk(limit)).await?;
        let put = self
            .store
            .put_opts(&key(name), bytes.into(), PutMode::Create.into())
            .await;
        match put {
            Ok(_) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => self.confirm(name, content).await,
            Err(error) => Err(failed("write", name)(error)),
        }
    }

    /// Writes a large object in parts. Stores have no conditional form of this; but whoever writes the same name writes
    /// the same bytes, so replacing an object that appeared meanwhile changes nothing.
    async fn put_parts(
        &self,
        name: &ObjectName,
        source: Verified<std::fs::File>,
    ) -> Result<(), StagingError> {
        let upload = self.store.put_multipart(&key(name)).await;
        let mut upload = upload.map_err(failed("write", name))?;
        if let Err(error) = send_parts(name, source, upload.as_mut()).await {
            if let Err(failure) = upload.abort().await {
                tracing::warn!(object = %name, error = %failure, "cannot abort an upload");
            }
            return Err(error);
        }
        upload
            .complete()
            .await
            .map(|_| ())
            .map_err(failed("write", name))
    }

    pub(super) async fn read(
        &self,
        name: &ObjectName,
        content: Content,
    ) -> Result<ObjectStream, StagingError> {
        let chunks = self.open(name).await?;
        let verifier = Verifier::new(Subject::Object(name.to_string()), content);
        let state = Reading {
            name: name.clone(),
            chunks,
            chunk: Bytes::new(),
            verifier,
        };
        Ok(stream::try_unfold(state, Reading::next).boxed())
    }

    pub(super) fn read_blocking(
        &self,
        name: &ObjectName,
        content: &Content,
    ) -> Result<Verified<BlockingChunks>, StagingError> {
        let runtime = Handle::current();
        let chunks = runtime.block_on(self.open(name))?;
        let chunks = BlockingChunks {
            runtime,
            name: name.clone(),
            chunks,
            chunk: Bytes::new(),
        };
        Ok(Verified::new(
            chunks,
            Subject::Object(name.to_string()),
            content.clone(),
        ))
    }

    pub(super) async fn delete(&self, name: &ObjectName) -> Result<(), StagingError> {
        match self.store.delete(&key(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("remove", name)(error)),
        }
    }

    pub(super) async fn list(
        &self,
        prefix: Option<&ObjectName>,
    ) -> Result<Vec<ObjectInfo>, StagingError> {
        let listed = self.store.list(prefix.map(key).as_ref());
        let objects = listed.map_ok(|object| ObjectInfo {
            name: object.location.to_string(),
            bytes: object.size,
            modified: Timestamp::from_millis(object.last_modified.timestamp_millis()),
        });
        objects
            .try_collect()
            .await
            .map_err(|error| StagingError::Object {
                operation: "list",
                name: prefix.map(ToString::to_string).unwrap_or_default(),
                source: error.into(),
            })
    }

    /// Checks an object that an earlier or concurrent upload has published.
    async fn confirm(&self, name: &ObjectName, content: &Content) -> Result<(), StagingError> {
        let object = self.read(name, content.clone()).await?;
        object.try_for_each(|_| std::future::ready(Ok(()))).await
    }

    async fn open(&self, name: &ObjectName) -> Result<Chunks, StagingError> {
        match self.store.get(&key(name)).await {
            Ok(object) => Ok(object.into_stream()),
            Err(object_store::Error::NotFound { .. }) => Err(StagingError::NotFound {
                subject: Subject::Object(name.to_string()),
            }),
            Err(error) => Err(failed("read", name)(error)),
        }
    }
}

/// An object that is being read by a task.
struct Reading {
    name: ObjectName,
    chunks: Chunks,
    /// What is left of a chunk of the store, which may be a whole object.
    chunk: Bytes,
    verifier: Verifier,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, StagingError> {
        while self.chunk.is_empty() {
            match self.chunks.next().await {
                Some(chunk) => self.chunk = chunk.map_err(failed("read", &self.name))?,
                None => return self.verifier.finish().map(|()| None),
            }
        }
        let piece = self.chunk.split_to(self.chunk.len().min(CHUNK_BYTES));
        self.verifier.update(&piece)?;
        Ok(Some((piece, self)))
    }
}

/// An object that is being read by a blocking thread.
pub(super) struct BlockingChunks {
    runtime: Handle,
    name: ObjectName,
    chunks: Chunks,
    chunk: Bytes,
}

impl Read for BlockingChunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.runtime.block_on(self.chunks.next()) {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(error)) => {
                    return Err(io::Error::other(failed("read", &self.name)(error)));
                }
                None => return Ok(0),
            }
        }
        let piece = self.chunk.split_to(self.chunk.len().min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

/// Sends the parts one after the other: two would need twice the memory, and several slices are uploaded at a time.
async fn send_parts(
    name: &ObjectName,
    mut source: Verified<std::fs::File>,
    upload: &mut dyn MultipartUpload,
) -> Result<(), StagingError> {
    loop {
        let (part, rest) = blocking(move || {
            let part = source.read_chunk(PART_BYTES)?;
            Ok((part, source))
        })
        .await?;
        if part.is_empty() {
            return Ok(());
        }
        source = rest;
        upload
            .put_part(PutPayload::from(part))
            .await
            .map_err(failed("write", name))?;
    }
}

fn key(name: &ObjectName) -> Key {
    // The characters of a name have no meaning to the store, so the conversion changes none.
    Key::from(name.as_str())
}

fn failed(
    operation: &'static str,
    name: &ObjectName,
) -> impl FnOnce(object_store::Error) -> StagingError {
    let name = name.to_string();
    move |error| StagingError::Object {
        operation,
        name,
        source: error.into(),
    }
}
