//! What the clients did, and whether what is stored follows from it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use stream_model::file::{self, File};
use stream_model::slice::{self, Slice};
use stream_model::{FileId, SinkKey, SliceId};
use stream_state::Topology;
use tokio::sync::watch;

use crate::support::within;

/// What happens to a file or a slice, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Created,
    Closed,
    Sealed,
    Uploaded,
    Importing,
    Imported,
    Removed,
}

const OF_FILES: [Step; 4] = [Step::Created, Step::Closed, Step::Importing, Step::Imported];
const OF_SLICES: [Step; 4] = [Step::Created, Step::Closed, Step::Sealed, Step::Uploaded];

/// What it happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Id {
    File(FileId),
    Slice(SliceId),
}

/// How sure a client is that it did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Certainty {
    Certain,
    /// The answer got lost, and what it was about was gone before the client could look.
    Maybe,
}

#[derive(Debug)]
struct Note {
    client: u64,
    certainty: Certainty,
    /// None when the answer with it got lost.
    revision: Option<i64>,
}

#[derive(Debug)]
struct Life {
    sink: SinkKey,
    steps: BTreeMap<Step, Vec<Note>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tries {
    done: u64,
    conflicts: u64,
    failed: u64,
    slowest: Duration,
    slowest_failed: Duration,
    slowest_cure: Duration,
}

/// What all clients did.
#[derive(Debug, Default)]
pub(super) struct History {
    lives: Mutex<BTreeMap<Id, Life>>,
    problems: Mutex<Vec<String>>,
    /// With all members, and with one away.
    tries: Mutex<[Tries; 2]>,
    is_one_away: Mutex<bool>,
    done: watch::Sender<u64>,
}

impl History {
    /// Notes what a client did.
    pub(super) fn note(
        &self,
        client: u64,
        (sink, id, step): (&SinkKey, Id, Step),
        certainty: Certainty,
        revision: Option<i64>,
    ) {
        let mut lives = self.lives.lock();
        let life = lives.entry(id).or_insert_with(|| Life {
            sink: sink.clone(),
            steps: BTreeMap::new(),
        });
        life.steps.entry(step).or_default().push(Note {
            client,
            certainty,
            revision,
        });
    }

    pub(super) fn problem(&self, problem: String) {
        self.problems.lock().push(problem);
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.lock().clone()
    }

    pub(super) fn member_away(&self) {
        *self.is_one_away.lock() = true;
    }

    pub(super) fn all_members_back(&self) {
        *self.is_one_away.lock() = false;
    }

    fn count(&self, count: impl Fn(&mut Tries)) {
        let phase = usize::from(*self.is_one_away.lock());
        count(&mut self.tries.lock()[phase]);
    }

    /// Counts an answer that was of use.
    pub(super) fn answered(&self, after: Duration) {
        self.count(|tries| {
            tries.done += 1;
            tries.slowest = tries.slowest.max(after);
        });
        self.done.send_modify(|done| *done += 1);
    }

    pub(super) fn conflict(&self) {
        self.count(|tries| tries.conflicts += 1);
    }

    /// Counts an answer that etcd is not available.
    pub(super) fn failed(&self, after: Duration) {
        self.count(|tries| {
            tries.failed += 1;
            tries.slowest_failed = tries.slowest_failed.max(after);
        });
    }

    /// Counts a failure that was cured by trying again.
    pub(super) fn cured(&self, after: Duration) {
        self.count(|tries| tries.slowest_cure = tries.slowest_cure.max(after));
    }

    /// Waits until the clients have done so much more.
    pub(super) async fn more_operations(&self, count: u64) {
        let mut done = self.done.subscribe();
        let wanted = *done.borrow() + count;
        let reached = within(done.wait_for(|done| *done >= wanted)).await;
        reached.expect("the sender is here");
    }

    pub(super) fn summary(&self) -> String {
        let [together, one_away] = *self.tries.lock();
        format!("with all members {together:?}; with one away {one_away:?}")
    }

    /// Holds everything that was noted against what is stored.
    pub(super) fn compare(&self, topology: &Topology) {
        let stored = stored(topology);
        for id in stored.keys() {
            if !self.lives.lock().contains_key(id) {
                self.problem(format!("{id:?} is stored and nobody made it"));
            }
        }
        let mut removed_rows: BTreeMap<SinkKey, u64> = BTreeMap::new();
        for (id, life) in &*self.lives.lock() {
            let found = stored.get(id).copied();
            let problems = life.problems(*id, found);
            let described =
                |problem| format!("{id:?} of {}: {problem}: {:?}", life.sink, life.steps);
            self.problems
                .lock()
                .extend(problems.into_iter().map(described));
            if let (Id::Slice(slice), None) = (id, found)
                && life.steps.contains_key(&Step::Removed)
            {
                *removed_rows.entry(life.sink.clone()).or_default() += rows_of(*slice);
            }
        }
        for (sink, rows) in removed_rows {
            let counted = topology.sink(&sink).and_then(|node| node.removed);
            let counted = counted.map_or(0, |figures| figures.rows);
            if counted != rows {
                self.problem(format!(
                    "{sink}: {counted} rows are counted as removed, {rows} were"
                ));
            }
        }
    }
}

impl Life {
    /// What does not fit to the step that is stored as the last one; none: it is not there.
    fn problems(&self, id: Id, found: Option<Step>) -> Vec<String> {
        let mut problems = Vec::new();
        let mut before = 0;
        for (step, notes) in &self.steps {
            let certain: Vec<&Note> = notes
                .iter()
                .filter(|note| note.certainty == Certainty::Certain)
                .collect();
            if certain.len() > 1 {
                problems.push(format!("{step:?} was done {} times", certain.len()));
            }
            let Some(note) = certain.first() else {
                continue;
            };
            if note.revision.is_some_and(|revision| revision < before) {
                problems.push(format!("{step:?} by client {} came too early", note.client));
            }
            before = note.revision.unwrap_or(before);
            let is_there = found.map_or(self.steps.contains_key(&Step::Removed), |last| {
                *step <= last
            });
            if !is_there {
                problems.push(format!("{step:?} is lost, found is {found:?}"));
            }
        }
        let steps = match id {
            Id::File(_) => OF_FILES,
            Id::Slice(_) => OF_SLICES,
        };
        for step in steps {
            if found.is_some_and(|last| step <= last) && !self.steps.contains_key(&step) {
                problems.push(format!("nobody did {step:?}"));
            }
        }
        problems
    }
}

/// Rows that a slice is sealed with. Some have none.
pub(super) fn rows_of(slice: SliceId) -> u64 {
    u64::from(slice.to_bytes()[15] % 5)
}

/// The last step of everything that is stored.
fn stored(topology: &Topology) -> BTreeMap<Id, Step> {
    let sinks = topology
        .sources
        .values()
        .flat_map(|node| node.sinks.values());
    let mut found = BTreeMap::new();
    for sink in sinks {
        for (id, file) in &sink.files {
            found.insert(Id::File(*id), step_of_file(&file.value));
        }
        for (id, slice) in &sink.slices {
            found.insert(Id::Slice(*id), step_of_slice(&slice.value));
        }
    }
    found
}

const fn step_of_file(file: &File) -> Step {
    match file.state {
        file::State::Writing => Step::Created,
        file::State::Closing { .. } => Step::Closed,
        file::State::Importing { .. } => Step::Importing,
        file::State::Imported { .. } => Step::Imported,
    }
}

const fn step_of_slice(slice: &Slice) -> Step {
    match slice.state {
        slice::State::Writing => Step::Created,
        slice::State::Closing(_) => Step::Closed,
        slice::State::Uploading { .. } => Step::Sealed,
        slice::State::Uploaded { .. } => Step::Uploaded,
    }
}
