//! Every key of the state, typed, and its text form. All are relative to `<namespace>/`.
//!
//! | key | value | written by | lives |
//! |---|---|---|---|
//! | `schema` | `{"version":1}` | whoever comes first | for ever |
//! | `entity/source/{p}/{b}/{source}` | `Source` | api | until purged; deletion is a field |
//! | `entity/sink/{p}/{b}/{source}/{sink}` | `Sink` | api | until purged; deletion is a field |
//! | `entity/assignment/{p}/{b}/{source}` | `Assigned`, shared by all sinks of the source | api, coordinator; writers, when keys are concerned | as long as the source |
//! | `entity/file/{p}/{b}/{source}/{sink}/{file}` | `File` | coordinator | until imported and cleaned up |
//! | `entity/current/{p}/{b}/{source}/{sink}` | `{"file":…}`, the one writing file of the sink | coordinator | while the sink takes rows |
//! | `entity/slice/{p}/{b}/{source}/{sink}/{slice}` | `Slice`; its file is a field, because it may move | coordinator, writer, reader | until its file is cleaned up |
//! | `entity/crossed/{p}/{b}/{source}/{sink}/{slice}` | `Crossed` | writer | until the slice is closed |
//! | `entity/rejectscrossed/{p}/{b}/{source}/{sink}/{slice}` | `Crossed` of a slice of rejected records | writer | until the slice is closed |
//! | `entity/rejectsremoved/{p}/{b}/{source}/{sink}` | `Figures` of all rejected records that are not kept any more | coordinator | for ever |
//! | `entity/removed/{p}/{b}/{source}/{sink}` | `Figures` of all slices that were cleaned up after their import | coordinator | for ever |
//! | `entity/cleared/{p}/{b}/{source}/{sink}` | `Cleared`, the figures when the statistics were cleared | api | until the sink is purged |
//! | `entity/purged/{p}/{b}/{source}/{sink}/{slice}` | `Purged`, the note of a slice of a purged sink | api | until its volume and staging are rid of it |
//! | `entity/dropping/{table}` | `Dropping`: a table that goes with a sink, under the hash of its place | api | while that is decided and done |
//! | `ledger/{p}/{b}/{source}/{sink}/{day}` | `Day` of the ledger: what was cleaned up, by hour; day 0 has all that is older | coordinator | 31 days of records, day 0 until the sink is purged |
//! | `version/source/{p}/{b}/{source}/{number}` | `Source` as it was in that version | api | the last 1000 |
//! | `version/sink/{p}/{b}/{source}/{sink}/{number}` | `Sink` as it was in that version | api | the last 1000 |
//! | `volume/incarnation/{volume}` | `Incarnation` | writer | for ever |
//! | `volume/registration/{volume}` | `Registration` | writer | as long as its process (lease) |
//! | `volume/figures/{volume}` | `VolumeFigures` | writer | as long as its process (lease) |
//! | `volume/forgotten/{volume}` | `Tombstone` | a person, by the command line | for ever |
//! | `node/{component}/{node}` | `NodeRegistration` | every component | as long as its process (lease) |
//! | `task/{id}` | `Task`; the id may contain slashes | api | until cleaned up |
//! | `lock/{name}` | who holds the lock; the name may contain slashes | api | as long as it is held (lease) |
//! | `token/{hash}` | `Token` under the SHA-256 of the token | api | until revoked |
//! | `project/{p}` | `Project` of a service elsewhere | api | for ever |
//! | `destination/{p}/{b}/{source}/{sink}` | `Destination` of a sink of type keboola | api | as long as the sink |
//! | `provisioning/{p}/{b}/{source}/{sink}` | `Provisioning`: a change of the destination | api | while it is under way |
//!
//! Keys are compared as whole segments: every prefix ends with `/`, so that `a` never covers `a-2`. A text is a key only
//! when it is exactly what that key is written as: `007` is not project 7.

use std::fmt;
use std::str::FromStr;

use stream_model::{
    BranchKey, FileId, NodeId, SinkKey, SliceId, SourceKey, VolumeId,
    id::{BranchId, InvalidId, ProjectId},
};

/// A key of the state, without the namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Format of the whole key space.
    Schema,
    /// Definition of a source.
    Source(SourceKey),
    /// Definition of a sink.
    Sink(SinkKey),
    /// Volumes of a source.
    Assignment(SourceKey),
    /// A file.
    File(SinkKey, FileId),
    /// The writing file of a sink.
    Current(SinkKey),
    /// A slice.
    Slice(SinkKey, SliceId),
    /// That a slice has reached a limit.
    Crossed(SinkKey, SliceId),
    /// That a slice of rejected records has reached a limit. Apart from the others, which all go when their file is closed.
    RejectsCrossed(SinkKey, SliceId),
    /// Figures of the rejected records of a sink that are not kept any more.
    RejectsRemoved(SinkKey),
    /// Figures of the slices of a sink that were cleaned up.
    Removed(SinkKey),
    /// Figures of a sink when its statistics were cleared.
    Cleared(SinkKey),
    /// A slice of a purged sink.
    Purged(SinkKey, SliceId),
    /// A day of the ledger of a sink, counted from 1970-01-01.
    LedgerDay(SinkKey, u64),
    /// A version of a source.
    SourceVersion(SourceKey, u64),
    /// A version of a sink.
    SinkVersion(SinkKey, u64),
    /// How often a volume was opened.
    Incarnation(VolumeId),
    /// Where a volume is, while it is open.
    Registration(VolumeId),
    /// What a volume holds, while it is open.
    Figures(VolumeId),
    /// That a volume is given up for lost.
    Forgotten(VolumeId),
    /// A running component.
    Node {
        /// Name of the component.
        component: String,
        /// Where it runs.
        node: NodeId,
    },
    /// A task.
    Task(String),
    /// A lock.
    Lock(String),
    /// That a table is being dropped, under the hash of its place. Among the entities, so that mirrors reach its revision.
    Dropping(String),
    /// A token, under its hash.
    Token(String),
    /// A project of a service elsewhere.
    Project(ProjectId),
    /// What a sink has in a project elsewhere.
    Destination(SinkKey),
    /// A change of that.
    Provisioning(SinkKey),
}

/// A text that is no key of this version of the service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a key of the state")]
pub struct UnknownKey(pub String);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schema => f.write_str("schema"),
            Self::Source(source) => write!(f, "entity/source/{source}"),
            Self::Sink(sink) => write!(f, "entity/sink/{sink}"),
            Self::Assignment(source) => write!(f, "entity/assignment/{source}"),
            Self::File(sink, file) => write!(f, "entity/file/{sink}/{file}"),
            Self::Current(sink) => write!(f, "entity/current/{sink}"),
            Self::Slice(sink, slice) => write!(f, "entity/slice/{sink}/{slice}"),
            Self::Crossed(sink, slice) => write!(f, "entity/crossed/{sink}/{slice}"),
            Self::RejectsCrossed(sink, slice) => {
                write!(f, "entity/rejectscrossed/{sink}/{slice}")
            }
            Self::RejectsRemoved(sink) => write!(f, "entity/rejectsremoved/{sink}"),
            Self::Removed(sink) => write!(f, "entity/removed/{sink}"),
            Self::Cleared(sink) => write!(f, "entity/cleared/{sink}"),
            Self::Purged(sink, slice) => write!(f, "entity/purged/{sink}/{slice}"),
            Self::LedgerDay(sink, day) => write!(f, "ledger/{sink}/{day:010}"),
            Self::SourceVersion(source, number) => {
                write!(f, "version/source/{source}/{number:010}")
            }
            Self::SinkVersion(sink, number) => write!(f, "version/sink/{sink}/{number:010}"),
            Self::Incarnation(volume) => write!(f, "volume/incarnation/{volume}"),
            Self::Registration(volume) => write!(f, "volume/registration/{volume}"),
            Self::Figures(volume) => write!(f, "volume/figures/{volume}"),
            Self::Forgotten(volume) => write!(f, "volume/forgotten/{volume}"),
            Self::Node { component, node } => write!(f, "node/{component}/{node}"),
            Self::Task(id) => write!(f, "task/{id}"),
            Self::Lock(name) => write!(f, "lock/{name}"),
            Self::Dropping(table) => write!(f, "entity/dropping/{table}"),
            Self::Token(hash) => write!(f, "token/{hash}"),
            Self::Project(project) => write!(f, "project/{project}"),
            Self::Destination(sink) => write!(f, "destination/{sink}"),
            Self::Provisioning(sink) => write!(f, "provisioning/{sink}"),
        }
    }
}

impl FromStr for Key {
    type Err = UnknownKey;

    fn from_str(text: &str) -> Result<Self, UnknownKey> {
        let segments: Vec<&str> = text.split('/').collect();
        parse(text, &segments)
            .filter(|key| key.to_string() == text)
            .ok_or_else(|| UnknownKey(text.to_owned()))
    }
}

fn parse(text: &str, segments: &[&str]) -> Option<Key> {
    match segments {
        ["schema"] => Some(Key::Schema),
        ["entity", kind, rest @ ..] => parse_entity(kind, rest),
        ["ledger", sink @ .., day] => Some(Key::LedgerDay(sink_key(sink)?, day.parse().ok()?)),
        ["version", "source", source @ .., number] => Some(Key::SourceVersion(
            source_key(source)?,
            number.parse().ok()?,
        )),
        ["version", "sink", sink @ .., number] => {
            Some(Key::SinkVersion(sink_key(sink)?, number.parse().ok()?))
        }
        ["volume", "incarnation", id] => Some(Key::Incarnation(id.parse().ok()?)),
        ["volume", "registration", id] => Some(Key::Registration(id.parse().ok()?)),
        ["volume", "forgotten", id] => Some(Key::Forgotten(id.parse().ok()?)),
        ["volume", "figures", id] => Some(Key::Figures(id.parse().ok()?)),
        ["node", component, node] if !component.is_empty() => Some(Key::Node {
            component: (*component).to_owned(),
            node: node.parse().ok()?,
        }),
        ["task", _, ..] => text
            .strip_prefix("task/")
            .filter(|id| !id.is_empty())
            .map(|id| Key::Task(id.to_owned())),
        ["lock", _, ..] => text
            .strip_prefix("lock/")
            .filter(|name| !name.is_empty())
            .map(|name| Key::Lock(name.to_owned())),
        ["token", hash] if !hash.is_empty() => Some(Key::Token((*hash).to_owned())),
        ["project", project] => Some(Key::Project(project.parse().ok()?)),
        ["destination", sink @ ..] => Some(Key::Destination(sink_key(sink)?)),
        ["provisioning", sink @ ..] => Some(Key::Provisioning(sink_key(sink)?)),
        _ => None,
    }
}

fn parse_entity(kind: &str, rest: &[&str]) -> Option<Key> {
    match (kind, rest) {
        ("source", source) => Some(Key::Source(source_key(source)?)),
        ("assignment", source) => Some(Key::Assignment(source_key(source)?)),
        ("sink", sink) => Some(Key::Sink(sink_key(sink)?)),
        ("current", sink) => Some(Key::Current(sink_key(sink)?)),
        ("cleared", sink) => Some(Key::Cleared(sink_key(sink)?)),
        ("purged", [sink @ .., slice]) => Some(Key::Purged(sink_key(sink)?, slice.parse().ok()?)),
        ("removed", sink) => Some(Key::Removed(sink_key(sink)?)),
        ("rejectsremoved", sink) => Some(Key::RejectsRemoved(sink_key(sink)?)),
        ("rejectscrossed", [sink @ .., slice]) => {
            Some(Key::RejectsCrossed(sink_key(sink)?, slice.parse().ok()?))
        }
        ("dropping", [table]) if !table.is_empty() => Some(Key::Dropping((*table).to_owned())),
        ("file", [sink @ .., file]) => Some(Key::File(sink_key(sink)?, file.parse().ok()?)),
        ("slice", [sink @ .., slice]) => Some(Key::Slice(sink_key(sink)?, slice.parse().ok()?)),
        ("crossed", [sink @ .., slice]) => Some(Key::Crossed(sink_key(sink)?, slice.parse().ok()?)),
        _ => None,
    }
}

fn source_key(segments: &[&str]) -> Option<SourceKey> {
    let [project, branch, source] = segments else {
        return None;
    };
    let parsed = || -> Result<SourceKey, InvalidId> {
        Ok(SourceKey {
            branch: BranchKey {
                project: project.parse::<ProjectId>()?,
                branch: branch.parse::<BranchId>()?,
            },
            source: source.parse()?,
        })
    };
    parsed().ok()
}

fn sink_key(segments: &[&str]) -> Option<SinkKey> {
    let [source @ .., sink] = segments else {
        return None;
    };
    Some(SinkKey {
        source: source_key(source)?,
        sink: sink.parse().ok()?,
    })
}

/// Prefixes under which keys are listed. Each ends with `/`.
pub(crate) mod prefix {
    use super::{BranchKey, SinkKey, SourceKey};

    pub(crate) const ENTITIES: &str = "entity/";
    pub(crate) const REGISTRATIONS: &str = "volume/registration/";
    pub(crate) const SLICES: &str = "entity/slice/";
    pub(crate) const ASSIGNMENTS: &str = "entity/assignment/";
    pub(crate) const FIGURES: &str = "volume/figures/";
    pub(crate) const TOKENS: &str = "token/";
    pub(crate) const PROVISIONING: &str = "provisioning/";

    pub(crate) fn sources(branch: &BranchKey) -> String {
        format!("entity/source/{branch}/")
    }

    pub(crate) fn sinks(source: &SourceKey) -> String {
        format!("entity/sink/{source}/")
    }

    pub(crate) fn files(sink: &SinkKey) -> String {
        format!("entity/file/{sink}/")
    }

    pub(crate) fn ledger(sink: &SinkKey) -> String {
        format!("ledger/{sink}/")
    }

    pub(crate) fn purged(sink: &SinkKey) -> String {
        format!("entity/purged/{sink}/")
    }

    pub(crate) fn rejects_crossed(sink: &SinkKey) -> String {
        format!("entity/rejectscrossed/{sink}/")
    }

    pub(crate) fn slices(sink: &SinkKey) -> String {
        format!("entity/slice/{sink}/")
    }

    pub(crate) fn crossed(sink: &SinkKey) -> String {
        format!("entity/crossed/{sink}/")
    }

    pub(crate) fn source_versions(source: &SourceKey) -> String {
        format!("version/source/{source}/")
    }

    pub(crate) fn sink_versions(sink: &SinkKey) -> String {
        format!("version/sink/{sink}/")
    }

    pub(crate) fn nodes(component: &str) -> String {
        format!("node/{component}/")
    }

    /// Tasks whose id begins with these whole segments; all of them for an empty text.
    pub(crate) fn tasks(segments: &str) -> String {
        let segments = segments.trim_matches('/');
        if segments.is_empty() {
            return "task/".to_owned();
        }
        format!("task/{segments}/")
    }
}

/// The first key after all keys that begin with `prefix`, which ends with `/`.
pub(crate) fn end_of(prefix: &str) -> String {
    debug_assert!(prefix.ends_with('/'), "prefixes end with a slash: {prefix}");
    // '0' is the byte after '/'.
    format!("{}0", prefix.strip_suffix('/').unwrap_or(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stream_model::{SinkId, SourceId};

    fn any_source() -> impl Strategy<Value = SourceKey> {
        (any::<u64>(), any::<u64>(), "[a-zA-Z0-9_-]{1,48}").prop_map(|(p, b, source)| SourceKey {
            branch: BranchKey {
                project: ProjectId(p),
                branch: BranchId(b),
            },
            source: source.parse::<SourceId>().expect("matches the rule"),
        })
    }

    fn any_sink() -> impl Strategy<Value = SinkKey> {
        (any_source(), "[a-zA-Z0-9_-]{1,48}").prop_map(|(source, sink)| SinkKey {
            source,
            sink: sink.parse::<SinkId>().expect("matches the rule"),
        })
    }

    fn any_key() -> impl Strategy<Value = Key> {
        let volume = any::<[u8; 16]>().prop_map(VolumeId::from_bytes);
        prop_oneof![
            Just(Key::Schema),
            any_source().prop_map(Key::Source),
            any_source().prop_map(Key::Assignment),
            any_sink().prop_map(Key::Sink),
            any_sink().prop_map(Key::Current),
            any_sink().prop_map(Key::Removed),
            any_sink().prop_map(Key::Cleared),
            (any_sink(), any::<[u8; 16]>())
                .prop_map(|(sink, id)| Key::Purged(sink, SliceId::from_bytes(id))),
            (any_sink(), any::<[u8; 16]>())
                .prop_map(|(sink, id)| Key::File(sink, FileId::from_bytes(id))),
            (any_sink(), any::<[u8; 16]>())
                .prop_map(|(sink, id)| Key::Slice(sink, SliceId::from_bytes(id))),
            (any_sink(), any::<[u8; 16]>())
                .prop_map(|(sink, id)| Key::Crossed(sink, SliceId::from_bytes(id))),
            any_sink().prop_map(Key::RejectsRemoved),
            (any_sink(), any::<[u8; 16]>())
                .prop_map(|(sink, id)| Key::RejectsCrossed(sink, SliceId::from_bytes(id))),
            (any_sink(), any::<u64>()).prop_map(|(key, n)| Key::LedgerDay(key, n)),
            (any_source(), any::<u64>()).prop_map(|(key, n)| Key::SourceVersion(key, n)),
            (any_sink(), any::<u64>()).prop_map(|(key, n)| Key::SinkVersion(key, n)),
            volume.clone().prop_map(Key::Incarnation),
            volume.clone().prop_map(Key::Registration),
            volume.clone().prop_map(Key::Figures),
            volume.prop_map(Key::Forgotten),
            ("[a-z-]{1,20}", "[^/\\x00]{1,40}").prop_map(|(component, node)| Key::Node {
                component,
                node: node.parse().expect("matches the rule"),
            }),
            "[a-z.]{1,10}(/[a-zA-Z0-9:._-]{1,10}){0,4}".prop_map(Key::Task),
            "[a-z.]{1,10}(/[a-zA-Z0-9:._-]{1,10}){0,4}".prop_map(Key::Lock),
            "[0-9a-f]{64}".prop_map(Key::Dropping),
            "[0-9a-f]{64}".prop_map(Key::Token),
            any::<u64>().prop_map(|project| Key::Project(ProjectId(project))),
            any_sink().prop_map(Key::Destination),
            any_sink().prop_map(Key::Provisioning),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_key_survives_its_text_form(key in any_key()) {
            prop_assert_eq!(key.to_string().parse::<Key>(), Ok(key));
        }

        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".{0,80}") {
            if let Ok(key) = text.parse::<Key>() {
                prop_assert_eq!(key.to_string(), text);
            }
        }
    }

    #[test]
    fn other_spellings_of_a_key_are_refused() {
        let id = "0190a0a0a0a07000800000000000000a";
        for text in [
            "",
            "schema/",
            "entity/source/1/1",
            "entity/source/1/1/a/b",
            "entity/source/007/1/a",
            "entity/source/+1/1/a",
            "entity/source/1/1/a/",
            &format!("entity/file/1/1/a/{id}"),
            &format!("volume/incarnation/{}", id.to_uppercase()),
            "volume/incarnation/0190a0a0-a0a0-7000-8000-00000000000a",
            "version/source/1/1/a/1",
            "task/",
            "lock/",
            "token/",
            "node//x",
        ] {
            assert!(text.parse::<Key>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn prefix_covers_whole_segments_only() {
        let sink = |source: &str| SinkKey {
            source: source_of(source),
            sink: "s".parse().expect("valid"),
        };
        let prefix = prefix::sinks(&source_of("a"));
        let end = end_of(&prefix);
        let covered = |key: Key| (prefix.clone()..end.clone()).contains(&key.to_string());
        assert!(covered(Key::Sink(sink("a"))));
        for other in ["a-2", "a0", "a_", "aa", "b"] {
            assert!(!covered(Key::Sink(sink(other))), "{other}");
        }
        assert_eq!(prefix::tasks("api.create/x"), "task/api.create/x/");
        assert_eq!(prefix::tasks(""), "task/");
    }

    fn source_of(name: &str) -> SourceKey {
        SourceKey {
            branch: BranchKey {
                project: ProjectId(1),
                branch: BranchId(1),
            },
            source: name.parse().expect("valid"),
        }
    }
}
