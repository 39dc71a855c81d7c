//! One change as bytes.
//!
//! ```text
//! u32  checksum (CRC-32C over revision, position and everything below)
//! u8   kind: 1 = set, 2 = deleted
//! u32  length of the key, then the key
//! set only: i64 create revision, i64 version, i64 lease, then the value up to the end
//! ```
//!
//! Integers are little-endian. redb verifies its own checksums only after an unclean stop, hence the one here.

use std::sync::Arc;

use crate::mvcc::{Change, Live, RowId};

const KIND_SET: u8 = 1;
const KIND_DELETED: u8 = 2;
const CHECKSUM_BYTES: usize = 4;

pub(super) fn encode(change: &Change) -> Vec<u8> {
    let mut row = Vec::with_capacity(change.size());
    row.extend_from_slice(&[0; CHECKSUM_BYTES]);
    row.push(if change.after.is_some() {
        KIND_SET
    } else {
        KIND_DELETED
    });
    let length = u32::try_from(change.key.len()).expect("a key is shorter than a request");
    row.extend_from_slice(&length.to_le_bytes());
    row.extend_from_slice(&change.key);
    if let Some(live) = &change.after {
        row.extend_from_slice(&live.create_revision.to_le_bytes());
        row.extend_from_slice(&live.version.to_le_bytes());
        row.extend_from_slice(&live.lease.to_le_bytes());
        row.extend_from_slice(&live.value);
    }
    let checksum = checksum((change.revision, change.position), &row[CHECKSUM_BYTES..]);
    row[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    row
}

pub(super) fn decode(id: RowId, bytes: &[u8]) -> Result<Change, &'static str> {
    let mut rest = bytes;
    let stored = u32::from_le_bytes(take(&mut rest)?);
    if stored != checksum(id, rest) {
        return Err("the checksum does not match");
    }
    let [kind] = take(&mut rest)?;
    let length = u32::from_le_bytes(take(&mut rest)?) as usize;
    let (key, mut rest) = rest.split_at_checked(length).ok_or(TOO_SHORT)?;
    let after = match kind {
        KIND_SET => Some(Live {
            create_revision: i64::from_le_bytes(take(&mut rest)?),
            version: i64::from_le_bytes(take(&mut rest)?),
            lease: i64::from_le_bytes(take(&mut rest)?),
            value: rest.to_vec(),
        }),
        KIND_DELETED => None,
        _ => return Err("the kind of change is unknown"),
    };
    Ok(Change {
        revision: id.0,
        position: id.1,
        key: Arc::from(key),
        after,
    })
}

const TOO_SHORT: &str = "the row is too short";

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], &'static str> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(TOO_SHORT)?;
    *rest = tail;
    Ok(*head)
}

/// Covers the identity too: a row that turns up under another revision is as wrong as a changed one.
fn checksum((revision, position): RowId, row: &[u8]) -> u32 {
    let start = crc32c::crc32c(&revision.to_le_bytes());
    let start = crc32c::crc32c_append(start, &position.to_le_bytes());
    crc32c::crc32c_append(start, row)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(value: &[u8]) -> Change {
        Change {
            revision: 7,
            position: 1,
            key: Arc::from(&b"key"[..]),
            after: Some(Live {
                create_revision: 5,
                version: 2,
                lease: 9,
                value: value.to_vec(),
            }),
        }
    }

    #[test]
    fn layout_is_the_documented_one() {
        let mut expected = vec![KIND_SET, 3, 0, 0, 0];
        expected.extend_from_slice(b"key");
        for number in [5_i64, 2, 9] {
            expected.extend_from_slice(&number.to_le_bytes());
        }
        expected.extend_from_slice(b"value");
        let row = encode(&set(b"value"));
        assert_eq!(&row[CHECKSUM_BYTES..], expected);
        assert_eq!(row[..CHECKSUM_BYTES], GOLDEN_CHECKSUM.to_le_bytes());
    }

    /// Of the row above. A change means that files written before can no longer be read.
    const GOLDEN_CHECKSUM: u32 = 0x7f3a_2884;

    #[test]
    fn a_deletion_has_only_a_key() {
        let deleted = Change {
            after: None,
            ..set(b"")
        };
        assert_eq!(decode((7, 1), &encode(&deleted)), Ok(deleted));
    }

    #[test]
    fn a_row_under_another_revision_is_damage() {
        let row = encode(&set(b"value"));
        assert!(decode((7, 1), &row).is_ok());
        assert!(decode((8, 1), &row).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn any_flipped_bit_is_found(
            value in prop::collection::vec(any::<u8>(), 0..64),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let mut row = encode(&set(&value));
            let index = at.index(row.len());
            row[index] ^= 1u8 << bit;
            prop_assert!(decode((7, 1), &row).is_err());
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            // Past the checksum too, which random bytes never get.
            let mut row = checksum((1, 0), &bytes).to_le_bytes().to_vec();
            row.extend_from_slice(&bytes);
            let _ = decode((1, 0), &row);
            let _ = decode((1, 0), &bytes);
        }
    }
}
