//! One process of etcd.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// Kills its child as soon as standard input ends, which it does with whoever holds the other end. The child has no part in
/// that pipe. Prints the number of the child. Removes the directory `REMOVE` afterwards, if that is set.
const WATCHED: &str = r#""$@" </dev/null & echo $!; exec >/dev/null; cat; kill -9 $!; wait $!; [ -z "$REMOVE" ] || rm -rf "$REMOVE""#;

/// How long a member may take to answer a question about its health.
const ANSWER: Duration = Duration::from_secs(2);

/// What a member is started with, and started again with.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    /// Where its log goes.
    pub(crate) log: PathBuf,
    /// Where it tells its health.
    pub(crate) health_port: u16,
    /// Removed when it ends; none when somebody else does that.
    pub(crate) remove: Option<PathBuf>,
}

/// A running member. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Member {
    watcher: Child,
    held_open: Option<ChildStdin>,
    pid: Pid,
}

impl Member {
    pub(crate) fn start(plan: &Plan) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(&plan.log);
        let log = log.with_context(|| format!("cannot write {}", plan.log.display()))?;
        let mut watcher = Command::new("sh")
            .args(["-c", WATCHED, "etcd-watcher"])
            .arg(&plan.program)
            .args(&plan.arguments)
            .env("REMOVE", plan.remove.clone().unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("cannot start etcd")?;
        let held_open = watcher.stdin.take();
        let stdout = watcher.stdout.take().context("its output is not piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let pid = line.trim().parse().ok().and_then(Pid::from_raw);
        Ok(Self {
            watcher,
            held_open,
            pid: pid.with_context(|| format!("{line:?} is not a process"))?,
        })
    }

    #[cfg(test)]
    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    /// Ends it at whatever instruction it is, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// Stops it from running, as a machine that hangs does; [`Signal::CONT`] lets it go on.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(self.pid, signal)?)
    }

    fn end(&mut self) {
        drop(self.held_open.take());
        // Nothing can be done about a watcher that cannot be waited for.
        let _ = self.watcher.wait();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.end();
    }
}

/// Fails unless the member says that it has a leader and takes writes.
pub(crate) fn check_health(port: u16) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"GET /health HTTP/1.0\r\nHost: etcd\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains(r#""health":"true""#), "{answer}");
    Ok(())
}
