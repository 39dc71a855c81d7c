//! Why the process stops, and the phases of an orderly stop.
//!
//! The binary owns one [`Shutdown`]; whoever finds that the process must stop requests it, and only
//! the first request counts as the reason. The binary then runs [`Phases`]: intake, drain, sync,
//! commit, release, each with a deadline. A phase that hangs is reported and left behind, so that a
//! stop always ends.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::tasks::{TaskError, error_chain, panic_text};

/// Exit code after a second signal, by the custom of shells for an interrupt (128 + SIGINT).
const EXIT_INTERRUPTED: i32 = 130;

/// Why the process stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Somebody sent this signal, for example `SIGTERM`.
    Signal(&'static str),
    /// A task without which the process is of no use has failed.
    Failure {
        /// Component and name of the task.
        task: String,
        /// The error with all its sources, or what the panic said.
        error: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) => write!(f, "{name}"),
            Self::Failure { task, error } => write!(f, "task {task} failed: {error}"),
        }
    }
}

/// The request to stop the process. Clones are handles of the same request.
#[derive(Clone, Default)]
pub struct Shutdown {
    request: Arc<Request>,
}

#[derive(Default)]
struct Request {
    reason: OnceLock<Reason>,
    failure: OnceLock<Reason>,
    token: CancellationToken,
}

impl Shutdown {
    /// Nothing requested yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the process to stop. The first reason stays; the first failure is kept beside it.
    pub fn request(&self, reason: Reason) {
        if matches!(reason, Reason::Failure { .. }) {
            // Only the first failure is of interest, the others usually follow from it.
            let _ = self.request.failure.set(reason.clone());
        }
        let _ = self.request.reason.set(reason);
        self.request.token.cancel();
    }

    /// Waits until somebody requests the stop.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the request stays.
    pub async fn requested(&self) -> Reason {
        self.request.token.cancelled().await;
        let reason = self.request.reason.get();
        reason
            .expect("the reason is set before the token is cancelled")
            .clone()
    }

    /// Whether the stop has been requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.request.token.is_cancelled()
    }

    /// The first failure, also when it came after the stop had been requested for another reason.
    /// Decides the exit code.
    #[must_use]
    pub fn failure(&self) -> Option<Reason> {
        self.request.failure.get().cloned()
    }
}

/// Requests the stop on the first SIGINT or SIGTERM and returns when the stop is requested, by
/// whomever.
///
/// From then on a signal that follows another one ends the process at once with exit code 130: an
/// operator who asks twice does not want to wait.
pub async fn wait_for_signal(shutdown: &Shutdown) {
    let (interrupt, terminate) = match (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            error!(%error, "cannot listen for signals, only kill will stop this process");
            shutdown.requested().await;
            return;
        }
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "must outlive every task group and ends with the process; nobody can join it"
    )]
    tokio::spawn(watch_signals(interrupt, terminate, shutdown.clone()));
    shutdown.requested().await;
}

async fn watch_signals(mut interrupt: Signal, mut terminate: Signal, shutdown: Shutdown) {
    let first = next_signal(&mut interrupt, &mut terminate).await;
    info!(
        signal = first,
        "signal received, stopping; send another one to exit at once"
    );
    shutdown.request(Reason::Signal(first));
    let second = next_signal(&mut interrupt, &mut terminate).await;
    warn!(
        signal = second,
        "second signal received, exiting without an orderly stop"
    );
    std::process::exit(EXIT_INTERRUPTED);
}

async fn next_signal(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        biased;
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// A future in a box, as a phase returns it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

type PhaseBody = Box<dyn FnOnce() -> BoxFuture<'static, Result<(), TaskError>> + Send>;

struct Phase {
    name: &'static str,
    deadline: Duration,
    body: PhaseBody,
    held: Option<Box<dyn Fn() -> String + Send>>,
}

/// The steps of an orderly stop, run one after the other in the order in which they were added.
#[derive(Default)]
pub struct Phases {
    phases: Vec<Phase>,
}

impl Phases {
    /// No phases yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a phase. Its body is called when its turn comes and dropped when `deadline` has passed.
    pub fn add(
        &mut self,
        name: &'static str,
        deadline: Duration,
        body: impl FnOnce() -> BoxFuture<'static, Result<(), TaskError>> + Send + 'static,
    ) {
        self.phases.push(Phase {
            name,
            deadline,
            body: Box::new(body),
            held: None,
        });
    }

    /// Like [`add`](Self::add); `held` tells what is still held when the deadline has passed, for
    /// the log.
    pub fn add_holding(
        &mut self,
        name: &'static str,
        deadline: Duration,
        held: impl Fn() -> String + Send + 'static,
        body: impl FnOnce() -> BoxFuture<'static, Result<(), TaskError>> + Send + 'static,
    ) {
        let held = Some(Box::new(held) as Box<dyn Fn() -> String + Send>);
        self.phases.push(Phase {
            name,
            deadline,
            body: Box::new(body),
            held,
        });
    }

    /// Runs all phases and tells whether every one ended well and in time.
    ///
    /// A phase that fails, panics or hangs is logged as an error and the next one runs: what comes
    /// later, such as giving up a lease, matters all the more then.
    pub async fn run(self) -> bool {
        let mut clean = true;
        for phase in self.phases {
            clean &= phase.run().await;
        }
        clean
    }
}

impl Phase {
    async fn run(self) -> bool {
        let Self {
            name: phase,
            deadline,
            body,
            held,
        } = self;
        info!(phase, "stop phase started");
        let started = Instant::now();
        // The body itself may panic before it has made its future, hence the block around both.
        let guarded = AssertUnwindSafe(async move { body().await }).catch_unwind();
        let outcome = tokio::time::timeout(deadline, guarded).await;
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match outcome {
            Ok(Ok(Ok(()))) => {
                info!(phase, elapsed_ms, "stop phase ended");
                return true;
            }
            Ok(Ok(Err(error))) => {
                let error = error_chain(error.as_ref());
                error!(phase, elapsed_ms, error, "stop phase failed");
            }
            Ok(Err(panic)) => {
                let error = panic_text(panic.as_ref());
                error!(phase, elapsed_ms, error, "stop phase panicked");
            }
            Err(_) => {
                let held = held.map_or_else(|| "unknown".to_owned(), |held| held());
                error!(
                    phase,
                    elapsed_ms, held, "stop phase over its deadline, left behind"
                );
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::process::{Child, Command, Stdio};

    use parking_lot::Mutex;
    use rustix::process::{Pid, kill_process};

    use super::*;

    const PHASE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn first_reason_stays() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_requested());
        shutdown.request(Reason::Signal("SIGTERM"));
        let late = Reason::Failure {
            task: "api/serve".to_owned(),
            error: "gone".to_owned(),
        };
        shutdown.request(late.clone());
        assert!(shutdown.is_requested());
        assert_eq!(shutdown.requested().await, Reason::Signal("SIGTERM"));
        assert_eq!(
            shutdown.failure(),
            Some(late),
            "a failure during the stop is not forgotten"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn phases_run_in_order_whatever_happens_to_one() {
        let ran = Arc::new(Mutex::new(Vec::new()));
        let mut phases = Phases::new();
        let note = |name: &'static str| {
            let ran = Arc::clone(&ran);
            move || ran.lock().push(name)
        };
        let intake = note("intake");
        phases.add("intake", PHASE, move || {
            intake();
            async { Err("busy".into()) }.boxed()
        });
        let drain = note("drain");
        let held = || "3 requests".to_owned();
        phases.add_holding("drain", PHASE, held, move || {
            drain();
            std::future::pending().boxed()
        });
        let sync = note("sync");
        phases.add("sync", PHASE, move || {
            sync();
            panic!("no disk")
        });
        let commit = note("commit");
        phases.add("commit", PHASE, move || {
            commit();
            async { Ok(()) }.boxed()
        });
        assert!(!phases.run().await);
        assert_eq!(*ran.lock(), ["intake", "drain", "sync", "commit"]);
    }

    #[tokio::test]
    async fn clean_stop_is_reported_as_clean() {
        let mut phases = Phases::new();
        phases.add("intake", PHASE, || async { Ok(()) }.boxed());
        phases.add("release", PHASE, || async { Ok(()) }.boxed());
        assert!(phases.run().await);
    }

    /// Runs in a process of its own, started by the tests below: signals reach every test of a
    /// process.
    #[tokio::test]
    #[ignore = "started by the signal tests"]
    async fn waiting_process() {
        let shutdown = Shutdown::new();
        let say = |text: &str| {
            let mut out = std::io::stdout();
            writeln!(out, "\nsays {text}")
                .and_then(|()| out.flush())
                .expect("stdout is a pipe");
        };
        let announce = async { say("ready") };
        // `biased` polls in this order: the handlers are installed before the announcement.
        tokio::select! { biased;
            () = wait_for_signal(&shutdown) => {}
            () = async { announce.await; std::future::pending().await } => {}
        }
        say(&shutdown.requested().await.to_string());
        if std::env::var_os("STREAM_NODE_TEST_HANG").is_some() {
            std::future::pending::<()>().await;
        }
    }

    struct Waiting {
        child: Child,
        lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    }

    impl Waiting {
        fn start(hang: bool) -> Self {
            let program = std::env::current_exe().expect("the test binary has a path");
            let mut command = Command::new(program);
            command.args([
                "--exact",
                "lifecycle::tests::waiting_process",
                "--ignored",
                "--nocapture",
            ]);
            if hang {
                command.env("STREAM_NODE_TEST_HANG", "1");
            }
            let mut child = command
                .stdout(Stdio::piped())
                .spawn()
                .expect("the test binary runs");
            let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
            Self { child, lines }
        }

        fn expect(&mut self, text: &str) {
            let wanted = format!("says {text}");
            assert!(
                self.lines.any(|line| line.is_ok_and(|line| line == wanted)),
                "never said {text}"
            );
        }

        fn send(&self, signal: rustix::process::Signal) {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
            kill_process(pid.expect("a running process has an id"), signal).expect("it is ours");
        }

        fn exit_code(mut self) -> Option<i32> {
            self.lines.by_ref().for_each(drop);
            self.child.wait().expect("it is our child").code()
        }
    }

    #[test]
    fn first_signal_requests_the_stop() {
        for (signal, name) in [
            (rustix::process::Signal::TERM, "SIGTERM"),
            (rustix::process::Signal::INT, "SIGINT"),
        ] {
            let mut process = Waiting::start(false);
            process.expect("ready");
            process.send(signal);
            process.expect(name);
            assert_eq!(process.exit_code(), Some(0));
        }
    }

    #[test]
    fn second_signal_exits_at_once() {
        let mut process = Waiting::start(true);
        process.expect("ready");
        process.send(rustix::process::Signal::TERM);
        process.expect("SIGTERM");
        process.send(rustix::process::Signal::INT);
        assert_eq!(process.exit_code(), Some(EXIT_INTERRUPTED));
    }
}
