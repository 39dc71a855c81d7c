//! One seed: lives of a volume one after the other, each ended by a crash or in order, then everything is compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};
use stream_model::time::ManualClock;
use stream_model::{SessionId, SliceId, Timestamp};
use stream_storage::local::{
    Content, FlushWorker, Health, OpenError, Options, Recovery, Stage, Step, Volume,
};
use stream_storage::wire::{Connection, Pending};

use super::client::{Client, New};
use super::disk::{End, Lie, Machine, Process};
use super::ledger::Promise;
use super::state::{SliceState, State};
use super::turns::{Turn, Turns};

const COMMIT: usize = 0;
const FLUSH: usize = 1;
const VOLUME: &str = "/volumes/default/simulated";
const PLENTY: u64 = 1 << 30;

/// What a seed decides once.
#[derive(Debug, Clone)]
pub struct Plan {
    pub lives: u32,
    pub steps: u32,
    /// How often an operation of the disk fails.
    pub faults: f64,
    pub segment_bytes: u64,
    pub checkpoint_bytes: u64,
    pub max_journal_bytes: u64,
    pub capacity: u64,
    /// A fiftieth of it makes a run. There are never so many.
    pub max_keys: u64,
    /// How often a life ends with a loss of power rather than a kill.
    pub power: f64,
}

impl Plan {
    fn any(rng: &mut StdRng) -> Self {
        let segment_bytes = [8, 16, 64, 256][rng.random_range(0..4)] << 10;
        let checkpoint_bytes = segment_bytes * rng.random_range(1..4);
        Self {
            lives: rng.random_range(2..6),
            steps: rng.random_range(20..120),
            faults: [0.0, 0.0, 0.002, 0.01, 0.05][rng.random_range(0..5)],
            segment_bytes,
            checkpoint_bytes,
            max_journal_bytes: checkpoint_bytes + segment_bytes * rng.random_range(2..8),
            capacity: if rng.random_bool(0.1) {
                segment_bytes * rng.random_range(6..16) + (64 << 10)
            } else {
                PLENTY
            },
            max_keys: [2_500, 5_000, 500_000][rng.random_range(0..3)],
            power: [0.5, 1.0, 0.2][rng.random_range(0..3)],
        }
    }
}

/// What a seed came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    pub lives: u64,
    pub obligations: u64,
    pub known_keys: u64,
    pub slices: u64,
    pub operations: u64,
    pub failed_operations: u64,
    /// Slices whose bytes changed after they were sealed, with the same rows.
    pub rebuilt: u64,
    pub trace: u64,
}

/// A process with the volume open.
struct Life {
    process: Process,
    volume: Volume,
    turns: Arc<Turns>,
    tick: Arc<AtomicBool>,
    threads: [Option<JoinHandle<()>>; 2],
    seals: BTreeMap<SliceId, Pending<Content>>,
}

struct World {
    rng: StdRng,
    plan: Plan,
    machine: Arc<Machine>,
    state: State,
    clients: Vec<Client>,
    next_session: u64,
    outcome: Outcome,
}

/// Runs one seed.
pub fn simulate(seed: u64) -> Outcome {
    simulate_with(seed, Lie::Nothing)
}

/// Runs one seed on a disk that lies.
pub fn simulate_with(seed: u64, lie: Lie) -> Outcome {
    let mut rng = StdRng::seed_from_u64(seed);
    let plan = Plan::any(&mut rng);
    let mut world = World::new(rng, plan, seed);
    world.machine.set_lie(lie);
    for _ in 0..world.plan.lives {
        world.live();
    }
    world.finish();
    world.outcome
}

impl World {
    fn new(mut rng: StdRng, plan: Plan, seed: u64) -> Self {
        let machine = Machine::new(seed ^ 0x5eed, plan.capacity);
        let state = State::new(&mut rng);
        let mut world = Self {
            rng,
            plan,
            machine,
            state,
            clients: Vec::new(),
            next_session: 1,
            outcome: Outcome::default(),
        };
        for _ in 0..world.rng.random_range(1..4) {
            let session = world.session();
            world.clients.push(Client::new(session));
        }
        world
    }

    fn session(&mut self) -> SessionId {
        self.next_session += 1;
        SessionId(self.next_session)
    }

    fn options(&self, process: &Process) -> Options {
        let clock = ManualClock::new(Timestamp::from_millis(1_000_000));
        Options {
            segment_bytes: self.plan.segment_bytes,
            checkpoint_bytes: self.plan.checkpoint_bytes,
            max_journal_bytes: self.plan.max_journal_bytes,
            reserve_bytes: 32 << 10,
            max_keys: self.plan.max_keys,
            disk: Arc::new(process.clone()),
            ..Options::new(PathBuf::from(VOLUME), Arc::new(clock))
        }
    }

    fn end_of_life(&mut self) -> End {
        if self.rng.random_bool(self.plan.power) {
            End::PowerLost
        } else {
            End::Killed
        }
    }

    /// Opens the volume; it may take several processes, but no more than were told to fail.
    fn open(&mut self, faults: f64, crashes: Crashes) -> Life {
        let mut crashes_left = if crashes == Crashes::Never { 0 } else { 20 };
        let mut faults_left = if faults > 0.0 { 20 } else { 0 };
        loop {
            let end = self.end_of_life();
            let ends_after = (crashes_left > 0).then(|| match self.rng.random_range(0..10) {
                0..3 => (self.rng.random_range(0..100), end),
                3..6 => (self.rng.random_range(50..500), end),
                _ => (self.rng.random_range(50..3000), end),
            });
            let faults = if faults_left > 0 { faults } else { 0.0 };
            let process = self.machine.start(ends_after, faults);
            let failed = self.machine.failed();
            let options = self.options(&process);
            match Volume::open_stepped(options) {
                Ok((volume, mut commit, flush, recovery)) => {
                    self.check_recovery(&recovery);
                    let turns = Turns::new(self.rng.random());
                    let tick = Arc::new(AtomicBool::new(false));
                    let threads = [
                        Some(turns.start(COMMIT, move || commit.step())),
                        Some(turns.start(FLUSH, flush_step(flush, &tick))),
                    ];
                    self.outcome.lives += 1;
                    return Life {
                        process,
                        volume,
                        turns,
                        tick,
                        threads,
                        seals: BTreeMap::new(),
                    };
                }
                Err(_) if process.has_ended() => crashes_left = i32::max(crashes_left - 1, 0),
                Err(error) if is_full(&error) => self.machine.set_capacity(PLENTY),
                Err(_) if self.machine.failed() > failed => faults_left -= 1,
                Err(error) => panic!("the volume does not open: {error}"),
            }
        }
    }

    /// A disk that only forgets what it may forget does no damage. What was never to be synced may leave holes, or be missing at the
    /// end although a checkpoint knows it.
    fn check_recovery(&self, recovery: &Recovery) {
        const MISSING: [&str; 2] = [
            "damaged journal entries",
            "the end of the journal is missing, a checkpoint knows more entries",
        ];
        for damage in &recovery.damage {
            let allowed = self.state.is_weak() && MISSING.contains(&damage.what);
            assert!(allowed, "{damage}");
        }
        // With its entries a slice may be gone from what the volume knows, while the file it was given is still there.
        for file in &recovery.unknown_files {
            let slice = self.state.slices.keys().find(|slice| {
                *file
                    == Path::new(VOLUME)
                        .join("slices")
                        .join(format!("{slice}.slice"))
            });
            let allowed = slice.is_some_and(|slice| self.state.promise(*slice) == Promise::Weak);
            assert!(allowed, "{} is unknown", file.display());
        }
    }

    fn live(&mut self) {
        let mut life = self.open(self.plan.faults, Crashes::Sometimes);
        self.take_up(&mut life);
        for _ in 0..self.plan.steps {
            self.step(&mut life);
            let turns = match self.rng.random_range(0..10) {
                0..5 => self.rng.random_range(0..4),
                5..9 => self.rng.random_range(0..30),
                _ => 300,
            };
            self.run(&mut life, turns);
            if life.process.has_ended() || failed(&life.volume) {
                break;
            }
        }
        if !life.process.has_ended() && !failed(&life.volume) && self.rng.random_bool(0.4) {
            self.stop(&mut life);
        }
        if !life.process.has_ended() {
            let end = self.end_of_life();
            self.machine.end(end);
        }
        self.bury(life);
    }

    /// Tells a volume that was opened what the state store says.
    fn take_up(&mut self, life: &mut Life) {
        for (id, record) in &self.state.slices {
            match record.state {
                SliceState::Writing => life.volume.open_slice(self.state.spec(*id)),
                SliceState::Closing => {
                    if self.rng.random_bool(0.5) {
                        life.volume.open_slice(self.state.spec(*id));
                    }
                }
                SliceState::Sealed(_) => {}
                SliceState::Released(_) => {
                    if life.volume.slice(*id).is_some() {
                        life.volume.release(*id);
                    }
                }
            }
        }
    }

    fn step(&mut self, life: &mut Life) {
        match self.rng.random_range(0..100) {
            0..70 => {
                let client = self.rng.random_range(0..self.clients.len());
                self.clients[client].act(
                    &life.volume,
                    &mut self.state,
                    &mut self.rng,
                    New::Requests,
                );
            }
            70..76 => self.rotate(life),
            76..86 => self.ask_for_contents(life),
            86..92 => life.tick.store(true, Ordering::SeqCst),
            92..95 => self.release(life),
            95..98 => {
                let client = self.rng.random_range(0..self.clients.len());
                self.clients[client].disconnect();
            }
            98 => {
                let session = self.session();
                let client = self.rng.random_range(0..self.clients.len());
                self.clients[client].die(session);
            }
            _ => {}
        }
    }

    fn rotate(&mut self, life: &mut Life) {
        let closing = |state: &State| {
            let closing = state.slices.values();
            closing.filter(|s| s.state == SliceState::Closing).count()
        };
        if closing(&self.state) > 3 {
            return;
        }
        let sink = self.rng.random_range(0..self.state.sinks.len());
        let (closed, successor) = self.state.rotate(sink);
        life.volume.open_slice(self.state.spec(successor));
        let pending = life.volume.seal(closed, Some(successor));
        life.seals.insert(closed, pending);
    }

    /// Asks for the contents of slices that are to be sealed, and sometimes again of those that are.
    fn ask_for_contents(&mut self, life: &mut Life) {
        for (id, record) in &self.state.slices {
            let wanted = match record.state {
                SliceState::Closing => true,
                SliceState::Sealed(_) => self.rng.random_bool(0.5),
                SliceState::Writing | SliceState::Released(_) => false,
            };
            if wanted && !life.seals.contains_key(id) {
                let pending = life.volume.seal(*id, record.successor);
                life.seals.insert(*id, pending);
            }
        }
    }

    fn release(&mut self, life: &mut Life) {
        for (id, record) in &mut self.state.slices {
            if let SliceState::Sealed(content) = &record.state
                && self.rng.random_bool(0.5)
            {
                record.state = SliceState::Released(content.clone());
                life.seals.remove(id);
                life.volume.release(*id);
            }
        }
    }

    /// Gives turns to the workers, until both have nothing to do.
    fn run(&mut self, life: &mut Life, turns: u32) {
        let mut idle = [false; 2];
        for _ in 0..turns {
            let alive: Vec<usize> = (0..2)
                .filter(|worker| life.threads[*worker].is_some() && !idle[*worker])
                .collect();
            if alive.is_empty() || life.process.has_ended() {
                break;
            }
            let worker = alive[self.rng.random_range(0..alive.len())];
            match life.turns.give(worker) {
                Turn::Done(Step::Idle) => idle[worker] = true,
                Turn::Done(Step::Worked) => idle = [false; 2],
                Turn::Passed => {}
                Turn::Done(Step::Ended) => life.join(worker),
                Turn::Panicked => {
                    life.join(worker);
                    panic!("a worker of the volume panicked");
                }
            }
            if !life.process.has_ended() {
                self.poll(life);
            }
        }
        assert!(
            failed(&life.volume) || life.volume.status().journal_bytes <= self.most_journal(),
            "the journal is too long: {:?}",
            life.volume.status()
        );
    }

    /// What the journal may take: the limit, the group that passes it, and a new segment for each opening.
    fn most_journal(&self) -> u64 {
        let group = (512 << 10) + self.plan.segment_bytes;
        self.plan.max_journal_bytes + group + self.plan.segment_bytes * 24
    }

    fn poll(&mut self, life: &mut Life) {
        for client in &mut self.clients {
            client.poll(&mut self.state);
        }
        let mut answered = Vec::new();
        life.seals
            .retain(|id, pending| match pending.now_or_never() {
                Some(Ok(content)) => {
                    answered.push((*id, content));
                    false
                }
                Some(Err(_)) => false,
                None => true,
            });
        for (id, content) in answered {
            self.check_content(life, id, content);
        }
    }

    /// Compares the file of a sealed slice with its content as told, and with everything that was sent.
    fn check_content(&mut self, life: &Life, id: SliceId, content: Content) {
        let compression = self.state.sinks[self.state.sink_of(id)].compression;
        let path = life.volume.slice_path(id);
        let file = self.machine.content(&path).unwrap_or_default();
        assert_eq!(
            content.figures.bytes,
            file.len() as u64,
            "length of slice {id}"
        );
        assert_eq!(content.checksum, sha256(&file), "checksum of slice {id}");
        let csv = super::state::unpack(compression, &file);
        let promise = self.state.promise(id);
        self.state.ledger.check(id, &csv, &content, promise);
        let record = self.state.slices.get_mut(&id).expect("it was asked for");
        match &record.state {
            SliceState::Closing => {
                record.state = SliceState::Sealed(content);
                self.outcome.slices += 1;
            }
            SliceState::Sealed(before) => {
                assert_eq!(before.sessions, content.sessions);
                if before.checksum != content.checksum {
                    // The seal is then recorded anew. Only a failed checkpoint moves the ends of runs.
                    assert!(self.machine.failed() > 0, "slice {id} has other bytes");
                    self.outcome.rebuilt += 1;
                    record.state = SliceState::Sealed(content);
                }
            }
            SliceState::Writing | SliceState::Released(_) => panic!("nobody asked for {id}"),
        }
    }

    fn stop(&mut self, life: &mut Life) {
        let stopped = life.volume.stop().now_or_never();
        assert_eq!(stopped, Some(()), "there are no threads to wait for");
        for _ in 0..1000 {
            self.run(life, 100);
            if life.process.has_ended() || life.threads.iter().all(Option::is_none) {
                return;
            }
        }
        panic!("the volume does not stop");
    }

    /// Ends the workers and everybody's connections.
    fn bury(&mut self, mut life: Life) {
        assert_ne!(
            life.end(),
            Turn::Panicked,
            "a worker of the volume panicked"
        );
        for client in &mut self.clients {
            client.lose_connections();
        }
    }

    /// With a disk that does what it should, everything comes to its end.
    fn finish(&mut self) {
        self.machine.set_capacity(PLENTY);
        let mut life = self.open(0.0, Crashes::Never);
        self.take_up(&mut life);
        self.until(&mut life, "clients settle", |world| {
            world.clients.iter().all(|client| !client.is_busy())
        });
        for sink in 0..self.state.sinks.len() {
            self.state.close(sink);
        }
        self.until(&mut life, "slices are sealed", |world| {
            let mut slices = world.state.slices.values();
            slices
                .all(|slice| matches!(slice.state, SliceState::Sealed(_) | SliceState::Released(_)))
        });
        self.state.ledger.check_all_met();
        self.empty(&mut life);
        self.stop(&mut life);
        self.machine.end(End::PowerLost);
        self.bury(life);
        let life = self.open(0.0, Crashes::Never);
        assert_eq!(life.volume.slices(), []);
        if !self.state.is_weak() {
            let connection = life.volume.connect(SessionId(1)).expect("it is open");
            let day = Some(24 * 60 * 60);
            assert_eq!(connection.key_window_seconds(), day, "keys were forgotten");
        }
        self.machine.end(End::Killed);
        self.bury(life);
        (self.outcome.operations, self.outcome.trace) = self.machine.trace();
        self.outcome.failed_operations = self.machine.failed();
        self.outcome.obligations = self.state.ledger.obligations();
        self.outcome.known_keys = self.state.ledger.known_keys();
    }

    fn until(&mut self, life: &mut Life, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            for client in 0..self.clients.len() {
                let client = &mut self.clients[client];
                client.act(&life.volume, &mut self.state, &mut self.rng, New::Nothing);
            }
            self.ask_for_contents(life);
            life.tick.store(true, Ordering::SeqCst);
            self.run(life, 50);
            assert!(!failed(&life.volume));
            if done(self) {
                return;
            }
        }
        let slices = life.volume.slices();
        panic!(
            "it never comes that {what}: {:?}, {slices:?}, {:?}, {:?}",
            life.volume.status(),
            self.state.slices,
            self.plan,
        );
    }

    /// Releases all slices: then nothing is left of them.
    fn empty(&mut self, life: &mut Life) {
        // Slices that an earlier life has sealed are looked through one after the other, when nothing else is to be done.
        for _ in 0..20 {
            let slices = life.volume.slices();
            if slices.iter().all(|slice| slice.stage == Stage::Sealed) {
                break;
            }
            life.tick.store(true, Ordering::SeqCst);
            self.run(life, 10_000);
        }
        for status in life.volume.slices() {
            assert_eq!(status.stage, Stage::Sealed);
        }
        for (id, record) in &mut self.state.slices {
            if let SliceState::Sealed(content) = &record.state {
                record.state = SliceState::Released(content.clone());
                life.seals.remove(id);
                life.volume.release(*id);
            }
        }
        self.until(life, "slices are gone", |world| {
            world
                .machine
                .files(&Path::new(VOLUME).join("slices"))
                .is_empty()
        });
        for _ in 0..4 {
            life.tick.store(true, Ordering::SeqCst);
            self.run(life, 10_000);
        }
        // An entry longer than a segment gets a segment of its own length, and the ballast is as long as the longest segment.
        let (ballast, kept): (Vec<_>, Vec<_>) = self
            .machine
            .files(&Path::new(VOLUME).join("journal"))
            .into_iter()
            .partition(|(path, _)| path.extension().is_some_and(|it| it == "ballast"));
        let longest = self.plan.segment_bytes + (512 << 10);
        assert!(
            ballast.iter().all(|(_, len)| *len <= longest),
            "{ballast:?}"
        );
        let journal: u64 = kept.iter().map(|(_, len)| len).sum();
        let most = self.plan.checkpoint_bytes + 4 * self.plan.segment_bytes + (512 << 10);
        assert!(journal <= most, "of at most {most} bytes: {kept:?}");
        assert_eq!(life.volume.slices(), []);
    }
}

impl Life {
    /// Ends the workers: they find that the disk does nothing any more.
    fn end(&mut self) -> Turn {
        let mut result = Turn::Done(Step::Ended);
        self.turns.end();
        for worker in [COMMIT, FLUSH] {
            while self.threads[worker].is_some() {
                let turn = self.turns.give(worker);
                if turn == Turn::Panicked {
                    result = turn;
                }
                if matches!(turn, Turn::Panicked | Turn::Done(Step::Ended)) {
                    self.join(worker);
                }
            }
        }
        result
    }

    fn join(&mut self, worker: usize) {
        if let Some(thread) = self.threads[worker].take() {
            thread.join().expect("it handed back its last turn");
        }
    }
}

impl Drop for Life {
    /// A seed that fails must not leave threads behind.
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether processes end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crashes {
    Sometimes,
    Never,
}

fn flush_step(
    mut flush: FlushWorker,
    tick: &Arc<AtomicBool>,
) -> impl FnMut() -> Step + Send + 'static {
    let tick = Arc::clone(tick);
    move || flush.step(tick.swap(false, Ordering::SeqCst))
}

fn failed(volume: &Volume) -> bool {
    matches!(volume.status().health, Health::Failed(_))
}

fn is_full(error: &OpenError) -> bool {
    matches!(error, OpenError::Directory { source, .. }
        if source.kind() == std::io::ErrorKind::StorageFull)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
