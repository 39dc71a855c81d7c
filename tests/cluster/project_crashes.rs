//! The API is killed at every step of giving sinks what they need in a project, and of taking it back: before and after each call
//! of the Storage API, and before and after each change of the state. The Storage API fails at each call, in every way. Whatever
//! happens, the change is done or undone, nothing is left in the project that no sink has, and it can be asked for again.
//!
//! Two API processes: one that is killed again and again, and one that goes on. What the first has left is settled by either.

mod trial;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, ensure};
use hyper::Method;
use serde_json::{Value, json};
use stream_storage::crash;
use stream_tests::client::{Api, PATIENCE, PAUSE};
use stream_tests::service::Service;
use stream_tests_storage_api::{Fault, StorageApi, Trap};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use self::trial::{Change, Fate, Trial};
use crate::api_crashes::{self, picture, unfinished};
use crate::ownership::installation::Installation;
use crate::projects::with_projects;

/// The project of all sinks.
const PROJECT: u64 = 12;
const SOURCES: &str = "/v1/branches/default/sources";
/// A source has at most a hundred sinks.
const SINKS_IN_A_SOURCE: usize = 90;
/// Changes at the same time where nobody dies.
const AT_ONCE: usize = 6;
/// What a process may say when the Storage API fails.
const FAILING: &[&str] = &[
    "what a sink has in its project cannot be settled, trying again",
    "cannot settle what a sink has in its project, will go on trying",
    "event is not sent",
    "purge cannot be finished yet, will go on trying",
];

/// When the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// At a change of the state: the name of the fail point.
    Change(&'static str),
    /// In a call of the Storage API.
    Call(Trap),
}

impl Moment {
    const ALL: [Self; 4] = [
        Self::Change("state-writing"),
        Self::Change("state-written"),
        Self::Call(Trap::HoldBefore),
        Self::Call(Trap::HoldAfter),
    ];
}

/// What became of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Course {
    Died,
    /// The change has fewer such steps.
    Lived,
}

/// The installation and its processes.
struct Stage {
    site: Installation,
    double: Arc<StorageApi>,
    admin: String,
    /// Has the volume, opens files, and closes them.
    rest: Service,
    steady: Service,
    mortal: Service,
    trials: usize,
    source: String,
}

impl Stage {
    async fn new() -> Option<Self> {
        let site = Installation::new().await?;
        let double = StorageApi::start().await;
        let admin = double.add_project(PROJECT).admin;
        let volumes = site.volumes("volumes", &["one"]);
        let all = ["storage-writer", "storage-reader", "storage-coordinator"];
        let rest = site.node("rest", &volumes).words(&all);
        let rest = with_projects(rest, &double.url());
        let rest = Service::start(rest).await.expect("it starts");
        let api = |name| {
            let setup = site.node(name, &site.path("none")).words(&["api"]);
            Service::start(with_projects(setup, &double.url()))
        };
        let steady = api("steady").await.expect("it starts");
        let mut mortal = api("mortal").await.expect("it starts");
        mortal.kill().await.expect("it runs");
        Some(Self {
            site,
            double: Arc::new(double),
            admin,
            rest,
            steady,
            mortal,
            trials: 0,
            source: String::new(),
        })
    }

    fn api(of: &Service, token: &str) -> Api {
        Api {
            address: of.setup().api_address(),
            token: Some(token.to_owned()),
        }
    }

    /// A change of a sink of its own, by a person of its own.
    async fn trial(&mut self, change: Change) -> Trial {
        if self.trials.is_multiple_of(SINKS_IN_A_SOURCE) {
            self.source = format!("hub{}", self.trials / SINKS_IN_A_SOURCE);
            let body = json!({"type": "http", "name": self.source, "sourceId": self.source});
            let api = Self::api(&self.steady, &self.admin);
            let created = api.done(Method::POST, SOURCES, &body).await;
            created.expect("it is created");
        }
        self.trials += 1;
        let person = self.double.add_admin(PROJECT);
        Trial::new(change, self.trials, &self.source, person)
    }

    fn arm(&mut self, trial: &Trial, moment: Moment, step: usize) {
        match moment {
            Moment::Change(point) => {
                let armed = format!("{point}=return({}:{step})", trial.name);
                self.mortal.arm(&armed);
            }
            Moment::Call(_) => self.mortal.arm(""),
        }
    }

    /// Has the change made by the process that is to die of it.
    async fn attempt(
        &mut self,
        trial: &Trial,
        moment: Moment,
        step: usize,
    ) -> anyhow::Result<Course> {
        // So that a table is made while its change is being undone, and before, and after.
        let calls = u32::try_from(self.trials % 5).expect("small");
        self.double.make_tables_after(calls + 1);
        if let Moment::Call(trap) = moment {
            self.double.set_trap(&trial.person, step, trap);
        }
        let answer = trial.send(&Self::api(&self.mortal, &trial.person)).await;
        let deadline = Instant::now() + PATIENCE;
        let course = loop {
            if self.mortal.has_ended()? {
                break Course::Died;
            }
            if self.double.is_sprung(&trial.person) {
                self.mortal.kill().await?;
                break Course::Died;
            }
            if let Ok(reply) = &answer {
                ensure!(reply.status == 202, "{trial:?}: {}", reply.message());
                if unfinished(self.mortal.setup()).await == Some(0) {
                    self.mortal.kill().await?;
                    break Course::Lived;
                }
            }
            ensure!(Instant::now() < deadline, "{trial:?}: nothing happens");
            sleep(PAUSE).await;
        };
        self.double.remove_trap(&trial.person);
        self.double.make_tables_after(1);
        Ok(course)
    }

    /// Kills the process at the first, second, third … step of that kind, until there are no more. Answers how often.
    async fn die_at_each_step(
        &mut self,
        change: Change,
        moment: Moment,
        trials: &mut Vec<Trial>,
    ) -> anyhow::Result<usize> {
        for step in 1.. {
            let trial = self.trial(change).await;
            let steady = Self::api(&self.steady, &trial.person);
            let prepared = trial.prepare(&steady).await;
            prepared.with_context(|| format!("{trial:?} cannot be prepared"))?;
            // Not before: it would help with what is not settled of that yet.
            self.arm(&trial, moment, step);
            self.mortal.spawn_again()?;
            self.mortal.until_ready().await?;
            let course = self.attempt(&trial, moment, step).await?;
            trials.push(trial);
            if course == Course::Lived {
                return Ok(step - 1);
            }
        }
        unreachable!("the steps are counted without an end")
    }

    /// Waits until each of these is done or undone, with all that belongs to it, and says which is what.
    async fn until_settled(&self, trials: &[Trial]) -> BTreeMap<Fate, usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.site.state().await;
            let held = self.double.holdings(PROJECT);
            let mut faults = picture::faults(&state);
            let mut fates: BTreeMap<Fate, usize> = BTreeMap::new();
            for trial in trials {
                let fate = trial.fate(&Self::api(&self.steady, &trial.person)).await;
                let fate = fate.unwrap_or_else(|error| panic!("{trial:?}: {error:#}"));
                *fates.entry(fate).or_default() += 1;
                faults.extend(trial.faults(fate, &state, &held));
            }
            if faults.is_empty() {
                return fates;
            }
            assert!(Instant::now() < deadline, "{faults:#?}");
            sleep(PAUSE * 20).await;
        }
    }

    /// The Storage API fails at the first, second, third … call of each change, in each of these ways. Answers how often.
    async fn fail_at_each_call(&mut self, trials: &mut Vec<Trial>) -> usize {
        let mut work = JoinSet::new();
        let (mut failures, mut ended) = (0, Vec::new());
        for change in Change::ALL {
            for trap in [
                Trap::Once(Fault::Refuse(403, "accessDenied")),
                Trap::Once(Fault::CutAfter),
                Trap::FromThen(Fault::CutBefore),
                Trap::FromThen(Fault::Status(500)),
            ] {
                for at in 1..=change.most_calls() {
                    if work.len() >= AT_ONCE {
                        ended.extend(work.join_next().await);
                    }
                    let trial = self.trial(change).await;
                    let api = Self::api(&self.steady, &trial.person);
                    let double = Arc::clone(&self.double);
                    work.spawn(fail(trial, (trap, at), api, double));
                }
            }
        }
        ended.extend(work.join_all().await.into_iter().map(Ok));
        for trial in ended {
            let (trial, has_failed) = trial.expect("it does not panic").expect("it is answered");
            failures += usize::from(has_failed);
            trials.push(trial);
        }
        failures
    }

    /// Asks again for what was not done.
    async fn repeat(&self, trials: &[Trial]) {
        for trial in trials {
            let api = Self::api(&self.steady, &trial.person);
            let repeated = trial.repeat(&api).await;
            repeated.unwrap_or_else(|error| panic!("{trial:?} cannot be repeated: {error:#}"));
        }
    }
}

/// Makes a change while the Storage API fails. Answers whether it did.
async fn fail(
    trial: Trial,
    (trap, at): (Trap, usize),
    api: Api,
    double: Arc<StorageApi>,
) -> anyhow::Result<(Trial, bool)> {
    trial.prepare(&api).await?;
    double.set_trap(&trial.person, at, trap);
    let reply = trial.send(&api).await?;
    ensure!(reply.status == 202, "{trial:?}: {}", reply.message());
    let id = reply.json()["taskId"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let deadline = Instant::now() + PATIENCE * 2;
    let path = format!("/v1/tasks/{id}");
    while api.call(Method::GET, &path, &Value::Null).await?.json()["isFinished"] != true {
        ensure!(Instant::now() < deadline, "{trial:?} does not end");
        sleep(PAUSE).await;
    }
    let has_failed = double.is_sprung(&trial.person);
    double.remove_trap(&trial.person);
    Ok((trial, has_failed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_a_change_in_a_project_it_is_done_or_undone_and_nothing_is_left() {
    const { assert!(crash::COMPILED, "the tests are built without fail points") };
    let Some(mut stage) = Stage::new().await else {
        return;
    };
    let mut trials: Vec<Trial> = Vec::new();
    let mut deaths: BTreeMap<&str, usize> = BTreeMap::new();
    for change in Change::ALL {
        for moment in Moment::ALL {
            let count = stage.die_at_each_step(change, moment, &mut trials).await;
            let count = count.unwrap_or_else(|error| panic!("{change:?} {moment:?}: {error:#}"));
            let (kind, least) = match moment {
                Moment::Change(_) => ("changes of the state", 7),
                Moment::Call(_) => ("calls", 2),
            };
            assert!(count >= least, "{change:?} dies at {count} {kind} only");
            *deaths.entry(kind).or_default() += count;
        }
    }
    stage.mortal.arm("");
    stage.mortal.restart().await.expect("it starts again");
    let fates = stage.until_settled(&trials).await;
    eprintln!("project crashes: {deaths:?}: {fates:?}");
    let killed = trials.len();
    let failures = stage.fail_at_each_call(&mut trials).await;
    let failed = stage.until_settled(&trials[killed..]).await;
    eprintln!("project crashes: the storage api failed in {failures} changes: {failed:?}");
    stage.repeat(&trials).await;
    let fates = stage.until_settled(&trials).await;
    eprintln!("project crashes: asked for again, {fates:?}");
    for service in [&mut stage.steady, &mut stage.mortal, &mut stage.rest] {
        service.stop().await.expect("it stops");
    }
    let check = stage.site.command(&["state", "check"]).await;
    assert!(check.success, "{}", check.stdout);
    for service in [&stage.steady, &stage.mortal, &stage.rest] {
        service.assert_quiet(&[api_crashes::ALLOWED, FAILING].concat());
    }
}
