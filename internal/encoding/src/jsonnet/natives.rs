//! The functions that a template may call to see its record.
//!
//! The record that is being evaluated is the thread's: a function of Jsonnet is a value and has no place for it. Jsonnet
//! cannot catch an error, so when an evaluation fails after a function has noted why, that is why.

use std::any::Any;
use std::borrow::Cow;
use std::cell::RefCell;

use jrsonnet_evaluator::error::ErrorKind;
use jrsonnet_evaluator::function::{FuncVal, builtin};
use jrsonnet_evaluator::trace::PathResolver;
use jrsonnet_evaluator::{
    ContextInitializer, IStr, InitialContextBuilder, ObjValueBuilder, Result, Source, Thunk, Val,
};
use jrsonnet_gcmodule::Trace;

use super::protocol::TemplateFailure;
use super::tree;
use crate::column::header_lines;
use crate::form;
use crate::path;
use crate::record::{ContentType, Record, canonical_name};
use crate::scan;
use crate::selection::{Found, Selection};
use crate::strftime::{self, Strftime};

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// The record that is being evaluated.
struct Current {
    record: Record,
    /// A form, rendered as JSON.
    form: Option<Vec<u8>>,
    /// Why a function failed.
    failure: Option<TemplateFailure>,
}

/// Lets templates see a record while `evaluate` runs. Returns what it returns, and why a function failed.
pub(super) fn with_record<T>(
    record: Record,
    evaluate: impl FnOnce() -> T,
) -> (T, Option<TemplateFailure>) {
    CURRENT.set(Some(Current {
        record,
        form: None,
        failure: None,
    }));
    let result = evaluate();
    (result, CURRENT.take().and_then(|current| current.failure))
}

/// The standard library and the functions of this file.
#[derive(Trace)]
pub(super) struct Natives(jrsonnet_stdlib::ContextInitializer);

impl Natives {
    pub(super) fn new() -> Self {
        // Templates have no path.
        let paths = PathResolver::FileName;
        Self(jrsonnet_stdlib::ContextInitializer::new(paths))
    }
}

impl ContextInitializer for Natives {
    fn populate(&self, source: Source, builder: &mut InitialContextBuilder) {
        self.0.populate(source, builder);
        let functions = [
            ("Body", FuncVal::builtin(body {})),
            ("BodyStr", FuncVal::builtin(body_str {})),
            ("Header", FuncVal::builtin(header {})),
            ("HeaderStr", FuncVal::builtin(header_str {})),
            ("Ip", FuncVal::builtin(ip {})),
            ("Now", FuncVal::builtin(now {})),
        ];
        for (name, function) in functions {
            builder.bind(name, Thunk::evaluated(Val::Func(function)));
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn error(message: impl Into<IStr>) -> jrsonnet_evaluator::Error {
    ErrorKind::RuntimeError(message.into()).into()
}

/// Looks at the record.
fn look<T>(look: impl FnOnce(&mut Current) -> Result<T, TemplateFailure>) -> Result<T> {
    CURRENT.with_borrow_mut(|current| {
        let Some(current) = current else {
            return Err(error("there is no record"));
        };
        look(current).map_err(|failure| {
            current.failure = Some(failure);
            error("the record has no such value")
        })
    })
}

/// The value, else the default, else a failure.
fn or_default(
    found: Option<Val>,
    default: Option<Thunk<Val>>,
    missing: impl FnOnce() -> TemplateFailure,
) -> Result<Val> {
    match (found, default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => default.evaluate(),
        (None, None) => look(|_| Err(missing())),
    }
}

fn malformed(reason: impl std::fmt::Display) -> TemplateFailure {
    TemplateFailure::Malformed(reason.to_string())
}

impl Current {
    /// The value at a path of the body.
    fn find(&mut self, steps: &[path::Step]) -> Result<Option<Val>, TemplateFailure> {
        let json = match self.record.content_type {
            ContentType::Json => &self.record.body[..],
            ContentType::Form => match &mut self.form {
                Some(json) => json,
                form => form.insert(
                    form::to_json(&self.record.body)
                        .map_err(malformed)?
                        .into_bytes(),
                ),
            },
            ContentType::Other => return Err(TemplateFailure::NotStructured),
        };
        let (mut selection, mut found) = (Selection::default(), Found::new());
        let node = selection.add(steps);
        selection.finish();
        scan::scan(json, &selection, &mut found).map_err(malformed)?;
        let value = selection.slot(node);
        let value = value.and_then(|slot| found.value(slot, json));
        value.map(tree::value).transpose().map_err(|_| {
            let message = "the body has a number that is too large for Jsonnet";
            TemplateFailure::Failed(message.to_owned())
        })
    }
}

#[builtin]
fn body(path: Option<IStr>, default: Option<Thunk<Val>>) -> Result<Val> {
    let path = path.as_deref().unwrap_or_default();
    let steps =
        path::parse(path).map_err(|reason| error(format!("path {path:?} is invalid: {reason}")))?;
    let found = look(|current| current.find(&steps))?;
    or_default(found, default, || {
        TemplateFailure::MissingPath(path.to_owned())
    })
}

#[builtin]
fn body_str() -> Result<Val> {
    look(|current| {
        let text: Cow<'_, str> = String::from_utf8_lossy(&current.record.body);
        Ok(Val::string(&*text))
    })
}

#[builtin]
fn header(name: Option<IStr>, default: Option<Thunk<Val>>) -> Result<Val> {
    let Some(name) = name else {
        return look(|current| {
            let mut object = ObjValueBuilder::new();
            for (name, value) in current.record.headers.iter() {
                object.field(name).value(Val::string(value));
            }
            Ok(Val::Obj(object.build()))
        });
    };
    let found = look(|current| Ok(current.record.headers.get(&name).map(Val::string)))?;
    or_default(found, default, || {
        TemplateFailure::MissingHeader(canonical_name(&name).into())
    })
}

#[builtin]
fn header_str() -> Result<Val> {
    look(|current| Ok(Val::string(header_lines(&current.record.headers))))
}

#[builtin]
fn ip() -> Result<Val> {
    look(|current| {
        Ok(Val::string(
            current.record.client_ip.to_canonical().to_string(),
        ))
    })
}

#[builtin]
fn now(format: Option<IStr>) -> Result<Val> {
    let format = format.as_deref().unwrap_or(strftime::DEFAULT);
    let format = Strftime::parse(format).ok_or_else(|| error(strftime::UNKNOWN_DIRECTIVE))?;
    look(|current| Ok(Val::string(format.format(current.record.received_at))))
}
