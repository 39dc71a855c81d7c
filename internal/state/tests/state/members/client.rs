//! A client: a source and a sink that only it uses, sinks that all use, and what it knows about both.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_model::definition::Sink;
use stream_model::statistics::{Crossed, Figures};
use stream_model::trigger::Reason;
use stream_model::{ErrorKind, SinkKey, VolumeId, slice};
use stream_state::{Mirror, Outputs, StateError, Store, Task, TaskStatus};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::CLIENTS;
use super::history::{Certainty, History};
use super::operation::{Evidence, Operation, choose};
use crate::support::{
    at, node, sink, sink_key, source, source_key, table, version, volume, within,
};

/// A failure that is not gone by then is one that somebody has to do something about.
const CURE: Duration = Duration::from_secs(10);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest pause of a client between two operations, in milliseconds.
const PACE_MS: u64 = 20;
/// Changes of the shared definitions by one client: with those of all others, fewer than there are versions kept.
const SHARED_CHANGES: u64 = 100;
/// Sources that a client makes beside its own.
const EXTRA_SOURCES: u64 = 4;
const SHARED_SINKS: [&str; 2] = ["a", "b"];
const SHARED_VOLUMES: [u8; 2] = [101, 102];

/// Makes what all clients use.
pub(super) async fn create_shared(store: &Store) {
    store
        .create_source(source("shared"))
        .await
        .expect("created");
    for name in SHARED_SINKS {
        let created = store.create_sink(sink("shared", name), None).await;
        created.expect("created");
    }
    for number in SHARED_VOLUMES {
        let raised = store
            .raise_incarnation(volume(number), &node("first"))
            .await;
        raised.expect("raised");
    }
}

pub(super) struct Client {
    number: u64,
    rng: StdRng,
    store: Store,
    mirror: Mirror,
    history: Arc<History>,
    expected: Expected,
}

/// What must be stored at the end because of one client.
#[derive(Debug, Default)]
pub(super) struct Expected {
    number: u64,
    own_changes: u64,
    shared_changes: u64,
    task_changes: u64,
    extra_sources: u64,
    /// The numbers that it got for its own volume, and for a shared one.
    own_incarnations: Vec<u64>,
    shared_incarnations: Vec<u64>,
    /// Raises whose answer got lost.
    unsure_own_raises: u64,
}

/// Whether each answer of an operation arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answers {
    All,
    SomeLost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    This,
    All,
}

impl Client {
    pub(super) fn new(
        number: u64,
        seed: u64,
        store: Store,
        mirror: Mirror,
        history: Arc<History>,
    ) -> Self {
        Self {
            number,
            rng: StdRng::seed_from_u64(seed ^ (number + 1)),
            store,
            mirror,
            history,
            expected: Expected {
                number,
                ..Expected::default()
            },
        }
    }

    /// Works until told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Expected {
        self.create_own().await;
        while !stop.is_cancelled() {
            self.work().await;
            let pause = self.rng.random_range(0..=PACE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.expected
    }

    async fn work(&mut self) {
        match self.rng.random_range(0..40) {
            0..2 => self.change_own().await,
            2 => self.change_shared().await,
            3..5 => self.change_task().await,
            5 => self.raise_own().await,
            6 => self.raise_shared().await,
            7 => self.create_extra().await,
            8..10 => self.cross().await,
            10..27 => {
                let key = own_sink(self.number);
                self.advance(&key, &[own_volume(self.number)], Owner::This)
                    .await;
            }
            _ => {
                let name = SHARED_SINKS[self.rng.random_range(0..SHARED_SINKS.len())];
                let key = sink_key("shared", name);
                self.advance(&key, &SHARED_VOLUMES.map(volume), Owner::All)
                    .await;
            }
        }
    }

    /// Asks until there is an answer. One that does not come within the time that a cure may take is a problem.
    async fn cured<T, F>(&self, what: &str, ask: impl Fn() -> F) -> (Result<T, StateError>, Answers)
    where
        F: Future<Output = Result<T, StateError>>,
    {
        let mut failing = None;
        loop {
            let begun = Instant::now();
            let answer = ask().await;
            match answer {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    self.history.failed(begun.elapsed());
                    let since = *failing.get_or_insert(begun);
                    if since.elapsed() > CURE {
                        let seconds = since.elapsed().as_secs();
                        self.problem(format!("{what} fails for {seconds} s: {error}"));
                        return (Err(error), Answers::SomeLost);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                answer => {
                    self.history.answered(begun.elapsed());
                    let Some(since) = failing else {
                        return (answer, Answers::All);
                    };
                    self.history.cured(since.elapsed());
                    return (answer, Answers::SomeLost);
                }
            }
        }
    }

    fn problem(&self, problem: String) {
        self.history
            .problem(format!("client {}: {problem}", self.number));
    }

    /// For what cannot fail but by etcd being away. None when the failure was noted.
    async fn must<T, F>(&self, what: &str, ask: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StateError>>,
    {
        match self.cured(what, ask).await.0 {
            Ok(value) => Some(value),
            Err(error) if error.kind() == ErrorKind::Unavailable => None,
            Err(error) => {
                self.problem(format!("{what}: {error}"));
                None
            }
        }
    }

    /// For what creates something under a name that only this client uses.
    async fn create<T, F>(&self, what: &str, ask: impl Fn() -> F)
    where
        F: Future<Output = Result<T, StateError>>,
    {
        match self.cured(what, ask).await {
            (Ok(_), _) | (Err(StateError::AlreadyExists { .. }), Answers::SomeLost) => {}
            (Err(error), _) => self.problem(format!("{what}: {error}")),
        }
    }

    async fn create_own(&mut self) {
        let (store, name, number) = (&self.store, own_source(self.number), self.number);
        let create_source = || store.create_source(source(&name));
        self.create("creating a source", create_source).await;
        let create_sink = || store.create_sink(sink(&name, "raw"), None);
        self.create("creating a sink", create_sink).await;
        let create_task = || store.create_task(task(number, 0));
        self.create("creating a task", create_task).await;
        self.raise_own().await;
        let of_sink = || async { self.store.sink(&own_sink(number)).await };
        if let Some(Some(sink)) = self.must("reading a sink", of_sink).await {
            within(self.mirror.reached(sink.revision)).await;
        }
    }

    /// Raises this client's count in a sink, and with it the version.
    async fn count_in(&self, key: &SinkKey, wanted: u64) -> Option<i64> {
        let own = usize::try_from(self.number).expect("it is small");
        let change = || {
            self.store.update_sink(key, |mut sink: Sink| {
                let mut counts = counts(&sink);
                if counts[own] < wanted {
                    counts[own] = wanted;
                    sink.description = counts.map(|count| count.to_string()).join(",");
                    sink.version = version(sink.version.number + 1);
                }
                Ok::<_, StateError>(sink)
            })
        };
        // Others may be faster ten times in a row.
        let patient = || async {
            loop {
                match change().await {
                    Err(StateError::Conflict { .. }) => self.history.conflict(),
                    other => return other,
                }
            }
        };
        let changed = self.must("changing a sink", patient).await?;
        Some(changed.revision)
    }

    async fn change_own(&mut self) {
        self.expected.own_changes += 1;
        let key = own_sink(self.number);
        if let Some(revision) = self.count_in(&key, self.expected.own_changes).await {
            within(self.mirror.reached(revision)).await;
        }
    }

    async fn change_shared(&mut self) {
        if self.expected.shared_changes < SHARED_CHANGES {
            self.expected.shared_changes += 1;
            let wanted = self.expected.shared_changes;
            self.count_in(&sink_key("shared", SHARED_SINKS[0]), wanted)
                .await;
        }
    }

    async fn create_extra(&mut self) {
        if self.expected.extra_sources < EXTRA_SOURCES {
            let name = extra_source(self.number, self.expected.extra_sources);
            self.expected.extra_sources += 1;
            let create = || self.store.create_source(source(&name));
            self.create("creating a source", create).await;
        }
    }

    async fn change_task(&mut self) {
        self.expected.task_changes += 1;
        let new = task(self.number, self.expected.task_changes);
        let change = || async {
            let old = self.store.task(&new.id).await?;
            let old = old.expect("it was created");
            // An earlier try was carried out although its answer got lost.
            if old.value == new {
                return Ok(());
            }
            self.store.update_task(&old, new.clone()).await.map(|_| ())
        };
        // It may even be carried out between the look and the next try.
        if let (Err(error), answers) = self.cured("changing a task", change).await
            && !(answers == Answers::SomeLost && error.kind() == ErrorKind::Conflict)
        {
            self.problem(format!("changing a task: {error}"));
        }
    }

    async fn raise_own(&mut self) {
        let volume = own_volume(self.number);
        if let Some((number, lost)) = self.raise(volume).await {
            self.expected.own_incarnations.push(number);
            self.expected.unsure_own_raises += lost;
        }
    }

    async fn raise_shared(&mut self) {
        if let Some((number, _)) = self.raise(volume(SHARED_VOLUMES[0])).await {
            self.expected.shared_incarnations.push(number);
        }
    }

    /// Opens a volume anew. Gives the number, and how many tries had no answer.
    async fn raise(&self, volume: VolumeId) -> Option<(u64, u64)> {
        let tries = std::sync::atomic::AtomicU64::new(0);
        let own_node = node(&format!("node-{}", self.number));
        let raise = || {
            tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.store.raise_incarnation(volume, &own_node)
        };
        let number = self.must("raising an incarnation", raise).await?;
        Some((number, tries.into_inner() - 1))
    }

    /// Notes that a slice of this client has reached a limit.
    async fn cross(&mut self) {
        let key = own_sink(self.number);
        let writing = self.mirror.read(|topology| {
            let mut slices = topology.sink(&key)?.slices.values();
            slices
                .find(|slice| slice.value.state == slice::State::Writing)
                .cloned()
        });
        let Some(writing) = writing else {
            return;
        };
        let crossed = Crossed {
            sink: key,
            slice: writing.value.id,
            volume: writing.value.volume,
            reason: Reason::Count,
            figures: Figures::default(),
            later_hours: stream_model::hours::LaterHours::default(),
            at: at(3),
        };
        let note = || self.store.put_crossed(crossed.clone());
        if self.must("noting a limit", note).await == Some(false) {
            self.problem(format!("slice {} is not writing any more", crossed.slice));
        }
    }

    /// Does one thing with the files and slices of a sink.
    async fn advance(&mut self, key: &SinkKey, volumes: &[VolumeId], owner: Owner) {
        let node = self.mirror.read(|topology| topology.sink(key).cloned());
        let Some(operation) = node.and_then(|node| choose(&mut self.rng, &node, volumes)) else {
            return;
        };
        let send = || operation.send(&self.store);
        match self.cured("a change of a sink", send).await {
            (Ok(revision), _) => {
                self.note(&operation, Certainty::Certain, Some(revision));
                within(self.mirror.reached(revision)).await;
            }
            (Err(error), answers) if is_overtaken(&error) => {
                self.history.conflict();
                match answers {
                    Answers::All if owner == Owner::This => {
                        self.problem(format!("{operation:?}: {error}, and nobody else writes"));
                    }
                    Answers::All => {}
                    Answers::SomeLost => self.find_out(&operation, owner).await,
                }
            }
            (Err(error), _) if error.kind() == ErrorKind::Unavailable => {}
            (Err(error), _) => self.problem(format!("{operation:?}: {error}")),
        }
    }

    /// Finds out whether an operation was done by a try whose answer got lost.
    async fn find_out(&mut self, operation: &Operation, owner: Owner) {
        let look = || operation.evidence(&self.store);
        let Some(evidence) = self.must("looking what became of a change", look).await else {
            return;
        };
        match (evidence, owner) {
            (Evidence::Done, _) => self.note(operation, Certainty::Certain, None),
            (Evidence::Gone, Owner::This) if operation.is_removal() => {
                self.note(operation, Certainty::Certain, None);
            }
            (Evidence::Gone, _) => self.note(operation, Certainty::Maybe, None),
            (Evidence::NotDone, Owner::All) => {}
            (Evidence::NotDone, Owner::This) => {
                self.problem(format!("{operation:?} was refused and not done"));
            }
        }
        // Whatever was done is in the picture when a later change is.
        if owner == Owner::This {
            self.change_own().await;
        }
    }

    fn note(&self, operation: &Operation, certainty: Certainty, revision: Option<i64>) {
        for (id, step) in operation.steps() {
            let what = (&operation.sink, id, step);
            self.history.note(self.number, what, certainty, revision);
        }
    }
}

/// Whether somebody else was faster.
fn is_overtaken(error: &StateError) -> bool {
    matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound)
}

impl Expected {
    /// Holds what this client did with its own things against what is stored.
    pub(super) async fn compare(&self, store: &Store, history: &History) {
        let number = self.number;
        let check = |what: &str, stored: String, wanted: String| {
            if stored != wanted {
                history.problem(format!(
                    "client {number}: {what} is {stored} and must be {wanted}"
                ));
            }
        };
        let stored = store.sink(&own_sink(number)).await.expect("read");
        let stored = stored.expect("it was created").value;
        let own = usize::try_from(number).expect("it is small");
        check(
            "the count of its sink",
            counts(&stored)[own].to_string(),
            self.own_changes.to_string(),
        );
        let wanted = self.own_changes + 1;
        check(
            "the version of its sink",
            stored.version.number.to_string(),
            wanted.to_string(),
        );
        assert_eq!(stored.table, table());
        let stored = store.task(&task(number, 0).id).await.expect("read");
        let stored = stored.expect("it was created").value;
        check(
            "its task",
            format!("{stored:?}"),
            format!("{:?}", task(number, self.task_changes)),
        );
        for extra in 0..self.extra_sources {
            let name = extra_source(number, extra);
            let stored = store
                .source_versions(&source_key(&name))
                .await
                .expect("read");
            check(
                "versions of an extra source",
                stored.len().to_string(),
                "1".to_owned(),
            );
        }
        let stored = store.incarnation(own_volume(number)).await.expect("read");
        let stored = stored.map_or(0, |incarnation| incarnation.number);
        let raised = &self.own_incarnations;
        let most = raised.len() as u64 + self.unsure_own_raises;
        if !raised.is_sorted_by(|one, next| one < next)
            || stored > most
            || raised.last() != Some(&stored)
        {
            history.problem(format!(
                "client {number}: its volume has {stored} after {raised:?}"
            ));
        }
    }
}

/// Holds what all clients did with what they share against what is stored.
pub(super) async fn compare_shared(store: &Store, clients: &[Expected], history: &History) {
    let key = sink_key("shared", SHARED_SINKS[0]);
    let stored = store
        .sink(&key)
        .await
        .expect("read")
        .expect("it was created")
        .value;
    let mut wanted = [0; CLIENTS as usize];
    for client in clients {
        wanted[usize::try_from(client.number).expect("it is small")] = client.shared_changes;
    }
    if counts(&stored) != wanted {
        history.problem(format!(
            "{key} counts {:?} and must {wanted:?}",
            counts(&stored)
        ));
    }
    let changes: u64 = wanted.iter().sum();
    let versions = store.sink_versions(&key).await.expect("read");
    let numbers: Vec<u64> = versions.iter().map(|sink| sink.version.number).collect();
    if numbers != (1..=changes + 1).collect::<Vec<_>>() {
        history.problem(format!(
            "{key} has the versions {numbers:?} after {changes} changes"
        ));
    }
    let raised: Vec<u64> = clients
        .iter()
        .flat_map(|client| client.shared_incarnations.iter().copied())
        .collect();
    let different: BTreeSet<u64> = raised.iter().copied().collect();
    if different.len() != raised.len() {
        history.problem(format!(
            "two openings of a volume got the same number: {raised:?}"
        ));
    }
}

/// How often each client has changed a sink.
fn counts(sink: &Sink) -> [u64; CLIENTS as usize] {
    let mut counts = [0; CLIENTS as usize];
    for (count, text) in counts.iter_mut().zip(sink.description.split(',')) {
        *count = text.parse().unwrap_or_default();
    }
    counts
}

fn own_source(client: u64) -> String {
    format!("own-{client}")
}

fn extra_source(client: u64, number: u64) -> String {
    format!("extra-{client}-{number}")
}

fn own_sink(client: u64) -> SinkKey {
    sink_key(&own_source(client), "raw")
}

fn own_volume(client: u64) -> VolumeId {
    volume(u8::try_from(client).expect("it is small") + 1)
}

fn task(client: u64, changes: u64) -> Task {
    Task {
        id: format!("members/{client}"),
        kind: "api.create.source".to_owned(),
        created_at: at(0),
        node: None,
        finished_at: None,
        duration_ms: Some(changes),
        status: TaskStatus::Processing,
        result: None,
        error: None,
        outputs: Outputs::default(),
    }
}
