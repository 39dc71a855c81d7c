//! Rules of volumes and tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use stream_model::definition::TableKind;
use stream_model::{SinkKey, Timestamp, VolumeId};

use super::picture::Picture;
use super::{Finding, rule};
use crate::keyspace::Key;
use crate::repository::task::{Task, TaskStatus};

/// More than any task takes: its own limit of 5 min, and its turn behind others of the same entity.
const TASK_PATIENCE: Duration = Duration::from_secs(3600);
/// The component that ends tasks, also those of a process that is gone.
const TASK_OWNER: &str = "api";

pub(super) fn check(picture: &Picture, now: Timestamp, findings: &mut Vec<Finding>) {
    check_incarnations(picture, findings);
    check_destinations(picture, now, findings);
    check_dropping(picture, findings);
    for (id, volume) in &picture.volumes {
        if let (Some(registration), Some(newest)) = (&volume.registration, &volume.incarnation)
            && registration.incarnation > newest.number
        {
            let (open, newest) = (registration.incarnation, newest.number);
            let detail = format!("it is open in incarnation {open}, recorded is {newest}");
            findings.push(rule::REGISTRATION.broken(Key::Registration(*id), detail));
        }
    }
    for (id, task) in &picture.tasks {
        let key = Key::Task(id.clone());
        if (task.status == TaskStatus::Processing) == task.finished_at.is_some() {
            let time = task.finished_at.map_or("none", |_| "one");
            let detail = format!("it is {} and has {time}", status(task));
            findings.push(rule::ENDED.broken(&key, detail));
        }
        if is_stuck(picture, task, now) {
            let age = now.since(task.created_at).as_secs();
            findings.push(rule::STUCK.broken(&key, format!("it began {age} s ago")));
        }
    }
}

/// Tables are marked while a purge is under way.
fn check_dropping(picture: &Picture, findings: &mut Vec<Finding>) {
    let purging = picture.sinks().filter(|(_, _, of_sink)| {
        let sink = of_sink.sink.as_ref();
        sink.is_some_and(|sink| sink.purging.is_some())
    });
    let purging: BTreeSet<SinkKey> = purging.map(|(key, ..)| key).collect();
    for (table, dropping) in &picture.dropping {
        let sink = &dropping.sink;
        if !purging.contains(sink) && !picture.has(&Key::Provisioning(sink.clone())) {
            let detail = format!("it is table {:?}, with sink {sink}", dropping.table_id);
            findings.push(rule::DROPPING.broken(Key::Dropping(table.clone()), detail));
        }
    }
}

/// What sinks have elsewhere is recorded for live sinks, and for nothing else.
fn check_destinations(picture: &Picture, now: Timestamp, findings: &mut Vec<Finding>) {
    for (key, change) in &picture.provisionings {
        if now.since(change.began_at) > TASK_PATIENCE && api_runs(picture, now) {
            let age = now.since(change.began_at).as_secs();
            let key = Key::Provisioning(key.clone());
            findings.push(rule::PROVISIONING.broken(key, format!("it began {age} s ago")));
        }
    }
    let mut wanted = BTreeMap::new();
    for (key, _, of_sink) in picture.sinks() {
        let sink = of_sink.sink.as_ref();
        if let Some(sink) = sink.filter(|sink| sink.deleted.is_none())
            && sink.table.kind == TableKind::Keboola
        {
            wanted.insert(key, sink.table.table_id.as_str());
        }
    }
    let settled = |key: &SinkKey| !picture.has(&Key::Provisioning(key.clone()));
    for (key, table) in &wanted {
        let own = Key::Destination(key.clone());
        let found = picture.destinations.get(key).map(|it| it.table_id.as_str());
        let is_there = found.is_some() || picture.is_unreadable(|key| *key == own);
        if settled(key) && (!is_there || found.is_some_and(|found| found != *table)) {
            let found = found.unwrap_or("none");
            let detail = format!("it is for table {found}, the sink has {table}");
            findings.push(rule::DESTINATION.broken(own, detail));
        }
    }
    for key in picture.destinations.keys() {
        if settled(key) && !wanted.contains_key(key) {
            let own = Key::Destination(key.clone());
            findings.push(rule::NO_DESTINATION.broken(own, "no live sink has it"));
        }
    }
}

/// One finding per volume, however many slices it has.
fn check_incarnations(picture: &Picture, findings: &mut Vec<Finding>) {
    let mut slices: BTreeMap<VolumeId, usize> = BTreeMap::new();
    for (_, _, of_sink) in picture.sinks() {
        for slice in of_sink.slices.values() {
            *slices.entry(slice.volume).or_default() += 1;
        }
    }
    for (volume, slices) in slices {
        let key = Key::Incarnation(volume);
        if !picture.has(&key) {
            let detail = format!("it is missing, slices on the volume: {slices}");
            findings.push(rule::INCARNATION.broken(key, detail));
        }
    }
}

/// Whether the API had an hour to end the task and did not. While it does not run, tasks wait for its next start.
fn is_stuck(picture: &Picture, task: &Task, now: Timestamp) -> bool {
    let runs = api_runs(picture, now);
    let is_old = now.since(task.created_at) > TASK_PATIENCE;
    task.status == TaskStatus::Processing && is_old && runs
}

/// Whether the API has run for so long that it had the time for whatever it should end.
fn api_runs(picture: &Picture, now: Timestamp) -> bool {
    let mut nodes = picture.nodes.iter();
    nodes.any(|((component, _), node)| {
        component == TASK_OWNER && now.since(node.started_at) > TASK_PATIENCE
    })
}

pub(super) const fn status(task: &Task) -> &'static str {
    match task.status {
        TaskStatus::Processing => "processing",
        TaskStatus::Success => "success",
        TaskStatus::Error => "error",
    }
}
