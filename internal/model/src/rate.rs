//! How much a source may take in a second.
//!
//! A limit is for each process with the component `http-source`: replicas do not know of each other, so what all of them
//! take together is at most their number times the limit.

use std::num::NonZeroU64;

/// The limits of one source. None: as much as there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimit {
    /// Records in a second.
    pub records: Option<NonZeroU64>,
    /// Bytes of bodies in a second, after decoding.
    pub bytes: Option<NonZeroU64>,
}

impl RateLimit {
    /// The most records in a second that can be set.
    pub const MAX_RECORDS: u64 = 10_000_000;
    /// The least bytes in a second that can be set.
    pub const MIN_BYTES: u64 = 1 << 10;
    /// The most bytes in a second that can be set.
    pub const MAX_BYTES: u64 = 10 << 30;

    /// Limits from numbers of which zero means none.
    #[must_use]
    pub const fn new(records: u64, bytes: u64) -> Self {
        Self {
            records: NonZeroU64::new(records),
            bytes: NonZeroU64::new(bytes),
        }
    }

    /// Records in a second; zero for no limit.
    #[must_use]
    pub fn records_or_zero(&self) -> u64 {
        self.records.map_or(0, NonZeroU64::get)
    }

    /// Bytes in a second; zero for no limit.
    #[must_use]
    pub fn bytes_or_zero(&self) -> u64 {
        self.bytes.map_or(0, NonZeroU64::get)
    }
}
