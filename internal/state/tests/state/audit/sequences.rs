//! Random sequences of verbs, each called as the service calls it, never leave anything that the audit finds.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use stream_model::definition::{Sink, Source};
use stream_model::file::{self, File};
use stream_model::rejects;
use stream_model::retry::Retry;
use stream_model::slice::{Closing, Slice, State};
use stream_model::statistics::{Crossed, Figures};
use stream_model::trigger::Reason;
use stream_model::{FileId, SinkKey, SliceId, SourceKey, Timestamp, VolumeId};
use stream_state::{
    Mirror, Opening, SinkNode, SourceNode, StateError, Store, TaskStatus, Versioned,
};

use super::{audit, task};
use crate::support::*;

const SEEDS: u64 = 5;
const STEPS: u64 = 150;
const VOLUMES: [u8; 2] = [1, 2];

/// What one step does, if there is anything to do it with, and how often it is drawn.
const VERBS: [(&str, usize); 24] = [
    ("create_source", 3),
    ("update_source", 1),
    ("delete_source", 1),
    ("create_sink", 6),
    ("update_sink", 1),
    ("disable_sink", 1),
    ("delete_sink", 1),
    ("open_file", 4),
    ("close_file", 4),
    ("fail_file", 1),
    ("begin_import", 6),
    ("complete_import", 6),
    ("remove_file", 3),
    ("rotate_slice", 4),
    ("seal_slice", 8),
    ("reseal_slice", 1),
    ("upload_slice", 8),
    ("move_slice", 2),
    ("fail_slice", 1),
    ("put_crossed", 2),
    ("open_rejects", 3),
    ("close_rejects", 3),
    ("remove_rejects", 3),
    ("surroundings", 1),
];

struct World {
    store: Store,
    rng: StdRng,
    next: u64,
    now: Timestamp,
    sources: BTreeMap<SourceKey, SourceNode>,
}

type Place = (SinkKey, SinkNode, bool);

impl World {
    async fn new(store: Store, seed: u64) -> Self {
        for n in VOLUMES {
            let raised = store.raise_incarnation(volume(n), &node("n")).await;
            raised.expect("raised");
        }
        Self {
            store,
            rng: StdRng::seed_from_u64(seed),
            next: 0,
            now: at(0),
            sources: BTreeMap::new(),
        }
    }

    /// Looks at what there is.
    async fn look(&mut self) {
        let (mirror, _unused) = Mirror::start(&self.store).await.expect("listed");
        self.sources = mirror.read(|topology| topology.sources.clone());
    }

    fn below(&mut self, limit: usize) -> usize {
        self.rng.random_range(0..limit)
    }

    fn pick<T>(&mut self, mut items: Vec<T>) -> Option<T> {
        if items.is_empty() {
            return None;
        }
        let index = self.below(items.len());
        Some(items.swap_remove(index))
    }

    fn draw(&mut self) -> &'static str {
        let mut left = self.below(VERBS.iter().map(|(_, weight)| weight).sum());
        for (verb, weight) in VERBS {
            if left < weight {
                return verb;
            }
            left -= weight;
        }
        unreachable!("the number is below the sum of the weights")
    }

    /// Ids rise, as those of the service do.
    fn id(&mut self) -> [u8; 16] {
        self.next += 1;
        u128::from(self.next).to_be_bytes()
    }

    /// All sinks, and whether they take rows.
    fn sinks(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for (key, node) in &self.sources {
            let source_takes = node.source.as_ref().is_some_and(|s| s.value.is_enabled());
            for (id, sink) in &node.sinks {
                let source = key.clone();
                let takes =
                    source_takes && sink.sink.as_ref().is_some_and(|s| s.value.is_enabled());
                let key = SinkKey {
                    source,
                    sink: id.clone(),
                };
                places.push((key, sink.clone(), takes));
            }
        }
        places
    }

    fn files(&self, wanted: impl Fn(&SinkNode, &File) -> bool) -> Vec<(Place, Versioned<File>)> {
        let mut found = Vec::new();
        for place in self.sinks() {
            for file in place.1.files.values() {
                if wanted(&place.1, &file.value) {
                    found.push((place.clone(), Versioned::clone(file)));
                }
            }
        }
        found
    }

    fn slices(&self, wanted: impl Fn(&SinkNode, &Slice) -> bool) -> Vec<(Place, Versioned<Slice>)> {
        let mut found = Vec::new();
        for place in self.sinks() {
            for slice in place.1.slices.values() {
                if wanted(&place.1, &slice.value) {
                    found.push((place.clone(), Versioned::clone(slice)));
                }
            }
        }
        found
    }

    /// A file with a slice on each of some of the source's volumes, and the volumes if the source has none yet.
    fn plan(&mut self, sink: &Sink) -> Opening {
        let assigned = self.sources.get(&sink.key.source);
        let assigned = assigned.and_then(|node| node.assignment.clone());
        let all = || VOLUMES.map(volume).to_vec();
        let volumes = assigned
            .as_ref()
            .map_or_else(all, |assigned| assigned.volumes.clone());
        let live = self.below(volumes.len()) + 1;
        let file = File {
            mapping_version: sink.version.number,
            table: sink.table.clone(),
            opened_at: self.now,
            ..file(&sink.key, FileId::from_bytes(self.id()), &volumes[..live])
        };
        let mut slices = Vec::new();
        for volume in &file.volumes {
            slices.push(self.slice(&file, *volume));
        }
        Opening {
            assignment: assigned.is_none().then_some(volumes),
            file,
            slices,
        }
    }

    fn slice(&mut self, file: &File, volume: VolumeId) -> Slice {
        Slice {
            opened_at: self.now,
            ..slice(file, SliceId::from_bytes(self.id()), volume)
        }
    }

    fn plan_rejects(&self, file: &File, volumes: &[VolumeId]) -> Vec<Slice> {
        let rows = slice(file, SliceId::from_bytes([0; 16]), volumes[0]);
        rejects::plan(file, &rows, volumes, rejects::default_trigger(), self.now)
    }

    /// Slices of rejected records, as the coordinator opens, closes and removes them.
    async fn change_rejects(&mut self, verb: &str) -> Option<()> {
        if verb == "open_rejects" {
            let writing = self.files(|_, file| file.state == file::State::Writing);
            let ((_, node, _), file) = self.pick(writing)?;
            let taken =
                |volume: &VolumeId| node.rejects().any(|slice| slice.value.volume == *volume);
            let missing = file.value.volumes.iter().copied().filter(|on| !taken(on));
            let missing: Vec<VolumeId> = missing.collect();
            if missing.is_empty() {
                return None;
            }
            let slices = self.plan_rejects(&file.value, &missing);
            self.store
                .open_rejects(&file, slices)
                .await
                .expect("opened");
            return Some(());
        }
        let slices = self.slices(|_, slice| {
            !slice.kind.is_rows()
                && match slice.state {
                    State::Writing => verb == "close_rejects",
                    State::Uploaded { .. } => verb == "remove_rejects",
                    _ => false,
                }
        });
        let ((_, _, takes), slice) = self.pick(slices)?;
        if verb == "remove_rejects" {
            self.store.remove_rejects(&slice).await.expect("removed");
            return Some(());
        }
        let mut random = [0; 10];
        random.copy_from_slice(&self.id()[6..]);
        let trigger = rejects::default_trigger();
        let successor =
            takes.then(|| rejects::successor(&slice.value, None, trigger, self.now, random));
        let closing = Closing {
            at: self.now,
            reason: Reason::Interval,
            successor: successor.as_ref().map(|slice| slice.id),
        };
        let closed = self.store.close_rejects(&slice, closing, successor).await;
        closed.expect("closed");
        Some(())
    }

    async fn incarnation(&self, volume: VolumeId) -> u64 {
        let stored = self.store.incarnation(volume).await.expect("read");
        stored.expect("was raised").number
    }

    /// Does something for which there is something to do it with, and says what.
    async fn step(&mut self) -> &'static str {
        loop {
            let verb = self.draw();
            if self.attempt(verb).await.is_some() {
                return verb;
            }
        }
    }

    async fn attempt(&mut self, verb: &str) -> Option<()> {
        match verb {
            "create_source" | "update_source" | "delete_source" => self.change_source(verb).await,
            "create_sink" | "update_sink" | "disable_sink" | "delete_sink" => {
                self.change_sink(verb).await
            }
            "open_file" | "close_file" | "fail_file" => self.change_file(verb).await,
            "begin_import" | "complete_import" | "remove_file" => self.import(verb).await,
            "open_rejects" | "close_rejects" | "remove_rejects" => self.change_rejects(verb).await,
            "surroundings" => self.change_surroundings().await,
            _ => self.change_slice(verb).await,
        }
    }

    async fn change_source(&mut self, verb: &str) -> Option<()> {
        let name = ["a", "b"][self.below(2)];
        let key = source_key(name);
        let known = self.sources.get(&key).and_then(|node| node.source.clone());
        let is_live = known.is_some_and(|source| source.value.deleted.is_none());
        if is_live == (verb == "create_source") {
            return None;
        }
        match verb {
            "create_source" => {
                self.store
                    .create_source(source(name))
                    .await
                    .expect("created");
            }
            "delete_source" => {
                let deleted = self.store.delete_source(&key, switch()).await;
                deleted.expect("deleted");
            }
            _ => {
                let renamed = |mut source: Source| {
                    source.version = version(source.version.number + 1);
                    source.name = format!("name {}", source.version.number);
                    Ok::<_, StateError>(source)
                };
                let updated = self.store.update_source(&key, renamed).await;
                updated.expect("updated");
            }
        }
        Some(())
    }

    async fn change_sink(&mut self, verb: &str) -> Option<()> {
        let source = ["a", "b"][self.below(2)];
        let name = ["x", "y"][self.below(2)];
        let key = sink_key(source, name);
        let of_source = self.sources.get(&key.source)?;
        let is_live = |deleted: bool| !deleted;
        if !is_live(of_source.source.as_ref()?.value.deleted.is_some()) {
            return None;
        }
        let node = of_source.sinks.get(&key.sink).cloned().unwrap_or_default();
        let lives = node
            .sink
            .as_ref()
            .is_some_and(|sink| sink.value.deleted.is_none());
        if lives == (verb == "create_sink") {
            return None;
        }
        let keyed = self.rng.random_bool(0.5);
        match verb {
            "create_sink" => {
                let mut new = sink(source, name);
                new.table.mapping.columns[0].primary_key = keyed;
                let wanted = node.current.is_none() && self.rng.random_bool(0.7);
                let mut opening = wanted.then(|| self.plan(&new));
                if let Some(opening) = &mut opening {
                    let rejects = self.plan_rejects(&opening.file, &opening.file.volumes);
                    opening.slices.extend(rejects);
                }
                let created = self.store.create_sink(new, opening).await;
                created.expect("created");
            }
            "delete_sink" => {
                let deleted = self.store.delete_sink(&key, switch()).await;
                deleted.expect("deleted");
            }
            _ => {
                let disables = verb == "disable_sink";
                let change = |mut sink: Sink| {
                    if disables {
                        sink.disabled = sink.disabled.is_none().then(switch);
                        return Ok::<_, StateError>(sink);
                    }
                    sink.version = version(sink.version.number + 1);
                    sink.table.mapping.columns[0].primary_key = keyed;
                    Ok(sink)
                };
                let updated = self.store.update_sink(&key, change).await;
                updated.expect("updated");
            }
        }
        Some(())
    }

    async fn change_file(&mut self, verb: &str) -> Option<()> {
        if verb == "open_file" {
            let without = |place: &Place| place.2 && place.1.current.is_none();
            let places = self.sinks().into_iter().filter(without).collect();
            let (_, node, _) = self.pick(places)?;
            let sink = node.sink?;
            let Opening {
                assignment,
                file,
                slices,
            } = self.plan(&sink.value);
            let opened = self.store.open_file(&sink, assignment, file, slices).await;
            opened.expect("opened");
            return Some(());
        }
        if verb == "fail_file" {
            let files = self.files(|_, file| !matches!(file.state, file::State::Imported { .. }));
            let (_, file) = self.pick(files)?;
            let retry = Retry::next(None, "the target is away".to_owned(), self.now);
            self.store.fail_file(&file, retry).await.expect("failed");
            return Some(());
        }
        let writing = self.files(|_, file| file.state == file::State::Writing);
        let ((_, node, takes), file) = self.pick(writing)?;
        let next = takes.then(|| node.sink.clone()).flatten();
        let next = next.map(|sink| self.plan(&sink.value));
        let writing = node.slices.values().filter(|slice| {
            slice.value.file == file.value.id && slice.value.state == State::Writing
        });
        let closings = writing.map(|slice| {
            let slices = next.iter().flat_map(|next| &next.slices);
            let mut successors = slices.filter(|next| next.volume == slice.value.volume);
            let successor = successors.next().map(|next| next.id);
            let closing = Closing {
                at: self.now,
                reason: Reason::Interval,
                successor,
            };
            (Versioned::clone(slice), closing)
        });
        let closings = closings.collect();
        let next = next.map(|next| (next.file, next.slices));
        let closed = self
            .store
            .close_file(&file, self.now, Reason::Interval, closings, next);
        closed.await.expect("closed");
        Some(())
    }

    async fn import(&mut self, verb: &str) -> Option<()> {
        let files = self.files(|node, file| {
            let uploaded = slices_of(node, file)
                .iter()
                .all(|slice| slice.value.is_uploaded());
            match (&file.state, verb) {
                (file::State::Closing { .. }, "begin_import") => {
                    uploaded && has_its_turn(node, file)
                }
                (file::State::Importing { .. }, "complete_import") => has_its_turn(node, file),
                (file::State::Imported { .. }, "remove_file") => true,
                _ => false,
            }
        });
        let ((_, node, _), file) = self.pick(files)?;
        let slices = slices_of(&node, &file.value);
        match verb {
            "begin_import" => {
                let begun = self.store.begin_import(&file, &slices, self.now).await;
                begun.expect("begun");
            }
            "complete_import" => {
                let seals = slices.iter().filter_map(|slice| slice.value.seal());
                let rows = seals.map(|seal| seal.figures.rows).sum();
                let completed = self.store.complete_import(&file, self.now, rows).await;
                completed.expect("completed");
            }
            _ => {
                let removed = self.store.remove_file(&file, &slices).await;
                removed.expect("removed");
            }
        }
        Some(())
    }

    async fn change_slice(&mut self, verb: &str) -> Option<()> {
        let slices = self.slices(|node, slice| match (&slice.state, verb) {
            (State::Writing, "rotate_slice") | (State::Writing, "put_crossed") => {
                node.current == Some(slice.file) || (!slice.kind.is_rows() && verb == "put_crossed")
            }
            (State::Closing(_), "seal_slice") => true,
            (State::Uploading { .. }, "upload_slice" | "reseal_slice") => true,
            (State::Closing(_) | State::Uploading { .. }, "move_slice") => {
                movable(node, slice).is_some()
            }
            (State::Uploaded { .. }, _) => false,
            (_, verb) => verb == "fail_slice",
        });
        let ((_, node, _), slice) = self.pick(slices)?;
        let incarnation = self.incarnation(slice.value.volume).await;
        let file = node.files.get(&slice.value.file);
        match verb {
            "rotate_slice" => {
                let file = Versioned::clone(file?);
                let successor = self.slice(&file.value, slice.value.volume);
                let closing = Closing {
                    at: self.now,
                    reason: Reason::Size,
                    successor: Some(successor.id),
                };
                let rotated = self.store.rotate_slice(&file, &slice, closing, successor);
                rotated.await.expect("rotated");
            }
            "put_crossed" => {
                let noted = self.store.put_crossed(Crossed {
                    sink: slice.value.sink.clone(),
                    slice: slice.value.id,
                    volume: slice.value.volume,
                    reason: Reason::Count,
                    figures: Figures::default(),
                    later_hours: stream_model::hours::LaterHours::default(),
                    at: self.now,
                });
                assert!(noted.await.expect("noted"));
            }
            "seal_slice" => {
                let seal = seal(self.rng.random_range(0..3), incarnation);
                let sealed = self.store.seal_slice(&slice, seal, incarnation).await;
                sealed.expect("sealed");
            }
            "reseal_slice" => {
                let rows = slice.value.seal()?.figures.rows;
                let seal = seal(self.rng.random_range(0..=rows), incarnation);
                let sealed = self.store.reseal_slice(&slice, seal, incarnation).await;
                sealed.expect("sealed");
            }
            "upload_slice" => {
                let object = format!("object-{}", slice.value.id);
                let uploaded = self
                    .store
                    .upload_slice(&slice, object, self.now, incarnation);
                uploaded.await.expect("uploaded");
            }
            "move_slice" => {
                let (to, file) = (movable(&node, &slice.value)?, Versioned::clone(file?));
                let moved = self.store.move_slice(&slice, &file, &to).await;
                moved.expect("moved");
            }
            _ => {
                let retry = Retry::next(None, "staging is away".to_owned(), self.now);
                self.store.fail_slice(&slice, retry).await.expect("failed");
            }
        }
        Some(())
    }

    async fn change_surroundings(&mut self) -> Option<()> {
        let on = volume(VOLUMES[self.below(VOLUMES.len())]);
        let raised = self.store.raise_incarnation(on, &node("n")).await;
        let raised = raised.expect("raised");
        self.store.mark_recovered(on, raised).await.expect("marked");
        let id = format!("api/{}", self.next);
        self.next += 1;
        let created = self
            .store
            .create_task(task(&id, TaskStatus::Processing))
            .await;
        let created = created.expect("created");
        if self.rng.random_bool(0.5) {
            let ended = task(&id, TaskStatus::Error);
            self.store
                .update_task(&created, ended)
                .await
                .expect("ended");
        }
        Some(())
    }
}

fn slices_of(node: &SinkNode, file: &File) -> Vec<Versioned<Slice>> {
    let slices = node.slices.values();
    let own = slices.filter(|slice| slice.value.file == file.id);
    own.map(|slice| Versioned::clone(slice)).collect()
}

fn is_keyed(file: &File) -> bool {
    file.table.mapping.primary_key().next().is_some()
}

/// The coordinator lets a file with a primary key be imported before any later one.
fn has_its_turn(node: &SinkNode, file: &File) -> bool {
    let mut older = node.files.range(..file.id);
    !older.any(|(_, older)| {
        let waits = matches!(
            older.value.state,
            file::State::Closing { .. } | file::State::Importing { .. }
        );
        waits && is_keyed(&older.value)
    })
}

/// The file to which a late slice may be moved.
fn movable(node: &SinkNode, slice: &Slice) -> Option<Versioned<File>> {
    let from = &node.files.get(&slice.file)?.value;
    let to = node.files.get(&node.current?)?;
    let same = to.value.mapping_version == from.mapping_version && to.value.table == from.table;
    let closing = matches!(from.state, file::State::Closing { .. });
    (same && closing && !is_keyed(from)).then(|| Versioned::clone(to))
}

#[tokio::test]
async fn no_sequence_of_verbs_leaves_a_finding() {
    let first = std::env::var("STREAM_TEST_SEED").map_or(1, |seed| {
        seed.parse::<u64>().expect("STREAM_TEST_SEED is a number")
    });
    let mut embedded = Embedded::start().await;
    let mut done: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in first..first + SEEDS {
        let store = Store::open(embedded.client().await, &format!("seed-{seed}"))
            .await
            .expect("opens");
        let mut world = World::new(store, seed).await;
        let mut history = Vec::new();
        for step in 0..STEPS {
            world.now = at(i64::try_from(step).expect("small"));
            world.look().await;
            let verb = world.step().await;
            history.push(verb);
            *done.entry(verb).or_default() += 1;
            let snapshot = world.store.snapshot().await.expect("read");
            let findings = audit::check(&snapshot.entries, world.now);
            assert!(
                findings.is_empty(),
                "seed {seed}: {history:?}: {findings:#?}"
            );
        }
    }
    embedded.stop().await;
    let verbs = VERBS.iter().map(|(verb, _)| *verb);
    let never: Vec<&str> = verbs.filter(|verb| !done.contains_key(verb)).collect();
    assert!(never.is_empty(), "never done: {never:?}; done: {done:?}");
}
