//! How large keys and values may be: `docs/formats.md`, section 5.
//!
//! Bounds in bytes are for the values that are written often or read all at once. Definitions are bounded by what they are
//! made of, and a file by its table.

use stream_model::definition::mapping::{MAX_COLUMNS, MAX_TEMPLATE_LEN};
use stream_model::definition::{ColumnKind, MAX_DESCRIPTION_LEN, MAX_NAME_LEN, Table};
use stream_model::hours::MAX_HOURS;
use stream_model::slice::{MAX_SESSIONS, Slice};

use super::picture::Picture;
use super::{Entry, Finding, rule};
use crate::codec;
use crate::keyspace::Key;

/// The most volumes of a source.
const MAX_VOLUMES: usize = 100;
/// The most bytes of a task's identifier.
const MAX_TASK_ID: usize = 512;
/// The most bytes of a slice, without the reason of its last failure.
const MAX_SLICE: usize = 7168;

/// The most bytes of a value.
const fn most_bytes(key: &Key) -> Option<usize> {
    match key {
        Key::Current(_) => Some(60),
        Key::Removed(_) | Key::RejectsRemoved(_) => Some(200),
        Key::Cleared(_) => Some(450),
        Key::LedgerDay(..) => Some(3072),
        // A slice with the reason of its last failure, and little else.
        Key::Purged(..) => None,
        Key::Figures(_) | Key::Token(_) => Some(300),
        Key::Project(_) => Some(100),
        // Their sealed texts come from elsewhere; what is there is a few hundred bytes each.
        Key::Destination(_) => Some(16 << 10),
        Key::Provisioning(_) => Some(32 << 10),
        // The id of a node alone may have 253.
        Key::Incarnation(_) | Key::Forgotten(_) => Some(400),
        // 600 for most: the rest is for hours.
        Key::Crossed(..) | Key::RejectsCrossed(..) => Some(3584),
        Key::Registration(_) | Key::Node { .. } | Key::Lock(_) | Key::Dropping(_) => Some(1024),
        // Up to 100 volumes, each of which may have taken shards over.
        Key::Assignment(_) => Some(32 << 10),
        Key::Schema
        | Key::Source(_)
        | Key::SourceVersion(..)
        | Key::Sink(_)
        | Key::SinkVersion(..)
        | Key::File(..)
        | Key::Slice(..)
        | Key::Task(_) => None,
    }
}

/// Checks the length of a key and of its value.
pub(super) fn check_bytes(key: &Key, entry: &Entry) -> Option<Finding> {
    if let Key::Task(id) = key
        && id.len() > MAX_TASK_ID
    {
        return Some(too_large(
            key,
            "the identifier",
            id.len(),
            MAX_TASK_ID,
            "bytes",
        ));
    }
    let most = most_bytes(key)?;
    let found = entry.value.len();
    (found > most).then(|| too_large(key, "the value", found, most, "bytes"))
}

/// Checks what definitions, files and slices are made of.
pub(super) fn check_texts(picture: &Picture, findings: &mut Vec<Finding>) {
    for (key, of_source) in &picture.sources {
        if let Some(source) = &of_source.source {
            let key = Key::Source(key.clone());
            check_names(&key, &source.name, &source.description, findings);
        }
        if let Some(volumes) = &of_source.assignment {
            let key = Key::Assignment(key.clone());
            check_count(&key, "volumes", volumes.len(), MAX_VOLUMES, findings);
        }
    }
    for (key, _, of_sink) in picture.sinks() {
        if let Some(sink) = &of_sink.sink {
            let key = Key::Sink(key.clone());
            check_names(&key, &sink.name, &sink.description, findings);
            check_table(&key, &sink.table, findings);
        }
        for (id, file) in &of_sink.files {
            let key = Key::File(key.clone(), *id);
            check_table(&key, &file.value.table, findings);
            check_count(
                &key,
                "volumes",
                file.value.volumes.len(),
                MAX_VOLUMES,
                findings,
            );
        }
        for (id, slice) in &of_sink.slices {
            check_slice(&Key::Slice(key.clone(), *id), slice, findings);
        }
    }
}

fn check_names(key: &Key, name: &str, description: &str, findings: &mut Vec<Finding>) {
    for (what, text, most) in [
        ("the name", name, MAX_NAME_LEN),
        ("the description", description, MAX_DESCRIPTION_LEN),
    ] {
        check_characters(key, what, text, most, findings);
    }
}

fn check_table(key: &Key, table: &Table, findings: &mut Vec<Finding>) {
    let columns = &table.mapping.columns;
    check_count(key, "columns", columns.len(), MAX_COLUMNS, findings);
    for column in columns {
        if let ColumnKind::Template { template, .. } = &column.kind {
            let what = format!("the template of column {:?}", column.name);
            check_characters(key, &what, &template.content, MAX_TEMPLATE_LEN, findings);
        }
    }
}

fn check_slice(key: &Key, slice: &Slice, findings: &mut Vec<Finding>) {
    if let Some(seal) = slice.seal() {
        check_count(key, "sessions", seal.sessions.len(), MAX_SESSIONS, findings);
        let hours = seal.later_hours.entries().len();
        check_count(key, "later hours", hours, MAX_HOURS - 1, findings);
    }
    let without_reason = Slice {
        retry: None,
        ..slice.clone()
    };
    let bytes = codec::encode(&without_reason).len();
    if bytes > MAX_SLICE {
        findings.push(too_large(key, "the value", bytes, MAX_SLICE, "bytes"));
    }
}

fn check_count(key: &Key, what: &str, found: usize, most: usize, findings: &mut Vec<Finding>) {
    if found > most {
        let detail = format!("it has {found} {what}, at most {most} are allowed");
        findings.push(rule::SIZE.broken(key, detail));
    }
}

fn check_characters(key: &Key, what: &str, text: &str, most: usize, findings: &mut Vec<Finding>) {
    let found = text.chars().count();
    if found > most {
        findings.push(too_large(key, what, found, most, "characters"));
    }
}

fn too_large(key: &Key, what: &str, found: usize, most: usize, unit: &str) -> Finding {
    let detail = format!("{what} has {found} {unit}, at most {most} are allowed");
    rule::SIZE.broken(key, detail)
}
