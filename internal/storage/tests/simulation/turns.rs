//! Who goes on: one of the driver and the two workers of the volume at a time, so that a seed fixes everything that happens.
//!
//! A worker has a thread, but runs only when the driver gives it the turn, and hands it back at disk operations. So
//! everything that the disk can tell apart is ordered by the seed.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_storage::local::Step;

/// No turn takes that long, however busy the machine is.
const FOREVER: Duration = Duration::from_secs(60);

thread_local! {
    static ME: RefCell<Option<(Arc<Turns>, usize)>> = const { RefCell::new(None) };
}

/// Hands the turn back to the driver if the caller is a worker: always, or now and then.
pub fn pass(always: Pass) {
    let me = ME.with(|me| me.borrow().clone());
    if let Some((turns, worker)) = me {
        turns.pass(worker, always);
    }
}

/// Whether the turn has to be handed back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Always,
    Sometimes,
}

/// How a turn of a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// In the middle of something.
    Passed,
    Done(Step),
    Panicked,
}

struct State {
    /// The worker that has the turn; none: the driver.
    running: Option<usize>,
    last: Turn,
    rng: StdRng,
    /// How often a worker goes on without handing back the turn.
    eagerness: f64,
    /// The workers are to end: they do not hand back the turn any more.
    over: bool,
}

/// The order of turns in one life of a process.
pub struct Turns {
    state: Mutex<State>,
    driver: Condvar,
    workers: [Condvar; 2],
}

impl Turns {
    pub fn new(seed: u64) -> Arc<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let eagerness = [0.0, 0.3, 0.6, 0.9][rng.random_range(0..4)];
        Arc::new(Self {
            state: Mutex::new(State {
                running: None,
                last: Turn::Passed,
                rng,
                eagerness,
                over: false,
            }),
            driver: Condvar::new(),
            workers: [Condvar::new(), Condvar::new()],
        })
    }

    /// Starts a worker. It waits for its first turn.
    pub fn start(
        self: &Arc<Self>,
        worker: usize,
        mut step: impl FnMut() -> Step + Send + 'static,
    ) -> JoinHandle<()> {
        let turns = Arc::clone(self);
        std::thread::spawn(move || {
            ME.with(|me| *me.borrow_mut() = Some((Arc::clone(&turns), worker)));
            turns.wait_for_turn(worker);
            while !turns.is_over() {
                let done = catch_unwind(AssertUnwindSafe(&mut step));
                let turn = done.map_or(Turn::Panicked, Turn::Done);
                if matches!(turn, Turn::Panicked | Turn::Done(Step::Ended)) {
                    drop(step);
                    turns.hand_back(turn);
                    return;
                }
                turns.hand_back(turn);
                turns.wait_for_turn(worker);
            }
            drop(step);
            turns.hand_back(Turn::Done(Step::Ended));
        })
    }

    /// Lets a worker go on until it hands back the turn.
    ///
    /// # Panics
    /// When it never does: it waits for something that another one has, who waits for its turn at an operation of the disk. In
    /// a real process that is a thread that waits for another one's disk.
    pub fn give(&self, worker: usize) -> Turn {
        let mut state = self.state.lock();
        state.running = Some(worker);
        self.workers[worker].notify_one();
        while state.running.is_some() {
            let waited = self.driver.wait_for(&mut state, FOREVER);
            assert!(
                !waited.timed_out() || state.running.is_none(),
                "worker {worker} waits for a lock that is held while the disk works"
            );
        }
        state.last
    }

    /// From now on workers end as soon as they get the turn.
    pub fn end(&self) {
        self.state.lock().over = true;
    }

    fn is_over(&self) -> bool {
        self.state.lock().over
    }

    fn pass(&self, worker: usize, always: Pass) {
        let mut state = self.state.lock();
        let eagerness = state.eagerness;
        if state.over || (always == Pass::Sometimes && state.rng.random_bool(eagerness)) {
            return;
        }
        state.last = Turn::Passed;
        state.running = None;
        self.driver.notify_one();
        while state.running != Some(worker) {
            self.workers[worker].wait(&mut state);
        }
    }

    fn hand_back(&self, turn: Turn) {
        let mut state = self.state.lock();
        state.last = turn;
        state.running = None;
        self.driver.notify_one();
    }

    fn wait_for_turn(&self, worker: usize) {
        let mut state = self.state.lock();
        while state.running != Some(worker) {
            self.workers[worker].wait(&mut state);
        }
    }
}
