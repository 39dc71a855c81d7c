//! Who appends with keys: clients that have a slice and one outstanding append each, so that whatever is answered they know the
//! next number.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use stream_model::{SessionId, Timestamp};
use stream_storage::local::{Volume, VolumeConnection};
use stream_storage::wire::{Answer, Batch, Claim, Connection, KeyHash, Part};
use tokio::task::LocalSet;

use crate::frames::{COMPRESSION, Frame, Frames};
use crate::histogram::Histogram;
use crate::volume::{Target, open_slices};

/// How long a client waits after a refusal.
const PAUSE: Duration = Duration::from_millis(5);
/// Appends that are outstanding together are written in any order: so many keys may be older than their numbers say.
const OUT_OF_ORDER: u64 = 50_000;
/// No longer it is refused.
const PATIENCE: Duration = Duration::from_secs(120);

/// The keys of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// It has none.
    Without,
    /// One for each row, that never occurred before.
    New,
    /// One for each row, that the volume remembers: nothing is written.
    Known,
}

/// What is appended.
#[derive(Clone)]
pub struct Work {
    pub kind: Kind,
    /// Keys of an append that has some.
    pub keys: u64,
    pub frames: Rc<Frames>,
    /// Appends that are outstanding.
    pub clients: usize,
}

/// What came of a time of appending.
#[derive(Debug)]
pub struct Tally {
    /// Appends that were answered as expected.
    pub appends: u64,
    /// Keys in them.
    pub keys: u64,
    /// Times that an append was refused, to be sent again.
    pub refused: u64,
    /// From the first call to the answer.
    pub latency: Histogram,
}

impl Tally {
    fn new() -> Self {
        Self {
            appends: 0,
            keys: 0,
            refused: 0,
            latency: Histogram::new(),
        }
    }
}

/// The clients of one volume.
pub struct Clients {
    connection: VolumeConnection,
    slices: Vec<Target>,
    /// The number of the last part in each slice.
    last: RefCell<Vec<u64>>,
    /// Keys that were ever appended: those with the numbers below.
    appended: Cell<u64>,
    /// Of these the volume remembers so many at least, the last ones.
    remembered: u64,
    rng: RefCell<StdRng>,
    tally: RefCell<Tally>,
    is_stopped: Cell<bool>,
}

impl Clients {
    /// At most `count` clients of a volume that remembers so many keys.
    ///
    /// # Errors
    /// When the volume has stopped.
    pub fn new(volume: &Volume, count: usize, remembered: u64) -> anyhow::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            connection: volume.connect(SessionId(1))?,
            slices: open_slices(volume, 1, count as u64),
            last: RefCell::new(vec![0; count]),
            appended: Cell::new(0),
            remembered,
            rng: RefCell::new(StdRng::seed_from_u64(4)),
            tally: RefCell::new(Tally::new()),
            is_stopped: Cell::new(false),
        }))
    }

    /// Keys that were appended, and some that are about to be.
    pub fn appended(&self) -> u64 {
        self.appended.get()
    }

    /// The slices.
    pub fn slices(&self) -> &[Target] {
        &self.slices
    }

    /// Lets the clients append until `enough` is done. What is outstanding then is waited for and not counted.
    ///
    /// # Errors
    /// When the volume stops, refuses for too long, or answers anything else than what is expected.
    pub async fn run<T>(
        self: &Rc<Self>,
        work: &Work,
        enough: impl Future<Output = T>,
    ) -> anyhow::Result<(Tally, T)> {
        self.is_stopped.set(false);
        let local = LocalSet::new();
        let clients: Vec<_> = (0..work.clients)
            .map(|client| {
                local.spawn_local(Rc::clone(self).append_until_stopped(client, work.clone()))
            })
            .collect();
        self.tally.replace(Tally::new());
        let end = local.run_until(enough).await;
        let tally = self.tally.replace(Tally::new());
        self.is_stopped.set(true);
        local.await;
        for client in clients {
            client.await??;
        }
        Ok((tally, end))
    }

    async fn append_until_stopped(self: Rc<Self>, client: usize, work: Work) -> anyhow::Result<()> {
        while !self.is_stopped.get() {
            let frame = work.frames.any(&mut self.rng.borrow_mut());
            let keys = self.claims(&work)?;
            self.append(client, &frame, &keys, work.kind).await?;
        }
        Ok(())
    }

    fn claims(&self, work: &Work) -> anyhow::Result<Vec<Claim>> {
        let first = self.appended.get();
        Ok(match work.kind {
            Kind::Without => Vec::new(),
            Kind::New => {
                self.appended.set(first + work.keys);
                (first..first + work.keys).map(claim).collect()
            }
            Kind::Known => {
                let known = match first <= self.remembered {
                    true => first,
                    false => self.remembered.saturating_sub(OUT_OF_ORDER),
                };
                ensure!(known >= work.keys, "too few keys were appended");
                let at = self.rng.borrow_mut().random_range(0..known);
                let step = known / work.keys;
                let numbers = (0..work.keys).map(|position| (at + position * step) % known);
                numbers.map(|number| claim(first - 1 - number)).collect()
            }
        })
    }

    async fn append(
        &self,
        client: usize,
        frame: &Frame,
        keys: &[Claim],
        kind: Kind,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let batch = Batch {
                parts: vec![self.part(client, frame)],
                keys: keys.to_vec(),
            };
            let answer = self.connection.append(batch).await;
            match answer.context("the volume stopped")? {
                Answer::Committed if kind == Kind::Known => bail!("a key was forgotten"),
                Answer::Committed => self.last.borrow_mut()[client] += 1,
                Answer::KnownKeys(known) => {
                    let (known, all) = (known.len(), keys.len());
                    ensure!(
                        kind == Kind::Known && known == all,
                        "{known} of {all} keys are known"
                    );
                }
                Answer::Refused(refusal) => {
                    self.tally.borrow_mut().refused += 1;
                    ensure!(start.elapsed() < PATIENCE, "{}", refusal.reason);
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Answer::Sealed(_) => bail!("a slice was sealed"),
            }
            let tally = &mut *self.tally.borrow_mut();
            tally.latency.record(start.elapsed());
            tally.appends += 1;
            tally.keys += keys.len() as u64;
            return Ok(());
        }
    }

    fn part(&self, client: usize, frame: &Frame) -> Part {
        Part {
            slice: self.slices[client].id,
            seq: self.last.borrow()[client] + 1,
            rows: frame.rows,
            raw_bytes: frame.raw_bytes,
            first_at: Timestamp::from_millis(0),
            last_at: Timestamp::from_millis(1),
            compression: COMPRESSION,
            frame: frame.bytes.clone(),
        }
    }
}

/// The key of that number: as evenly spread as the hashes of the service, and no two alike.
fn claim(number: u64) -> Claim {
    let halves = [spread(number), spread(!number)];
    let key = (u128::from(halves[0]) << 64) | u128::from(halves[1]);
    Claim {
        key: KeyHash::from_bytes(key.to_be_bytes()),
        body: number,
    }
}

/// Another number for each number, without a pattern: what `SplitMix64` does with its state.
const fn spread(number: u64) -> u64 {
    let state = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_spread_over_all_shards_and_never_twice_the_same() {
        let keys: BTreeSet<_> = (0..20_000).map(|number| claim(number).key).collect();
        assert_eq!(keys.len(), 20_000);
        let shards: BTreeSet<u8> = keys.iter().map(|key| key.shard()).collect();
        assert_eq!(shards.len(), 256);
    }
}
