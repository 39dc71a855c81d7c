//! What is wrong, and what to do about it.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::retry::Retry;
use stream_model::{SinkKey, Timestamp, VolumeId, file, slice};
use stream_state::{SinkNode, Topology};

use crate::view::shape;

use super::{COMPONENTS, Registered};

/// A slice or file that waits longer for a component that is there is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5 * 60);
/// A failure that happened so often in a row is no passing one.
const FAILING_FROM: u32 = 3;
/// With less free space a volume soon refuses records.
const LITTLE_SPACE: u64 = 1 << 30;
/// An older picture of the state is called so.
const STALE_AFTER: Duration = Duration::from_secs(15);
/// An enabled sink gets its first file within that time.
const OPENED_WITHIN: Duration = Duration::from_secs(30);

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    /// The kind of problem; stable, for alerts.
    pub(crate) code: &'static str,
    /// What it is about: `volume …`, `sink …/file …`, `component …`.
    pub(crate) subject: String,
    /// What is the matter.
    pub(crate) problem: String,
    /// Since when, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<shape::Timestamp>")]
    pub(crate) since: Option<Timestamp>,
    /// What a person does about it.
    pub(crate) advice: String,
}

/// All that is wrong. `staleness` is the age of the picture.
pub(crate) fn findings(
    topology: &Topology,
    registered: &Registered,
    staleness: Duration,
    now: Timestamp,
) -> Vec<Finding> {
    let mut found = Vec::new();
    if staleness > STALE_AFTER {
        found.push(Finding {
            code: "staleState",
            subject: "state".to_owned(),
            problem: format!("this answer is based on a picture {} s old", staleness.as_secs()),
            since: None,
            advice: "check that etcd answers; records are taken meanwhile, but nothing is sealed or imported".to_owned(),
        });
    }
    missing_components(registered, &mut found);
    unreadable(topology, &mut found);
    let mut lost: BTreeMap<VolumeId, u64> = BTreeMap::new();
    let open = registered.open();
    for (key, sink) in sinks(topology) {
        for slice in sink
            .slices
            .values()
            .filter(|it| it.value.forgotten.is_none())
        {
            if !slice.value.is_uploaded() && !open.contains(&slice.value.volume) {
                *lost.entry(slice.value.volume).or_default() += 1;
            } else {
                found.extend(stuck_slice(&key, &slice.value, now));
            }
        }
        let files = sink.files.values();
        found.extend(files.filter_map(|file| stuck_file(&key, &file.value, now)));
        found.extend(without_file(topology, &key, sink, now));
    }
    found.extend(
        lost.into_iter()
            .map(|(volume, slices)| away(volume, slices)),
    );
    little_space(registered, &mut found);
    found
}

fn sinks(topology: &Topology) -> impl Iterator<Item = (SinkKey, &SinkNode)> {
    topology.sources.iter().flat_map(|(source, node)| {
        node.sinks.iter().map(|(id, sink)| {
            let key = SinkKey {
                source: source.clone(),
                sink: id.clone(),
            };
            (key, sink)
        })
    })
}

fn missing_components(registered: &Registered, found: &mut Vec<Finding>) {
    let effect = |component| match component {
        "http-source" => "no records can be sent",
        "storage-coordinator" => "slices only grow and nothing is imported",
        "storage-reader" => "nothing is uploaded, so nothing is imported",
        "storage-writer" => "no record can be stored",
        _ => "nothing can be configured",
    };
    for component in COMPONENTS {
        if !registered.runs(component) {
            found.push(Finding {
                code: "componentMissing",
                subject: format!("component {component}"),
                problem: format!("none is running: {}", effect(component)),
                since: None,
                advice: format!(
                    "start one with \"stream-service {component}\", or see why it ended"
                ),
            });
        }
    }
}

fn unreadable(topology: &Topology, found: &mut Vec<Finding>) {
    for key in topology
        .sources
        .values()
        .flat_map(|source| &source.unreadable)
    {
        found.push(Finding {
            code: "unreadableState",
            subject: format!("key {key}"),
            problem: "its value cannot be read, so its sink is left alone".to_owned(),
            since: None,
            advice: "see \"stream-service state check\"; a newer version of the service may have written it".to_owned(),
        });
    }
}

/// A volume that holds slices and is open nowhere.
fn away(volume: VolumeId, slices: u64) -> Finding {
    Finding {
        code: "volumeAway",
        subject: format!("volume {volume}"),
        problem: format!("no storage-writer has it open, and {slices} slices are only there"),
        since: None,
        advice: format!(
            "start the storage-writer on its machine; if its disk is gone for good: stream-service volume forget {volume}"
        ),
    }
}

fn stuck_slice(sink: &SinkKey, slice: &slice::Slice, now: Timestamp) -> Option<Finding> {
    let (since, doing, component) = match &slice.state {
        slice::State::Closing(closing) => (closing.at, "sealed", "storage-writer"),
        slice::State::Uploading { seal, .. } => (seal.at, "uploaded", "storage-reader"),
        slice::State::Writing | slice::State::Uploaded { .. } => return None,
    };
    let problem = stuck(slice.retry.as_ref(), since, doing, now)?;
    Some(Finding {
        code: "sliceStuck",
        subject: format!("sink {sink}, slice {}", slice.id),
        problem,
        since: Some(since),
        advice: format!(
            "see the log of the {component} that has volume {}; it goes on trying by itself",
            slice.volume
        ),
    })
}

fn stuck_file(sink: &SinkKey, file: &file::File, now: Timestamp) -> Option<Finding> {
    let (since, importing) = match &file.state {
        file::State::Closing { at, .. } => (*at, false),
        file::State::Importing { closing_at, .. } => (*closing_at, true),
        file::State::Writing | file::State::Imported { .. } => return None,
    };
    let problem = stuck(file.retry.as_ref(), since, "imported", now)?;
    let advice = if importing {
        let table = &file.table;
        format!(
            "see whether the {} target answers and takes rows for table {:?}; it goes on trying by itself",
            table.kind.as_str(),
            table.table_id
        )
    } else {
        "it waits for its slices to be uploaded; look for findings about them".to_owned()
    };
    Some(Finding {
        code: if importing {
            "importFailing"
        } else {
            "fileStuck"
        },
        subject: format!("sink {sink}, file {}", file.id),
        problem,
        since: Some(since),
        advice,
    })
}

/// Why something that is to be done now is not done, if that is worth a word.
fn stuck(retry: Option<&Retry>, since: Timestamp, doing: &str, now: Timestamp) -> Option<String> {
    if let Some(retry) = retry.filter(|retry| retry.attempt >= FAILING_FROM) {
        return Some(format!(
            "it could not be {doing} {} times, the last time because: {}",
            retry.attempt, retry.reason
        ));
    }
    let age = now.since(since);
    (age > STUCK_AFTER)
        .then(|| format!("it has been waiting to be {doing} for {} s", age.as_secs()))
}

fn without_file(
    topology: &Topology,
    key: &SinkKey,
    sink: &SinkNode,
    now: Timestamp,
) -> Option<Finding> {
    let source = topology.sources.get(&key.source)?.source.as_ref()?;
    let definition = &sink.sink.as_ref()?.value;
    let enabled = source.value.is_enabled() && definition.is_enabled();
    let since = definition.version.at;
    if !enabled || sink.current.is_some() || now.since(since) < OPENED_WITHIN {
        return None;
    }
    Some(Finding {
        code: "sinkWithoutFile",
        subject: format!("sink {key}"),
        problem: "it has no open file, so its source refuses records".to_owned(),
        since: Some(since),
        advice:
            "a storage-coordinator opens one when a volume is open; look for findings about those"
                .to_owned(),
    })
}

fn little_space(registered: &Registered, found: &mut Vec<Finding>) {
    let open = registered.open();
    for (volume, figures) in &registered.figures {
        if open.contains(volume) && figures.free_bytes < LITTLE_SPACE {
            found.push(Finding {
                code: "littleSpace",
                subject: format!("volume {volume}"),
                problem: format!("its disk has {} MiB left", figures.free_bytes >> 20),
                since: None,
                advice: "make room, or see why slices are not uploaded; records are refused before the disk is full"
                    .to_owned(),
            });
        }
    }
}
