//! What the sender is told: statuses, error names and bodies. Names and shapes are interface.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use stream_encoding::MapError;
use stream_model::level::Durability;
use stream_model::{BranchId, ProjectId, SinkId, SourceId};

use crate::completion::{Failure, Shortage};
use crate::dispatch::Report;
use crate::position::union;

/// An answer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// The class of durability of what was written.
pub(crate) const DURABILITY: HeaderName = HeaderName::from_static("x-stream-durability");

/// For how long at least idempotency keys are remembered, in seconds.
const WINDOW: HeaderName = HeaderName::from_static("idempotency-window");
/// `true`: nothing was written, because the same had been written before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// Where the record is.
const POSITION: HeaderName = HeaderName::from_static("x-stream-position");

/// Where the record is kept for the sinks that refuse it.
const REJECTED: HeaderName = HeaderName::from_static("x-stream-rejected");

/// Headers of the answer to an accepted record, without those of its key.
const HEADERS_OF_SUCCESS: usize = 6;

/// What all names of errors begin with.
const PREFIX: &str = "stream.in.";
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// A request that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The status.
    pub status: u16,
    /// The name of the error, without `stream.in.`.
    pub name: &'static str,
    /// A sentence: what is wrong, and what to do.
    pub message: Cow<'static, str>,
    /// Whether the same request is worth repeating in a moment.
    pub retry: bool,
    /// How long that moment is, in seconds.
    pub after_seconds: u64,
}

/// The name of the error of an answer, without `stream.in.`, in its extensions.
#[derive(Debug, Clone)]
struct ErrorName(Cow<'static, str>);

impl Refusal {
    /// A refusal that repeating does not change.
    pub fn new(status: u16, name: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            name,
            message: message.into(),
            retry: false,
            after_seconds: 1,
        }
    }

    /// A refusal that a later repetition may not meet.
    pub fn later(status: u16, name: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            name,
            message: message.into(),
            retry: true,
            after_seconds: 1,
        }
    }

    /// A refusal of a request that is beyond the rate of its source.
    pub fn too_fast(after_seconds: u64) -> Self {
        Self {
            after_seconds,
            ..Self::later(429, "rateLimited", RATE_LIMITED)
        }
    }

    /// The answer.
    pub fn answer(&self) -> Answer {
        let body = ErrorBody {
            status_code: self.status,
            error: full_name(self.name),
            message: &self.message,
        };
        let mut answer = json(self.status, self.retry, &body);
        if self.retry && self.after_seconds > 1 {
            let seconds = HeaderValue::from(self.after_seconds);
            answer.headers_mut().insert(RETRY_AFTER, seconds);
        }
        named(answer, Some(self.name.into()))
    }
}

impl Failure {
    /// How the failure is told.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::NoSource => Refusal::new(404, "noSourceFound", NO_SOURCE),
            Self::DisabledSource => Refusal::new(
                404,
                "disabledSource",
                "The source is disabled. Enable it to send records.",
            ),
            Self::NoEnabledSink => Refusal::later(
                503,
                "noEnabledSink",
                "The source has no enabled sink, so the record would be lost. Enable or create a sink.",
            ),
            Self::NoSlice => Refusal::later(
                503,
                "noOpenedSliceFound",
                "No slice is open for the sinks of the source. Try again in a moment.",
            ),
            Self::VolumeUnavailable => Refusal::later(
                503,
                "pipelineNotReady",
                "The storage of the source cannot be reached. The record was not written. Try again.",
            ),
            Self::InsufficientStorage(shortage) => {
                Refusal::later(507, "insufficientStorage", shortage.message())
            }
            Self::Overloaded => Refusal::later(503, "overloaded", OVERLOADED),
            Self::TemplatesBusy => Refusal::later(
                503,
                "templatesOverloaded",
                "The templates of a sink of the source could not be evaluated in time. The record was not written. Try again.",
            ),
            Self::TemplatesResting => Refusal::later(
                503,
                "templatesSuspended",
                "The templates of a sink of the source have exceeded their time or memory too often and are suspended for up \
                 to a minute. The record was not written. Try again later, and correct the templates.",
            ),
            Self::KeyReused => Refusal::new(
                422,
                "idempotencyKeyReused",
                "The idempotency key was used before with another body. Nothing was written. Use a new key for a new record.",
            ),
            Self::KeyOwnerAway => Refusal::later(
                503,
                "idempotencyKeyUnavailable",
                "The volume that remembers this idempotency key is away. The record was not written. Try again.",
            ),
            Self::KeyBusy => Refusal::later(
                503,
                "idempotencyKeyInUse",
                "Another request with this idempotency key is not done yet. Try again.",
            ),
            Self::KeyedTooLarge => Refusal::new(
                413,
                "payloadTooLarge",
                "A request with an idempotency key is written as a whole, and this one makes too many bytes of rows. Send fewer records in it.",
            ),
            Self::Shutdown => Refusal::later(
                503,
                "shutdown",
                "The service is stopping. The record was not written. Try again.",
            ),
            Self::OutcomeUnknown => Refusal::new(
                503,
                "outcomeUnknown",
                "It could not be found out in time whether the record was written. Sending it again may duplicate it.",
            ),
            Self::Internal => Refusal::new(
                500,
                "genericError",
                "The record was not written because of an internal error. See the log of the service.",
            ),
        }
    }
}

impl Shortage {
    /// What is full, and what to do.
    const fn message(self) -> &'static str {
        match self {
            Self::Disk => {
                "The disk of the source is full. The record was not written. Try again later, or make room on the disk."
            }
            Self::Volume => {
                "The volume of the source holds as much as storage.level.local.volume.maxSize allows. The record was not \
                 written. Try again when slices of the volume are uploaded, or raise the limit."
            }
            Self::Sink => {
                "A sink of the source holds as much on its volume as storage.level.local.sink.maxSize allows. The record was \
                 not written. Try again when slices of the sink are uploaded, or raise the limit."
            }
        }
    }
}

/// The message for an unknown source and for a wrong secret: the same, so that secrets cannot be probed.
pub(crate) const NO_SOURCE: &str =
    "No source was found for this URL. Check project, source and secret.";
/// The message when a source gets more than its rate.
const RATE_LIMITED: &str = "The source gets more than its rate limit allows. Nothing was written. Send it again after the time in \
     Retry-After, or raise source.http.rateLimit of the source.";
/// The message when there is no memory for another request.
pub(crate) const OVERLOADED: &str = "Too many requests are waiting for the disk. The record was not written. Try again in a moment.";

/// `OK`: accepted with this class of durability.
pub(crate) fn accepted(durability: Durability) -> Answer {
    promise(text(accepted_status(durability), "OK"), Some(durability))
}

/// Names the weakest class of what was accepted, if anything was.
pub(crate) fn promise(mut answer: Answer, durability: Option<Durability>) -> Answer {
    if let Some(durability) = durability {
        answer
            .headers_mut()
            .insert(DURABILITY, durability_value(durability));
    }
    answer
}

/// Notes the name of the error that the answer tells, if it tells one; with or without `stream.in.`.
pub(crate) fn named(mut answer: Answer, name: Option<Cow<'static, str>>) -> Answer {
    if let Some(name) = name {
        answer.extensions_mut().insert(ErrorName(name));
    }
    answer
}

/// The name of the error that an answer tells, without `stream.in.`.
pub(crate) fn error_name(answer: &Answer) -> Option<&str> {
    let ErrorName(name) = answer.extensions().get()?;
    Some(name.strip_prefix(PREFIX).unwrap_or(name))
}

/// A text answer.
pub(crate) fn text(status: u16, body: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *answer.status_mut() = status_code(status);
    // Room for all headers of an accepted record at once: growing costs as much as the headers.
    answer.headers_mut().reserve(HEADERS_OF_SUCCESS);
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer
}

/// How much is told about a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// `OK`.
    Short,
    /// Every source and sink.
    Verbose,
}

/// Names where the records are, and where they are kept as rejected, if that is known.
pub(crate) fn located<'a>(
    mut answer: Answer,
    reports: impl Iterator<Item = &'a Report> + Clone,
) -> Answer {
    let positions = reports.clone().filter_map(|report| report.position.clone());
    let kept = reports.filter_map(|report| report.kept.clone());
    for (name, place) in [(POSITION, joined(positions)), (REJECTED, joined(kept))] {
        if let Some(place) = place {
            answer.headers_mut().insert(name, place);
        }
    }
    answer
}

fn joined(mut places: impl Iterator<Item = HeaderValue>) -> Option<HeaderValue> {
    match (places.next(), places.next()) {
        (only, None) => only,
        (first, second) => union(first.into_iter().chain(second).chain(places)),
    }
}

/// The answer to a record.
pub(crate) fn answer(reports: &[Report], detail: Detail) -> Answer {
    let answer = located(status_and_body(reports, detail), reports.iter());
    keyed(answer, reports.iter())
}

/// Says for how long keys are remembered, and whether all that had one was there before.
pub(crate) fn keyed<'a>(
    mut answer: Answer,
    reports: impl Iterator<Item = &'a Report> + Clone,
) -> Answer {
    let keys = || reports.clone().filter_map(|report| report.key.as_ref());
    let windows = keys().filter_map(|key| key.window_seconds);
    if let Some(window) = windows.min() {
        answer
            .headers_mut()
            .insert(WINDOW, HeaderValue::from(window));
    }
    let is_repetition = |report: &Report| {
        report.key.as_ref().is_some_and(|key| key.is_repetition) && report.written.is_ok()
    };
    let mut all = reports.clone().peekable();
    if all.peek().is_some() && all.all(is_repetition) {
        answer.headers_mut().insert(REPLAYED, TRUE);
    }
    answer
}

fn status_and_body(reports: &[Report], detail: Detail) -> Answer {
    let weakest = reports
        .iter()
        .filter_map(|report| report.written.ok())
        .max();
    let has_rejections = reports.iter().any(|report| !report.rejections.is_empty());
    let failure = reports.iter().find_map(|report| report.written.err());
    match (failure, weakest) {
        // The source was deleted between the look at its secret and the look at its route.
        (None, None) => Failure::NoSource.refusal().answer(),
        (None, Some(durability)) if detail == Detail::Short && !has_rejections => {
            accepted(durability)
        }
        (Some(failure), None) if detail == Detail::Short && !has_rejections => {
            failure.refusal().answer()
        }
        _ => {
            // A class is promised only where a sink holds the record.
            let held = reports.iter().filter(|report| report.is_held());
            let weakest = held.filter_map(|report| report.written.ok()).max();
            promise(verbose(reports), weakest)
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    status_code: u16,
    error: Cow<'static, str>,
    message: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct VerboseBody<'a> {
    status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'static, str>>,
    message: String,
    sources: Vec<SourceBody<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SourceBody<'a> {
    project_id: ProjectId,
    source_id: &'a SourceId,
    branch_id: BranchId,
    status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'static, str>>,
    message: String,
    sinks: Vec<SinkBody<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SinkBody<'a> {
    sink_id: &'a SinkId,
    status_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'static, str>>,
    message: Cow<'static, str>,
}

fn verbose(reports: &[Report]) -> Answer {
    let sources: Vec<_> = reports.iter().map(source_body).collect();
    let sinks = || sources.iter().flat_map(|source| &source.sinks);
    let status = sources
        .iter()
        .map(|source| source.status_code)
        .max()
        .unwrap_or(200);
    let error = common_name(sources.iter().map(|source| source.error.as_ref()));
    let written = sinks().filter(|sink| sink.error.is_none()).count();
    let mut message = counted(written, sinks().count());
    if let Some(sink) = sinks().find(|sink| sink.error.is_some()) {
        message = format!(
            "{message} Sink {:?}: {}",
            sink.sink_id.as_str(),
            sink.message
        );
    } else if let Some(source) = sources.iter().find(|source| source.error.is_some()) {
        message.clone_from(&source.message);
    }
    let retry = reports.iter().filter_map(|report| report.written.err());
    let retry = retry.map(Failure::refusal).any(|refusal| refusal.retry);
    let name = error.clone();
    let body = VerboseBody {
        status_code: status,
        error,
        message,
        sources,
    };
    named(json(status, retry, &body), name)
}

fn source_body(report: &Report) -> SourceBody<'_> {
    let sinks: Vec<_> = report
        .plan
        .iter()
        .flat_map(|plan| &plan.sinks)
        .enumerate()
        .map(|(position, sink)| sink_body(report, position, &sink.sink))
        .collect();
    let failure = report.written.err().map(Failure::refusal);
    let own_status = match (&failure, report.written) {
        (Some(refusal), _) => refusal.status,
        (None, Ok(durability)) => accepted_status(durability),
        (None, Err(_)) => 500,
    };
    let failed = sinks.iter().filter(|sink| sink.error.is_some()).count();
    let error = match &failure {
        Some(refusal) => Some(full_name(refusal.name)),
        None => common_name(sinks.iter().map(|sink| sink.error.as_ref())),
    };
    let message = match failure {
        Some(refusal) => refusal.message.into_owned(),
        None => counted(sinks.len() - failed, sinks.len()),
    };
    SourceBody {
        project_id: report.source.branch.project,
        source_id: &report.source.source,
        branch_id: report.source.branch.branch,
        status_code: sinks
            .iter()
            .map(|sink| sink.status_code)
            .fold(own_status, u16::max),
        error,
        message,
        sinks,
    }
}

fn sink_body<'a>(report: &Report, position: usize, sink: &'a SinkId) -> SinkBody<'a> {
    let rejection = report
        .rejections
        .iter()
        .find(|rejection| rejection.sink == position);
    let refusal = match (rejection, report.written) {
        (Some(rejection), _) => rejected(&rejection.error),
        (None, Err(failure)) => failure.refusal(),
        (None, Ok(durability)) => {
            let status_code = accepted_status(durability);
            let message = Cow::Borrowed("Successfully written.");
            return SinkBody {
                sink_id: sink,
                status_code,
                error: None,
                message,
            };
        }
    };
    SinkBody {
        sink_id: sink,
        status_code: refusal.status,
        error: Some(full_name(refusal.name)),
        message: refusal.message,
    }
}

/// How it is told that a sink refuses a record.
pub(crate) fn rejected(error: &MapError) -> Refusal {
    let (status, name) = match error {
        MapError::NotStructured { .. } => (415, "unsupportedMediaType"),
        MapError::RowTooLong { .. } => (413, "payloadTooLarge"),
        MapError::TemplateTime { .. } => (422, "templateTimeLimit"),
        MapError::TemplateMemory { .. } => (422, "templateMemoryLimit"),
        MapError::NotEvaluated { .. } => (500, "genericError"),
        _ => (422, "unprocessableContent"),
    };
    Refusal::new(status, name, format!("{error}."))
}

/// The name that all errors have; when they differ, the one that says only that something was not written.
fn common_name<'a>(
    names: impl Iterator<Item = Option<&'a Cow<'static, str>>>,
) -> Option<Cow<'static, str>> {
    let mut names = names.flatten();
    let first = names.next()?;
    let same = names.all(|name| name == first);
    Some(if same {
        first.clone()
    } else {
        full_name("writeFailed")
    })
}

fn counted(written: usize, all: usize) -> String {
    let success = if written == all {
        "Successfully written"
    } else {
        "Written"
    };
    format!("{success} to {written}/{all} sinks.")
}

/// The name of an error as it is told.
pub(crate) fn full_name(name: &'static str) -> Cow<'static, str> {
    Cow::Owned(format!("{PREFIX}{name}"))
}

/// The status of an accepted record.
pub(crate) const fn accepted_status(durability: Durability) -> u16 {
    match durability {
        Durability::Disk => 200,
        Durability::Cache | Durability::Memory => 202,
    }
}

const fn durability_value(durability: Durability) -> HeaderValue {
    match durability {
        Durability::Disk => HeaderValue::from_static("disk"),
        Durability::Cache => HeaderValue::from_static("cache"),
        Durability::Memory => HeaderValue::from_static("memory"),
    }
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An answer in JSON. `retry`: whether the same request is worth repeating in a moment.
pub(crate) fn json(status: u16, retry: bool, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("these structs have string keys only");
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status_code(status);
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    if retry {
        answer
            .headers_mut()
            .insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    answer
}
