//! What has to be done for the slices of a volume: records and volume compared.

use std::collections::BTreeSet;
use std::sync::Arc;

use stream_model::SliceId;
use stream_model::slice::{Seal, Slice, State};
use stream_state::Versioned;
use stream_storage::local::SliceStatus;

/// What a round has to do.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Slices to open.
    pub(crate) open: Vec<Arc<Versioned<Slice>>>,
    /// Slices to seal.
    pub(crate) seal: Vec<Arc<Versioned<Slice>>>,
    /// Sealed slices to compare with their records.
    pub(crate) verify: Vec<Arc<Versioned<Slice>>>,
    /// Slices whose rows are safe elsewhere.
    pub(crate) release: Vec<SliceId>,
    /// Slices without a record.
    pub(crate) orphans: Vec<SliceId>,
    /// Uploaded slices of which the volume has rows that were not sealed.
    pub(crate) surplus: Vec<SliceId>,
    /// The newest incarnation that sealed any of them, when it is newer than this one.
    pub(crate) newer: Option<u64>,
}

/// What was done since the volume was opened and need not be done again.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) opened: BTreeSet<SliceId>,
    pub(crate) verified: BTreeSet<SliceId>,
    /// Slices of which the volume knows the sink.
    pub(crate) attributed: BTreeSet<SliceId>,
    /// Slices that do not match their record, or have none. Reported once.
    pub(crate) reported: BTreeSet<SliceId>,
}

/// What else is known of the slices on the volume.
pub(crate) struct Local<'a> {
    /// Whether the volume holds more of some session than a seal says.
    pub(crate) beyond: &'a dyn Fn(SliceId, &Seal) -> bool,
    /// Whether the sink of a slice without a record was purged.
    pub(crate) purged: &'a dyn Fn(SliceId) -> bool,
    /// The present opening of the volume.
    pub(crate) incarnation: u64,
}

/// Compares records and volume. `changed` are the records that may have changed; `local` are the slices on the volume, with
/// their records.
pub(crate) fn plan<'a>(
    changed: &[Arc<Versioned<Slice>>],
    local: impl Iterator<Item = (SliceStatus, Option<&'a Slice>)>,
    volume: &Local<'_>,
    done: &Done,
) -> Plan {
    let mut plan = Plan::default();
    for slice in changed {
        let id = slice.value.id;
        let unopened = !done.opened.contains(&id);
        match &slice.value.state {
            State::Writing if unopened => plan.open.push(Arc::clone(slice)),
            State::Writing | State::Uploaded { .. } => {}
            State::Closing(_) => {
                if unopened {
                    // What is sealed must be known to the volume, with its compression.
                    plan.open.push(Arc::clone(slice));
                }
                plan.seal.push(Arc::clone(slice));
            }
            State::Uploading { seal, .. } => {
                if seal.incarnation != volume.incarnation && !done.verified.contains(&id) {
                    plan.verify.push(Arc::clone(slice));
                }
            }
        }
    }
    for (status, record) in local {
        match record {
            None if (volume.purged)(status.id) => plan.release.push(status.id),
            None if status.figures.rows > 0 => plan.orphans.push(status.id),
            None => plan.release.push(status.id),
            Some(slice) => plan_known(&mut plan, status, slice, volume),
        }
    }
    plan
}

fn plan_known(plan: &mut Plan, status: SliceStatus, record: &Slice, volume: &Local<'_>) {
    let Some(seal) = record.seal() else {
        return;
    };
    if seal.incarnation > volume.incarnation {
        plan.newer = plan.newer.max(Some(seal.incarnation));
    } else if !record.is_uploaded() {
        // Its file is still wanted.
    } else if status.figures.rows > seal.figures.rows || (volume.beyond)(status.id, seal) {
        // The rows alone do not tell: whoever sealed it may have taken as many of its own.
        plan.surplus.push(status.id);
    } else {
        plan.release.push(status.id);
    }
}
