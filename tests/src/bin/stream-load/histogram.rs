//! Latencies in buckets that grow with them: three significant digits from a microsecond to an hour.

use std::time::Duration;

/// Buckets per power of two: half of them tell values apart to one in 1024.
const SUB_BITS: u32 = 11;
const SUB: u64 = 1 << SUB_BITS;
const HALF: u64 = SUB / 2;
/// Beyond this all values are the same.
const MAX_MICROS: u64 = 3_600_000_000;

/// Counts of latencies. Memory does not depend on how many there are.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    /// Without latencies.
    pub fn new() -> Self {
        Self {
            buckets: vec![0; index(MAX_MICROS) + 1],
            count: 0,
            max: 0,
        }
    }

    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.buckets[index(micros.min(MAX_MICROS))] += 1;
        self.count += 1;
        self.max = self.max.max(micros);
    }

    /// How many were counted.
    #[cfg(test)]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The largest, exactly.
    pub const fn max(&self) -> Duration {
        Duration::from_micros(self.max)
    }

    /// The latency that so many of a thousand stay below, at most one in 1024 too large. Zero without latencies.
    pub fn per_mille(&self, per_mille: u64) -> Duration {
        let wanted = (self.count * per_mille).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_micros(highest(index).min(self.max));
            }
        }
        Duration::ZERO
    }
}

/// The bucket of a value. Below [`SUB`] each value has its own; above, each power of two has [`HALF`] of them.
fn index(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(SUB_BITS);
    let index = (value >> shift) + u64::from(shift) * HALF;
    usize::try_from(index).unwrap_or(usize::MAX)
}

/// The highest value of a bucket.
fn highest(index: usize) -> u64 {
    let index = index as u64;
    if index < SUB {
        return index;
    }
    let shift = (index - HALF) / HALF;
    let value = index - shift * HALF;
    ((value + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_in_a_bucket_of_three_digits() {
        let mut previous = 0;
        for value in (0..100_000).chain((100_000..MAX_MICROS).step_by(999_983)) {
            let bucket = index(value);
            assert!(bucket >= previous, "{value}");
            previous = bucket;
            let top = highest(bucket);
            assert!(
                top >= value && (top - value) * 1_000 <= value,
                "{value} is shown as {top}"
            );
        }
    }

    #[test]
    fn buckets_have_no_gaps() {
        for bucket in 1..index(MAX_MICROS) {
            assert_eq!(index(highest(bucket - 1) + 1), bucket);
        }
    }

    #[test]
    fn percentiles_of_known_latencies() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.per_mille(500), Duration::ZERO);
        for millis in 1..=1_000 {
            histogram.record(Duration::from_millis(millis));
        }
        let close = |found: Duration, millis: u64| {
            let micros = u64::try_from(found.as_micros()).expect("it fits");
            assert!(
                micros >= millis * 1_000 && micros <= millis * 1_001,
                "{found:?} for {millis}"
            );
        };
        close(histogram.per_mille(500), 500);
        close(histogram.per_mille(990), 990);
        close(histogram.per_mille(999), 999);
        assert_eq!(histogram.per_mille(1_000), Duration::from_secs(1));
        assert_eq!(histogram.max(), Duration::from_secs(1));
        histogram.record(Duration::from_secs(1 << 40));
        assert_eq!(histogram.count(), 1_001);
    }
}
