//! Who is evaluated next: one line per mapping, and the one that has used the least time goes first.
//!
//! Filled by requests, drained by worker tasks. A line that was empty for a while does not save up time: it begins where the
//! others are. What a worker does at this moment counts with the whole limit, so that a slow mapping does not take all
//! workers at once.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use stream_encoding::Record;
use stream_encoding::jsonnet::Templates;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Outcome;
use super::overruns::Overruns;
use crate::completion::Failure;

/// Records that a worker takes at once.
const MAX_JOBS: usize = 32;
/// The most bytes of bodies among them, unless it is only one.
const MAX_BYTES: usize = 256 << 10;
/// What one of them counts while it is worked on.
const ASSUMED: Duration = Duration::from_millis(100);
/// Lines beyond this number are looked through for forgotten ones.
const LOOK_THROUGH: usize = 256;

/// One record for the templates of one mapping.
pub(super) struct Job {
    pub templates: Arc<Templates>,
    pub record: Record,
    /// How many evaluators have ended under it.
    pub deaths: u32,
    answer: Option<oneshot::Sender<Outcome>>,
}

impl Job {
    pub fn new(
        templates: Arc<Templates>,
        record: Record,
        answer: oneshot::Sender<Outcome>,
    ) -> Self {
        Self {
            templates,
            record,
            deaths: 0,
            answer: Some(answer),
        }
    }

    /// Answers. Whoever asked may have given up.
    pub fn answer(mut self, outcome: Outcome) {
        if let Some(answer) = self.answer.take() {
            let _ = answer.send(outcome);
        }
    }

    /// Whether nobody waits any more.
    pub fn is_abandoned(&self) -> bool {
        self.answer.as_ref().is_none_or(oneshot::Sender::is_closed)
    }
}

/// The records of one mapping that wait.
struct Line {
    jobs: VecDeque<Job>,
    /// Time that evaluators have spent on it; only differences between lines mean something.
    used: Duration,
    /// Workers that work on it.
    busy: u32,
    overruns: Overruns,
    /// The sink, for the log.
    sink: String,
}

/// All lines, and who works.
#[derive(Default)]
pub(super) struct Lines {
    lines: HashMap<u64, Line>,
    /// The time used by the line that was chosen last.
    clock: Duration,
    waiting: usize,
    workers: usize,
    idle: usize,
}

impl Lines {
    /// Adds a job. `sink` names the line when it is a new one.
    ///
    /// # Errors
    /// When the mapping has to rest.
    pub fn push(
        &mut self,
        job: Job,
        sink: impl FnOnce() -> String,
        now: Instant,
    ) -> Result<(), Failure> {
        if self.lines.len() > LOOK_THROUGH {
            self.lines.retain(|_, line| {
                !line.jobs.is_empty() || line.busy > 0 || !line.overruns.is_forgotten(now)
            });
        }
        let clock = self.clock;
        let line = self
            .lines
            .entry(job.templates.id())
            .or_insert_with(|| Line {
                jobs: VecDeque::new(),
                used: clock,
                busy: 0,
                overruns: Overruns::default(),
                sink: sink(),
            });
        if line.overruns.is_resting(now) {
            return Err(Failure::TemplatesResting);
        }
        if line.jobs.is_empty() && line.busy == 0 {
            line.used = line.used.max(clock);
        }
        line.jobs.push_back(job);
        self.waiting += 1;
        Ok(())
    }

    /// Takes the next jobs, all for the same templates.
    pub fn take(&mut self) -> Option<VecDeque<Job>> {
        let counted = |line: &Line| line.used + ASSUMED * line.busy;
        let lines = self.lines.values_mut().filter(|line| !line.jobs.is_empty());
        let line = lines.min_by_key(|line| counted(line))?;
        self.clock = self.clock.max(line.used);
        let (mut jobs, mut bytes) = (VecDeque::new(), 0);
        while jobs.len() < MAX_JOBS
            && let Some(job) = line.jobs.front()
        {
            bytes += job.record.body.len();
            if bytes > MAX_BYTES && !jobs.is_empty() {
                break;
            }
            jobs.extend(line.jobs.pop_front());
        }
        line.busy += 1;
        self.waiting -= jobs.len();
        Some(jobs)
    }

    /// Notes that a worker has spent that time on jobs that it took.
    pub fn done(&mut self, id: u64, spent: Duration) {
        if let Some(line) = self.lines.get_mut(&id) {
            line.busy -= 1;
            line.used += spent;
        }
    }

    /// Notes that a record has exceeded a limit. When the mapping rests from now on: its sink, and the jobs that waited.
    pub fn overrun(&mut self, id: u64, now: Instant) -> Option<(String, VecDeque<Job>)> {
        let line = self.lines.get_mut(&id)?;
        if !line.overruns.note(now) {
            return None;
        }
        self.waiting -= line.jobs.len();
        Some((line.sink.clone(), std::mem::take(&mut line.jobs)))
    }

    /// Jobs that wait, for the gauge.
    pub fn waiting_gauge(&self) -> i64 {
        i64::try_from(self.waiting).unwrap_or(i64::MAX)
    }

    /// Whether another worker should be started, at most `max`. True: it counts already.
    pub fn hire(&mut self, max: usize) -> bool {
        let hire = self.idle == 0 && self.workers < max;
        if hire {
            self.workers += 1;
        }
        hire
    }

    /// Notes that a worker waits for work, or does so no more.
    pub fn set_idle(&mut self, idle: Idle) {
        match idle {
            Idle::Begins => self.idle += 1,
            Idle::Ends => self.idle -= 1,
        }
    }

    /// Lets a worker go, if there is nothing to do.
    pub fn let_go(&mut self) -> bool {
        let go = self.waiting == 0;
        if go {
            self.workers -= 1;
        }
        go
    }
}

/// A change of a worker.
#[derive(Debug, Clone, Copy)]
pub(super) enum Idle {
    Begins,
    Ends,
}
