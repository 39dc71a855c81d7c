//! Staging in a local directory.
//!
//! ```text
//! <root>/.uploads/<slice>-<hash>.<extension>.<n>     an upload that has not ended
//! <root>/<project>/<branch>/<source>/<sink>/<slice>-<hash>.<extension>
//! ```
//!
//! An upload is written to a name of its own, synced, and then linked to the name of the object, which fails if that is
//! taken. Written here and not taken from the object store library, whose conditional writes hold the whole object in
//! memory and whose directories are not synced again after a crash between their creation and their sync.

use std::collections::HashSet;
use std::fs::{self, DirEntry, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use parking_lot::Mutex;
use stream_model::Timestamp;

use super::content::{Verified, open_slice};
use super::name::ObjectName;
use super::{CHUNK_BYTES, Content, ObjectInfo, StagingError, Subject};
use crate::crash::{self, Point};
use crate::local::durable::{self, Published};

/// Where uploads are written. No object begins with a dot.
const UPLOADS: &str = ".uploads";

/// The most directories that are remembered as durable. Forgetting one costs a few syncs.
const MAX_DURABLE_DIRECTORIES: usize = 10_000;

/// A staging directory.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    uploads: PathBuf,
    /// Directories of objects whose whole path is known to survive a power loss.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Directory {
    /// Opens the directory, creates it when missing, and tries out whether uploads will work there.
    pub(super) fn open(root: PathBuf) -> Result<Self, StagingError> {
        let uploads = root.join(UPLOADS);
        let unusable = |reason| {
            let path = root.clone();
            move |source| StagingError::Unusable {
                path,
                reason,
                source,
            }
        };
        durable::create_dir_all(&uploads).map_err(unusable("it cannot be created"))?;
        // It may have been created before a crash that came before the sync.
        durable::sync_dir(&root)
            .and_then(|()| durable::sync_parent(&root))
            .map_err(unusable("it cannot be synced"))?;
        let directory = Self {
            root: root.clone(),
            uploads,
            durable: Mutex::default(),
        };
        match directory.try_out() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                // That says nothing of the directory, and on a full disk nothing gets better by not starting.
                tracing::warn!(dir = %root.display(), %error, "staging is full, uploads wait for room");
            }
            tried => tried.map_err(unusable("files cannot be written and linked in it"))?,
        }
        Ok(directory)
    }

    fn try_out(&self) -> io::Result<()> {
        let mut trial = Temporary::create(&self.uploads, "trial")?;
        trial.file.write_all(b"trial")?;
        let mut linked = trial.path.clone().into_os_string();
        linked.push(".linked");
        let linked = PathBuf::from(linked);
        trial.publish(&linked)?;
        durable::remove(&linked)
    }

    pub(super) fn upload(
        &self,
        name: &ObjectName,
        slice: &Path,
        content: &Content,
    ) -> Result<(), StagingError> {
        let path = self.path_of(name);
        self.make_durable_directory(path.parent().unwrap_or(&self.root))?;
        if path.exists() {
            return self.confirm(name, content);
        }
        let mut source = open_slice(slice, content)?;
        let mut upload = durable::create_dir_all(&self.uploads)
            .and_then(|()| Temporary::create(&self.uploads, name.file_name()))
            .map_err(failed("create a file in", &self.uploads))?;
        loop {
            let chunk = source.read_chunk(CHUNK_BYTES)?;
            if chunk.is_empty() {
                break;
            }
            upload
                .file
                .write_all(&chunk)
                .map_err(failed("write", &upload.path))?;
        }
        crash::point(Point::ObjectWritten);
        match upload.publish(&path) {
            Ok(Published::Created) => Ok(()),
            Ok(Published::Existed) => self.confirm(name, content),
            Err(error) => {
                // The directory may have been removed by a person: do not rely on what is remembered of it.
                self.durable.lock().clear();
                Err(failed("publish", &path)(error))
            }
        }
    }

    pub(super) fn read(
        &self,
        name: &ObjectName,
        content: &Content,
    ) -> Result<Verified<File>, StagingError> {
        let path = self.path_of(name);
        let subject = Subject::Object(name.to_string());
        match File::open(&path) {
            Ok(file) => Ok(Verified::new(file, subject, content.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StagingError::NotFound { subject })
            }
            Err(error) => Err(failed("open", &path)(error)),
        }
    }

    pub(super) fn delete(&self, name: &ObjectName) -> Result<(), StagingError> {
        let path = self.path_of(name);
        durable::remove(&path).map_err(failed("remove", &path))
    }

    pub(super) fn list(
        &self,
        prefix: Option<&ObjectName>,
    ) -> Result<Vec<ObjectInfo>, StagingError> {
        let mut objects = Vec::new();
        let mut pending = vec![prefix.map_or_else(|| self.root.clone(), |name| self.path_of(name))];
        while let Some(directory) = pending.pop() {
            for entry in entries(&directory)? {
                // Whatever is not an object was put there by somebody else and is none of our business.
                let Some(name) = self.name_of(&entry.path()) else {
                    continue;
                };
                let Some(metadata) = metadata(&entry)? else {
                    continue;
                };
                if metadata.is_dir() {
                    pending.push(entry.path());
                } else if metadata.is_file() {
                    let modified = modified(&metadata).map_err(failed("read", &entry.path()))?;
                    objects.push(ObjectInfo {
                        name: name.to_string(),
                        bytes: metadata.len(),
                        modified,
                    });
                }
            }
        }
        Ok(objects)
    }

    pub(super) fn collect(&self, before: Timestamp) -> Result<u64, StagingError> {
        let mut removed = 0;
        for entry in entries(&self.uploads)? {
            let path = entry.path();
            let Some(metadata) = metadata(&entry)? else {
                continue;
            };
            if metadata.is_file() && modified(&metadata).map_err(failed("read", &path))? < before {
                durable::remove(&path).map_err(failed("remove", &path))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Checks an object that an earlier or concurrent upload has published, and makes sure of its name: that upload may
    /// have ended between the link and the sync.
    fn confirm(&self, name: &ObjectName, content: &Content) -> Result<(), StagingError> {
        self.read(name, content)?.check()?;
        let path = self.path_of(name);
        durable::sync_parent(&path).map_err(failed("sync the directory of", &path))
    }

    /// Creates the directory and syncs the whole way down to it, once per process: an existing directory may have been
    /// created by a process that crashed, or by a thread that has not come to its sync yet.
    fn make_durable_directory(&self, directory: &Path) -> Result<(), StagingError> {
        let known = self.durable.lock().contains(directory);
        if known && directory.is_dir() {
            return Ok(());
        }
        durable::create_dir_all(directory).map_err(failed("create directory", directory))?;
        for ancestor in directory.ancestors() {
            durable::sync_dir(ancestor).map_err(failed("sync directory", ancestor))?;
            if ancestor == self.root {
                break;
            }
        }
        let mut durable = self.durable.lock();
        if durable.len() >= MAX_DURABLE_DIRECTORIES {
            durable.clear();
        }
        durable.insert(directory.to_owned());
        Ok(())
    }

    fn path_of(&self, name: &ObjectName) -> PathBuf {
        self.root.join(name.as_str())
    }

    fn name_of(&self, path: &Path) -> Option<ObjectName> {
        ObjectName::parse(path.strip_prefix(&self.root).ok()?.to_str()?).ok()
    }
}

/// A file under a name of its own. Removed when it is dropped without having been published.
struct Temporary {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Temporary {
    fn create(directory: &Path, name: &str) -> io::Result<Self> {
        // Two processes may upload the same slice, and one may have crashed doing so: the first free number is ours.
        for number in 0_u64.. {
            let path = directory.join(format!("{name}.{number}"));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    return Ok(Self {
                        path,
                        file,
                        published: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    fn publish(mut self, path: &Path) -> io::Result<Published> {
        self.file.sync_all()?;
        crash::point_at(Point::ObjectSynced, path);
        let published = durable::publish(&self.path, path)?;
        self.published = true;
        Ok(published)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // If it fails, `collect` removes the file later.
            let _ = durable::remove(&self.path);
        }
    }
}

/// The entries of a directory. A missing one has none.
fn entries(directory: &Path) -> Result<Vec<DirEntry>, StagingError> {
    let read = fs::read_dir(directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    match read {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(Vec::new())
        }
        read => read.map_err(failed("list", directory)),
    }
}

/// The metadata of an entry. None: it was removed meanwhile.
fn metadata(entry: &DirEntry) -> Result<Option<Metadata>, StagingError> {
    match entry.metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", &entry.path())(error)),
    }
}

fn modified(metadata: &Metadata) -> io::Result<Timestamp> {
    // Before 1970 is as good as at its beginning.
    let since = metadata
        .modified()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Timestamp::from_millis(0) + since)
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StagingError {
    let path = path.to_owned();
    move |source| StagingError::Io {
        operation,
        path,
        source,
    }
}
