//! The oracle: what was sent, what the volume said of it, and what was found in slices.
//!
//! A row carries the number of the attempt that brought it, its position and the number of rows of the part, so the content of
//! a slice says by itself what is in it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rand::RngExt;
use rand::rngs::StdRng;
use stream_model::hours::Hour;
use stream_model::{SessionId, SliceId, Timestamp};
use stream_storage::local::Content;

/// What the outside was told of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Nothing,
    /// An obligation.
    Written,
    /// A promise too.
    Unwritten,
}

/// What an acknowledgement is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// It survives whatever comes.
    Kept,
    /// A loss of power, or a sync that fails later, may undo it. It is still never half there, twice or out of order.
    Weak,
}

/// A batch as it was sent once. The request behind it may be sent again in another attempt when it was not written.
#[derive(Debug)]
pub struct Attempt {
    pub session: SessionId,
    pub request: usize,
    /// Slice, sequence number and rows of each part.
    pub parts: Vec<(SliceId, u64, u32)>,
    pub known: Known,
    pub promise: Promise,
    /// Idempotency keys that were sent with it.
    pub keys: Vec<u64>,
    /// Whether it was found in the first of its slices that was looked at.
    found: Option<bool>,
}

impl Attempt {
    fn is_owed(&self) -> bool {
        self.known == Known::Written && self.promise == Promise::Kept
    }
}

/// Everything that was sent.
#[derive(Debug, Default)]
pub struct Ledger {
    attempts: Vec<Attempt>,
    of_slice: HashMap<SliceId, Vec<usize>>,
    /// The attempts of each request that were, or may have been, written.
    requests: Vec<BTreeSet<usize>>,
    /// For each key, the attempts with it that were, or may have been, written. Those that a loss of power may undo do not count.
    keys: HashMap<u64, BTreeSet<usize>>,
    /// Keys of which the volume said that they are known: what they stand for must be there.
    owed_keys: BTreeSet<u64>,
    next_key: u64,
}

impl Ledger {
    pub fn request(&mut self) -> usize {
        self.requests.push(BTreeSet::new());
        self.requests.len() - 1
    }

    /// Keys for a new request: new ones, and now and then some that were used a moment ago.
    pub fn draw_keys(&mut self, rng: &mut StdRng) -> Vec<u64> {
        let mut keys = BTreeSet::new();
        for _ in 0..rng.random_range(0..6_u64).saturating_sub(2) {
            if self.next_key > 0 && rng.random_bool(0.3) {
                let back = rng.random_range(1..=self.next_key.min(40));
                keys.insert(self.next_key - back);
            } else {
                keys.insert(self.next_key);
                self.next_key += 1;
            }
        }
        keys.into_iter().collect()
    }

    /// The volume said that it knows a key, with that body.
    pub fn known_key(&mut self, key: u64, body: u64) {
        assert_eq!(body, body_of(key), "key {key} has another body");
        self.owed_keys.insert(key);
    }

    fn note_keys(&mut self, number: usize) {
        let attempt = &self.attempts[number];
        if attempt.promise == Promise::Weak {
            return;
        }
        for key in attempt.keys.clone() {
            let written = self.keys.entry(key).or_default();
            written.insert(number);
            assert_eq!(written.len(), 1, "key {key} was written twice: {written:?}");
        }
    }

    pub fn next_attempt(&self) -> usize {
        self.attempts.len()
    }

    pub fn sent(
        &mut self,
        session: SessionId,
        request: usize,
        parts: Vec<(SliceId, u64, u32)>,
        promise: Promise,
        keys: Vec<u64>,
    ) -> usize {
        let number = self.attempts.len();
        for (slice, _, _) in &parts {
            self.of_slice.entry(*slice).or_default().push(number);
        }
        self.attempts.push(Attempt {
            session,
            request,
            parts,
            known: Known::Nothing,
            promise,
            keys,
            found: None,
        });
        number
    }

    pub fn attempt(&self, number: usize) -> &Attempt {
        &self.attempts[number]
    }

    pub fn written(&mut self, number: usize) {
        let attempt = &mut self.attempts[number];
        assert_ne!(
            attempt.known,
            Known::Unwritten,
            "attempt {number} was refused and is said to be written: {attempt:?}"
        );
        assert!(
            attempt.found != Some(false) || attempt.promise == Promise::Weak,
            "attempt {number} is said to be written and is not there: {attempt:?}"
        );
        attempt.known = Known::Written;
        let written = &mut self.requests[attempt.request];
        written.insert(number);
        assert_eq!(written.len(), 1, "a request was written twice: {written:?}");
        self.note_keys(number);
    }

    pub fn unwritten(&mut self, number: usize) {
        let attempt = &mut self.attempts[number];
        assert!(
            !attempt.is_owed(),
            "attempt {number} was acknowledged and is said not to be there: {attempt:?}"
        );
        assert!(
            attempt.found != Some(true) || attempt.promise == Promise::Weak,
            "attempt {number} is said not to be there and is: {attempt:?}"
        );
        attempt.known = Known::Unwritten;
    }

    /// The highest number of a session in a slice that is an obligation.
    pub fn last(&self, slice: SliceId, session: SessionId) -> u64 {
        let of_slice = self.of_slice.get(&slice).into_iter().flatten();
        let written = of_slice
            .map(|number| &self.attempts[*number])
            .filter(|attempt| attempt.session == session && attempt.is_owed());
        written
            .filter_map(|attempt| seq_of(attempt, slice))
            .max()
            .unwrap_or(0)
    }

    /// Compares the content of a sealed slice with what was said of it.
    pub fn check(&mut self, slice: SliceId, csv: &[u8], content: &Content, promise: Promise) {
        let found = attempts_in(csv);
        let mut sessions: BTreeMap<SessionId, u64> = BTreeMap::new();
        let (mut rows, mut hours) = (0, BTreeMap::new());
        for (number, count) in &found {
            let attempt = &self.attempts[*number];
            let part = attempt.parts.iter().find(|(id, _, _)| *id == slice);
            let (_, seq, expected) = part.expect("a row is in a slice that it was not sent to");
            assert_eq!(
                count, expected,
                "attempt {number} is half there: {attempt:?}"
            );
            assert_ne!(
                attempt.known,
                Known::Unwritten,
                "attempt {number} was not written and is there: {attempt:?}"
            );
            let last = sessions.entry(attempt.session).or_default();
            let next = *seq == *last + 1 || (promise == Promise::Weak && *seq > *last);
            assert!(next, "out of order, twice or with a gap: {attempt:?}");
            *last = *seq;
            rows += u64::from(*count);
            *hours.entry(Hour::of(arrived(*number))).or_insert(0) += u64::from(*count);
        }
        if promise == Promise::Kept {
            assert_eq!(content.sessions, sessions, "numbers of slice {slice}");
        }
        assert_eq!(content.figures.rows, rows, "rows of slice {slice}");
        let told = content.later_hours.by_hour(&content.figures, arrived(0));
        let told: BTreeMap<_, _> = told.into_iter().collect();
        assert_eq!(told, hours, "hours of slice {slice}");
        assert_eq!(
            content.figures.raw_bytes,
            csv.len() as u64,
            "bytes of slice {slice}"
        );
        self.compare(slice, &found.iter().map(|(number, _)| *number).collect());
    }

    fn compare(&mut self, slice: SliceId, found: &BTreeSet<usize>) {
        for number in self.of_slice.get(&slice).cloned().iter().flatten() {
            let attempt = &mut self.attempts[*number];
            let there = found.contains(number);
            assert!(
                there || !attempt.is_owed(),
                "attempt {number} was acknowledged and is lost: {attempt:?}"
            );
            let elsewhere = *attempt.found.get_or_insert(there);
            assert!(
                there == elsewhere || attempt.promise == Promise::Weak,
                "attempt {number} is in some of its slices: {attempt:?}"
            );
            if there {
                let written = &mut self.requests[attempt.request];
                written.insert(*number);
                assert_eq!(written.len(), 1, "a request is there twice: {written:?}");
                self.note_keys(*number);
            }
        }
    }

    /// Keys that were said to be known.
    pub fn known_keys(&self) -> u64 {
        self.owed_keys.len() as u64
    }

    /// Obligations so far.
    pub fn obligations(&self) -> u64 {
        self.attempts.iter().filter(|a| a.is_owed()).count() as u64
    }

    /// All slices were looked at: every obligation must have been met.
    pub fn check_all_met(&self) {
        for (number, attempt) in self.attempts.iter().enumerate() {
            if attempt.is_owed() {
                assert_eq!(attempt.found, Some(true), "attempt {number}: {attempt:?}");
            }
        }
        for key in &self.owed_keys {
            let mut with_it = self
                .attempts
                .iter()
                .filter(|attempt| attempt.keys.contains(key));
            let is_met =
                |attempt: &Attempt| attempt.found == Some(true) || attempt.promise == Promise::Weak;
            assert!(
                with_it.any(is_met),
                "key {key} is known and nothing is there for it"
            );
        }
    }
}

/// When the records of an attempt arrived: some arrive a few hours later than others that are sent after them.
pub fn arrived(attempt: usize) -> Timestamp {
    let hours = attempt / 12 + attempt * 5 % 3;
    Hour(10 + hours as u64).begins()
}

/// What a key stands for.
pub fn body_of(key: u64) -> u64 {
    key * 7 + 1
}

fn seq_of(attempt: &Attempt, slice: SliceId) -> Option<u64> {
    let part = attempt.parts.iter().find(|(id, _, _)| *id == slice);
    part.map(|(_, seq, _)| *seq)
}

/// One row.
pub fn row(attempt: usize, position: u32, count: u32, padding: &str) -> String {
    format!("\"{attempt}\",\"{position}\",\"{count}\",\"{padding}\"\n")
}

/// The attempts in the content of a slice, with the rows that are there.
fn attempts_in(csv: &[u8]) -> Vec<(usize, u32)> {
    let text = std::str::from_utf8(csv).expect("rows are text");
    let mut found: Vec<(usize, u32)> = Vec::new();
    for line in text.lines() {
        let mut fields = line.split(',').map(|field| field.trim_matches('"'));
        let mut number = || -> u64 {
            let field = fields.next().expect("a row has four fields");
            field.parse().expect("a row begins with numbers")
        };
        let attempt = usize::try_from(number()).expect("there are fewer");
        let position = u32::try_from(number()).expect("there are fewer");
        match found.last_mut() {
            Some((last, count)) if *last == attempt && *count == position => *count += 1,
            _ => {
                assert_eq!(position, 0, "the start of a part is missing: {line:.60}");
                found.push((attempt, 1));
            }
        }
    }
    found
}
