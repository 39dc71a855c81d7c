//! Rules of sources, sinks, their versions, and what belongs to them.

use std::collections::BTreeMap;

use stream_model::BranchKey;
use stream_model::definition::{MAX_CHILDREN, Sink, Source};

use super::picture::{OfSink, OfSource, Picture};
use super::{Finding, rule};
use crate::keyspace::Key;
use crate::repository::definition::{Definition, KEPT_VERSIONS};

/// A definition whose versions can be compared. Disabling and deleting make no new version.
trait Compared: Definition {
    fn without_switches(&self) -> Self;
}

impl Compared for Source {
    fn without_switches(&self) -> Self {
        Self {
            disabled: None,
            deleted: None,
            purging: None,
            ..self.clone()
        }
    }
}

impl Compared for Sink {
    fn without_switches(&self) -> Self {
        Self {
            disabled: None,
            deleted: None,
            purging: None,
            ..self.clone()
        }
    }
}

pub(super) fn check(picture: &Picture, findings: &mut Vec<Finding>) {
    let mut live_sources: BTreeMap<BranchKey, usize> = BTreeMap::new();
    for (key, of_source) in &picture.sources {
        let own = Key::Source(key.clone());
        if !picture.has(&own) && !of_source.is_purged() {
            findings.push(rule::PARENT.broken(&own, belongs_to_source(of_source)));
        }
        if let Some(source) = &of_source.source {
            check_versions(picture, source, &of_source.versions, findings);
            *live_sources.entry(key.branch).or_default() += usize::from(source.is_live());
        }
        let live_sinks = of_source.sinks.values().filter(|of_sink| is_live(of_sink));
        check_room(&own, "sinks", live_sinks.count(), findings);
    }
    for (branch, live) in live_sources {
        check_room(
            &format!("entity/source/{branch}"),
            "sources",
            live,
            findings,
        );
    }
    for (key, of_source, of_sink) in picture.sinks() {
        let own = Key::Sink(key);
        if !picture.has(&own) && !of_sink.is_purged() {
            findings.push(rule::PARENT.broken(&own, belongs_to_sink(of_sink)));
        }
        if let Some(sink) = &of_sink.sink {
            check_versions(picture, sink, &of_sink.versions, findings);
        }
        let is_deleted = |source: &Source| !source.is_live();
        if is_live(of_sink) && of_source.source.as_ref().is_some_and(is_deleted) {
            findings.push(rule::LIVE_SOURCE.broken(&own, "its source is deleted"));
        }
    }
}

fn is_live(of_sink: &OfSink) -> bool {
    of_sink.sink.as_ref().is_some_and(Definition::is_live)
}

fn check_room(
    parent: &impl std::fmt::Display,
    children: &str,
    live: usize,
    findings: &mut Vec<Finding>,
) {
    if live > MAX_CHILDREN {
        findings.push(rule::SIBLINGS.broken(parent, format!("{live} {children} live")));
    }
}

fn check_versions<T: Compared>(
    picture: &Picture,
    definition: &T,
    versions: &BTreeMap<u64, T>,
    findings: &mut Vec<Finding>,
) {
    let newest = definition.version().number;
    let key = definition.version_key(newest);
    if !picture.has(&key) {
        findings.push(rule::NEWEST_VERSION.broken(&key, "it is missing"));
    }
    if let Some(record) = versions.get(&newest)
        && record.without_switches() != definition.without_switches()
    {
        findings.push(rule::SAME_VERSION.broken(&key, "it differs from the definition"));
    }
    if let Some((later, _)) = versions.range(newest.saturating_add(1)..).next() {
        let detail = format!("the definition has version {newest}");
        let key = definition.version_key(*later);
        findings.push(rule::NO_LATER_VERSION.broken(key, detail));
    }
    let kept = oldest_kept(newest)..newest;
    let missing = kept.filter(|number| !picture.has(&definition.version_key(*number)));
    let missing: Vec<String> = missing.map(|number| number.to_string()).collect();
    if !missing.is_empty() {
        let detail = format!("missing: {}", missing.join(", "));
        findings.push(rule::DENSE_VERSIONS.broken(definition.key(), detail));
    }
}

/// The oldest version that is kept beside this newest one.
pub(super) fn oldest_kept(newest: u64) -> u64 {
    newest.saturating_sub(KEPT_VERSIONS - 1).max(1)
}

fn belongs_to_source(of_source: &OfSource) -> String {
    missing_with(&[
        (usize::from(of_source.assignment.is_some()), "assignment"),
        (of_source.versions.len(), "version"),
        (of_source.sinks.len(), "sink"),
    ])
}

fn belongs_to_sink(of_sink: &OfSink) -> String {
    missing_with(&[
        (usize::from(of_sink.current.is_some()), "current file"),
        (of_sink.versions.len(), "version"),
        (of_sink.files.len(), "file"),
        (of_sink.slices.len(), "slice"),
        (of_sink.crossed.len(), "crossed limit"),
        (
            usize::from(of_sink.removed.is_some()),
            "sum of removed figures",
        ),
    ])
}

/// `it is missing; belonging to it: 1 file, 2 slices`
fn missing_with(counts: &[(usize, &str)]) -> String {
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let words: Vec<String> = counts
        .map(|(count, what)| format!("{count} {what}{}", if *count == 1 { "" } else { "s" }))
        .collect();
    format!("it is missing; belonging to it: {}", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::oldest_kept;

    #[test]
    fn the_last_thousand_versions_are_kept() {
        for (newest, oldest) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (5000, 4001)] {
            assert_eq!(oldest_kept(newest), oldest, "{newest}");
        }
    }
}
