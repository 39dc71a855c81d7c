//! A client: one session after the other, batches in flight, and what the protocol says to do with each answer.

use std::collections::{BTreeMap, HashMap, VecDeque};

use futures_util::FutureExt;
use rand::RngExt;
use rand::rngs::StdRng;
use stream_model::level::Compression;
use stream_model::{SessionId, SliceId};
use stream_storage::local::{Volume, VolumeConnection};
use stream_storage::wire::{
    Answer, Batch, Claim, Connection, KeyHash, Opened, Part, Pending, Unknown,
};

use super::ledger::{Known, Promise, arrived, body_of, row};
use super::state::{SliceState, State};

/// Batches in flight.
const PIPELINE: usize = 5;

/// An attempt whose outcome is open.
struct InFlight {
    attempt: usize,
    batch: Batch,
    /// None when the answer will never come.
    pending: Option<Pending<Answer>>,
    /// It was answered that nothing of it was written.
    refused: bool,
    /// Keys of it that were known.
    known: Vec<u64>,
}

/// Something to be sent until it is written.
struct Request {
    number: usize,
    /// The sinks that it has rows for.
    sinks: Vec<usize>,
    keys: Vec<u64>,
}

type Opening = Pending<BTreeMap<SliceId, Opened>>;

/// One client.
pub struct Client {
    session: SessionId,
    connection: Option<VolumeConnection>,
    /// A connection that broke, and batches that are still on their way through it.
    delayed: Option<(VolumeConnection, Vec<Batch>)>,
    opening: Option<Opening>,
    /// Nothing is sent until all that is in flight was answered and the slices were opened again.
    recovering: bool,
    in_flight: VecDeque<InFlight>,
    /// Requests to be sent.
    requests: VecDeque<Request>,
    next: HashMap<SliceId, u64>,
    /// The slices that the client believes to be current, one per sink. News of a rotation takes its time.
    current: Vec<SliceId>,
    /// A batch that was committed, to be sent once more now and then.
    committed: Option<Batch>,
}

impl Client {
    pub fn new(session: SessionId) -> Self {
        Self {
            session,
            connection: None,
            delayed: None,
            opening: None,
            recovering: true,
            in_flight: VecDeque::new(),
            requests: VecDeque::new(),
            next: HashMap::new(),
            current: Vec::new(),
            committed: None,
        }
    }

    pub fn is_busy(&self) -> bool {
        !self.in_flight.is_empty() || !self.requests.is_empty() || self.opening.is_some()
    }

    /// The connection breaks: what was not answered never will be.
    pub fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            let batches = self.in_flight.iter().map(|sent| sent.batch.clone());
            self.delayed = Some((connection, batches.collect()));
        }
        self.opening = None;
        self.recovering = true;
        for sent in &mut self.in_flight {
            sent.pending = None;
        }
    }

    /// The volume is gone, and with it everything on the way to it.
    pub fn lose_connections(&mut self) {
        self.disconnect();
        self.delayed = None;
        // After a loss of power its number may be given to another batch where less than `disk` was promised.
        self.committed = None;
    }

    /// The client's process ends: nobody will settle what it had in flight.
    pub fn die(&mut self, session: SessionId) {
        // Its connection lives on in the network for a while.
        self.disconnect();
        let delayed = self.delayed.take();
        *self = Self::new(session);
        self.delayed = delayed;
    }

    /// Does the next thing. With `new` it may make a request of its own.
    pub fn act(&mut self, volume: &Volume, state: &mut State, rng: &mut StdRng, new: New) {
        self.poll(state);
        if rng.random_bool(0.4) {
            self.deliver_late(rng);
        }
        if self.recovering {
            self.recover(volume, state);
            return;
        }
        if self.in_flight.len() >= PIPELINE {
            return;
        }
        if self.requests.is_empty() && new == New::Requests {
            let sinks: Vec<usize> = (0..state.sinks.len())
                .filter(|_| rng.random_bool(0.6))
                .collect();
            if sinks.is_empty() {
                return;
            }
            self.requests.push_back(Request {
                number: state.ledger.request(),
                sinks,
                keys: state.ledger.draw_keys(rng),
            });
        }
        if rng.random_bool(0.1) {
            self.current = state.current();
        }
        self.send(state, rng);
        if rng.random_bool(0.05) {
            self.repeat(rng);
        }
    }

    fn send(&mut self, state: &mut State, rng: &mut StdRng) {
        let Some(connection) = &self.connection else {
            return;
        };
        let Some(Request {
            number: request,
            sinks,
            keys,
        }) = self.requests.pop_front()
        else {
            return;
        };
        let number = state.ledger.next_attempt();
        let mut parts = Vec::new();
        for sink in sinks {
            let slice = self.current[sink];
            let next = self.next.entry(slice).or_insert(1);
            parts.push(part(
                slice,
                *next,
                state.sinks[sink].compression,
                number,
                rng,
            ));
            *next += 1;
        }
        let sent = parts.iter().map(|part| (part.slice, part.seq, part.rows));
        let sent: Vec<_> = sent.collect();
        // One entry, so the strongest of its slices decides.
        let kept = sent
            .iter()
            .any(|(slice, _, _)| state.promise(*slice) == Promise::Kept);
        let promise = if kept { Promise::Kept } else { Promise::Weak };
        let claims = keys.iter().map(|key| claim(*key)).collect();
        state
            .ledger
            .sent(self.session, request, sent, promise, keys);
        let batch = Batch {
            parts,
            keys: claims,
        };
        // The network may hold it back until the connection is given up.
        let held_back = rng.random_bool(0.05);
        self.in_flight.push_back(InFlight {
            attempt: number,
            pending: (!held_back).then(|| connection.append(batch.clone())),
            batch,
            refused: false,
            known: Vec::new(),
        });
        if held_back {
            self.disconnect();
        }
    }

    /// Sends again what was committed, as a network may. Nobody waits for the answer.
    fn repeat(&self, rng: &mut StdRng) {
        let in_flight: Vec<&Batch> = self.in_flight.iter().map(|sent| &sent.batch).collect();
        let batch = match rng.random_range(0..2) {
            0 => self.committed.as_ref(),
            _ => in_flight.last().copied(),
        };
        if let (Some(connection), Some(batch)) = (&self.connection, batch) {
            drop(connection.append(batch.clone()));
        }
    }

    /// What the network held back arrives, each batch once or twice, and maybe after the volume has settled it.
    fn deliver_late(&mut self, rng: &mut StdRng) {
        if let Some((connection, batches)) = &mut self.delayed
            && let Some(batch) = batches.last().cloned()
        {
            drop(connection.append(batch));
            if rng.random_bool(0.8) {
                batches.pop();
            }
        }
    }

    /// Takes the answers that have come.
    pub fn poll(&mut self, state: &mut State) {
        self.poll_opening(state);
        let mut sealed = BTreeMap::new();
        for sent in &mut self.in_flight {
            let Some(answer) = sent.pending.as_mut().and_then(FutureExt::now_or_never) else {
                continue;
            };
            sent.pending = None;
            match answer {
                Ok(Answer::Committed) => {
                    state.ledger.written(sent.attempt);
                    self.committed = Some(sent.batch.clone());
                }
                Ok(Answer::Sealed(slices)) => {
                    state.ledger.unwritten(sent.attempt);
                    sent.refused = true;
                    self.recovering = true;
                    for slice in slices.keys() {
                        let told = &state.slices[slice].state;
                        assert_ne!(*told, SliceState::Writing, "nobody sealed slice {slice}");
                    }
                    sealed.extend(slices);
                }
                Ok(Answer::Refused(_)) => {
                    state.ledger.unwritten(sent.attempt);
                    sent.refused = true;
                    self.recovering = true;
                }
                Ok(Answer::KnownKeys(known)) => {
                    state.ledger.unwritten(sent.attempt);
                    for known in known {
                        let key = state.ledger.attempt(sent.attempt).keys[known.position as usize];
                        state.ledger.known_key(key, known.body);
                        sent.known.push(key);
                    }
                    assert!(!sent.known.is_empty(), "keys are known, and none is named");
                    sent.refused = true;
                    self.recovering = true;
                }
                Err(Unknown) => self.recovering = true,
            }
        }
        // What is said to be in a sealed slice is an obligation, whatever becomes of its own answer.
        for sent in &self.in_flight {
            let attempt = state.ledger.attempt(sent.attempt);
            let inside = |(slice, seq, _): &(SliceId, u64, u32)| {
                sealed.get(slice).is_some_and(|told| *seq <= told.last)
            };
            if attempt.known != Known::Written && attempt.parts.iter().any(inside) {
                state.ledger.written(sent.attempt);
            }
        }
        self.settle_answered(state);
    }

    /// Drops what is settled; what was certainly not written goes back to the requests, in order.
    fn settle_answered(&mut self, state: &State) {
        let mut again = Vec::new();
        self.in_flight.retain(|sent| {
            let attempt = state.ledger.attempt(sent.attempt);
            if sent.refused {
                let sinks = attempt
                    .parts
                    .iter()
                    .map(|(slice, _, _)| state.sink_of(*slice));
                let mut keys = attempt.keys.clone();
                keys.retain(|key| !sent.known.contains(key));
                // All that it is about is there already.
                if sent.known.is_empty() || !keys.is_empty() {
                    again.push(Request {
                        number: attempt.request,
                        sinks: sinks.collect(),
                        keys,
                    });
                }
            }
            !sent.refused && (sent.pending.is_some() || attempt.known == Known::Nothing)
        });
        for request in again.into_iter().rev() {
            self.requests.push_front(request);
        }
    }

    fn recover(&mut self, volume: &Volume, state: &State) {
        let waits = self.in_flight.iter().any(|sent| sent.pending.is_some());
        if self.opening.is_some() || (waits && self.connection.is_some()) {
            return;
        }
        let Ok(connection) = volume.connect(self.session) else {
            return;
        };
        self.current = state.current();
        let mut slices = self.current.clone();
        for sent in &self.in_flight {
            slices.extend(sent.batch.parts.iter().map(|part| part.slice));
        }
        slices.sort_unstable();
        slices.dedup();
        self.opening = Some(connection.open(slices));
        self.connection = Some(connection);
    }

    fn poll_opening(&mut self, state: &mut State) {
        let answer = self.opening.as_mut().and_then(FutureExt::now_or_never);
        let Some(answer) = answer else { return };
        self.opening = None;
        let Ok(opened) = answer else { return };
        let unsettled = |slice: &SliceId| {
            opened[slice] == Opened::UnknownSlice && !state.slices[slice].state.is_sealed()
        };
        if opened.keys().any(unsettled) {
            // It is being closed, and the volume was not told to take rows for it any more: ask later.
            return;
        }
        // The state store may know more than a volume that gave up the slice.
        let last = |slice: SliceId| match opened[&slice] {
            Opened::Last(last) => last,
            Opened::Sealed(sealed) => sealed.last,
            Opened::UnknownSlice => state.recorded_last(slice, self.session),
        };
        let lasts: HashMap<SliceId, u64> =
            opened.keys().map(|slice| (*slice, last(*slice))).collect();
        for (slice, last) in &lasts {
            let owed = state.ledger.last(*slice, self.session);
            assert!(
                *last >= owed,
                "slice {slice} says {last} to {:?} and owes {owed}",
                self.session
            );
        }
        for sent in &mut self.in_flight {
            let parts = &sent.batch.parts;
            let inside = parts.iter().filter(|part| part.seq <= lasts[&part.slice]);
            match inside.count() {
                0 => {
                    state.ledger.unwritten(sent.attempt);
                    sent.refused = true;
                }
                count if count == parts.len() => state.ledger.written(sent.attempt),
                _ => panic!("attempt {} is in some of its slices", sent.attempt),
            }
            sent.pending = None;
        }
        self.settle_answered(state);
        assert!(self.in_flight.is_empty());
        for (slice, last) in lasts {
            self.next.insert(slice, last + 1);
        }
        self.recovering = false;
    }
}

fn claim(key: u64) -> Claim {
    let hash = u128::from(key).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    Claim {
        key: KeyHash::from_bytes(hash.to_be_bytes()),
        body: body_of(key),
    }
}

/// Whether a client may make requests of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum New {
    Requests,
    Nothing,
}

fn part(
    slice: SliceId,
    seq: u64,
    compression: Compression,
    attempt: usize,
    rng: &mut StdRng,
) -> Part {
    let rows = rng.random_range(1..4);
    // Short, as long as some blocks, or long only before compression: long runs are complete then.
    let padding: String = match rng.random_range(0..20) {
        0..=11 => noise(rng, 100),
        12..=15 => noise(rng, 3_000),
        16 => noise(rng, 20_000),
        _ => "x".repeat(rng.random_range(1_000..90_000)),
    };
    let csv: String = (0..rows)
        .map(|position| row(attempt, position, rows, &padding))
        .collect();
    Part {
        slice,
        seq,
        rows,
        raw_bytes: u32::try_from(csv.len()).expect("it is short"),
        first_at: arrived(attempt),
        last_at: arrived(attempt),
        compression,
        frame: super::state::frame(compression, csv.as_bytes()),
    }
}

/// Text that no codec makes much shorter.
fn noise(rng: &mut StdRng, at_most: usize) -> String {
    let len = rng.random_range(1..at_most);
    (0..len)
        .map(|_| char::from(rng.random_range(b'0'..=b'~')))
        .collect()
}
