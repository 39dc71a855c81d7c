//! One way of loading one server, measured several times: a line of a table.

use std::time::Duration;

use anyhow::ensure;

use crate::bench::middle;
use crate::load::{self, Load, Measured};
use crate::machine;
use crate::report::{millis, percent};

/// What is above the lines.
pub const HEAD: &str = "\
    | | requests/s | p50 | p90 | p99 | p99.9 | max | not 2xx | CPU of server | of generator | CPU pressure | memory |\n\
    |---|---|---|---|---|---|---|---|---|---|---|---|";

/// Measurements of one kind.
pub struct Series {
    name: String,
    runs: Vec<Run>,
}

/// One measurement.
struct Run {
    measured: Measured,
    /// CPU seconds of the server.
    server_cpu: f64,
    /// Anonymous memory of the server at the end, in bytes.
    memory: u64,
}

impl Series {
    /// Without measurements.
    pub fn new(name: String) -> Self {
        Self {
            name,
            runs: Vec::new(),
        }
    }

    /// What is measured.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Loads the server that is process `pid`, once.
    ///
    /// # Errors
    /// When it accepts nothing.
    pub async fn measure(&mut self, load: Load, pid: u32) -> anyhow::Result<()> {
        let before = machine::cpu_seconds(pid)?;
        let measured = load::run(load).await?;
        ensure!(
            measured.ok() > 0,
            "{}: no request was accepted: {:?}",
            self.name,
            measured.statuses
        );
        self.runs.push(Run {
            measured,
            server_cpu: machine::cpu_seconds(pid)? - before,
            memory: machine::anonymous_memory(pid)?,
        });
        Ok(())
    }

    /// Requests in a second that were accepted.
    pub fn rate(&self) -> f64 {
        self.median(|run| run.measured.rate())
    }

    /// The medians.
    pub fn row(&self) -> String {
        let latency = |per_mille| {
            let of = |run: &Run| run.measured.latency.per_mille(per_mille).as_secs_f64();
            millis(Duration::from_secs_f64(self.median(of)))
        };
        let cores = |cpu: fn(&Run) -> f64| {
            let share = |run: &Run| cpu(run) / run.measured.elapsed.as_secs_f64();
            percent(Some(self.median(share)))
        };
        let max = self.median(|run| run.measured.latency.max().as_secs_f64());
        let mut runs = self.runs.iter();
        let is_told = runs.all(|run| run.measured.cpu_pressure.is_some());
        let pressure = self.median(|run| run.measured.cpu_pressure.unwrap_or_default());
        let refused = |run: &Run| run.measured.sent - run.measured.ok();
        let cells = [
            self.name.clone(),
            format!("{:.0}", self.rate()),
            latency(500),
            latency(900),
            latency(990),
            latency(999),
            millis(Duration::from_secs_f64(max)),
            self.runs.iter().map(refused).sum::<u64>().to_string(),
            cores(|run| run.server_cpu),
            cores(|run| run.measured.own_cpu),
            percent(is_told.then_some(pressure)),
            format!(
                "{:.0} MiB",
                self.median(|run| run.memory as f64) / f64::from(1 << 20)
            ),
        ];
        format!("| {} |", cells.join(" | "))
    }

    fn median(&self, value: impl Fn(&Run) -> f64) -> f64 {
        middle(self.runs.iter().map(value).collect())
    }
}
