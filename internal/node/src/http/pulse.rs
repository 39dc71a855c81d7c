//! What a connection has been doing lately. Written by its socket and service, read by its timer.
//!
//! hyper has a timer for headers, but it allocates and registers it anew for every request. Here
//! one timer per connection looks now and then at what the socket and the service have noted down,
//! which costs a request two clock readings and no timer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;

/// How long a client may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// For the head of a request.
    pub header: Duration,
    /// Without a request, and without progress of an answer.
    pub idle: Duration,
}

impl Limits {
    /// How often a connection is looked at.
    pub fn interval(self) -> Duration {
        self.header.min(self.idle)
    }
}

/// All of its writers run in the task of the connection, or with HTTP/2 in those of its streams.
pub(super) struct Pulse {
    opened: Instant,
    /// Requests in the service.
    pub serving: TaskTracker,
    /// When the first byte of the next request came, in milliseconds after `opened`; `NONE` between
    /// requests.
    head: AtomicU64,
    /// When something was last written or a request was complete, in milliseconds after `opened`.
    progress: AtomicU64,
    /// Requests share the connection: bytes that come need not be of a head.
    multiplexed: AtomicBool,
}

const NONE: u64 = u64::MAX;

/// What the timer should do.
pub(super) enum Verdict {
    /// Look again after this time.
    Wait(Duration),
    /// The head of a request takes too long.
    Late,
    /// Nothing happens.
    Idle,
}

impl Pulse {
    pub fn new() -> Self {
        Self {
            opened: Instant::now(),
            serving: TaskTracker::new(),
            // A client that connects and says nothing is late, not idle.
            head: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            multiplexed: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(NONE - 1)
    }

    /// From now on the connection is HTTP/2. A head that does not come to its end is found as idleness.
    pub fn multiplexed(&self) {
        self.multiplexed.store(true, Ordering::Relaxed);
        self.head_complete();
    }

    pub fn bytes_read(&self) {
        if self.head.load(Ordering::Relaxed) == NONE
            && !self.multiplexed.load(Ordering::Relaxed)
            && self.serving.is_empty()
        {
            self.head.store(self.now(), Ordering::Relaxed);
        }
    }

    pub fn bytes_written(&self) {
        self.progress.store(self.now(), Ordering::Relaxed);
    }

    pub fn head_complete(&self) {
        self.head.store(NONE, Ordering::Relaxed);
        self.progress.store(self.now(), Ordering::Relaxed);
    }

    pub fn verdict(&self, limits: Limits) -> Verdict {
        if !self.serving.is_empty() {
            return Verdict::Wait(limits.interval());
        }
        let head = self.head.load(Ordering::Relaxed);
        let (since, limit, over) = if head == NONE {
            (
                self.progress.load(Ordering::Relaxed),
                limits.idle,
                Verdict::Idle,
            )
        } else {
            (head, limits.header, Verdict::Late)
        };
        let passed = Duration::from_millis(self.now().saturating_sub(since));
        match limit.checked_sub(passed) {
            // A rest of less than a millisecond is not worth another look.
            Some(rest) if rest >= Duration::from_millis(1) => {
                Verdict::Wait(rest.min(limits.interval()))
            }
            _ => over,
        }
    }
}
