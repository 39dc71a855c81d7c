//! The unix socket in the data directory.
//!
//! The kernel limits the path of a socket to 107 bytes, which a data directory easily exceeds. A longer path is spelled
//! through an open handle of the directory, `/proc/self/fd/<n>/etcd.sock`, which names the same file.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use tokio::net::UnixStream;

const FILE: &str = "etcd.sock";
const UNFINISHED_FILE: &str = "etcd.sock.new";
/// `sun_path` of Linux, without the final zero.
const MAX_PATH_BYTES: usize = 107;

/// Where the socket is. Keeps the directory open while its path is too long to be named.
#[derive(Debug)]
pub(crate) struct SocketPath {
    dir: PathBuf,
    handle: Option<File>,
}

impl SocketPath {
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        let too_long = dir.join(UNFINISHED_FILE).as_os_str().len() > MAX_PATH_BYTES;
        let handle = if too_long {
            Some(File::open(dir)?)
        } else {
            None
        };
        Ok(Self {
            dir: dir.to_owned(),
            handle,
        })
    }

    /// The path for people.
    pub(crate) fn display(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Binds the socket, for this user only. A file left behind by an earlier process is replaced: the caller holds the
    /// directory, so nobody listens on it.
    pub(crate) fn bind(&self) -> io::Result<UnixListener> {
        let unfinished = self.dir.join(UNFINISHED_FILE);
        remove(&unfinished)?;
        // The final name appears when the mode is right.
        let listener = UnixListener::bind(self.spelled(UNFINISHED_FILE))?;
        fs::set_permissions(&unfinished, Permissions::from_mode(0o600))?;
        fs::rename(&unfinished, self.display())?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    pub(crate) async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.spelled(FILE)).await
    }

    /// Removes the socket, so that clients fail at once and not by a refused connection.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove(&self.display())
    }

    fn spelled(&self, file: &str) -> PathBuf {
        match &self.handle {
            None => self.dir.join(file),
            Some(handle) => {
                let mut path = PathBuf::from("/proc/self/fd");
                path.push(handle.as_raw_fd().to_string());
                path.push(file);
                path
            }
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
