//! Memory that one batch hands to the next, whichever lane it is of.
//!
//! A busy source fills a buffer of up to a megabyte every few milliseconds. Given back to the allocator each time, it costs
//! page faults for every page of every batch, a twentieth of the CPU of an intake of large batches. Kept by each lane, a
//! thousand sources that were busy once would hold a gigabyte. So the process keeps a few large buffers, at most
//! [`MAX_BYTES`] of them, and a lane keeps only what is small.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::mapper::Received;

/// Buffers up to this size stay with their lane.
pub(super) const SMALL_BYTES: usize = 32 << 10;

/// The most memory that is kept of each kind, for batches to come. What fills it: batches that end. What drains it: the
/// first records of batches that are expected to be large.
const MAX_BYTES: usize = 3 << 20;

/// Large buffers without an owner. Clones are handles of the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Spares(Arc<Shelves>);

#[derive(Debug, Default)]
struct Shelves {
    rows: Shelf<u8>,
    records: Shelf<Received>,
}

impl Spares {
    /// Room in `rows` for `expected` bytes.
    pub fn lend_bytes(&self, rows: &mut Vec<u8>, expected: usize) {
        self.0.rows.lend(rows, expected);
    }

    /// Room in `records` for `expected` more.
    pub fn lend_records(&self, records: &mut Vec<Received>, expected: usize) {
        self.0.records.lend(records, expected);
    }

    /// Takes the memory of emptied `rows` unless it is small.
    pub fn take_bytes(&self, rows: &mut Vec<u8>) {
        self.0.rows.take(rows);
    }

    /// Takes the memory of emptied `records` unless it is small.
    pub fn take_records(&self, records: &mut Vec<Received>) {
        self.0.records.take(records);
    }
}

#[derive(Debug)]
struct Shelf<T>(Mutex<Kept<T>>);

#[derive(Debug)]
struct Kept<T> {
    buffers: Vec<Vec<T>>,
    bytes: usize,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self(Mutex::new(Kept {
            buffers: Vec::new(),
            bytes: 0,
        }))
    }
}

impl<T> Shelf<T> {
    fn lend(&self, buffer: &mut Vec<T>, expected: usize) {
        debug_assert!(buffer.is_empty(), "it would be lost");
        if buffer.capacity() < expected && expected * size_of::<T>() > SMALL_BYTES {
            let mut kept = self.0.lock();
            // The latest one: it is most likely still in the caches of the processor.
            if let Some(large) = kept.buffers.pop() {
                kept.bytes -= bytes(&large);
                drop(kept);
                *buffer = large;
            }
        }
        buffer.reserve(expected);
    }

    fn take(&self, buffer: &mut Vec<T>) {
        debug_assert!(buffer.is_empty(), "it would be written again");
        let size = bytes(buffer);
        if size <= SMALL_BYTES {
            return;
        }
        let large = std::mem::take(buffer);
        let mut kept = self.0.lock();
        if kept.bytes + size <= MAX_BYTES {
            kept.bytes += size;
            kept.buffers.push(large);
        }
    }
}

fn bytes<T>(buffer: &Vec<T>) -> usize {
    buffer.capacity() * size_of::<T>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_goes_from_one_batch_to_the_next() {
        let spares = Spares::default();
        let mut rows = Vec::with_capacity(1 << 20);
        let place = rows.as_ptr();
        spares.take_bytes(&mut rows);
        assert_eq!(rows.capacity(), 0);
        spares.clone().lend_bytes(&mut rows, 600 << 10);
        assert_eq!((rows.as_ptr(), rows.len()), (place, 0));
        let mut other = Vec::new();
        spares.lend_bytes(&mut other, 600 << 10);
        assert_ne!(other.as_ptr(), place, "one batch at a time");
    }

    #[test]
    fn a_small_buffer_stays_and_a_small_batch_takes_no_large_one() {
        let spares = Spares::default();
        let mut rows = Vec::with_capacity(SMALL_BYTES);
        spares.take_bytes(&mut rows);
        assert_eq!(rows.capacity(), SMALL_BYTES);
        spares.take_bytes(&mut Vec::with_capacity(1 << 20));
        let mut small = Vec::new();
        spares.lend_bytes(&mut small, 100);
        assert!(small.capacity() < SMALL_BYTES);
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let spares = Spares::default();
        for _ in 0..100 {
            spares.take_bytes(&mut Vec::with_capacity(1 << 20));
            spares.take_bytes(&mut Vec::with_capacity(MAX_BYTES + 1));
        }
        let kept = spares.0.rows.0.lock();
        assert_eq!(kept.bytes, MAX_BYTES);
        assert_eq!(kept.buffers.iter().map(bytes).sum::<usize>(), MAX_BYTES);
    }
}
