//! Templates that are more than a single call: Jsonnet, evaluated in a process of its own.
//!
//! ```text
//! parent                                         evaluator (a helper process)
//!   Request::define, Request::evaluate ──bytes──▶ serve ─▶ Evaluator ─▶ jrsonnet
//!   Answer::decode ◀──────────────────────bytes──  one answer per template, as soon as it is there
//! ```
//!
//! The interpreter bounds the depth of its stack and nothing else: a template may loop for ever or take all memory. So it
//! never runs in the process of the service. [`serve`] is what the helper process does; the other half (who starts it, how
//! much time and memory it gets) belongs to those who use it. Evaluating has no side effects: what was asked of a process
//! that is gone may be asked of the next one.
//!
//! Owner: `serve` owns the evaluator and its thread; the parent owns the process.
//!
//! Invariants:
//!
//! * a template sees its record and nothing else: no files, no imports, no external variables, no clock;
//! * the answers to a record are its values in the order of the templates, up to the first that failed;
//! * numbers are doubles once Jsonnet has touched them (a single `Body(…)` never comes here and keeps its digits).

mod evaluator;
mod natives;
mod protocol;
mod serve;
mod tree;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use protocol::{Answer, BadMessage, HELLO, MAX_FRAME_LEN, Request, TemplateFailure};
pub use serve::serve;

use crate::error::MapError;

/// The templates of a mapping that need the interpreter, in the order of their columns.
///
/// A process that is told them keeps them compiled; it knows them by [`Self::id`], which no others of this process have.
#[derive(Debug)]
pub struct Templates {
    id: u64,
    templates: Box<[Named]>,
}

#[derive(Debug)]
struct Named {
    column: Box<str>,
    content: Box<str>,
}

/// What templates made of a record: for each the JSON of its value, in the order of [`Templates`].
#[derive(Debug, Clone)]
pub struct TemplateValues(Arc<[Box<[u8]>]>);

impl TemplateValues {
    /// Takes the values of one record.
    #[must_use]
    pub fn new(values: Vec<Box<[u8]>>) -> Self {
        Self(values.into())
    }

    /// The JSON text of a template's value.
    pub(crate) fn get(&self, position: usize) -> Option<&[u8]> {
        self.0.get(position).map(|value| &**value)
    }

    /// Bytes of all values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|value| value.len()).sum()
    }

    /// Whether there is no value, or only empty ones.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Templates {
    /// The templates of these columns; none when there are none.
    pub(crate) fn new(templates: Vec<(&str, &str)>) -> Option<Arc<Self>> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if templates.is_empty() {
            return None;
        }
        let named = |(column, content): (&str, &str)| Named {
            column: column.into(),
            content: content.into(),
        };
        Some(Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            templates: templates.into_iter().map(named).collect(),
        }))
    }

    /// What they are called between the two processes.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Number of templates, at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        self.templates.len()
    }

    /// The column of a template; empty when there is no such template.
    #[must_use]
    pub fn column(&self, position: usize) -> &str {
        self.templates
            .get(position)
            .map_or("", |named| &named.column)
    }

    /// The texts.
    pub(crate) fn contents(&self) -> impl ExactSizeIterator<Item = &str> {
        self.templates.iter().map(|named| &*named.content)
    }

    /// How it is told that a template has no value for a record. `row_limit` is the most bytes of a row.
    #[must_use]
    pub fn failed(&self, position: usize, failure: TemplateFailure, row_limit: usize) -> MapError {
        let column = self.column(position).to_owned();
        match failure {
            TemplateFailure::MissingPath(path) => MapError::MissingPath { column, path },
            TemplateFailure::MissingHeader(header) => MapError::MissingHeader { column, header },
            TemplateFailure::NotStructured => MapError::NotStructured { column },
            TemplateFailure::Malformed(message) => MapError::MalformedBody { message },
            TemplateFailure::Failed(message) => MapError::Template { column, message },
            TemplateFailure::TooLong => MapError::RowTooLong { limit: row_limit },
        }
    }
}

#[cfg(test)]
mod tests;
