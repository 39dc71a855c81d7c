//! The answer to a request with many records: how many are in, and which are not.
//!
//! A record is accepted when every enabled sink of every source behind the URL holds it. All others are listed, each with
//! its worst failure. The status is that of an accepted record when all are accepted, 207 when some are. When none is, it
//! says why: 422 if the records are at fault, else what a single record would have been told, so that a client sees at once
//! whether to send the same again.

use std::borrow::Cow;

use serde::Serialize;
use stream_encoding::MapError;
use stream_model::SinkId;
use stream_model::level::Durability;

use crate::answer::{
    Answer, Refusal, accepted_status, full_name, json, keyed, located, named, promise, rejected,
};
use crate::completion::Failure;
use crate::dispatch::Report;

/// What became of one record.
pub(crate) enum Fate {
    /// It was sent to these sources.
    Sent(Vec<Report>),
    /// It is no record. It was sent to these sources, to be kept as rejected.
    Unreadable(MapError, Vec<Report>),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'static, str>>,
    message: String,
    accepted: usize,
    rejected: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    records: Vec<RejectedRecord<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RejectedRecord<'a> {
    index: usize,
    status_code: u16,
    error: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sink_id: Option<&'a SinkId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<&'a str>,
    message: Cow<'static, str>,
}

/// Why a record is not accepted.
struct Problem<'a> {
    refusal: Refusal,
    sink: Option<&'a SinkId>,
    column: Option<&'a str>,
    /// Whether the record is at fault. Otherwise the service is, or the definition of the source.
    of_record: bool,
}

/// The answer.
pub(crate) fn answer(fates: &[Fate]) -> Answer {
    let problems = || {
        let indexed = fates.iter().enumerate();
        indexed.filter_map(|(index, fate)| Some((index, fate.problem()?)))
    };
    let rejected = problems().count();
    let accepted = fates.len() - rejected;
    let weakest = fates.iter().filter_map(Fate::held).max();
    let (status, error) = match problems()
        .map(|(_, problem)| problem)
        .max_by_key(Problem::rank)
    {
        None => (weakest.map_or(200, accepted_status), None),
        Some(_) if accepted > 0 => (207, Some("partiallyRejected")),
        Some(worst) if worst.of_record => (422, Some("unprocessableContent")),
        Some(worst) => (worst.refusal.status, Some(worst.refusal.name)),
    };
    let retry = problems().any(|(_, problem)| problem.refusal.retry);
    let body = Body {
        status_code: status,
        error: error.map(full_name),
        message: format!("Accepted {accepted} of {} records.", fates.len()),
        accepted,
        rejected,
        records: problems()
            .map(|(index, problem)| RejectedRecord {
                index,
                status_code: problem.refusal.status,
                error: full_name(problem.refusal.name),
                sink_id: problem.sink,
                column: problem.column,
                message: problem.refusal.message,
            })
            .collect(),
    };
    let reports = fates.iter().flat_map(Fate::reports);
    let answer = named(json(status, retry, &body), error.map(Cow::Borrowed));
    let answer = located(promise(answer, weakest), reports.clone());
    keyed(answer, reports)
}

impl Fate {
    /// Whether some sink holds the record.
    pub fn is_held(&self) -> bool {
        self.reports().iter().any(Report::is_held)
    }

    fn reports(&self) -> &[Report] {
        match self {
            Self::Sent(reports) | Self::Unreadable(_, reports) => reports,
        }
    }

    /// The class under which some sink holds the record.
    fn held(&self) -> Option<Durability> {
        let held = self.reports().iter().filter(|report| report.is_held());
        held.filter_map(|report| report.written.ok()).max()
    }

    /// The worst thing that keeps the record from being accepted.
    fn problem(&self) -> Option<Problem<'_>> {
        let reports = match self {
            Self::Unreadable(error, reports) => {
                let failure = reports.iter().find_map(|report| report.written.err());
                let problem = Problem::of_record(None, error);
                // Only what is kept is rejected: until then it may be sent again.
                return Some(failure.map_or(problem, Problem::of_service));
            }
            Self::Sent(reports) if reports.is_empty() => {
                // The source was deleted between the look at its secret and the look at its route.
                return Some(Problem::of_service(Failure::NoSource));
            }
            Self::Sent(reports) => reports,
        };
        let problems = reports.iter().flat_map(|report| {
            let failure = report.written.err().map(Problem::of_service);
            let refusals = report.rejections.iter().map(|rejection| {
                let sink = report.plan.as_ref();
                let sink = sink.and_then(|plan| plan.sinks.get(rejection.sink));
                Problem::of_record(sink.map(|sink| &sink.sink), &rejection.error)
            });
            failure.into_iter().chain(refusals)
        });
        problems.max_by_key(Problem::rank)
    }
}

impl<'a> Problem<'a> {
    fn of_record(sink: Option<&'a SinkId>, error: &'a MapError) -> Self {
        let refusal = rejected(error);
        let message = match sink {
            Some(sink) => Cow::Owned(format!("Sink {:?}: {}", sink.as_str(), refusal.message)),
            None => refusal.message,
        };
        Self {
            refusal: Refusal { message, ..refusal },
            sink,
            column: error.column(),
            of_record: true,
        }
    }

    fn of_service(failure: Failure) -> Self {
        Self {
            refusal: failure.refusal(),
            sink: None,
            column: None,
            of_record: false,
        }
    }

    /// What the sender has to know first has the highest: an unknown outcome, then failures of the service.
    fn rank(&self) -> (bool, u16) {
        (!self.of_record, self.refusal.status)
    }
}
