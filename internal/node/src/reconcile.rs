//! Control loops: a [`Reconciler`] compares what is with what should be and does something about
//! the difference.
//!
//! A round takes no input, so a lost or repeated activation does no harm, and it is idempotent, so
//! a round that was cut short is simply run again. Rounds are periodic, and activated in between to
//! be quick. A round does not retry inside: an error ends it and the loop comes back, later and
//! later, but never later than the period.
//!
//! The loop belongs to the task that runs [`run_reconciler`]. It logs a failing reconciler once,
//! not every round.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::tasks::{TaskError, error_chain};

/// The shortest wait after a failed round, whatever the schedule says.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// One kind of work driven by state.
#[async_trait]
pub trait Reconciler: Send + Sync {
    /// What logs and metrics call it, for example `slice-rotation`.
    fn name(&self) -> &'static str;

    /// Runs one round: lists what differs and acts on it.
    ///
    /// Returns early, with what it has done, when `cancel` is cancelled.
    ///
    /// # Errors
    ///
    /// Whatever prevented the round; the next one starts from the state again.
    async fn reconcile(&self, cancel: &CancellationToken) -> Result<Outcome, TaskError>;
}

/// What a round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// How many things were changed. Zero when all was as it should be.
    pub changed: usize,
    /// Run again after at most this, because something falls due. `None`: the period is soon
    /// enough.
    pub next: Option<Duration>,
}

/// Asks for a round soon. Any number of activations before the round starts are one.
#[derive(Clone, Default)]
pub struct Activator(Arc<Activation>);

#[derive(Default)]
struct Activation {
    pending: AtomicBool,
    wake: Notify,
}

impl Activator {
    /// No activation pending.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a round. One that runs now has perhaps looked already, so another one follows it.
    pub fn activate(&self) {
        self.0.pending.store(true, Ordering::Release);
        self.0.wake.notify_one();
    }

    fn take(&self) {
        self.0.pending.swap(false, Ordering::AcqRel);
    }

    async fn activated(&self) {
        // The permit of `wake` may be left over from an activation that `take` has seen; `pending`
        // decides.
        while !self.0.pending.load(Ordering::Acquire) {
            self.0.wake.notified().await;
        }
    }
}

/// When rounds run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The longest time between two rounds.
    pub period: Duration,
    /// The shortest time between two rounds, however often it is activated. Bounds the load on the
    /// state store.
    pub min_pause: Duration,
}

/// What is known about the rounds of one reconciler. Clones are handles of the same record.
#[derive(Clone, Default)]
pub struct ReconcilerStatus {
    record: Arc<Mutex<Record>>,
    metrics: Option<(ReconcilerMetrics, &'static str)>,
}

#[derive(Default)]
struct Record {
    rounds: u64,
    failures_in_row: u32,
    running_since: Option<Instant>,
    last: Option<(Instant, Duration, Result<usize, String>)>,
}

/// A [`ReconcilerStatus`] as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconcilerSnapshot {
    /// Rounds finished since the start of the process.
    pub rounds: u64,
    /// How many of the latest rounds failed without one that succeeded.
    pub failures_in_row: u32,
    /// For how long the current round has been running; `None` between rounds.
    pub running_for: Option<Duration>,
    /// The last finished round.
    pub last: Option<LastRound>,
}

/// The round that finished last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastRound {
    /// How long ago it finished.
    pub ago: Duration,
    /// How long it took.
    pub elapsed: Duration,
    /// How many things it changed, or why it failed.
    pub result: Result<usize, String>,
}

impl ReconcilerStatus {
    /// No round yet, and no metrics; see [`ReconcilerMetrics::status`] for one with them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known now.
    #[must_use]
    pub fn snapshot(&self) -> ReconcilerSnapshot {
        let record = self.record.lock();
        let last = record
            .last
            .as_ref()
            .map(|(finished, elapsed, result)| LastRound {
                ago: finished.elapsed(),
                elapsed: *elapsed,
                result: result.clone(),
            });
        ReconcilerSnapshot {
            rounds: record.rounds,
            failures_in_row: record.failures_in_row,
            running_for: record.running_since.map(|since| since.elapsed()),
            last,
        }
    }

    fn started(&self) {
        self.record.lock().running_since = Some(Instant::now());
    }

    /// Records the end of a round and returns how many failed in a row, before and now.
    fn finished(&self, result: Result<usize, String>) -> (u32, u32) {
        let mut record = self.record.lock();
        let now = Instant::now();
        let elapsed = record
            .running_since
            .take()
            .map_or(Duration::ZERO, |since| now - since);
        if let Some((metrics, name)) = &self.metrics {
            metrics.observe(name, elapsed, &result);
        }
        let before = record.failures_in_row;
        record.rounds += 1;
        record.failures_in_row = if result.is_ok() {
            0
        } else {
            before.saturating_add(1)
        };
        record.last = Some((now, elapsed, result));
        (before, record.failures_in_row)
    }
}

/// Metrics of all reconcilers of the process.
#[derive(Clone)]
pub struct ReconcilerMetrics {
    rounds: IntCounterVec,
    changes: IntCounterVec,
    seconds: HistogramVec,
}

impl ReconcilerMetrics {
    /// Registers the metrics. Once per registry.
    ///
    /// # Errors
    ///
    /// When metrics of these names are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let rounds = IntCounterVec::new(
            Opts::new(
                "stream_reconciler_rounds_total",
                "Finished rounds by result. A rise of failed rounds means that state is not moving.",
            ),
            &["reconciler", "result"],
        )?;
        let changes = IntCounterVec::new(
            Opts::new(
                "stream_reconciler_changes_total",
                "Things changed by rounds. A rise without load means that two parties undo each other's work.",
            ),
            &["reconciler"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new(
                "stream_reconciler_round_seconds",
                "Time of a round. A rise means more state, or a slower state store.",
            )
            .buckets(vec![0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0]),
            &["reconciler"],
        )?;
        registry.register(Box::new(rounds.clone()))?;
        registry.register(Box::new(changes.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        Ok(Self {
            rounds,
            changes,
            seconds,
        })
    }

    /// A status whose rounds are counted under `name`.
    #[must_use]
    pub fn status(&self, name: &'static str) -> ReconcilerStatus {
        ReconcilerStatus {
            record: Arc::default(),
            metrics: Some((self.clone(), name)),
        }
    }

    fn observe(&self, name: &str, elapsed: Duration, result: &Result<usize, String>) {
        let word = if result.is_ok() { "ok" } else { "failed" };
        self.rounds.with_label_values(&[name, word]).inc();
        self.seconds
            .with_label_values(&[name])
            .observe(elapsed.as_secs_f64());
        if let Ok(changed) = result {
            let changed = u64::try_from(*changed).unwrap_or(u64::MAX);
            self.changes.with_label_values(&[name]).inc_by(changed);
        }
    }
}

/// Runs rounds until `cancel` is cancelled; the first one at once.
///
/// A cancelled round is awaited, not dropped: the reconciler gets the token and decides where it
/// can stop.
///
/// # Errors
///
/// None today; the type is that of a task body.
pub async fn run_reconciler(
    reconciler: Arc<dyn Reconciler>,
    activator: Activator,
    schedule: Schedule,
    status: ReconcilerStatus,
    cancel: CancellationToken,
) -> Result<(), TaskError> {
    let mut backoff = Backoff {
        schedule,
        failures: 0,
    };
    while !cancel.is_cancelled() {
        activator.take();
        status.started();
        let result = reconciler.reconcile(&cancel).await;
        let wait = finish_round(reconciler.name(), &result, &status, &mut backoff, &cancel);
        let finished = Instant::now();
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = tokio::time::sleep_until(finished + wait.longest) => {}
            () = activated_after(&activator, finished + wait.shortest) => {}
        }
    }
    Ok(())
}

async fn activated_after(activator: &Activator, earliest: Instant) {
    tokio::time::sleep_until(earliest).await;
    activator.activated().await;
}

/// How long to wait between two rounds: activations count from `shortest` on.
struct Wait {
    shortest: Duration,
    longest: Duration,
}

struct Backoff {
    schedule: Schedule,
    failures: u32,
}

impl Backoff {
    fn after_success(&mut self, outcome: Outcome) -> Wait {
        self.failures = 0;
        let Schedule { period, min_pause } = self.schedule;
        let wanted = outcome.next.unwrap_or(period).min(period);
        Wait {
            shortest: min_pause,
            longest: wanted.max(min_pause),
        }
    }

    /// Doubles from failure to failure. Activations wait as well: they often come from what makes
    /// the rounds fail.
    fn after_failure(&mut self) -> Wait {
        let Schedule { period, min_pause } = self.schedule;
        let factor = 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        let pause = min_pause
            .max(FIRST_BACKOFF)
            .saturating_mul(factor)
            .min(period)
            .max(min_pause);
        Wait {
            shortest: pause,
            longest: pause,
        }
    }
}

fn finish_round(
    reconciler: &'static str,
    result: &Result<Outcome, TaskError>,
    status: &ReconcilerStatus,
    backoff: &mut Backoff,
    cancel: &CancellationToken,
) -> Wait {
    match result {
        Ok(outcome) => {
            let (failed_before, _) = status.finished(Ok(outcome.changed));
            if failed_before > 0 {
                info!(
                    reconciler,
                    failed_rounds = failed_before,
                    "reconciler recovered"
                );
            }
            if outcome.changed > 0 {
                debug!(reconciler, changed = outcome.changed, "reconciled");
            }
            backoff.after_success(*outcome)
        }
        Err(error) => {
            let error = error_chain(error.as_ref());
            let (_, failures_in_row) = status.finished(Err(error.clone()));
            if cancel.is_cancelled() {
                debug!(reconciler, error, "round ended by the stop");
            } else if failures_in_row == 1 {
                warn!(reconciler, error, "reconciler failing, will go on trying");
            } else {
                debug!(
                    reconciler,
                    failures_in_row, error, "reconciler still failing"
                );
            }
            backoff.after_failure()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::sync::{Semaphore, watch};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Notes when each round started, waits for its permit and answers with the next prepared
    /// result.
    struct Scripted {
        began: Instant,
        starts: watch::Sender<Vec<u64>>,
        script: Mutex<VecDeque<Result<Outcome, &'static str>>>,
        gate: Semaphore,
    }

    #[async_trait]
    impl Reconciler for Scripted {
        fn name(&self) -> &'static str {
            "scripted"
        }

        async fn reconcile(&self, _cancel: &CancellationToken) -> Result<Outcome, TaskError> {
            let at = u64::try_from(self.began.elapsed().as_millis()).expect("tests are short");
            self.starts.send_modify(|starts| starts.push(at));
            self.gate.acquire().await.expect("never closed").forget();
            let next = self.script.lock().pop_front();
            next.unwrap_or(Ok(Outcome::default())).map_err(Into::into)
        }
    }

    struct Running {
        reconciler: Arc<Scripted>,
        activator: Activator,
        status: ReconcilerStatus,
        cancel: CancellationToken,
        task: tokio::task::JoinHandle<Result<(), TaskError>>,
    }

    fn start(
        permits: usize,
        schedule: Schedule,
        script: impl IntoIterator<Item = Result<Outcome, &'static str>>,
    ) -> Running {
        let reconciler = Arc::new(Scripted {
            began: Instant::now(),
            starts: watch::Sender::default(),
            script: Mutex::new(script.into_iter().collect()),
            gate: Semaphore::new(permits),
        });
        let (activator, status) = (Activator::new(), ReconcilerStatus::new());
        let cancel = CancellationToken::new();
        let run = run_reconciler(
            Arc::clone(&reconciler) as Arc<dyn Reconciler>,
            activator.clone(),
            schedule,
            status.clone(),
            cancel.clone(),
        );
        #[expect(clippy::disallowed_methods, reason = "joined by the test")]
        let task = tokio::spawn(run);
        Running {
            reconciler,
            activator,
            status,
            cancel,
            task,
        }
    }

    impl Running {
        /// Lets the paused clock run until that many rounds have started.
        async fn rounds(&self, count: usize) -> Vec<u64> {
            let mut starts = self.reconciler.starts.subscribe();
            starts
                .wait_for(|starts| starts.len() >= count)
                .await
                .expect("it is running")
                .clone()
        }

        async fn stop(self) {
            self.cancel.cancel();
            self.task.await.expect("no panic").expect("no error");
        }
    }

    fn every(period: Duration, min_pause_ms: u64) -> Schedule {
        Schedule {
            period,
            min_pause: Duration::from_millis(min_pause_ms),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn first_round_is_immediate_then_one_per_period() {
        let running = start(100, every(Duration::from_secs(10), 50), []);
        assert_eq!(running.rounds(3).await, [0, 10_000, 20_000]);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn outcome_brings_the_next_round_forward_but_not_below_the_pause() {
        let soon = |ms| {
            Ok(Outcome {
                changed: 1,
                next: Some(Duration::from_millis(ms)),
            })
        };
        let running = start(
            100,
            every(HOUR, 50),
            [soon(700), soon(1), soon(2 * 3_600_000)],
        );
        assert_eq!(running.rounds(4).await, [0, 700, 750, 750 + 3_600_000]);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn many_activations_are_one_round() {
        let running = start(100, every(HOUR, 50), []);
        running.rounds(1).await;
        for _ in 0..10 {
            running.activator.activate();
        }
        assert_eq!(running.rounds(2).await, [0, 50]);
        tokio::time::sleep(HOUR / 2).await;
        assert_eq!(running.reconciler.starts.borrow().len(), 2);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn activation_during_a_round_leads_to_another_one() {
        let running = start(0, every(HOUR, 50), []);
        running.rounds(1).await;
        running.activator.activate();
        running.reconciler.gate.add_permits(10);
        assert_eq!(running.rounds(2).await.len(), 2);
        tokio::time::sleep(HOUR / 2).await;
        assert_eq!(running.reconciler.starts.borrow().len(), 2);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_up_to_the_period_whatever_the_activations() {
        let script = [
            Err("a"),
            Err("b"),
            Err("c"),
            Err("d"),
            Ok(Outcome::default()),
        ];
        let running = start(100, every(Duration::from_millis(500), 50), script);
        for rounds in 1..=5 {
            running.rounds(rounds).await;
            running.activator.activate();
        }
        assert_eq!(running.rounds(6).await, [0, 100, 300, 700, 1_200, 1_250]);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn status_tells_the_last_round_and_the_running_one() {
        let running = start(
            2,
            every(Duration::from_secs(1), 0),
            [
                Ok(Outcome {
                    changed: 3,
                    next: None,
                }),
                Err("no etcd"),
            ],
        );
        running.rounds(2).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let snapshot = running.status.snapshot();
        assert_eq!((snapshot.rounds, snapshot.failures_in_row), (2, 1));
        assert_eq!(snapshot.running_for, None);
        assert_eq!(
            snapshot.last.expect("two rounds ran").result,
            Err("no etcd".to_owned())
        );
        running.rounds(3).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(running.status.snapshot().running_for.is_some());
        running.reconciler.gate.add_permits(10);
        running.stop().await;
    }

    #[tokio::test(start_paused = true)]
    async fn stop_waits_for_the_round_that_runs() {
        let running = start(0, every(HOUR, 0), []);
        running.rounds(1).await;
        running.cancel.cancel();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!running.task.is_finished());
        running.reconciler.gate.add_permits(1);
        assert_eq!(running.status.snapshot().rounds, 0);
        let status = running.status.clone();
        running.stop().await;
        assert_eq!(status.snapshot().rounds, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn rounds_are_counted() {
        let registry = Registry::new();
        let metrics = ReconcilerMetrics::register(&registry).expect("a fresh registry");
        let status = metrics.status("scripted");
        for result in [Ok(2), Ok(1), Err("x".to_owned())] {
            status.started();
            status.finished(result);
        }
        let count = |result| {
            metrics
                .rounds
                .with_label_values(&["scripted", result])
                .get()
        };
        assert_eq!((count("ok"), count("failed")), (2, 1));
        assert_eq!(metrics.changes.with_label_values(&["scripted"]).get(), 3);
    }
}
