//! Rules of files, of the pointer to the writing one, and of the order of imports.

use std::collections::{BTreeMap, BTreeSet};

use stream_model::file::{File, State};
use stream_model::invariant;
use stream_model::slice::{self, Slice};
use stream_model::{FileId, SinkKey, VolumeId};

use super::definition::oldest_kept;
use super::picture::{OfSink, Picture};
use super::{Finding, rule};
use crate::keyspace::Key;

pub(super) fn check(picture: &Picture, findings: &mut Vec<Finding>) {
    for (key, _, of_sink) in picture.sinks() {
        if of_sink.is_purging() {
            continue;
        }
        let sink = SinkFiles {
            picture,
            key: &key,
            of_sink,
        };
        sink.check_writing(findings);
        sink.check_named(findings);
        for file in of_sink.files.values() {
            sink.check_definition(&file.value, findings);
            sink.check_slices(&file.value, findings);
        }
        sink.check_order(findings);
    }
}

/// The files of one sink.
struct SinkFiles<'a> {
    picture: &'a Picture,
    key: &'a SinkKey,
    of_sink: &'a OfSink,
}

impl SinkFiles<'_> {
    fn file_key(&self, id: FileId) -> Key {
        Key::File(self.key.clone(), id)
    }

    /// That `current` and the writing file are the same.
    fn check_writing(&self, findings: &mut Vec<Finding>) {
        let files = self.of_sink.files.values();
        let writing: Vec<FileId> = files
            .filter(|file| file.value.state == State::Writing)
            .map(|file| file.value.id)
            .collect();
        let key = Key::Current(self.key.clone());
        if writing.len() > 1 {
            let ids: Vec<String> = writing.iter().map(FileId::to_string).collect();
            findings.push(rule::ONE_WRITING.broken(&key, format!("writing: {}", ids.join(", "))));
        }
        let detail = match (self.of_sink.current, writing.first()) {
            (None, Some(file)) if !self.picture.has(&key) => {
                format!("it is missing, file {file} is writing")
            }
            (Some(current), _) => match self.of_sink.files.get(&current) {
                Some(file) if file.value.state != State::Writing => {
                    format!(
                        "it names file {current}, which is {}",
                        file.value.state.name()
                    )
                }
                // A file that does not exist is reported itself.
                _ => match writing.iter().find(|file| **file != current) {
                    Some(file) if writing.len() == 1 => {
                        format!("it names file {current}, but file {file} is writing")
                    }
                    _ => return,
                },
            },
            (None, _) => return,
        };
        findings.push(rule::CURRENT.broken(key, detail));
    }

    /// That the files exist that `current` and slices name.
    fn check_named(&self, findings: &mut Vec<Finding>) {
        let mut named: BTreeMap<FileId, (bool, usize)> = BTreeMap::new();
        if let Some(current) = self.of_sink.current {
            named.entry(current).or_default().0 = true;
        }
        let slices = self.of_sink.slices.values();
        for slice in slices.filter(|slice| slice.kind.is_rows()) {
            named.entry(slice.file).or_default().1 += 1;
        }
        for (file, (is_current, slices)) in named {
            let key = self.file_key(file);
            // A slice in the file of another sink is a matter of the slice.
            if self.picture.has(&key) || self.is_elsewhere(file) {
                continue;
            }
            let by = match (is_current, slices) {
                (true, 0) => "current".to_owned(),
                (true, slices) => format!("current and {slices} of the sink's slices"),
                (false, slices) => format!("{slices} of the sink's slices"),
            };
            findings.push(rule::NAMED_FILE.broken(key, format!("it is missing, named by {by}")));
        }
    }

    fn is_elsewhere(&self, file: FileId) -> bool {
        let mut sinks = self.picture.sinks();
        sinks.any(|(_, _, of_sink)| of_sink.files.contains_key(&file))
    }

    /// That the file was opened under a version of the sink that exists.
    fn check_definition(&self, file: &File, findings: &mut Vec<Finding>) {
        let number = file.mapping_version;
        let version = Key::SinkVersion(self.key.clone(), number);
        let newest = self.of_sink.sink.as_ref().map(|sink| sink.version.number);
        let is_kept = newest.is_none_or(|newest| number >= oldest_kept(newest));
        if is_kept && !self.picture.has(&version) && newest != Some(number) {
            let detail = format!("it was opened under version {number}, which has no record");
            findings.push(rule::MAPPING_VERSION.broken(self.file_key(file.id), detail));
        }
        if let Some(version) = self.of_sink.versions.get(&number)
            && version.table != file.table
        {
            let detail = format!("it differs from that of version {number}");
            findings.push(rule::TABLE.broken(self.file_key(file.id), detail));
        }
    }

    fn check_slices(&self, file: &File, findings: &mut Vec<Finding>) {
        let slices: Vec<&Slice> = self.of_sink.slices_of(file.id).collect();
        match &file.state {
            State::Writing => self.check_writing_slices(file, &slices, findings),
            // Its slices are being closed, sealed and uploaded; a large file closes them one after the other.
            State::Closing { .. } => {}
            State::Importing { .. } => self.check_uploaded(file, &slices, findings),
            State::Imported { rows, .. } => {
                self.check_uploaded(file, &slices, findings);
                // While it is being removed it has fewer slices, never more rows.
                let sealed = slices.iter().filter_map(|slice| slice.seal());
                let sum: u64 = sealed.map(|seal| seal.figures.rows).sum();
                if *rows < sum {
                    let detail = format!("it counts {rows}, its slices have {sum}");
                    findings.push(rule::IMPORTED_ROWS.broken(self.file_key(file.id), detail));
                }
            }
        }
    }

    fn check_writing_slices(&self, file: &File, slices: &[&Slice], findings: &mut Vec<Finding>) {
        let of_sink = |key: &Key| matches!(key, Key::Slice(sink, _) if sink == self.key);
        if self.picture.is_unreadable(of_sink) {
            return;
        }
        let writing = slices
            .iter()
            .filter(|slice| slice.state == slice::State::Writing);
        let taken: BTreeSet<VolumeId> = writing.map(|slice| slice.volume).collect();
        // The file goes on without a volume that was forgotten, until it is closed.
        let is_lost = |volume: &VolumeId| {
            let of_volume = self.picture.volumes.get(volume);
            of_volume.is_some_and(|volume| volume.tombstone.is_some())
        };
        let declared: BTreeSet<VolumeId> = file.volumes.iter().copied().collect();
        let declared: BTreeSet<_> = declared.into_iter().filter(|v| !is_lost(v)).collect();
        let missing: Vec<String> = declared
            .difference(&taken)
            .map(VolumeId::to_string)
            .collect();
        if !missing.is_empty() {
            let detail = format!("none on {}", missing.join(", "));
            findings.push(rule::WRITING_SLICES.broken(self.file_key(file.id), detail));
        }
    }

    fn check_uploaded(&self, file: &File, slices: &[&Slice], findings: &mut Vec<Finding>) {
        let owned: Vec<Slice> = slices.iter().copied().cloned().collect();
        let Err(violation) = invariant::check_import(file, &owned) else {
            return;
        };
        let waiting = slices.iter().filter(|slice| !slice.is_uploaded());
        let waiting: Vec<String> = waiting
            .map(|slice| format!("slice {} is {}", slice.id, slice.state.name()))
            .collect();
        let detail = format!("it is {}, {}", file.state.name(), waiting.join(", "));
        let key = self.file_key(file.id);
        findings.push(rule::UPLOADED.broken_as(violation.rule, key, detail));
    }

    /// The order is that of the ids, as it is for the coordinator. That a file was recorded as imported is told by its
    /// revision: an imported file is not written again.
    fn check_order(&self, findings: &mut Vec<Finding>) {
        let mut unfinished: Option<FileId> = None;
        let mut last: Option<(i64, FileId)> = None;
        for (id, file) in &self.of_sink.files {
            let (value, revision) = (&file.value, file.revision);
            let is_imported = matches!(value.state, State::Imported { .. });
            let before = match (&value.state, unfinished, last) {
                (State::Importing { .. } | State::Imported { .. }, Some(older), _) => Some(older),
                (State::Imported { .. }, None, Some((at, older))) if revision < at => Some(older),
                _ => None,
            };
            if let Some(older) = before {
                let detail = format!(
                    "it is {}, before the older file {older}",
                    value.state.name()
                );
                findings.push(rule::ORDER.broken(self.file_key(*id), detail));
            }
            if value.table.mapping.primary_key().next().is_none() {
                continue;
            }
            if is_imported {
                last = last.max(Some((revision, *id)));
            } else if value.state != State::Writing {
                unfinished = unfinished.or(Some(*id));
            }
        }
    }
}
