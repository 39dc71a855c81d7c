//! Helper processes: work that may run away is done in a process that can be ended.
//!
//! A helper is a program at the other end of a socket, which is its standard input and output. Both sides send frames: the
//! length in four bytes, little end first, and that many bytes; the helper begins with a hello. What the frames mean is not
//! known here. A helper gets no environment and no files but that socket; its standard error goes nowhere.
//!
//! Invariants:
//!
//! * a helper lives no longer than its [`Helper`]: dropping it kills the process and reaps it;
//! * a helper notices that this process is gone, however it ended, by the end of its input;
//! * time is counted in favour of the helper: when it was given no CPU, it was given no time.
//!
//! This module refuses to restart anything and to bound memory: the program does the latter to itself, before it reads.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};

/// How often the kernel counts CPU time in a second, in `/proc`: a part of its interface on Linux.
const TICKS_PER_SECOND: u64 = 100;
/// How long a new helper may take to say hello. It has nothing to do before but to be loaded.
const HELLO_WITHIN: Budget = Budget {
    cpu: Duration::from_secs(5),
    wall: Duration::from_secs(30),
};

/// How long something may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// CPU time that the helper may use, at least. It may use twice as much before that is noticed.
    pub cpu: Duration,
    /// Time that may pass at most, however little CPU it gets.
    pub wall: Duration,
}

/// Why a helper is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    /// The process cannot be started.
    #[error("cannot start a helper process")]
    Start(#[source] io::Error),
    /// It said something else than hello.
    #[error("the helper process is another program")]
    Stranger,
    /// It ended, or its line broke.
    #[error("the helper process has ended")]
    Ended(#[source] io::Error),
    /// It took too long.
    #[error("the helper process took too long")]
    Time,
}

/// A line to a helper that was just started.
struct Line {
    socket: UnixStream,
    process: Option<Child>,
}

/// How helpers are started. Clones start the same.
#[derive(Clone)]
pub struct Helpers {
    hello: &'static [u8],
    start: Arc<dyn Fn() -> io::Result<Line> + Send + Sync>,
}

impl std::fmt::Debug for Helpers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Helpers").finish_non_exhaustive()
    }
}

impl Helpers {
    /// Helpers that are processes of a program, which says `hello` first.
    #[must_use]
    pub fn program(program: PathBuf, args: Vec<OsString>, hello: &'static [u8]) -> Self {
        let start = move || {
            let (own, theirs) = UnixStream::pair()?;
            let output = theirs.try_clone()?;
            let process = Command::new(&program)
                .args(&args)
                .env_clear()
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::from(OwnedFd::from(output)))
                .stderr(Stdio::null())
                .spawn()?;
            Ok(Line {
                socket: own,
                process: Some(process),
            })
        };
        Self {
            hello,
            start: Arc::new(start),
        }
    }

    /// Helpers that are threads of this process, for tests of those who use helpers: they cannot be killed, and end when
    /// `serve` notices the end of its input.
    #[must_use]
    pub fn threads(serve: fn(UnixStream), hello: &'static [u8]) -> Self {
        let start = move || {
            let (own, theirs) = UnixStream::pair()?;
            std::thread::Builder::new().spawn(move || serve(theirs))?;
            Ok(Line {
                socket: own,
                process: None,
            })
        };
        Self {
            hello,
            start: Arc::new(start),
        }
    }

    /// Starts a helper and waits for its hello.
    ///
    /// # Errors
    /// When it cannot be started, or is not what it should be.
    ///
    /// # Cancel safety
    /// A helper that was started already is ended.
    pub async fn start(&self) -> Result<Helper, HelperError> {
        let start = Arc::clone(&self.start);
        let line = tokio::task::spawn_blocking(move || start());
        let line = line.await.map_err(io::Error::other).and_then(|line| line);
        let Line { socket, process } = line.map_err(HelperError::Start)?;
        // First of all, so that it is reaped whatever fails.
        let process = Process(process);
        let socket = socket
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UnixStream::from_std(socket));
        let (input, output) = socket.map_err(HelperError::Start)?.into_split();
        let mut helper = Helper {
            input: BufReader::new(input),
            output,
            max_frame: self.hello.len(),
            process,
        };
        if helper.receive(HELLO_WITHIN).await? != self.hello {
            return Err(HelperError::Stranger);
        }
        helper.max_frame = u32::MAX as usize;
        Ok(helper)
    }
}

/// A helper. After any error it is of no more use.
#[derive(Debug)]
pub struct Helper {
    input: BufReader<OwnedReadHalf>,
    output: OwnedWriteHalf,
    max_frame: usize,
    process: Process,
}

impl Helper {
    /// Its process; none when it is a thread.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.0.as_ref().map(Child::id)
    }

    /// Sends frames, with their lengths in front.
    ///
    /// # Errors
    /// When it has ended, or does not take them in time.
    pub async fn send(&mut self, frames: &[u8], within: Duration) -> Result<(), HelperError> {
        let sent = timeout(within, self.output.write_all(frames)).await;
        sent.map_err(|_| HelperError::Time)?
            .map_err(HelperError::Ended)
    }

    /// Waits for the next frame.
    ///
    /// # Errors
    /// When it has ended, or has used up the budget.
    pub async fn receive(&mut self, budget: Budget) -> Result<Vec<u8>, HelperError> {
        let end = Instant::now() + budget.wall;
        let mut frame = pin!(read_frame(&mut self.input, self.max_frame));
        if let Ok(frame) = timeout(budget.cpu.min(budget.wall), &mut frame).await {
            return frame.map_err(HelperError::Ended);
        }
        // It had the time. Only if it also had the CPU that is too long.
        let before = self.process.cpu_time();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if let Ok(frame) = timeout(budget.cpu.min(left), &mut frame).await {
                return frame.map_err(HelperError::Ended);
            }
            let used = before.zip(self.process.cpu_time());
            let used = used.map_or(Duration::ZERO, |(before, now)| now.saturating_sub(before));
            if used >= budget.cpu || Instant::now() >= end {
                return Err(HelperError::Time);
            }
        }
    }
}

async fn read_frame(input: &mut BufReader<OwnedReadHalf>, max: usize) -> io::Result<Vec<u8>> {
    let len = input.read_u32_le().await?;
    let len = usize::try_from(len).map_err(io::Error::other)?;
    if len > max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; len];
    input.read_exact(&mut frame).await?;
    Ok(frame)
}

/// Kills the process and reaps it when it is dropped.
#[derive(Debug)]
struct Process(Option<Child>);

impl Process {
    /// The CPU time that it has used; none when that is not known.
    fn cpu_time(&self) -> Option<Duration> {
        let pid = self.0.as_ref()?.id();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain anything, also parentheses.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut times = fields.split(' ').skip(11).map(str::parse::<u64>);
        let ticks = times.next()?.ok()? + times.next()?.ok()?;
        Some(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else {
            return;
        };
        // A process that has ended cannot be killed, and needs not be.
        let _ = child.kill();
        // It ends at once, but for the kernel that may be busy with giving back its memory.
        let mut reap = move || drop(child.wait());
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(reap)),
            Err(_) => reap(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const SHORT: Budget = Budget {
        cpu: Duration::from_millis(30),
        wall: Duration::from_millis(60),
    };
    const LONG: Budget = Budget {
        cpu: Duration::from_secs(10),
        wall: Duration::from_secs(60),
    };

    fn shell(script: &str) -> Helpers {
        let args = vec!["-c".into(), script.into()];
        Helpers::program("/bin/sh".into(), args, b"hello")
    }

    /// Gone, or dead and not reaped yet.
    fn is_gone(pid: u32) -> bool {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        }
    }

    async fn gone(pid: u32) {
        while !is_gone(pid) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn frames_go_both_ways_and_the_environment_stays_here() {
        let helpers = shell(
            r#"printf '\005\000\000\000hello'; head -c 7 | tail -c 3 >/dev/null; printf '\002\000\000\000'; printf "%.2s" "${HOME-no}"; cat >/dev/null"#,
        );
        let mut helper = helpers.start().await.expect("starts");
        helper
            .send(b"\x03\0\0\0abc", LONG.wall)
            .await
            .expect("taken");
        assert_eq!(helper.receive(LONG).await.expect("a frame"), b"no");
        let pid = helper.pid().expect("a process");
        drop(helper);
        gone(pid).await;
    }

    #[tokio::test]
    async fn a_helper_that_takes_too_long_is_killed() {
        let helpers = shell(r"printf '\005\000\000\000hello'; while :; do :; done");
        let mut helper = helpers.start().await.expect("starts");
        let pid = helper.pid().expect("a process");
        assert!(matches!(
            helper.receive(SHORT).await,
            Err(HelperError::Time)
        ));
        drop(helper);
        gone(pid).await;
    }

    #[tokio::test]
    async fn the_end_of_a_helper_is_noticed() {
        let helpers = shell(r"printf '\005\000\000\000hello'; kill -9 $$");
        let mut helper = helpers.start().await.expect("starts");
        assert!(matches!(
            helper.receive(LONG).await,
            Err(HelperError::Ended(_))
        ));
    }

    #[tokio::test]
    async fn other_programs_are_refused() {
        let hello = shell(r"printf '\005\000\000\000hullo'").start().await;
        assert!(matches!(hello, Err(HelperError::Stranger)));
        let long = shell(r"printf '\006\000\000\000hello!'").start().await;
        assert!(matches!(long, Err(HelperError::Ended(_))));
        let missing = Helpers::program("/nonexistent".into(), Vec::new(), b"")
            .start()
            .await;
        assert!(matches!(missing, Err(HelperError::Start(_))));
    }

    #[tokio::test]
    async fn a_thread_can_stand_in() {
        let serve = |mut socket: UnixStream| {
            let sent = socket.write_all(b"\x02\0\0\0hi\x01\0\0\0!");
            sent.expect("taken");
        };
        let helpers = Helpers::threads(serve, b"hi");
        let mut helper = helpers.start().await.expect("starts");
        assert_eq!(helper.receive(LONG).await.expect("a frame"), b"!");
        assert!(matches!(
            helper.receive(LONG).await,
            Err(HelperError::Ended(_))
        ));
    }
}
