//! Processes that are started without waiting for them, and processes that are not let run.

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::{Process, Service};
use crate::client::{PATIENCE, PAUSE};
use crate::program;
use crate::setup::Setup;

impl Service {
    /// Starts the process and does not wait until it is ready.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(setup: Setup) -> anyhow::Result<Self> {
        let process = Process::spawn(&mut setup.command(&program::path()?))?;
        Ok(Self {
            setup,
            process,
            earlier: Vec::new(),
        })
    }

    /// Starts the process again, once it has ended, and does not wait until it is ready.
    ///
    /// # Errors
    /// When it runs still, or cannot be started.
    pub fn spawn_again(&mut self) -> anyhow::Result<()> {
        ensure!(
            self.process.child.try_wait()?.is_some(),
            "the process runs still"
        );
        let process = Process::spawn(&mut self.setup.command(&program::path()?))?;
        let old = std::mem::replace(&mut self.process, process);
        self.earlier.extend(old.stderr.lines());
        Ok(())
    }

    /// Waits until the process is ready.
    ///
    /// # Errors
    /// When it ends instead, or does not get ready.
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = self.setup.readiness().await;
            if report.is_ok_and(|it| it.is_ready && it.components == self.setup.components()) {
                return Ok(());
            }
            if let Some(status) = self.process.child.try_wait()? {
                self.process.stderr.finish();
                let said = self.process.stderr.lines().join("\n");
                bail!("the service ended ({status}) before it was ready:\n{said}");
            }
            let said = || self.process.stderr.lines().join("\n");
            ensure!(
                Instant::now() < deadline,
                "the service is not ready; it says:\n{}",
                said()
            );
            sleep(PAUSE).await;
        }
    }

    /// Waits until the process has logged a line with this text.
    ///
    /// # Errors
    /// When it does not.
    pub async fn until_said(&self, text: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_said(text) {
            let said = || self.log().join("\n");
            ensure!(
                Instant::now() < deadline,
                "it does not say {text:?}; it says:\n{}",
                said()
            );
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Whether it, or a predecessor, has logged a line with this text.
    #[must_use]
    pub fn has_said(&self, text: &str) -> bool {
        self.log().iter().any(|line| line.contains(text))
    }

    /// Stops the process from running, as a machine that hangs does.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen process go on.
    ///
    /// # Errors
    /// When it is gone.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        Ok(kill_process(
            pid.context("a process has a number")?,
            signal,
        )?)
    }
}
