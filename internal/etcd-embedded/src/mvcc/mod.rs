//! The multi-version state: every change since the last compaction, and for each key the version that was live then.

mod key_range;
mod range;
mod store;

pub(crate) use key_range::KeyRange;
pub(crate) use range::{check_range, range, readable, revision_of};
pub(crate) use store::{Change, Live, RowId, Store};
