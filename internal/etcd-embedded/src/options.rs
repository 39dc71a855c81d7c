//! What the caller chooses.

use std::net::SocketAddr;
use std::path::PathBuf;

/// How many revisions of history are kept when nothing else is asked for.
const DEFAULT_KEEP_REVISIONS: u64 = 10_000;

/// Where the server keeps its data and where it listens.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory. Created (for this user only) when missing.
    pub dir: PathBuf,
    /// An additional TCP listener, without encryption or authentication. Default: none.
    pub listen: Option<SocketAddr>,
    /// Revisions of history that are kept for watches and reads in the past. Default 10 000. More costs memory, disk
    /// and start-up time. The history may exceed the number by an eighth, and is also cut at 64 MiB of keys and values.
    pub keep_revisions: u64,
}

impl Options {
    /// The defaults for a data directory: unix socket only.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            listen: None,
            keep_revisions: DEFAULT_KEEP_REVISIONS,
        }
    }
}
