//! Figures about a server, for whoever watches over it. Reading them waits for nothing but a short lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::shared::Shared;

/// Figures of one moment. Those that only rise begin at zero when the directory is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// The newest durable revision.
    pub revision: i64,
    /// The oldest revision that can be read; -1 before the first compaction.
    pub compacted: i64,
    /// Keys that exist.
    pub live_keys: usize,
    /// Changes since the last compaction. [`crate::Options::keep_revisions`] bounds their revisions.
    pub history_changes: usize,
    /// Roughly what these changes occupy in memory.
    pub history_bytes: usize,
    /// Roughly what all keys, values and the history occupy in memory, and at least on disk.
    pub used_bytes: usize,
    /// Length of the database file.
    pub database_bytes: u64,
    /// Length of the file that is kept for a full disk; 0 once it was given up.
    pub ballast_bytes: u64,
    /// Commits that changed something, each with one sync of the disk. Only rises.
    pub commits: u64,
    /// The time they took. Only rises; divided by the commits, a rise means that the disk has become slow.
    pub commit_time: Duration,
    /// The longest of them.
    pub longest_commit: Duration,
    /// Requests that these commits answered. Only rises; divided by the commits, it is the size of a group.
    pub committed_requests: u64,
    /// Watches.
    pub watchers: usize,
    /// Leases that are neither revoked nor expired.
    pub leases: usize,
    /// Bytes of requests that wait for the writer or are under way; callers wait when they reach 32 MiB.
    pub waiting_bytes: usize,
}

/// Reads the figures of a server, also while it runs. Keeps its memory, but not its directory.
#[derive(Clone)]
pub struct Observer(pub(crate) Arc<Shared>);

impl std::fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Observer").finish()
    }
}

impl Observer {
    /// The figures of this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.0;
        let (extent, revision, compacted, leases) = {
            let state = shared.state.read();
            (
                state.store.extent(),
                state.durable,
                state.store.compacted(),
                state.leases.count(),
            )
        };
        let commits = *shared.commits.lock();
        Stats {
            revision,
            compacted,
            live_keys: extent.live_keys,
            history_changes: extent.history_changes,
            history_bytes: extent.history_bytes,
            used_bytes: extent.bytes,
            database_bytes: commits.database_bytes,
            ballast_bytes: commits.ballast_bytes,
            commits: commits.count,
            commit_time: commits.time,
            longest_commit: commits.longest,
            committed_requests: commits.requests,
            watchers: shared.watchers.0.load(Ordering::Relaxed),
            leases,
            waiting_bytes: shared.queue.waiting_bytes(),
        }
    }
}

/// What the writer tells about its commits.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Commits {
    pub(crate) count: u64,
    pub(crate) time: Duration,
    pub(crate) longest: Duration,
    pub(crate) requests: u64,
    pub(crate) database_bytes: u64,
    pub(crate) ballast_bytes: u64,
}

impl Commits {
    /// `bytes` are those of the database and of the ballast.
    pub(crate) fn add(&mut self, took: Duration, requests: usize, bytes: (u64, u64)) {
        self.count += 1;
        self.time += took;
        self.longest = self.longest.max(took);
        self.requests += requests as u64;
        (self.database_bytes, self.ballast_bytes) = bytes;
    }
}

/// Counts watches.
#[derive(Debug, Default, Clone)]
pub(crate) struct WatcherCount(Arc<AtomicUsize>);

/// One watch, as long as it exists.
#[derive(Debug)]
pub(crate) struct CountedWatcher(WatcherCount);

impl WatcherCount {
    pub(crate) fn add(&self) -> CountedWatcher {
        self.0.fetch_add(1, Ordering::Relaxed);
        CountedWatcher(self.clone())
    }
}

impl Drop for CountedWatcher {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
