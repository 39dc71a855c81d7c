//! A Bloom filter over key hashes: says of most keys that are not in a run that they are not, without a look at the disk.
//!
//! Twelve bits and six probes per key: one new key in about 300 is looked for in vain in each run. The probes are made of the two
//! halves of the hash (Kirsch and Mitzenmacher, "Less Hashing, Same Performance", 2006), which is as good as random already.

use crate::wire::KeyHash;

const BITS_PER_KEY: u64 = 12;
const PROBES: u64 = 6;

/// The filter of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bloom {
    words: Vec<u64>,
}

impl Bloom {
    /// An empty filter for so many keys.
    pub fn with_room_for(keys: u64) -> Self {
        let words = (keys * BITS_PER_KEY).div_ceil(64).max(1);
        Self {
            words: vec![0; usize::try_from(words).expect("a run has at most some million keys")],
        }
    }

    /// The filter with these words; none when there are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let words = bytes.as_chunks::<8>().0.iter();
        let words: Vec<u64> = words.map(|word| u64::from_le_bytes(*word)).collect();
        (!words.is_empty()).then_some(Self { words })
    }

    /// Its words, little-endian.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    pub fn insert(&mut self, key: KeyHash) {
        for bit in self.probes(key) {
            self.words[bit / 64] |= 1 << (bit % 64);
        }
    }

    /// Whether the key may be there. False is certain.
    pub fn may_contain(&self, key: KeyHash) -> bool {
        self.probes(key)
            .all(|bit| self.words[bit / 64] & (1 << (bit % 64)) != 0)
    }

    fn probes(&self, key: KeyHash) -> impl Iterator<Item = usize> + use<> {
        let bits = 64 * self.words.len() as u64;
        let key = u128::from_be_bytes(key.to_bytes());
        // The low half: the high one begins with the shard, of which a volume may see few.
        let (first, step) = (key as u64, (key >> 64) as u64 | 1);
        (0..PROBES).map(move |probe| {
            let hash = first.wrapping_add(step.wrapping_mul(probe));
            // Less than the number of bits, which is that of a vector in memory.
            ((u128::from(hash) * u128::from(bits)) >> 64) as usize
        })
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn key(number: u32) -> KeyHash {
        let digest = Sha256::digest(number.to_le_bytes());
        KeyHash::from_bytes(digest[..16].try_into().expect("16 bytes"))
    }

    #[test]
    fn every_key_is_found_and_few_others_are() {
        let mut bloom = Bloom::with_room_for(10_000);
        (0..10_000).for_each(|number| bloom.insert(key(number)));
        assert!((0..10_000).all(|number| bloom.may_contain(key(number))));
        let wrong = (10_000..60_000).filter(|number| bloom.may_contain(key(*number)));
        let wrong = wrong.count();
        assert!(wrong < 400, "{wrong} of 50000");
        let read = Bloom::from_bytes(&bloom.to_bytes()).expect("words");
        assert_eq!(read, bloom);
        assert_eq!(Bloom::from_bytes(&[]), None);
    }
}
