//! A real process of the service on a directory of its own: started, killed, stopped and started again.

mod control;
mod death;

use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::client::{Api, PATIENCE, PAUSE};
use crate::log::{self, Output};
use crate::program;
use crate::setup::Setup;

pub use death::Course;

/// More than a stop takes. The phases of the stop have deadlines of their own, and this one is for when those fail.
const STOP_PATIENCE: Duration = Duration::from_secs(120);

/// A process that has ended by itself.
#[derive(Debug)]
pub struct Ended {
    /// Whether it exited with 0.
    pub success: bool,
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote.
    pub stdout: String,
    /// What it said.
    pub stderr: String,
}

impl Setup {
    /// Runs a process that is expected to end by itself.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn run_to_end(&self) -> anyhow::Result<Ended> {
        let mut process = Process::spawn(&mut self.command(&program::path()?))?;
        let status = process.wait(PATIENCE).await?;
        Ok(Ended {
            success: status.success(),
            code: status.code(),
            stdout: process.stdout.lines().join("\n"),
            stderr: process.stderr.lines().join("\n"),
        })
    }
}

/// A child process that does not outlive its owner.
#[derive(Debug)]
struct Process {
    child: Child,
    stdout: Output,
    stderr: Output,
}

impl Process {
    fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command.spawn().context("cannot start the service")?;
        let stdout = child
            .stdout
            .take()
            .context("standard output is not piped")?;
        let stderr = child.stderr.take().context("standard error is not piped")?;
        Ok(Self {
            child,
            stdout: Output::collect(stdout),
            stderr: Output::collect(stderr),
        })
    }

    async fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.stdout.finish();
                self.stderr.finish();
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "the process does not end; it says:\n{}",
                    self.stderr.lines().join("\n")
                );
            }
            sleep(PAUSE).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, and there is nobody to tell about anything else.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    setup: Setup,
    process: Process,
    /// What earlier processes on the same directory said.
    earlier: Vec<String>,
}

impl Service {
    /// Starts the process and waits until it is ready.
    ///
    /// # Errors
    /// When it ends instead.
    pub async fn start(setup: Setup) -> anyhow::Result<Self> {
        let process = Self::ready(&setup).await?;
        Ok(Self {
            setup,
            process,
            earlier: Vec::new(),
        })
    }

    async fn ready(setup: &Setup) -> anyhow::Result<Process> {
        let mut process = Process::spawn(&mut setup.command(&program::path()?))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = setup.readiness().await;
            if report.is_ok_and(|report| report.is_ready && report.components == setup.components())
            {
                return Ok(process);
            }
            if let Some(status) = process.child.try_wait()? {
                process.stderr.finish();
                let said = process.stderr.lines().join("\n");
                bail!("the service ended ({status}) before it was ready:\n{said}");
            }
            if Instant::now() > deadline {
                bail!(
                    "the service is not ready; it says:\n{}",
                    process.stderr.lines().join("\n")
                );
            }
            sleep(PAUSE).await;
        }
    }

    /// How it was started.
    #[must_use]
    pub const fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The number of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Its API, with the token of the installation.
    ///
    /// # Errors
    /// When the token cannot be read.
    pub fn api(&self) -> anyhow::Result<Api> {
        Api::with_admin_token(self.setup.api_address(), self.setup.data_dir())
    }

    /// The text that it printed when it was ready.
    #[must_use]
    pub fn banner(&self) -> String {
        self.process.stdout.lines().join("\n")
    }

    /// Kills the process at whatever instruction it is.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.process.child.try_wait()?.is_none(),
            "the process has ended by itself"
        );
        self.process.child.kill()?;
        self.process.wait(STOP_PATIENCE).await.map(|_| ())
    }

    /// Asks the process to stop.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn ask_to_stop(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.process.child.try_wait()?.is_none(),
            "the process has ended by itself"
        );
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process has a number")?, Signal::TERM)?;
        Ok(())
    }

    /// Waits until the process has ended after [`Self::ask_to_stop`].
    ///
    /// # Errors
    /// When it does not end, or not with exit code 0.
    pub async fn stopped(&mut self) -> anyhow::Result<()> {
        let status = self.process.wait(STOP_PATIENCE).await?;
        let said = self.process.stderr.lines().join("\n");
        ensure!(status.success(), "the service ended with {status}:\n{said}");
        Ok(())
    }

    /// Stops the process in an orderly way.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.ask_to_stop()?;
        self.stopped().await
    }

    /// Starts the process again, on the same directory and ports, once it has ended.
    ///
    /// # Errors
    /// When it runs still, or does not get ready.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.process.child.try_wait()?.is_some(),
            "the process runs still"
        );
        let process = Self::ready(&self.setup).await?;
        let old = std::mem::replace(&mut self.process, process);
        self.earlier.extend(old.stderr.lines());
        Ok(())
    }

    /// Everything it and its predecessors logged up to now.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        let mut lines = self.earlier.clone();
        lines.extend(self.process.stderr.lines());
        lines
    }

    /// Fails the test when something odd was logged. Called at the end of each test.
    ///
    /// # Panics
    /// When a warning or an error was logged that holds none of the `allowed` texts.
    pub fn assert_quiet(&self, allowed: &[&str]) {
        let unexpected = log::unexpected(&self.log(), allowed);
        assert!(
            unexpected.is_empty(),
            "unexpected in the log:\n{}",
            unexpected.join("\n")
        );
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Beside the data directory, which is kept then. There is nothing to be done when it cannot be written.
            let path = self.setup.data_dir().with_extension("log");
            let _ = std::fs::write(path, self.log().join("\n"));
        }
    }
}
