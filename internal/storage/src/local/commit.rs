//! The commit thread: admits what the queue holds, writes it as one group, answers.
//!
//! Admission decides by what is durable plus what stands earlier in the same group. Nothing changes in the index before the
//! group is durable, so a group that fails leaves no trace.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use stream_model::level::Durability;
use stream_model::{SessionId, SliceId, Timestamp};
use tokio::sync::oneshot;

use super::ballast::is_full;
use super::format::{self, GroupBuffer, KeySection, Kind, SealEntry};
use super::index::{Committed, Frame, Index, Stage};
use super::journal::{Journal, Sync, WriteError};
use super::keys::LookupError;
use super::queue::{Next, Op, OpenReply};
use super::segment::Need;
use super::volume::{Content, FailOnPanic, Shared, Shortage};
use super::worker::Step;
use crate::crash::{self, Point};
use crate::wire::{
    Answer, Batch, KeyHash, KnownKey, MAX_CLAIMS, Opened, Refusal, RefusalReason, Sealed,
};

/// Entries are refused beyond this, so that lengths fit the format.
/// The most bytes of frames in a batch.
pub const MAX_BATCH_BYTES: usize = 256 << 20;
const MAX_PARTS: usize = 1000;

/// The commit thread of one volume.
pub(super) struct Committer {
    shared: Arc<Shared>,
    journal: Journal,
    buffer: GroupBuffer,
    /// Seals and releases that came while the journal was suspended. Bounded by the slices of the volume: a seal that is asked
    /// for again has given up the one before.
    held: Vec<Op>,
}

/// An admitted entry, on its way to the journal.
enum Entry {
    Batch {
        session: SessionId,
        batch: Batch,
        reply: oneshot::Sender<Answer>,
    },
    Seal {
        entry: SealEntry,
        reply: oneshot::Sender<Content>,
    },
    Release {
        slice: SliceId,
    },
}

/// A group in the making.
#[derive(Default)]
struct Group {
    entries: Vec<Entry>,
    opens: Vec<(SessionId, Vec<SliceId>, OpenReply)>,
    /// Highest sequence numbers that this group would commit.
    seqs: HashMap<(SliceId, SessionId), u64>,
    /// New sessions that this group would add to a slice.
    new_sessions: HashMap<SliceId, usize>,
    /// Slices that this group would seal, with their successors.
    seals: HashMap<SliceId, Option<SliceId>>,
    /// Keys that this group would commit, with their bodies.
    keys: HashMap<KeyHash, u64>,
    durable: bool,
    /// Batches that come too late for a slice that this group seals. What they are told is true only when the group is written.
    late: Vec<Late>,
}

/// A batch whose answer depends on the group.
struct Late {
    session: SessionId,
    batch: Batch,
    reply: oneshot::Sender<Answer>,
    answer: Answer,
}

/// What admission makes of a batch.
enum Verdict {
    Admit,
    Answer(Answer),
    /// The answer, once the group is written.
    Late(Answer),
}

/// What is remembered of the keys of a batch; nothing of one that has none.
type Lookup = Option<Result<Vec<KnownKey>, LookupError>>;

/// What became of a group.
enum Outcome {
    Written,
    Refused(RefusalReason),
}

impl Committer {
    pub fn new(shared: Arc<Shared>, journal: Journal) -> Self {
        Self {
            shared,
            journal,
            buffer: GroupBuffer::default(),
            held: Vec::new(),
        }
    }

    /// Works until the queue is closed, or until the outcome of a group cannot be made certain.
    pub fn run(mut self) {
        let _guard = FailOnPanic(Arc::clone(&self.shared));
        while let Some(ops) = self.shared.queue.next_group() {
            if self.round(ops) == Step::Ended {
                return;
            }
        }
    }

    /// Does what waits, if anything does.
    pub fn step(&mut self) -> Step {
        match self.shared.queue.try_next_group() {
            Next::Group(ops) => self.round(ops),
            Next::Empty => Step::Idle,
            Next::Closed => {
                // The flush worker ends after this one, so that a seal that was queued still gets its content.
                self.shared.flush.stop();
                Step::Ended
            }
        }
    }

    fn round(&mut self, ops: Vec<Op>) -> Step {
        let ops = match self.hold(ops) {
            Ok(ops) => ops,
            Err(_) => return Step::Ended,
        };
        let group = self.admit(ops);
        match self.commit(group) {
            Ok(()) => Step::Worked,
            Err(_) => Step::Ended,
        }
    }

    /// While the journal is suspended only a probe writes to it: each attempt that fails costs a segment. Seals and releases
    /// wait for the one that succeeds; batches are refused by admission.
    fn hold(&mut self, ops: Vec<Op>) -> Result<Vec<Op>, WriteError> {
        if !self.shared.suspension.is_on() {
            return Ok(ops);
        }
        let is_probe = |op: &Op| matches!(op, Op::Probe);
        if ops.iter().any(is_probe) {
            self.probe()?;
        }
        let is_held = |op: &Op| matches!(op, Op::Seal { .. } | Op::Release { .. });
        let (held, rest): (Vec<Op>, Vec<Op>) = ops.into_iter().partition(is_held);
        let is_wanted = |op: &Op| !matches!(op, Op::Seal { reply, .. } if reply.is_closed());
        self.held.retain(is_wanted);
        self.held.extend(held);
        if self.shared.suspension.is_on() {
            return Ok(rest);
        }
        let mut ops = std::mem::take(&mut self.held);
        ops.extend(rest);
        Ok(ops)
    }

    /// Tries whether the disk works. An error means that the volume must stop.
    fn probe(&mut self) -> Result<(), WriteError> {
        let tried = match self.journal.make_room(format::BLOCK, Need::Upkeep) {
            Ok(made) => {
                made.into_iter()
                    .for_each(|segment| self.shared.segment_started(segment));
                self.journal.probe()
            }
            Err(error) => {
                self.shared.suspend(&error);
                return Ok(());
            }
        };
        match tried {
            Ok(()) => self.shared.resume(),
            Err(WriteError::Discarded(error)) => {
                let segment = Arc::clone(self.journal.segment());
                self.shared.segment_started(segment);
                self.shared.suspend(&error);
            }
            Err(uncertain) => {
                self.shared.fail(uncertain.to_string());
                return Err(uncertain);
            }
        }
        Ok(())
    }

    fn admit(&self, ops: Vec<Op>) -> Group {
        let mut group = Group::default();
        let lookups = self.look_up(&ops);
        let index = self.shared.index.lock();
        let refusal = self.shared.refusal(&index);
        for (op, lookup) in ops.into_iter().zip(lookups) {
            match op {
                Op::Append {
                    session,
                    batch,
                    reply,
                    ..
                } => match group.judge(&index, session, &batch, refusal, lookup) {
                    Verdict::Admit => group.admit_batch(&index, session, batch, reply),
                    Verdict::Answer(answer) => self.answer(reply, answer),
                    Verdict::Late(answer) => group.late.push(Late {
                        session,
                        batch,
                        reply,
                        answer,
                    }),
                },
                Op::Open {
                    session,
                    slices,
                    reply,
                } => group.opens.push((session, slices, reply)),
                Op::Seal {
                    slice,
                    successor,
                    reply,
                } => {
                    group.admit_seal(&index, slice, successor, reply, &self.shared);
                }
                Op::Release { slice } => {
                    if index.slices.contains_key(&slice) {
                        // Durable before the file goes: a missing file must always have its explanation.
                        group.durable = true;
                        group.entries.push(Entry::Release { slice });
                    }
                }
                Op::Probe => {}
            }
        }
        group
    }

    /// Looks for the keys of all batches, before the index is locked: it may take a look at the disk. Nobody else adds keys.
    fn look_up(&self, ops: &[Op]) -> Vec<Lookup> {
        let keys = &self.shared.keys;
        let look_up = |op: &Op| match op {
            Op::Append { batch, .. } if !batch.keys.is_empty() => {
                if !self.may_decide(batch) {
                    return Some(Err(LookupError::Elsewhere));
                }
                // A repetition is answered however many keys wait to be written.
                let is_too_much = |known: &Vec<KnownKey>| known.is_empty() && keys.is_behind();
                let lookup = keys.look_up(&batch.keys);
                Some(match lookup {
                    Ok(known) if is_too_much(&known) => Err(LookupError::Behind),
                    lookup => lookup,
                })
            }
            _ => None,
        };
        ops.iter().map(look_up).collect()
    }

    /// Whether this volume is the one to say whether the keys of a batch are new.
    fn may_decide(&self, batch: &Batch) -> bool {
        let Some(gate) = &self.shared.key_gate else {
            return true;
        };
        let slice = batch.parts.first().map(|part| part.slice);
        slice.is_none_or(|slice| gate.may_decide(self.shared.id, slice, &batch.keys))
    }

    fn answer(&self, reply: oneshot::Sender<Answer>, answer: Answer) {
        match &answer {
            Answer::Refused(refusal) => self.shared.metrics.refused(refusal.reason),
            Answer::KnownKeys(known) => self.shared.metrics.known_keys(known.len()),
            Answer::Committed | Answer::Sealed(_) => {}
        }
        // The client may have gone; then nobody needs the answer.
        let _ = reply.send(answer);
    }

    /// Writes the group and answers it. An error means that the volume must stop without answering.
    fn commit(&mut self, group: Group) -> Result<(), WriteError> {
        let Group {
            entries,
            opens,
            durable,
            late,
            ..
        } = group;
        if !entries.is_empty() {
            let sync = if durable { Sync::Data } else { Sync::None };
            match self.write(entries, sync)? {
                Outcome::Written => late
                    .into_iter()
                    .for_each(|late| self.answer(late.reply, late.answer)),
                Outcome::Refused(reason) => late
                    .into_iter()
                    .for_each(|late| self.refuse(late.session, &late.batch, late.reply, reason)),
            }
        }
        let index = self.shared.index.lock();
        for (session, slices, reply) in opens {
            let opened: BTreeMap<SliceId, Opened> = slices
                .into_iter()
                .map(|id| (id, index.opened(id, session)))
                .collect();
            let _ = reply.send(opened);
        }
        Ok(())
    }

    fn write(&mut self, entries: Vec<Entry>, sync: Sync) -> Result<Outcome, WriteError> {
        let bytes = entries.iter().map(Entry::stride).sum();
        match self.journal.make_room(bytes, Entry::need(&entries)) {
            Ok(None) => {}
            Ok(Some(segment)) => {
                // The header of the new one vouches for all that is in the one before.
                self.shared.keys.synced();
                self.shared.segment_started(segment);
            }
            Err(error) => {
                self.no_segment(&error);
                self.refuse_all(entries, RefusalReason::DiskFull);
                return Ok(Outcome::Refused(RefusalReason::DiskFull));
            }
        }
        let now = self.shared.clock.now();
        let (number, places) = self.encode(&entries, now);
        crash::point(Point::GroupEncoded);
        let started = std::time::Instant::now();
        match self.journal.write(self.buffer.bytes(), sync) {
            Ok(()) => {
                let written = self.buffer.bytes().len();
                self.shared
                    .metrics
                    .group(entries.len(), written, sync, started.elapsed());
                self.apply(number, entries, places, now, sync);
                Ok(Outcome::Written)
            }
            Err(WriteError::Discarded(error)) => {
                self.shared
                    .segment_started(Arc::clone(self.journal.segment()));
                self.shared.suspend(&error);
                self.refuse_all(entries, RefusalReason::WriteFailed);
                Ok(Outcome::Refused(RefusalReason::WriteFailed))
            }
            Err(uncertain @ WriteError::Uncertain { .. }) => {
                // Before the replies are dropped: whoever learns that the outcome is unknown finds the volume stopped.
                self.shared.fail(uncertain.to_string());
                drop(entries);
                Err(uncertain)
            }
        }
    }

    fn no_segment(&self, error: &std::io::Error) {
        let volume = &self.shared.label;
        if is_full(error) {
            // Known at once, not only when somebody looks again.
            self.shared.free_bytes.store(0, Ordering::Relaxed);
            tracing::warn!(volume = %volume, error = %error, "there is no room for a journal segment");
        } else {
            tracing::error!(volume = %volume, error = %error, "cannot make a journal segment");
        }
    }

    /// Encodes the group. Returns its number and, for each entry, the entry's number and the offsets of its frames in the
    /// segment.
    fn encode(&mut self, entries: &[Entry], now: Timestamp) -> (u64, Vec<(u64, Vec<u64>)>) {
        let (seed, base) = (self.journal.seed(), self.journal.offset());
        let group = self.journal.next_group();
        self.buffer.clear();
        let mut places = Vec::with_capacity(entries.len());
        for entry in entries {
            let number = self.journal.next_entry();
            let mut frames = Vec::new();
            let payload = match entry {
                Entry::Batch { session, batch, .. } => {
                    self.buffer.push(seed, Kind::Batch, number, group, |out| {
                        frames = format::encode_batch(*session, &batch.parts, out);
                        format::encode_keys(now, &batch.keys, out);
                    })
                }
                Entry::Seal { entry, .. } => {
                    self.buffer
                        .push(seed, Kind::Seal, number, group, |out| entry.encode(out))
                }
                Entry::Release { slice } => {
                    self.buffer.push(seed, Kind::Release, number, group, |out| {
                        out.extend_from_slice(&slice.to_bytes());
                    })
                }
            };
            frames.iter_mut().for_each(|frame| *frame += base + payload);
            places.push((number, frames));
        }
        (group, places)
    }

    /// Takes the written group into the index, then answers it.
    fn apply(
        &self,
        group: u64,
        entries: Vec<Entry>,
        places: Vec<(u64, Vec<u64>)>,
        now: Timestamp,
        sync: Sync,
    ) {
        let segment = self.journal.segment();
        let mut answers = Vec::with_capacity(entries.len());
        let mut index = self.shared.index.lock();
        if let Some((last, _)) = places.last() {
            index.position = (*last, group);
        }
        for (entry, (number, frames)) in entries.into_iter().zip(places) {
            match entry {
                Entry::Batch {
                    session,
                    batch,
                    reply,
                } => {
                    for (part, offset) in batch.parts.into_iter().zip(frames) {
                        let id = part.slice;
                        index.commit(Committed {
                            slice: id,
                            session,
                            seq: part.seq,
                            rows: part.rows,
                            first_at: part.first_at,
                            last_at: part.last_at,
                            compression: part.compression,
                            frame: Frame {
                                entry: number,
                                segment: Arc::clone(segment),
                                offset,
                                len: part.frame.len().try_into().expect("checked on arrival"),
                                raw: part.raw_bytes,
                            },
                        });
                        self.shared.committed(&mut index, id, now);
                    }
                    if !batch.keys.is_empty() {
                        index.usage.record_keys(segment.number, number);
                        let claims = batch.keys;
                        let section = KeySection { at: now, claims };
                        self.shared.keys.commit(number, group, &section);
                    }
                    answers.push(reply);
                }
                Entry::Seal { entry, reply } => {
                    index.seal(&entry, segment.number, number);
                    self.shared.wait_for_content(entry.slice, reply);
                    self.shared.flush.seal(entry.slice);
                    crash::point(Point::SealCommitted);
                }
                Entry::Release { slice } => {
                    index.release(slice, segment.number);
                    self.shared.flush.release(slice);
                    crash::point(Point::ReleaseCommitted);
                }
            }
        }
        drop(index);
        if sync == Sync::Data {
            self.shared.keys.synced();
        }
        crash::point(Point::GroupIndexed);
        for reply in answers {
            let _ = reply.send(Answer::Committed);
        }
        crash::point(Point::GroupAnswered);
    }

    /// Refuses batches that were certainly not written. Seals and releases are simply asked for again.
    fn refuse_all(&self, entries: Vec<Entry>, reason: RefusalReason) {
        for entry in entries {
            if let Entry::Batch {
                session,
                batch,
                reply,
            } = entry
            {
                self.refuse(session, &batch, reply, reason);
            }
        }
    }

    fn refuse(
        &self,
        session: SessionId,
        batch: &Batch,
        reply: oneshot::Sender<Answer>,
        reason: RefusalReason,
    ) {
        let expected = expected(&self.shared.index.lock(), session, batch);
        self.answer(reply, Answer::Refused(Refusal { reason, expected }));
    }
}

impl Entry {
    /// What a segment for these entries is needed for.
    fn need(entries: &[Self]) -> Need {
        let has_batches = entries
            .iter()
            .any(|entry| matches!(entry, Self::Batch { .. }));
        if has_batches {
            Need::Batches
        } else {
            Need::Upkeep
        }
    }

    /// Bytes that the entry takes in the group.
    fn stride(&self) -> u64 {
        let payload = match self {
            Self::Batch { batch, .. } => {
                format::batch_len(&batch.parts) + format::keys_len(&batch.keys)
            }
            Self::Seal { entry, .. } => 16 + 17 + 4 + 16 * entry.sessions.len(),
            Self::Release { .. } => 16,
        };
        ((format::ENTRY_HEADER + payload).next_multiple_of(format::ALIGN)) as u64
    }
}

fn expected(index: &Index, session: SessionId, batch: &Batch) -> BTreeMap<SliceId, u64> {
    let next = |id| {
        index
            .slices
            .get(&id)
            .map(|slice| (id, slice.last(session) + 1))
    };
    batch
        .parts
        .iter()
        .filter_map(|part| next(part.slice))
        .collect()
}

impl Group {
    fn judge(
        &self,
        index: &Index,
        session: SessionId,
        batch: &Batch,
        refusal: Option<RefusalReason>,
        lookup: Lookup,
    ) -> Verdict {
        let refuse = |reason| {
            Verdict::Answer(Answer::Refused(Refusal {
                reason,
                expected: expected(index, session, batch),
            }))
        };
        if let Some(rule) = malformed(batch) {
            return refuse(RefusalReason::Malformed(rule));
        }
        let durable = |id| index.slices.get(&id).map_or(0, |slice| slice.last(session));
        // A batch is one entry, so either all of its parts were written before, or none.
        if batch
            .parts
            .iter()
            .all(|part| part.seq <= durable(part.slice))
        {
            return Verdict::Answer(Answer::Committed);
        }
        let sealed: BTreeMap<SliceId, Sealed> = batch
            .parts
            .iter()
            .filter_map(|part| Some((part.slice, self.sealed(index, part.slice, session)?)))
            .collect();
        if sealed.keys().any(|slice| self.seals.contains_key(slice)) {
            return Verdict::Late(Answer::Sealed(sealed));
        }
        if !sealed.is_empty() {
            return Verdict::Answer(Answer::Sealed(sealed));
        }
        for part in &batch.parts {
            let known = index
                .slices
                .get(&part.slice)
                .filter(|slice| slice.spec.is_some());
            let Some(slice) = known else {
                return refuse(RefusalReason::UnknownSlice(part.slice));
            };
            if slice
                .spec
                .as_ref()
                .is_some_and(|spec| spec.compression != part.compression)
            {
                return refuse(RefusalReason::Malformed(
                    "its compression is not the slice's",
                ));
            }
            let key = (part.slice, session);
            let last = self
                .seqs
                .get(&key)
                .copied()
                .unwrap_or_else(|| slice.last(session));
            if part.seq != last + 1 {
                return refuse(RefusalReason::OutOfOrder);
            }
            let added = self.new_sessions.get(&part.slice).copied().unwrap_or(0);
            let fits = slice.has_room_for(session)
                && (slice.sessions.contains_key(&session)
                    || self.seqs.contains_key(&key)
                    || slice.sessions.len() + added < stream_model::slice::MAX_SESSIONS);
            if !fits {
                return refuse(RefusalReason::TooManySessions(part.slice));
            }
        }
        // Before what is full: a repetition needs no room.
        match lookup {
            None => {}
            Some(Ok(known)) => {
                if let Some(verdict) = self.known(batch, known) {
                    return verdict;
                }
            }
            Some(Err(LookupError::Elsewhere)) => return refuse(RefusalReason::KeysElsewhere),
            // Nothing is known of the keys: the batch must not be written.
            Some(Err(_)) => return refuse(RefusalReason::Overloaded),
        }
        match refusal.or_else(|| full_sink(index, batch)) {
            Some(reason) => refuse(reason),
            None => Verdict::Admit,
        }
    }

    /// What is answered to a batch some of whose keys are committed, or would be by an earlier entry of this group.
    fn known(&self, batch: &Batch, mut known: Vec<KnownKey>) -> Option<Verdict> {
        let durable = known.len();
        for (position, claim) in (0..).zip(&batch.keys) {
            if let Some(body) = self.keys.get(&claim.key) {
                let body = *body;
                known.push(KnownKey { position, body });
            }
        }
        match known.len() {
            0 => None,
            all if all == durable => Some(Verdict::Answer(Answer::KnownKeys(known))),
            _ => Some(Verdict::Late(Answer::KnownKeys(known))),
        }
    }

    /// What the session is told of a slice that is sealed, or that an earlier entry of this group seals.
    fn sealed(&self, index: &Index, id: SliceId, session: SessionId) -> Option<Sealed> {
        if let Some(sealed) = index
            .slices
            .get(&id)
            .and_then(|slice| slice.sealed(session))
        {
            return Some(sealed);
        }
        let successor = *self.seals.get(&id)?;
        let durable = index.slices.get(&id).map_or(0, |slice| slice.last(session));
        let last = self.seqs.get(&(id, session)).copied().unwrap_or(durable);
        Some(Sealed { last, successor })
    }

    fn admit_batch(
        &mut self,
        index: &Index,
        session: SessionId,
        batch: Batch,
        reply: oneshot::Sender<Answer>,
    ) {
        for part in &batch.parts {
            let known = index.slices.get(&part.slice);
            let is_new = known.is_some_and(|slice| !slice.sessions.contains_key(&session));
            if self.seqs.insert((part.slice, session), part.seq).is_none() && is_new {
                *self.new_sessions.entry(part.slice).or_default() += 1;
            }
            self.durable |= known.is_none_or(|slice| slice.durability() == Durability::Disk);
        }
        let claims = batch.keys.iter();
        self.keys
            .extend(claims.map(|claim| (claim.key, claim.body)));
        self.entries.push(Entry::Batch {
            session,
            batch,
            reply,
        });
    }

    fn admit_seal(
        &mut self,
        index: &Index,
        id: SliceId,
        successor: Option<SliceId>,
        reply: oneshot::Sender<Content>,
        shared: &Shared,
    ) {
        let slice = index.slices.get(&id);
        match slice.map(|slice| &slice.stage) {
            Some(Stage::Sealed { content, .. }) => {
                let _ = reply.send(content.clone());
            }
            Some(Stage::Sealing { .. }) => shared.wait_for_content(id, reply),
            Some(Stage::Open) | None => {
                let mut sessions = slice
                    .map(|slice| slice.sessions.clone())
                    .unwrap_or_default();
                for ((_, session), seq) in self.seqs.iter().filter(|((slice, _), _)| *slice == id) {
                    sessions.insert(*session, *seq);
                }
                self.seals.insert(id, successor);
                self.durable = true;
                let entry = SealEntry {
                    slice: id,
                    successor,
                    sessions,
                };
                self.entries.push(Entry::Seal { entry, reply });
            }
        }
    }
}

/// Why a sink of the batch takes no more.
fn full_sink(index: &Index, batch: &Batch) -> Option<RefusalReason> {
    let is_full = |slice: &SliceId| {
        let slice = index.slices.get(slice);
        slice.is_some_and(|slice| index.space.is_sink_full(slice))
    };
    let mut slices = batch.parts.iter().map(|part| part.slice);
    slices.find(is_full).map(RefusalReason::SinkFull)
}

/// The rule that a batch breaks, if any.
fn malformed(batch: &Batch) -> Option<&'static str> {
    if batch.parts.is_empty() || batch.parts.len() > MAX_PARTS {
        return Some("it must have 1 to 1000 parts");
    }
    if batch.bytes() > MAX_BATCH_BYTES {
        return Some("it must not be larger than 256 MiB");
    }
    if batch
        .parts
        .iter()
        .any(|part| part.rows == 0 || part.seq == 0)
    {
        return Some("every part must have rows and a sequence number from 1");
    }
    if batch.keys.len() > MAX_CLAIMS {
        return Some("it must not have more than 65536 keys");
    }
    let mut keys: Vec<_> = batch.keys.iter().map(|claim| claim.key).collect();
    keys.sort_unstable();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) {
        return Some("a key occurs twice in it");
    }
    let mut slices: Vec<_> = batch.parts.iter().map(|part| part.slice).collect();
    slices.sort_unstable();
    slices
        .windows(2)
        .any(|pair| pair[0] == pair[1])
        .then_some("a slice occurs twice in it")
}

impl Shared {
    /// Why no batch can be taken at present.
    fn refusal(&self, index: &Index) -> Option<RefusalReason> {
        if self.suspension.is_on() {
            return Some(RefusalReason::WriteFailed);
        }
        match self.shortage(index)? {
            Shortage::Disk => Some(RefusalReason::DiskFull),
            Shortage::Volume => Some(RefusalReason::VolumeFull),
        }
    }
}
