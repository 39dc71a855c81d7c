//! Which targets this process has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stream_model::definition::TableKind;

use crate::Target;

/// The configured targets, one per kind of table, and the kinds whose files wait because nothing imports them. Filled at start,
/// never changed afterwards.
#[derive(Clone, Default)]
pub struct Targets {
    by_kind: BTreeMap<TableKind, Arc<dyn Target>>,
    waiting: BTreeSet<TableKind>,
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

    /// Lets sinks have tables of `kind`, whose files are kept until something can import them.
    #[must_use]
    pub fn with_waiting(mut self, kind: TableKind) -> Self {
        self.waiting.insert(kind);
        self
    }

    /// Whether sinks may have tables of `kind`.
    #[must_use]
    pub fn takes(&self, kind: TableKind) -> bool {
        self.by_kind.contains_key(&kind) || self.waits(kind)
    }

    /// Whether files of `kind` are kept without being imported.
    #[must_use]
    pub fn waits(&self, kind: TableKind) -> bool {
        self.waiting.contains(&kind) && !self.by_kind.contains_key(&kind)
    }

    /// The target that holds tables of `kind`, if there is one.
    #[must_use]
    pub fn get(&self, kind: TableKind) -> Option<Arc<dyn Target>> {
        self.by_kind.get(&kind).cloned()
    }

    /// The kinds of tables that sinks may have here.
    pub fn kinds(&self) -> impl Iterator<Item = TableKind> {
        let kinds: BTreeSet<_> = self.by_kind.keys().chain(&self.waiting).copied().collect();
        kinds.into_iter()
    }
}

impl std::fmt::Debug for Targets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.kinds()).finish()
    }
}
