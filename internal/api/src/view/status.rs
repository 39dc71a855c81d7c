//! The installation as shown.

use schemars::JsonSchema;
use serde::Serialize;
use stream_model::statistics::VolumeFigures;
use stream_model::{NodeId, VolumeId};
use stream_state::{NodeRegistration, Registration};

use super::shape;
use crate::survey::{Finding, Registered, Work};

/// What runs, and what waits.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusView<'a> {
    instances: Vec<InstanceView<'a>>,
    volumes: Vec<VolumeView<'a>>,
    work: Work,
    state: StateView,
    /// The number of findings of `/v1/diagnose`.
    findings: usize,
}

/// A running component.
#[derive(Debug, Serialize, JsonSchema)]
struct InstanceView<'a> {
    component: &'static str,
    #[schemars(with = "String")]
    node: &'a NodeId,
    #[serde(flatten)]
    #[schemars(with = "shape::NodeRegistration")]
    registration: &'a NodeRegistration,
}

/// An open volume.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct VolumeView<'a> {
    #[schemars(with = "String")]
    volume_id: VolumeId,
    #[schemars(with = "String")]
    node: &'a NodeId,
    #[serde(rename = "type")]
    kind: &'a str,
    label: &'a str,
    incarnation: u64,
    /// What it published last, at most 10 s ago while etcd answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    slices: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    free_bytes: Option<u64>,
}

/// The picture of the state behind an answer.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct StateView {
    /// The revision of the state that the answer is about.
    revision: i64,
    /// Seconds since this process last knew that it sees all changes.
    age_seconds: u64,
}

impl<'a> StatusView<'a> {
    pub(crate) fn new(
        registered: &'a Registered,
        work: Work,
        (revision, age_seconds): (i64, u64),
        findings: usize,
    ) -> Self {
        let instances = registered.instances.iter();
        let instances = instances.map(|(component, node, registration)| InstanceView {
            component,
            node,
            registration,
        });
        let volumes = registered.volumes.iter();
        let volumes = volumes.map(|(volume, registration)| {
            let published = registered.figures.iter().find(|(of, _)| of == volume);
            VolumeView::new(*volume, registration, published.map(|(_, figures)| figures))
        });
        Self {
            instances: instances.collect(),
            volumes: volumes.collect(),
            work,
            state: StateView {
                revision,
                age_seconds,
            },
            findings,
        }
    }
}

impl<'a> VolumeView<'a> {
    fn new(
        volume_id: VolumeId,
        registration: &'a Registration,
        figures: Option<&VolumeFigures>,
    ) -> Self {
        let Registration {
            node,
            kind,
            label,
            incarnation,
        } = registration;
        Self {
            volume_id,
            node,
            kind,
            label,
            incarnation: *incarnation,
            slices: figures.map(|figures| figures.slices),
            free_bytes: figures.map(|figures| figures.free_bytes),
        }
    }
}

/// What is wrong.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct DiagnosisView {
    findings: Vec<Finding>,
}

impl DiagnosisView {
    pub(crate) fn new(findings: Vec<Finding>) -> Self {
        Self { findings }
    }
}
