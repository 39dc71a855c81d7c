//! Definitions for tests that need no state.

use stream_model::definition::mapping::{Column, ColumnKind, DataType, Mapping};
use stream_model::definition::source::SourceKind;
use stream_model::definition::{Actor, Settings, Sink, Source, Stamp, Table, TableKind, Version};
use stream_model::{BranchId, BranchKey, ProjectId, Secret, SinkKey, SourceKey, Timestamp};

/// A moment, the later the greater `at`.
pub(crate) fn stamp(at: usize) -> Stamp {
    Stamp {
        at: Timestamp::from_millis(1_000 * i64::try_from(at).expect("it is small")),
        by: Actor::System,
    }
}

fn version() -> Version {
    Version {
        number: 1,
        hash: String::new(),
        description: "New.".to_owned(),
        at: stamp(0).at,
        by: Actor::System,
    }
}

fn source_key(id: &str) -> SourceKey {
    SourceKey {
        branch: BranchKey {
            project: ProjectId(1),
            branch: BranchId(1),
        },
        source: id.parse().expect("an identifier"),
    }
}

/// An enabled source.
pub(crate) fn source(id: &str) -> Source {
    Source {
        key: source_key(id),
        kind: SourceKind::Http {
            secret: Secret::new("secret".to_owned()),
        },
        name: id.to_owned(),
        description: String::new(),
        version: version(),
        created: stamp(0),
        disabled: None,
        deleted: None,
        purging: None,
        settings: Settings::default(),
    }
}

/// An enabled sink of source `a`.
pub(crate) fn sink(id: &str) -> Sink {
    Sink {
        key: SinkKey {
            source: source_key("a"),
            sink: id.parse().expect("an identifier"),
        },
        name: id.to_owned(),
        description: String::new(),
        table: Table {
            kind: TableKind::Sqlite,
            table_id: id.to_owned(),
            mapping: Mapping {
                columns: vec![Column {
                    kind: ColumnKind::Body,
                    name: "body".to_owned(),
                    primary_key: false,
                    data_type: DataType::String,
                }],
            },
        },
        version: version(),
        created: stamp(0),
        disabled: None,
        deleted: None,
        purging: None,
        settings: Settings::default(),
    }
}
