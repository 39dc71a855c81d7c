//! The content of a definition: what a version is a version of. Who may write to a source, and whether it is disabled or
//! deleted, is not part of it.

use serde::Serialize;
use stream_model::definition::actor::content_hash;
use stream_model::definition::{Settings, Sink, Source, Table, Version};

/// The content of a source.
#[derive(Debug, Serialize)]
pub(crate) struct SourceContent<'a>(
    &'static str,
    &'a str,
    &'a str,
    #[serde(skip_serializing_if = "Settings::is_empty")] &'a Settings,
);

/// The content of a sink.
#[derive(Debug, Serialize)]
pub(crate) struct SinkContent<'a>(
    &'a str,
    &'a str,
    &'a Table,
    #[serde(skip_serializing_if = "Settings::is_empty")] &'a Settings,
);

/// The content of a source.
pub(crate) fn of_source(source: &Source) -> SourceContent<'_> {
    SourceContent("http", &source.name, &source.description, &source.settings)
}

/// The content of a sink.
pub(crate) fn of_sink(sink: &Sink) -> SinkContent<'_> {
    SinkContent(&sink.name, &sink.description, &sink.table, &sink.settings)
}

impl SourceContent<'_> {
    /// The version with the hash of this content.
    pub(crate) fn version(&self, version: Version) -> Version {
        let hash = content_hash(self);
        Version { hash, ..version }
    }
}

impl SinkContent<'_> {
    /// The version with the hash of this content.
    pub(crate) fn version(&self, version: Version) -> Version {
        let hash = content_hash(self);
        Version { hash, ..version }
    }
}
