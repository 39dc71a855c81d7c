//! A project of a service elsewhere, as this installation knows it.

use serde::{Deserialize, Serialize};

use crate::id::BranchId;
use crate::time::Timestamp;

/// A project, recorded when somebody uses it for the first time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    /// Its default branch, the only one that can be used. A project never changes it.
    pub default_branch: BranchId,
    /// When it was used first.
    pub first_used_at: Timestamp,
}
