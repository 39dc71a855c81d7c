//! Processes that are killed at a given moment, and processes that are expected to end by themselves.

use std::time::Duration;

use anyhow::ensure;
use tokio::time::{Instant, sleep};

use super::{STOP_PATIENCE, Service};
use crate::client::{PATIENCE, PAUSE};
use crate::setup::Setup;

/// How a process went that was expected to end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// It ended.
    Died,
    /// It was ready, whoever watched had seen enough, and it was killed.
    Lived,
}

impl Service {
    /// Kills the process a moment from now, which is not any answer's.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn kill_after(&mut self, moment: Duration) -> anyhow::Result<()> {
        sleep(moment).await;
        self.kill().await
    }

    /// Starts the process again and kills it a moment later, wherever its start is then.
    ///
    /// # Errors
    /// When it runs still, or ends by itself.
    pub async fn restart_and_kill(&mut self, moment: Duration) -> anyhow::Result<()> {
        self.spawn_again()?;
        self.kill_after(moment).await
    }

    /// Whether the process has ended by itself.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.process.child.try_wait()?.is_some())
    }

    /// Arms fail points in the processes that are started from now on, and no others: the text of `FAILPOINTS`.
    pub fn arm(&mut self, fail_points: &str) {
        self.setup = self.setup.clone().fail_points(fail_points);
    }

    /// Starts the process for the first time, on an empty directory, where it is expected to end before it is ready.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn start_to_die(setup: Setup) -> anyhow::Result<Self> {
        let mut service = Self::spawn(setup)?;
        service.process.wait(PATIENCE).await?;
        Ok(service)
    }

    /// Starts the process again and watches it until it ends by itself. When it is ready first, `ready` is called, and then
    /// `enough` again and again until it says that it will not end any more. Then it is killed, however close to its end it is.
    ///
    /// # Errors
    /// When it runs still, or neither ends nor was enough of it seen.
    pub async fn restart_to_die(
        &mut self,
        ready: impl FnOnce(),
        enough: impl Fn() -> bool,
    ) -> anyhow::Result<Course> {
        self.spawn_again()?;
        let (deadline, mut ready) = (Instant::now() + PATIENCE, Some(ready));
        loop {
            if self.process.child.try_wait()?.is_some() {
                self.process.wait(STOP_PATIENCE).await?;
                return Ok(Course::Died);
            }
            let is_ready = self.setup.readiness().await.is_ok_and(|it| it.is_ready);
            if let Some(ready) = ready.take_if(|_| is_ready) {
                ready();
            }
            if ready.is_none() && enough() {
                // It may have ended since it was asked, which makes no difference to whoever had seen enough.
                self.process.child.kill()?;
                self.process.wait(STOP_PATIENCE).await?;
                return Ok(Course::Lived);
            }
            ensure!(
                Instant::now() < deadline,
                "the process does not end; it says:\n{}",
                self.process.stderr.lines().join("\n")
            );
            sleep(PAUSE).await;
        }
    }

    /// What the newest process said up to now.
    #[must_use]
    pub fn newest_log(&self) -> Vec<String> {
        self.process.stderr.lines()
    }
}
