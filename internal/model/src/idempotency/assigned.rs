//! The volumes of a source, and which of them decides about which of its keys.
//!
//! Without anything else the hash says it ([`super::owner`]). When a volume is away, others may take its shards over if it has agreed to
//! that before: it stands in [`Assigned::yielding`], and decides about keys only while it can be sure that it is not taken for
//! away. Whoever takes shards over knows nothing of their keys, so a promise for such a shard reaches back to that moment at most
//! ([`Owner::since`]).
//!
//! Pure: who is away, and when that counts, is up to the writers.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::VolumeId;
use crate::key::SourceKey;
use crate::time::Timestamp;

/// Moves that are remembered one by one. Beyond that only the newest of each volume is, which shortens promises and breaks none.
const MAX_MOVED: usize = 16;

/// The volumes of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assigned {
    /// The volumes.
    pub volumes: Vec<VolumeId>,
    /// Those whose shards others may take over while they are away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub yielding: Vec<VolumeId>,
    /// Shards that were taken over. No shard occurs twice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<Moved>,
}

/// Shards that were taken over by a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    /// The volume that decides about them now.
    pub to: VolumeId,
    /// Since when.
    pub since: Timestamp,
    /// The shards.
    pub shards: Shards,
}

/// Who decides about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The volume.
    pub volume: VolumeId,
    /// Since when it does, when it has not always done.
    pub since: Option<Timestamp>,
}

/// A set of shards.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shards([u64; 4]);

impl Shards {
    /// Whether it holds that shard.
    #[must_use]
    pub const fn contains(self, shard: u8) -> bool {
        self.0[shard as usize / 64] & (1 << (shard % 64)) != 0
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn insert(&mut self, shard: u8) {
        self.0[usize::from(shard / 64)] |= 1 << (shard % 64);
    }

    fn remove(&mut self, shard: u8) {
        self.0[usize::from(shard / 64)] &= !(1 << (shard % 64));
    }

    fn join(&mut self, other: Self) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own |= other;
        }
    }
}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from(*self))
    }
}

impl From<Shards> for String {
    /// 64 hexadecimal digits, shard 0 first.
    fn from(shards: Shards) -> Self {
        let words = shards.0.iter().map(|word| word.reverse_bits());
        words.map(|word| format!("{word:016x}")).collect()
    }
}

/// A text that is no set of shards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not 64 hexadecimal digits")]
pub struct InvalidShards(String);

impl TryFrom<String> for Shards {
    type Error = InvalidShards;

    fn try_from(text: String) -> Result<Self, InvalidShards> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 64 || !text.bytes().all(is_hex) {
            return Err(InvalidShards(text));
        }
        let mut words = [0; 4];
        for (at, word) in (0..).step_by(16).zip(&mut words) {
            let parsed = u64::from_str_radix(&text[at..at + 16], 16);
            *word = parsed
                .map_err(|_| InvalidShards(text.clone()))?
                .reverse_bits();
        }
        Ok(Self(words))
    }
}

impl Assigned {
    /// These volumes, of which none has ever been away.
    #[must_use]
    pub fn to(volumes: Vec<VolumeId>) -> Self {
        Self {
            volumes,
            ..Self::default()
        }
    }

    /// Who decides about the keys of a shard; nobody without volumes.
    #[must_use]
    pub fn owner(&self, source: &SourceKey, shard: u8) -> Option<Owner> {
        let mut moved = self.moved.iter();
        let moved = moved.find(|moved| moved.shards.contains(shard));
        if let Some(moved) = moved.filter(|moved| self.volumes.contains(&moved.to)) {
            return Some(Owner {
                volume: moved.to,
                since: Some(moved.since),
            });
        }
        let volume = super::owner(source, shard, &self.volumes)?;
        Some(Owner {
            volume,
            since: None,
        })
    }

    /// Whether others may decide in the place of a volume while it is away.
    #[must_use]
    pub fn yields(&self, volume: VolumeId) -> bool {
        self.yielding.contains(&volume)
    }

    /// The same where a volume yields, or does not.
    #[must_use]
    pub fn with_yielding(&self, volume: VolumeId, yields: Yields) -> Self {
        let mut new = self.clone();
        new.yielding.retain(|other| *other != volume);
        if yields == Yields::WhileAway {
            new.yielding.push(volume);
            new.yielding.sort_unstable();
        }
        new
    }

    /// The shards of a volume.
    #[must_use]
    pub fn shards_of(&self, source: &SourceKey, volume: VolumeId) -> Shards {
        let mut shards = Shards::default();
        for shard in 0..=u8::MAX {
            if self
                .owner(source, shard)
                .is_some_and(|it| it.volume == volume)
            {
                shards.insert(shard);
            }
        }
        shards
    }

    /// The same once `others` have taken over all shards of a volume, at that time. None when it has none or there is nobody else.
    #[must_use]
    pub fn taken_over(
        &self,
        source: &SourceKey,
        from: VolumeId,
        others: &[VolumeId],
        since: Timestamp,
    ) -> Option<Self> {
        let is_other = |volume: &&VolumeId| **volume != from && self.volumes.contains(volume);
        let others: Vec<VolumeId> = others.iter().filter(is_other).copied().collect();
        let shards = self.shards_of(source, from);
        if others.is_empty() || shards.is_empty() {
            return None;
        }
        let mut taken: BTreeMap<VolumeId, Shards> = BTreeMap::new();
        let mut new = self.clone();
        for shard in (0..=u8::MAX).filter(|shard| shards.contains(*shard)) {
            for moved in &mut new.moved {
                moved.shards.remove(shard);
            }
            let to = super::owner(source, shard, &others)?;
            taken.entry(to).or_default().insert(shard);
        }
        new.moved.retain(|moved| !moved.shards.is_empty());
        let taken = taken.into_iter();
        new.moved
            .extend(taken.map(|(to, shards)| Moved { to, since, shards }));
        new.bound();
        Some(new)
    }

    /// The same without a volume that is lost for good, whose shards the others take over.
    #[must_use]
    pub fn without(&self, source: &SourceKey, volume: VolumeId, at: Timestamp) -> Self {
        let taken = self.taken_over(source, volume, &self.volumes, at);
        let mut new = taken.unwrap_or_else(|| self.clone());
        new.volumes.retain(|other| *other != volume);
        new.yielding.retain(|other| *other != volume);
        new
    }

    fn bound(&mut self) {
        if self.moved.len() <= MAX_MOVED {
            return;
        }
        let mut merged: BTreeMap<VolumeId, Moved> = BTreeMap::new();
        for moved in self.moved.drain(..) {
            match merged.get_mut(&moved.to) {
                Some(known) => {
                    known.since = known.since.max(moved.since);
                    known.shards.join(moved.shards);
                }
                None => drop(merged.insert(moved.to, moved)),
            }
        }
        self.moved = merged.into_values().collect();
    }
}

/// Whether others may decide in the place of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Yields {
    /// While it is away.
    WhileAway,
    /// Never: its keys are refused then.
    Never,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{BranchId, BranchKey, ProjectId};

    fn source() -> SourceKey {
        SourceKey {
            branch: BranchKey {
                project: ProjectId(1),
                branch: BranchId(2),
            },
            source: "orders".parse().expect("valid"),
        }
    }

    fn volume(number: u8) -> VolumeId {
        VolumeId::from_bytes([number; 16])
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn owners(assigned: &Assigned) -> Vec<Owner> {
        let owner = |shard| assigned.owner(&source(), shard).expect("there are volumes");
        (0..=u8::MAX).map(owner).collect()
    }

    #[test]
    fn all_shards_of_one_that_is_away_go_to_the_others_and_stay_there() {
        let before = Assigned::to(vec![volume(1), volume(2), volume(3)]);
        let live = [volume(2), volume(3)];
        let after = before
            .taken_over(&source(), volume(1), &live, at(5))
            .expect("it has shards");
        let mut counts = [0; 4];
        for (old, new) in owners(&before).iter().zip(owners(&after)) {
            if old.volume == volume(1) {
                assert_ne!(new.volume, volume(1));
                assert_eq!(new.since, Some(at(5)));
                counts[usize::from(new.volume.to_bytes()[0])] += 1;
            } else {
                assert_eq!(*old, new);
            }
        }
        assert!(counts[2] > 10 && counts[3] > 10, "{counts:?}");
        // It is back, and has none; there is nothing to take from it.
        assert!(after.shards_of(&source(), volume(1)).is_empty());
        assert_eq!(after.taken_over(&source(), volume(1), &live, at(6)), None);
        // Until another one is away.
        let all = [volume(1), volume(2), volume(3)];
        let again = after.taken_over(&source(), volume(2), &all, at(9));
        let again = again.expect("it has shards");
        for (old, new) in owners(&after).iter().zip(owners(&again)) {
            match old.volume == volume(2) {
                true => assert!(new.volume != volume(2) && new.since == Some(at(9))),
                false => assert_eq!(*old, new),
            }
        }
        assert!(!again.shards_of(&source(), volume(1)).is_empty());
    }

    #[test]
    fn without_another_volume_nothing_is_taken_over() {
        let alone = Assigned::to(vec![volume(1)]);
        for others in [&[][..], &[volume(1)], &[volume(2)]] {
            assert_eq!(alone.taken_over(&source(), volume(1), others, at(1)), None);
        }
    }

    #[test]
    fn the_shards_of_a_lost_volume_are_promised_from_then_on_only() {
        let before = Assigned::to(vec![volume(1), volume(2)])
            .with_yielding(volume(1), Yields::WhileAway)
            .with_yielding(volume(2), Yields::WhileAway);
        let after = before.without(&source(), volume(1), at(7));
        assert_eq!(after.volumes, [volume(2)]);
        assert_eq!(after.yielding, [volume(2)]);
        for (old, new) in owners(&before).iter().zip(owners(&after)) {
            assert_eq!(new.volume, volume(2));
            let is_new = old.volume == volume(1);
            assert_eq!(new.since, is_new.then_some(at(7)));
        }
        let none = after.without(&source(), volume(2), at(8));
        assert_eq!(none.owner(&source(), 0), None);
    }

    #[test]
    fn yielding_is_said_and_taken_back() {
        let assigned = Assigned::to(vec![volume(1), volume(2)]);
        let yielding = assigned.with_yielding(volume(1), Yields::WhileAway);
        assert!(yielding.yields(volume(1)) && !yielding.yields(volume(2)));
        let twice = yielding.with_yielding(volume(1), Yields::WhileAway);
        assert_eq!(twice, yielding);
        assert_eq!(yielding.with_yielding(volume(1), Yields::Never), assigned);
    }

    #[test]
    fn many_moves_take_no_more_room_and_promise_less_at_most() {
        let all: Vec<VolumeId> = (0..4).map(volume).collect();
        let mut assigned = Assigned::to(all.clone());
        for round in 0..40_u8 {
            let time = at(i64::from(round));
            let from = volume(round % 4);
            let before = owners(&assigned);
            assigned = assigned
                .taken_over(&source(), from, &all, time)
                .expect("it has shards");
            for (old, new) in before.iter().zip(owners(&assigned)) {
                assert_eq!(old.volume == from, new.volume != old.volume);
                assert!(new.since >= old.since);
            }
            assert!(assigned.moved.len() <= MAX_MOVED);
            let written = serde_json::to_string(&assigned).expect("JSON");
            assert!(written.len() < 4096, "{}", written.len());
        }
    }

    proptest! {
        #[test]
        fn shards_survive_their_text_form(held in proptest::collection::btree_set(any::<u8>(), 0..256)) {
            let mut shards = Shards::default();
            held.iter().for_each(|shard| shards.insert(*shard));
            let text = String::from(shards);
            prop_assert_eq!(Shards::try_from(text), Ok(shards));
            for shard in 0..=u8::MAX {
                prop_assert_eq!(shards.contains(shard), held.contains(&shard));
            }
            held.iter().for_each(|shard| shards.remove(*shard));
            prop_assert!(shards.is_empty());
        }
    }

    #[test]
    fn what_is_no_set_of_shards_is_refused() {
        let good = "0".repeat(64);
        assert!(Shards::try_from(good.clone()).is_ok());
        for bad in [
            String::new(),
            "0".repeat(63),
            "g".repeat(64),
            format!("{}A", &good[1..]),
        ] {
            assert!(Shards::try_from(bad).is_err());
        }
        let first = Shards::try_from(format!("8{}", &good[1..])).expect("valid");
        assert!(first.contains(0) && !first.contains(1));
    }
}
