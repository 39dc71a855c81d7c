//! The whole installation at one moment: what runs, what waits where and for how long, and what is wrong.
//!
//! Pure: from the picture of the state and what is registered to an answer. Everything comes from etcd, so any API process
//! gives the same one.
//!
//! | waiting | since | who is to act |
//! |---|---|---|
//! | unsealed | the slice was closed | `storage-writer` of its volume |
//! | unuploaded | the slice was sealed | `storage-reader` on the machine of its volume |
//! | unimported | the file was closed | `storage-coordinator` |
//!
//! A survey refuses to guess: a component that registered and vanished without taking leave is not distinguished from one that
//! was never there, because the state does not know which ones there should be. It names what *needs* somebody who is not
//! there.

mod findings;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::statistics::VolumeFigures;
use stream_model::{NodeId, Timestamp, VolumeId, file, slice};
use stream_state::{NodeRegistration, Registration, Topology};

pub(crate) use findings::{Finding, findings};

/// All components, by name.
pub(crate) const COMPONENTS: [&str; 5] = [
    "api",
    "http-source",
    "storage-coordinator",
    "storage-reader",
    "storage-writer",
];

/// What is registered, and how old the picture is.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    /// Running components.
    pub(crate) instances: Vec<(&'static str, NodeId, NodeRegistration)>,
    /// Open volumes.
    pub(crate) volumes: Vec<(VolumeId, Registration)>,
    /// What volumes published last.
    pub(crate) figures: Vec<(VolumeId, VolumeFigures)>,
}

impl Registered {
    /// Whether a component runs anywhere.
    fn runs(&self, component: &str) -> bool {
        self.instances.iter().any(|(name, ..)| *name == component)
    }

    /// The volumes that are open somewhere.
    fn open(&self) -> BTreeSet<VolumeId> {
        self.volumes.iter().map(|(volume, _)| *volume).collect()
    }
}

/// Work that waits for a component.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Waiting {
    /// How many slices, or files.
    count: u64,
    /// Seconds for which the oldest one has been waiting.
    oldest_seconds: u64,
}

impl Waiting {
    fn add(&mut self, since: Timestamp, now: Timestamp) {
        self.count += 1;
        self.oldest_seconds = self.oldest_seconds.max(now.since(since).as_secs());
    }
}

/// All work that waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Work {
    unsealed: Waiting,
    unuploaded: Waiting,
    unimported: Waiting,
}

/// Adds up what waits.
pub(crate) fn work(topology: &Topology, now: Timestamp) -> Work {
    let mut work = Work::default();
    let sinks = topology
        .sources
        .values()
        .flat_map(|source| source.sinks.values());
    for sink in sinks {
        for slice in sink.slices.values() {
            match &slice.value.state {
                slice::State::Closing(closing) => work.unsealed.add(closing.at, now),
                slice::State::Uploading { seal, .. } => work.unuploaded.add(seal.at, now),
                slice::State::Writing | slice::State::Uploaded { .. } => {}
            }
        }
        for file in sink.files.values() {
            match &file.value.state {
                file::State::Closing { at, .. } => work.unimported.add(*at, now),
                file::State::Importing { closing_at, .. } => work.unimported.add(*closing_at, now),
                file::State::Writing | file::State::Imported { .. } => {}
            }
        }
    }
    work
}

#[cfg(test)]
mod tests;
