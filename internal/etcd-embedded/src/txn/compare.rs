//! Comparisons of a transaction.

use std::cmp::Ordering;

use etcd_client::CompareOp;
use etcd_client::proto::{PbCompare, PbCompareTarget, PbTargetUnion};

use crate::mvcc::{Change, KeyRange, Store};

/// Whether the comparison holds for every key in its range at `view`.
///
/// etcd takes a result or target that it does not know for a comparison that holds. Here it does not: what was not
/// understood must not let a write pass.
pub(super) fn holds(store: &Store, comparison: &PbCompare, view: i64) -> bool {
    let Ok(target) = PbCompareTarget::try_from(comparison.target) else {
        return false;
    };
    let range = KeyRange::new(&comparison.key, &comparison.range_end);
    let mut found = false;
    for change in store.live_in(&range, view) {
        found = true;
        if !satisfies(comparison, order(comparison, target, Some(change))) {
            return false;
        }
    }
    // A missing key has revision, version and lease 0 but no value, not even an empty one.
    found
        || (target != PbCompareTarget::Value
            && satisfies(comparison, order(comparison, target, None)))
}

/// How what the key has compares to what the comparison names.
fn order(comparison: &PbCompare, target: PbCompareTarget, change: Option<&Change>) -> Ordering {
    let live = change.and_then(|change| change.after.as_ref());
    let have = match target {
        PbCompareTarget::Value => {
            let value = live.map_or(&[][..], |live| &live.value);
            return value.cmp(wanted_value(comparison));
        }
        PbCompareTarget::Version => live.map_or(0, |live| live.version),
        PbCompareTarget::Create => live.map_or(0, |live| live.create_revision),
        PbCompareTarget::Mod => change.map_or(0, |change| change.revision),
        PbCompareTarget::Lease => live.map_or(0, |live| live.lease),
    };
    have.cmp(&wanted_number(comparison, target))
}

fn wanted_value(comparison: &PbCompare) -> &[u8] {
    match &comparison.target_union {
        Some(PbTargetUnion::Value(value)) => value,
        _ => &[],
    }
}

/// The number to compare to; 0 when the request leaves it out or carries one of another target.
fn wanted_number(comparison: &PbCompare, target: PbCompareTarget) -> i64 {
    match (target, &comparison.target_union) {
        (PbCompareTarget::Version, Some(PbTargetUnion::Version(number)))
        | (PbCompareTarget::Create, Some(PbTargetUnion::CreateRevision(number)))
        | (PbCompareTarget::Mod, Some(PbTargetUnion::ModRevision(number)))
        | (PbCompareTarget::Lease, Some(PbTargetUnion::Lease(number))) => *number,
        _ => 0,
    }
}

fn satisfies(comparison: &PbCompare, ordering: Ordering) -> bool {
    match CompareOp::try_from(comparison.result) {
        Ok(CompareOp::Equal) => ordering.is_eq(),
        Ok(CompareOp::Greater) => ordering.is_gt(),
        Ok(CompareOp::Less) => ordering.is_lt(),
        Ok(CompareOp::NotEqual) => ordering.is_ne(),
        Err(_) => false,
    }
}
