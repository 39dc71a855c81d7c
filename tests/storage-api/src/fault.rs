//! Failures that a test asks for.

use crate::call::Call;

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answered with a status and no more.
    Status(u16),
    /// Refused with a status and a name.
    Refuse(u16, &'static str),
    /// The connection ends, nothing was done.
    CutBefore,
    /// The connection ends, but it was done.
    CutAfter,
}

/// A failure that is still to come.
#[derive(Debug)]
pub(crate) struct Planned {
    method: String,
    path: String,
    fault: Fault,
    times: usize,
}

impl Planned {
    pub(crate) fn new(method: &str, path: &str, fault: Fault, times: usize) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            fault,
            times,
        }
    }
}

/// Takes the failure that was planned for a call.
pub(crate) fn next(planned: &mut Vec<Planned>, call: &Call) -> Option<Fault> {
    let at = planned
        .iter()
        .position(|it| it.method == call.method && call.path.contains(&it.path))?;
    planned[at].times = planned[at].times.saturating_sub(1);
    let fault = planned[at].fault;
    if planned[at].times == 0 {
        planned.remove(at);
    }
    Some(fault)
}
