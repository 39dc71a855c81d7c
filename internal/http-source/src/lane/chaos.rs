//! Random faults against the model volume, by direct call and through a network that is cut and stalled as well. Whatever
//! happens, what the requests were told must be true.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use stream_model::SliceId;
use stream_storage::wire::RefusalReason;

use super::*;
use crate::completion::Failure;
use crate::route::{Fate, PlannedSink};
use crate::testing::wires::Wires;
use crate::testing::{Act, ModelDirectory, ModelVolume, Rig, path_sink};

const SINKS: [&str; 3] = ["a", "b", "c"];
const RECORDS: u32 = 400;

/// The slices of the three sinks, those for their rows and then those for what they reject, and who rotates them.
struct Rotation {
    versions: [u64; 3],
    current: [SliceId; 6],
    outlet_of: BTreeMap<SliceId, usize>,
    next: u32,
}

impl Rotation {
    fn new() -> Self {
        let mut rotation = Self {
            versions: [1; 3],
            current: [SliceId::from_bytes([0; 16]); 6],
            outlet_of: BTreeMap::new(),
            next: 0,
        };
        for outlet in 0..rotation.current.len() {
            rotation.current[outlet] = rotation.fresh(outlet);
        }
        rotation
    }

    fn fresh(&mut self, outlet: usize) -> SliceId {
        self.next += 1;
        let id = SliceId::from_bytes(u128::from(self.next).to_be_bytes());
        self.outlet_of.insert(id, outlet);
        id
    }

    /// Odd versions take every record, even ones refuse those without `x`.
    fn sinks(&self) -> Vec<PlannedSink> {
        let versions = SINKS.iter().zip(self.versions);
        versions
            .map(|(name, version)| {
                path_sink(name, version, if version % 2 == 1 { "id" } else { "x" })
            })
            .collect()
    }

    fn announce(&self, rig: &Rig) {
        let (rows, rejects) = self.current.split_at(SINKS.len());
        rig.announce_keeping(self.sinks(), rows, rejects);
    }
}

fn random_act(rng: &mut StdRng, slice: SliceId) -> Act {
    match rng.random_range(0..14) {
        0 => Act::LoseAnswer,
        1 => Act::LoseBatch,
        2 => Act::Refuse(RefusalReason::WriteFailed),
        3 => Act::Refuse(RefusalReason::UnknownSlice(slice)),
        4 => Act::Refuse(RefusalReason::DiskFull),
        5 => Act::Refuse(RefusalReason::Superseded),
        6 if rng.random_bool(0.1) => Act::Hang,
        _ => Act::Obey,
    }
}

/// Rotates a slice of a sink, in one of the orders in which the news can arrive.
async fn rotate(rig: &Rig, rotation: &mut Rotation, rng: &mut StdRng) {
    let outlet = rng.random_range(0..rotation.current.len());
    let old = rotation.current[outlet];
    let new = rotation.fresh(outlet);
    rotation.current[outlet] = new;
    if let Some(version) = rotation.versions.get_mut(outlet)
        && rng.random_bool(0.4)
    {
        *version += 1;
    }
    let mut steps = [0, 1, 2];
    for position in (1..steps.len()).rev() {
        steps.swap(position, rng.random_range(0..=position));
    }
    let mut last = 0;
    for step in steps {
        match step {
            0 => rotation.announce(rig),
            1 => rig.volume.open_slice(new),
            _ => last = rig.volume.seal(old, Some(new)),
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..20))).await;
    }
    if rng.random_bool(0.5) {
        rig.volume.forget(old);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..20))).await;
        rig.directory.set_fate(old, Fate::Sealed { last });
    }
}

/// How the lane reaches the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Network,
}

fn rig(way: Way, seed: u64) -> (Rig, Option<Wires>) {
    if way == Way::Direct {
        return (Rig::new(), None);
    }
    let volume = ModelVolume::new(1);
    let (wires, transport) = Wires::lay(volume.clone(), seed);
    let rig = Rig::over(transport, volume, ModelDirectory::new(), 1);
    (rig, Some(wires))
}

/// Cuts or stalls the network.
async fn disturb_network(wires: &Wires, rng: &mut StdRng) {
    if rng.random_bool(0.6) {
        wires.cut();
        return;
    }
    wires.stall(true);
    let millis = match rng.random_bool(0.1) {
        // Longer than anything that is alive stays silent.
        true => 12_000,
        false => rng.random_range(1..400),
    };
    tokio::time::sleep(Duration::from_millis(millis)).await;
    if rng.random_bool(0.3) {
        wires.cut();
    }
    wires.stall(false);
}

async fn disturb(rig: &Rig, rotation: &mut Rotation, rng: &mut StdRng) {
    match rng.random_range(0..10) {
        0..=3 => rotate(rig, rotation, rng).await,
        4 => {
            rig.volume.with(|state| state.down = true);
            let millis = if rng.random_bool(0.1) {
                40_000
            } else {
                rng.random_range(1..500)
            };
            tokio::time::sleep(Duration::from_millis(millis)).await;
            rig.volume.with(|state| state.down = false);
        }
        5 => {
            rig.volume.hold();
            tokio::time::sleep(Duration::from_millis(rng.random_range(1..50))).await;
            rig.volume.release();
        }
        6 => {
            // Another lane loses the connection that both use, and makes a new one.
            if let Ok(shared) = rig.link.connection().await {
                rig.link.lose(shared.generation);
                if let Ok(newer) = rig.link.connection().await {
                    drop(newer.connection.open(Vec::new()));
                }
            }
        }
        _ => {
            let act = random_act(rng, rotation.current[0]);
            rig.volume.script([act]);
        }
    }
}

/// What a request was told, sink by sink.
struct Told {
    id: u32,
    written: Result<(), Failure>,
    refusing: BTreeSet<usize>,
}

async fn run(way: Way, seed: u64) -> (Rig, Rotation, Vec<Told>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (rig, wires) = rig(way, seed);
    let mut rotation = Rotation::new();
    rotation
        .current
        .iter()
        .for_each(|id| rig.volume.open_slice(*id));
    rotation.announce(&rig);
    let mut tickets = Vec::new();
    for id in 0..RECORDS {
        let has_x = rng.random_bool(0.7);
        let padding = "p".repeat(if rng.random_bool(0.1) {
            SECOND_BATCH_BYTES
        } else {
            0
        });
        let x = if has_x {
            format!(r#","x":"{id}-{padding}""#)
        } else {
            String::new()
        };
        let body = format!(r#"{{"id":"{id}-{padding}"{x}}}"#);
        tickets.push((id, rig.append(&body)));
        if rng.random_bool(0.3) {
            disturb(&rig, &mut rotation, &mut rng).await;
        }
        if let Some(wires) = wires.as_ref().filter(|_| rng.random_bool(0.15)) {
            disturb_network(wires, &mut rng).await;
        }
        if rng.random_bool(0.5) {
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..5))).await;
        }
    }
    rig.volume.with(|state| state.script.clear());
    let mut told = Vec::new();
    for (id, ticket) in tickets {
        let outcome = ticket.outcome().await;
        let refusing = ticket
            .rejections(outcome)
            .iter()
            .map(|rejection| rejection.sink)
            .collect();
        told.push(Told {
            id,
            written: outcome.written.map(drop),
            refusing,
        });
    }
    (rig, rotation, told)
}

/// The record of a row: of the value at a path, or of a rejected body.
fn record_of(row: &str) -> u32 {
    let value = match row.split_once(r#"{""id"":"""#) {
        Some((_, rest)) => rest,
        None => row.trim_matches('"'),
    };
    let record = value.split('-').next().expect("a row has an id");
    record.parse().expect("the id is a number")
}

/// How often each record is in each sink, as a row and as a reject.
fn count_rows(rig: &Rig, rotation: &Rotation) -> BTreeMap<(u32, usize), usize> {
    let mut counts = BTreeMap::new();
    rig.volume.with(|state| {
        let archive = state.archive.iter().map(|(id, slice)| (id, slice));
        for (id, slice) in state.slices.iter().chain(archive) {
            for row in &slice.rows {
                let place = (record_of(row), rotation.outlet_of[id]);
                *counts.entry(place).or_default() += 1;
            }
        }
    });
    counts
}

async fn check(way: Way, seed: u64) -> BTreeMap<&'static str, usize> {
    let (rig, rotation, told) = run(way, seed).await;
    let counts = count_rows(&rig, &rotation);
    let mut seen = BTreeMap::new();
    for Told {
        id,
        written,
        refusing,
    } in told
    {
        let count = |sink| counts.get(&(id, sink)).copied().unwrap_or(0);
        let sinks = 0..SINKS.len();
        match written {
            Ok(()) => {
                *seen.entry("written").or_default() += 1;
                for sink in sinks {
                    let refused = usize::from(refusing.contains(&sink));
                    *seen.entry("rejected").or_default() += refused;
                    assert_eq!(
                        (count(sink), count(sink + SINKS.len())),
                        (1 - refused, refused),
                        "seed {seed}: record {id}, sink {sink}"
                    );
                }
            }
            Err(Failure::OutcomeUnknown) => {
                *seen.entry("unknown").or_default() += 1;
                let outlet = |sink| match refusing.contains(&sink) {
                    true => sink + SINKS.len(),
                    false => sink,
                };
                let taking: Vec<_> = sinks.map(outlet).collect();
                let whole = taking.iter().all(|sink| count(*sink) == 0)
                    || taking.iter().all(|sink| count(*sink) == 1);
                assert!(whole, "seed {seed}: record {id} is in some sinks");
            }
            Err(failure) => {
                *seen.entry("failed").or_default() += 1;
                for outlet in 0..2 * SINKS.len() {
                    assert_eq!(count(outlet), 0, "seed {seed}: record {id}, {failure:?}");
                }
            }
        }
    }
    // Everything is given back, and the lane still works.
    assert_eq!(
        (rig.lane.outstanding(), rig.admission.used()),
        (0, 0),
        "seed {seed}"
    );
    rig.task.abort();
    seen
}

#[tokio::test(start_paused = true)]
async fn what_requests_were_told_is_true_whatever_goes_wrong() {
    check_seeds(Way::Direct).await;
}

#[tokio::test(start_paused = true)]
async fn it_is_as_true_through_a_network_that_is_cut_and_stalled() {
    check_seeds(Way::Network).await;
}

async fn check_seeds(way: Way) {
    let seeds = std::env::var("STREAM_TEST_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..seeds.unwrap_or(24) {
        for (kind, count) in check(way, seed).await {
            *seen.entry(kind).or_default() += count;
        }
    }
    // A test that sees no faults proves nothing.
    assert!(
        ["written", "rejected", "failed", "unknown"]
            .iter()
            .all(|kind| seen.contains_key(kind)),
        "{seen:?}"
    );
}
