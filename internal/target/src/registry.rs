//! Which targets this process has.

use std::collections::BTreeMap;
use std::sync::Arc;

use stream_model::definition::TableKind;

use crate::Target;

/// The configured targets, one per kind of table. Filled at start, never changed afterwards.
#[derive(Clone, Default)]
pub struct Targets {
    by_kind: BTreeMap<TableKind, Arc<dyn Target>>,
}

impl Targets {
    /// No targets.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a target. It replaces one of the same kind.
    #[must_use]
    pub fn with(mut self, target: Arc<dyn Target>) -> Self {
        self.by_kind.insert(target.kind(), target);
        self
    }

    /// The target that holds tables of `kind`, if there is one.
    #[must_use]
    pub fn get(&self, kind: TableKind) -> Option<Arc<dyn Target>> {
        self.by_kind.get(&kind).cloned()
    }

    /// The kinds of tables that sinks may have here.
    pub fn kinds(&self) -> impl Iterator<Item = TableKind> {
        self.by_kind.keys().copied()
    }
}

impl std::fmt::Debug for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.kinds()).finish()
    }
}
