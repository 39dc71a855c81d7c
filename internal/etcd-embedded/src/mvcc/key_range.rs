//! etcd's way to name one key, a range of keys, or everything from a key on.

use std::ops::Bound;

/// The end of a range that has no end.
const NO_END: &[u8] = &[0];

/// First and last key of a lookup.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// A set of neighbouring keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyRange {
    Key(Vec<u8>),
    From(Vec<u8>),
    /// `start` included, `end` excluded; empty when `end` is not greater than `start`.
    Span {
        start: Vec<u8>,
        end: Vec<u8>,
    },
}

impl KeyRange {
    /// Reads the pair of fields that every request carries.
    pub(crate) fn new(key: &[u8], range_end: &[u8]) -> Self {
        let start = key.to_vec();
        match range_end {
            [] => Self::Key(start),
            NO_END => Self::From(start),
            end => Self::Span {
                start,
                end: end.to_vec(),
            },
        }
    }

    /// Whether no key can be in it.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Span { start, end } if end <= start)
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => only == key,
            Self::From(start) => key >= start.as_slice(),
            Self::Span { start, end } => key >= start.as_slice() && key < end.as_slice(),
        }
    }

    /// The bounds for a lookup in an ordered map; `None` when the range is empty.
    pub(crate) fn bounds(&self) -> Option<Bounds<'_>> {
        if self.is_empty() {
            return None;
        }
        Some(match self {
            Self::Key(only) => (Bound::Included(only), Bound::Included(only)),
            Self::From(start) => (Bound::Included(start), Bound::Unbounded),
            Self::Span { start, end } => (Bound::Included(start), Bound::Excluded(end)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_three_forms_of_a_range() {
        let one = KeyRange::new(b"b", b"");
        assert!(one.contains(b"b") && !one.contains(b"ba") && !one.contains(b"a"));
        let from = KeyRange::new(b"b", &[0]);
        assert!(from.contains(b"b") && from.contains(b"zz") && !from.contains(b"a"));
        let span = KeyRange::new(b"b", b"d");
        assert!(span.contains(b"b") && span.contains(b"czz") && !span.contains(b"d"));
    }

    #[test]
    fn an_end_before_the_start_is_an_empty_range() {
        for end in [b"a".as_slice(), b"b"] {
            let range = KeyRange::new(b"b", end);
            assert!(range.is_empty() && range.bounds().is_none());
            assert!(!range.contains(b"b") && !range.contains(b"a"));
        }
    }
}
