//! What an operation is.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use hyper::Method;

use crate::context::Context;
use crate::error::ApiError;
use crate::request::Call;
use crate::response::Answer;

/// Answers a request whose token was checked.
pub(crate) type Handler =
    for<'a> fn(&'a Arc<Context>, &'a Call) -> BoxFuture<'a, Result<Answer, ApiError>>;

/// Who may ask, and what answers.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// Anybody may, without a token. It cannot fail and looks at nothing but the configuration.
    Open(fn(&Context) -> Answer),
    /// The holder of any token may.
    Read(Handler),
    /// Likewise where there is one project. Where there are many, only the operator: the answer is about all of them.
    Survey(Handler),
    /// Only the holder of a token that may change something.
    Write(Handler),
}

/// A method of a path.
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// The path with the names of its variable parts. Also the label of metrics and logs, so that identifiers, which may be
    /// anything, do not become labels.
    pub(crate) path: &'static str,
    pub(crate) run: Run,
}

impl Operation {
    /// One that needs no token.
    pub(crate) const fn open(
        method: Method,
        path: &'static str,
        run: fn(&Context) -> Answer,
    ) -> Self {
        Self {
            method,
            path,
            run: Run::Open(run),
        }
    }

    /// One that changes nothing.
    pub(crate) const fn read(method: Method, path: &'static str, handler: Handler) -> Self {
        Self {
            method,
            path,
            run: Run::Read(handler),
        }
    }

    /// One that changes nothing and tells of the whole installation.
    pub(crate) const fn survey(method: Method, path: &'static str, handler: Handler) -> Self {
        Self {
            method,
            path,
            run: Run::Survey(handler),
        }
    }

    /// One that changes something.
    pub(crate) const fn write(method: Method, path: &'static str, handler: Handler) -> Self {
        Self {
            method,
            path,
            run: Run::Write(handler),
        }
    }
}
