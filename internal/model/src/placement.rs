//! Who gets what: sources to volumes, work to coordinator replicas. Both by rendezvous hashing.
//!
//! Rendezvous (highest random weight) hashing: every candidate gets a weight from the hash of (key, candidate), the highest
//! wins. When a candidate leaves, only what it held moves. Source: Thaler and Ravishankar, "Using name-based mappings to
//! increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998.

use sha2::{Digest, Sha256};

use crate::id::VolumeId;
use crate::level::Assignment;

/// A volume that could take slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The volume.
    pub volume: VolumeId,
    /// Its type: the name of the directory above it.
    pub kind: String,
}

pub(crate) fn weight(key: &str, candidate: &[u8]) -> u64 {
    let digest = Sha256::new()
        .chain_update(key.as_bytes())
        .chain_update([0])
        .chain_update(candidate)
        .finalize();
    u64::from_be_bytes(
        digest[..8]
            .try_into()
            .expect("a SHA-256 digest has 32 bytes"),
    )
}

/// Chooses the volumes of a source: preferred types first, in their order, then any other.
#[must_use]
pub fn assign(key: &str, assignment: &Assignment, candidates: &[Candidate]) -> Vec<VolumeId> {
    let preference = |kind: &str| {
        assignment
            .preferred_types
            .iter()
            .position(|t| t == kind)
            .unwrap_or(assignment.preferred_types.len())
    };
    let mut ranked: Vec<_> = candidates
        .iter()
        .map(|c| {
            (
                preference(&c.kind),
                std::cmp::Reverse(weight(key, &c.volume.to_bytes())),
                c.volume,
            )
        })
        .collect();
    ranked.sort_unstable();
    let count = usize::try_from(assignment.count).unwrap_or(usize::MAX);
    ranked
        .into_iter()
        .take(count)
        .map(|(_, _, volume)| volume)
        .collect()
}

/// The replica that is responsible for `key`, out of the live ones. None when none is live.
#[must_use]
pub fn owner<'a>(key: &str, replicas: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    replicas
        .into_iter()
        .max_by_key(|replica| (weight(key, replica.as_bytes()), *replica))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(n: u8) -> Vec<Candidate> {
        (0..n)
            .map(|i| Candidate {
                volume: VolumeId::from_bytes([i; 16]),
                kind: if i < 2 { "ssd" } else { "hdd" }.to_owned(),
            })
            .collect()
    }

    #[test]
    fn preferred_types_come_first() {
        let assignment = Assignment {
            count: 3,
            preferred_types: vec!["hdd".to_owned()],
        };
        let volumes = assign("1/1/orders", &assignment, &candidates(4));
        assert_eq!(volumes.len(), 3);
        assert!(volumes[..2].iter().all(|v| v.to_bytes()[0] >= 2));
        assert_eq!(assign("1/1/orders", &assignment, &candidates(1)).len(), 1);
    }

    #[test]
    fn a_leaving_replica_moves_only_its_own_work() {
        let all = ["a", "b", "c", "d"];
        let keys: Vec<String> = (0..200).map(|i| format!("1/1/source-{i}")).collect();
        for key in &keys {
            let before = owner(key, all).expect("some replica is live");
            let after =
                owner(key, all.into_iter().filter(|r| *r != "b")).expect("some replica is live");
            assert!(
                before == after || before == "b",
                "{key} moved from {before} to {after}"
            );
        }
        let of_b = keys
            .iter()
            .filter(|key| owner(key, all) == Some("b"))
            .count();
        assert!((20..=80).contains(&of_b), "{of_b} of 200");
        assert_eq!(owner("x", []), None);
    }
}
