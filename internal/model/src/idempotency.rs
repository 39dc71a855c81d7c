//! Idempotency keys: what a key is the same as, and which volume remembers it.
//!
//! The scope of a key is its source. A key is kept as a hash of both, so nothing of what clients send is stored. The first byte
//! of the hash is the *shard*; each shard belongs to one volume of the source's assignment, so that one place decides whether a key
//! is new. The owner follows from the assignment alone ([`Assigned`]), at first by rendezvous hashing: it is the same for every
//! process and after every restart, and when a volume is forgotten only its own shards move. An assignment must therefore never grow
//! while its source has keys: a volume that is added would take shards over without what is remembered of them.

mod assigned;

pub use assigned::{Assigned, InvalidShards, Moved, Owner, Shards, Yields};

use sha2::{Digest, Sha256};

use crate::id::VolumeId;
use crate::key::SourceKey;

/// Where a key comes from. Keys from different places are never the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The request: its header.
    Request,
    /// The record: the value at the path that the source names.
    Record,
}

/// What becomes of the keys of a volume that is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyMode {
    /// They are refused until it is back.
    #[default]
    Strict,
    /// Other volumes take them over, knowing nothing of those that were used before.
    Available,
}

impl KeyMode {
    /// The name in settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Available => "available",
        }
    }

    /// The mode of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Strict, Self::Available]
            .into_iter()
            .find(|mode| mode.as_str() == name)
    }
}

/// How many records the body of a request stands for. The same bytes may mean one record or many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// One.
    Record,
    /// As many as are in it.
    Batch,
}

/// The hash under which a key is remembered: the first 128 bits of a SHA-256.
#[must_use]
pub fn key_hash(source: &SourceKey, origin: Origin, key: &[u8]) -> [u8; 16] {
    let origin: u8 = match origin {
        Origin::Request => 0,
        Origin::Record => 1,
    };
    let digest = Sha256::new()
        .chain_update(source.to_string())
        .chain_update([0, origin])
        .chain_update(key)
        .finalize();
    digest[..16]
        .try_into()
        .expect("a SHA-256 digest has 32 bytes")
}

/// What a key stands for: 64 bits of a SHA-256 over the decoded body.
#[must_use]
pub fn body_hash(extent: Extent, body: &[u8]) -> u64 {
    let extent: u8 = match extent {
        Extent::Record => 0,
        Extent::Batch => 1,
    };
    let digest = Sha256::new()
        .chain_update([extent])
        .chain_update(body)
        .finalize();
    u64::from_be_bytes(
        digest[..8]
            .try_into()
            .expect("a SHA-256 digest has 32 bytes"),
    )
}

/// The volume that remembers the keys of a shard; none without volumes.
#[must_use]
pub fn owner(source: &SourceKey, shard: u8, volumes: &[VolumeId]) -> Option<VolumeId> {
    if let [only] = volumes {
        return Some(*only);
    }
    let key = format!("{source}/{shard:02x}");
    volumes
        .iter()
        .copied()
        .max_by_key(|volume| (crate::placement::weight(&key, &volume.to_bytes()), *volume))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BranchId, BranchKey, ProjectId};

    fn source(name: &str) -> SourceKey {
        SourceKey {
            branch: BranchKey {
                project: ProjectId(1),
                branch: BranchId(2),
            },
            source: name.parse().expect("valid"),
        }
    }

    fn volumes(count: u8) -> Vec<VolumeId> {
        (0..count).map(|n| VolumeId::from_bytes([n; 16])).collect()
    }

    #[test]
    fn keys_differ_by_source_origin_and_text_and_never_change() {
        let hash = |name, origin, key: &str| key_hash(&source(name), origin, key.as_bytes());
        let known = hash("orders", Origin::Request, "k1");
        // It is on disks: with another hash all keys would be forgotten.
        assert_eq!(
            u128::from_be_bytes(known),
            0x813b_32d0_bd05_6226_74a5_d275_e77f_4c34
        );
        assert_eq!(known, hash("orders", Origin::Request, "k1"));
        assert_ne!(known, hash("orders", Origin::Record, "k1"));
        assert_ne!(known, hash("order", Origin::Request, "k1"));
        assert_ne!(known, hash("orders", Origin::Request, "k2"));
        assert_ne!(
            body_hash(Extent::Record, b"a"),
            body_hash(Extent::Batch, b"a")
        );
        assert_ne!(
            body_hash(Extent::Record, b"a"),
            body_hash(Extent::Record, b"b")
        );
    }

    #[test]
    fn shards_are_spread_and_only_those_of_a_forgotten_volume_move() {
        let (source, all) = (source("orders"), volumes(4));
        let left: Vec<VolumeId> = all.iter().copied().filter(|v| *v != all[1]).collect();
        let mut counts = [0; 4];
        for shard in 0..=255 {
            let before = owner(&source, shard, &all).expect("there are volumes");
            let after = owner(&source, shard, &left).expect("there are volumes");
            counts[usize::from(before.to_bytes()[0])] += 1;
            assert!(before == after || before == all[1], "shard {shard}");
            let mut turned = all.clone();
            turned.rotate_left(1);
            assert_eq!(
                owner(&source, shard, &turned),
                Some(before),
                "the order does not matter"
            );
        }
        assert!(
            counts.iter().all(|count| (30..110).contains(count)),
            "{counts:?}"
        );
        assert_eq!(owner(&source, 7, &all[..1]), Some(all[0]));
        assert_eq!(owner(&source, 7, &[]), None);
    }
}
