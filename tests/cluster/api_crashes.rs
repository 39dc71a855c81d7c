//! The API dies before and after each of its changes of the state while it creates, changes, rolls back or deletes a source or a
//! sink. Whatever it died of is either done or undone, no task is left unfinished, and it can be asked for again.
//!
//! Two API processes: one that dies again and again, and one that goes on and is asked what became of it.

mod changes;
pub mod picture;

use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::Value;
use stream_storage::crash;
use stream_tests::client::{Api, PATIENCE, PAUSE, request, send_once};
use stream_tests::service::Service;
use stream_tests::setup::Setup;
use tokio::time::{Instant, sleep};

use self::changes::{Change, Fate, HUB, Trial};
use crate::ownership::installation::Installation;

/// What a process may say when another one has died with a lock, or was starved of processors for longer than its time to live.
pub const ALLOWED: &[&str] = &[
    "lease lost, registering again",
    "state store lost",
    "reconciler failing, will go on trying",
    "cannot read which volumes and coordinators are alive",
];
/// When the process dies relative to a transaction.
const MOMENTS: [&str; 2] = ["state-writing", "state-written"];

/// The installation and its processes.
struct Stage {
    site: Installation,
    /// Opens files and imports.
    rest: Service,
    steady: Service,
    mortal: Service,
}

/// What became of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Died,
    /// It made fewer transactions than it was to die at.
    Lived,
}

impl Stage {
    async fn new() -> Option<Self> {
        let site = Installation::new().await?;
        let volumes = site.volumes("volumes", &["one"]);
        let all = ["storage-writer", "storage-reader", "storage-coordinator"];
        let rest = site.node("rest", &volumes).words(&all);
        let rest = Service::start(rest).await.expect("it starts");
        let api = |name| site.node(name, &site.path("none")).words(&["api"]);
        let steady = Service::start(api("steady")).await.expect("it starts");
        let mortal = Self::dead(api("mortal")).await;
        let hub = steady.api().expect("a token").create_source(HUB).await;
        hub.expect("it is created");
        Some(Self {
            site,
            rest,
            steady,
            mortal,
        })
    }

    /// A process that has ended, to be started again.
    async fn dead(setup: Setup) -> Service {
        let mut service = Service::start(setup).await.expect("it starts");
        service.kill().await.expect("it runs");
        service
    }

    fn steady(&self) -> Api {
        self.steady.api().expect("a token")
    }

    /// The other process has a directory of its own, and no token in it.
    fn mortal(&self) -> Api {
        Api {
            address: self.mortal.setup().api_address(),
            ..self.steady()
        }
    }

    /// Has the change made by the process that is to die of it.
    async fn attempt(&mut self, trial: &Trial) -> anyhow::Result<Course> {
        let answer = trial.send(&self.mortal()).await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.mortal.has_ended()? {
                return Ok(Course::Died);
            }
            if let Ok(reply) = &answer {
                ensure!(reply.status == 202, "{trial:?}: {}", reply.message());
                if unfinished(self.mortal.setup()).await == Some(0) {
                    return Ok(Course::Lived);
                }
            }
            ensure!(Instant::now() < deadline, "{trial:?}: nothing happens");
            sleep(PAUSE).await;
        }
    }

    /// The tasks of a trial. None of them stays unfinished.
    async fn tasks(&self, trial: &Trial) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let all = self.site.state().await;
            let of_trial = all.into_iter().filter(|(key, _)| {
                key.starts_with("task/") && key.contains(trial.kind()) && key.contains(&trial.name)
            });
            let tasks: Vec<Value> = of_trial.map(|(_, task)| task).collect();
            if tasks.iter().all(|task| task["status"] != "processing") {
                return tasks;
            }
            assert!(Instant::now() < deadline, "{trial:?}: {tasks:?}");
            sleep(PAUSE).await;
        }
    }

    /// What became of a change: all of it or nothing, and its task says nothing else.
    async fn judge(&self, trial: &Trial) -> anyhow::Result<Fate> {
        let tasks = self.tasks(trial).await;
        let fate = trial.fate(&self.steady()).await?;
        ensure!(tasks.len() <= 1, "{trial:?}: {tasks:?}");
        if let Some(task) = tasks.first() {
            let is_success = task["status"] == "success";
            ensure!(!is_success || fate == Fate::Done, "{trial:?}: {task}");
        } else {
            ensure!(fate == Fate::Undone, "{trial:?} has no task");
        }
        Ok(fate)
    }

    /// Waits until the state has no fault.
    async fn until_clean(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let faults = picture::faults(&self.site.state().await);
            if faults.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{faults:#?}");
            sleep(PAUSE).await;
        }
    }
}

/// How many tasks a process has not finished.
pub async fn unfinished(setup: &Setup) -> Option<u64> {
    let ask = request(Method::GET, "/metrics", "");
    let reply = send_once(setup.metrics_address(), ask).await.ok()?;
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix("stream_api_tasks_unfinished "))?;
    value.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_api_dies_of_is_done_or_undone_and_can_be_repeated() {
    const { assert!(crash::COMPILED, "the tests are built without fail points") };
    let Some(mut stage) = Stage::new().await else {
        return;
    };
    let mut trials: Vec<(Trial, Fate)> = Vec::new();
    let mut deaths = 0;
    for change in Change::ALL {
        for moment in MOMENTS {
            let count = die_at_each_step(&mut stage, change, moment, &mut trials).await;
            let count = count.unwrap_or_else(|error| panic!("{change:?}: {error:#}"));
            // The task, the lock, the change itself, the lock again, and the end of the task.
            assert!(count >= 5, "{change:?} dies at {count} steps only");
            deaths += count;
        }
    }
    let api = stage.steady();
    for (trial, _) in &trials {
        let repeated = trial.repeat(&api).await;
        repeated.unwrap_or_else(|error| panic!("{trial:?} cannot be repeated: {error:#}"));
    }
    let done = trials.iter().filter(|(_, fate)| *fate == Fate::Done);
    eprintln!(
        "api crashes: {deaths} deaths: {} done, {} undone",
        done.count(),
        trials.iter().filter(|(_, it)| *it == Fate::Undone).count()
    );
    stage.until_clean().await;
    other_process_finishes(&mut stage).await.expect("it does");
    stage.until_clean().await;
    for service in [&mut stage.steady, &mut stage.rest] {
        service.stop().await.expect("it stops");
    }
    let check = stage.site.command(&["state", "check"]).await;
    assert!(check.success, "{}", check.stdout);
    for service in [&stage.steady, &stage.mortal, &stage.rest] {
        service.assert_quiet(ALLOWED);
    }
}

/// Lets the process die at the first, second, third … transaction of a change, until there are no more. How often it died.
async fn die_at_each_step(
    stage: &mut Stage,
    change: Change,
    moment: &str,
    trials: &mut Vec<(Trial, Fate)>,
) -> anyhow::Result<usize> {
    for step in 1.. {
        let trial = Trial::new(change, trials.len());
        let armed = format!("{moment}=return({}:{step})", trial.name);
        stage.mortal.arm(&armed);
        stage.mortal.spawn_again()?;
        let prepared = trial.prepare(&stage.steady()).await;
        prepared.with_context(|| format!("{trial:?} cannot be prepared"))?;
        stage.mortal.until_ready().await?;
        let course = stage.attempt(&trial).await?;
        if course == Course::Lived {
            stage.mortal.kill().await?;
        }
        // Its next start finishes what it has left.
        stage.mortal.arm("");
        stage.mortal.restart().await?;
        let fate = stage.judge(&trial).await?;
        stage.mortal.kill().await?;
        trials.push((trial, fate));
        if course == Course::Lived {
            ensure!(fate == Fate::Done, "it lives and the change is {fate:?}");
            return Ok(step - 1);
        }
    }
    unreachable!("the steps are counted without an end")
}

/// A process that does not come back: another one finishes its task.
async fn other_process_finishes(stage: &mut Stage) -> anyhow::Result<()> {
    let trial = Trial::new(Change::CreateSink, 999);
    // Behind the record of the task and before the change.
    let armed = format!("state-written=return({}:2)", trial.name);
    stage.mortal.arm(&armed);
    stage.mortal.spawn_again()?;
    trial.prepare(&stage.steady()).await?;
    stage.mortal.until_ready().await?;
    let course = stage.attempt(&trial).await?;
    ensure!(course == Course::Died, "it lives");
    let fate = stage.judge(&trial).await?;
    ensure!(fate == Fate::Undone, "{fate:?}");
    ensure!(stage.tasks(&trial).await.len() == 1, "there is its task");
    trial.repeat(&stage.steady()).await
}
