//! Idempotency keys as they travel with a batch: hashes only.
//!
//! The sender makes a [`KeyHash`] of the source and the client's key, so a volume needs to know nothing of either. With it goes
//! a hash of what the key stands for (`body`): the volume remembers it and gives it back, and the sender tells a repetition
//! from a key that is used for something else.

use std::fmt;

use stream_model::{SliceId, VolumeId};

/// The most keys of a batch.
pub const MAX_CLAIMS: usize = 1 << 16;

/// The first 128 bits of a SHA-256 over the source and the key. The first byte is the shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash([u8; 16]);

impl KeyHash {
    /// The hash with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The shard that it belongs to, of 256.
    #[must_use]
    pub const fn shard(self) -> u8 {
        self.0[0]
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// A key of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The key.
    pub key: KeyHash,
    /// 64 bits of a hash over what was sent under the key.
    pub body: u64,
}

/// A key that the volume remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownKey {
    /// Position of its claim in the batch.
    pub position: u32,
    /// The body that it was committed with.
    pub body: u64,
}

/// Says whether a volume may decide about keys at this moment. Asked for each batch with keys while its commit group is put together: it
/// must answer from memory.
pub trait KeyGate: Send + Sync {
    /// Whether a volume may decide about the keys of a batch with rows for that slice. Without, the batch is refused.
    fn may_decide(&self, volume: VolumeId, slice: SliceId, claims: &[Claim]) -> bool;
}
