//! Reading: one `Range` request against the store at a revision.

use std::cmp::Ordering;
use std::sync::Arc;

use etcd_client::proto::{PbRangeRequest, PbRangeResponse, PbResponseHeader};
use etcd_client::{SortOrder, SortTarget};

use super::{Change, KeyRange, Store};
use crate::refusal::Refusal;

/// Checks what can be checked without the store.
pub(crate) fn check_range(request: &PbRangeRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    let sort = (
        SortOrder::try_from(request.sort_order),
        SortTarget::try_from(request.sort_target),
    );
    match sort {
        (Ok(_), Ok(_)) => Ok(()),
        _ => Err(Refusal::InvalidSortOption),
    }
}

/// Answers a checked request as of `view`, the newest revision that may be seen.
pub(crate) fn range(
    store: &Store,
    request: &PbRangeRequest,
    view: i64,
) -> Result<PbRangeResponse, Refusal> {
    let at = revision_of(store, request, view)?;
    let keys = KeyRange::new(&request.key, &request.range_end);
    let mut response = PbRangeResponse {
        header: Some(PbResponseHeader {
            revision: view,
            ..PbResponseHeader::default()
        }),
        ..PbRangeResponse::default()
    };
    if request.count_only {
        response.count = length(store.live_in(&keys, at).count());
        return Ok(response);
    }
    let selection = Selection::new(request);
    let (mut found, count) = selection.collect(store, &keys, at);
    response.count = length(count);
    found.retain(|change| selection.admits(change));
    selection.sort(&mut found);
    if let Some(limit) = selection.limit
        && found.len() > limit
    {
        found.truncate(limit);
        response.more = true;
    }
    response.kvs = found
        .iter()
        .map(|change| {
            if request.keys_only {
                change.to_key()
            } else {
                change.to_key_value()
            }
        })
        .collect();
    Ok(response)
}

/// The revision a request reads at, when that is between the compaction and `view`.
pub(crate) fn revision_of(
    store: &Store,
    request: &PbRangeRequest,
    view: i64,
) -> Result<i64, Refusal> {
    readable(store, request.revision, view)
}

/// The same for a revision that was asked for; none means `view`.
pub(crate) fn readable(store: &Store, asked: i64, view: i64) -> Result<i64, Refusal> {
    let at = if asked > 0 { asked } else { view };
    if at > view {
        return Err(Refusal::FutureRevision);
    }
    if at < store.compacted() {
        return Err(Refusal::Compacted);
    }
    Ok(at)
}

/// What a request wants of the keys in its range.
struct Selection {
    limit: Option<usize>,
    /// As asked for.
    order: SortOrder,
    target: SortTarget,
    mod_revision: (i64, i64),
    create_revision: (i64, i64),
}

impl Selection {
    fn new(request: &PbRangeRequest) -> Self {
        let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
        Self {
            limit: usize::try_from(request.limit)
                .ok()
                .filter(|limit| *limit > 0),
            order: SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None),
            target,
            mod_revision: bounds(request.min_mod_revision, request.max_mod_revision),
            create_revision: bounds(request.min_create_revision, request.max_create_revision),
        }
    }

    /// The candidates, and how many keys the range has. With neither order nor filter no more candidates than needed.
    fn collect(&self, store: &Store, keys: &KeyRange, at: i64) -> (Vec<Arc<Change>>, usize) {
        let enough = match self.limit {
            Some(limit) if self.takes_the_first() => limit.saturating_add(1),
            _ => usize::MAX,
        };
        let mut found = Vec::new();
        let mut count = 0;
        for change in store.live_in(keys, at) {
            count += 1;
            if found.len() < enough {
                found.push(Arc::clone(change));
            }
        }
        (found, count)
    }

    fn takes_the_first(&self) -> bool {
        self.order == SortOrder::None
            && self.mod_revision == (i64::MIN, i64::MAX)
            && self.create_revision == (i64::MIN, i64::MAX)
    }

    fn admits(&self, change: &Change) -> bool {
        let created = change.after.as_ref().map_or(0, |live| live.create_revision);
        within(change.revision, self.mod_revision) && within(created, self.create_revision)
    }

    fn sort(&self, found: &mut [Arc<Change>]) {
        let by_target = |left: &Arc<Change>, right: &Arc<Change>| compare(self.target, left, right);
        match self.order {
            // The limit was applied already, in the order of the keys: so does etcd.
            SortOrder::None | SortOrder::Ascend => found.sort_by(by_target),
            SortOrder::Descend => found.sort_by(|left, right| by_target(right, left)),
        }
    }
}

fn compare(target: SortTarget, left: &Change, right: &Change) -> Ordering {
    let (Some(a), Some(b)) = (&left.after, &right.after) else {
        return Ordering::Equal;
    };
    match target {
        SortTarget::Key => left.key.cmp(&right.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => left.revision.cmp(&right.revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

/// Zero means no bound.
fn bounds(min: i64, max: i64) -> (i64, i64) {
    (
        if min == 0 { i64::MIN } else { min },
        if max == 0 { i64::MAX } else { max },
    )
}

fn within(revision: i64, (min, max): (i64, i64)) -> bool {
    min <= revision && revision <= max
}

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
