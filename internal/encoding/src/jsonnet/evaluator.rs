//! The interpreter with the templates it was told. Not `Send`: it lives and dies on one thread.

use std::collections::HashMap;

use jrsonnet_evaluator::error::ErrorKind;
use jrsonnet_evaluator::manifest::{JsonFormat, ManifestFormat as _};
use jrsonnet_evaluator::stack::limit_stack_depth;
use jrsonnet_evaluator::{Error, PreparedSnippet, Span, State, analyze::DiagLevel};

use super::natives::{Natives, with_record};
use super::protocol::{Answer, BadMessage, TemplateFailure};
use crate::record::Record;
use crate::row::MAX_ROW_LEN;

/// The most calls that may be open at once. The reference implementation has the same.
const MAX_CALLS: usize = 500;
/// Records between two collections of what refers to itself. Measured: without, a record whose template uses `self` leaves
/// some 4 KB for ever; every 100 records, memory stays flat and a pause is below 1 ms.
const RECORDS_PER_COLLECTION: u32 = 100;
/// The most characters of what is told about a failure.
const MAX_MESSAGE: usize = 400;

/// The interpreter.
pub(super) struct Evaluator {
    state: State,
    templates: HashMap<u64, Vec<PreparedSnippet>>,
    records: u32,
}

impl Evaluator {
    pub(super) fn new() -> Self {
        let mut builder = State::builder();
        builder.context_initializer(Natives::new());
        // No import resolver is given: the default one refuses.
        Self {
            state: builder.build(),
            templates: HashMap::new(),
            records: 0,
        }
    }

    /// Compiles templates and keeps them.
    pub(super) fn define(&mut self, id: u64, contents: &[String]) -> Answer {
        let _entered = self.state.try_enter();
        let mut prepared = Vec::with_capacity(contents.len());
        for (position, content) in contents.iter().enumerate() {
            match self.state.prepare_snippet("template", content.as_str()) {
                Ok(snippet) => prepared.push(snippet),
                Err(error) => {
                    let message = describe(&error);
                    return Answer::Invalid { position, message };
                }
            }
        }
        self.templates.insert(id, prepared);
        Answer::Defined
    }

    pub(super) fn forget(&mut self, id: u64) {
        self.templates.remove(&id);
        jrsonnet_gcmodule::collect_thread_cycles();
    }

    /// Evaluates templates for a record and hands over each answer. `answer` says whether to go on.
    pub(super) fn evaluate(
        &mut self,
        id: u64,
        record: Record,
        mut answer: impl FnMut(Answer) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let invalid = |_| std::io::Error::new(std::io::ErrorKind::InvalidData, BadMessage);
        let snippets = self.templates.get(&id).ok_or(()).map_err(invalid)?;
        let mut left = MAX_ROW_LEN;
        for snippet in snippets {
            let value = evaluate(&self.state, snippet, record.clone());
            let value = value.and_then(|json| {
                left = left
                    .checked_sub(json.len())
                    .ok_or(TemplateFailure::TooLong)?;
                Ok(json)
            });
            match value {
                Ok(json) => answer(Answer::Value(json.into_bytes()))?,
                Err(failure) => {
                    answer(Answer::Failed(failure))?;
                    break;
                }
            }
        }
        self.records += 1;
        if self.records >= RECORDS_PER_COLLECTION {
            self.records = 0;
            jrsonnet_gcmodule::collect_thread_cycles();
        }
        Ok(())
    }
}

fn evaluate(
    state: &State,
    snippet: &PreparedSnippet,
    record: Record,
) -> Result<String, TemplateFailure> {
    let _entered = state.try_enter();
    let _bounded = limit_stack_depth(MAX_CALLS);
    let (result, failure) = with_record(record, || {
        let value = state.evaluate_prepared_snippet(snippet)?;
        JsonFormat::minify().manifest(value)
    });
    result.map_err(|error| failure.unwrap_or_else(|| TemplateFailure::Failed(describe(&error))))
}

/// Where and why, on one line: `1:5-9 no such field: x`.
fn describe(error: &Error) -> String {
    let (place, message) = match error.error() {
        ErrorKind::ImportSyntaxError { error, .. } => (
            Some(error.location.clone()),
            format!("syntax error: {}", error.message),
        ),
        ErrorKind::StaticAnalysisError(diagnostics) => {
            let is_error = |diagnostic: &&jrsonnet_evaluator::analyze::Diagnostic| {
                matches!(diagnostic.level, DiagLevel::Error)
            };
            let worst = diagnostics.iter().find(is_error).or(diagnostics.first());
            worst.map_or((None, error.error().to_string()), |diagnostic| {
                (diagnostic.span.clone(), diagnostic.message.clone())
            })
        }
        other => {
            let trace = error.trace().0.iter();
            let place = trace.filter_map(|frame| frame.location.clone()).next();
            (place, other.to_string())
        }
    };
    let mut text = place.map(|place| position(&place)).unwrap_or_default();
    for part in message.split_whitespace() {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(part);
    }
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// `line:column-column`, or `line:column-line:column`, counted from 1 in characters; the end is the first one behind.
fn position(span: &Span) -> String {
    let code = span.0.code();
    let (line, column) = line_and_column(code, span.1);
    let (last_line, last_column) = line_and_column(code, span.2);
    if (last_line, last_column) <= (line, column) {
        format!("{line}:{column}")
    } else if line == last_line {
        format!("{line}:{column}-{last_column}")
    } else {
        format!("{line}:{column}-{last_line}:{last_column}")
    }
}

fn line_and_column(code: &str, offset: u32) -> (usize, usize) {
    let before = code.get(..offset as usize).unwrap_or(code);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = before.matches('\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}
