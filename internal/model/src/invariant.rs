//! Rules that hold between an entity before and after a change, and between a file and its slices.
//!
//! Each rule is a plain predicate with a sentence. The state repository checks them before *every* compare-and-swap, so a
//! bug in one component cannot write a state from which another would lose or repeat rows.

use crate::file::{self, File};
use crate::id::FileId;
use crate::slice::{self, Slice};

/// A rule that a change would break.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{entity} would break the rule that {rule}")]
pub struct Violation {
    /// The entity, for example `slice 0190…`.
    pub entity: String,
    /// The rule.
    pub rule: &'static str,
}

type Rule<T> = (&'static str, fn(&T, &T) -> bool);

const SLICE_RULES: &[Rule<Slice>] = &[
    (
        "a slice keeps its sink, volume, mapping version, compression and opening time",
        |old, new| {
            old.id == new.id
                && old.kind == new.kind
                && old.sink == new.sink
                && old.volume == new.volume
                && old.mapping_version == new.mapping_version
                && old.compression == new.compression
                && old.durability == new.durability
                && old.opened_at == new.opened_at
        },
    ),
    (
        "a slice has a file, or it holds rejected records",
        |_, new| new.kind.is_rows() != (new.file == FileId::none()),
    ),
    ("a slice never goes back in its life", |old, new| {
        slice_rank(old) <= slice_rank(new)
    }),
    ("a slice keeps its successor", |old, new| {
        match (old.closing(), new.closing()) {
            (Some(old), Some(new)) => old.successor == new.successor,
            _ => true,
        }
    }),
    (
        "sealed rows never grow and sealed sessions never change",
        |old, new| match (old.seal(), new.seal()) {
            (Some(old), Some(new)) => {
                new.figures.rows <= old.figures.rows && old.sessions == new.sessions
            }
            _ => true,
        },
    ),
    (
        "the content of an uploaded slice never changes",
        |old, new| !old.is_uploaded() || (old.seal() == new.seal() && old.object() == new.object()),
    ),
    (
        "only a slice without rows is uploaded without an object",
        |_, new| {
            !new.is_uploaded()
                || new.object().is_some() == new.seal().is_some_and(|seal| seal.figures.rows > 0)
        },
    ),
];

const FILE_RULES: &[Rule<File>] = &[
    (
        "a file keeps its sink, mapping version, table and opening time",
        |old, new| {
            old.id == new.id
                && old.sink == new.sink
                && old.mapping_version == new.mapping_version
                && old.table == new.table
                && old.opened_at == new.opened_at
        },
    ),
    ("a file never goes back in its life", |old, new| {
        file_rank(old) <= file_rank(new)
    }),
];

const fn slice_rank(slice: &Slice) -> u8 {
    match slice.state {
        slice::State::Writing => 0,
        slice::State::Closing(_) => 1,
        slice::State::Uploading { .. } => 2,
        slice::State::Uploaded { .. } => 3,
    }
}

const fn file_rank(file: &File) -> u8 {
    match file.state {
        file::State::Writing => 0,
        file::State::Closing { .. } => 1,
        file::State::Importing { .. } => 2,
        file::State::Imported { .. } => 3,
    }
}

fn check<T>(
    rules: &[Rule<T>],
    entity: impl Fn() -> String,
    old: &T,
    new: &T,
) -> Result<(), Violation> {
    match rules.iter().find(|(_, holds)| !holds(old, new)) {
        Some((rule, _)) => Err(Violation {
            entity: entity(),
            rule,
        }),
        None => Ok(()),
    }
}

/// Checks a change of a slice.
///
/// # Errors
/// Names the first rule that the change would break.
pub fn check_slice(old: &Slice, new: &Slice) -> Result<(), Violation> {
    check(SLICE_RULES, || format!("slice {}", new.id), old, new)
}

/// Checks a change of a file.
///
/// # Errors
/// Names the first rule that the change would break.
pub fn check_file(old: &File, new: &File) -> Result<(), Violation> {
    check(FILE_RULES, || format!("file {}", new.id), old, new)
}

/// Checks that a file may leave `closing` or be imported with exactly these slices.
///
/// # Errors
/// When a slice belongs to another file or is not uploaded.
pub fn check_import(file: &File, slices: &[Slice]) -> Result<(), Violation> {
    let entity = || format!("file {}", file.id);
    if slices
        .iter()
        .any(|slice| slice.file != file.id || slice.sink != file.sink)
    {
        return Err(Violation {
            entity: entity(),
            rule: "a file is imported with its own slices only",
        });
    }
    if slices.iter().any(|slice| !slice.is_uploaded()) {
        return Err(Violation {
            entity: entity(),
            rule: "a file is imported only when all its slices are uploaded",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slice::Event;
    use crate::slice::tests::{closing, seal, slice};

    #[test]
    fn legal_transitions_break_no_rule() {
        let writing = slice(1);
        let closed = writing
            .clone()
            .apply(Event::Close(closing()))
            .expect("closed");
        let sealed = closed.clone().apply(Event::Seal(seal(2))).expect("sealed");
        assert_eq!(check_slice(&writing, &closed), Ok(()));
        assert_eq!(check_slice(&closed, &sealed), Ok(()));
    }

    #[test]
    fn going_back_or_changing_a_seal_is_named() {
        let closed = slice(1).apply(Event::Close(closing())).expect("closed");
        let sealed = closed.clone().apply(Event::Seal(seal(2))).expect("sealed");
        let back = check_slice(&sealed, &closed).expect_err("must be refused");
        assert_eq!(back.rule, "a slice never goes back in its life");
        let other = closed.apply(Event::Seal(seal(3))).expect("sealed");
        let changed = check_slice(&sealed, &other).expect_err("must be refused");
        assert_eq!(
            changed.rule,
            "sealed rows never grow and sealed sessions never change"
        );
    }

    #[test]
    fn import_waits_for_every_slice() {
        let sealed = slice(1)
            .apply(Event::Close(closing()))
            .expect("closed")
            .apply(Event::Seal(seal(0)))
            .expect("sealed");
        let json = serde_json::json!({
            "id": sealed.file, "sink": sealed.sink, "mappingVersion": 1,
            "table": {"type": "sqlite", "tableId": "t", "mapping": {"columns": []}},
            "volumes": [], "trigger": crate::trigger::ImportTrigger::default_for(crate::definition::TableKind::Sqlite),
            "openedAt": "2026-01-01T00:00:00.000Z", "state": {"name": "writing"},
        });
        let file: File = serde_json::from_value(json).expect("valid file");
        assert_eq!(check_import(&file, std::slice::from_ref(&sealed)), Ok(()));
        assert!(check_import(&file, &[sealed, slice(2)]).is_err());
    }
}
