//! Staging: sealed slices in object storage, between the local disk and the import.
//!
//! The storage-reader uploads, the coordinator reads, lists and deletes. Objects are written once and never changed:
//! their names contain the slice and the beginning of the checksum of their bytes, so a repeated upload finds its own
//! result, and two readers that upload the same slice write the same object.
//!
//! What holds for every store:
//!
//! - An object is visible under its name either complete or not at all, and an existing one is never replaced.
//! - When [`Staging::upload`] returns, the object survives a power loss. The local slice may go.
//! - Length and SHA-256 are checked against the seal of the slice on every way in and out. Damage is reported with the
//!   name of what is damaged; it never reaches a table unnoticed.
//! - Memory is bounded whatever the size of a slice.
//!
//! This version has one store, a directory (`file://`). Remote stores fit behind [`Staging::with_store`], which tests use
//! with an in-memory store already.

mod config;
mod content;
mod directory;
mod error;
mod name;
mod remote;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::ObjectStore;
use stream_model::level::Compression;
use stream_model::{SinkKey, SliceId, Timestamp};

pub use self::config::StagingConfig;
pub use self::content::{Content, Mismatch};
pub use self::error::{StagingError, Subject};

use self::content::Verified;
use self::directory::Directory;
use self::name::ObjectName;
use self::remote::Remote;

/// The unit of reading, writing and hashing. A quarter of a megabyte hashes in less than a millisecond on any machine.
const CHUNK_BYTES: usize = 256 << 10;

/// The bytes of an object. The last item is an error if they are not what they should be.
pub type ObjectStream = BoxStream<'static, Result<Bytes, StagingError>>;

/// The staging area. Clones share it.
#[derive(Debug, Clone)]
pub struct Staging {
    store: Store,
}

#[derive(Debug, Clone)]
enum Store {
    Directory(Arc<Directory>),
    Remote(Remote),
}

/// An object, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// When it was written, by the clock of the store.
    pub modified: Timestamp,
}

impl Staging {
    /// Opens the configured staging area, creating a missing directory. Blocks; meant for the start of the process.
    ///
    /// # Errors
    /// When the URL is not supported, or the directory cannot be created or written.
    pub fn open(config: &StagingConfig) -> Result<Self, StagingError> {
        let directory = Directory::open(config.directory()?)?;
        Ok(Self {
            store: Store::Directory(Arc::new(directory)),
        })
    }

    /// Uses the given store. Whether an uploaded object survives a power loss is then the store's promise.
    #[must_use]
    pub fn with_store(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store: Store::Remote(Remote::new(store)),
        }
    }

    /// The name of a slice's object.
    #[must_use]
    pub fn object_name(
        sink: &SinkKey,
        slice: SliceId,
        checksum: &str,
        compression: Compression,
    ) -> String {
        let hash = checksum.get(..16).unwrap_or(checksum);
        format!("{sink}/{slice}-{hash}.{}", compression.extension())
    }

    /// The name of the object of a slice of rejected records: as of any slice, below `rejects/`.
    #[must_use]
    pub fn rejects_name(
        sink: &SinkKey,
        slice: SliceId,
        checksum: &str,
        compression: Compression,
    ) -> String {
        let name = Self::object_name(sink, slice, checksum, compression);
        format!("rejects/{name}")
    }

    /// Copies the slice file at `path` to the object `name`. An object that is already there is checked instead.
    ///
    /// # Errors
    /// `Corrupt` when the slice file, or the object that is already there, is not `content`. After any other error the
    /// object is either there, complete, or not there; the call may be repeated.
    ///
    /// # Cancel safety
    /// Dropping the future may leave invisible parts of the object behind, which [`Staging::collect`] removes.
    pub async fn upload(
        &self,
        name: &str,
        path: &Path,
        content: &Content,
    ) -> Result<(), StagingError> {
        let name = ObjectName::parse(name)?;
        match &self.store {
            Store::Directory(directory) => {
                let (directory, path) = (Arc::clone(directory), path.to_owned());
                let content = content.clone();
                blocking(move || directory.upload(&name, &path, &content)).await
            }
            Store::Remote(remote) => remote.upload(&name, path, content).await,
        }
    }

    /// Reads an object piece by piece. The bytes are verified only when the stream has ended without an error: whoever
    /// acts on them before must be able to take it back.
    ///
    /// # Errors
    /// `NotFound` when there is no such object. Damage comes as the last item of the stream.
    pub async fn read(&self, name: &str, content: Content) -> Result<ObjectStream, StagingError> {
        let name = ObjectName::parse(name)?;
        match &self.store {
            Store::Directory(directory) => {
                let directory = Arc::clone(directory);
                let object = blocking(move || directory.read(&name, &content)).await?;
                Ok(stream::try_unfold(object, next_chunk).boxed())
            }
            Store::Remote(remote) => remote.read(&name, content).await,
        }
    }

    /// The same as [`Staging::read`], for a blocking thread of a tokio runtime. Damage is an `InvalidData` error with a
    /// [`StagingError`] inside, from the read that would have answered the end: read to the end.
    ///
    /// # Errors
    /// `NotFound` when there is no such object.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn read_blocking(
        &self,
        name: &str,
        content: &Content,
    ) -> Result<Box<dyn Read + Send>, StagingError> {
        let name = ObjectName::parse(name)?;
        match &self.store {
            Store::Directory(directory) => Ok(Box::new(directory.read(&name, content)?)),
            Store::Remote(remote) => Ok(Box::new(remote.read_blocking(&name, content)?)),
        }
    }

    /// Removes an object; a missing one is fine. A power loss may bring it back, as an orphan.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub async fn delete(&self, name: &str) -> Result<(), StagingError> {
        let name = ObjectName::parse(name)?;
        match &self.store {
            Store::Directory(directory) => {
                let directory = Arc::clone(directory);
                blocking(move || directory.delete(&name)).await
            }
            Store::Remote(remote) => remote.delete(&name).await,
        }
    }

    /// The objects below `prefix`, sorted by name. The prefix ends between two segments of a name: `1/1/a` has the
    /// objects of source `a`, not those of `a-2`. Empty: all objects.
    ///
    /// # Errors
    /// When the store cannot be listed.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StagingError> {
        let prefix = ObjectName::parse_prefix(prefix)?;
        let mut objects = match &self.store {
            Store::Directory(directory) => {
                let directory = Arc::clone(directory);
                blocking(move || directory.list(prefix.as_ref())).await?
            }
            Store::Remote(remote) => remote.list(prefix.as_ref()).await?,
        };
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    /// Removes what uploads that never ended have left behind, if it was last written before `before`: choose a time
    /// that no running upload can have stood still since. Answers how many were removed. Remote stores do this by
    /// themselves, by a rule of the bucket.
    ///
    /// # Errors
    /// When it cannot be listed or removed.
    pub async fn collect(&self, before: Timestamp) -> Result<u64, StagingError> {
        match &self.store {
            Store::Directory(directory) => {
                let directory = Arc::clone(directory);
                blocking(move || directory.collect(before)).await
            }
            Store::Remote(_) => Ok(0),
        }
    }
}

/// Reads and hashes the next piece of a local object, away from the runtime's threads.
async fn next_chunk(
    mut object: Verified<std::fs::File>,
) -> Result<Option<(Bytes, Verified<std::fs::File>)>, StagingError> {
    blocking(move || {
        let chunk = object.read_chunk(CHUNK_BYTES)?;
        Ok((!chunk.is_empty()).then_some((chunk, object)))
    })
    .await
}

/// Runs `work` on a thread that may block. Its panic goes on in the caller.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StagingError> + Send + 'static,
) -> Result<T, StagingError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(StagingError::Stopped),
        },
    }
}

#[cfg(test)]
mod tests;
