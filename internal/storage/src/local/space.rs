//! What the slices of a volume occupy, in all and for each sink, and how much that may be.
//!
//! A slice counts with its file and with the frames that are committed and not in the file yet: with what it will occupy
//! until it is released. Counted up as frames are committed, and anew every second, because a file becomes smaller than the
//! frames that it is made of. Part of the index, so its lock is the only one that a commit takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use stream_model::SinkKey;

use super::index::Slice;

/// The most that may be occupied. None: as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// By journal segments in use and slices together, in bytes.
    pub volume: Option<u64>,
    /// By the slices of one sink, in bytes.
    pub sink: Option<u64>,
}

/// A sink with slices on the volume.
#[derive(Debug)]
pub(super) struct SinkSpace {
    sink: SinkKey,
    bytes: AtomicU64,
    /// Whether it was at its limit when it was last looked at.
    at_limit: AtomicBool,
}

/// What the slices of a volume occupy.
#[derive(Debug, Default)]
pub(super) struct Space {
    limits: Limits,
    slices: u64,
    sinks: BTreeMap<SinkKey, Arc<SinkSpace>>,
}

/// A sink that has reached its limit since the last look, or is below it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turned {
    pub sink: SinkKey,
    pub bytes: u64,
    pub at_limit: bool,
}

impl SinkSpace {
    /// Notes bytes that were added to one of its slices.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Space {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// What all slices occupy, in bytes.
    pub const fn bytes(&self) -> u64 {
        self.slices
    }

    /// Where the bytes of a sink are counted.
    pub fn of_sink(&mut self, sink: &SinkKey) -> Arc<SinkSpace> {
        if let Some(known) = self.sinks.get(sink) {
            return Arc::clone(known);
        }
        let new = Arc::new(SinkSpace {
            sink: sink.clone(),
            bytes: AtomicU64::new(0),
            at_limit: AtomicBool::new(false),
        });
        self.sinks.insert(sink.clone(), Arc::clone(&new));
        new
    }

    /// Notes bytes that were added to a slice.
    pub fn add(&mut self, sink: Option<&Arc<SinkSpace>>, bytes: u64) {
        self.slices += bytes;
        if let Some(sink) = sink {
            sink.add(bytes);
        }
    }

    /// Notes that a slice is gone.
    pub fn remove(&mut self, slice: &Slice) {
        let bytes = slice.occupied();
        self.slices = self.slices.saturating_sub(bytes);
        if let Some(sink) = &slice.space {
            let left = sink.bytes().saturating_sub(bytes);
            sink.bytes.store(left, Ordering::Relaxed);
        }
    }

    /// Counts anew. Sinks without slices are forgotten.
    pub fn recount<'a>(&mut self, slices: impl Iterator<Item = &'a Slice>) {
        for sink in self.sinks.values() {
            sink.bytes.store(0, Ordering::Relaxed);
        }
        self.slices = 0;
        for slice in slices {
            self.add(slice.space.as_ref(), slice.occupied());
        }
        self.sinks.retain(|_, sink| Arc::strong_count(sink) > 1);
    }

    /// Whether the volume has reached its limit, together with a journal of so many bytes.
    pub fn is_full(&self, journal: u64) -> bool {
        let most = self.limits.volume.unwrap_or(u64::MAX);
        self.slices.saturating_add(journal) >= most
    }

    /// Whether the sink of a slice has reached its limit.
    pub fn is_sink_full(&self, slice: &Slice) -> bool {
        let most = self.limits.sink.unwrap_or(u64::MAX);
        slice
            .space
            .as_ref()
            .is_some_and(|sink| sink.bytes() >= most)
    }

    /// How many sinks are at their limit, and those for which that has changed since it was last asked.
    pub fn look(&self) -> (usize, Vec<Turned>) {
        let Some(most) = self.limits.sink else {
            return (0, Vec::new());
        };
        let (mut count, mut turned) = (0, Vec::new());
        for sink in self.sinks.values() {
            let at_limit = sink.bytes() >= most;
            count += usize::from(at_limit);
            if sink.at_limit.swap(at_limit, Ordering::Relaxed) != at_limit {
                turned.push(Turned {
                    sink: sink.sink.clone(),
                    bytes: sink.bytes(),
                    at_limit,
                });
            }
        }
        (count, turned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stream_model::level::Compression;

    fn sink(name: &str) -> SinkKey {
        let key = format!(r#"{{"project":1,"branch":1,"source":"source","sink":"{name}"}}"#);
        serde_json::from_str(&key).expect("it is a key")
    }

    fn slice(space: &mut Space, name: &str, bytes: u64) -> Slice {
        let mut slice = Slice::new(Compression::None);
        slice.space = Some(space.of_sink(&sink(name)));
        slice.file_len = bytes;
        space.add(slice.space.as_ref(), bytes);
        slice
    }

    #[test]
    fn a_sink_is_full_alone_and_no_more_when_its_slices_are_gone() {
        let mut space = Space::new(Limits {
            volume: Some(1000),
            sink: Some(100),
        });
        let (a, b) = (slice(&mut space, "a", 60), slice(&mut space, "b", 60));
        assert!(!space.is_sink_full(&a));
        let second = slice(&mut space, "a", 40);
        assert!(space.is_sink_full(&a) && space.is_sink_full(&second));
        assert!(!space.is_sink_full(&b));
        let (count, turned) = space.look();
        assert_eq!((count, turned.len(), turned[0].bytes), (1, 1, 100));
        assert_eq!(space.look(), (1, vec![]));
        space.remove(&a);
        drop(a);
        assert!(!space.is_sink_full(&second));
        let (count, turned) = space.look();
        assert_eq!((count, turned[0].at_limit), (0, false));
    }

    #[test]
    fn the_volume_is_full_by_its_slices_and_its_journal() {
        let mut space = Space::new(Limits {
            volume: Some(100),
            sink: None,
        });
        let a = slice(&mut space, "a", 60);
        assert!(!space.is_full(39) && space.is_full(40));
        assert!(!space.is_sink_full(&a));
    }

    #[test]
    fn a_recount_takes_files_that_became_smaller_and_forgets_sinks_without_slices() {
        let mut space = Space::new(Limits::default());
        let mut a = slice(&mut space, "a", 60);
        let b = slice(&mut space, "b", 5);
        a.file_len = 10;
        drop(b);
        space.recount([&a].into_iter());
        assert_eq!((space.bytes(), space.sinks.len()), (10, 1));
    }
}
