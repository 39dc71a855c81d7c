//! Full keys: an identifier together with everything it is an identifier *within*.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{BranchId, ProjectId, SinkId, SourceId};

/// A branch of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BranchKey {
    /// The project.
    pub project: ProjectId,
    /// The branch within the project.
    pub branch: BranchId,
}

/// A source of a branch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceKey {
    /// The branch.
    #[serde(flatten)]
    pub branch: BranchKey,
    /// The source within the branch.
    pub source: SourceId,
}

/// A sink of a source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SinkKey {
    /// The source.
    #[serde(flatten)]
    pub source: SourceKey,
    /// The sink within the source.
    pub sink: SinkId,
}

impl fmt::Display for BranchKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.branch)
    }
}

impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.branch, self.source)
    }
}

impl fmt::Display for SinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source, self.sink)
    }
}
