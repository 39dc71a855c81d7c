//! A worker: one task with one evaluator process, which takes records and answers them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use stream_encoding::MapError;
use stream_encoding::jsonnet::{Answer, Request, TemplateValues, Templates};
use stream_node::{Budget, Helper, HelperError, error_chain};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Shared;
use super::lines::{Idle, Job};
use crate::completion::Failure;

/// An evaluator without work for that long is ended.
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// How long an evaluator may take to compile the templates of a mapping, in CPU time.
const COMPILE_TIME: Duration = Duration::from_secs(2);
/// The most time that may pass, as a multiple of the CPU time.
const PATIENCE: u32 = 20;
/// How long an evaluator may take to read what it is sent: it reads all the time.
const SEND_WITHIN: Duration = Duration::from_secs(30);
/// The pause after an evaluator could not be started.
const START_AGAIN: Duration = Duration::from_secs(1);
/// Mappings that an evaluator keeps compiled.
const MAX_DEFINED: usize = 64;
/// Evaluators that may end under a record before it is refused: the first may have been killed for other reasons.
const MAX_DEATHS: u32 = 2;

/// An evaluator and what it knows.
struct Evaluator {
    helper: Helper,
    /// The ids of the templates that it knows, the longest unused first.
    defined: VecDeque<u64>,
}

/// What ended the work on some records.
enum Trouble {
    /// The helper is of no more use. It worked on the first record, on that template.
    Helper(HelperError, usize),
    /// The templates do not compile. The API has refused them, so they come from elsewhere.
    Invalid(MapError),
}

/// Evaluates until there is nothing to do for a while, or the process stops.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut evaluator = None;
    loop {
        let jobs = shared.lines.lock().take();
        if let Some(jobs) = jobs {
            shared.serve(&mut evaluator, jobs).await;
            continue;
        }
        shared.lines.lock().set_idle(Idle::Begins);
        let woken = tokio::select! {
            biased;
            () = shared.work.notified() => true,
            () = shared.stop.cancelled() => false,
            () = tokio::time::sleep(KEEP_IDLE) => false,
        };
        let mut lines = shared.lines.lock();
        lines.set_idle(Idle::Ends);
        if !woken && lines.let_go() {
            return;
        }
    }
}

impl Shared {
    /// Answers all jobs.
    async fn serve(&self, evaluator: &mut Option<Evaluator>, mut jobs: VecDeque<Job>) {
        let Some(id) = jobs.front().map(|job| job.templates.id()) else {
            return;
        };
        let began = Instant::now();
        loop {
            jobs.retain(|job| !job.is_abandoned());
            if jobs.is_empty() {
                break;
            }
            self.attempt(evaluator, &mut jobs).await;
        }
        let mut lines = self.lines.lock();
        lines.done(id, began.elapsed());
        self.metrics.waiting.set(lines.waiting_gauge());
    }

    /// Works on the jobs until something goes wrong. Whatever happens, the first one comes closer to its answer.
    async fn attempt(&self, evaluator: &mut Option<Evaluator>, jobs: &mut VecDeque<Job>) {
        let mut running = match evaluator.take() {
            Some(running) => running,
            None => match self.start().await {
                Ok(running) => running,
                Err(error) => {
                    warn!(reason = %error_chain(&error), "cannot start an evaluator of templates");
                    answer_all(jobs, Failure::TemplatesBusy);
                    tokio::time::sleep(START_AGAIN).await;
                    return;
                }
            },
        };
        self.metrics.evaluators.inc();
        let result = self.work(&mut running, jobs).await;
        self.metrics.evaluators.dec();
        match result {
            Ok(()) => *evaluator = Some(running),
            Err(Trouble::Invalid(error)) => {
                *evaluator = Some(running);
                for job in jobs.drain(..) {
                    job.answer(Ok(Err(error.clone())));
                }
            }
            Err(Trouble::Helper(error, position)) => {
                // Ends the process.
                drop(running);
                self.blame(&error, position, jobs);
            }
        }
    }

    async fn start(&self) -> Result<Evaluator, HelperError> {
        let helper = self.helpers.start().await?;
        self.metrics.started.inc();
        debug!(pid = helper.pid(), "evaluator of templates started");
        Ok(Evaluator {
            helper,
            defined: VecDeque::new(),
        })
    }

    /// Refuses the record that was worked on when its evaluator was ended, if it is at fault.
    fn blame(&self, error: &HelperError, position: usize, jobs: &mut VecDeque<Job>) {
        let Some(mut job) = jobs.pop_front() else {
            return;
        };
        let column = job.templates.column(position).to_owned();
        debug!(column, reason = %error_chain(error), "evaluator of templates ended");
        let refusal = match error {
            HelperError::Time => {
                let limit_ms = u64::try_from(self.limits.time.as_millis()).unwrap_or(u64::MAX);
                MapError::TemplateTime { column, limit_ms }
            }
            _ if job.deaths + 1 >= MAX_DEATHS => MapError::TemplateMemory { column },
            _ => {
                job.deaths += 1;
                jobs.push_front(job);
                return;
            }
        };
        let id = job.templates.id();
        job.answer(Ok(Err(refusal)));
        self.metrics.overruns.inc();
        let resting = self.lines.lock().overrun(id, Instant::now());
        if let Some((sink, waiting)) = resting {
            warn!(
                sink,
                "templates of a sink exceed their limits again and again, they rest for a while"
            );
            jobs.extend(waiting);
            answer_all(jobs, Failure::TemplatesResting);
        }
    }

    /// Has the jobs evaluated, and takes off those that are answered.
    async fn work(&self, running: &mut Evaluator, jobs: &mut VecDeque<Job>) -> Result<(), Trouble> {
        let Some(templates) = jobs.front().map(|job| Arc::clone(&job.templates)) else {
            return Ok(());
        };
        self.define(running, &templates).await?;
        let mut frames = Vec::new();
        for job in &*jobs {
            frames.extend(Request::evaluate(templates.id(), &job.record));
        }
        let sent = running.helper.send(&frames, SEND_WITHIN).await;
        sent.map_err(|error| Trouble::Helper(error, 0))?;
        drop(frames);
        while !jobs.is_empty() {
            let values = self.values(&mut running.helper, &templates).await?;
            self.metrics.records.inc();
            if let Some(job) = jobs.pop_front() {
                job.answer(Ok(values));
            }
        }
        Ok(())
    }

    /// The values of one record.
    async fn values(
        &self,
        helper: &mut Helper,
        templates: &Templates,
    ) -> Result<Result<TemplateValues, MapError>, Trouble> {
        let mut values = Vec::with_capacity(templates.count());
        while values.len() < templates.count() {
            let answer = receive(helper, self.limits.time).await;
            match answer.map_err(|error| Trouble::Helper(error, values.len()))? {
                Answer::Value(json) => values.push(json.into()),
                Answer::Failed(failure) => {
                    return Ok(Err(templates.failed(
                        values.len(),
                        failure,
                        self.limits.row,
                    )));
                }
                Answer::Defined | Answer::Invalid { .. } => {
                    return Err(Trouble::Helper(HelperError::Stranger, values.len()));
                }
            }
        }
        Ok(Ok(TemplateValues::new(values)))
    }

    /// Makes sure that the evaluator knows the templates.
    async fn define(&self, running: &mut Evaluator, templates: &Templates) -> Result<(), Trouble> {
        let id = templates.id();
        if let Some(position) = running.defined.iter().position(|known| *known == id) {
            running.defined.remove(position);
            running.defined.push_back(id);
            return Ok(());
        }
        let mut frames = Request::define(templates);
        if running.defined.len() >= MAX_DEFINED
            && let Some(oldest) = running.defined.pop_front()
        {
            frames = [Request::forget(oldest), frames].concat();
        }
        let helper = &mut running.helper;
        let sent = helper.send(&frames, SEND_WITHIN).await;
        sent.map_err(|error| Trouble::Helper(error, 0))?;
        let answer = receive(helper, COMPILE_TIME).await;
        match answer.map_err(|error| Trouble::Helper(error, 0))? {
            Answer::Defined => {
                running.defined.push_back(id);
                Ok(())
            }
            Answer::Invalid { position, message } => {
                let column = templates.column(position).to_owned();
                Err(Trouble::Invalid(MapError::Template { column, message }))
            }
            Answer::Value(_) | Answer::Failed(_) => Err(Trouble::Helper(HelperError::Stranger, 0)),
        }
    }
}

async fn receive(helper: &mut Helper, cpu: Duration) -> Result<Answer, HelperError> {
    let wall = cpu * PATIENCE;
    let frame = helper.receive(Budget { cpu, wall }).await?;
    Answer::decode(&frame).map_err(|_| HelperError::Stranger)
}

fn answer_all(jobs: &mut VecDeque<Job>, failure: Failure) {
    for job in jobs.drain(..) {
        job.answer(Err(failure));
    }
}
