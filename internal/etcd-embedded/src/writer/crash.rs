//! The writer on a disk that fails: nothing acknowledged is lost, nothing is half there, nothing that was not stored is
//! shown.
//!
//! `STREAM_TEST_DISKS` says how many disks are tried, `STREAM_TEST_SEED` which seed is the first. A disk depends on nothing
//! but its seed.

use std::pin::Pin;

use etcd_client::proto::PbTxnRequestOp;
use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::disk::simulated::{Fault, Platter};
use crate::mvcc::{KeyRange, Store};
use crate::server::boot;

/// A few seconds.
const DISKS: u64 = 100;
/// Crashes of each.
const LIVES: u64 = 4;
const FIRST_SEED: u64 = 1;
/// Groups of one life.
const GROUPS: usize = 25;
/// Little, so that there are compactions.
const KEEP_REVISIONS: u64 = 20;
const KEYS: usize = 5;

type Outcome = Pin<Box<dyn Future<Output = Result<(), Refusal>>>>;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number"))
    })
}

/// A store between opening and crash.
struct Life {
    random: StdRng,
    writer: Writer,
    /// For messages.
    at: String,
}

/// What may be there after the crash.
struct Left {
    store: Store,
    /// Must be there.
    durable: i64,
}

impl Life {
    fn begin(at: &str, seed: u64, platter: &Platter, dir: &std::path::Path) -> Self {
        let (disk, contents) = platter
            .open(dir)
            .unwrap_or_else(|error| panic!("{at}: {error:?}"));
        let (state, identity) = boot(&disk, contents).expect("the disk works");
        let (queue, jobs) = queue();
        Self {
            random: StdRng::seed_from_u64(seed),
            writer: Writer {
                shared: Arc::new(Shared::new(state, queue, identity, Vec::new())),
                disk,
                jobs,
                keep_revisions: KEEP_REVISIONS,
            },
            at: at.to_owned(),
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.random.random_range(0..end)
    }

    /// Works until the disk fails, or long enough.
    fn live(mut self) -> Left {
        for _ in 0..GROUPS {
            if !self.turn() {
                break;
            }
        }
        self.end()
    }

    fn end(self) -> Left {
        let shared = Arc::clone(&self.writer.shared);
        // Closes the database, which uses the disk once more.
        drop(self);
        let shared = Arc::into_inner(shared).expect("nobody else has it");
        let state = shared.state.into_inner();
        Left {
            durable: state.durable,
            store: state.store,
        }
    }

    /// Carries out one group; whether the disk took it.
    fn turn(&mut self) -> bool {
        let mut outcomes = Vec::new();
        let mut defragments = false;
        for _ in 0..=self.below(4) {
            defragments |= self.submit(&mut outcomes);
        }
        let shared = Arc::clone(&self.writer.shared);
        let before = contents(&shared.state.read().store, shared.state.read().durable);
        let durable = shared.state.read().durable;
        let first = self.writer.jobs.0.try_recv().expect("something is queued");
        let stored = self.writer.turn(first).is_ok();
        for outcome in outcomes {
            let outcome = outcome.now_or_never().expect("the group is answered");
            if !stored {
                assert_eq!(outcome, Err(Refusal::StorageFailed), "{}", self.at);
            } else {
                assert_ne!(outcome, Err(Refusal::StorageFailed), "{}", self.at);
            }
        }
        let state = shared.state.read();
        assert_eq!(*shared.durable.borrow(), state.durable);
        if stored {
            assert_eq!(state.durable, state.store.revision());
        } else if !defragments {
            // Readers and watchers see what they saw before.
            assert_eq!(state.durable, durable, "{}", self.at);
            assert_eq!(contents(&state.store, durable), before, "{}", self.at);
        }
        stored
    }

    /// Queues a request; whether it was to defragment.
    fn submit(&mut self, outcomes: &mut Vec<Outcome>) -> bool {
        let draw = self.below(100);
        let shared = Arc::clone(&self.writer.shared);
        let request: Outcome = match draw {
            0..90 => {
                let txn = self.txn();
                let command = move |reply| Command::Txn(txn, reply);
                Box::pin(async move { shared.queue.submit(0, command).await.map(drop) })
            }
            90..98 => {
                let revision = shared.state.read().durable - 3;
                let request = PbCompactionRequest {
                    revision,
                    ..PbCompactionRequest::default()
                };
                let command = move |reply| Command::Compact(request, reply);
                Box::pin(async move { shared.queue.submit(0, command).await.map(drop) })
            }
            _ => Box::pin(async move {
                let defragment = shared.queue.submit(0, Command::Defragment);
                defragment.await.map(drop)
            }),
        };
        let mut request = request;
        // Queues it; the answer comes later.
        assert!(request.as_mut().now_or_never().is_none());
        outcomes.push(request);
        draw >= 98
    }

    /// Sets both halves of a pair, or deletes them.
    fn txn(&mut self) -> PbTxnRequest {
        use etcd_client::proto::PbTxnOpRequest::{RequestDeleteRange, RequestPut};
        let pair = self.below(KEYS);
        let length = [0, 10, 100, 5_000][self.below(4)];
        let value = vec![self.below(256) as u8; length];
        let deletes = self.below(5) == 0;
        let half = |side: &str| PbTxnRequestOp {
            request: Some(if deletes {
                RequestDeleteRange(PbDeleteRequest {
                    key: format!("{pair}{side}").into_bytes(),
                    ..PbDeleteRequest::default()
                })
            } else {
                RequestPut(PbPutRequest {
                    key: format!("{pair}{side}").into_bytes(),
                    value: value.clone(),
                    ..PbPutRequest::default()
                })
            }),
        };
        PbTxnRequest {
            success: vec![half("left"), half("right")],
            ..PbTxnRequest::default()
        }
    }
}

/// Everything at a revision.
fn contents(store: &Store, at: i64) -> Vec<crate::mvcc::Change> {
    let everything = KeyRange::new(&[0], &[0]);
    store
        .live_in(&everything, at)
        .map(|change| crate::mvcc::Change::clone(change))
        .collect()
}

fn check(seed: &str, left: &Left, found: &Store) {
    let revision = found.revision();
    // The group under way is there as a whole or not at all.
    assert!(
        revision == left.durable || revision == left.store.revision(),
        "{seed}: {revision} after {}",
        left.durable
    );
    assert!(found.compacted() <= revision);
    let oldest = found.compacted().max(left.store.compacted()).max(1);
    for at in oldest..=revision {
        let expected = contents(&left.store, at);
        assert_eq!(contents(found, at), expected, "{seed} at {at}");
    }
    let events = |store: &Store| -> Vec<_> {
        let since = store
            .since(oldest - 1)
            .filter(|change| change.revision <= revision);
        since.cloned().collect()
    };
    assert_eq!(events(found), events(&left.store), "{seed}");
}

/// Whether the store can be opened on a disk that fails.
fn opens(platter: &Platter, dir: &std::path::Path) -> bool {
    let opened = crate::disk::guard(dir, || {
        let (disk, contents) = platter.open(dir)?;
        boot(&disk, contents)
    });
    opened.is_ok()
}

#[test]
fn whatever_the_disk_does_nothing_acknowledged_is_lost_and_nothing_is_half_there() {
    let first = number("STREAM_TEST_SEED", FIRST_SEED);
    let (mut faults, mut failures) = (0, 0);
    let dir = tempfile::tempdir().expect("a temporary directory");
    for seed in first..first + number("STREAM_TEST_DISKS", DISKS) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut platter = Platter::new();
        for life in 0..LIVES {
            let at = format!("STREAM_TEST_SEED={seed}, life {life}");
            let life = Life::begin(&at, random.random(), &platter, dir.path());
            platter.fail_after(random.random_range(0..300), Fault::draw(&mut random));
            let left = life.live();
            faults += u64::from(platter.is_faulty());
            platter = platter.after_power_loss(&mut random);
            let life = Life::begin(&at, 0, &platter, dir.path());
            check(&at, &left, &life.writer.shared.state.read().store);
            let left = life.end();
            // Opening may fail as well, and be cut off.
            platter.fail_after(random.random_range(0..20), Fault::draw(&mut random));
            failures += u64::from(!opens(&platter, dir.path()));
            platter = platter.after_power_loss(&mut random);
            let life = Life::begin(&at, 0, &platter, dir.path());
            check(&at, &left, &life.writer.shared.state.read().store);
            drop(life);
        }
    }
    assert!(faults > 0 && failures > 0, "no disk failed");
}
